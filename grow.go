package mmapbuf

import (
	"fmt"
	"math"
	"unicode/utf8"
)

// mapThreshold is the capacity, in bytes, beyond which storage is a mapping and
// not a Go slice. A mapping of one huge page for what fits in 1 MiB takes longer
// than the slices do. Only tests change it.
var mapThreshold = 1 << 20

const (
	smallSize   = 64       // least capacity of a slice
	slideMax    = 4 << 20  // contents up to this size are copied down within a mapping, larger ones never
	prefaultMin = 16 << 10 // a Write of so many bytes is announced to the page layer
	discardStep = 32 << 20 // the memory of a consumed prefix is returned each time it has grown by this

	// maxSlice bounds storage, in bytes: more addresses than that no process
	// has, and to ask Go for them is fatal.
	maxSlice = min(math.MaxInt/2+1, 1<<46)
)

// grow makes Available at least n. It may discard the consumed prefix, even if
// it fails; the contents are then as before.
func (b *Buffer) grow(n int) error {
	live := b.Len()
	if live == 0 && b.off != 0 {
		b.rewind()
	}
	used, size := len(b.buf), b.Cap()
	switch c := cap(b.buf); {
	case n <= c-used:
		return nil
	case c == 0 && n <= smallSize && smallSize < mapThreshold:
		b.setSlice(make([]byte, 0, smallSize), 0)
		return nil
	case n <= c/2-live && (b.m == nil || live <= slideMax):
		// Half of the storage is consumed at least, so that this copies no
		// byte more than once for each byte written.
		b.slide()
		return nil
	case b.m != nil && b.canRecycle(n):
		b.recycle()
		return b.grow(n)
	case n <= size-used:
		return nil
	case size > math.MaxInt-size-n:
		return ErrTooLarge
	case b.m != nil && b.m.growCapacity(used+n):
		return nil
	case b.m != nil && !b.pinned():
		if canRemap() {
			if err := b.remap(n); err == nil || !refused(err) && remapWorks() {
				return err
			}
		}
		countCopy(live)
	}
	// The prefix counts, as for bytes.Buffer: a Buffer that is also read from
	// wants room to slide in.
	return b.move(b.limitToMaxLen(max(2*(size-b.off), live+b.off+n), n), live+n)
}

// growAndCommit is grow for bytes that are about to be written: they fit into buf then.
func (b *Buffer) growAndCommit(n int) error {
	err := b.grow(n)
	if err == nil {
		b.commit(n)
	}
	return err
}

// A queue that is as long as before uses the same memory again and again: what
// was consumed becomes the room for what is written next, once it is a quarter of
// the contents and recycleMin units.
const recycleMin = 8

// canRecycle reports whether to recycle makes room for n more bytes.
func (b *Buffer) canRecycle(n int) bool {
	k := b.consumed()
	return n <= k && k >= b.Len()/4+recycleMin*pageUnit() &&
		b.m.needsMemory(len(b.buf)+n) && canRemap() && !b.pinned()
}

// consumed returns how many bytes at the start of the storage, whole units, will
// not be read any more.
func (b *Buffer) consumed() int { return pageFloor(max(b.off-utf8.UTFMax, 0)) } // UnreadRune may reach back

// recycle makes room of the consumed prefix, or of a part of it.
func (b *Buffer) recycle() {
	k, n := b.consumed(), len(b.buf)
	_ = b.remapStorage(func(p *pages) (int, error) { return p.recycle(k, n), nil })
}

// remap makes room for n more bytes in a mapping, by mremap(2).
func (b *Buffer) remap(n int) error {
	drop, want := remapPlan(b.Len(), b.off, b.Cap(), n)
	want = b.limitToMaxLen(want+drop, n) - drop
	return b.remapStorage(func(p *pages) (int, error) {
		if drop > 0 && p.cutFront(drop) != nil {
			drop = 0 // it stays
		}
		return drop, tryCapacities(len(p.mem), want, len(b.buf)-drop+n, p.grow)
	})
}

// remapPlan decides how a full mapping of c bytes, live ones behind a consumed
// prefix of off, makes room for n more: how many bytes of the prefix to give
// back, and how long the mapping should be then.
func remapPlan(live, off, c, n int) (drop, want int) {
	drop = pageFloor(off)
	if drop < live/4 {
		// Moving page tables is cheap, not free: do not do it for less
		// than a quarter of the contents.
		drop = 0
	}
	need := off - drop + live + n
	if drop > 0 && need <= c {
		return drop, c
	}
	return drop, max(2*c, need)
}

// move copies the contents into new storage of c bytes, or of at least need if
// so much cannot be had.
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
	return tryCapacities(b.Cap(), c, need, func(c int) error {
		m, err := newMapping(c, !b.NoHugePages)
		if err != nil {
			if !canMap() { // not even a smaller one
				return b.moveToSlice(c)
			}
			return err
		}
		b.copyToMapping(m)
		return nil
	})
}

// moveToSlice copies the contents into a new slice of c bytes or a little
// more.
func (b *Buffer) moveToSlice(c int) (err error) {
	if c > maxSlice {
		return ErrTooLarge
	}
	defer func() {
		if recover() != nil { // make: c is out of range
			err = ErrTooLarge
		}
	}()
	// append rounds up to the size of an allocation.
	p := append([]byte(nil), make([]byte, c)...)
	b.copyTo(p[:cap(p)])
	return nil
}

// tryCapacities calls try with a capacity of want bytes, and if the memory for that
// cannot be had, of just need, rounded to whole pages. An error says that the
// capacity was from.
func tryCapacities(from, want, need int, try func(c int) error) error {
	least, ok := pageRound(need)
	if !ok {
		return ErrTooLarge
	}
	if c, ok := pageRound(want); ok && c > least && try(c) == nil {
		return nil
	}
	if err := try(least); err != nil {
		return &memoryError{fmt.Sprintf("grow %s to %s", sizeString(from), sizeString(least)), err}
	}
	return nil
}

// limitToMaxLen lowers a capacity to what MaxLen allows to fill, but not below what
// n more bytes need.
func (b *Buffer) limitToMaxLen(c, n int) int {
	if more := max(b.roomToMax(), n); more < c-len(b.buf) {
		return len(b.buf) + more
	}
	return c
}

// roomToMax returns how many bytes more MaxLen allows.
func (b *Buffer) roomToMax() int {
	if b.MaxLen <= 0 {
		return math.MaxInt
	}
	return max(b.MaxLen-b.Len(), 0)
}

// reserve is Reserve for a caller that holds a lock, and must not wait for the
// collector.
func (b *Buffer) reserve(n int) error {
	b.refresh()
	if n < 0 {
		return errNegativeReserve
	}
	if n > b.roomToMax() {
		return b.maxLenError(n)
	}
	return b.grow(n)
}

// shrinkMapping cuts the mapping to the pages of the contents. What cannot be
// cut stays.
func (b *Buffer) shrinkMapping() {
	_ = b.remapStorage(func(p *pages) (cut int, err error) {
		if cut = pageFloor(b.off); cut > 0 && p.cutFront(cut) != nil {
			cut = 0
		}
		if end, _ := pageRound(len(b.buf) - cut); end < len(p.mem) {
			_ = p.cutBack(end)
		}
		return cut, nil
	})
}
