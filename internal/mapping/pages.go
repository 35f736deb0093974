package mapping

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// A pages is the memory of a Mapping, and what is known about it.
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
// Here buf is what a Buffer uses of mem. The method check has I3 to I5 as code.
//
// A unit that is not touched is (part of) a hole: WriteAt has left it in a gap, and
// nothing was written to it. A mapping with holes gets no more huge pages, because
// a few bytes here and there would make all of each hole resident; what is written
// in order gets them all the same. As held counts units, it is up to a unit for
// each small page too large then; it must not be too small.
//
// Unless a method says otherwise, its arguments are numbers of bytes or offsets
// in mem and multiples of vm.Unit, the caller holds mu for writing if the
// method changes mem or one of the fields below, and on failure the contents are
// unchanged.
type pages struct {
	// mem is the part of the memory that the owner may use. All of it is
	// mem[:cap(mem)]; mem is nil once it was given back.
	mem   []byte
	seams []int // offsets in mem at which one VMA ends and the next begins
	moves int   // how often mem began at another address
	huge  bool  // huge pages were requested; while there are holes, they are disabled

	// mu is held for reading by methods that read and write bytes of mem, and
	// for writing by methods that move, cut, publish or commit it.
	//
	// Locks are taken in this order: that of ReadAt and WriteAt in package
	// mmapbuf, mu, largeViews, idle.freeing, that of a vm.Loan, idle.mu,
	// pacer.mu. Under pacer.collecting, mu and what follows it is taken; so
	// whoever holds one of these may only try to lock collecting. Holding
	// idle.freeing, mu is only tried. The locks of a Limit come first and last:
	// none is taken while its mu is held. None is held during calls of foreign
	// Readers and Writers, or, but for collecting and that of a Limit, while
	// waiting for a collection.
	mu sync.RWMutex

	committed int
	most      int // committed is not more, unless the owner asks for it exactly
	dirty     int
	touched   []uint32 // a flag for each unit; set while mu is held for reading, too

	// The owner changes cleared while mu is held for reading. Anybody may read
	// the others.
	cleared int
	held    atomic.Int64
	sparse  atomic.Bool // whether there are holes
}

// check says which of the invariants does not hold.
func (p *pages) check() error {
	units := 0
	for _, flag := range p.touched {
		units += int(flag)
	}
	for i, at := range p.seams {
		if at <= 0 || at >= cap(p.mem) || i > 0 && at <= p.seams[i-1] {
			return fmt.Errorf("I5: seams %v in a mapping of %d bytes", p.seams, cap(p.mem))
		}
	}
	switch {
	case p.cleared < 0 || p.cleared > p.committed || p.committed > p.dirty || p.dirty > cap(p.mem) || p.committed > len(p.mem):
		return fmt.Errorf("I3: cleared %d, committed %d, dirty %d, len(mem) %d, cap(mem) %d", p.cleared, p.committed, p.dirty, len(p.mem), cap(p.mem))
	case len(p.touched) != vm.Ceil(p.dirty)/vm.Unit():
		return fmt.Errorf("I4: %d flags for %d dirty bytes", len(p.touched), p.dirty)
	case int(p.held.Load()) != units*vm.Unit():
		return fmt.Errorf("I4: held %d, %d units are touched", p.held.Load(), units)
	}
	return nil
}

// newPages returns the pages of the mapping mem[:cap(mem)], of one VMA, of which
// mem[dirty:] reads as zero. huge reports whether huge pages were requested for
// it.
func newPages(mem []byte, dirty int, huge bool) *pages {
	p := &pages{huge: huge, most: math.MaxInt}
	p.setMem(mem)
	p.touch(0, dirty)
	return p
}

// setMem makes mem[:cap(mem)] the mapping, or none if mem is nil, and updates
// the statistics.
func (p *pages) setMem(mem []byte) {
	was := p.mem
	p.mem = mem
	if !vm.SameStart(was, mem) {
		p.moves++
	}
	raise(&Counters.PeakMappedBytes, Counters.MappedBytes.Add(int64(cap(mem)-cap(was))))
	switch {
	case was == nil && mem != nil:
		Counters.Created.Add(1)
		Counters.Mappings.Add(1)
		profile.Add(p, 1)
	case was != nil && mem == nil:
		Counters.Mappings.Add(-1)
		profile.Remove(p)
		untrack(p)
		forgetReused(p)
		p.uncommit(0)
	}
}

