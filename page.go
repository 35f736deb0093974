package mmapbuf

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"unicode/utf8"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// This file has what a Buffer knows of its pages. Its storage is buf: Go memory, or
// the memory of a mapping. Only this file reads or writes it. Other files use only
// its length and capacity, as TestOnlyPagesTouchMemory checks. The functions below
// keep the mapping reachable while they use its memory.
//
//	m == nil                 buf is Go memory
//	m.Generation == gen      buf is m's window: what is cleared of its memory
//	otherwise                m was published for gen, and the Buffer adopts that at
//	                         its next change; or a copy has moved m, and the Buffer
//	                         is stale

// errStale is the error of ReadAt and WriteAt, and the value with which other
// methods panic, if the storage was moved or released through another copy of
// the Buffer, or by a goroutine that used the Buffer at the same time.
var errStale = errors.New("mmapbuf: the storage of the Buffer was moved or released by another goroutine, or through a copy of the Buffer")

// current reports whether buf refers to the contents. Callers must ensure this
// before they access buf; see refresh.
func (b *Buffer) current() bool { return b.m == nil || b.m.Generation.Load() == b.gen }

// refresh makes buf current. Each method that modifies the Buffer begins with
// refresh, or as adopt says. It panics if b is stale.
func (b *Buffer) refresh() {
	if b.m != nil && b.m.Generation.Load() != b.gen { // !b.current(), written out to be inlined
		b.adopt()
	}
}

// adopt makes the published memory the storage and returns b. Where nanoseconds
// count, a method begins with
//
//	if !b.current() {
//		return b.adopt().Method(args)
//	}
//
// instead of refresh, because its arguments can stay in registers then. adopt is not
// inlined, so that refresh is.
//
//go:noinline
func (b *Buffer) adopt() *Buffer {
	if err := b.tryRefresh(); err != nil {
		panic(err)
	}
	return b
}

// tryRefresh is refresh, but returns errStale if b is stale.
func (b *Buffer) tryRefresh() error {
	if b.current() {
		return nil
	}
	mu := b.atLock()
	mu.Lock()
	defer mu.Unlock()
	return b.adoptLocked()
}

// adoptLocked is adopt for callers that hold the lock of ReadAt. It returns
// errStale if b is stale.
func (b *Buffer) adoptLocked() error {
	mem, lo := b.m.Published(b.gen, b.off, b.buf.Len)
	if mem == nil {
		return errStale
	}
	b.setSlice(mem[:b.buf.Len-lo], b.off-lo)
	b.adopted = min(b.adopted+1, viewsToSlice)
	return nil
}

// setSlice makes p, which is Go memory, the storage, with the contents at
// p[off:]. The caller holds the lock of ReadAt if the storage was a mapping.
func (b *Buffer) setSlice(p []byte, off int) {
	b.buf.Set(p)
	b.off, b.m, b.gen = off, nil, 0
	b.settle(cap(p))
}

// setMapping makes m the storage, with the contents from offset off to end. The
// caller holds the lock of ReadAt.
func (b *Buffer) setMapping(m *mapping.Mapping, off, end int) {
	mem, gen := m.Window(end)
	b.buf.Set(mem)
	b.off, b.m, b.gen = off, m, gen
	b.settle(m.Capacity())
	runtime.KeepAlive(m)
}

// setEnd makes the contents end at offset n, at most cap(buf).
func (b *Buffer) setEnd(n int) { b.buf.Len = n }

// The following methods require that buf is current.

// rewind empties the Buffer and keeps its storage.
func (b *Buffer) rewind() {
	if b.m != nil {
		b.rewindMapping()
	}
	b.buf.Len, b.off, b.lastRead = 0, 0, opInvalid
}

// rewindMapping is the part of rewind for a mapping.
//
//go:noinline
func (b *Buffer) rewindMapping() { b.shorten(0) }

// shorten makes the contents end at buf[n].
func (b *Buffer) shorten(n int) {
	b.setEnd(n)
	if m := b.m; m != nil && m.Sparse() {
		m.Shorten(n)
		b.setMapping(m, b.off, n)
	}
}

// appendSlow appends p, for which there is room within Cap. A method whose bytes
// fit into buf calls append, which is inlined.
func appendSlow[T []byte | string](b *Buffer, p T) {
	i := b.buf.Len
	if len(p) <= b.buf.Cap-i {
		copy(b.buf.Slice()[i:i+len(p)], p)
		b.setEnd(i + len(p))
		runtime.KeepAlive(b)
		return
	}
	b.appendToMapping(len(p), func(mem []byte) int { return copy(mem, p) })
}

