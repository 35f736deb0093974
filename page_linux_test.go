//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

func TestOneVMA(t *testing.T) {
	noIdle(t) // mappings that other tests left could lie next to ours and merge with it
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var b Buffer
	chunk := randomBytes(1, 256*kiB)
	c := 0
	for b.Len() < 100*miB {
		_, _ = b.Write(chunk)
		if b.m != nil && b.Cap() != c {
			c = b.Cap()
			requireOneVMA(t, &b, fmt.Sprintf("filled to %d", b.Len()))
		}
	}
	for range 2000 { // 500 MiB through a backlog of 100 MiB
		_, err := io.ReadFull(&b, chunk)
		require.NoError(t, err)
		_, _ = b.Write(chunk)
		if b.Cap() != c || rand.N(50) == 0 {
			c = b.Cap()
			requireOneVMA(t, &b, "as a queue")
		}
	}
	require.LessOrEqual(t, b.Cap(), 256*miB, "consumed bytes are not dropped")
	b.Shrink()
	requireOneVMA(t, &b, "after Shrink")
	require.LessOrEqual(t, b.Cap(), b.Len()+2*vm.Unit())
	b.Grow(2 * giB)
	requireOneVMA(t, &b, "after Grow")
	require.Zero(t, uintptr(base(b.m.Inspect().Mem))%giB, "not aligned to 1 GiB")
	b.Truncate(30 * miB)
	b.Shrink()
	mapping.Settle() // what was cut off
	requireOneVMA(t, &b, "after Truncate and Shrink")

	mem := b.m.Inspect().Mem
	require.NoError(t, b.Close())
	mapping.Settle()
	require.Empty(t, vmas(t, mem), "after Close")
}

// TestHugePages: what the system says is what happens, but for NoHugePages.
func TestHugePages(t *testing.T) {
	check := func(t *testing.T, no, huge bool) {
		b := Buffer{NoHugePages: no}
		defer b.Close()
		fill(&b, 1, 16*miB)
		require.Equal(t, huge, vmaOf(t, &b).Huge > 0)
		require.True(t, isFilled(b.Bytes(), 1, 0))
	}
	t.Run("as it is", func(t *testing.T) {
		needHugePages(t)
		check(t, false, true)
		check(t, true, false)
	})
	t.Run("always", func(t *testing.T) {
		hugePagesAlways(t)
		check(t, true, false)
		useAll(t)
	})
	t.Run("disabled", func(t *testing.T) {
		if !inChild(t) {
			return
		}
		require.NoError(t, unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0))
		check(t, false, false)
		useAll(t)
	})
}

const foreign = 0xee // what earlier owners of idle memory have written; noise has no run of it

// leaveForeign makes n bytes of an earlier owner idle memory.
func leaveForeign(n int, noHugePages bool) {
	a := Buffer{NoHugePages: noHugePages}
	_, _ = a.Write(bytes.Repeat([]byte{foreign}, n))
	_ = a.Close()
}

// untouchedResident returns the offset of a page that is resident in a unit that is
// not touched, or -1. Pages that were only read are those of the kernel's zero
// page, which mincore(2) takes for resident as well: such a unit is all zero.
func untouchedResident(m *mapping.Mapping) int {
	page := os.Getpagesize()
	p := m.Inspect()
	mem := p.Mem[:cap(p.Mem)]
	vec := make([]byte, len(mem)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(base(mem)), uintptr(len(mem)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		return -1
	}
	for i, v := range vec {
		off := i * page
		u := off / vm.Unit()
		if v&1 != 0 && (u >= len(p.Touched) || p.Touched[u] == 0) && bytes.Count(mem[off:off+page], []byte{0}) < page {
			return off
		}
	}
	return -1
}

// TestPagesAtRandom does to Buffers on memory of earlier owners what moves, cuts,
// punches and fills pages, and compares contents, the fields of the page layer,
// and what is resident. It also runs with failing system calls: see
// TestPagesAtRandomWithFaults.
func TestPagesAtRandom(t *testing.T) { pagesAtRandom(t, func(*rand.Rand) func() { return func() {} }) }

// pagesAtRandom calls before before each step, and what that returns after it.
func pagesAtRandom(t *testing.T, before func(r *rand.Rand) (after func())) {
	setThreshold(t, 1)
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, noise()[:3*miB], 0o600))
	for _, unit := range []int{64 * kiB, 2 * miB} {
		t.Run(fmt.Sprint("unit=", unit), func(t *testing.T) {
			if unit != vm.Unit() {
				setUnit(t, unit)
			}
			r := rand.New(rand.NewPCG(testSeed(t), 0))
			walks := 0
			for end := time.Now().Add(runFor(2 * time.Second)); time.Now().Before(end); walks++ {
				w := pageWalk{r: r, unit: unit, file: name}
				w.b.NoHugePages = unit < 2*miB || r.IntN(4) == 0
				if r.IntN(2) == 0 {
					leaveForeign(1+r.IntN(20*unit), w.b.NoHugePages)
				}
				for range r.IntN(40) {
					after := before(r)
					w.step()
					after()
					require.NoError(t, w.check(), "%v", w.trace)
				}
				require.NoError(t, diffBytes(contents(&w.b), w.want), "%v", w.trace)
				require.NoError(t, w.b.Close())
			}
			require.Positive(t, walks)
		})
	}
}

