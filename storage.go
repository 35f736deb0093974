package mmapbuf

import (
	"bytes"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"unicode/utf8"
	"unsafe"
)

// The storage of a Buffer is buf: Go memory, or the memory of a mapping. Only
// this file and publish.go read or write it. Other files use only len(buf) and
// cap(buf), as TestOnlyStorageTouchesMemory checks. The functions below keep
// the mapping reachable while they use its memory.

// A region is a []byte that package reflect does not follow. Programs print structs
// that have a Buffer as a field, or compare them with reflect.DeepEqual; if buf were
// a slice, that would read its memory, which may be a mapping that was moved or
// released since.
type region struct {
	start    unsafe.Pointer
	len, cap int
}

// slice returns the region as a slice. A region has the memory layout of a slice,
// as TestRegionIsASlice checks.
func (r *region) slice() []byte { return *(*[]byte)(unsafe.Pointer(r)) }

func (r *region) set(p []byte) { *(*[]byte)(unsafe.Pointer(r)) = p }

// A mapping is memory outside of the Go heap that Buffers own.
//
// Usually one Buffer refers to it; copying the Buffer makes two. The generation
// of a mapping changes whenever its memory moves or loses contents, and a
// Buffer remembers the generation that its buf belongs to. If the two differ,
// either the memory was published, and the Buffer adopts what was published, or
// a copy of the Buffer has moved it, and the Buffer is stale.
type mapping struct {
	*pages
	gen      atomic.Uint32             // starts at 1
	capacity atomic.Int64              // of the Buffer: len(mem), or less; see growCapacity
	pub      atomic.Pointer[published] // replaces mem, once it is published
}

// published is the Go memory to which mem[lo:] of a mapping was moved or copied
// when its generation was gen. It is immutable.
type published struct {
	mem []byte
	lo  int
	gen uint32
}

// errStale is the error of ReadAt and WriteAt, and the value with which other
// methods panic, if the storage was moved or released through another copy of
// the Buffer, or by a goroutine that used the Buffer at the same time.
var errStale = errors.New("mmapbuf: the storage of the Buffer was moved or released by another goroutine, or through a copy of the Buffer")

// newMapping returns a mapping of n bytes, a multiple of pageUnit, from idle
// memory if there is any. huge requests huge pages.
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
	// If m is unreachable, no slice of its memory is in use: views are
	// slices of published memory.
	runtime.AddCleanup(m, (*pages).freeUnreachable, p)
	track(p, m)
	return m
}

// current reports whether buf refers to the contents. Callers must ensure this
// before they access buf; see refresh.
func (b *Buffer) current() bool { return b.m == nil || b.m.gen.Load() == b.gen }

