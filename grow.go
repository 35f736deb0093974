package mmapbuf

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// mapThreshold is the capacity, in bytes, beyond which new storage is a mapping
// and not a Go slice. For contents of up to 1 MiB, slices are faster than a
// mapping with a huge page. Only tests change it.
var mapThreshold = 1 << 20

const (
	smallSize   = 64       // least capacity of a slice
	slideMax    = 4 << 20  // largest contents that are copied down within a mapping
	discardStep = 32 << 20 // a consumed prefix is unmapped in steps of this size, a power of two

	// maxSlice bounds storage, in bytes. No process has a larger address
	// space, and a larger allocation is fatal in Go.
	maxSlice = min(math.MaxInt/2+1, 1<<46)
)

// grow makes Available at least n. It may drop the consumed prefix, even if it
// fails. On failure, the contents are unchanged. buf must be current.
func (b *Buffer) grow(n int) error {
	live := b.Len()
	if live == 0 && b.off != 0 {
		b.rewind()
	}
	used, size, c := b.buf.len, b.Cap(), b.buf.cap
	if b.m != nil { // buf is only what was cleared
		c = b.m.committedTo()
	}
	switch {
	case n <= c-used:
		return nil
	case c == 0 && b.m == nil && n <= smallSize && smallSize < mapThreshold:
		b.setSlice(make([]byte, 0, smallSize), 0)
		return nil
	case n <= c/2-live && (b.m == nil || live <= slideMax):
		// At least half of the storage is consumed. So this copies,
		// amortized, at most one byte per byte written.
		b.slide()
		return nil
	case b.m != nil && b.canRecycle(n) && b.recycle():
		return b.grow(n)
	case n <= b.Cap()-used: // recycle may have failed, and made it smaller
		return nil
	case size > math.MaxInt-size-n:
		return ErrTooLarge
	case b.m != nil && b.m.growCapacity(used+n):
		return nil
	case b.m != nil && b.remap(n) == nil:
		return nil
	}
	// Whatever mremap(2) has refused, a new mapping may be possible. As in
	// bytes.Buffer, the consumed prefix adds to the new capacity, so that a
	// Buffer that is also read has room to slide its contents.
	size, mapped := b.Cap(), b.m != nil // remap may have cut the front
	err := b.move(b.limitToMaxLen(max(2*(size-b.off), live+b.off+n), n), live+n)
	switch {
	case err == nil && mapped:
		countCopy(live)
	case err != nil && err != ErrTooLarge:
		err = newMemoryError(fmt.Sprintf("grow %s to %s", sizeString(size), sizeString(live+n)), err)
	}
	return err
}

// makeRoom is grow for a Buffer that only its caller uses. It holds the lock of
// ReadAt, in case that another goroutine reads the Buffer against the rules,
// unless the storage is a small slice and remains one.
func (b *Buffer) makeRoom(n int) error {
	if b.off == 0 && n <= b.Cap()-b.buf.len {
		return nil
	}
	if b.m != nil || n > idleMin || 2*b.buf.cap+n > min(idleMin, mapThreshold) {
		mu := b.atLock()
		mu.Lock()
		defer mu.Unlock()
	}
	return b.grow(n)
}

// A queue of constant length uses the same memory again and again: the consumed
// prefix is moved behind the contents for the next writes, if it is at least a
// quarter of the contents plus recycleMin units.
const recycleMin = 8

// canRecycle reports whether recycling the consumed prefix would make room for
// n more bytes.
func (b *Buffer) canRecycle(n int) bool {
	k := b.consumed()
	return n <= k && k >= b.Len()/4+recycleMin*pageUnit() && b.m.needsMemory(b.buf.len+n)
}

// consumed returns the number of bytes at the start of the storage that will
// not be read again, not even after UnreadRune, rounded down to a multiple of
// pageUnit.
func (b *Buffer) consumed() int { return pageFloor(max(b.off-utf8.UTFMax, 0)) }

// recycle moves the consumed prefix, or a part of it, behind the contents, or
// unmaps it. It reports whether it has done either.
func (b *Buffer) recycle() (done bool) {
	k := b.consumed()
	_ = b.remapStorage(func(p *pages) (int, error) {
		cut := p.recycle(k)
		done = cut > 0
		return cut, nil
	})
	return done
}

// remap makes room for n more bytes in a mapping with mremap(2), as grow does.
func (b *Buffer) remap(n int) error {
	drop, want := remapPlan(b.Len(), b.off, b.Cap(), n)
	want = b.limitToMaxLen(want+drop, n) - drop
	return b.remapStorage(func(p *pages) (int, error) {
		if drop > 0 && p.cutFront(drop) != nil {
			drop = 0 // it stays
		}
		return drop, tryCapacities(want, b.buf.len-drop+n, p.grow)
	})
}

// remapPlan decides how a mapping of c bytes makes room for n more, if its
// contents are live bytes after a consumed prefix of off bytes. It returns the
// number of bytes to cut from the prefix, and the length that the mapping
// should have then.
func remapPlan(live, off, c, n int) (drop, want int) {
	drop = pageFloor(off)
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

// move copies the contents to new storage with a capacity of about c bytes, or
// of need bytes if there is not enough memory for a mapping of c.
func (b *Buffer) move(c, need int) error {
	if c <= mapThreshold || !canMap() {
		if c >= idleMin {
			if m := idleMapping(c, !b.NoHugePages); m != nil {
				m.setCapacity(c)
				b.copyToMapping(m)
				return nil
			}
		}
		return b.moveToSlice(c)
	}
	return tryCapacities(c, need, func(c int) error {
		m, err := newMapping(c, !b.NoHugePages)
		if err != nil {
			if !canMap() { // permanently refused, or too many mappings
				return b.moveToSlice(c)
			}
			return err
		}
		b.copyToMapping(m)
		return nil
	})
}

// moveToSlice copies the contents to a new slice of c bytes, rounded up to the
// size of an allocation.
func (b *Buffer) moveToSlice(c int) (err error) {
	if c > maxSlice {
		return ErrTooLarge
	}
	if c > miB { // the runtime ends the program if it gets no memory
		if err := probeHeap(c); err != nil {
			return err
		}
	}
	defer func() {
		if recover() != nil { // make panics if c is out of range
			err = ErrTooLarge
		}
	}()
	p := append([]byte(nil), make([]byte, c)...)
	b.copyTo(p[:cap(p)])
	return nil
}

// tryCapacities calls try with a capacity of want bytes, and if that fails, of
// need bytes, both rounded up to a multiple of pageUnit.
func tryCapacities(want, need int, try func(c int) error) error {
	least, ok := pageRound(need)
	if !ok {
		return ErrTooLarge
	}
	if c, ok := pageRound(want); ok && c > least && try(c) == nil {
		return nil
	}
	return try(least)
}

// limitToMaxLen lowers the capacity c to what MaxLen allows to be filled, but
// not below what n more bytes need.
func (b *Buffer) limitToMaxLen(c, n int) int {
	if more := max(b.roomToMax(), n); more < c-b.buf.len {
		return b.buf.len + more
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
	_ = b.remapStorage(func(p *pages) (cut int, err error) {
		if cut = pageFloor(b.off); cut > 0 && p.cutFront(cut) != nil {
			cut = 0
		}
		if end, _ := pageRound(b.buf.len - cut); end < len(p.mem) {
			_ = p.cutBack(end)
		}
		return cut, nil
	})
}