// A pageWalk is a Buffer, and what its contents are expected to be.
type pageWalk struct {
	r     *rand.Rand
	unit  int
	file  string
	b     Buffer
	want  []byte
	shown bool // bytes of an earlier owner
	trace []string
}

func (w *pageWalk) size() int {
	switch w.r.IntN(4) {
	case 0:
		return w.r.IntN(100)
	case 1:
		return w.r.IntN(w.unit / 8)
	case 2: // at the end of a unit, or near it
		return w.r.IntN(3)*w.unit + w.r.IntN(2)*w.r.IntN(5)
	}
	return w.r.IntN(3 * w.unit)
}

func (w *pageWalk) data() []byte {
	n := min(w.size(), len(noise())/2)
	i := w.r.IntN(len(noise()) - n)
	return noise()[i : i+n]
}

func (w *pageWalk) lengthen(n int) {
	if more := n - len(w.want); more > 0 {
		w.want = append(w.want, make([]byte, more)...)
	}
}

// see looks at all that code outside can see of p.
func (w *pageWalk) see(p []byte) {
	w.shown = w.shown || bytes.Contains(p[:cap(p)], bytes.Repeat([]byte{foreign}, 16))
}

func (w *pageWalk) step() {
	f := NewFile(&w.b)
	n, p := w.size(), w.data()
	op := w.r.IntN(12)
	if len(w.want) > 40*w.unit {
		op = w.r.IntN(4)
	}
	w.trace = append(w.trace, fmt.Sprintf("%d(%d, %d)", op, n, len(p)))
	switch op {
	case 0:
		n := w.r.IntN(len(w.want) + 1)
		if n >= w.unit && w.r.IntN(2) == 0 {
			n -= n % w.unit
		}
		w.b.Truncate(n)
		w.want = w.want[:n]
	case 1:
		if w.r.IntN(2) == 0 {
			n = w.r.IntN(len(w.want) + 1)
		}
		k, _ := io.ReadFull(&w.b, make([]byte, n))
		w.want = w.want[k:]
	case 2:
		w.b.Shrink()
	case 3:
		if w.r.IntN(3) == 0 {
			w.b.Reset()
			w.want = nil
		} else if w.b.m != nil {
			w.b.m.FreeExcess()
		}
	case 4:
		_, _ = w.b.Write(p)
		w.want = append(w.want, p...)
	case 5, 6:
		off := w.r.IntN(len(w.want) + 1)
		if w.r.IntN(2) == 0 {
			off = len(w.want) + w.r.IntN(8)*w.unit + w.r.IntN(2)*w.r.IntN(w.unit)
		}
		if op == 5 {
			_, _ = w.b.WriteAt(p, int64(off))
		} else {
			_, _ = f.Seek(int64(off), io.SeekStart)
			_, _ = f.Write(p)
		}
		if len(p) > 0 {
			w.lengthen(off + len(p))
			copy(w.want[off:], p)
		}
	case 7:
		file, _ := os.Open(w.file)
		from, _ := file.Seek(-int64(min(n, 3*miB)), io.SeekEnd)
		_, _ = w.b.ReadFrom(file)
		_ = file.Close()
		w.want = append(w.want, noise()[from:3*miB]...)
	case 8:
		from := bytes.NewReader(p)
		_, _ = w.b.ReadFrom(reader(func(q []byte) (int, error) { w.see(q); return from.Read(q) }))
		w.want = append(w.want, p...)
	case 9:
		w.b.Grow(n)
	case 10:
		_ = f.Truncate(int64(len(w.want) + n))
		w.lengthen(len(w.want) + n)
	case 11:
		if w.r.IntN(4) > 0 {
			return
		}
		_, _ = caught(func() error { // a view may fail
			switch w.r.IntN(4) {
			case 0:
				w.see(w.b.AvailableBuffer())
			case 1:
				w.see(w.b.Bytes())
			case 2:
				_, _ = w.b.WriteTo(writerFunc(func(q []byte) (int, error) { w.see(q); return 0, errTest }))
			default:
				v := w.b.Next(n)
				w.want = w.want[len(v):]
				w.see(v)
			}
			return nil
		})
	}
}

