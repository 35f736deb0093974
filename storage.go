package mmapbuf

import (
	"bytes"
	"io"
	"runtime"
	"sync/atomic"
	"unicode/utf8"
)

// The storage of a Buffer is buf: Go memory, or the memory of a mapping. This
// file and publish.go are the only ones that read or write it, and that know
// which of the two it is. Elsewhere buf is used in len and cap alone, which
// TestOnlyStorageTouchesMemory checks. So no method can forget that a mapping
// must stay reachable for as long as its memory is used: the functions below
// see to it.

// A mapping is memory that Buffers own outside of the Go heap.
//
// Usually one Buffer refers to it. A copy by value makes two, and then the
// generation tells them apart: it changes whenever the memory moves or loses
// contents, and a Buffer remembers the one that its buf belongs to. When the
// two differ, the memory was published, which the Buffer can follow (adopt), or
// a copy has moved it, which it cannot.
type mapping struct {
	*pages
	gen      atomic.Uint32             // never 0
	capacity atomic.Int64              // capacity: len(mem), or less where that is more than was asked for, see growCapacity
	pub      atomic.Pointer[published] // what has taken the place of mem

	// The following are guarded by mu.
	pins     int  // calls of a Reader or Writer in progress that were handed a part of mem
	released bool // no Buffer needs mem any more; the last of those calls unmaps it
}

// published is the Go memory that holds what was at mem[lo:] of a mapping when
// its generation was gen. It does not change.
type published struct {
	mem []byte
	lo  int
	gen uint32
}

const panicStale = "mmapbuf: use of a copied Buffer whose storage the other copy has moved"

// newMapping returns a mapping of n bytes, a multiple of pageUnit.
func newMapping(n int, huge bool) (*mapping, error) {
	if m := idleMapping(n, huge); m != nil {
		return m, nil
	}
	p, err := mapPages(n, huge)
	if err != nil {
		return nil, err
	}
	return mappingOf(p), nil
}

// idleMapping returns a mapping of at least n bytes of idle memory, or nil if
// there is none.
func idleMapping(n int, huge bool) *mapping {
	reap()
	if p := takeIdle(n, huge); p != nil {
		return mappingOf(p)
	}
	return nil
}

func mappingOf(p *pages) *mapping {
	m := &mapping{pages: p}
	m.gen.Store(1)
	m.capacity.Store(int64(len(p.mem)))
	// No slice of the memory is left when m is unreachable: views are of
	// published memory, and a Reader or Writer has m pinned.
	runtime.AddCleanup(m, (*pages).freeUnreachable, p)
	track(p, m)
	return m
}

// current reports whether buf is where the contents are. Whoever reads or
// writes buf must know that it is: see refresh.
func (b *Buffer) current() bool { return b.m == nil || b.m.gen.Load() == b.gen }

// refresh makes buf current. Each method that changes the Buffer begins with it,
// or with fits. It panics if b is a copy whose storage is gone.
func (b *Buffer) refresh() {
	if b.m != nil && b.m.gen.Load() != b.gen { // current, in a form that is inlined
		b.adopt()
	}
}

// adopt makes what was published the storage.
func (b *Buffer) adopt() {
	p := b.m.publishedFor(b)
	b.setSlice(p.mem[:len(b.buf)-p.lo], b.off-p.lo)
}

// publishedFor returns what was published of m when it was as b knows it. It
// panics if nothing was, or not all that b has.
func (m *mapping) publishedFor(b *Buffer) *published {
	p := m.pub.Load()
	if p == nil || p.gen != b.gen || b.off < p.lo || len(b.buf)-p.lo > len(p.mem) {
		panic(panicStale)
	}
	return p
}

// setSlice makes p, Go memory, the storage, with the contents at p[off:].
func (b *Buffer) setSlice(p []byte, off int) {
	b.buf, b.off, b.m, b.gen = p, off, nil, 0
}

// setMapping makes m the storage, with the contents at m.mem[off:end]. The
// caller holds m.mu.
func (b *Buffer) setMapping(m *mapping, off, end int) {
	b.m, b.gen = m, m.gen.Load()
	b.buf, b.off = m.mem[:end:m.commit(end)], off
	runtime.KeepAlive(m)
}

// commit takes n more bytes of the storage into use, which it has.
func (b *Buffer) commit(n int) {
	if n > cap(b.buf)-len(b.buf) {
		b.commitMapping(n)
	}
}

