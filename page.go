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
//	len(buf) <= cap(buf) <= cleared <= committed <= len(mem) <= cap(mem)
//
//	0         cleared      committed         dirty           cap(mem)
//	|------------|-------------|---------------|-----------------|
//	 zero, or     may have bytes of earlier     reads as zero and
//	 written by   owners; the owner may write   has no memory
//	 the owner    mem[:committed]
//
//	I1  mem[:cleared] is zero or was written by the owner
//	I2  mem[dirty:] reads as zero and has no memory
//	I3  0 <= cleared <= committed <= dirty <= cap(mem), committed <= len(mem)
//	I4  len(touched) == units of mem[:dirty]; a unit that has memory is touched;
//	    held is the sum of the touched units
//	I5  seams ascend, inside of mem; a mapping with seams is not moved
//
// A unit that is not touched is (part of) a hole: WriteAt has left it in a gap, and
// nothing was written to it. A mapping with holes gets no more huge pages, because
// a few bytes here and there would make all of each hole resident; what is written
// in order gets them all the same. As held counts units, it is up to a unit for
// each small page too large then; it must not be too small.
//
// Unless a method says otherwise, its arguments are numbers of bytes or offsets
// in mem and multiples of pageUnit, the caller holds mu for writing if the
// method changes mem or one of the fields below, and on failure the contents are
// unchanged.
//
// moveToHeap publishes a mapping: it makes its pages part of the Go heap by
// moving them to the addresses of a new object. See "Publishing" in DESIGN.md.
type pages struct {
	// mem is the part of the mapping that the owner may use. The mapping is
	// mem[:cap(mem)]; mem is nil if there is none.
	mem   []byte
	seams []int // offsets in mem at which one VMA ends and the next begins
	huge  bool  // huge pages were requested; while there are holes, they are disabled

	// mu is held for reading by methods that read and write bytes of mem, and
	// for writing by methods that move, cut, publish or commit it.
	mu sync.RWMutex

	committed int
	dirty     int
	touched   []uint32 // a flag for each unit; set while mu is held for reading, too

	// The owner changes cleared while mu is held for reading. Anybody may read
	// the others.
	cleared int
	held    atomic.Int64
	sparse  atomic.Bool // whether there are holes
}

// Memory is cleared in steps of clearStep bytes, but for what is written. Larger
// steps take longer (64 KiB: a loop of 4 MiB took 1.25 times the CPU time of 32
// KiB). It is committed in larger steps, because that takes locks.
const clearStep = 32 * kiB

// write calls f to write mem[lo:hi] or less, and returns the number of bytes that f
// has written. lo is not greater than cleared, and hi not greater than committed.
// The owner calls it, who holds mu for reading.
func (p *pages) write(lo, hi int, f func(mem []byte) int) int {
	if !p.huge {
		p.populateAround(max(lo, p.cleared), min(stepCeil(hi), p.committed))
	}
	n := f(p.mem[lo:hi:hi])
	p.clearTo(lo + n)
	return n
}

// clearTo makes cleared at least n, which the owner has written up to, and clears
// the rest of the step.
func (p *pages) clearTo(n int) {
	if from, to := max(n, p.cleared), min(stepCeil(n), p.committed); to > p.cleared {
		clear(p.mem[from:to])
		p.cleared = to
	}
}

func stepCeil(n int) int { return (n + clearStep - 1) &^ (clearStep - 1) }

// commit makes committed at least n, any number, for bytes that will be written in
// order.
func (p *pages) commit(n int) {
	if n > p.committed {
		n = min(coarse(n), len(p.mem))
		p.prepare(p.committed, n)
		p.committed = n
	}
}

// committedTo returns committed, for an owner who does not hold mu.
//
// Without the lock, the race detector would not see that this happens before the
// mapping is found unreachable and freed.
func (p *pages) committedTo() int {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.committed
}