func (w *pageWalk) check() error {
	if w.shown {
		return fmt.Errorf("a view shows bytes of an earlier owner")
	}
	if err := invariants(&w.b); err != nil || w.b.m == nil || !w.b.current() {
		return err
	}
	p := w.b.m.Inspect()
	if bytes.Contains(p.Mem[:p.Cleared], bytes.Repeat([]byte{foreign}, 16)) {
		return fmt.Errorf("bytes of an earlier owner in what is cleared")
	}
	if off := untouchedResident(w.b.m); off >= 0 {
		return fmt.Errorf("%#x is resident, and its unit is not touched", off)
	}
	return nil
}

// TestPublishMovesPages: a view copies no pages and splits no huge pages.
func TestPublishMovesPages(t *testing.T) {
	needHugePages(t)
	needMoves(t)
	const size = 256 * miB
	needMemory(t, 4*size)
	var b Buffer
	fill(&b, 1, size)
	before := vmas(t, b.m.Inspect().Mem)[0]
	require.Greater(t, before.Huge, size/2, "the kernel has no huge pages to spare")
	debug.FreeOSMemory()
	rss := status(t, "VmRSS")
	var view []byte
	faults := minorFaults(t, func() { view = b.Bytes() })
	assert.Less(t, faults, 100, "copying %d MiB takes at least 128 faults", size/miB)
	if !raceEnabled { // whose shadow of the heap object is memory
		assert.InDelta(t, rss, status(t, "VmRSS"), 8*miB)
	}
	require.False(t, b.current())
	require.True(t, isFilled(view, 1, 0))
	huge := 0
	for _, v := range vmas(t, view) {
		huge += v.Huge
	}
	assert.GreaterOrEqual(t, huge, min(before.Huge, size), "huge pages were split") // the VMA may be that of a neighbour, too
}

// TestViewIsFreedAtOnce: published memory is freed as that of any object, by the first
// collection that finds it unreachable, if it is more than is lent.
func TestViewIsFreedAtOnce(t *testing.T) {
	const n = 160 * miB
	needMemory(t, 4*n)
	var freed atomic.Int32
	func() {
		var b Buffer
		fill(&b, 1, n)
		for _, p := range [][]byte{b.Bytes(), make([]byte, n)} { // and as a bytes.Buffer has it
			runtime.AddCleanup(&p[0], func(int) { freed.Add(1) }, 0)
		}
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
	sum := 0
	var garbage [16][]byte
	end := time.Now().Add(runFor(5 * time.Second))
	for i := 0; time.Now().Before(end); i++ {
		s := rand.N(slots)
		require.True(t, isFilled(views[s], len(views[s]), 0))
		sum -= len(views[s])
		views[s] = nil
		n := 64 * kiB << rand.N(11)
		n -= rand.N(n / 3)
		if n = min(n, most-sum); n > 0 {
			var b Buffer
			fill(&b, n, n)
			views[s] = b.Bytes()
			sum += n
		}
		garbage[i%16] = bytes.Repeat([]byte{1}, 16<<rand.N(19))
		if i%16 == 0 {
			require.LessOrEqual(t, mapCount(t), was.maps+64+int(vm.HeapSplits()))
		}
	}
	// A place is a huge page; the heap was never larger than this.
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	require.LessOrEqual(t, vm.HeapSplits(), int64(ms.HeapSys)/int64(vm.Unit())+1)
	require.LessOrEqual(t, vm.HeapSplits(), mapping.Budget()/2+2)
}

// TestCopiedViewIsZero has publishing copy where the heap has old objects of the
// same size: the spare capacity of a view shows nothing of them.
func TestCopiedViewIsZero(t *testing.T) {
	defer vm.RefuseMoves(vm.MovesRefused())
	b, want := mapped(t, 3*miB)
	b.Grow(5 * miB)
	var old [8][]byte
	for i := range old {
		old[i] = bytes.Repeat([]byte{foreign}, b.Cap()+i%2*vm.Unit()) // as large as a slice, or a heapObject
	}
	clear(old[:])
	runtime.GC()
	vm.RefuseMoves(true)
	spare := b.AvailableBuffer()
	require.False(t, b.current())
	require.GreaterOrEqual(t, cap(spare), 5*miB)
	require.Zero(t, bytes.Count(spare[:cap(spare)], []byte{foreign}))
	requireContents(t, b, want)
}

// TestCopiedViewTouchesNoSpare copies a view with a spare capacity of a GiB, which
// takes no memory until it is used.
func TestCopiedViewTouchesNoSpare(t *testing.T) {
	noRace(t)
	needMemory(t, 2*giB)
	if !inChild(t) {
		return
	}
	vm.RefuseMoves(true)
	var b Buffer
	fill(&b, 1, 8*miB)
	b.Grow(giB)
	was := status(t, "VmRSS")
	p := b.AvailableBuffer()
	require.GreaterOrEqual(t, cap(p), giB)
	require.LessOrEqual(t, status(t, "VmRSS")-was, 64*miB)
	runtime.KeepAlive(p)
}

// viewOf has view return bytes [lo:hi] of a local, never closed Buffer of n bytes.
func viewOf(view func(b *Buffer, n int) (p []byte, lo, hi int)) func(seed, n int) func() bool {
	return func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		p, lo, hi := view(&b, n)
		return func() bool { return len(p) == hi-lo && isFilled(p, seed, lo) }
	}
}