// refresh makes buf current. Each method that modifies the Buffer begins with
// refresh, or as adopt says. It panics if b is stale.
func (b *Buffer) refresh() {
	if b.m != nil && b.m.gen.Load() != b.gen { // !b.current(), written out to be inlined
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
// instead of refresh, because its arguments can stay in registers then.
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
	p := b.m.publishedFor(b.gen, b.off, b.buf.len)
	if p == nil {
		return errStale
	}
	b.setSlice(p.mem[:b.buf.len-p.lo], b.off-p.lo)
	return nil
}

// publishedFor returns the memory to which generation gen of m was published,
// if it has mem[off:end]; otherwise the Buffer is stale, and it returns nil.
func (m *mapping) publishedFor(gen uint32, off, end int) *published {
	p := m.pub.Load()
	if p == nil || p.gen != gen || off < p.lo || end-p.lo > len(p.mem) {
		return nil
	}
	return p
}

// setSlice makes p, which is Go memory, the storage, with the contents at
// p[off:]. The caller holds the lock of ReadAt if the storage was a mapping.
func (b *Buffer) setSlice(p []byte, off int) {
	b.buf.set(p)
	b.off, b.m, b.gen = off, nil, 0
}

// setMapping makes m the storage, with the contents at m.mem[off:end]. The
// caller holds m.mu and the lock of ReadAt.
func (b *Buffer) setMapping(m *mapping, off, end int) {
	b.buf.set(m.mem[:end:m.cleared])
	b.off = off
	b.m, b.gen = m, m.gen.Load() // last: with a current generation, buf is in use
	runtime.KeepAlive(m)
}

// setEnd makes the contents end at offset n, at most cap(buf).
func (b *Buffer) setEnd(n int) { b.buf.len = n }

// The following methods require that buf is current.

// rewind empties the Buffer and keeps its storage.
func (b *Buffer) rewind() {
	if b.m != nil {
		b.rewindMapping()
	}
	b.buf.len, b.off, b.lastRead = 0, 0, opInvalid
}

// shorten makes the contents end at buf[n].
func (b *Buffer) shorten(n int) {
	b.setEnd(n)
	if b.m != nil && b.m.sparse.Load() {
		b.uncommitHoles()
	}
}

// uncommitHoles uncommits what is beyond the contents, if there are holes.
func (b *Buffer) uncommitHoles() {
	m, n := b.m, b.buf.len
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shorten(n) {
		b.gen = m.gen.Add(1) // a copy may have contents there
		b.buf.set(m.mem[:n:m.cleared])
	}
	runtime.KeepAlive(m)
}

// rewindMapping is the part of rewind for a mapping.
//
//go:noinline
func (b *Buffer) rewindMapping() { b.shorten(0) }

// appendSlow appends p, for which there is room within Cap. A method whose bytes
// fit into buf calls append, which is inlined.
func appendSlow[T []byte | string](b *Buffer, p T) {
	i, m := b.buf.len, b.m
	if len(p) <= b.buf.cap-i {
		copy(b.buf.slice()[i:i+len(p)], p)
		b.setEnd(i + len(p))
		runtime.KeepAlive(b)
		return
	}
	m.makeCommitted(i + len(p))
	m.mu.RLock()
	defer m.mu.RUnlock() // the copy may panic, see append
	end := i + m.write(i, i+len(p), func(mem []byte) int { return copy(mem, p) })
	b.buf.set(m.mem[:end:m.cleared])
	runtime.KeepAlive(m)
}

// makeCommitted is commit for an owner who does not hold mu.
func (m *mapping) makeCommitted(n int) {
	if m.committedTo() < n {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.commit(n)
	}
}

// append appends p, for which there is room. The contents become longer only
// after the copy, which panics if p is memory that faults (debug.SetPanicOnFault).
func (b *Buffer) append(p []byte) {
	i := b.buf.len
	copy(b.buf.slice()[i:i+len(p)], p)
	b.setEnd(i + len(p))
	runtime.KeepAlive(b)
}

// appendString is append for a string.
func (b *Buffer) appendString(s string) {
	i := b.buf.len
	copy(b.buf.slice()[i:i+len(s)], s)
	b.setEnd(i + len(s))
	runtime.KeepAlive(b)
}

// appendByte is append for a byte.
func (b *Buffer) appendByte(c byte) {
	i := b.buf.len
	b.buf.slice()[:i+1][i] = c
	b.buf.len = i + 1
	runtime.KeepAlive(b)
}

// WriteRune appends the UTF-8 encoding of r and returns the number of bytes
// written. If MaxLen leaves too little room for all of it, WriteRune writes
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
		i := b.buf.len
		b.buf.len = len(utf8.AppendRune(b.buf.slice(), r))
		runtime.KeepAlive(b)
		return b.buf.len - i, nil
	}
	var p [utf8.UTFMax]byte
	n = utf8.EncodeRune(p[:], r)
	if n > b.roomToMax() {
		return 0, b.maxLenError(n)
	}
	_, _ = b.roomFor(n)
	appendSlow(b, p[:n])
	return n, nil
}

