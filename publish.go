package mmapbuf

import (
	"fmt"
	"io"
	"runtime"
	"sync"
)

// A view is Go memory, which lives for as long as somebody holds it. So the first
// view of a mapping moves the contents to the Go heap: their pages, where there
// are many, or a copy. This is called publishing; see page.go for how pages are
// moved. Like storage.go, this file uses the memory of a mapping.

// view returns the contents as Go memory, with up to spare bytes of spare
// capacity. The first view of a mapping publishes it. An error is for want of
// memory, and changes nothing.
func (b *Buffer) view(spare int) ([]byte, error) {
	m := b.m
	if m == nil {
		return b.buf[b.off:], nil
	}
	if b.current() {
		if err := m.publish(b, spare); err != nil {
			return nil, err
		}
	}
	p := m.publishedFor(b)
	return p.mem[b.off-p.lo : len(b.buf)-p.lo], nil
}

// published returns the contents as Go memory, or panics.
//
//go:noinline
func (b *Buffer) mustView() []byte {
	p, err := b.view(b.viewSpare())
	if err != nil {
		panic(err)
	}
	return p
}

// viewSpare returns how much spare capacity a view has that nobody has asked for:
// enough that writes between views do not copy the contents each time. It has to
// be cleared, and counts as heap.
func (b *Buffer) viewSpare() int { return b.Len() / 4 }

// peek is Peek for a mapping.
func (b *Buffer) peek(n int) (p []byte, err error) {
	if n > b.Len() {
		n, err = b.Len(), io.EOF
	}
	return b.viewOf(n), err
}

// viewOf returns the first n bytes of the contents. Where memory is lacking for
// a view of everything, they are a copy.
func (b *Buffer) viewOf(n int) []byte {
	p, err := b.view(b.viewSpare())
	if err == nil {
		return p[:n]
	}
	if n > smallView && probeHeap(n) != nil {
		panic(err)
	}
	b.withContents(func(contents []byte) { p = append(p, contents[:n]...) })
	return p
}

// smallView is a number of bytes that the Go heap is taken to have.
const smallView = 64 << 10

// spare returns the spare capacity, all of it, as Go memory.
func (b *Buffer) spare() []byte {
	n := b.Available()
	if p, err := b.view(n); err == nil && cap(p)-len(p) >= n {
		return p[len(p) : len(p) : len(p)+n]
	}
	// A view with less has been published, or memory is lacking for more. What
	// is appended to this is copied by the next write.
	if err := probeHeap(n); err != nil {
		panic(&memoryError{"publish " + sizeString(n), err})
	}
	return make([]byte, 0, n)
}

// publish moves the contents of b, and up to spare bytes of spare capacity,
// from m to Go memory. A view lives as long as somebody holds it, so its memory
// must be the collector's.
func (m *mapping) publish(b *Buffer, spare int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !b.current() {
		return nil // another view was first
	}
	lo := b.consumed()
	end := len(b.buf)
	if end-lo >= largeView {
		largeViews.Lock()
		defer largeViews.Unlock()
	}
	least, hi := end, end+min(spare, len(m.mem)-end)
	if hi-lo > copiedView { // what is moved are pages
		least, _ = pageRound(least)
		hi, _ = pageRound(hi)
	}
	err := probeHeap(hi - lo)
	if err != nil && least < hi {
		hi = least
		err = probeHeap(hi - lo)
	}
	if err != nil {
		// What has never been used of the mapping may be what is missing.
		if used, _ := pageRound(m.committed); used < len(m.mem) && m.cutBack(used) == nil {
			m.capacity.Store(int64(used))
			err = probeHeap(hi - lo)
		}
	}
	if err != nil {
		return &memoryError{fmt.Sprintf("publish %s", sizeString(hi-lo)), err}
	}
	if err := m.publishRange(b.gen, lo, end, hi); err != nil {
		return &memoryError{fmt.Sprintf("publish %s", sizeString(hi-lo)), err}
	}
	stats.publishes.Add(1)
	stats.publishedBytes.Add(int64(hi - lo))
	runtime.KeepAlive(m)
	return nil
}

// largeViews is held while a large view is published: the memory that one has
// found free is not to be had by another.
var largeViews sync.Mutex

const largeView = 32 << 20

// copiedView is up to how many bytes a view is copied rather than moved. The
// mapping is idle memory then, warm for the next Buffer.
const copiedView = 4 * miB

// publishRange publishes mem[lo:hi], of which mem[end:] need not be kept.
func (m *mapping) publishRange(gen uint32, lo, end, hi int) error {
	var p []byte
	// To move little takes longer than to copy it, and what is pinned must stay.
	if hi-lo > copiedView && m.pins == 0 {
		m.scrub(end, hi)
		if p = m.moveToHeap(lo, hi); p == nil {
			// The object that it was to go to is not collected yet: the copy
			// needs another.
			if err := probeHeap(hi - lo); err != nil {
				return err
			}
			countCopy(end - lo)
		}
	}
	if p == nil {
		p = heapCopy(m.mem[lo:end], hi-lo)
		_ = m.drop()
	}
	// A copy of the Buffer that has more contents cannot go on: they may be
	// lost beyond end.
	m.pub.Store(&published{p[:end-lo], lo, gen})
	m.gen.Add(1)
	return nil
}