// viewsOf make views of such Buffers. Each returns a function that tells whether the
// view still is what it was.
var viewsOf = map[string]func(seed, n int) func() bool{
	"Bytes":      viewOf(func(b *Buffer, n int) ([]byte, int, int) { return b.Bytes(), 0, n }),
	"Next":       viewOf(func(b *Buffer, n int) ([]byte, int, int) { b.Next(n / 3); return b.Next(n), n / 3, n }),
	"Peek":       viewOf(func(b *Buffer, n int) ([]byte, int, int) { return first(b.Peek(n - 1)), 0, n - 1 }),
	"the middle": viewOf(func(b *Buffer, n int) ([]byte, int, int) { return b.Bytes()[n/2 : n/2+100], n / 2, n/2 + 100 }),
	"AvailableBuffer": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n/2)
		b.Grow(n / 2)
		v := b.AvailableBuffer()
		at := unsafe.SliceData(v)
		v = append(v, pattern(seed, n/2)...)
		return func() bool { return at == unsafe.SliceData(v) && len(v) == n/2 && isFilled(v, seed, 0) }
	},
	"bytes.Reader": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		r := bytes.NewReader(b.Bytes())
		return func() bool {
			ok := false
			_, _ = r.Seek(0, io.SeekStart)
			_, _ = r.WriteTo(writerFunc(func(p []byte) (int, error) {
				ok = len(p) == n && isFilled(p, seed, 0)
				return len(p), nil
			}))
			return ok
		}
	},
	"json.Unmarshal": func(seed, n int) func() bool {
		if n = min(n, 16*miB); raceEnabled || testing.Short() {
			n = min(n, 5*miB)
		}
		var in, out []string
		for k := 0; len(in) < n/1000; k++ {
			in = append(in, fmt.Sprintf("%d:%0990d", seed, k))
		}
		var b Buffer
		err := errors.Join(json.NewEncoder(&b).Encode(in), json.Unmarshal(b.Bytes(), &out))
		return func() bool { return err == nil && slices.Equal(in, out) }
	},
}

func first(p []byte, _ error) []byte { return p }

func TestViewsOutliveTheirBuffer(t *testing.T) {
	check := func(t *testing.T, n int, names ...string) {
		needMemory(t, 2*giB)
		views := make(map[string]func() bool)
		for i, name := range names {
			views[name] = viewsOf[name](i+n%1000, n)
		}
		underPressure(t, func() {
			for i := range byLength(5, 5, 10) {
				runtime.GC()
				for name, ok := range views {
					require.True(t, ok(), "%s changed by collection %d", name, i+1)
				}
			}
		})
	}
	sizes := []int{2 * miB, 5*miB + 12345, byLength(16*miB, 32*miB, 64*miB)}
	if raceEnabled {
		sizes[2] = 16 * miB
	}
	names := slices.Collect(maps.Keys(viewsOf))
	for _, n := range sizes {
		t.Run(sizeString(n), func(t *testing.T) { check(t, n, names...) })
		runtime.GC() // one size at a time
	}
	if !long || raceEnabled {
		return
	}
	for _, name := range names { // one at a time: they are large
		t.Run("256 MiB/"+name, func(t *testing.T) { check(t, 256*miB, name) })
		runtime.GC()
	}
}

// TestChangeWhileViewed changes a Buffer that a Writer has a view of, more than
// TestChangeInsideReader does.
func TestChangeWhileViewed(t *testing.T) {
	for name, change := range map[string]func(b *Buffer){
		"Grow twice":    func(b *Buffer) { b.Grow(64 * miB); b.Grow(256 * miB) },
		"Read of steps": func(b *Buffer) { _, _ = io.ReadFull(b, make([]byte, 40*miB)) },
	} {
		b, want := mapped(t, 48*miB)
		_, err := b.WriteTo(writerFunc(func(p []byte) (int, error) {
			change(b)
			require.True(t, bytes.Equal(want, p), name)
			return 0, errTest
		}))
		require.Equal(t, errTest, err)
		writeAllOf(t, b, want)
		require.True(t, bytes.HasSuffix(contents(b), want), name)
	}
	b, want := mapped(t, 3*miB) // to itself
	o := bytes.NewBuffer(want)
	n, err := b.WriteTo(b)
	on, oerr := o.WriteTo(o)
	require.Equal(t, on, n)
	require.Equal(t, oerr, err)
	require.Equal(t, o.Len(), b.Len())
}

