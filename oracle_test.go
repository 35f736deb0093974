package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"time"
	"unicode/utf8"
	"unsafe"
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

// pagesAreRight checks I3 to I5 of a mapping, of which the caller holds the lock.
func pagesAreRight(p *pages) error {
	units := 0
	for _, flag := range p.touched {
		units += int(flag)
	}
	for i, at := range p.seams {
		if at <= 0 || at >= cap(p.mem) || i > 0 && at <= p.seams[i-1] {
			return fmt.Errorf("seams %v in a mapping of %d bytes", p.seams, cap(p.mem))
		}
	}
	switch {
	case p.cleared < 0 || p.cleared > p.committed || p.committed > p.dirty || p.dirty > cap(p.mem) || p.committed > len(p.mem):
		return fmt.Errorf("committed %d, dirty %d, len(mem) %d, cap(mem) %d", p.committed, p.dirty, len(p.mem), cap(p.mem))
	case len(p.touched) != pageCeil(p.dirty)/pageUnit():
		return fmt.Errorf("%d flags for %d dirty bytes", len(p.touched), p.dirty)
	case int(p.held.Load()) != units*pageUnit():
		return fmt.Errorf("held %d, %d units are touched", p.held.Load(), units)
	}
	return nil
}

// invariants says what is wrong with the fields of b, between calls of its
// methods.
func invariants(b *Buffer) error {
	switch {
	case b.off < 0 || b.off > b.buf.len:
		return fmt.Errorf("off = %d, len(buf) = %d", b.off, b.buf.len)
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
	for start := time.Now(); !b.m.mu.TryLock(); time.Sleep(time.Millisecond) { // tick holds it for a moment
		if time.Since(start) > 10*time.Second {
			return fmt.Errorf("the lock of the mapping is held")
		}
	}
	b.m.mu.Unlock()
	if !b.current() { // published, and the Buffer is still to adopt that
		p := b.m.pub.Load()
		switch {
		case p == nil || p.gen != b.gen:
			return fmt.Errorf("generation %d of the mapping, the Buffer is of %d", b.m.gen.Load(), b.gen)
		case b.m.mem != nil:
			return fmt.Errorf("published, and still mapped")
		case b.off < p.lo || b.buf.len-p.lo > len(p.mem):
			return fmt.Errorf("[%d:%d] of the mapping was published, contents are at [%d:%d]", p.lo, p.lo+len(p.mem), b.off, b.buf.len)
		}
		return nil
	}
	b.m.mu.RLock() // for tick
	defer b.m.mu.RUnlock()
	if err := pagesAreRight(b.m.pages); err != nil {
		return err
	}
	mem, s := b.m.mem, ReadStats()
	at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	switch {
	case int(b.m.capacity.Load()) != len(mem) && len(mem) != pageUnit() || b.Cap() > len(mem):
		return fmt.Errorf("a mapping of %d bytes, size = %d", len(mem), b.m.capacity.Load())
	case len(mem) == 0 || len(mem)%pageUnit() != 0 || cap(mem)%pageUnit() != 0:
		return fmt.Errorf("a mapping of %d, %d bytes, the unit is %d", len(mem), cap(mem), pageUnit())
	case at%uintptr(min(pageUnit(), mostAlignment)) != 0:
		return fmt.Errorf("the mapping is at %#x, the unit is %d", at, pageUnit())
	case unsafe.SliceData(b.buf.slice()) != unsafe.SliceData(mem) || b.buf.cap > b.m.cleared:
		return fmt.Errorf("buf, of %d bytes, is not the mapping, of which %d are in use", b.buf.cap, b.m.cleared)
	case s.Mappings < 1 || s.MappedBytes < int64(len(mem)) || s.Created < s.Mappings || profile.Count() < 1:
		return fmt.Errorf("a mapping of %d bytes and %+v", len(mem), s)
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