// coarse returns n, any number, rounded up to a multiple of 128 KiB, or of about
// n if that is more, up to 4 MiB.
func coarse(n int) int {
	step := 4 * miB
	for step > 128*kiB && step/2 >= n {
		step /= 2
	}
	return (n + step - 1) &^ (step - 1)
}

// prepare prepares mem[lo:hi], any range, for being written in order after
// mem[:lo].
func (p *pages) prepare(lo, hi int) {
	p.touch(lo, hi)
	if unit := pageCeil(lo); p.huge && unit < hi && p.sparse.Load() {
		p.populateUnits(unit, pageCeil(hi))
	}
}

// populateUnits makes mem[lo:hi] resident in huge pages, though there are holes.
func (p *pages) populateUnits(lo, hi int) {
	mem := p.mem[:cap(p.mem)]
	adviseHuge(mem, true)
	_ = p.populate(lo, hi) // else, they become small pages when they are written
	adviseHuge(mem, !p.sparse.Load())
}

// populateAround makes the pages of mem[lo:hi], any range, resident with one
// system call, which takes less time than a fault for each.
func (p *pages) populateAround(lo, hi int) {
	if lo, hi = systemFloor(lo), systemCeil(hi); lo < hi {
		_ = p.populate(lo, hi) // not supported before Linux 5.14
	}
}

// willWrite prepares mem[lo:hi], any range of what is committed, for being
// written, which may fill holes. It reports whether it did. The caller holds mu for
// reading.
func (p *pages) willWrite(lo, hi int) (filled bool) {
	if !p.sparse.Load() {
		return false
	}
	unit := p.hole(pageCeil(lo), hi)
	filled = p.touch(lo, hi) > 0
	switch {
	case unit < hi && p.huge && lo > 0 && p.resident(lo-1): // in order
		p.populateUnits(unit, pageCeil(hi))
	case hi-lo >= populateMin && !p.resident(hi-1):
		p.populateAround(lo, hi)
	}
	return filled
}

// populateMin is the least size of a write to a hole, in bytes, that is worth a
// system call.
const populateMin = 16 * kiB

// commitGap commits mem[:end], zeroes mem[lo:hi], and clears bytes of earlier
// owners in mem[hi:end], which will be written. The owner has written all of
// mem[:lo]. lo, hi and end are any numbers.
func (p *pages) commitGap(lo, hi, end int) {
	clean, to := p.dirty, min(stepCeil(end), len(p.mem))
	if first, last := pageCeil(lo), pageFloor(hi); first < last && p.punch(first, last) == nil {
		if p.hole(pageFloor(lo), first) == first { // else, it is zero
			p.zero(lo, first, clean)
		}
		lo = last
		p.touch(lo, to)
		p.committed = max(p.committed, to)
	} else {
		p.commit(to)
	}
	p.zero(lo, hi, clean)
	if to = min(to, clean); hi < to {
		clear(p.mem[hi:to])
	}
	p.cleared = max(p.cleared, min(stepCeil(end), len(p.mem)))
}

// punch makes mem[lo:hi] a hole.
func (p *pages) punch(lo, hi int) error {
	if lo < p.dirty {
		if err := p.discard(lo, min(hi, pageCeil(p.dirty))); err != nil {
			return err
		}
	}
	p.untouch(lo, hi)
	p.extendDirty(hi)
	p.noteHoles()
	return nil
}

// zero zeroes mem[lo:hi], any range. mem[clean:] reads as zero. If there are
// holes, and thus small pages, zero returns whole pages to the kernel.
func (p *pages) zero(lo, hi, clean int) {
	hi = min(hi, clean)
	first, last := systemCeil(lo), systemFloor(hi)
	if first < last && p.sparse.Load() && p.discard(first, last) == nil {
		clear(p.mem[last:hi])
		hi = first
	}
	if lo < hi {
		clear(p.mem[lo:hi])
	}
}

// hasHoles reports whether there are holes.
func (p *pages) hasHoles() bool { return int(p.held.Load()) < len(p.touched)*pageUnit() }