// commitMapping is open where there is something to do.
func (b *Buffer) commitMapping(n int) {
	m, end := b.m, len(b.buf)
	m.mu.Lock()
	defer m.mu.Unlock()
	b.buf = m.mem[:end:m.commit(end+n)]
	runtime.KeepAlive(m)
}

// setEnd makes the contents end at buf[n], which is not beyond its capacity.
func (b *Buffer) setEnd(n int) { b.buf = b.buf[:n] }

// The following need a current buf.

// rewind empties the Buffer. Its storage stays.
func (b *Buffer) rewind() {
	if b.m != nil {
		b.noteRewound()
	}
	b.buf, b.off, b.lastRead = b.buf[:0], 0, opInvalid
}

// noteRewound is told that the mapping is about to be written from its start again.
//
//go:noinline
func (b *Buffer) noteRewound() { b.m.noteRewound(len(b.buf)) }

// put copies p to buf[i:].
func (b *Buffer) put(i int, p []byte) {
	copy(b.buf[i:], p)
	runtime.KeepAlive(b)
}

// putString is put for a string.
func (b *Buffer) putString(i int, s string) {
	copy(b.buf[i:], s)
	runtime.KeepAlive(b)
}

// appendByte appends c, if that takes no more than to move the end of the
// contents. It does not need a current buf.
func (b *Buffer) appendByte(c byte) bool {
	i := len(b.buf)
	if i >= cap(b.buf) || b.MaxLen > 0 || !b.current() { // not fits(1)
		return false
	}
	b.buf = b.buf[:i+1]
	b.buf[i] = c
	runtime.KeepAlive(b)
	return true
}

// WriteRune appends the UTF-8 encoding of r and returns the number of bytes
// written. If MaxLen leaves too little room for all of it, WriteRune writes
// nothing and returns an error that wraps ErrTooLarge. It panics as
// [Buffer.Write] does.
func (b *Buffer) WriteRune(r rune) (n int, err error) { // here, because to append in a function of its own takes half as long again
	if uint32(r) < utf8.RuneSelf { // uint32: negative runes are no ASCII
		if err := b.WriteByte(byte(r)); err != nil {
			return 0, err
		}
		return 1, nil
	}
	b.lastRead = opInvalid
	if b.fits(utf8.UTFMax) {
		i := len(b.buf)
		b.buf = utf8.AppendRune(b.buf, r)
		runtime.KeepAlive(b)
		return len(b.buf) - i, nil
	}
	if n = utf8.RuneLen(r); n < 0 {
		n = utf8.RuneLen(utf8.RuneError)
	}
	if n > b.roomToMax() {
		b.refresh()
		return 0, b.maxLenError(n)
	}
	i, _, _ := b.extend(n)
	b.buf = utf8.AppendRune(b.buf[:i], r)
	runtime.KeepAlive(b)
	return n, nil
}

// get copies contents to p, from the first unread byte on.
func (b *Buffer) get(p []byte) int {
	n := copy(p, b.buf[b.off:])
	runtime.KeepAlive(b)
	return n
}

// at returns buf[i].
func (b *Buffer) at(i int) byte {
	c := b.buf[i]
	runtime.KeepAlive(b)
	return c
}

// unread returns the contents. They must be Go memory.
func (b *Buffer) unread() []byte { return b.buf[b.off:] }

// rune decodes the rune at the first of the contents, of which there are some.
func (b *Buffer) rune() (r rune, size int) {
	r, size = rune(b.buf[b.off]), 1
	if r >= utf8.RuneSelf {
		r, size = utf8.DecodeRune(b.buf[b.off:])
	}
	runtime.KeepAlive(b)
	return r, size
}

// find makes buf current, and returns the number of bytes up to and including
// the first delim, or Len and io.EOF.
func (b *Buffer) find(delim byte) (n int, err error) {
	b.refresh()
	i := bytes.IndexByte(b.buf[b.off:], delim)
	runtime.KeepAlive(b)
	if i < 0 {
		return b.Len(), io.EOF
	}
	return i + 1, nil
}

// clone returns a copy of the first n bytes of the contents.
func (b *Buffer) clone(n int) []byte {
	p := append([]byte(nil), b.buf[b.off:b.off+n]...)
	runtime.KeepAlive(b)
	return p
}

// cloneString is clone that returns a string.
func (b *Buffer) cloneString(n int) string {
	s := string(b.buf[b.off : b.off+n])
	runtime.KeepAlive(b)
	return s
}

