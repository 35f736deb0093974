package mmapbuf

import (
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
)

// A pages is the page layer's part of a mapping: memory outside of the Go heap,
// and what is known about its pages. page_linux.go has the system calls:
// mmap(2), mremap(2) and madvise(2). On other systems, page_other.go makes no
// mappings, and Buffers use Go slices.
//
// Unless a method says otherwise, its arguments are numbers of bytes or offsets
// in mem and multiples of pageUnit, the caller holds mu for writing if the
// method changes mem or one of the offsets below, and on failure the contents
// are unchanged.
//
// The offsets below divide mem as follows, while there is a mapping. Of these,
// only discarded has to be a multiple of pageUnit.
//
//	mem[:discarded]              was returned to the kernel
//	mem[:committed]              may have been written by the owner
//	mem[:owned]                  has no bytes of earlier owners
//	mem[owned:dirty]             may have bytes of earlier owners
//	mem[max(committed, dirty):]  reads as zero
//
//	0 <= discarded <= committed <= len(mem)
//	0 <= dirty <= cap(mem)
//	holes are in mem[discarded:committed]
//	held = max(committed, dirty) - discarded - the bytes of holes
//
// moveToHeap publishes a mapping: it makes its pages part of the Go heap by
// moving them to the addresses of a new object. See "Publishing" in DESIGN.md.
type pages struct {
	// mem is the part of the mapping that the owner may use. The mapping is
	// mem[:cap(mem)]; mem is nil if there is none.
	mem        []byte
	seams      []int // offsets in mem, ascending, at which one VMA ends and the next begins
	huge       bool  // huge pages were requested; while there are holes, they are disabled
	fixed      bool  // recycling has failed, and would again
	prefaulted int   // end of what prefault has done; math.MaxInt if it is not useful

	// mu is held for reading by methods that only read mem, and for writing
	// by methods that move, cut, publish or commit it.
	mu sync.RWMutex

	committed     int          // end of what the owner can have written
	dirty         int          // end of what earlier owners, or recycle, may have left
	owned         int          // end of what is known to be free of bytes of earlier owners
	discarded     int          // end of the consumed prefix that discardFront has discarded
	lastCommitted int          // committed at the last call of discardFront
	freedFrom     int          // mem[max(committed, freedFrom):dirty] may be marked by lazyFree
	held          atomic.Int64 // how many bytes of mem may be resident; see account

	holes     []hole      // ascending, and apart from each other
	holeBytes int         // sum of their lengths
	sparse    atomic.Bool // whether there are any
	holeMu    sync.Mutex  // held, in addition to mu for reading, by willWrite
}

// A hole is a range mem[lo:hi] of units that punch has discarded, and that were
// not written since. A mapping with holes gets no more huge pages, or a few bytes
// here and there would make each hole resident: see setSparse.
type hole struct{ lo, hi int }

// Memory is committed in steps of up to commitStep bytes, or of about as much
// as is committed if that is less. Only committed memory can be written, so
// this bounds the resident memory.
const (
	commitStep    = 4 * miB
	commitStepMin = 128 * kiB
)

// commit makes committed at least n, any number up to len(mem), and returns
// committed.
func (p *pages) commit(n int) int {
	if n = min(commitRound(n), len(p.mem)); n > p.committed {
		p.committed = n
		p.account()
	}
	return p.committed
}

// commitInOrder is commit for bytes that will be appended, so that they get huge
// pages even if there are holes.
func (p *pages) commitInOrder(n int) int {
	from := pageCeil(p.committed)
	n = p.commit(n)
	if p.sparse.Load() && from < pageFloor(n) {
		p.populateUnits(from, pageFloor(n))
	}
	return n
}

// commitRound returns n, any number, rounded up to a commit step.
func commitRound(n int) int {
	step := commitStep
	for step > commitStepMin && step/2 >= n {
		step /= 2
	}
	return (n + step - 1) &^ (step - 1)
}

// residentEnd returns the end of the part of mem that may be resident.
func (p *pages) residentEnd() int { return max(p.committed, p.dirty) }

// punch returns the memory of mem[lo:hi] to the kernel, so that it reads as
// zero, and commits mem[:hi]. On failure, bytes in mem[lo:hi] may be zero.
func (p *pages) punch(lo, hi int) error {
	err := p.discard(lo, hi)
	if err == nil {
		p.committed = max(p.committed, hi)
		p.fillHoles(lo, hi) // of earlier contents
		p.holes = slices.Insert(p.holes, p.holeAt(hi), hole{lo, hi})
		p.holeBytes += hi - lo
		p.setSparse(true)
		p.account()
	}
	return err
}

