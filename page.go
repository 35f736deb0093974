package mmapbuf

import (
	"math"
	"os"
	"sync"
	"sync/atomic"
)

// The page layer: memory outside of the Go heap for storage.go and grow.go.
// page_linux.go has it on mmap(2), mremap(2) and madvise(2). page_other.go is
// for everybody else and has none, so that a Buffer there uses Go slices.
//
// Whatever fails leaves the bytes of mem as they were. All sizes and offsets
// are multiples of pageUnit, except where a function says otherwise.
//
// # Publishing
//
// moveToHeap makes pages of a mapping part of the Go heap. It allocates a
// pointer-free object, large enough to have a span of its own, writes nothing
// to it, and has mremap(2) put the pages of the mapping in the place of the
// object's own. Nothing is copied, and what was a mapping is an ordinary slice.
// The pages stay when the collector frees the object: they are private and
// anonymous as all of the heap, and the runtime reuses them, or returns them to
// the kernel, as it does with the memory of any object.
//
// That relies on three things: large objects do not move; the collector
// neither reads nor writes pointer-free objects while they are reachable; and
// the runtime does not care which pages back its addresses. It does not rely
// on layouts, on linknames or on how the heap is organised. What it costs are
// VMAs: pages that were moved do not merge with the heap around them.
type pages struct {
	mem        []byte // the whole mapping, nil if there is none
	prefaulted int    // prefault has done mem[:prefaulted]; beyond len(mem) where it does not pay

	used  int          // mem[used:] has never been written
	gone  int          // mem[:gone] has been returned to the kernel
	held  atomic.Int64 // bytes of mem that were written, as far as that is known
	holes atomic.Int64 // bytes of mem[:used] that punch has returned and nobody has written since
}

// useStep is by how many bytes more of a mapping is taken into use at a time.
// What is not in use cannot be written, which is how it is known how much may
// have been.
const useStep = 4 * miB

// use takes at least the first n bytes of mem into use, and returns how many
// are. n is any number up to len(mem).
func (p *pages) use(n int) int {
	n = max(min((n+useStep-1)&^(useStep-1), len(p.mem)), p.used)
	was := p.used
	p.used = n
	p.count(n - was)
	return n
}

// punch returns the memory of mem[lo:hi] to the kernel, and takes it into use.
// It reads as zero then.
func (p *pages) punch(lo, hi int) error {
	err := p.discard(lo, hi)
	if err == nil {
		was := p.used
		p.used = max(was, hi)
		p.holes.Add(int64(hi - lo))
		p.count(lo - min(hi, was))
	}
	return err
}

// fill is told that n bytes somewhere in mem, any number, are written.
func (p *pages) fill(n int) {
	for {
		holes := p.holes.Load()
		k := min(int64(n), holes)
		if k == 0 {
			return
		}
		if p.holes.CompareAndSwap(holes, holes-k) {
			p.count(int(k))
			return
		}
	}
}

// discardFront returns the memory of mem[:n] to the kernel.
func (p *pages) discardFront(n int) {
	if n > p.gone && p.discard(p.gone, n) == nil {
		p.count(p.gone - n)
		p.gone = n
	}
}

// reuse is told that mem is written from its start again.
func (p *pages) reuse() {
	if n := p.gone; n > 0 {
		p.gone = 0
		p.count(n)
	}
}

// dropFront unmaps mem[:k].
func (p *pages) dropFront(k int) error {
	err := p.unmapFront(k)
	if err == nil {
		p.count(min(p.gone-k, 0))
		p.gone, p.used, p.prefaulted = max(p.gone-k, 0), max(p.used-k, 0), max(p.prefaulted-k, 0)
	}
	return err
}

// dropBack unmaps mem[k:].
func (p *pages) dropBack(k int) error {
	err := p.unmapBack(k)
	if err == nil && k < p.used {
		p.count(k - p.used)
		p.used = k
	}
	return err
}

// count adds n to the bytes of mem that were written. It can be more than are
// left to add, or to subtract: a place may become a hole twice.
func (p *pages) count(n int) {
	if n == 0 {
		return
	}
	now := int(p.held.Add(int64(n)))
	if over := now - min(max(now, 0), p.used-p.gone); over != 0 {
		p.held.Add(int64(-over))
		n -= over
	}
	hold(n)
}

// collected unmaps all of mem after the collector has found that nobody needs
// it, unless that was done before.
func (p *pages) collected() {
	if p.mem != nil {
		stats.collected.Add(1)
		_ = p.unmap()
		foundGarbage()
	}
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

// prefault is told that mem[lo:hi], any range, is about to be written. Where
// pages are small it gets memory for all that are new, which takes less than a
// fault for each.
func (p *pages) prefault(lo, hi int) {
	if hi <= p.prefaulted {
		return
	}
	page := os.Getpagesize()
	lo = (max(lo, p.prefaulted) + page - 1) &^ (page - 1) // what is before lo in its page has been written
	hi = (hi + page - 1) &^ (page - 1)
	p.prefaulted = hi
	if lo < hi && p.populate(lo, hi) != nil {
		p.prefaulted = math.MaxInt // kernels before 5.14 do not know how
	}
}