// slide moves the contents to the start of the storage.
func (b *Buffer) slide() {
	if b.m != nil {
		b.noteRewound()
	}
	n := copy(b.buf, b.buf[b.off:])
	b.buf, b.off = b.buf[:n], 0
	runtime.KeepAlive(b)
}

// extendZero makes the contents end at buf[end], for which there is room, and
// zeroes what of that lies before buf[gap]. Whole pages of a mapping are returned
// to the kernel for that, so that a gap takes no memory until it is written.
func (b *Buffer) extendZero(gap, end int) {
	old := len(b.buf)
	gap = max(gap, old)
	lo, hi := gap, gap
	if b.m != nil {
		first, last := pageFloor(old+pageUnit()-1), pageFloor(gap)
		if first < last && b.punch(first, last) == nil { // before open, which counts what it opens as written
			lo, hi = first, last
		}
	}
	b.commit(end - old)
	b.setEnd(end)
	clear(b.buf[old:lo])
	clear(b.buf[hi:gap])
	b.scrub(gap, end) // somebody may look before it is written
	runtime.KeepAlive(b)
}

// punch returns the memory of buf[i:j], whole pages of a mapping, to the kernel.
func (b *Buffer) punch(i, j int) error {
	b.m.mu.Lock()
	defer b.m.mu.Unlock()
	return b.m.punch(i, j)
}

// scrub clears what earlier owners of the memory have left in buf[i:j].
func (b *Buffer) scrub(i, j int) {
	if m := b.m; m != nil {
		m.mu.Lock()
		m.scrub(i, j)
		m.mu.Unlock()
		runtime.KeepAlive(m)
	}
}

// noteWritten is told that n bytes in the middle of the contents were written.
func (b *Buffer) noteWritten(n int) {
	if m := b.m; m != nil {
		m.noteWritten(n)
		runtime.KeepAlive(m) // or what is counted after a collection stays counted
	}
}

// copyTo copies the contents to new Go memory p, and makes that the storage.
func (b *Buffer) copyTo(p []byte) {
	n := b.get(p)
	_ = b.release() // what munmap(2) refuses stays mapped, and nobody uses it
	b.setSlice(p[:n], 0)
}

// copyToMapping is copyTo for a mapping.
func (b *Buffer) copyToMapping(m *mapping) {
	m.mu.Lock() // or tick returns to the kernel what is not in use yet, of idle memory
	defer m.mu.Unlock()
	end := b.get(m.mem)
	_ = b.release()
	b.setMapping(m, 0, end)
}

// release unmaps the memory of the mapping, if there is one: at once, or when
// the calls that use it have returned. buf is not current then.
func (b *Buffer) release() error {
	m := b.m
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gen.Add(1)
	return m.drop()
}

// drop gives mem back unless it is pinned. The caller holds mu.
func (m *mapping) drop() error {
	if m.pins > 0 {
		m.released = true
		return nil
	}
	// The cleanup of m must not run meanwhile: it might unmap as well, and the
	// later of the two would hit what has been mapped there since.
	err := m.free(false)
	runtime.KeepAlive(m)
	return err
}

// pin keeps the memory of m where it is until unpin, for a call of a Reader or
// Writer that is handed a part of it and may use the Buffer itself.
func (m *mapping) pin() {
	m.mu.Lock()
	m.pins++
	m.mu.Unlock()
}

// pinClean is pin for buf[i:j] or less of it, which it clears and returns the end
// of. A Reader may look at what it is to fill.
func (b *Buffer) pinClean(i, j int) int {
	m := b.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pins++
	if i < m.dirty {
		if j = min(j, i+scrubStep); m.scrub(i, j) {
			b.gen = m.gen.Add(1) // a copy may have contents there
		}
	}
	return j
}

func (m *mapping) unpin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pins--; m.pins == 0 && m.released {
		_ = m.drop()
	}
}

// pinned reports whether the memory of a mapping must stay where it is.
func (b *Buffer) pinned() bool {
	b.m.mu.RLock()
	defer b.m.mu.RUnlock()
	return b.m.pins > 0
}

// growCapacity makes the capacity at least n bytes, and doubles it, if mem has as many.
// It is less than len(mem) for a Buffer that has asked for less than a unit and
// got idle memory: AvailableBuffer makes as much Go memory as there is capacity.
func (m *mapping) growCapacity(n int) bool {
	have := len(m.mem)
	if n > have {
		return false
	}
	m.setCapacity(max(2*int(m.capacity.Load()), n))
	return true
}