// commitGap commits mem[:end], zeroes mem[lo:hi], and clears bytes of earlier
// owners in mem[hi:end], which will be written. It returns committed. The owner
// has written all of mem[:lo]. lo, hi and end are any numbers.
func (p *pages) commitGap(lo, hi, end int) int {
	from, to := hi, hi // hole
	if first, last := pageCeil(lo), pageFloor(hi); first < last && p.punch(first, last) == nil {
		from, to = first, last
		p.commit(end) // after punch, because it counts what is new as held
	} else {
		p.commitInOrder(end)
	}
	p.zero(lo, from)
	p.zero(to, hi)
	p.scrub(hi, end) // it may be read before it is written
	return p.committed
}

// zero zeroes mem[lo:hi], any range. If there are holes, and thus small pages, it
// returns whole pages to the kernel.
func (p *pages) zero(lo, hi int) {
	page := os.Getpagesize()
	first, last := (lo+page-1)&^(page-1), hi&^(page-1)
	if p.sparse.Load() && first < last && p.discard(first, last) == nil {
		clear(p.mem[last:hi])
		hi = first
	}
	clear(p.mem[lo:hi])
}

// holeAt returns the index of the first hole that ends beyond off.
func (p *pages) holeAt(off int) int {
	i, _ := slices.BinarySearchFunc(p.holes, off, func(h hole, off int) int {
		if h.hi <= off {
			return -1
		}
		return 1
	})
	return i
}

// fillHoles removes mem[lo:hi], to the end if hi is larger, from the holes. The
// caller calls account.
func (p *pages) fillHoles(lo, hi int) {
	i := p.holeAt(lo)
	j := i
	var rest []hole
	for ; j < len(p.holes) && p.holes[j].lo < hi; j++ {
		h := p.holes[j]
		if h.lo < lo {
			rest = append(rest, hole{h.lo, lo})
		}
		if hi < h.hi {
			rest = append(rest, hole{hi, h.hi})
		}
		p.holeBytes -= min(hi, h.hi) - max(lo, h.lo)
	}
	if i < j {
		p.holes = slices.Replace(p.holes, i, j, rest...) // once: they may be many
	}
	p.setSparse(len(p.holes) > 0)
}

// setSparse records whether there are holes. If that changes, and huge pages
// were requested, it disables them or requests them again, for all of the
// mapping, so that it remains one VMA. What is resident keeps its pages.
func (p *pages) setSparse(sparse bool) {
	if p.sparse.Swap(sparse) != sparse && p.huge && p.mem != nil {
		adviseHuge(p.mem[:cap(p.mem)], !sparse)
	}
}

// willWrite prepares mem[lo:hi], any range of the contents, for being written,
// which may fill holes. The caller holds mu for reading.
func (p *pages) willWrite(lo, hi int) {
	if !p.sparse.Load() {
		return
	}
	// What is written in order gets huge pages from the next unit on.
	if start := p.fillForWrite(lo, hi); start < hi && lo > 0 && p.resident(lo-1) {
		p.populateUnits(start, pageCeil(hi))
	} else if hi-lo >= prefaultMin && !p.resident(hi-1) {
		page := os.Getpagesize()
		_ = p.populate(lo&^(page-1), (hi+page-1)&^(page-1))
	}
}

// fillForWrite removes the units of mem[lo:hi] from the holes, and returns the
// start of the first one that was in a hole and begins in the range, or hi.
func (p *pages) fillForWrite(lo, hi int) (start int) {
	p.holeMu.Lock()
	defer p.holeMu.Unlock()
	first, last := pageFloor(lo), pageCeil(hi)
	i := p.holeAt(first)
	if i == len(p.holes) || p.holes[i].lo >= last {
		return hi
	}
	start = max(p.holes[i].lo, pageCeil(lo))
	p.fillHoles(first, last)
	p.account()
	return min(start, hi)
}

// populateUnits makes mem[lo:hi] resident in huge pages, if they were requested,
// though there are holes.
func (p *pages) populateUnits(lo, hi int) {
	if p.huge {
		mem := p.mem[:cap(p.mem)]
		adviseHuge(mem, true)
		_ = p.populate(lo, hi)
		adviseHuge(mem, !p.sparse.Load())
	}
}

// uncommit returns the memory of mem[pageCeil(n):] to the kernel, n being any
// number. There are no holes from n on then, even if it fails.
func (p *pages) uncommit(n int) error {
	p.fillHoles(pageFloor(n), math.MaxInt)
	defer p.account()
	k, end := pageCeil(n), pageCeil(p.residentEnd())
	if k >= end {
		return nil
	}
	err := p.discard(k, end)
	if err == nil {
		for _, n := range []*int{&p.discarded, &p.lastCommitted, &p.committed, &p.dirty} {
			*n = min(*n, k)
		}
		if p.prefaulted != math.MaxInt {
			p.prefaulted = min(p.prefaulted, k)
		}
	}
	return err
}