// appendToMapping calls f to append n bytes or less, which it returns. There is room
// within Cap.
func (b *Buffer) appendToMapping(n int, f func(mem []byte) int) {
	mem, ok := b.m.Append(b.gen, b.buf.Len, n, f)
	if !ok {
		panic(errStale)
	}
	b.buf.Set(mem)
}

// append appends p, for which there is room. The contents become longer only
// after the copy, which panics if p is memory that faults (debug.SetPanicOnFault).
func (b *Buffer) append(p []byte) {
	i := b.buf.Len
	copy(b.buf.Slice()[i:i+len(p)], p)
	b.setEnd(i + len(p))
	runtime.KeepAlive(b)
}

// appendString is append for a string.
func (b *Buffer) appendString(s string) {
	i := b.buf.Len
	copy(b.buf.Slice()[i:i+len(s)], s)
	b.setEnd(i + len(s))
	runtime.KeepAlive(b)
}

// appendByte is append for a byte.
func (b *Buffer) appendByte(c byte) {
	i := b.buf.Len
	b.buf.Slice()[:i+1][i] = c
	b.buf.Len = i + 1
	runtime.KeepAlive(b)
}

// WriteRune appends the UTF-8 encoding of r and returns the number of bytes
// written. If MaxLen or Limit leaves too little room for all of it, WriteRune writes
// nothing and returns an error that wraps ErrTooLarge. It panics as
// [Buffer.Write] does.
func (b *Buffer) WriteRune(r rune) (n int, err error) { // in this file: appending in a helper takes half as long again
	if uint32(r) < utf8.RuneSelf { // unsigned, so that negative runes are not ASCII
		if err := b.WriteByte(byte(r)); err != nil {
			return 0, err
		}
		return 1, nil
	}
	if !b.current() {
		return b.adopt().WriteRune(r)
	}
	b.lastRead = opInvalid
	if b.fits(utf8.UTFMax) {
		i := b.buf.Len
		b.buf.Len = len(utf8.AppendRune(b.buf.Slice(), r))
		runtime.KeepAlive(b)
		return b.buf.Len - i, nil
	}
	var p [utf8.UTFMax]byte
	n = utf8.EncodeRune(p[:], r)
	if n > b.roomToMax() {
		return 0, b.maxLenError(n)
	}
	if got, err := b.roomFor(n); got < n {
		return 0, err
	}
	appendSlow(b, p[:n])
	return n, nil
}

// get copies the contents to p, up to its length, and returns the number of
// bytes copied.
func (b *Buffer) get(p []byte) int {
	n := copy(p, b.buf.Slice()[b.off:])
	runtime.KeepAlive(b)
	return n
}

// at returns buf[i].
func (b *Buffer) at(i int) byte {
	c := b.buf.Slice()[i]
	runtime.KeepAlive(b)
	return c
}

// unread returns the contents, which must be in Go memory.
func (b *Buffer) unread() []byte { return b.buf.Slice()[b.off:] }

// rune decodes the first rune of the contents, which must not be empty.
func (b *Buffer) rune() (r rune, size int) {
	r, size = rune(b.buf.Slice()[b.off]), 1
	if r >= utf8.RuneSelf {
		r, size = utf8.DecodeRune(b.buf.Slice()[b.off:])
	}
	runtime.KeepAlive(b)
	return r, size
}

// find makes buf current. It returns the number of bytes up to and including
// the first delim, or Len and io.EOF if there is none.
func (b *Buffer) find(delim byte) (n int, err error) {
	b.refresh()
	i := bytes.IndexByte(b.buf.Slice()[b.off:], delim)
	runtime.KeepAlive(b)
	if i < 0 {
		return b.Len(), io.EOF
	}
	return i + 1, nil
}

// clone returns a copy of the first n bytes of the contents.
func (b *Buffer) clone(n int) []byte {
	p := append([]byte(nil), b.buf.Slice()[b.off:b.off+n]...)
	runtime.KeepAlive(b)
	return p
}

// cloneString is like clone but returns a string.
func (b *Buffer) cloneString(n int) string {
	s := string(b.buf.Slice()[b.off : b.off+n])
	runtime.KeepAlive(b)
	return s
}