// Memory is cleared in steps of clearStep bytes, but for what is written. Larger
// steps take longer (64 KiB: a loop of 4 MiB took 1.25 times the CPU time of 32
// KiB). It is committed in larger steps, because that takes locks.
const clearStep = 32 * vm.KiB

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
		n = min(max(n, min(coarse(n), p.most)), len(p.mem))
		p.prepare(p.committed, n)
		p.committed = n
	}
}

// coarse returns n, any number, rounded up to a multiple of 128 KiB, or of about
// n if that is more, up to 4 MiB.
func coarse(n int) int {
	step := 4 * vm.MiB
	for step > 128*vm.KiB && step/2 >= n {
		step /= 2
	}
	return (n + step - 1) &^ (step - 1)
}

// prepare prepares mem[lo:hi], any range, for being written in order after
// mem[:lo].
func (p *pages) prepare(lo, hi int) {
	p.touch(lo, hi)
	if unit := vm.Ceil(lo); p.huge && unit < hi && p.sparse.Load() {
		p.populateUnits(unit, vm.Ceil(hi))
	}
}

// populateUnits makes mem[lo:hi] resident in huge pages, though there are holes.
func (p *pages) populateUnits(lo, hi int) {
	mem := p.mem[:cap(p.mem)]
	vm.AdviseHuge(mem, true)
	_ = vm.Populate(p.mem[lo:hi]) // else, they become small pages when they are written
	vm.AdviseHuge(mem, !p.sparse.Load())
}

// populateAround makes the pages of mem[lo:hi], any range, resident with one
// system call, which takes less time than a fault for each.
func (p *pages) populateAround(lo, hi int) {
	if lo < hi {
		_ = vm.Populate(p.mem[vm.PageFloor(lo):vm.PageCeil(hi)]) // not supported before Linux 5.14
	}
}

// willWrite prepares mem[lo:hi], any range of what is committed, for being
// written, which may fill holes. It reports whether it did. The caller holds mu for
// reading.
func (p *pages) willWrite(lo, hi int) (filled bool) {
	if !p.sparse.Load() {
		return false
	}
	unit := p.hole(vm.Ceil(lo), hi)
	filled = p.touch(lo, hi) > 0
	switch {
	case unit < hi && p.huge && lo > 0 && vm.Resident(p.mem, lo-1): // in order
		p.populateUnits(unit, vm.Ceil(hi))
	case hi-lo >= populateMin && !vm.Resident(p.mem, hi-1):
		p.populateAround(lo, hi)
	}
	return filled
}

// populateMin is the least size of a write to a hole, in bytes, that is worth a
// system call.
const populateMin = 16 * vm.KiB