// TestFinalizersSeeViews has finalizers and cleanups of the user's own hold
// views, and bring them back to life.
func TestFinalizersSeeViews(t *testing.T) {
	const n, count = 3 * miB, 20
	type owner struct {
		view []byte
		seed int
	}
	of := func(seed int) *owner {
		var b Buffer
		fill(&b, seed, n)
		return &owner{b.Bytes(), seed}
	}
	var mu sync.Mutex
	var back []*owner
	cleaned, right := 0, 0
	see := func(o *owner) {
		if isFilled(o.view, o.seed, 0) {
			right++
		}
	}
	// wait does so until f, which mu guards, returns count.
	wait := func(f func() int) {
		eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return f() == count })
	}
	was := settled(t)
	underPressure(t, func() {
		for seed := range count {
			o := of(seed)
			runtime.SetFinalizer(o, func(o *owner) {
				mu.Lock()
				defer mu.Unlock()
				see(o)
				back = append(back, o)
			})
			runtime.AddCleanup(o, func(o *owner) {
				mu.Lock()
				defer mu.Unlock()
				see(o)
				cleaned++
			}, of(seed))
		}
		wait(func() int { return len(back) })
		for range 5 {
			runtime.GC()
		}
		mu.Lock()
		require.Zero(t, cleaned)
		for _, o := range back {
			see(o)
		}
		back = nil
		mu.Unlock()
		wait(func() int { return cleaned })
		require.Equal(t, 3*count, right)
	})
	requireBackTo(t, was)
}

// TestWeakPointers never lead to memory whose pages are gone.
func TestWeakPointers(t *testing.T) {
	const n = 3 * miB
	for seed := range 20 {
		w := func() weak.Pointer[byte] {
			var b Buffer
			fill(&b, seed, n)
			return weak.Make(&b.Bytes()[n/2])
		}()
		want := pieceOf(seed, n/2/piece)[n/2%piece]
		var wrong atomic.Bool
		var wg sync.WaitGroup
		wg.Go(func() {
			for p := w.Value(); p != nil; p = w.Value() {
				if *p != want {
					wrong.Store(true)
				}
				// To ask while the collector marks is to keep it alive.
				time.Sleep(rand.N(2 * time.Millisecond))
			}
		})
		eventually(t, func() bool { return w.Value() == nil })
		wg.Wait()
		require.False(t, wrong.Load())
	}
}

// TestViewsOutliveTheirGoroutine hands views to goroutines with small stacks and
// leaves.
func TestViewsOutliveTheirGoroutine(t *testing.T) {
	var wg sync.WaitGroup
	var wrong atomic.Int32
	underPressure(t, func() {
		for seed := range 40 {
			ok := viewsOf["Bytes"](seed, 2*miB+seed*1000)
			wg.Go(func() {
				deep(200)
				runtime.GC()
				deep(2000)
				if !ok() {
					wrong.Add(1)
				}
			})
		}
		wg.Wait()
	})
	require.Zero(t, wrong.Load())
}

// TestSpareCapacityOfViews uses the room that Grow has made through Bytes, as
// programs do that are older than AvailableBuffer.
func TestSpareCapacityOfViews(t *testing.T) {
	needMemory(t, giB)
	for _, threshold := range []int{1, miB} {
		setThreshold(t, threshold)
		for _, n := range []int{0, 10, 1000, 50 * kiB, 3 * miB, 30 * miB} {
			for _, more := range []int{1, 100, 40 * kiB, 2 * miB, 60 * miB} {
				t.Run(fmt.Sprintf("threshold=%d/len=%d/grow=%d", threshold, n, more), func(t *testing.T) {
					leaveForeign(5*miB, false)
					var b Buffer
					defer b.Close()
					fill(&b, 1, n)
					b.Grow(more)
					available := b.Available()
					for name, room := range map[string][]byte{
						"Grow":      b.Bytes()[n : n+more],
						"Available": b.Bytes()[n : n+min(available, 64*miB)],
						"Peek":      first(b.Peek(n))[n : n+more],
					} {
						require.Equal(t, len(room), bytes.Count(room, []byte{0}), name)
					}
					room := b.Bytes()[n : n+more]
					copy(room, pattern(2, more))
					_, _ = b.Write(room)
					require.True(t, isFilled(b.Bytes()[:n], 1, 0))
					require.True(t, isFilled(b.Bytes()[n:], 2, 0))
					require.NoError(t, invariants(&b))
				})
			}
		}
	}
	var b Buffer // what is far more than the contents is not made heap
	defer b.Close()
	b.Grow(64 * giB)
	require.Equal(t, spareMax, cap(b.Bytes()))
}