// noteHoles is called after a change that can have made holes, or removed them.
func (p *pages) noteHoles() { p.setSparse(p.hasHoles()) }

// setSparse records whether there are holes. If that has changed, and huge pages
// were requested, it disables them, or requests them again, for all of the
// mapping, so that it remains one VMA. What is resident keeps its pages.
func (p *pages) setSparse(sparse bool) {
	if p.sparse.Swap(sparse) != sparse && p.huge && p.mem != nil {
		adviseHuge(p.mem[:cap(p.mem)], !sparse)
	}
}

// hole returns the offset of the first unit in mem[lo:hi] that is not touched, or
// hi. hi is any number up to dirty.
func (p *pages) hole(lo, hi int) int {
	for ; lo < hi; lo += pageUnit() {
		if atomic.LoadUint32(&p.touched[lo/pageUnit()]) == 0 {
			return lo
		}
	}
	return hi
}

// touch records that mem[lo:hi], any range, may get memory, and returns how many
// units had none. If hi is at most dirty, the caller may hold mu for reading.
func (p *pages) touch(lo, hi int) (units int) {
	if lo >= hi {
		return 0
	}
	p.extendDirty(hi)
	for i := lo / pageUnit(); i*pageUnit() < hi; i++ {
		if atomic.LoadUint32(&p.touched[i]) == 0 && atomic.CompareAndSwapUint32(&p.touched[i], 0, 1) {
			units++
		}
	}
	p.account(units)
	if units > 0 && !p.hasHoles() {
		p.setSparse(false) // not to true, which others may have undone meanwhile
	}
	return units
}

// extendDirty makes dirty at least n, any number.
func (p *pages) extendDirty(n int) {
	if n > p.dirty {
		p.dirty = n
		if more := pageCeil(n)/pageUnit() - len(p.touched); more > 0 {
			p.touched = append(p.touched, make([]uint32, more)...)
		}
	}
}

// untouch records that the units of mem[lo:hi] have no memory.
func (p *pages) untouch(lo, hi int) {
	units := 0
	for i := lo / pageUnit(); i < min(hi/pageUnit(), len(p.touched)); i++ {
		units += int(p.touched[i])
		p.touched[i] = 0
	}
	p.account(-units)
}

// cutDirty makes dirty n, any number not less than committed, if it is greater.
func (p *pages) cutDirty(n int) {
	if n < p.dirty {
		p.untouch(pageCeil(n), math.MaxInt)
		p.dirty, p.touched = n, p.touched[:pageCeil(n)/pageUnit()]
		p.noteHoles()
	}
}

// uncommit makes dirty, committed and cleared at most n, any number.
func (p *pages) uncommit(n int) {
	p.committed, p.cleared = min(p.committed, n), min(p.cleared, n)
	p.cutDirty(n)
}

// account adds units, which may be negative, to what is held.
func (p *pages) account(units int) {
	if units != 0 {
		n := units * pageUnit()
		p.held.Add(int64(n))
		addHeld(n)
	}
}

// shorten is called when mem[n:], any number, will be appended to again. If there
// are holes, it uncommits them, and reports that, so that they are touched then.
func (p *pages) shorten(n int) bool {
	hole := p.hole(pageFloor(n), p.committed)
	if hole >= p.committed {
		return false
	}
	p.committed = max(n, hole)
	p.cleared = min(p.cleared, p.committed)
	return true
}

// cutFront unmaps mem[:k]. On success, mem begins k bytes later.
func (p *pages) cutFront(k int) error {
	err := p.unmapFront(k)
	if err == nil {
		p.shift(k)
	}
	return err
}

// shift adjusts the fields after mem[:k] was cut.
func (p *pages) shift(k int) {
	p.untouch(0, k)
	p.touched = p.touched[min(k/pageUnit(), len(p.touched)):]
	for _, n := range []*int{&p.cleared, &p.committed, &p.dirty} {
		*n = max(*n-k, 0)
	}
	for i := range p.seams {
		p.seams[i] -= k
	}
	p.cutSeams()
	p.noteHoles()
}