// slide moves the contents to the start of the storage.
func (b *Buffer) slide() {
	n := b.Len()
	b.overwrite(0, n, func(mem []byte) { copy(mem, b.buf.Slice()[b.off:]) })
	b.off = 0
	b.shorten(n)
	runtime.KeepAlive(b)
}

// overwrite calls f to write buf[i:i+n]. It reports whether that has filled holes.
func (b *Buffer) overwrite(i, n int, f func(mem []byte)) (filled bool) {
	if m := b.m; m != nil && m.Sparse() {
		filled, ok := m.Overwrite(b.gen, i, n, b.buf.Len, f)
		if !ok {
			panic(errStale)
		}
		return filled
	}
	f(b.buf.Slice()[i : i+n])
	runtime.KeepAlive(b)
	return false
}

// put copies p to the contents at offset off.
func put[T []byte | string](b *Buffer, off int, p T) {
	if b.overwrite(b.off+off, len(p), func(mem []byte) { copy(mem, p) }) {
		mapping.Pace(b.m)
	}
}

// extend makes the contents end at buf[end], at most Cap, and zeroes the new
// bytes before offset i. The others, buf[i:end], will be p. As p may be a slice
// of the bytes that are zeroed (see AvailableBuffer), extend copies it before,
// and reports that; otherwise the caller does it. Whole pages of a mapping are
// zeroed by returning them to the kernel, so that they use no memory until they
// are written.
func extend[T []byte | string](b *Buffer, i, end int, p T) (written bool) {
	old := b.buf.Len
	if b.m != nil {
		b.buf.Set(b.m.Extend(old, max(i, old), end))
		return false
	}
	if written = old < i; written {
		buf := b.buf.Slice()[:end]
		copy(buf[i:], p)
		clear(buf[old:i])
	}
	b.setEnd(end)
	return written
}

// copyToSlice copies the contents to p, which is new Go memory, and makes it the
// storage.
func (b *Buffer) copyToSlice(p []byte) {
	n := b.Len()
	b.withContents(func(contents []byte) { copy(p, contents) })
	m, gen := b.m, b.gen
	b.setSlice(p[:n], 0)
	if m != nil {
		_ = m.Release(gen) // if munmap(2) fails, the memory stays mapped, but unused
	}
}

// copyToHeap copies the contents, which are in Go memory, to a new slice of c bytes,
// and makes it the storage. Unlike make, it does not clear what it overwrites. It
// reports false, and does nothing, where there are no mappings.
func (b *Buffer) copyToHeap(c int) bool {
	p := vm.HeapCopy(b.unread(), c)
	if p == nil {
		return false
	}
	b.setSlice(p[:b.Len()], 0)
	return true
}

// copyToMapping is like copyToSlice for a new mapping.
func (b *Buffer) copyToMapping(m *mapping.Mapping) {
	n := b.Len()
	if b.Limit != nil {
		m.BoundCommit(toInt(b.share.held.Load()))
	}
	m.Append(m.Generation.Load(), 0, n, func(mem []byte) (n int) {
		b.withContents(func(contents []byte) { n = copy(mem, contents) })
		return n
	})
	old, gen := b.m, b.gen
	b.setMapping(m, 0, n)
	if old != nil {
		_ = old.Release(gen)
	}
}

// afterCut makes buf current after memory was moved, and cut bytes of it were cut
// from the front.
func (b *Buffer) afterCut(cut int) {
	if b.share != nil {
		b.share.lower(max(b.share.held.Load()-int64(cut), 0))
	}
	b.setMapping(b.m, b.off-cut, b.buf.Len-cut)
}

// readSlice calls r.Read with the spare capacity of buf, which is Go memory, up
// to most bytes, and appends the bytes read. r may use the Buffer.
func (b *Buffer) readSlice(r io.Reader, most int) (n int, err error) {
	i := b.buf.Len
	j := i + min(b.buf.Cap-i, most)
	p := b.buf.Slice()[i:j:j]
	n, err = r.Read(p)
	if n < 0 {
		panic(errNegativeRead)
	}
	p = p[:n] // a count beyond len(p) panics as any slice would
	b.refresh()
	if b.m == nil && i < b.buf.Cap && vm.SameStart(b.buf.Slice()[i:i], p) {
		b.setEnd(i + n) // even if r has changed the contents, as in bytes.Buffer
		b.off = min(b.off, b.buf.Len)
		return n, err
	}
	n, full := b.appendRead(p) // r has made the contents grow, which moved them
	if full != nil {
		err = full
	}
	return n, err
}