// TestBufferViewedAgain: a Buffer that is viewed, outgrown and viewed again grows in
// Go memory from then on, and one that was viewed once does not.
func TestBufferViewedAgain(t *testing.T) {
	const n = 3 * miB
	var b Buffer
	defer b.Close()
	for round := range 2 { // Close begins anew
		fill(&b, 0, n)
		for views := range viewsToSlice {
			require.NotNil(t, b.m, "%d views", views)
			v := b.Bytes()
			for b.Len() < 2*len(v)+n {
				fill(&b, 1, n)
			}
			require.NoError(t, invariants(&b))
		}
		was := ReadStats()
		require.Nil(t, b.m, "round %d", round)
		for b.Len() < 40*n {
			fill(&b, 7, n)
			v := b.Bytes()
			spare := v[len(v):cap(v)]
			require.Equal(t, len(spare), bytes.Count(spare, []byte{0}), "old bytes of the heap")
		}
		require.Equal(t, was.Views, ReadStats().Views)
		require.Equal(t, was.Created, ReadStats().Created)
		p := b.Bytes()
		require.True(t, isFilled(p[:n], 0, 0) && isFilled(p[len(p)-n:], 7, 0))
		require.NoError(t, b.Close())
	}
}

// TestCopiesBehaveAsBytesBuffer does the same to a Buffer and its copy by value
// as to a bytes.Buffer and its copy, where no mapping is shared.
func TestCopiesBehaveAsBytesBuffer(t *testing.T) {
	const far = 20 * miB
	abc := func(b buffer) { _, _ = b.WriteString("abc") }
	digits := func(b buffer) { _, _ = b.WriteString("12345") }
	steps := map[string]func(x, y buffer){
		"write to one":       func(x, y buffer) { abc(x) },
		"write to the other": func(x, y buffer) { abc(y) },
		"append to both":     func(x, y buffer) { abc(x); digits(y) },
		"grow":               func(x, y buffer) { x.Grow(far); abc(x) },
		"grow both":          func(x, y buffer) { x.Grow(far); y.Grow(far); abc(x); digits(y) },
		"grow, change":       func(x, y buffer) { x.Grow(far); copy(x.Bytes(), "changed"); x.Next(2) },
		"change":             func(x, y buffer) { copy(x.Bytes(), "changed") },
		"grow, then drop":    func(x, y buffer) { x.Grow(far); x.Reset(); runtime.GC(); abc(y) },
		"read":               func(x, y buffer) { x.Next(10); _, _ = y.ReadByte() },
		"reset, refill":      func(x, y buffer) { x.Reset(); abc(x) },
		"truncate, write":    func(x, y buffer) { x.Truncate(x.Len() / 2); abc(x) },
		"close":              func(x, y buffer) { closed(x) },
		"close both":         func(x, y buffer) { closed(x); closed(y) },
		"close, write both":  func(x, y buffer) { closed(x); abc(x); digits(y) },
		"close, grow other":  func(x, y buffer) { closed(x); runtime.GC(); y.Grow(far); digits(y) },
	}
	kinds := map[string]func() (got *Buffer, want *bytes.Buffer){
		"zero": func() (*Buffer, *bytes.Buffer) { return new(Buffer), new(bytes.Buffer) },
		"slice": func() (*Buffer, *bytes.Buffer) {
			p := append(make([]byte, 0, 100), noise()[:50]...)
			return NewBuffer(p), bytes.NewBuffer(append(make([]byte, 0, 100), p...))
		},
		"published": func() (*Buffer, *bytes.Buffer) {
			got, want := new(Buffer), new(bytes.Buffer)
			for _, b := range []buffer{got, want} {
				b.Grow(3*miB + 100)
				_, _ = b.Write(noise()[:3*miB])
				b.Bytes()
			}
			return got, want
		},
	}
	for kind, mk := range kinds {
		for name, step := range steps {
			t.Run(kind+"/"+name, func(t *testing.T) {
				got, want := mk()
				gotCopy, wantCopy := *got, *want
				step(got, &gotCopy)
				step(want, &wantCopy)
				runtime.GC()
				requireContents(t, got, want.Bytes(), "the original")
				requireContents(t, &gotCopy, wantCopy.Bytes(), "the copy")
				require.NoError(t, got.Close())
				require.NoError(t, gotCopy.Close())
			})
		}
	}
}

// must panics for an error of ReadAt or WriteAt, which is as good as a panic, and does
// not end the goroutines of others.
func must(_ int, err error) {
	if err != nil {
		panic(err)
	}
}