// get copies the contents to p, up to its length, and returns the number of
// bytes copied.
func (b *Buffer) get(p []byte) int {
	n := copy(p, b.buf.slice()[b.off:])
	runtime.KeepAlive(b)
	return n
}

// at returns buf[i].
func (b *Buffer) at(i int) byte {
	c := b.buf.slice()[i]
	runtime.KeepAlive(b)
	return c
}

// unread returns the contents, which must be in Go memory.
func (b *Buffer) unread() []byte { return b.buf.slice()[b.off:] }

// rune decodes the first rune of the contents, which must not be empty.
func (b *Buffer) rune() (r rune, size int) {
	r, size = rune(b.buf.slice()[b.off]), 1
	if r >= utf8.RuneSelf {
		r, size = utf8.DecodeRune(b.buf.slice()[b.off:])
	}
	runtime.KeepAlive(b)
	return r, size
}

// find makes buf current. It returns the number of bytes up to and including
// the first delim, or Len and io.EOF if there is none.
func (b *Buffer) find(delim byte) (n int, err error) {
	b.refresh()
	i := bytes.IndexByte(b.buf.slice()[b.off:], delim)
	runtime.KeepAlive(b)
	if i < 0 {
		return b.Len(), io.EOF
	}
	return i + 1, nil
}

// clone returns a copy of the first n bytes of the contents.
func (b *Buffer) clone(n int) []byte {
	p := append([]byte(nil), b.buf.slice()[b.off:b.off+n]...)
	runtime.KeepAlive(b)
	return p
}

// cloneString is like clone but returns a string.
func (b *Buffer) cloneString(n int) string {
	s := string(b.buf.slice()[b.off : b.off+n])
	runtime.KeepAlive(b)
	return s
}

// slide moves the contents to the start of the storage.
func (b *Buffer) slide() {
	n := b.Len()
	if m := b.m; m != nil && m.sparse.Load() {
		m.mu.RLock()
		m.willWrite(0, n)
		m.mu.RUnlock()
	}
	copy(b.buf.slice(), b.buf.slice()[b.off:])
	b.off = 0
	b.shorten(n)
	runtime.KeepAlive(b)
}

// extend makes the contents end at buf[end], at most Cap, and zeroes the new
// bytes before offset i. The others, buf[i:end], will be p. As p may be a slice
// of the bytes that are zeroed (see AvailableBuffer), extend copies it before,
// and reports that; otherwise the caller does it. Whole pages of a mapping are
// zeroed by returning them to the kernel, so that they use no memory until they
// are written.
func extend[T []byte | string](b *Buffer, i, end int, p T) (written bool) {
	old := b.buf.len
	if b.m == nil {
		if written = old < i; written {
			buf := b.buf.slice()[:end]
			copy(buf[i:], p)
			clear(buf[old:i])
		}
		b.setEnd(end)
		return written
	}
	m := b.m
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commitGap(old, max(i, old), end)
	b.buf.set(m.mem[:end:m.cleared])
	runtime.KeepAlive(m)
	return false
}

// copyTo copies the contents to p, which is new Go memory, and makes it the
// storage.
func (b *Buffer) copyTo(p []byte) {
	n := b.get(p)
	m, gen := b.m, b.gen
	b.setSlice(p[:n], 0)
	if m != nil {
		_ = m.release(gen) // if munmap(2) fails, the memory stays mapped, but unused
	}
}

// copyToMapping is like copyTo for a new mapping.
func (b *Buffer) copyToMapping(m *mapping) {
	m.mu.Lock() // so that freeExcess does not discard what is not committed yet
	defer m.mu.Unlock()
	m.commit(b.Len())
	end := m.write(0, b.Len(), b.get)
	old, gen := b.m, b.gen
	b.setMapping(m, 0, end)
	if old != nil {
		_ = old.release(gen)
	}
}