// readFile is readSlice for a mapping, to whose memory the kernel reads. There
// must be room for most bytes.
func (b *Buffer) readFile(f *os.File, most int) (n int, err error) {
	b.appendToMapping(most, func(mem []byte) int {
		n, err = f.Read(mem)
		return n
	})
	return n, err
}

// The following methods do not modify the Buffer. They may run concurrently
// with each other.

// view returns the contents as Go memory. If it is the first view of a mapping,
// it publishes the mapping, and the slice has the spare capacity of viewSpare if
// spare is set, or none if there is not enough memory for that. If there is not enough
// memory for the contents, view returns an error and changes nothing.
func (b *Buffer) view(spare bool) ([]byte, error) {
	if b.m == nil {
		return b.buf.Slice()[b.off:], nil
	}
	if p := b.published(); p != nil {
		return p, nil
	}
	n := 0
	if spare {
		n = b.viewSpare()
	}
	err := b.m.Publish(b.gen, b.consumed(), b.buf.Len, n)
	if err != nil && n > 0 {
		err = b.m.Publish(b.gen, b.consumed(), b.buf.Len, 0)
	}
	if err != nil {
		return nil, newMemoryError("publish "+sizeString(b.Len()), err)
	}
	if p := b.published(); p != nil {
		return p, nil
	}
	return nil, errStale
}

// published returns the contents of a mapping that was published, or nil.
func (b *Buffer) published() []byte {
	if mem, lo := b.m.Published(b.gen, b.off, b.buf.Len); mem != nil {
		return mem[b.off-lo : b.buf.Len-lo]
	}
	return nil
}

// mustView is view with spare capacity. It panics on error.
//
//go:noinline
func (b *Buffer) mustView() []byte {
	p, err := b.view(true)
	if err != nil {
		panicFor(err)
	}
	return p
}

// viewSpare returns the spare capacity of a view for which none was requested.
// Programs use it, after Grow and otherwise, so it is all that there is, but for
// reservations that are far larger than the contents: it counts as heap.
func (b *Buffer) viewSpare() int { return min(b.available(), max(b.Len(), spareMax)) }

// available returns how many bytes may be written to a mapping without asking the
// Limit, but at most Available.
func (b *Buffer) available() int {
	n := b.Available()
	if b.Limit != nil {
		charged := max(b.m.Committed(), toInt(b.charged())) // committed is more if Limit was changed
		n = max(min(n, charged-b.buf.Len), 0)
	}
	return n
}

// spareMax is the spare capacity, in bytes, that a view has of any reservation.
const spareMax = 64 * vm.MiB

// peek is Peek for a mapping.
func (b *Buffer) peek(n int) (p []byte, err error) {
	if n > b.Len() {
		n, err = b.Len(), io.EOF
	}
	return b.viewOf(n), err
}

// viewOf returns the first n bytes of the contents as Go memory. If there is
// not enough memory to publish all of the contents, they are a copy.
func (b *Buffer) viewOf(n int) []byte {
	p, err := b.view(true)
	if err == nil {
		return p[:n]
	}
	if n > smallView && vm.ProbeHeap(n) != nil {
		panicFor(err)
	}
	b.withContents(func(contents []byte) { p = append(p, contents[:n]...) })
	return p
}

// smallView is the size, in bytes, up to which a view is allocated without a
// probe of the heap.
const smallView = 64 * vm.KiB

// spare returns all of the spare capacity as Go memory.
func (b *Buffer) spare() []byte {
	n := b.available()
	if b.m.Publish(b.gen, b.consumed(), b.buf.Len, n) == nil {
		mem, lo := b.m.Published(b.gen, b.off, b.buf.Len)
		if mem == nil {
			panic(errStale)
		}
		if k := b.buf.Len - lo; cap(mem)-k >= n {
			return mem[k : k : k+n]
		}
	}
	// A view with less spare capacity was published before, or there is not
	// enough memory to publish all of it. Write copies from this slice.
	if err := vm.ProbeHeap(n); err != nil {
		panicFor(newMemoryError("allocate "+sizeString(n), err))
	}
	return make([]byte, 0, n)
}

// withContents calls f with the contents. f must not retain them.
func (b *Buffer) withContents(f func(contents []byte)) {
	if b.m == nil {
		f(b.buf.Slice()[b.off:])
	} else if !b.m.Read(b.gen, b.off, b.buf.Len, f) {
		panic(errStale)
	}
}