// setCapacity makes the capacity n bytes, or more where more will be in use then.
func (m *mapping) setCapacity(n int) { m.capacity.Store(int64(min(commitRound(n), len(m.mem)))) }

// remapStorage runs f, which moves or cuts the memory of the mapping, and then makes
// buf current again. f returns how many bytes it has cut from the front. The
// mapping must not be pinned.
func (b *Buffer) remapStorage(f func(p *pages) (cut int, err error)) error {
	m := b.m
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.mem
	cut, err := f(m.pages)
	if len(was) != len(m.mem) || &was[0] != &m.mem[0] {
		m.gen.Add(1)
		m.capacity.Store(int64(len(m.mem)))
	}
	b.setMapping(m, b.off-cut, len(b.buf)-cut)
	return err
}

// discardConsumed returns the memory of a consumed prefix to the kernel, but not its
// addresses, so that a queue takes as much memory as its contents.
func (b *Buffer) discardConsumed() {
	m, n := b.m, b.consumed()
	if m == nil || n == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pins > 0 {
		return
	}
	m.discardFront(n, pageFloor(b.Len()/4)+2*recycleMin*pageUnit())
	b.gen = m.gen.Add(1) // a copy may not have consumed that yet
	runtime.KeepAlive(m)
}

// prefault tells the page layer that buf[i:] is about to be written, where that
// is worth its while.
func (b *Buffer) prefault(i int) {
	if len(b.buf)-i >= prefaultMin && b.m != nil {
		b.prefaultMapping(i)
	}
}

//go:noinline
func (b *Buffer) prefaultMapping(i int) {
	b.m.prefault(i, len(b.buf))
	runtime.KeepAlive(b)
}

// readInto has r read into buf[i:j] or less, where i is the end of the contents,
// and appends what it read. r may use the Buffer meanwhile.
func (b *Buffer) readInto(r io.Reader, i, j int) (n int, err error) {
	if m := b.m; m != nil {
		j = b.pinClean(i, j)
		defer m.unpin()
	}
	p := b.buf[i:j:j]
	n, err = r.Read(p)
	if n < 0 {
		panic(errNegativeRead)
	}
	q := p[:n] // a count beyond len(p) panics as any slice would
	b.refresh()
	if i < cap(b.buf) && &b.buf[:i+1][i] == &p[0] {
		b.setEnd(i + n) // whatever r has done to the contents, as in bytes.Buffer
		return n, err
	}
	// r has looked at the contents, or made them grow: they are elsewhere now.
	if e := b.growAndCommit(n); e != nil {
		panic(e)
	}
	end := len(b.buf)
	b.setEnd(end + n)
	b.put(end, q)
	return n, err
}

// scrubStep is by how much memory is cleared before a Reader fills it: it is
// still in the cache then.
const scrubStep = 256 * kiB

// writeOut has w write the contents, and consumes what it wrote. w may use the
// Buffer meanwhile.
func (b *Buffer) writeOut(w io.Writer) (n int, err error) {
	p := b.buf[b.off:len(b.buf):len(b.buf)]
	if m := b.m; m != nil {
		m.pin()
		defer m.unpin()
	}
	n, err = w.Write(p)
	if n < 0 || n > len(p) {
		panic(panicWriteTo)
	}
	b.refresh()
	b.off = min(b.off+n, len(b.buf)) // w may have consumed contents, or closed the Buffer
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return n, err
}

// The following only look, so they may run at once, with each other and in the
// middle of readInto and writeOut.

// withContents calls f with the contents. f must not keep them.
func (b *Buffer) withContents(f func(contents []byte)) {
	m := b.m
	if m == nil {
		f(b.buf[b.off:])
		return
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if b.current() {
		f(b.buf[b.off:])
	} else {
		p := m.publishedFor(b)
		f(p.mem[b.off-p.lo : len(b.buf)-p.lo])
	}
	runtime.KeepAlive(m)
}

// lend has w write the contents from the off-th byte on, and returns how many
// there are, and what w returned. w may use the Buffer meanwhile.
func (b *Buffer) lend(w io.Writer, off int) (of, n int, err error) {
	if m := b.m; m != nil {
		m.pin()
		defer m.unpin()
	}
	var p []byte
	b.withContents(func(contents []byte) { p = contents[off:len(contents):len(contents)] })
	n, err = w.Write(p)
	return len(p), n, err
}
