package mmapbuf

import (
	"math"
	"os"
	"slices"
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
	// mem is what the owner may use. The mapping is mem[:cap(mem)], nil if
	// there is none.
	mem        []byte
	seams      []int // offsets in mem, ascending, at which one VMA ends and the next begins
	huge       bool  // whether huge pages were asked for
	noRemap    bool  // mremap(2) has noRemap this mapping for a reason that may not go away
	prefaulted int   // prefault has done mem[:prefaulted]; beyond len(mem) where it does not pay

	// mu is held shared by methods that only look at mem, which may run at
	// once, and alone by what moves, cuts or publishes it, or takes more of it
	// into use.
	mu sync.RWMutex

	committed     int          // mem[used:] has not been written by the owner
	dirty         int          // mem[max(used, dirty):] reads as zero
	owned         int          // mem[:clean] holds nothing that the owner has not written
	discarded     int          // mem[:gone] has been returned to the kernel
	lastCommitted int          // used, when discardFront was called last
	freedFrom     int          // mem[freedFrom:], as far as it is dirty, the kernel may take; see lazyFree
	held          atomic.Int64 // bytes of mem that have memory, as far as that is known
	holes         atomic.Int64 // bytes of mem[:used] that punch has returned and nobody has written since
}

// A mapping is taken into use in steps of up to commitStep bytes, and of about as
// much as is in use where that is less. What is not in use cannot be written,
// which is how it is known how much may have been.
const (
	commitStep    = 4 * miB
	commitStepMin = 128 * kiB
)

// commit takes at least the first n bytes of mem into use, and returns how many
// are. n is any number up to len(mem).
func (p *pages) commit(n int) int {
	n = max(min(commitRound(n), len(p.mem)), p.committed)
	was := p.residentEnd()
	p.committed = n
	p.addHeld(p.residentEnd() - was)
	return n
}

// commitRound returns how many bytes to take into use for n.
func commitRound(n int) int {
	step := commitStep
	for step > commitStepMin && step/2 >= n {
		step /= 2
	}
	return (n + step - 1) &^ (step - 1)
}

// residentEnd returns up to where mem may have memory.
func (p *pages) residentEnd() int { return max(p.committed, p.dirty) }

// punch returns the memory of mem[lo:hi] to the kernel, and takes it into use.
// It reads as zero then.
func (p *pages) punch(lo, hi int) error {
	err := p.discard(lo, hi)
	if err == nil {
		was := p.residentEnd()
		p.committed = max(p.committed, hi)
		p.holes.Add(int64(hi - lo))
		p.addHeld(lo - min(hi, was))
	}
	return err
}

// noteWritten is told that n bytes somewhere in mem, any number, are written.
func (p *pages) noteWritten(n int) {
	for {
		holes := p.holes.Load()
		k := min(int64(n), holes)
		if k == 0 {
			return
		}
		if p.holes.CompareAndSwap(holes, holes-k) {
			p.addHeld(int(k))
			return
		}
	}
}

// discardFront returns the memory of mem[:n] to the kernel, or all but spare
// bytes of it if mem is written to as well: recycle can use them.
func (p *pages) discardFront(n, spare int) {
	if p.lastCommitted > 0 && p.committed > p.lastCommitted {
		n -= spare
	}
	p.lastCommitted = p.committed
	if n > p.discarded && p.discard(p.discarded, n) == nil {
		p.addHeld(p.discarded - n)
		p.discarded = n
	}
}

// noteRewound is told that mem is written from its start again, after n bytes of it
// had been written.
func (p *pages) noteRewound(n int) {
	p.owned = max(p.owned, n)
	if n := p.discarded; n > 0 {
		p.discarded = 0
		p.addHeld(n)
	}
}

// cutFront unmaps mem[:k].
func (p *pages) cutFront(k int) error {
	err := p.unmapFront(k)
	if err == nil {
		p.addHeld(min(p.discarded-k, 0))
		p.shift(k)
	}
	return err
}

// shift is told that mem begins k bytes later than it did.
func (p *pages) shift(k int) {
	for _, n := range []*int{&p.discarded, &p.lastCommitted, &p.freedFrom, &p.committed, &p.dirty, &p.owned, &p.prefaulted} {
		*n = max(*n-k, 0)
	}
	for i := range p.seams {
		p.seams[i] -= k
	}
	p.cutSeams()
}

// needsMemory reports whether mem[:n] is more than the memory that mem has, as far
// as that is known, and there is no reason not to give it more.
func (p *pages) needsMemory(n int) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return n > p.residentEnd() && !p.noRemap
}

// cutSeams removes the seams that are not within the mapping.
func (p *pages) cutSeams() {
	p.seams = slices.DeleteFunc(p.seams, func(at int) bool { return at <= 0 || at >= cap(p.mem) })
}

// maxSeams bounds how many VMAs a mapping takes.
const maxSeams = 16

