package mmapbuf

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"strconv"
	"unicode/utf8"
)

// mapThreshold is the capacity, in bytes, beyond which storage is a mapping and
// not a Go slice. A mapping of one huge page for what fits in 1 MiB takes longer
// than the slices do. Only tests change it.
var mapThreshold = 1 << 20

const (
	smallSize   = 64       // least capacity of a slice
	slideMax    = 4 << 20  // contents up to this size are copied down within a mapping, larger ones never
	populateMin = 16 << 10 // a Write of so many bytes is announced to the page layer
	trimStep    = 32 << 20 // a consumed prefix gives its memory back each time it has grown by this

	// maxSlice bounds storage, in bytes: more addresses than that no process
	// has, and to ask Go for them is fatal.
	maxSlice = min(math.MaxInt/2+1, 1<<46)
)

// A mapping is the memory that a Buffer owns outside of the Go heap. Only its
// Buffer refers to it, so when the collector finds it unreachable, no slice of
// the memory is left: views are of published pages only.
type mapping struct {
	*pages
	lent int  // calls of a Reader or Writer in progress that were handed a part of mem
	left bool // the Buffer has new storage; the last of those calls unmaps mem
}

// newMapping maps at least n bytes, a number that pageRound accepts.
func newMapping(n int, huge bool) (*mapping, error) {
	nudgeCollector()
	p, err := mapPages(n, huge)
	if err != nil {
		return nil, err
	}
	m := &mapping{pages: p}
	runtime.AddCleanup(m, func(p *pages) { _ = p.unmap() }, p)
	return m, nil
}

// lend notes that a part of the mapping is handed to a Reader or Writer.
// Until takeBack the memory stays where it is, even if that Reader or Writer
// uses the Buffer: what would move or unmap it leaves it behind instead.
func (b *Buffer) lend() *mapping {
	b.m.lent++
	return b.m
}

func (m *mapping) takeBack() {
	m.lent--
	if m.left && m.lent == 0 {
		_ = m.unmap()
	}
}

// unmap is pages.unmap with m reachable until it is done. Else the cleanup of m
// might unmap as well, and the later of the two hit what has been mapped there
// since.
func (m *mapping) unmap() error {
	err := m.pages.unmap()
	runtime.KeepAlive(m)
	return err
}

// release gives m back to the system, at once or when the calls that use it
// have returned.
func (m *mapping) release() error {
	if m.lent > 0 {
		m.left = true
		return nil
	}
	return m.unmap()
}

// setSlice makes p, Go memory, the storage. It does not release a mapping.
func (b *Buffer) setSlice(p []byte, off int) {
	b.buf, b.off, b.m, b.self = p, off, nil, nil
}

// setMapping makes m the storage, with the contents at m.mem[off:end].
func (b *Buffer) setMapping(m *mapping, off, end int) {
	b.buf, b.off, b.m = m.mem[:end], off, m
	for b.self != b { // again if a stack that holds b moved meanwhile
		b.self = noescape(b)
	}
}

// grow makes room for n more bytes: cap(buf)-len(buf) >= n. It may discard the
// consumed prefix, even if it fails; the contents are then as before.
func (b *Buffer) grow(n int) error {
	if b.buf == nil && n <= smallSize && smallSize < mapThreshold {
		b.buf = make([]byte, 0, smallSize)
		return nil
	}
	live := b.Len()
	if live == 0 && b.off != 0 {
		b.rewind()
	}
	c := cap(b.buf)
	switch {
	case n <= c-len(b.buf):
		return nil
	case n <= c/2-live && (b.m == nil || live <= slideMax):
		// Half of the storage is consumed at least, so that this copies no
		// byte more than once for each byte written.
		copy(b.buf, b.buf[b.off:])
		b.buf, b.off = b.buf[:live], 0
		runtime.KeepAlive(b)
		return nil
	case c > math.MaxInt-c-n:
		return ErrTooLarge
	case b.m != nil && b.m.lent == 0:
		if canRemap() {
			if err := b.remap(n); err == nil || canRemap() {
				return err
			}
		}
		stats.copies.Add(1)
	}
	// The prefix counts, as for bytes.Buffer: a Buffer that is also read from
	// wants room to slide in.
	return b.move(b.bounded(max(2*(c-b.off), live+b.off+n), n), live+n)
}

