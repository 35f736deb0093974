package mmapbuf

import (
	"errors"
	"math"
	"sync"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// ReadAt and WriteAt may run beside each other and beside Close, and in other
// goroutines than those that the program has started. They hold a lock for
// reading while they copy. For writing, it is held
//
//   - by a WriteAt that extends the contents;
//   - by whatever exchanges the storage: growth, Shrink, Close, and adopting
//     what was published. A ReadAt that runs beside another method against the
//     rules still finds either the old storage or the new.
//
// Each lock serves many Buffers. It is not in Buffer because that may be copied
// by value. It is taken before the lock of a mapping, and not held during calls
// of Readers and Writers.
var atLocks [64]struct {
	sync.RWMutex
	_ [40]byte // one lock per cache line
}

// atLock returns the lock of b. It does not make b escape to the heap.
func (b *Buffer) atLock() *sync.RWMutex {
	const golden = 0x9e3779b9 // spreads addresses that are multiples of a size
	h := uint32(vm.Address(b)>>3) * golden
	return &atLocks[h>>26].RWMutex
}

// detach empties b, and returns its former mapping and the generation of that.
func (b *Buffer) detach() (m *mapping.Mapping, gen uint32) {
	mu := b.atLock()
	mu.Lock()
	defer mu.Unlock()
	m, gen = b.m, b.gen
	b.setSlice(nil, 0)
	b.lastRead, b.adopted = opInvalid, 0
	return m, gen
}

// snapshot returns a copy of b. It may run beside Close.
func (b *Buffer) snapshot() Buffer {
	mu := b.atLock()
	mu.RLock()
	defer mu.RUnlock()
	return *b
}

// lenBesideClose is Len. It may run beside Close.
func (b *Buffer) lenBesideClose() int {
	mu := b.atLock()
	mu.RLock()
	defer mu.RUnlock()
	return b.Len()
}

var (
	errReadAtNegative  = errors.New("mmapbuf: ReadAt: negative offset")
	errWriteAtNegative = errors.New("mmapbuf: WriteAt: negative offset")
)

// ReadAt copies contents to p, beginning at offset off, and consumes nothing.
// Offset 0 is the first unread byte. ReadAt returns the number of bytes copied,
// and [io.EOF] if that is less than len(p) or if off is not less than Len. A
// negative off is an error.
//
// ReadAt may run concurrently with methods that do not modify the Buffer, with
// WriteAt on other ranges, and with Close: it returns what it has found before,
// or 0 and io.EOF. It returns another error if the storage was moved or released
// through a copy of the Buffer.
func (b *Buffer) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errReadAtNegative
	}
	mu := b.atLock()
	mu.RLock()
	defer mu.RUnlock()
	return b.copyAt(p, off)
}

// WriteAt overwrites the contents with p, beginning at offset off. Offset 0 is
// the first unread byte. If the contents end before off+len(p), they are
// extended, and any bytes between their old end and off are zero. Whole pages of
// such a gap in a mapping use no memory until they are written.
//
// WriteAt returns len(p), or 0 and an error. The error wraps ErrTooLarge if the
// contents would exceed MaxLen or Limit or if there is not enough memory. If off is
// negative, WriteAt returns another error. The contents are then unchanged. If p
// is empty, WriteAt does nothing.
//
// WriteAt may run concurrently with ReadAt and WriteAt on other ranges, even if
// it extends the contents, and with Close: then the contents end up empty or as
// if Close had been called first. It must not run concurrently with any other
// method. It returns an error if the storage was moved or released through a
// copy of the Buffer.
func (b *Buffer) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errWriteAtNegative
	}
	if len(p) == 0 {
		return 0, nil
	}
	if off > int64(math.MaxInt-len(p)) {
		return 0, ErrTooLarge
	}
	mu := b.atLock()
	for written := false; !written; {
		if written = overwriteAt(b, mu, p, int(off)); !written {
			if written, err = extendLocked(b, int(off), int(off)+len(p), p); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

// extendLocked makes the contents end bytes long, if they are shorter, and
// zeroes the new bytes before off. It reports whether it has written p to off;
// if not, the caller must.
func extendLocked[T []byte | string](b *Buffer, off, end int, p T) (written bool, err error) {
	m, more, written, err := extendHolding(b, off, end, p)
	if b.hasCollected(err) {
		m, more, written, err = extendHolding(b, off, end, p)
	}
	if more {
		mapping.Pace(m) // after releasing the lock, because it may wait
	}
	return written, err
}

// extendHolding is extendLocked without pacing. It also returns the mapping of b
// and whether more of the storage was committed.
func extendHolding[T []byte | string](b *Buffer, off, end int, p T) (m *mapping.Mapping, more, written bool, err error) {
	mu := b.atLock()
	mu.Lock()
	defer mu.Unlock()
	if !b.current() {
		if err := b.adoptLocked(); err != nil {
			return nil, false, false, err
		}
	}
	n := end - b.Len()
	if n <= 0 {
		return nil, false, false, nil
	}
	was := b.buf.Cap
	if err = b.reserve(n); err == nil {
		b.lastRead = opInvalid
		written = extend(b, b.off+off, b.off+end, p)
	}
	return b.m, b.buf.Cap > was, written, err
}
