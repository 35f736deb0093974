package mmapbuf

import (
	"math"
	"os"
	"sync"
)

// The page layer: mappings for grow.go. page_linux.go has it on mmap(2),
// mremap(2) and madvise(2); page_other.go is for everybody else and has none,
// so that a Buffer there lives on Go slices.
//
//	canMap() bool, canRemap() bool
//		report whether mappings can be had, and moved. They turn false
//		for good when the system refuses mmap(2) or mremap(2) as such;
//		canMap is also false while the process has too many mappings.
//	mapPages(n int, huge bool) (*pages, error)
//		maps n bytes that read as zero, with huge pages, if they are of
//		a sensible size, or without.
//	(*pages).grow(n int) error
//		makes the mapping n bytes long; the new ones read as zero. It
//		may move it, even if it fails.
//	(*pages).dropFront(k int) error, (*pages).dropBack(k int) error
//		unmap mem[:k] or mem[k:].
//	(*pages).clear(lo, hi int) error
//		gives the memory of mem[lo:hi] back. Its addresses stay, and
//		read as zero.
//	(*pages).touch(lo, hi int) error
//		gets memory for mem[lo:hi] at once, as writing there would bit by
//		bit. The kernel may not know how.
//	(*pages).unmap() error
//		unmaps it all; does nothing the second time.
//	probeHeap(n int) error
//		tells whether n bytes more of Go heap can be had, for if not,
//		the runtime dies of it.
//	(*pages).publish(lo, end, hi int) ([]byte, error)
//		turns mem[lo:hi] into Go memory, see below; what is behind
//		mem[end] need not be kept, but is nobody else's. The mapping is
//		then gone. An error is that of probeHeap, and changes nothing.
//	noescape(b *Buffer) *Buffer
//		is b, but hidden from escape analysis.
//
// Whatever fails leaves the bytes of mem as they were. All sizes and offsets
// are multiples of pageUnit, except end, and those of touch, which are of pages.
//
// # Publishing
//
// A view of a Buffer must live as long as somebody holds it, so its memory
// must be the collector's. publish allocates a pointer-free object of the
// heap, large enough to have a span of its own, writes nothing to it, and has
// mremap(2) put the pages of the mapping in the place of the object's own.
// Nothing is copied, and what was a mapping is an ordinary slice. When the
// collector finds the object unreachable, a finalizer, which runs before the
// memory can be used again, puts fresh pages in their place: the old ones go
// back to the system, and the heap is as before.
//
// That relies on three things: large objects do not move; the collector
// neither reads nor writes pointer-free objects while they are reachable; and
// the runtime does not care which pages back its addresses. It does not rely
// on layouts, on linknames or on how the heap is organised. Where mremap(2)
// does not do it, and where there is too little to be worth it, publish copies.
type pages struct {
	mem   []byte // the whole mapping, nil if there is none
	fresh int    // populate has done mem[:fresh]; beyond len(mem) where it does not pay
}

const (
	kiB = 1 << 10
	miB = 1 << 20
	giB = 1 << 30
)

// pageUnit returns the number of bytes that mappings are multiples of and
// aligned to: the huge page where that is of a sensible size, so that the
// kernel can fill, move and unmap whole ones. Only tests replace it.
var pageUnit = sync.OnceValue(systemPageUnit)

// chooseUnit returns the unit for a system with pages of page bytes and huge
// pages of huge bytes, 0 if it has none, and whether to ask for huge pages.
// Huge pages beyond 4 MiB (32 MiB and 512 MiB are the sizes on arm64 with
// larger pages) would waste more memory than the contents take up.
func chooseUnit(page, huge int) (unit int, advise bool) {
	if page <= huge && huge <= 4*miB {
		return huge, true
	}
	return max(page, 2*miB), false
}

// alignment returns what the address of a mapping of n bytes should be a
// multiple of. Page tables move 1 GiB at a time when they can.
func alignment(n int) int {
	if n >= giB {
		return giB
	}
	return pageUnit()
}

// pageFloor rounds n down to a multiple of pageUnit.
func pageFloor(n int) int { return n &^ (pageUnit() - 1) }

// pageRound rounds n up to a multiple of pageUnit; 0 becomes one unit. It
// reports false if no int can hold that.
func pageRound(n int) (int, bool) {
	u := pageUnit()
	r := max(n+u-1, u) &^ (u - 1)
	return r, n >= 0 && r >= n
}

// populate is told that mem[lo:hi] is about to be written. Where pages are small
// it gets memory for all that are new, which takes less than a fault for each.
func (p *pages) populate(lo, hi int) {
	if hi <= p.fresh {
		return
	}
	page := os.Getpagesize()
	lo = (max(lo, p.fresh) + page - 1) &^ (page - 1) // what is before lo in its page has been written
	hi = (hi + page - 1) &^ (page - 1)
	p.fresh = hi
	if lo < hi && p.touch(lo, hi) != nil {
		p.fresh = math.MaxInt // kernels before 5.14 do not know how
	}
}
