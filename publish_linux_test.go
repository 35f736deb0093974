//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

func TestPublishMovesPages(t *testing.T) {
	needHugePages(t)
	needMoves(t)
	const size = 256 * miB
	needMemory(t, 4*size)
	b, want := mapped(t, size)
	before := vmas(t, b.m.Inspect().Mem)[0]
	require.Greater(t, before.huge, size/2, "the kernel has no huge pages to spare")

	debug.FreeOSMemory()
	rss := status(t, "VmRSS")
	var view []byte
	faults := minorFaults(t, func() { view = b.Bytes() })
	assert.Less(t, faults, 100, "copying %d MiB takes at least 128 faults", size/miB)
	if !raceEnabled { // whose shadow of the heap object is memory
		assert.InDelta(t, rss, status(t, "VmRSS"), 8*miB)
	}
	require.False(t, b.current())
	require.True(t, bytes.Equal(want, view))

	huge := 0
	for _, v := range vmas(t, view) {
		huge += v.huge
	}
	assert.GreaterOrEqual(t, huge, min(before.huge, size), "huge pages were split") // the VMA may be that of a neighbour, too
}

func TestPublishedIsCollected(t *testing.T) {
	const size = 64 * miB
	base := len(vmas(t, nil))
	b, want := mapped(t, size)
	view := b.Bytes()
	_ = b.Close()
	require.True(t, bytes.Equal(want, view), "after Close")
	at, n := uintptr(unsafe.Pointer(unsafe.SliceData(view))), len(view)
	view, want = nil, nil
	// It is heap: the collector frees it, and the runtime returns it in time.
	eventually(t, func() bool { debug.FreeOSMemory(); return residentAt(t, at, n) < size/4 })
	assert.LessOrEqual(t, len(vmas(t, nil)), base+8)
}

// TestPublishedNeedsOneCollection: published memory is freed as that of any
// object, by the first collection that finds it unreachable.
func TestPublishedNeedsOneCollection(t *testing.T) {
	var freed atomic.Int32
	func() {
		var b Buffer
		fill(&b, 1, 16*miB)
		runtime.AddCleanup(&b.Bytes()[0], func(int) { freed.Add(1) }, 0)
		p := make([]byte, 16*miB) // as a bytes.Buffer has it
		runtime.AddCleanup(&p[0], func(int) { freed.Add(1) }, 0)
	}()
	runtime.GC()
	waitFor(t, func() bool { return freed.Load() == 2 })
}

// TestMappingsDoNotPileUp publishes Buffers of all sizes that live for random
// times. Published pages do not merge with the heap around them, so the heap is
// parted at their ends, also when they are garbage; but at no more places than
// there are, and than the package allows itself.
func TestMappingsDoNotPileUp(t *testing.T) {
	setThreshold(t, 1)
	slots, most := 24, 256*miB
	if *soak > 0 {
		needMemory(t, 12*giB)
		slots, most = 200, 2*giB
	}
	needMemory(t, 2*giB)
	was := settled(t)
	views := make([][]byte, slots)
	sizes := make([]int, slots)
	sum, published := 0, 0
	var garbage [16][]byte
	end := time.Now().Add(runFor(5 * time.Second))
	for i := 0; time.Now().Before(end); i++ {
		s := rand.N(slots)
		if v := views[s]; v != nil {
			require.True(t, isFilled(v, sizes[s], 0))
			sum -= len(v)
			views[s] = nil
		}
		n := 64 * kiB << rand.N(11)
		n -= rand.N(n / 3)
		if n = min(n, most-sum); n > 0 {
			var b Buffer
			fill(&b, n, n)
			views[s], sizes[s] = b.Bytes(), n
			sum += n
			published++
		}
		garbage[i%16] = bytes.Repeat([]byte{1}, 16<<rand.N(19))
		if i%16 == 0 {
			require.LessOrEqual(t, mapCount(t), was.maps+64+int(vm.HeapSplits()))
		}
	}
	t.Logf("%d published, the heap is parted at %d places", published, vm.HeapSplits())
	// A place is a huge page; the heap was never larger than this.
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	require.LessOrEqual(t, vm.HeapSplits(), int64(ms.HeapSys)/int64(vm.Unit())+1)
	require.LessOrEqual(t, vm.HeapSplits(), mapping.Budget()/2+2)
}

// TestCopiedViewShowsNoOldHeapBytes has publishing copy where the heap has old objects of the
// same size: the spare capacity of a view shows nothing of them.
func TestCopiedViewShowsNoOldHeapBytes(t *testing.T) {
	defer vm.RefuseMoves(vm.MovesRefused())
	b, want := mapped(t, 3*miB)
	b.Grow(5 * miB)
	var old [8][]byte
	for i := range old {
		old[i] = bytes.Repeat([]byte{0xee}, b.Cap()+i%2*vm.Unit()) // as large as a slice, or a heapObject
	}
	clear(old[:])
	runtime.GC()
	vm.RefuseMoves(true)
	spare := b.AvailableBuffer()
	require.False(t, b.current())
	require.GreaterOrEqual(t, cap(spare), 5*miB)
	require.Zero(t, bytes.Count(spare[:cap(spare)], []byte{0xee}))
	require.True(t, bytes.Equal(want, b.Bytes()))
}
