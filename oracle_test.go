package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"unicode/utf8"
	"unsafe"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// An oracle is a bytes.Buffer with what Buffer has beyond it.
type oracle struct {
	bytes.Buffer
	maxLen int
}

// errFull stands for every error that says more than ErrTooLarge.
var errFull = fmt.Errorf("oracle: %w", ErrTooLarge)

func (o *oracle) room() int {
	if o.maxLen <= 0 {
		return math.MaxInt
	}
	return max(o.maxLen-o.Len(), 0)
}

// forget leaves nothing to unread.
func (o *oracle) forget() { o.Buffer.Write(nil) }

func (o *oracle) Write(p []byte) (int, error) {
	if o.maxLen > 0 && o.Len() == 0 {
		o.Reset() // what has been consumed is gone even if p is empty
	}
	if room := o.room(); len(p) > room {
		o.Buffer.Write(p[:room])
		return room, errFull
	}
	return o.Buffer.Write(p)
}

func (o *oracle) WriteString(s string) (int, error) { return o.Write([]byte(s)) }

func (o *oracle) WriteByte(c byte) error {
	_, err := o.Write([]byte{c})
	return err
}

func (o *oracle) WriteRune(r rune) (int, error) {
	p := utf8.AppendRune(nil, r)
	if len(p) > o.room() {
		o.forget()
		return 0, errFull
	}
	return o.Write(p)
}

func (o *oracle) ReadFrom(r io.Reader) (int64, error) {
	if o.maxLen <= 0 {
		return o.Buffer.ReadFrom(r)
	}
	ended, room := false, int64(o.room())
	n, err := o.Buffer.ReadFrom(io.LimitReader(reader(func(p []byte) (int, error) {
		n, err := r.Read(p)
		_ = p[:len(p):len(p)][:max(n, 0)] // panics where LimitReader does not
		ended = err != nil
		return n, err
	}), room))
	if ended || n < room {
		return n, err
	}
	switch m, err := io.ReadFull(r, make([]byte, 1)); {
	case m < 0:
		panic(errNegativeRead)
	case m > 0:
		return n, errFull
	case err != io.EOF:
		return n, err
	}
	return n, nil
}

func (o *oracle) Grow(n int) {
	if n > o.room() {
		panic(errFull)
	}
	o.Buffer.Grow(n)
}

func (o *oracle) Reserve(n int) error {
	switch {
	case n < 0:
		return errNegativeReserve
	case n > o.room():
		return errFull
	}
	o.Grow(n)
	return nil
}

func (o *oracle) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errReadAtNegative
	}
	return bytes.NewReader(o.Bytes()).ReadAt(p, off)
}

func (o *oracle) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, errWriteAtNegative
	case len(p) == 0:
		return 0, nil
	case off > int64(math.MaxInt-len(p)):
		return 0, ErrTooLarge
	}
	switch more := int(off) + len(p) - o.Len(); {
	case more > o.room():
		return 0, errFull
	case more > bits(56): // no process has so much
		if o.Len() == 0 {
			o.Reset() // as growth does, before it fails
		}
		return 0, errFull
	case more > 0:
		o.Buffer.Write(make([]byte, more))
	}
	return copy(o.Bytes()[off:], p), nil
}

func (o *oracle) Shrink() { o.Buffer = *bytes.NewBuffer(bytes.Clone(o.Bytes())) }

func (o *oracle) Close() error {
	o.Buffer = bytes.Buffer{}
	return nil
}

// invariants says what is wrong with the fields of b, between calls of its
// methods.
func invariants(b *Buffer) error {
	switch {
	case b.off < 0 || b.off > b.buf.Len:
		return fmt.Errorf("off = %d, len(buf) = %d", b.off, b.buf.Len)
	case b.lastRead < opRead || b.lastRead > utf8.UTFMax:
		return fmt.Errorf("lastRead = %d", b.lastRead)
	case (b.m == nil) != (b.gen == 0):
		return fmt.Errorf("gen = %d, m = %p", b.gen, b.m)
	}
	mu := b.atLock()
	mu.Lock() // waits for ever if a method has not unlocked it
	defer mu.Unlock()
	if b.m == nil {
		return nil
	}
	if err := b.m.Check(b.gen, b.off, b.buf.Len, b.buf.Cap); err != nil || !b.current() {
		return err
	}
	mem := b.m.Inspect().Mem
	at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	switch {
	case at%uintptr(min(vm.Unit(), mostAlignment)) != 0:
		return fmt.Errorf("the mapping is at %#x, the unit is %d", at, vm.Unit())
	case !vm.SameStart(b.buf.Slice(), mem):
		return fmt.Errorf("buf is not the mapping")
	}
	return nil
}

// mostAlignment bounds what invariants asks of addresses. A test that makes
// memory scarce lowers it to the page.
var mostAlignment = math.MaxInt

// leaked says what is mapped that was not. Garbage may still go, but no new
// mapping may stay when the Buffers that were made since are closed.
func leaked(was Stats) error {
	if is := ReadStats(); is.Mappings > was.Mappings || is.MappedBytes > was.MappedBytes {
		return fmt.Errorf("%d mappings of %d bytes, there were %d of %d", is.Mappings, is.MappedBytes, was.Mappings, was.MappedBytes)
	}
	return nil
}
