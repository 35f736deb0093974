//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mapping

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

const (
	kiB = vm.KiB
	miB = vm.MiB
	giB = vm.GiB
)

// TestMain leaves ticks to the tests, but for those that run in a child.
//
// Nor do pages of views come back, at any time, but in the tests of that.
func TestMain(m *testing.M) {
	lentMax = 0
	if os.Getenv(proctest.Child) == "" {
		period = 1000 * time.Hour
	}
	os.Exit(m.Run())
}

// An owner does with a Mapping what a Buffer does. The contents are mem[off:end] of
// its generation gen. The methods panic on errors. A copy of an owner is as that of a
// Buffer.
type owner struct {
	noHuge   bool
	m        *Mapping // nil if there are no contents
	gen      uint32
	off, end int
	window   []byte
}

// Write appends p.
func (o *owner) Write(p []byte) {
	if o.m == nil || o.m.Committed() < o.end+len(p) {
		Pace(o.m)
	}
	o.Grow(len(p))
	o.append(len(p), func(mem []byte) int { return copy(mem, p) })
}

func (o *owner) append(n int, f func(mem []byte) int) {
	mem, ok := o.m.Append(o.gen, o.end, n, f)
	if !ok {
		panic("stale")
	}
	o.window, o.end = mem, len(mem)
}

// Grow makes room for n more bytes: in the mapping, or in a new one.
func (o *owner) Grow(n int) {
	need := o.end + n
	if o.m == nil {
		o.copyTo(n)
		return
	}
	if need <= o.m.Capacity() || o.m.GrowCapacity(need) {
		return
	}
	front := o.consumed()
	want, _ := vm.Round(max(2*o.m.Capacity(), need) - front)
	least, _ := vm.Round(need - front)
	cut, err := o.m.Grow(front, max(want, least), least)
	if o.moved(cut); err != nil { // there are seams
		o.copyTo(o.end - o.off + n)
	}
}

// moved is called after cut bytes were cut from the front.
func (o *owner) moved(cut int) {
	o.off, o.end = o.off-cut, o.end-cut
	o.window, o.gen = o.m.Window(o.end)
}

// copyTo copies the contents to a new mapping of at least n bytes.
func (o *owner) copyTo(n int) {
	n, _ = vm.Round(n)
	m, err := New(n, !o.noHuge)
	if err != nil {
		panic(err)
	}
	p := o.contents()
	o.Close()
	o.m, o.gen = m, m.Generation.Load()
	o.append(len(p), func(mem []byte) int { return copy(mem, p) })
}

// WriteAt writes p at an offset in the contents, and zeroes a gap before it.
func (o *owner) WriteAt(p []byte, off int) {
	if more := o.off + off + len(p) - o.end; more > 0 {
		o.Grow(more)
		end := o.end + more
		o.window, o.end = o.m.Extend(o.end, max(o.off+off, o.end), end), end
	}
	if filled, ok := o.m.Overwrite(o.gen, o.off+off, len(p), o.end, func(mem []byte) { copy(mem, p) }); !ok {
		panic("stale")
	} else if filled {
		Pace(o.m)
	}
}

// Read consumes n bytes.
func (o *owner) Read(n int) { o.off += n }

// consumed returns how much of the memory has no contents any more, but never all.
func (o *owner) consumed() int { return vm.Floor(max(min(o.off, o.end-1), 0)) }

// Recycle and CutFront do with what is consumed what those of a Mapping do.
func (o *owner) Recycle() {
	if k := o.consumed(); k > 0 {
		o.moved(o.m.Recycle(k))
	}
}
func (o *owner) CutFront() { o.moved(o.m.CutFront(o.consumed())) }

// Shorten makes the contents n bytes long.
func (o *owner) Shorten(n int) {
	if o.end = o.off + n; o.m.Sparse() {
		o.m.Shorten(o.end)
	}
	o.moved(0)
}

// Shrink cuts what has no contents off the mapping.
func (o *owner) Shrink() {
	back, _ := vm.Round(o.end)
	o.moved(o.m.Shrink(o.consumed(), back))
}

// Bytes publishes the contents, of which o has none afterwards.
func (o *owner) Bytes(spare int) []byte {
	p, err := o.publish(spare)
	if err != nil {
		panic(err)
	}
	return p
}

func (o *owner) publish(spare int) ([]byte, error) {
	if err := o.m.Publish(o.gen, o.consumed(), o.end, spare); err != nil {
		o.moved(0)
		return nil, err
	}
	p, lo := o.m.Published(o.gen, o.off, o.end)
	p = p[o.off-lo : o.end-lo]
	*o = owner{noHuge: o.noHuge}
	return p, nil
}

// contents returns a copy of them.
func (o *owner) contents() (p []byte) {
	if o.m != nil && !o.m.Read(o.gen, o.off, o.end, func(mem []byte) { p = bytes.Clone(mem) }) {
		panic("stale")
	}
	return p
}

// Close frees the memory.
func (o *owner) Close() {
	if o.m != nil {
		_ = o.m.Release(o.gen)
	}
	*o = owner{noHuge: o.noHuge}
}

// check says which invariant does not hold.
func (o *owner) check() error {
	if o.m == nil {
		return nil
	}
	return o.m.Check(o.gen, o.off, o.end, cap(o.window))
}