// discardFront returns the memory of mem[:n], which is consumed, to the kernel.
// If more was committed since the last call, it keeps the last spare bytes of
// mem[:n] for recycle. It ignores failures.
func (p *pages) discardFront(n, spare int) {
	if p.lastCommitted > 0 && p.committed > p.lastCommitted {
		n -= spare
	}
	p.lastCommitted = p.committed
	if n > p.discarded && p.discard(p.discarded, n) == nil {
		p.discarded = n
		p.fillHoles(0, n)
		p.account()
	}
}

// noteRewound records that the owner, who has written mem[:n], n being any
// number, will write mem from its start again. The caller does not hold mu.
func (p *pages) noteRewound(n int) {
	p.owned = max(p.owned, n)
	if p.discarded > 0 {
		p.mu.Lock() // for tick
		defer p.mu.Unlock()
		p.discarded = 0
		p.account()
	}
}

// cutFront unmaps mem[:k]. On success, mem begins k bytes later.
func (p *pages) cutFront(k int) error {
	err := p.unmapFront(k)
	if err == nil {
		p.shift(k)
		p.account()
	}
	return err
}

// shift adjusts the offsets after mem[:k] was cut.
func (p *pages) shift(k int) {
	for _, n := range []*int{&p.discarded, &p.lastCommitted, &p.freedFrom, &p.committed, &p.dirty, &p.owned, &p.prefaulted} {
		*n = max(*n-k, 0)
	}
	p.fillHoles(0, k)
	for i := range p.holes {
		p.holes[i].lo -= k
		p.holes[i].hi -= k
	}
	for i := range p.seams {
		p.seams[i] -= k
	}
	p.cutSeams()
}

// mayRecycle reports whether mem[:n], n being any number, ends beyond what may
// be resident, and recycling has not failed before. It locks mu.
func (p *pages) mayRecycle(n int) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return n > p.residentEnd() && !p.fixed
}

// cutSeams removes seams that are not inside the mapping.
func (p *pages) cutSeams() {
	p.seams = slices.DeleteFunc(p.seams, func(at int) bool { return at <= 0 || at >= cap(p.mem) })
}

// maxSeams is the number of seams from which on recycle makes no more.
const maxSeams = 16

// recycle moves the pages of mem[:k], which is consumed, behind all that may be
// resident, or unmaps them if they are discarded or cannot be moved. It handles
// fewer bytes if only a part of mem[:k] is discarded, or if it is several VMAs.
// It returns the number of bytes by which mem begins later, or 0 if it failed.
// The owner has written all of mem[:n], n being any number.
func (p *pages) recycle(k, n int) (cut int) {
	p.owned = max(p.owned, n)
	if p.discarded > 0 { // no memory to move
		k = min(k, p.discarded)
	} else if len(p.seams) > 0 {
		k = min(k, p.seams[0]) // mremap(2) does not move several VMAs
	}
	end := pageCeil(p.residentEnd())
	if p.discarded > 0 || len(p.seams) >= maxSeams || p.moveBehind(k, end) != nil {
		// If only the move failed, it would fail again.
		p.fixed = p.discarded == 0 && len(p.seams) < maxSeams
		if p.cutFront(k) != nil {
			p.fixed = true
			return 0
		}
		return k
	}
	owned := p.owned >= p.dirty // not p.committed: committed bytes may be unwritten
	p.shift(k)
	p.dirty, p.freedFrom = end, end
	if owned {
		p.owned = end
	}
	p.account()
	return k
}

// cutBack makes mem[k:cap(mem)] idle memory or unmaps it. On success, the
// length and capacity of mem are k.
func (p *pages) cutBack(k int) error {
	mem := p.mem[:cap(p.mem)]
	one := len(p.seams) == 0 || p.seams[len(p.seams)-1] <= k // VMA
	if one && p.worthKeeping() && keepIdle(mem[k:], max(p.committed-k, p.freedFrom-k, 0), max(p.residentEnd(), k)-k, p.huge, false) {
		p.setMem(mem[:k:k])
	} else if err := p.unmapBack(k); err != nil {
		return err
	}
	p.committed, p.dirty = min(p.committed, k), min(p.dirty, k)
	p.fillHoles(k, math.MaxInt)
	p.cutSeams()
	p.account()
	return nil
}

// free makes all of mem idle memory or unmaps it. If there is no mapping, it
// does nothing. In any case mem is nil afterwards. The error is that of
// munmap(2). For lazy, see keepIdle.
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
		_ = p.cutBack(at) // idle memory consists of single VMAs
	}
	if p.worthKeeping() && keepIdle(p.mem[:cap(p.mem)], max(p.committed, p.freedFrom), p.residentEnd(), p.huge, lazy) {
		p.setMem(nil)
		return nil
	}
	return p.unmap()
}