// commitGap commits mem[:end], zeroes mem[lo:hi], and clears bytes of earlier
// owners in mem[hi:end], which will be written. The owner has written all of
// mem[:lo]. lo, hi and end are any numbers.
func (p *pages) commitGap(lo, hi, end int) {
	clean, to := p.dirty, min(stepCeil(end), len(p.mem))

	// Whole units of the gap become holes.
	if first, last := vm.Ceil(lo), vm.Floor(hi); first < last && p.punch(first, last) == nil {
		if p.hole(vm.Floor(lo), first) == first { // else, it is zero
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
		if err := vm.Discard(p.mem[lo:min(hi, vm.Ceil(p.dirty))]); err != nil {
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
	first, last := vm.PageCeil(lo), vm.PageFloor(hi)
	if first < last && p.sparse.Load() && vm.Discard(p.mem[first:last]) == nil {
		clear(p.mem[last:hi])
		hi = first
	}
	if lo < hi {
		clear(p.mem[lo:hi])
	}
}

// hasHoles reports whether there are holes.
func (p *pages) hasHoles() bool { return int(p.held.Load()) < len(p.touched)*vm.Unit() }

// noteHoles is called after a change that can have made holes, or removed them.
func (p *pages) noteHoles() { p.setSparse(p.hasHoles()) }

// setSparse records whether there are holes. If that has changed, and huge pages
// were requested, it disables them, or requests them again, for all of the
// mapping, so that it remains one VMA. What is resident keeps its pages.
func (p *pages) setSparse(sparse bool) {
	if p.sparse.Swap(sparse) != sparse && p.huge && p.mem != nil {
		vm.AdviseHuge(p.mem[:cap(p.mem)], !sparse)
	}
}

// hole returns the offset of the first unit in mem[lo:hi] that is not touched, or
// hi. hi is any number up to dirty.
func (p *pages) hole(lo, hi int) int {
	for ; lo < hi; lo += vm.Unit() {
		if atomic.LoadUint32(&p.touched[lo/vm.Unit()]) == 0 {
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
	for i := lo / vm.Unit(); i*vm.Unit() < hi; i++ {
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
		if more := vm.Ceil(n)/vm.Unit() - len(p.touched); more > 0 {
			p.touched = append(p.touched, make([]uint32, more)...)
		}
	}
}

// untouch records that the units of mem[lo:hi] have no memory.
func (p *pages) untouch(lo, hi int) {
	units := 0
	for i := lo / vm.Unit(); i < min(hi/vm.Unit(), len(p.touched)); i++ {
		units += int(p.touched[i])
		p.touched[i] = 0
	}
	p.account(-units)
}

// cutDirty makes dirty n, any number not less than committed, if it is greater.
func (p *pages) cutDirty(n int) {
	if n < p.dirty {
		p.untouch(vm.Ceil(n), math.MaxInt)
		p.dirty, p.touched = n, p.touched[:vm.Ceil(n)/vm.Unit()]
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
		n := units * vm.Unit()
		p.held.Add(int64(n))
		addHeld(n)
	}
}

// shorten is called when mem[n:], any number, will be appended to again. If there
// are holes, it uncommits them, and reports that, so that they are touched then.
func (p *pages) shorten(n int) bool {
	hole := p.hole(vm.Floor(n), p.committed)
	if hole >= p.committed {
		return false
	}
	p.committed = max(n, hole)
	p.cleared = min(p.cleared, p.committed)
	return true
}

// grow makes mem n bytes long, which is not less than before. Bytes beyond
// cap(mem) are new and read as zero. The mapping may move, even if grow fails.
func (p *pages) grow(n int) error {
	if n <= cap(p.mem) {
		p.mem = p.mem[:n]
		return nil
	}
	was := p.mem
	err := p.extend(n)
	switch {
	case err != nil:
	case vm.SameStart(p.mem, was):
		Counters.GrowsInPlace.Add(1)
	default:
		Counters.Moves.Add(1)
	}
	return err
}

// extend makes the mapping n bytes long, more than before: in place, or else at
// an aligned address, or else at any address.
func (p *pages) extend(n int) error {
	err := p.resize(n, false)
	if err == nil || len(p.seams) > 0 { // several VMAs cannot be moved
		return err
	}
	if vm.NoRoom(err) && p.moveAligned(n, 0) == nil && p.resize(n, false) == nil {
		return nil
	}
	return p.resize(n, true)
}

// resize makes the mapping and mem n bytes long, more than before, by growing
// its last VMA. If the mapping is one VMA, it may be moved, too. On failure,
// nothing has changed.
func (p *pages) resize(n int, mayMove bool) error {
	last := 0
	if k := len(p.seams); k > 0 {
		last = p.seams[k-1]
	}
	mem, err := vm.Resize(p.mem[last:cap(p.mem)], n-last, mayMove)
	if err != nil {
		return err
	}
	if last > 0 {
		mem = vm.Join(p.mem, n)
	}
	p.setMem(mem)
	return nil
}

// moveAligned moves the mapping, which is one VMA, as vm.MoveAligned does.
func (p *pages) moveAligned(n, room int) error {
	mem, err := vm.MoveAligned(p.mem[:cap(p.mem)], n, room)
	if err == nil {
		p.setMem(mem)
	}
	return err
}

// cutFront unmaps mem[:k]. On success, mem begins k bytes later.
func (p *pages) cutFront(k int) error {
	err := vm.Unmap(p.mem[:k])
	if err == nil {
		p.setMem(p.mem[k:])
		p.shift(k)
	}
	return err
}

// tryCutFront is cutFront, or nothing if that fails. It returns how many bytes it has
// cut.
func (p *pages) tryCutFront(k int) (cut int) {
	if k == 0 || p.cutFront(k) != nil {
		return 0
	}
	return k
}

// shift adjusts the fields after mem[:k] was cut.
func (p *pages) shift(k int) {
	p.untouch(0, k)
	p.touched = p.touched[min(k/vm.Unit(), len(p.touched)):]
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

// maxSeams is the number of seams from which on recycle makes no more: each is a
// VMA, of which a process has 65,530, and growing in place is all that a mapping
// with seams can do.
const maxSeams = 16

// recycle moves the pages of mem[:k], which is consumed, behind all that may be
// resident, or unmaps them if there are holes or they cannot be moved. It handles
// fewer bytes if mem[:k] is several VMAs. It returns the number of bytes by which
// mem begins later, or 0 if it failed.
func (p *pages) recycle(k int) (cut int) {
	if len(p.seams) > 0 {
		k = min(k, p.seams[0]) // mremap(2) does not move several VMAs
	}
	end := vm.Ceil(p.dirty)
	if p.sparse.Load() || len(p.seams) >= maxSeams || p.moveBehind(k, end) != nil {
		return p.tryCutFront(k)
	}
	p.shift(k)
	p.touch(p.dirty, end)
	return k
}

// moveBehind moves the pages of mem[:k], which are one VMA, to mem[end:end+k],
// where nothing was written, and grows the mapping for that if necessary. On
// success, mem begins k bytes later; the caller adjusts the offsets. On
// failure, mem may have been moved, or cut to mem[:end].
func (p *pages) moveBehind(k, end int) error {
	if vm.MovesRefused() {
		return errors.ErrUnsupported
	}
	size, need := len(p.mem), end+k
	if len(p.seams) == 0 && need > cap(p.mem)/2 {
		// From now on, the mapping advances to higher addresses with
		// each call, and cannot be moved. So move it below a large gap,
		// which the kernel fills from its upper end.
		if p.moveAligned(cap(p.mem), min(1<<40, vm.MaxSize)) != nil {
			_ = p.moveAligned(cap(p.mem), 16*need)
		}
	}
	if need > cap(p.mem) {
		if err := p.resize(need, false); err != nil {
			p.mem = p.mem[:size]
			return err
		}
	}
	mem := p.mem[:cap(p.mem)]
	if err := vm.MoveOnto(mem[end:need], mem[:k]); err != nil {
		_ = vm.Unmap(mem[need:])
		p.setMem(mem[:end:end])
		p.cutSeams()
		return err
	}
	p.seams = append(p.seams, end, need)
	slices.Sort(p.seams)
	p.seams = slices.Compact(p.seams)
	p.setMem(mem[k:max(size, need)])
	return nil
}

// cutBack makes mem[k:cap(mem)] idle memory or unmaps it. On success, the
// length and capacity of mem are k.
func (p *pages) cutBack(k int) error {
	if !keepIdle(p, k) {
		if err := vm.Unmap(p.mem[k:cap(p.mem)]); err != nil {
			return err
		}
	}
	p.setMem(p.mem[:k:k])
	p.uncommit(k)
	p.cutSeams()
	return nil
}

// free makes all of mem idle memory or unmaps it. If there is none, it does
// nothing. In any case mem is nil afterwards. The error is that of munmap(2).
func (p *pages) free() (err error) {
	if p.mem == nil {
		return nil
	}
	for _, at := range slices.Backward(slices.Clone(p.seams)) {
		_ = p.cutBack(at) // idle memory consists of single VMAs
	}
	if !keepIdle(p, 0) {
		err = vm.Abandon(p.mem[:cap(p.mem)])
	}
	p.setMem(nil)
	return err
}

// freeExcess returns memory that mem had as idle memory, and that the owner has
// not committed, to the kernel. It reports false, and does nothing, if mu is
// locked; the caller must not hold mu.
func (p *pages) freeExcess() bool {
	if !p.mu.TryLock() {
		return false
	}
	defer p.mu.Unlock()
	const step = 64 * vm.KiB // a multiple of any page
	if end := (p.committed + step - 1) &^ (step - 1); p.mem != nil && end < p.dirty {
		if vm.Discard(p.mem[end:vm.Ceil(p.dirty)]) == nil { // fails for locked memory (mlock(2))
			p.cutDirty(end)
		}
	}
	return true
}

// freeUnreachable frees mem, if that was not done before, after the collector
// has found the mapping unreachable. It returns how many bytes were held. It locks
// mu.
func (p *pages) freeUnreachable() (held int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mem == nil {
		return 0
	}
	held = p.held.Load()
	Counters.Collected.Add(1)
	_ = p.free()
	return held
}