// foreign is what earlier owners of idle memory have written, and nobody else.
const foreign = 0xee

// leaveForeign makes idle memory that has n such bytes, and an address space of at
// least size bytes.
func leaveForeign(n, size int, noHuge bool) {
	o := owner{noHuge: noHuge}
	o.Grow(max(n, size))
	for p := bytes.Repeat([]byte{foreign}, 64*kiB); n > 0; n -= len(p) {
		o.Write(p[:min(n, len(p))])
	}
	o.Close()
}

func hasForeign(p []byte) bool { return bytes.IndexByte(p, foreign) >= 0 }

// noise has no zeros, and no foreign bytes.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 4*miB)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	for i, c := range p {
		if c == 0 || c == foreign {
			p[i] = 1
		}
	}
	return p
})

const piece = 64 * kiB

func pieceOf(seed, k int) []byte {
	i := (seed*7919 + k*4099) % (len(noise()) - piece)
	return noise()[i : i+piece]
}

// fill appends n bytes that depend on seed.
func fill(o *owner, seed, n int) {
	for k := 0; n > 0; k++ {
		p := pieceOf(seed, k)[:min(n, piece)]
		o.Write(p)
		n -= len(p)
	}
}

// filled returns an owner of n such bytes.
func filled(seed, n int) *owner {
	o := new(owner)
	fill(o, seed, n)
	return o
}

// isFilled reports whether p is what fill has written from offset off on.
func isFilled(p []byte, seed, off int) bool {
	for len(p) > 0 {
		q := pieceOf(seed, off/piece)[off%piece:]
		if q = q[:min(len(p), len(q))]; !bytes.Equal(q, p[:len(q)]) {
			return false
		}
		p, off = p[len(q):], off+len(q)
	}
	return true
}

// use fills an owner with n bytes, and frees the memory.
func use(n int) { filled(1, n).Close() }

// noIdle has no mappings and no idle memory, and no garbage that could become it.
func noIdle(t testing.TB) {
	t.Helper()
	if Counters.Mappings.Load() > 0 {
		proctest.Eventually(t, func() bool { return Counters.Mappings.Load() == 0 })
	}
	proctest.WaitFor(t, seen)
	EmptyIdle()
	require.Zero(t, IdleBytes())
}

// seen reports whether afterCollection, which empties idle memory, will not do so
// because of a collection that was requested before.
func seen() bool {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	forced := metric("/gc/cycles/forced:gc-cycles") - Counters.Collections.Load()
	ran := pacer.asked >= forced
	if !pacer.armed || pacer.next.Value() != nil { // it has run, or need not
		pacer.asked = max(pacer.asked, forced)
	}
	return ran
}

// setUnit replaces vm.Unit for the length of a test.
func setUnit(t testing.TB, n int) {
	t.Helper()
	noIdle(t)
	proctest.Set(t, &vm.Unit, func() int { return n })
	t.Cleanup(func() { noIdle(t) })
}

// rss returns the resident memory of the process, in bytes.
func rss() int { return int(proctest.Bytes("self/status", "VmRSS")) }

// limitSpace leaves the process room bytes of address space until restore is called.
func limitSpace(t *testing.T, room int) (restore func()) {
	t.Helper()
	return proctest.Limit(t, unix.RLIMIT_AS, "VmSize", room)
}

// block maps what is behind o from offset n on, if nothing is.
func block(t *testing.T, o *owner, n int) {
	t.Helper()
	at, err := unix.MmapPtr(-1, 0, unsafe.Add(unsafe.Pointer(unsafe.SliceData(o.m.mem)), n), uintptr(vm.Unit()),
		unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE)
	if err != unix.EEXIST {
		require.NoError(t, err)
		t.Cleanup(func() { _ = unix.MunmapPtr(at, uintptr(vm.Unit())) })
	}
}

var address = proctest.Address

// all returns all of the memory of o.
func (o *owner) all() []byte { return o.m.mem[:cap(o.m.mem)] }

// pagesIn returns a byte for each page of mem, of which the lowest bit says whether it
// is resident, or nil if some is not mapped. Pages of zeros that are only there
// because they were read are none, where the system tells (proc_pid_pagemap(5)).
func pagesIn(mem []byte) []byte {
	vec, _ := proctest.Pages(address(mem), len(mem))
	if len(vec) == 0 {
		return nil
	}
	pagemap, err := os.Open("/proc/self/pagemap")
	if err != nil {
		return vec
	}
	defer pagemap.Close()
	entries := make([]byte, 8*len(vec))
	if _, err := pagemap.ReadAt(entries, 8*int64(address(mem))/int64(os.Getpagesize())); err != nil {
		return vec
	}
	for i := range vec {
		const exclusive = 1 << 56 // mapped by nobody else, as the page of zeros is
		if vec[i]&1 != 0 && binary.NativeEndian.Uint64(entries[8*i:])&exclusive == 0 {
			vec[i] = 0
		}
	}
	return vec
}

// resident returns how many bytes of mem are.
func resident(mem []byte) (n int) {
	for _, v := range pagesIn(mem) {
		n += int(v&1) * os.Getpagesize()
	}
	return n
}