// release frees the memory of m, if gen is its generation still. The error is
// that of munmap(2).
func (m *mapping) release(gen uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gen.Load() != gen {
		return nil
	}
	m.gen.Add(1)
	return m.drop()
}

// drop frees mem. The caller holds mu.
func (m *mapping) drop() error {
	// Keep the cleanup of m from running during free: of two munmap(2)
	// calls, the second could hit memory that was mapped there in between.
	err := m.free()
	runtime.KeepAlive(m)
	return err
}

// growCapacity makes the capacity at least n bytes, and at least doubles it, up
// to len(mem). It reports false, and does nothing, if mem is shorter than n.
//
// The capacity is less than len(mem) if a Buffer asked for less than a unit and
// got idle memory. It is limited then because AvailableBuffer allocates Go
// memory for all of the capacity.
func (m *mapping) growCapacity(n int) bool {
	have := len(m.mem)
	if n > have {
		return false
	}
	m.setCapacity(max(2*int(m.capacity.Load()), n))
	return true
}

// setCapacity makes the capacity n bytes, rounded up.
func (m *mapping) setCapacity(n int) { m.capacity.Store(int64(min(coarse(n), len(m.mem)))) }

// remapStorage calls f, which moves or cuts the memory of the mapping, and then
// makes buf current again, even if f fails. f returns the number of bytes that
// it has cut from the front.
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
	b.setMapping(m, b.off-cut, b.buf.len-cut)
	return err
}

// unmapConsumed unmaps the consumed prefix but for a part that recycle may need.
func (b *Buffer) unmapConsumed() {
	k := b.consumed() - pageCeil(b.Len()/4) - discardStep
	if b.m == nil || k < discardStep {
		return
	}
	mu := b.atLock()
	mu.Lock()
	defer mu.Unlock()
	_ = b.remapStorage(func(p *pages) (int, error) {
		if k = pageFloor(k); p.cutFront(k) != nil {
			k = 0 // it stays
		}
		return k, nil
	})
}

// readSlice calls r.Read with the spare capacity of buf, which is Go memory, up
// to most bytes, and appends the bytes read. r may use the Buffer.
func (b *Buffer) readSlice(r io.Reader, most int) (n int, err error) {
	i := b.buf.len
	j := i + min(b.buf.cap-i, most)
	p := b.buf.slice()[i:j:j]
	n, err = r.Read(p)
	if n < 0 {
		panic(errNegativeRead)
	}
	p = p[:n] // a count beyond len(p) panics as any slice would
	b.refresh()
	if b.m == nil && i < b.buf.cap && &b.buf.slice()[:i+1][i] == &p[:1][0] {
		b.setEnd(i + n) // even if r has changed the contents, as in bytes.Buffer
		b.off = min(b.off, b.buf.len)
		return n, err
	}
	b.mustAppend(p) // r has made the contents grow, which moved them
	return n, err
}

// readFile is readSlice for a mapping, to whose memory the kernel reads. There
// must be room for most bytes.
func (b *Buffer) readFile(f *os.File, most int) (n int, err error) {
	i, m := b.buf.len, b.m
	m.makeCommitted(i + most)
	m.mu.RLock() // so that the memory stays, whatever others do
	defer m.mu.RUnlock()
	if !b.current() {
		panic(errStale)
	}
	n = m.write(i, i+most, func(mem []byte) (k int) {
		k, err = f.Read(mem)
		return k
	})
	b.buf.set(m.mem[: i+n : m.cleared])
	runtime.KeepAlive(m)
	return n, err
}

// put copies p to the contents at offset off.
func put[T []byte | string](b *Buffer, off int, p T) {
	i := b.off + off
	if m := b.m; m != nil && m.sparse.Load() {
		m.mu.RLock()
		filled := m.willWrite(i, i+len(p))
		m.mu.RUnlock()
		if filled {
			defer pace(m)
		}
	}
	copy(b.buf.slice()[i:], p)
	runtime.KeepAlive(b)
}

// The following methods do not modify the Buffer. They may run concurrently
// with each other.