// remap makes room for n more bytes in a mapping.
func (b *Buffer) remap(n int) error {
	live := b.Len()
	drop, want := remapPlan(live, b.off, cap(b.buf), n)
	b.dropFront(drop)
	err := b.tryCaps(b.bounded(want, n), len(b.buf)+n, b.m.grow)
	b.setMapping(b.m, b.off, len(b.buf)) // it may have moved and yet not grown
	return err
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
		return b.moveToSlice(c)
	}
	return b.tryCaps(c, need, func(c int) error {
		m, err := newMapping(c, !b.NoHugePages)
		if err != nil {
			if !canMap() { // not even a smaller one
				return b.moveToSlice(c)
			}
			return err
		}
		n := copy(m.mem, b.buf[b.off:])
		b.leave()
		b.setMapping(m, 0, n)
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
	n := copy(p, b.buf[b.off:])
	b.leave()
	b.setSlice(p[:n], 0)
	return nil
}

// leave releases the mapping, if the storage is one, before new storage takes
// its place.
func (b *Buffer) leave() {
	if b.m != nil {
		_ = b.m.release() // what munmap(2) refuses stays mapped, and is out of reach
	}
}

// tryCaps calls try with a capacity of want bytes, and if the memory for that
// cannot be had, of just need, rounded to whole pages.
func (b *Buffer) tryCaps(want, need int, try func(c int) error) error {
	from := cap(b.buf)
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

// bounded lowers a capacity to what MaxLen allows to fill, but not below what
// n more bytes need.
func (b *Buffer) bounded(c, n int) int {
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

func (b *Buffer) maxLenError(n int) error {
	return &maxLenError{len: b.Len(), n: n, max: b.MaxLen}
}

// Reserve is [Buffer.Grow] that returns an error instead of panicking: if n is
// negative, if Len+n exceeds MaxLen, or if room for n more bytes cannot be
// had. The last two wrap ErrTooLarge. The contents are intact in any case.
func (b *Buffer) Reserve(n int) error {
	b.check()
	if n < 0 {
		return errNegativeReserve
	}
	if n > b.roomToMax() {
		return b.maxLenError(n)
	}
	return b.grow(n)
}

// Shrink gives the consumed prefix and the spare capacity back to the system,
// those of a mapping in whole pages. The contents stay. UnreadByte and
// UnreadRune do not reach back over it.
func (b *Buffer) Shrink() {
	b.check()
	b.lastRead = opInvalid
	live := b.Len()
	switch mapped := live > mapThreshold && canMap(); {
	case live == 0:
		_ = b.Close()
	case !mapped && live < cap(b.buf):
		p := append(make([]byte, 0, live), b.buf[b.off:]...)
		b.leave()
		b.setSlice(p, 0)
	case mapped && b.m == nil:
		if c, ok := pageRound(live); ok && c < cap(b.buf) {
			_ = b.move(c, live) // if it fails, the storage stays
		}
	case mapped && b.m.lent == 0:
		b.shrinkMapping()
	}
}

// shrinkMapping cuts the mapping to the pages of the contents.
func (b *Buffer) shrinkMapping() {
	b.dropFront(pageFloor(b.off))
	if end, _ := pageRound(len(b.buf)); end < cap(b.buf) && b.m.dropBack(end) == nil {
		b.setMapping(b.m, b.off, len(b.buf))
	}
}

// dropFront unmaps the first k bytes of the mapping, all of them consumed. If
// that fails they stay.
func (b *Buffer) dropFront(k int) {
	if k > 0 && b.m.dropFront(k) == nil {
		b.setMapping(b.m, b.off-k, len(b.buf)-k)
	}
}

// trim gives back the memory of the first end bytes of a mapping, all of them
// consumed, but not its addresses, so that a queue takes up as much as is in it.
func (b *Buffer) trim(end int) {
	if b.m != nil && b.m.lent == 0 && end > utf8.UTFMax {
		_ = b.m.clear(0, pageFloor(end-utf8.UTFMax)) // Unread* may reach back
	}
}

// publish moves the storage from the mapping to the Go heap, so that a view of
// it can be handed out: the contents and spare capacity of room bytes at most,
// for the heap counts spare capacity as used.
func (b *Buffer) publish(room int) {
	b.check()
	lo := pageFloor(max(b.off-utf8.UTFMax, 0)) // Unread* may reach back
	hi, _ := pageRound(len(b.buf) + min(room, b.Available()))
	err := probeHeap(hi - lo)
	switch {
	case err != nil:
	case b.m.lent > 0:
		err = b.moveToSlice(hi - lo)
	default:
		var p []byte
		if p, err = b.m.publish(lo, len(b.buf), hi); err == nil {
			b.setSlice(p[:len(b.buf)-lo], b.off-lo)
		}
	}
	if err != nil {
		panic(&memoryError{fmt.Sprintf("publish %s", sizeString(hi-lo)), err})
	}
	stats.publishes.Add(1)
	stats.publishedBytes.Add(int64(hi - lo))
}

// Close empties the Buffer and gives its memory back: a mapping to the system,
// at once; a slice to the collector. The Buffer is then as good as new, with
// its MaxLen and NoHugePages. Closing is never a duty, and closing twice does
// no harm. Slices that the Buffer has returned stay valid. An error is that of
// munmap(2).
//
// Having a Close makes a Buffer an [io.Closer], which some code closes unasked:
// net/http closes the body of a request. struct{ io.Reader }{b} hides it.
func (b *Buffer) Close() error {
	b.lastRead = opInvalid
	if b.m != nil {
		return b.closeMapping()
	}
	b.buf, b.off = nil, 0
	return nil
}

func (b *Buffer) closeMapping() error {
	b.check()
	m := b.m
	b.setSlice(nil, 0)
	return m.release()
}

var errNegativeReserve = errors.New("mmapbuf: Reserve: negative count")

// A memoryError says what the system refused. It wraps ErrTooLarge as well.
type memoryError struct {
	what string
	err  error
}

func (e *memoryError) Error() string   { return "mmapbuf: " + e.what + ": " + e.err.Error() }
func (e *memoryError) Unwrap() []error { return []error{ErrTooLarge, e.err} }

// A maxLenError says that n more bytes do not fit below MaxLen.
type maxLenError struct{ len, n, max int }

func (e *maxLenError) Error() string {
	return fmt.Sprintf("mmapbuf: %d bytes and %d more exceed MaxLen %d", e.len, e.n, e.max)
}

func (e *maxLenError) Unwrap() error { return ErrTooLarge }

// sizeString formats n bytes in the largest binary unit that is not above it.
func sizeString(n int) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	x, u := float64(n), 0
	for x >= 1024 && u < len(units)-1 {
		x, u = x/1024, u+1
	}
	return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) + " " + units[u]
}