// TestCopyOfMappingWorksOrPanics uses copies of a Buffer that owns a mapping.
func TestCopyOfMappingWorksOrPanics(t *testing.T) {
	uses := map[string]func(b *Buffer){
		"Write":           func(b *Buffer) { _, _ = b.Write([]byte("x")) },
		"WriteString":     func(b *Buffer) { _, _ = b.WriteString("x") },
		"WriteByte":       func(b *Buffer) { _ = b.WriteByte('x') },
		"WriteRune":       func(b *Buffer) { _, _ = b.WriteRune('€') },
		"ReadFrom":        func(b *Buffer) { _, _ = b.ReadFrom(strings.NewReader("x")) },
		"Grow":            func(b *Buffer) { b.Grow(1) },
		"Reserve":         func(b *Buffer) { _ = b.Reserve(1) },
		"Truncate":        func(b *Buffer) { b.Truncate(1) },
		"Reset":           (*Buffer).Reset,
		"Shrink":          (*Buffer).Shrink,
		"Close":           func(b *Buffer) { _ = b.Close() },
		"Bytes":           func(b *Buffer) { b.Bytes() },
		"Next":            func(b *Buffer) { b.Next(1) },
		"Peek":            func(b *Buffer) { _, _ = b.Peek(1) },
		"AvailableBuffer": func(b *Buffer) { b.AvailableBuffer() },
		"String":          func(b *Buffer) { _ = b.String() },
		"Read":            func(b *Buffer) { _, _ = b.Read(make([]byte, 1)) },
		"ReadByte":        func(b *Buffer) { _, _ = b.ReadByte() },
		"ReadRune":        func(b *Buffer) { _, _, _ = b.ReadRune() },
		"ReadBytes":       func(b *Buffer) { _, _ = b.ReadBytes(0) },
		"ReadString":      func(b *Buffer) { _, _ = b.ReadString(0) },
		"WriteTo":         func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
		"ReadAt":          func(b *Buffer) { must(b.ReadAt(make([]byte, 1), 0)) },
		"WriteAt":         func(b *Buffer) { must(b.WriteAt([]byte("x"), 0)) },
	}
	methods := reflect.TypeFor[*Buffer]()
	for i := range methods.NumMethod() {
		switch name := methods.Method(i).Name; name {
		case "Len", "Cap", "Available", "UnreadByte", "UnreadRune": // look at no storage
		default:
			require.Contains(t, uses, name, "a method without a test")
		}
	}
	// What the original does meanwhile, and whether the copy then still has its
	// storage.
	meanwhile := map[string]struct {
		do   func(b *Buffer)
		live bool
	}{
		"":         {func(b *Buffer) {}, true},
		"viewed":   {func(b *Buffer) { b.Bytes() }, true},
		"appended": {func(b *Buffer) { _ = b.WriteByte('x'); b.Truncate(b.Len() - 1) }, true},
		"moved":    {func(b *Buffer) { b.Grow(512 * miB) }, false},
		"closed":   {func(b *Buffer) { _ = b.Close() }, false},
		"shrunk":   {func(b *Buffer) { b.Grow(64 * miB); b.Shrink() }, false},
		"drained":  {func(b *Buffer) { _, _ = io.CopyN(io.Discard, b, 140*miB) }, false},
	}
	for name, use := range uses {
		for when, m := range meanwhile {
			t.Run(name+when, func(t *testing.T) {
				n := 3 * miB
				if when == "drained" {
					n = 141 * miB
				}
				b, want := mapped(t, n)
				c := *b
				m.do(b)
				switch {
				case m.live: // what a copy of a bytes.Buffer does
					requireContents(t, &c, want)
					require.NotPanics(t, func() { use(&c) })
					return
				case name == "Close":
					require.NoError(t, c.Close())
				default:
					require.PanicsWithValue(t, errStale, func() { use(&c) })
				}
				if when == "closed" {
					require.Zero(t, b.Len())
					_, _ = b.Write(want)
				}
				require.True(t, bytes.HasSuffix(want, contents(b)))
			})
		}
	}
}

// A filter refuses a system call, as sandboxes do.
type filter struct {
	call  uintptr
	errno unix.Errno

	// Only calls whose argument arg has a bit of mask, if that is not 0.
	arg  int
	mask uint32
}

// install puts f in the way of all threads of the process, for good.
func install(t *testing.T, f filter) {
	t.Helper()
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	arg := uint32(16 + 8*f.arg) // the lower half of it in struct seccomp_data
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		arg += 4
	}
	prog := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the call
		{Code: jeq, K: uint32(f.call), Jf: 3},
		{Code: load, K: arg},
		{Code: jset, K: f.mask, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(f.errno)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	if f.mask == 0 {
		prog = append(prog[:2], prog[4:]...)
		prog[1].Jf = 1
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})))
	if errno != 0 {
		t.Skipf("no seccomp filters here: %v", errno)
	}
}