// writeOut writes the contents from offset off on to w, in one call if possible.
// It returns how many they are and the results of w, of which the count may be
// invalid, or errStale. If most is not 0, there is a mapping, and w may access it, most
// bytes at a time. Otherwise w may modify the Buffer that b is a copy of.
func (b *Buffer) writeOut(w io.Writer, off, most int) (total, n int, err error) {
	total = b.Len() - off
	for most > 0 && n < total {
		k := min(total-n, most)
		took, err, ok := b.writeDirect(w, off+n, k)
		if !ok {
			break
		}
		if took < 0 || took > k {
			return total, -1, err
		}
		if n += took; err != nil || took < k {
			return total, n, err
		}
	}
	if n == total {
		return total, n, nil
	}
	if b.m != nil && fromCopies(w, b.m) {
		return b.writeCopies(w, off, make([]byte, min(chunkMax, total)))
	}
	p, err := b.view(false)
	if err != nil && n > 0 {
		return total, n, err
	}
	if err != nil {
		return b.writeCopies(w, off, nil)
	}
	k, err := w.Write(p[off+n : len(p) : len(p)])
	if k < 0 || k > total-n {
		return total, -1, err
	}
	return total, n + k, err
}

// writeDirect writes k bytes of the contents from offset off on to w, while it holds
// the lock of the mapping, and returns the results of w. It reports false, and does
// nothing, if b is stale.
func (b *Buffer) writeDirect(w io.Writer, off, k int) (n int, err error, ok bool) {
	ok = b.m.Read(b.gen, b.off+off, b.off+off+k, func(contents []byte) { n, err = w.Write(contents) })
	return n, err, ok
}

// writeCopies is writeOut in several calls, with copies of parts of the contents:
// in p, or if p is nil, in new memory for each, because w may keep it.
func (b *Buffer) writeCopies(w io.Writer, off int, p []byte) (total, n int, err error) {
	total = b.Len() - off
	for n < total && err == nil {
		q := p
		if q == nil {
			q = make([]byte, min(chunkMin, total-n)) // memory is scarce
		}
		var k, took int
		if k, err = b.copyAt(q, int64(off+n)); k == 0 {
			break
		}
		took, err = w.Write(q[:k])
		if took < 0 || took > k {
			return total, -1, err
		}
		if n += took; took < k {
			break
		}
	}
	return total, n, err
}

// copyAt copies contents to p, beginning at offset off. The caller holds the
// lock of ReadAt, so that the storage is not exchanged. If another goroutine
// uses the Buffer against the rules, copyAt finds some of its bytes, or none.
func (b *Buffer) copyAt(p []byte, off int64) (n int, err error) {
	if off >= int64(b.Len()) {
		err = io.EOF
		if !b.intact() {
			err = errStale
		}
		return 0, err
	}
	from := b.off + int(off)
	switch {
	case b.m == nil:
		n = copy(p, b.buf.Slice()[from:])
	case !b.m.Read(b.gen, from, b.buf.Len, func(contents []byte) { n = copy(p, contents) }):
		return 0, errStale
	}
	if n < len(p) {
		err = io.EOF
	}
	return n, err
}

// intact reports whether b is not stale.
func (b *Buffer) intact() bool {
	if b.current() {
		return true
	}
	mem, _ := b.m.Published(b.gen, b.off, b.buf.Len)
	return mem != nil
}

// overwriteAt copies p over the contents at offset off. It reports false, and
// does nothing, if the contents end before off+len(p) or were published. mu is
// the lock of ReadAt.
func overwriteAt[T []byte | string](b *Buffer, mu *sync.RWMutex, p T, off int) bool {
	m, filled, done := overwriteHolding(b, mu, p, off)
	if filled {
		mapping.Pace(m) // after releasing the lock, because it may wait
	}
	return done
}

// overwriteHolding is overwriteAt without pacing. It also returns the mapping and
// whether holes were filled.
func overwriteHolding[T []byte | string](b *Buffer, mu *sync.RWMutex, p T, off int) (m *mapping.Mapping, filled, done bool) {
	mu.RLock()
	defer mu.RUnlock()
	i, m := b.off+off, b.m
	switch {
	case b.Len() < off+len(p):
		return m, false, false
	case m == nil:
		copy(b.buf.Slice()[i:], p)
		return nil, false, true
	}
	filled, done = m.Overwrite(b.gen, i, len(p), b.buf.Len, func(mem []byte) { copy(mem, p) })
	return m, filled, done
}
