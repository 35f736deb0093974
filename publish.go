package mmapbuf

import (
	"io"
	"runtime"
	"sync"
)

// Views are Go memory, so that they stay valid while they are referenced. The
// first view of a mapping publishes it: it moves the pages of the contents to
// the Go heap, or copies the contents if they are small. See "Publishing" in
// DESIGN.md. Like storage.go, this file uses the memory of mappings.

// view returns the contents as Go memory. If it is the first view of a mapping,
// it publishes the mapping, and the slice has spare bytes of spare capacity, or
// none if there is not enough memory for that. If there is not enough memory for
// the contents, view returns an error and changes nothing.
func (b *Buffer) view(spare int) ([]byte, error) {
	m := b.m
	if m == nil {
		return b.buf.slice()[b.off:], nil
	}
	if b.current() {
		err := m.publish(b, spare)
		if err != nil && spare > 0 {
			err = m.publish(b, 0)
		}
		if err != nil {
			return nil, newMemoryError("publish "+sizeString(b.Len()), err)
		}
	}
	p := m.publishedFor(b.gen, b.off, b.buf.len)
	if p == nil {
		return nil, errStale
	}
	return p.mem[b.off-p.lo : b.buf.len-p.lo], nil
}

// mustView is view with viewSpare bytes of spare capacity. It panics on error.
//
//go:noinline
func (b *Buffer) mustView() []byte {
	p, err := b.view(b.viewSpare())
	if err != nil {
		panicFor(err)
	}
	return p
}

// viewSpare returns the spare capacity of a view for which none was requested.
// Programs use it, after Grow and otherwise, so it is all that there is, but for
// reservations that are far larger than the contents: it counts as heap.
func (b *Buffer) viewSpare() int { return min(b.Available(), max(b.Len(), spareMax)) }

// spareMax is the spare capacity, in bytes, that a view has of any reservation.
const spareMax = 64 * miB

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
	p, err := b.view(b.viewSpare())
	if err == nil {
		return p[:n]
	}
	if n > smallView && probeHeap(n) != nil {
		panicFor(err)
	}
	b.withContents(func(contents []byte) { p = append(p, contents[:n]...) })
	return p
}

// smallView is the size, in bytes, up to which a view is allocated without a
// probe of the heap.
const smallView = 64 << 10

// spare returns all of the spare capacity as Go memory.
func (b *Buffer) spare() []byte {
	m, n := b.m, b.Available()
	if m.publish(b, n) == nil {
		p := m.publishedFor(b.gen, b.off, b.buf.len)
		if p == nil {
			panic(errStale)
		}
		if k := b.buf.len - p.lo; cap(p.mem)-k >= n {
			return p.mem[k : k : k+n]
		}
	}
	// A view with less spare capacity was published before, or there is not
	// enough memory to publish all of it. Write copies from this slice.
	if err := probeHeap(n); err != nil {
		panicFor(newMemoryError("allocate "+sizeString(n), err))
	}
	return make([]byte, 0, n)
}

// publish moves or copies the contents of b, and spare bytes of spare capacity,
// from m to Go memory, unless that was done meanwhile. The error is that of a
// system call; nothing has changed then, except that spare capacity may have
// been released if spare is 0.
func (m *mapping) publish(b *Buffer, spare int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !b.current() {
		return nil
	}
	lo := b.consumed()
	end := b.buf.len
	if end-lo >= largeView {
		largeViews.Lock()
		defer largeViews.Unlock()
	}
	hi := end + min(spare, len(m.mem)-end)
	if hi-lo > copiedView { // whole pages are moved
		hi, _ = pageRound(hi)
	}
	err := probeHeap(hi - lo)
	if err != nil && spare == 0 {
		// Cutting the uncommitted end of the mapping may help.
		if end, _ := pageRound(m.committed); end < len(m.mem) && m.cutBack(end) == nil {
			m.capacity.Store(int64(end))
			err = probeHeap(hi - lo)
		}
	}
	if err == nil {
		err = m.publishRange(b.gen, lo, end, hi)
	}
	if err != nil {
		return err
	}
	stats.publishes.Add(1)
	stats.publishedBytes.Add(int64(hi - lo))
	runtime.KeepAlive(m)
	return nil
}

// largeViews is held while a large view is published, so that two goroutines do
// not both count on the same free memory.
var largeViews sync.Mutex

const largeView = 32 << 20

// copiedView is the size, in bytes and including spare capacity, up to which
// contents are copied for a view and not moved. The mapping then becomes idle
// memory. Only tests change it.
var copiedView = 4 * miB

// publishRange publishes mem[lo:hi], of which mem[end:hi] is spare capacity,
// for Buffers of generation gen. If hi-lo exceeds copiedView, lo and hi are
// multiples of pageUnit. The caller holds mu and has probed the heap. On error,
// no contents have changed.
func (m *mapping) publishRange(gen uint32, lo, end, hi int) error {
	var p []byte
	if hi-lo > copiedView {
		from, to := max(end, m.cleared), min(hi, m.dirty)
		p = m.moveToHeap(lo, hi)
		switch {
		case p == nil:
			// The object allocated for the move is not released, and
			// the copy needs another one.
			if err := probeHeap(hi - lo); err != nil {
				return err
			}
			countCopy(end - lo)
		case from < to: // not sooner: a copy of b may have contents there
			zero(p, from-lo, to-lo)
		}
	}
	if p == nil {
		p = heapCopy(m.mem[lo:end], hi-lo)
		_ = m.drop()
	}
	// A copy of the Buffer with contents beyond end becomes stale, because
	// they may be lost.
	m.pub.Store(&published{p[:end-lo], lo, gen})
	m.gen.Add(1)
	return nil
}