// TestRefusedCalls lives with system calls that are refused, or do nothing: nothing is
// lost, and nobody is told.
func TestRefusedCalls(t *testing.T) {
	const newSize, flags = 2, 3
	mremap := func(errno unix.Errno) []filter { return []filter{{call: unix.SYS_MREMAP, errno: errno}} }
	nothing := filter{unix.SYS_MREMAP, 0, flags, unix.MREMAP_FIXED}
	tests := map[string]struct {
		filters []filter // the last one decides
		refused bool     // to move views
	}{
		"mremap, EPERM":  {mremap(unix.EPERM), true},
		"mremap, ENOSYS": {mremap(unix.ENOSYS), true},
		"mremap, ENOMEM": {mremap(unix.ENOMEM), true},
		"MREMAP_FIXED":   {[]filter{{unix.SYS_MREMAP, unix.EPERM, flags, unix.MREMAP_FIXED}}, true},
		"madvise":        {[]filter{{call: unix.SYS_MADVISE, errno: unix.EPERM}}, false},
		// The Linux layer of FreeBSD: what should move to an address stays where it is,
		// and that is called a success. Nothing grows, for want of memory as it says.
		"MREMAP_FIXED does nothing":               {[]filter{nothing}, true},
		"MREMAP_FIXED does nothing, mremap fails": {append(mremap(unix.ENOMEM), nothing), true},
		// From a certain size on, a lack of memory of which there is none, as the
		// kernel of RHEL 9.2 reported.
		"growing to 128 MiB": {[]filter{{unix.SYS_MREMAP, unix.ENOMEM, newSize, 0xf800_0000}}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			noRace(t)
			if !inChild(t) {
				return
			}
			needMoves(t)
			for _, f := range tt.filters {
				install(t, f)
			}
			useAll(t)
			var b Buffer
			fill(&b, 1, 200*miB)
			require.True(t, isFilled(contents(&b), 1, 0))
			require.NoError(t, b.Close())
			require.Equal(t, tt.refused, vm.MovesRefused())
			require.Equal(t, name != "madvise", ReadStats().Copies > 0)
			require.LessOrEqual(t, vm.Lost(), 1, "the first refusal is the last")
			require.True(t, vm.Available())
		})
	}
}

// TestRefusedMaps grows a mapping where neither mremap(2) nor mmap(2) is to be had.
func TestRefusedMaps(t *testing.T) {
	if !inChild(t) {
		return
	}
	install(t, filter{call: unix.SYS_MREMAP, errno: unix.EPERM})
	b, want := mapped(t, 3*miB)
	vm.RefuseMaps(true)
	b.Next(miB + 5)
	for range 20 {
		_, _ = b.Write(want)
	}
	require.Nil(t, b.m)
	require.ErrorIs(t, b.Reserve(vm.MaxSize), ErrTooLarge)
	requireContents(t, b, bytes.Repeat(want, 21)[miB+5:])
}

// TestViewWithoutRoomForACopyPanics refuses to move the pages of a view where there is
// room for the object that they were to go to, but for no other.
func TestViewWithoutRoomForACopyPanics(t *testing.T) {
	if !inLimitedChild(t) {
		return
	}
	needMoves(t)
	b, want := mapped(t, 96*miB)
	install(t, filter{call: unix.SYS_MREMAP, errno: unix.EPERM})
	restore := limit(t, unix.RLIMIT_AS, "VmSize", 200*miB)
	err, panicked := caught(func() error { b.Bytes(); return nil })
	restore()
	require.True(t, panicked)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.Contains(t, ReadStats().LastFailure, "cannot allocate memory")
	require.NotNil(t, b.m)
	require.True(t, bytes.Equal(want, b.Bytes()))
}

// TestRefusalConcernsOneMapping has one mapping locked, or marked, in part: it is
// then two VMAs, which mremap(2) does not grow. Other Buffers go on moving.
func TestRefusalConcernsOneMapping(t *testing.T) {
	for name, trick := range map[string]func(p []byte) error{
		"MADV_DONTFORK": func(p []byte) error { return unix.Madvise(p, unix.MADV_DONTFORK) },
		"mlock":         unix.Mlock,
	} {
		t.Run(name, func(t *testing.T) {
			mapping.Settle() // b is to be a mapping of its own, which must grow
			b, want := mapped(t, 5*miB)
			if err := trick(b.m.Inspect().Mem[vm.Unit() : 2*vm.Unit()]); err != nil {
				t.Skip(err)
			}
			was := ReadStats()
			b.Grow(100 * miB)
			requireContents(t, b, want)
			require.Greater(t, ReadStats().Copies, was.Copies, "nothing was refused")

			mapping.Settle()
			c, want := mapped(t, 5*miB)
			was = ReadStats()
			c.Grow(100 * miB)
			require.Greater(t, ReadStats().Moves+ReadStats().GrowsInPlace, was.Moves+was.GrowsInPlace)
			requireContents(t, c, want)
		})
	}
}

// TestFinalizersOfViews: a program that sets, or removes, a finalizer on the first byte
// of a view does not meet that of a loan.
func TestFinalizersOfViews(t *testing.T) {
	needMoves(t)
	for i := range 300 {
		var b Buffer
		fill(&b, i, 3*miB)
		v := b.Bytes()
		if i%2 == 0 {
			runtime.SetFinalizer(&v[0], func(*byte) {})
		} else {
			runtime.SetFinalizer(&v[0], nil)
		}
		require.True(t, isFilled(v, i, 0))
	}
}