// recycle makes the memory of mem[:k], whose contents nobody needs any more, the
// memory that follows what is in use. It is moved by page table. If that fails,
// mem[:k] is unmapped. It returns by how many bytes later mem begins then.
// The owner has written all of mem[:n], any number.
func (p *pages) recycle(k, n int) (cut int) {
	p.owned = max(p.owned, n)
	if p.discarded > 0 { // there is no memory
		k = min(k, p.discarded)
	} else if len(p.seams) > 0 {
		k = min(k, p.seams[0]) // mremap(2) moves what is one VMA
	}
	top := p.residentEnd()
	end, _ := pageRound(top)
	if p.discarded > 0 || len(p.seams) >= maxSeams || p.moveBehind(k, end) != nil {
		if p.cutFront(k) != nil {
			p.noRemap = true
			return 0
		}
		return k
	}
	owned := p.owned >= p.dirty // not p.used: what is in use need not have been written
	p.shift(k)
	if p.dirty = end; owned {
		p.owned = end
	}
	return k
}

// cutBack gives mem[k:] back.
func (p *pages) cutBack(k int) error {
	mem := p.mem[:cap(p.mem)]
	one := len(p.seams) == 0 || p.seams[len(p.seams)-1] <= k // VMA
	if one && p.worthKeeping() && keepIdle(mem[k:], max(p.committed-k, p.freedFrom-k, 0), max(p.residentEnd(), k)-k, p.huge, false) {
		p.setMem(mem[:k:k])
	} else if err := p.unmapBack(k); err != nil {
		return err
	}
	p.addHeld(min(k-p.residentEnd(), 0))
	p.committed, p.dirty = min(p.committed, k), min(p.dirty, k)
	p.cutSeams()
	return nil
}

// free gives all of mem back. It does nothing the second time. An error is that
// of munmap(2). For lazy see keepIdle.
func (p *pages) free(lazy bool) error {
	if p.mem == nil {
		return nil
	}
	if p.dirty > 0 {
		forgetReused(p)
	}
	if p.discarded > 0 {
		_ = p.cutFront(p.discarded)
	}
	for _, at := range slices.Backward(slices.Clone(p.seams)) {
		_ = p.cutBack(at) // idle memory is of one VMA
	}
	if p.worthKeeping() && keepIdle(p.mem[:cap(p.mem)], max(p.committed, p.freedFrom), p.residentEnd(), p.huge, lazy) {
		p.setMem(nil)
		return nil
	}
	return p.unmap()
}

// worthKeeping reports whether mem can be idle memory. It cannot with holes, for
// nobody knows then how much memory it has.
func (p *pages) worthKeeping() bool { return !p.noRemap && p.holes.Load() == 0 }

// scrub clears what earlier owners have written to mem[lo:hi], which somebody
// is about to see, and reports whether there was something. mem[:lo] was written
// by the owner, all of it. The caller holds mu.
func (p *pages) scrub(lo, hi int) bool {
	p.owned, lo, hi = max(p.owned, hi), max(lo, p.owned), min(hi, p.dirty)
	if lo >= hi {
		return false
	}
	if page := pageFloor(lo + pageUnit() - 1); hi == p.dirty && page < hi && p.discard(page, hi) == nil {
		p.addHeld(page - hi)
		hi, p.dirty = page, page
	}
	clear(p.mem[lo:hi])
	return true
}

// freeExcess returns the memory that mem had before the owner came, and that he
// has not used, to the kernel. It reports whether that is done.
func (p *pages) freeExcess() bool {
	if !p.mu.TryLock() {
		return false
	}
	defer p.mu.Unlock()
	const step = 64 * kiB // a multiple of any page
	if used := (p.committed + step - 1) &^ (step - 1); p.mem != nil && used < p.dirty {
		if p.discard(used, p.dirty) == nil { // else it is locked (mlock(2)), and stays
			p.addHeld(used - p.dirty)
			p.dirty = used
		}
	}
	return true
}

// addHeld adds n to the bytes of mem that were written. It can be more than are
// left to add, or to subtract: a place may become a hole twice.
func (p *pages) addHeld(n int) {
	if n == 0 {
		return
	}
	now := int(p.held.Add(int64(n)))
	if over := now - min(max(now, 0), p.residentEnd()-p.discarded); over != 0 {
		p.held.Add(int64(-over))
		n -= over
	}
	addHeld(n)
}

// freeUnreachable gives all of mem back after the collector has found that nobody
// needs it, unless that was done before.
func (p *pages) freeUnreachable() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mem != nil {
		stats.collected.Add(1)
		_ = p.free(true)
		foundGarbage()
	}
}

// newPages returns the pages of a new mapping mem, which all reads as zero.
func newPages(mem []byte, huge bool) *pages {
	p := &pages{huge: huge}
	if huge {
		p.prefaulted = math.MaxInt // one fault for each huge page is little
	}
	p.setMem(mem)
	return p
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
// larger pages) would waste more memory than the contents use.
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
