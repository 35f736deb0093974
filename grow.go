package mmapbuf

import (
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// mapThreshold is the capacity, in bytes, beyond which new storage is a mapping
// and not a Go slice. For contents of up to 1 MiB, slices are faster than a
// mapping with a huge page. Only tests change it.
var mapThreshold = 1 << 20

const (
	smallSize   = 64       // least capacity of a slice, as in bytes.Buffer
	slideMax    = 4 << 20  // largest contents that are copied down within a mapping: beyond, it is better to move pages
	discardStep = 32 << 20 // a consumed prefix is unmapped in steps of this size, a power of two, which take a system call each
)

// grow makes Available at least n. It may drop the consumed prefix, even if it
// fails. On failure, the contents are unchanged. buf must be current.
func (b *Buffer) grow(n int) error {
	if b.Len() == 0 && b.off != 0 {
		b.rewind()
	}
	was := toInt(b.charged())
	var err error
	if b.m != nil {
		err = b.growMapping(n)
	} else {
		err = b.growSlice(n)
	}
	if err != nil && b.charged() > int64(was) {
		b.settle(was) // what was charged for it is not used
	}
	return err
}

// growSlice is grow for a slice.
func (b *Buffer) growSlice(n int) error {
	live, c := b.Len(), b.buf.Cap
	switch {
	case n <= c-b.buf.Len:
		return nil

	// The first bytes of many Buffers are few.
	case c == 0 && n <= smallSize && smallSize < mapThreshold && b.charge(smallSize, n) == nil:
		b.setSlice(make([]byte, 0, smallSize), 0)
		return nil

	// At least half of the storage is consumed. So this copies, amortized, at
	// most one byte per byte written.
	case n <= c/2-live:
		b.slide()
		return nil
	}
	return b.growByCopying(n)
}

// growMapping is grow for a mapping.
func (b *Buffer) growMapping(n int) error {
	live, c := b.Len(), b.m.Committed()
	if n <= c-b.buf.Len {
		return nil
	}

	// As for a slice, but for large contents it is better to move pages.
	if n <= c/2-live && live <= slideMax {
		b.slide()
		return nil
	}

	// Memory that was written is better than new memory.
	if b.canRecycle(n) && b.recycle() {
		return b.growMapping(n)
	}

	// What follows takes memory, or may.
	if err := b.chargeMapping(n); err != nil {
		return err
	}
	if n <= b.Available() {
		return nil
	}
	if c := b.Cap(); c > math.MaxInt-c-n {
		return ErrTooLarge
	}
	if b.m.GrowCapacity(b.buf.Len+n) || b.remap(n) == nil {
		return nil
	}
	// Whatever mremap(2) has refused, a new mapping may be possible.
	err := b.growByCopying(n)
	if err == nil {
		mapping.CountCopy(live)
	}
	return err
}

// chargeMapping charges the Limit for n more bytes in a mapping. If it leaves too
// little, the consumed prefix is unmapped.
func (b *Buffer) chargeMapping(n int) error {
	if b.share == nil && b.Limit == nil || b.buf.Len > math.MaxInt-vm.Unit()-n {
		return nil
	}
	err := b.charge(vm.Ceil(b.buf.Len+n), n)
	if cut := b.consumed(); err != nil && cut > 0 {
		b.afterCut(b.m.CutFront(cut))
		err = b.charge(vm.Ceil(b.buf.Len+n), n)
	}
	return err
}

// growByCopying copies the contents to new storage, with room for n more bytes. As in
// bytes.Buffer, the consumed prefix adds to the new capacity, so that a Buffer that is
// also read has room to slide its contents.
func (b *Buffer) growByCopying(n int) error {
	live, size := b.Len(), b.Cap()
	if size > math.MaxInt-size-n {
		return ErrTooLarge
	}
	c := b.limitToMaxLen(max(2*(size-b.off), live+b.off+n), n)
	err := b.copyToNew(c, live+n)
	if err == nil || isLimit(err) || err == ErrTooLarge {
		return err
	}
	return newMemoryError(fmt.Sprintf("grow %s to %s", sizeString(size), sizeString(live+n)), err)
}

// makeRoom is grow for a Buffer that only its caller uses. If a Limit leaves too
// little, it collects garbage and tries again.
func (b *Buffer) makeRoom(n int) error {
	if b.off == 0 && n <= b.Cap()-b.buf.Len && (b.share == nil && b.Limit == nil || b.m != nil && n <= b.available()) {
		return nil
	}
	err := b.tryRoom(n)
	if b.hasCollected(err) {
		err = b.tryRoom(n)
	}
	return err
}

// tryRoom is makeRoom with one try. It holds the lock of ReadAt, in case that another
// goroutine reads the Buffer against the rules, unless the storage is a small slice
// and remains one.
func (b *Buffer) tryRoom(n int) error {
	if b.m != nil || n > mapping.IdleMin || 2*b.buf.Cap+n > min(mapping.IdleMin, mapThreshold) {
		mu := b.atLock()
		mu.Lock()
		defer mu.Unlock()
	}
	return b.grow(n)
}

// makeSomeRoom is makeRoom, or if a Limit leaves less, for as many bytes as it leaves.
// It returns how many these are, and a *limitError if they are fewer than n. It panics
// for lack of memory.
func (b *Buffer) makeSomeRoom(n int) (got int, err error) {
	full := b.makeRoom(n)
	if full == nil {
		return n, nil
	}
	err, got = full, n
	for tries := 0; isLimit(err); tries++ {
		// Others may have taken what was left meanwhile.
		if got = min(got-1, b.roomInLimit()); got <= 0 || tries == 8 {
			return 0, full
		}
		err = b.tryRoom(got)
	}
	if err != nil {
		panicFor(err)
	}
	return got, full
}

// A queue of constant length uses the same memory again and again: the consumed
// prefix is moved behind the contents for the next writes, if it is at least a
// quarter of the contents plus recycleMin units: so a page is moved for at least four
// times as much that is written, and few VMAs are made.
const recycleMin = 8

// canRecycle reports whether recycling the consumed prefix would make room for
// n more bytes.
func (b *Buffer) canRecycle(n int) bool {
	k := b.consumed()
	return n <= k && k >= b.Len()/4+recycleMin*vm.Unit() && b.Limit == nil && b.m.NeedsMemory(b.buf.Len+n)
}

// consumed returns the number of bytes at the start of the storage that will
// not be read again, not even after UnreadRune, rounded down to a multiple of
// vm.Unit.
func (b *Buffer) consumed() int { return vm.Floor(max(b.off-utf8.UTFMax, 0)) }

// recycle moves the consumed prefix, or a part of it, behind the contents, or
// unmaps it. It reports whether it has done either.
func (b *Buffer) recycle() (done bool) {
	cut := b.m.Recycle(b.consumed())
	b.afterCut(cut)
	return cut > 0
}

// unmapConsumed unmaps the consumed prefix but for a part that recycle may need.
func (b *Buffer) unmapConsumed() {
	k := b.consumed() - vm.Ceil(b.Len()/4) - discardStep
	if b.m == nil || k < discardStep {
		return
	}
	mu := b.atLock()
	mu.Lock()
	defer mu.Unlock()
	b.afterCut(b.m.CutFront(vm.Floor(k)))
}

// remap makes room for n more bytes in a mapping with mremap(2), as grow does.
func (b *Buffer) remap(n int) error {
	drop, want := remapPlan(b.Len(), b.off, b.Cap(), n)
	want = b.limitToMaxLen(want+drop, n) - drop
	want, need, ok := roundCapacities(want, b.buf.Len-drop+n)
	if !ok {
		return ErrTooLarge
	}
	cut, err := b.m.Grow(drop, want, need)
	b.afterCut(cut)
	return err
}

// remapPlan decides how a mapping of c bytes makes room for n more, if its
// contents are live bytes after a consumed prefix of off bytes. It returns the
// number of bytes to cut from the prefix, and the length that the mapping
// should have then.
func remapPlan(live, off, c, n int) (drop, want int) {
	drop = vm.Floor(off)
	if drop < live/4 {
		// Moving page-table entries has a cost. Do not do it for a
		// prefix of less than a quarter of the contents.
		drop = 0
	}
	need := off - drop + live + n
	if drop > 0 && need <= c {
		return drop, c
	}
	return drop, max(2*c, need)
}

// A Buffer that is viewed, outgrown and viewed again is used as a bytes.Buffer is, and
// grows like one after viewsToSlice views: then a mapping would save no copy, and each
// view costs its pages. One look at the start is not enough for that.
const viewsToSlice = 2

// copyToNew copies the contents to new storage with a capacity of about c bytes, or
// of need bytes if there is not enough memory for c, or a Limit leaves less.
func (b *Buffer) copyToNew(c, need int) error {
	huge := !b.NoHugePages
	if b.adopted == viewsToSlice && b.m == nil && b.copyToNewSlice(c, need) == nil {
		return nil
	}
	if c <= mapThreshold || !mapping.Available() {
		if c >= mapping.IdleMin && b.Limit == nil {
			_ = b.charge(c, 0) // of a Limit that b had before
			if m := mapping.FromIdle(c, huge); m != nil {
				m.BoundCapacity(c)
				b.copyToMapping(m)
				return nil
			}
		}
		return b.copyToNewSlice(c, need)
	}

	want, least, ok := roundCapacities(c, need)
	if !ok {
		return ErrTooLarge
	}
	if b.charge(least, need-b.Len()) != nil {
		return b.copyToNewSlice(c, need) // of which there may be less than whole pages
	}
	m, err := mapping.New(want, huge)
	if err != nil && mapping.Available() && least < want {
		want = least
		m, err = mapping.New(want, huge)
	}
	switch {
	case err == nil:
		b.copyToMapping(m)
		return nil
	case !mapping.Available(): // refused for good, or too many mappings
		return b.copyToNewSlice(want, need)
	}
	return err
}

// copyToNewSlice copies the contents to a new slice of c bytes, rounded up to the
// size of an allocation, or of need bytes if a Limit leaves less.
func (b *Buffer) copyToNewSlice(c, need int) (err error) {
	if c > vm.MaxSize {
		return ErrTooLarge
	}
	n := need - b.Len()
	if err = b.charge(c, n); err != nil {
		// Half of what is left, so that few writes copy the contents, and others
		// can go on.
		c = need + max(b.roomInLimit()-n, 0)/2
		err = b.charge(c, n)
	}
	if err != nil {
		c = need
		err = b.charge(c, n)
	}
	if err != nil {
		return err
	}
	if c > vm.MiB { // the runtime ends the program if it gets no memory
		if err := vm.ProbeHeap(c); err != nil {
			return err
		}
	}
	if b.m == nil && c > vm.MiB && b.copyToHeap(c) {
		return nil
	}
	defer func() {
		if recover() != nil { // make panics if c is out of range
			err = ErrTooLarge
		}
	}()
	p := append([]byte(nil), make([]byte, c)...)
	if b.share == nil {
		c = cap(p)
	}
	b.copyToSlice(p[:c:c])
	return nil
}

// roundCapacities returns the capacities want and need, need if it is more, rounded
// up to a multiple of vm.Unit. It reports false if need is too large for that.
func roundCapacities(want, need int) (roundWant, roundNeed int, ok bool) {
	roundNeed, ok = vm.Round(need)
	if roundWant, wantOK := vm.Round(want); wantOK && roundWant > roundNeed {
		return roundWant, roundNeed, ok
	}
	return roundNeed, roundNeed, ok
}

// limitToMaxLen lowers the capacity c to what MaxLen allows to be filled, but
// not below what n more bytes need.
func (b *Buffer) limitToMaxLen(c, n int) int {
	if more := max(b.roomToMax(), n); more < c-b.buf.Len {
		return b.buf.Len + more
	}
	return c
}

// roomToMax returns the number of bytes that MaxLen allows to be added.
func (b *Buffer) roomToMax() int {
	if b.MaxLen <= 0 {
		return math.MaxInt
	}
	return max(b.MaxLen-b.Len(), 0)
}

// reserve is Reserve for callers that hold the lock of ReadAt. buf must be
// current.
func (b *Buffer) reserve(n int) error {
	if n < 0 {
		return errNegativeReserve
	}
	if n > b.roomToMax() {
		return b.maxLenError(n)
	}
	return b.grow(n)
}

// shrinkMapping cuts the mapping to the pages of the contents. It ignores
// failures, after which the rest stays mapped.
func (b *Buffer) shrinkMapping() {
	back, _ := vm.Round(b.buf.Len)
	b.afterCut(b.m.Shrink(vm.Floor(b.off), back))
}