// cutSeams removes seams that are not inside the mapping.
func (p *pages) cutSeams() {
	p.seams = slices.DeleteFunc(p.seams, func(at int) bool { return at <= 0 || at >= cap(p.mem) })
}

// needsMemory reports whether mem[:n], n being any number, ends beyond what has
// been written. It locks mu.
func (p *pages) needsMemory(n int) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return n > p.dirty
}

// maxSeams is the number of seams from which on recycle makes no more.
const maxSeams = 16

// recycle moves the pages of mem[:k], which is consumed, behind all that may be
// resident, or unmaps them if there are holes or they cannot be moved. It handles
// fewer bytes if mem[:k] is several VMAs. It returns the number of bytes by which
// mem begins later, or 0 if it failed.
func (p *pages) recycle(k int) (cut int) {
	if len(p.seams) > 0 {
		k = min(k, p.seams[0]) // mremap(2) does not move several VMAs
	}
	end := pageCeil(p.dirty)
	if p.sparse.Load() || len(p.seams) >= maxSeams || p.moveBehind(k, end) != nil {
		if p.cutFront(k) != nil {
			return 0
		}
		return k
	}
	p.shift(k)
	p.touch(p.dirty, end)
	return k
}

// cutBack makes mem[k:cap(mem)] idle memory or unmaps it. On success, the
// length and capacity of mem are k.
func (p *pages) cutBack(k int) error {
	mem := p.mem[:cap(p.mem)]
	one := len(p.seams) == 0 || p.seams[len(p.seams)-1] <= k // VMA
	if one && !p.sparse.Load() && keepIdle(idlePages{mem: mem[k:], dirty: p.dirty - k, huge: p.huge}) {
		p.setMem(mem[:k:k])
	} else if err := p.unmapBack(k); err != nil {
		return err
	}
	p.uncommit(k)
	p.cutSeams()
	return nil
}

// free makes all of mem idle memory or unmaps it. If there is no mapping, it
// does nothing. In any case mem is nil afterwards. The error is that of
// munmap(2).
func (p *pages) free() error {
	if p.mem == nil {
		return nil
	}
	forgetReused(p)
	for _, at := range slices.Backward(slices.Clone(p.seams)) {
		_ = p.cutBack(at) // idle memory consists of single VMAs
	}
	if len(p.seams) == 0 && !p.sparse.Load() && keepIdle(idlePages{mem: p.mem[:cap(p.mem)], dirty: p.dirty, huge: p.huge}) {
		p.setMem(nil)
		return nil
	}
	return p.unmap()
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
		if p.discard(end, systemCeil(p.dirty)) == nil { // fails for locked memory (mlock(2))
			p.cutDirty(end)
		}
	}
	return true
}

// freeUnreachable frees mem, if that was not done before, after the collector
// has found the mapping unreachable. It locks mu.
func (p *pages) freeUnreachable() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mem != nil {
		stats.collected.Add(1)
		_ = p.free()
		foundGarbage()
	}
}

// newPages returns the pages of the mapping mem[:cap(mem)], of one VMA, of which
// mem[dirty:] reads as zero. huge reports whether huge pages were requested for
// it.
func newPages(mem []byte, dirty int, huge bool) *pages {
	p := &pages{huge: huge}
	p.setMem(mem)
	p.touch(0, dirty)
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

// systemFloor and systemCeil round to multiples of the system page, which is
// smaller.
func systemFloor(n int) int { return n &^ (os.Getpagesize() - 1) }
func systemCeil(n int) int  { return systemFloor(n + os.Getpagesize() - 1) }

// pageRound returns n rounded up to a multiple of pageUnit, but at least one
// unit. It reports false if n is negative or the result overflows.
func pageRound(n int) (int, bool) {
	u := pageUnit()
	r := max(n+u-1, u) &^ (u - 1)
	return r, n >= 0 && r >= n
}