// withContents calls f with the contents. f must not retain them.
func (b *Buffer) withContents(f func(contents []byte)) {
	m := b.m
	if m == nil {
		f(b.buf.slice()[b.off:])
		return
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	if b.current() {
		f(b.buf.slice()[b.off:])
	} else {
		p := m.publishedFor(b.gen, b.off, b.buf.len)
		if p == nil {
			panic(errStale)
		}
		f(p.mem[b.off-p.lo : b.buf.len-p.lo])
	}
	runtime.KeepAlive(m)
}

// writeOut writes the contents from offset off on to w, in one call if possible.
// It returns how many they are and the results of w, of which the count may be
// invalid, or errStale. If direct is set, there is a mapping, and w may access it.
// Otherwise w may modify the Buffer that b is a copy of.
func (b *Buffer) writeOut(w io.Writer, off int, direct bool) (total, n int, err error) {
	total = b.Len() - off
	for ok := direct; ok && n < total; {
		var k, took int
		if k, took, err, ok = b.writeDirect(w, off+n); !ok {
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
	p, err := b.view(0)
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

// directMax is the number of bytes, at most, that are written to w while the lock
// of the mapping is held.
const directMax = 4 * miB

// writeDirect writes contents from offset off on to w, and returns how many, and
// the results of w. It reports false, and does nothing, if buf is not current.
func (b *Buffer) writeDirect(w io.Writer, off int) (k, n int, err error, ok bool) {
	m := b.m
	m.mu.RLock() // so that the memory stays, whatever others do
	defer m.mu.RUnlock()
	if !b.current() {
		return 0, 0, nil, false
	}
	p := b.buf.slice()[b.off+off:]
	p = p[:min(len(p), directMax):min(len(p), directMax)]
	n, err = w.Write(p)
	runtime.KeepAlive(m)
	return len(p), n, err, true
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
	m, buf, start, end := b.m, b.buf.slice(), b.off, b.buf.len
	if m != nil {
		m.mu.RLock()
		defer m.mu.RUnlock()
		if m.gen.Load() == b.gen {
			buf = m.mem[:m.committed]
		} else if pub := m.publishedFor(b.gen, start, end); pub != nil {
			buf, start, end = pub.mem, start-pub.lo, end-pub.lo
		} else {
			return 0, errStale
		}
	}
	end = min(end, len(buf))
	if off >= int64(end-start) {
		return 0, io.EOF
	}
	if n = copy(p, buf[start+int(off):end]); n < len(p) {
		err = io.EOF
	}
	runtime.KeepAlive(m)
	return n, err
}

// overwriteAt copies p over the contents at offset off. It reports false, and
// does nothing, if the contents end before off+len(p) or were published. mu is
// the lock of ReadAt.
func overwriteAt[T []byte | string](b *Buffer, mu *sync.RWMutex, p T, off int) bool {
	m, filled, done := overwriteHolding(b, mu, p, off)
	if filled {
		pace(m) // after releasing the locks, because it may wait
	}
	return done
}

// overwriteHolding is overwriteAt without pacing. It also returns the mapping and
// whether holes were filled.
func overwriteHolding[T []byte | string](b *Buffer, mu *sync.RWMutex, p T, off int) (m *mapping, filled, done bool) {
	mu.RLock()
	defer mu.RUnlock()
	m = b.m
	buf, start, end := b.buf.slice(), b.off, b.buf.len
	if m != nil {
		m.mu.RLock()
		defer m.mu.RUnlock()
		if m.gen.Load() != b.gen {
			return m, false, false
		}
		buf = m.mem[:m.committed]
	}
	if min(end, len(buf))-start < off+len(p) {
		return m, false, false
	}
	i := start + off
	if m != nil {
		filled = m.willWrite(i, i+len(p))
	}
	copy(buf[i:], p)
	runtime.KeepAlive(m)
	return m, filled, true
}
