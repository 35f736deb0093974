package mmapbuf

import (
	"errors"
	"hash/maphash"
	"io"
	"math"
	"sync"
)

// atLocks holds the locks of ReadAt and WriteAt, each of which serves many
// Buffers. They are not in Buffer because it may be copied by value and ReadAt
// must not modify it. They are held for reading while copying, and for writing
// by a WriteAt that extends the contents.
var atLocks [64]struct {
	sync.RWMutex
	_ [40]byte // one lock per cache line
}

var atSeed = maphash.MakeSeed()

// atLock returns the lock of b.
func (b *Buffer) atLock() *sync.RWMutex {
	return &atLocks[maphash.Comparable(atSeed, b)%uint64(len(atLocks))].RWMutex
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
// ReadAt may run concurrently with methods that do not modify the Buffer, and
// with WriteAt on other ranges.
func (b *Buffer) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errReadAtNegative
	}
	mu := b.atLock()
	mu.RLock()
	defer mu.RUnlock()
	return b.readAt(p, off)
}

// readAt is ReadAt without the lock. off is not negative.
func (b *Buffer) readAt(p []byte, off int64) (n int, err error) {
	if off >= int64(b.Len()) {
		return 0, io.EOF
	}
	b.withContents(func(contents []byte) { n = copy(p, contents[off:]) })
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// WriteAt overwrites the contents with p, beginning at offset off. Offset 0 is
// the first unread byte. If the contents end before off+len(p), they are
// extended, and any bytes between their old end and off are zero. Whole pages of
// such a gap in a mapping use no memory until they are written.
//
// WriteAt returns len(p), or 0 and an error. The error wraps ErrTooLarge if the
// contents would exceed MaxLen or if there is not enough memory. If off is
// negative, WriteAt returns another error. The contents are then unchanged. If p
// is empty, WriteAt does nothing.
//
// WriteAt may run concurrently with ReadAt and WriteAt on other ranges, even if
// it extends the contents, but not with any other method.
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
	for {
		if b.overwrite(mu, p, int(off)) {
			return len(p), nil
		}
		if err := b.extendConcurrently(mu, int(off), int(off)+len(p)); err != nil {
			return 0, err
		}
	}
}

// overwrite copies p over the contents at offset off. It reports false, and
// does nothing, if the contents end before off+len(p) or buf is not current.
func (b *Buffer) overwrite(mu *sync.RWMutex, p []byte, off int) bool {
	mu.RLock()
	defer mu.RUnlock()
	if b.Len() < off+len(p) || !b.current() {
		return false
	}
	b.put(b.off+off, p)
	b.noteWritten(b.off+off, len(p))
	return true
}

// extendConcurrently makes the contents end bytes long, if they are shorter,
// and zeroes the new bytes before off. The caller must write the others.
func (b *Buffer) extendConcurrently(mu *sync.RWMutex, off, end int) error {
	m, more, err := b.extendLocked(mu, off, end)
	if more {
		pace(m) // after releasing the lock, because it may wait
	}
	return err
}

// extendLocked is extendConcurrently without pacing. It also returns the
// mapping of b and whether more of the storage was committed.
func (b *Buffer) extendLocked(mu *sync.RWMutex, off, end int) (m *mapping, more bool, err error) {
	mu.Lock()
	defer mu.Unlock()
	was := cap(b.buf)
	err = b.extendTo(off, end)
	return b.m, cap(b.buf) > was, err
}

// extendTo is extendConcurrently for callers that have exclusive use of the
// Buffer and call pace themselves.
func (b *Buffer) extendTo(off, end int) error {
	b.refresh()
	n := end - b.Len()
	if n <= 0 {
		return nil
	}
	if err := b.reserve(n); err != nil {
		return err
	}
	b.lastRead = opInvalid
	b.extendZero(b.off+off, b.off+end)
	return nil
}