// worthKeeping reports whether mem can become idle memory. With holes it
// cannot, because idle memory counts as resident up to dirty.
func (p *pages) worthKeeping() bool { return len(p.holes) == 0 }

// scrub clears bytes of earlier owners in mem[lo:hi], which is about to be
// exposed, and reports whether there may have been some. The owner has written
// all of mem[:lo]. lo and hi are any numbers.
func (p *pages) scrub(lo, hi int) bool {
	p.owned, lo, hi = max(p.owned, hi), max(lo, p.owned), min(hi, p.dirty)
	if lo >= hi {
		return false
	}
	if page := pageCeil(lo); hi == p.dirty && page < hi && p.discard(page, hi) == nil {
		hi, p.dirty = page, page
		p.account()
	}
	clear(p.mem[lo:hi])
	return true
}

// freeExcess returns memory that mem had as idle memory, and that the owner has
// not committed, to the kernel. It reports false, and does nothing, if mu is
// locked; the caller must not hold mu.
func (p *pages) freeExcess() bool {
	if !p.mu.TryLock() {
		return false
	}
	defer p.mu.Unlock()
	const step = 64 * kiB // a multiple of any page
	if end := (p.committed + step - 1) &^ (step - 1); p.mem != nil && end < p.dirty {
		if p.discard(end, p.dirty) == nil { // fails for locked memory (mlock(2))
			p.dirty = end
			p.account()
		}
	}
	return true
}

// account brings held and the total of all mappings up to date. The caller holds
// mu for writing, or for reading together with holeMu.
func (p *pages) account() {
	n := 0
	if p.mem != nil {
		n = p.residentEnd() - p.discarded - p.holeBytes
	}
	if was := int(p.held.Swap(int64(n))); n != was {
		addHeld(n - was)
	}
}

// freeUnreachable frees mem, if that was not done before, after the collector
// has found the mapping unreachable. It locks mu.
func (p *pages) freeUnreachable() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mem != nil {
		stats.collected.Add(1)
		_ = p.free(true)
		foundGarbage()
	}
}

// newPages returns the pages of the mapping mem[:cap(mem)], of one VMA, which
// reads as zero unless the caller sets dirty. huge reports whether huge pages
// were requested for it.
func newPages(mem []byte, huge bool) *pages {
	p := &pages{huge: huge}
	if huge {
		p.prefaulted = math.MaxInt // one fault per huge page is cheap
	}
	p.setMem(mem)
	return p
}

const (
	kiB = 1 << 10
	miB = 1 << 20
	giB = 1 << 30
)

// pageUnit returns the unit of mappings, in bytes: their lengths, and if
// possible their addresses, are multiples of it. It is the size of a huge page,
// unless chooseUnit rejects that, so that the kernel can fill, move and unmap
// whole huge pages. Only tests replace it.
var pageUnit = sync.OnceValue(systemPageUnit)

// chooseUnit returns the unit for a system with pages of page bytes and huge
// pages of huge bytes, 0 if it has none, and whether to request huge pages.
// Huge pages of more than 4 MiB (32 MiB or 512 MiB on arm64 with larger pages)
// could waste more memory than the contents use.
func chooseUnit(page, huge int) (unit int, advise bool) {
	if page <= huge && huge <= 4*miB {
		return huge, true
	}
	return max(page, 2*miB), false
}

// alignment returns the preferred alignment of a mapping of n bytes. mremap(2)
// can move page tables in units of 1 GiB if addresses are aligned to that.
func alignment(n int) int {
	if n >= giB {
		return giB
	}
	return pageUnit()
}

// pageCeil returns n, an offset in a mapping, rounded up to a multiple of
// pageUnit.
func pageCeil(n int) int { return pageFloor(n + pageUnit() - 1) }

// pageFloor returns n rounded down to a multiple of pageUnit.
func pageFloor(n int) int { return n &^ (pageUnit() - 1) }

// pageRound returns n rounded up to a multiple of pageUnit, but at least one
// unit. It reports false if n is negative or the result overflows.
func pageRound(n int) (int, bool) {
	u := pageUnit()
	r := max(n+u-1, u) &^ (u - 1)
	return r, n >= 0 && r >= n
}

// prefault prepares mem[lo:hi], any range, for being written. If pages are
// small, it populates the new ones with one system call, which takes less time
// than a fault for each. The caller need not hold mu.
func (p *pages) prefault(lo, hi int) {
	if hi <= p.prefaulted {
		return
	}
	page := os.Getpagesize()
	lo = (max(lo, p.prefaulted) + page - 1) &^ (page - 1) // the start of the page of lo is populated
	hi = (hi + page - 1) &^ (page - 1)
	p.prefaulted = hi
	if lo < hi && p.populate(lo, hi) != nil {
		p.prefaulted = math.MaxInt // not supported before Linux 5.14
	}
}
