//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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

func TestMappingIsOneVMA(t *testing.T) {
	mapping.Collect() // mappings that other tests left could lie next to ours and merge with it
	mapping.Settle()
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

func TestHugePagesAreUsed(t *testing.T) {
	needHugePages(t)
	for _, no := range []bool{false, true} {
		b := Buffer{NoHugePages: no}
		for b.Len() < 16*miB {
			_, _ = b.Write(make([]byte, 64*kiB))
		}
		vs := vmas(t, b.m.Inspect().Mem)
		require.Len(t, vs, 1)
		if no {
			assert.Zero(t, vs[0].huge)
		} else {
			assert.NotZero(t, vs[0].huge, "no huge pages, or none left")
		}
		require.NoError(t, b.Close())
	}
}

// TestHugePagesDisabled and TestNoHugePagesWhereAlwaysEnabled: what the system says is what
// happens, but for NoHugePages.
func TestHugePagesDisabled(t *testing.T) {
	if !inChild(t) {
		return
	}
	require.NoError(t, unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0))
	b, want := mapped(t, 16*miB)
	requireOneVMA(t, b, "without huge pages")
	require.Zero(t, vmas(t, b.m.Inspect().Mem)[0].huge)
	require.True(t, bytes.Equal(want, b.Bytes()))
	useAll(t)
}

func TestNoHugePagesWhereAlwaysEnabled(t *testing.T) {
	const path = "/sys/kernel/mm/transparent_hugepage/enabled"
	s, err := os.ReadFile(path)
	if err != nil {
		t.Skip("the kernel has no transparent huge pages")
	}
	_, now, _ := strings.Cut(string(s), "[")
	now, _, _ = strings.Cut(now, "]")
	setSystem(t, path, "always", now)
	b := Buffer{NoHugePages: true}
	fill(&b, 1, 8*miB)
	require.Zero(t, vmas(t, b.m.Inspect().Mem)[0].huge)
	require.NoError(t, b.Close())
	useAll(t)
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
	seen  []byte // what a view has shown
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
		_, _ = w.b.ReadFrom(bytes.NewReader(p))
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
			v := w.b.AvailableBuffer()
			w.seen = v[:cap(v)]
			if w.r.IntN(2) == 0 {
				v = w.b.Bytes()
				w.seen = v[len(v):cap(v)]
			}
			return nil
		})
	}
}

func (w *pageWalk) check() error {
	seen := w.seen
	w.seen = nil
	if bytes.Contains(seen, bytes.Repeat([]byte{foreign}, 16)) {
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

// TestGapFromWithinAHole makes the contents end in a hole, and then leaves a gap:
// clearing the rest of the unit made it resident.
func TestGapFromWithinAHole(t *testing.T) {
	var b Buffer
	defer b.Close()
	_, _ = b.Write(noise()[:2*miB])
	_, err := b.WriteAt([]byte("x"), 40*miB)
	require.NoError(t, err)
	for unit := 19; unit > 2; unit-- {
		b.Truncate(unit*2*miB + 100)
		_, err := b.WriteAt([]byte("x"), int64(unit*2*miB+4*miB+50))
		require.NoError(t, err)
		require.Equal(t, -1, untouchedResident(b.m))
	}
}

// TestHugePagesAgain: huge pages are requested again when holes have gone because
// idle memory was freed, and appending in order gets them, in whatever way.
func TestHugePagesAgain(t *testing.T) {
	needHugePages(t)
	noIdle(t)
	var a, b Buffer
	fill(&a, 1, 16*miB)
	require.NoError(t, a.Close())
	b.Grow(16 * miB)
	_ = b.WriteByte('x')
	_, err := b.WriteAt([]byte("x"), 12*miB)
	require.NoError(t, err)
	require.True(t, b.m.Sparse())
	b.Reset()
	twoTicks()
	fill(&b, 1, 16*miB)
	require.NoError(t, invariants(&b))
	assert.GreaterOrEqual(t, vmas(t, b.m.Inspect().Mem)[0].huge, 12*miB)
	require.NoError(t, b.Close())

	const n = 40 * miB
	block := noise()[:8*kiB]
	for name, write := range map[string]func(b *Buffer, f *File){
		"Write":      func(b *Buffer, f *File) { _, _ = b.Write(block) },
		"File.Write": func(b *Buffer, f *File) { _, _ = f.Write(block) },
		"WriteAt":    func(b *Buffer, f *File) { _, _ = b.WriteAt(block, int64(b.Len())) },
	} {
		mapping.Settle()
		var b Buffer
		b.Grow(100 * miB)
		_ = b.WriteByte('x')
		_, err := b.WriteAt([]byte("x"), 20*miB)
		require.NoError(t, err)
		if vm.Populate(b.m.Inspect().Mem[:os.Getpagesize()]) != nil {
			t.Skip("before Linux 5.14, there is no way")
		}
		for f := atItsEnd(&b); b.Len() < 20*miB+n; {
			write(&b, f)
		}
		assert.GreaterOrEqual(t, vmas(t, b.m.Inspect().Mem)[0].huge, n-4*miB, name)
		require.NoError(t, b.Close())
	}
}

// TestTickBesideOwner frees idle memory that an owner has not used, while it is
// writing, or starts again. For the race detector.
func TestTickBesideOwner(t *testing.T) {
	setThreshold(t, 1)
	for _, use := range []func(b *Buffer){
		func(b *Buffer) { fill(b, 1, 8*miB) },
		func(b *Buffer) {
			for range 2000 {
				b.Reset()
				_, _ = b.WriteString("x")
			}
		},
		func(b *Buffer) { _, _ = b.WriteAt([]byte("x"), 12*miB); fill(b, 1, miB) },
	} {
		reached := 0
		for i := range byLength(10, 10, 50) {
			leaveForeign(16*miB, false)
			var b Buffer
			fill(&b, i, miB)
			if b.m.Inspect().Dirty > 8*miB {
				reached++
			}
			done := make(chan bool)
			go func() {
				time.Sleep(time.Duration(rand.N(500)) * time.Microsecond)
				twoTicks()
				close(done)
			}()
			use(&b)
			<-done
			require.NoError(t, invariants(&b))
			require.False(t, bytes.Contains(contents(&b), bytes.Repeat([]byte{foreign}, 16)))
			require.NoError(t, b.Close())
		}
		require.Positive(t, reached, "no idle memory was used")
	}
}

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
// object, by the first collection that finds it unreachable, if it is more than is
// lent.
func TestPublishedNeedsOneCollection(t *testing.T) {
	const n = 160 * miB
	needMemory(t, 4*n)
	var freed atomic.Int32
	func() {
		var b Buffer
		fill(&b, 1, n)
		runtime.AddCleanup(&b.Bytes()[0], func(int) { freed.Add(1) }, 0)
		p := make([]byte, n) // as a bytes.Buffer has it
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

// Views that are made of local, never closed Buffers of n bytes. Each returns
// a function that tells whether the view still is what it was.
var viewsOf = map[string]func(seed, n int) func() bool{
	"Bytes": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		v := b.Bytes()
		return func() bool { return len(v) == n && isFilled(v, seed, 0) }
	},
	"Next": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		v, w := b.Next(n/3), b.Next(n)
		return func() bool { return len(v)+len(w) == n && isFilled(v, seed, 0) && isFilled(w, seed, n/3) }
	},
	"Peek": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		v, err := b.Peek(n - 1)
		return func() bool { return err == nil && len(v) == n-1 && isFilled(v, seed, 0) }
	},
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
			ok := true
			_, _ = r.Seek(0, io.SeekStart)
			m, err := r.WriteTo(writerFunc(func(p []byte) (int, error) {
				ok = isFilled(p, seed, 0)
				return len(p), nil
			}))
			return ok && m == int64(n) && err == nil
		}
	},
	"the middle": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		v := b.Bytes()[n/2 : n/2+100]
		return func() bool { return isFilled(v, seed, n/2) }
	},
	"string copy": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		s := string(b.Bytes())
		return func() bool { return len(s) == n && isFilled(unsafe.Slice(unsafe.StringData(s), n), seed, 0) }
	},
	"string of the view": func(seed, n int) func() bool {
		var b Buffer
		fill(&b, seed, n)
		v := b.Bytes()
		s := unsafe.String(&v[0], len(v))
		return func() bool { return len(s) == n && isFilled(unsafe.Slice(unsafe.StringData(s), n), seed, 0) }
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

func TestViewsOutliveTheirBuffer(t *testing.T) {
	check := func(t *testing.T, views map[string]func() bool) {
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
	for _, n := range sizes {
		t.Run(sizeString(n), func(t *testing.T) {
			needMemory(t, 2*giB)
			views := make(map[string]func() bool)
			for name, mk := range viewsOf {
				views[name] = mk(len(views)+n%1000, n)
			}
			check(t, views)
		})
		runtime.GC() // one size at a time
	}
	if !long || raceEnabled {
		return
	}
	// One at a time: they are large.
	for name, mk := range viewsOf {
		if name == "json.Unmarshal" || name == "string copy" {
			continue // nothing new
		}
		t.Run("256 MiB/"+name, func(t *testing.T) {
			needMemory(t, 2*giB)
			check(t, map[string]func() bool{name: mk(17, 256*miB)})
		})
		runtime.GC()
	}
}

// TestViewKeptAcrossChanges changes a Buffer whose view is kept and looks at the view:
// it must show what that of a bytes.Buffer does.
func TestViewKeptAcrossChanges(t *testing.T) {
	const n = 3 * miB
	old, other := pattern(1, n), pattern(2, n)
	changes := map[string]func(b buffer){
		"growth":            func(b buffer) { b.Grow(20 * miB) },
		"growth by Write":   func(b buffer) { _, _ = b.Write(make([]byte, 20*miB)) },
		"growth and refill": func(b buffer) { b.Grow(20 * miB); b.Reset(); _, _ = b.Write(other) },
		"Reset":             func(b buffer) { b.Reset() },
		"Reset and refill":  func(b buffer) { b.Reset(); _, _ = b.Write(other) },
		"partial refill":    func(b buffer) { b.Truncate(0); _, _ = b.Write(other[:n/2]) },
		"Truncate":          func(b buffer) { b.Truncate(n / 2); _, _ = b.WriteString("overwritten") },
		"reading":           func(b buffer) { _, _ = b.Read(make([]byte, n/2)) },
		"being drained":     func(b buffer) { _, _ = b.WriteTo(io.Discard); _, _ = b.Write(other) },
	}
	for name, change := range changes {
		t.Run(name, func(t *testing.T) {
			see := func(b buffer) (view []byte) {
				_, _ = b.Write(old)
				view = b.Bytes()
				change(b)
				for range 2 {
					runtime.GC()
				}
				return view
			}
			got, want := see(new(Buffer)), see(new(bytes.Buffer))
			require.Len(t, got, n)
			require.NoError(t, diffBytes(got, want))
		})
	}
	beyond := map[string]func(b *Buffer){
		"Close":             func(b *Buffer) { _ = b.Close() },
		"Close and refill":  func(b *Buffer) { _ = b.Close(); _, _ = b.Write(other) },
		"Shrink":            func(b *Buffer) { b.Shrink() },
		"Shrink to less":    func(b *Buffer) { b.Next(n - 2*miB); b.Shrink() },
		"Shrink to nothing": func(b *Buffer) { b.Next(n); b.Shrink(); _, _ = b.Write(other) },
	}
	for name, change := range beyond {
		t.Run(name, func(t *testing.T) {
			var b Buffer
			_, _ = b.Write(old)
			b.Grow(10 * miB)
			view := b.Bytes()
			change(&b)
			underPressure(t, func() {
				for range 3 {
					runtime.GC()
				}
			})
			require.NoError(t, diffBytes(view, old))
		})
	}
	t.Run("a pool", func(t *testing.T) {
		pool := sync.Pool{New: func() any { return new(Buffer) }}
		for i := range 30 {
			b := pool.Get().(*Buffer)
			b.Reset()
			_, _ = b.Write(old)
			view := b.Bytes()
			pool.Put(b)
			if i%5 == 0 {
				runtime.GC()
				runtime.GC() // and the pool is empty
			}
			c := pool.Get().(*Buffer)
			c.Reset()
			_, _ = c.Write(other)
			want := old
			if b == c { // the same storage
				want = other
			}
			require.NoError(t, diffBytes(view, want))
			require.NoError(t, diffBytes(c.Bytes(), other))
			pool.Put(c)
		}
	})
}

// TestChangeDuringCallKeepsWhatWasPassed changes a Buffer while it is passed to a Reader or a
// Writer: what they were given must stay what it was.
func TestChangeDuringCallKeepsWhatWasPassed(t *testing.T) {
	changes := map[string]func(b *Buffer){
		"Grow":     func(b *Buffer) { b.Grow(64 * miB) },
		"Write":    func(b *Buffer) { _, _ = b.Write(make([]byte, 64*miB)) },
		"WriteAt":  func(b *Buffer) { _, _ = b.WriteAt([]byte("x"), 64*miB) },
		"Bytes":    func(b *Buffer) { b.Bytes() },
		"Shrink":   func(b *Buffer) { b.Shrink() },
		"Close":    func(b *Buffer) { _ = b.Close() },
		"twice":    func(b *Buffer) { b.Grow(64 * miB); b.Grow(256 * miB) },
		"Discard":  func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
		"ReadFull": func(b *Buffer) { _, _ = io.ReadFull(b, make([]byte, 40*miB)) },
	}
	for name, change := range changes {
		t.Run("WriteTo/"+name, func(t *testing.T) {
			b, want := mapped(t, 48*miB)
			_, _ = b.WriteTo(writerFunc(func(p []byte) (int, error) {
				change(b)
				require.True(t, bytes.Equal(want, p))
				return 0, errors.New("enough")
			}))
			_, err := b.Write(want)
			require.NoError(t, err)
		})
		t.Run("ReadFrom/"+name, func(t *testing.T) {
			b, want := mapped(t, 48*miB)
			func() {
				defer func() { _ = recover() }() // as bytes.Buffer, where the contents became shorter
				_, _ = b.ReadFrom(reader(func(p []byte) (int, error) {
					change(b)
					copy(p, want)
					require.True(t, bytes.Equal(want[:len(p)], p))
					return 1, io.EOF
				}))
			}()
			_, err := b.Write(want)
			require.NoError(t, err)
			require.True(t, bytes.HasSuffix(contents(b), want))
		})
	}
	t.Run("to itself", func(t *testing.T) {
		b, want := mapped(t, 3*miB)
		var o bytes.Buffer
		o.Write(want)
		n, err := b.WriteTo(b)
		on, oerr := o.WriteTo(&o)
		require.Equal(t, on, n)
		require.Equal(t, oerr, err)
		require.Equal(t, o.Len(), b.Len())
	})
}

// TestFinalizersSeeViews has finalizers and cleanups of the user's own hold
// views, and bring them back to life.
func TestFinalizersSeeViews(t *testing.T) {
	const n = 3 * miB
	type owner struct {
		view []byte
		seed int
	}
	var mu sync.Mutex
	var back []*owner
	finalized, cleaned, right := 0, 0, 0
	was := settled(t)
	const count = 20
	underPressure(t, func() {
		for seed := range count {
			func() {
				var b Buffer
				fill(&b, seed, n)
				o := &owner{b.Bytes(), seed}
				runtime.SetFinalizer(o, func(o *owner) {
					mu.Lock()
					defer mu.Unlock()
					finalized++
					if isFilled(o.view, o.seed, 0) {
						right++
					}
					back = append(back, o)
				})
				var c Buffer
				fill(&c, seed, n)
				runtime.AddCleanup(o, func(c *owner) {
					mu.Lock()
					defer mu.Unlock()
					cleaned++
					if isFilled(c.view, c.seed, 0) {
						right++
					}
				}, &owner{c.Bytes(), seed})
			}()
		}
		eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return finalized == count })
		for range 5 {
			runtime.GC()
		}
		mu.Lock()
		require.Equal(t, count, right)
		require.Zero(t, cleaned)
		for _, o := range back {
			require.True(t, isFilled(o.view, o.seed, 0), "back from the dead")
		}
		back = nil
		mu.Unlock()
		eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return cleaned == count })
		require.Equal(t, 2*count, right)
	})
	requireBackTo(t, was)
}

// TestWeakPointerNeverSeesFreedView never leads to memory whose pages are gone.
func TestWeakPointerNeverSeesFreedView(t *testing.T) {
	const n = 3 * miB
	for seed := range 20 {
		w := func() weak.Pointer[byte] {
			var b Buffer
			fill(&b, seed, n)
			v := b.Bytes()
			return weak.Make(&v[n/2])
		}()
		var stop atomic.Bool
		var wg sync.WaitGroup
		want := pieceOf(seed, n/2/piece)[n/2%piece]
		var wrong atomic.Bool
		wg.Go(func() {
			for !stop.Load() {
				if p := w.Value(); p == nil {
					return
				} else if *p != want {
					wrong.Store(true)
				}
				// To ask while the collector marks is to keep it alive.
				time.Sleep(rand.N(2 * time.Millisecond))
			}
		})
		eventually(t, func() bool { return w.Value() == nil })
		stop.Store(true)
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
			var b Buffer
			fill(&b, seed, 2*miB+seed*1000)
			v := b.Bytes()
			wg.Go(func() {
				deep(200)
				runtime.GC()
				deep(2000)
				if !isFilled(v, seed, 0) {
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
	for _, threshold := range []int{1, 1 << 20} {
		for _, n := range []int{0, 10, 1000, 50 * kiB, 3 * miB, 30 * miB} {
			for _, more := range []int{1, 100, 40 * kiB, 2 * miB, 60 * miB} {
				t.Run(fmt.Sprintf("threshold=%d/len=%d/grow=%d", threshold, n, more), func(t *testing.T) {
					setThreshold(t, threshold)
					var other, b Buffer
					defer b.Close()
					fill(&other, 9, 5*miB)
					require.NoError(t, other.Close()) // idle memory
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

func first(p []byte, _ error) []byte { return p }

// TestBufferViewedAgain: a Buffer that is viewed, outgrown and viewed again grows in
// Go memory from then on, and one that was viewed once does not.
func TestBufferViewedAgain(t *testing.T) {
	const n = 3 * miB
	var b Buffer
	defer b.Close()
	for round := range 2 { // Close begins anew
		fill(&b, 0, n)
		for views := 1; b.Len() < 40*n; views++ {
			require.NotNil(t, b.m, "%d views", views-1)
			v := b.Bytes()
			for b.Len() < 2*len(v)+n {
				fill(&b, views, n)
			}
			require.NoError(t, invariants(&b))
			if views == viewsToSlice {
				break
			}
		}
		copies, maps := ReadStats().Views, ReadStats().Created
		require.Nil(t, b.m, "round %d", round)
		for b.Len() < 40*n {
			fill(&b, 7, n)
			v := b.Bytes()
			spare := v[len(v):cap(v)]
			require.Equal(t, len(spare), bytes.Count(spare, []byte{0}), "old bytes of the heap")
		}
		require.Equal(t, copies, ReadStats().Views)
		require.Equal(t, maps, ReadStats().Created)
		p := b.Bytes()
		require.True(t, isFilled(p[:n], 0, 0) && isFilled(p[len(p)-n:], 7, 0))
		require.NoError(t, b.Close())
	}
}

// TestViewsComeBack: the memory of views that are dropped serves the next Buffers.
func TestViewsComeBack(t *testing.T) {
	needMoves(t)
	const n = 6 * miB
	came := 0
	for seed := range 20 {
		noIdle(t)
		func() {
			var b Buffer
			fill(&b, seed, n)
			require.True(t, isFilled(b.Bytes(), seed, 0))
		}()
		for range 100 {
			if _ = make([]byte, miB); ReadStats().IdleBytes == 0 { // not runtime.GC, after which idle memory is freed
				time.Sleep(time.Millisecond)
				debug.SetGCPercent(debug.SetGCPercent(1))
			}
		}
		if ReadStats().IdleBytes > 0 {
			came++
		}
		var b Buffer
		fill(&b, seed+1, n+miB)
		require.True(t, isFilled(contents(&b), seed+1, 0))
		require.NoError(t, invariants(&b))
		require.NoError(t, b.Close())
	}
	if came == 0 {
		t.Skip("none did: before Linux 5.7")
	}
}

// TestCopiesBehaveAsBytesBuffer does the same to a Buffer and its copy by value
// as to a bytes.Buffer and its copy, where no mapping is shared.
func TestCopiesBehaveAsBytesBuffer(t *testing.T) {
	const far = 20 * miB
	steps := map[string]func(x, y buffer){
		"write to one":       func(x, y buffer) { _, _ = x.WriteString("abc") },
		"write to the other": func(x, y buffer) { _, _ = y.WriteString("abc") },
		"append to both":     func(x, y buffer) { _, _ = x.WriteString("abc"); _, _ = y.WriteString("12345") },
		"grow":               func(x, y buffer) { x.Grow(far); _, _ = x.WriteString("abc") },
		"grow both":          func(x, y buffer) { x.Grow(far); y.Grow(far); _, _ = x.WriteString("abc"); _, _ = y.WriteString("12") },
		"grow, change":       func(x, y buffer) { x.Grow(far); copy(x.Bytes(), "changed"); x.Next(2) },
		"change":             func(x, y buffer) { copy(x.Bytes(), "changed") },
		"grow, then drop":    func(x, y buffer) { x.Grow(far); x.Reset(); runtime.GC(); _, _ = y.WriteString("abc") },
		"read":               func(x, y buffer) { x.Next(10); _, _ = y.ReadByte() },
		"reset, refill":      func(x, y buffer) { x.Reset(); _, _ = x.WriteString("refilled") },
		"truncate, write":    func(x, y buffer) { x.Truncate(x.Len() / 2); _, _ = x.WriteString("abc") },
		"close":              closeOne,
		"close both":         func(x, y buffer) { closeOne(x, y); closeOne(y, x) },
		"close, write both":  func(x, y buffer) { closeOne(x, y); _, _ = x.WriteString("abc"); _, _ = y.WriteString("12") },
		"close, grow other":  func(x, y buffer) { closeOne(x, y); runtime.GC(); y.Grow(far); _, _ = y.WriteString("12") },
	}
	kinds := map[string]func() (got *Buffer, want *bytes.Buffer){
		"zero": func() (*Buffer, *bytes.Buffer) { return new(Buffer), new(bytes.Buffer) },
		"slice": func() (*Buffer, *bytes.Buffer) {
			got, want := NewBuffer(make([]byte, 0, 100)), bytes.NewBuffer(make([]byte, 0, 100))
			_, _ = got.Write(noise()[:50])
			want.Write(noise()[:50])
			return got, want
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

// closeOne closes x, or does to a bytes.Buffer what comes nearest.
func closeOne(x, _ buffer) {
	switch x := x.(type) {
	case *Buffer:
		_ = x.Close()
	case *bytes.Buffer:
		*x = bytes.Buffer{}
	}
}

func must(err error) {
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
		"Reset":           func(b *Buffer) { b.Reset() },
		"Shrink":          func(b *Buffer) { b.Shrink() },
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
		// In these, an error is as good as a panic, and does not end the
		// goroutines of others.
		"ReadAt":  func(b *Buffer) { _, err := b.ReadAt(make([]byte, 1), 0); must(err) },
		"WriteAt": func(b *Buffer) { _, err := b.WriteAt([]byte("x"), 0); must(err) },
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
	methods := reflect.TypeFor[*Buffer]()
	for i := range methods.NumMethod() {
		switch name := methods.Method(i).Name; name {
		case "Len", "Cap", "Available", "UnreadByte", "UnreadRune": // look at no storage
		default:
			require.Contains(t, uses, name, "a method without a test")
		}
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
				case m.live || name == "Close":
					// What a copy of a bytes.Buffer does.
					if name != "Close" {
						require.NoError(t, diffBytes(contents(&c), want))
					}
					if m.live && !slices.Contains([]string{"Close", "Grow", "Shrink", "Reserve"}, name) {
						var o bytes.Buffer
						o.Write(want)
						require.NotPanics(t, func() { use(&c) })
					}
					return
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

// TestWorksUnderSeccomp lives with system calls that are refused: nothing is lost, and
// nobody is told.
func TestWorksUnderSeccomp(t *testing.T) {
	if raceEnabled {
		t.Skip("there is one goroutine, and the race detector takes its time")
	}
	const mremapFlags = 3
	tests := map[string]struct {
		filter  filter
		copying bool
	}{
		"mremap, EPERM":  {filter{call: unix.SYS_MREMAP, errno: unix.EPERM}, true},
		"mremap, ENOSYS": {filter{call: unix.SYS_MREMAP, errno: unix.ENOSYS}, true},
		"mremap, ENOMEM": {filter{call: unix.SYS_MREMAP, errno: unix.ENOMEM}, true},
		"MREMAP_FIXED":   {filter{unix.SYS_MREMAP, unix.EPERM, mremapFlags, unix.MREMAP_FIXED}, true},
		"madvise":        {filter{call: unix.SYS_MADVISE, errno: unix.EPERM}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if !inChild(t) {
				return
			}
			install(t, tt.filter)
			useAll(t)
			needMoves(t)
			require.Equal(t, tt.copying, vm.MovesRefused())
			require.Equal(t, tt.copying, ReadStats().Copies > 0)
			require.LessOrEqual(t, vm.Lost(), 1, "the first refusal is the last")
			require.False(t, !vm.Available())
		})
	}
}

// TestViewWithoutRoomForACopyPanics refuses to move the pages of a view where there is
// room for the object that they were to go to, but for no other.
func TestViewWithoutRoomForACopyPanics(t *testing.T) {
	noRace(t)
	needMoves(t)
	if !inChild(t) {
		return
	}
	_ = make([]byte, 32*miB) // the runtime dies of a lack of memory; let it have some
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

// TestRefusedCallsAreReplacedByCopies walks the ways without mremap(2) and mmap(2).
func TestRefusedCallsAreReplacedByCopies(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	install(t, filter{call: unix.SYS_MREMAP, errno: unix.EPERM})
	var b Buffer
	defer b.Close()
	var want bytes.Buffer
	step := func(n int) {
		p := randomBytes(uint64(n), n)
		_, _ = b.Write(p)
		want.Write(p)
		b.Next(n / 3)
		want.Next(n / 3)
		require.True(t, bytes.Equal(want.Bytes(), contents(&b)))
	}
	for range 20 {
		step(miB + 12345)
	}
	var c Buffer
	p := randomBytes(5, 9*miB)
	for off := 0; off < len(p); off += miB {
		_, _ = c.Write(p[off : off+miB])
	}
	require.NotNil(t, c.m)
	require.True(t, bytes.Equal(p, contents(&c)), "growth by copying")
	require.True(t, bytes.Equal(p, c.Bytes()), "publishing by copying")
	_ = c.Close()
	require.Positive(t, ReadStats().Copies)

	vm.RefuseMaps(true)
	for range 20 {
		step(miB + 54321)
	}
	require.Nil(t, b.m)
	require.ErrorIs(t, b.Reserve(vm.MaxSize), ErrTooLarge)
	require.True(t, bytes.Equal(want.Bytes(), contents(&b)))
}

// TestRefusedPublishCopies has views copied, as after a refusal of mremap(2):
// nothing leaks.
func TestRefusedPublishCopies(t *testing.T) {
	was := settled(t)
	defer vm.RefuseMoves(vm.MovesRefused())
	vm.RefuseMoves(true)
	for seed := range 20 {
		var b Buffer
		fill(&b, seed, 20*miB)
		_, _ = b.Read(make([]byte, 7*miB+1))
		require.NotNil(t, b.m)
		v := b.Bytes()
		require.Len(t, v, 13*miB-1)
		require.True(t, isFilled(v, seed, 7*miB+1))
		fill(&b, seed, miB)
		require.True(t, isFilled(b.Bytes()[13*miB-1:], seed, 0))
	}
	requireBackTo(t, was)
}

// TestRefusalConcernsOneMapping has one mapping locked, or marked, in part: it is
// then two VMAs, which mremap(2) does not grow. Other Buffers go on moving.
func TestRefusalConcernsOneMapping(t *testing.T) {
	tricks := map[string]func(p []byte) error{
		"MADV_DONTFORK": func(p []byte) error { return unix.Madvise(p, unix.MADV_DONTFORK) },
		"mlock":         unix.Mlock,
	}
	for name, trick := range tricks {
		t.Run(name, func(t *testing.T) {
			mapping.Settle() // b is to be a mapping of its own, which must grow
			b, want := mapped(t, 5*miB)
			if err := trick(b.m.Inspect().Mem[vm.Unit() : 2*vm.Unit()]); err != nil {
				t.Skip(err)
			}
			copies := ReadStats().Copies
			b.Grow(100 * miB)
			require.True(t, bytes.Equal(want, contents(b)))
			require.Greater(t, ReadStats().Copies, copies, "nothing was refused")

			mapping.Settle()
			c, want := mapped(t, 5*miB)
			moves := ReadStats()
			c.Grow(100 * miB)
			require.Greater(t, ReadStats().Moves+ReadStats().GrowsInPlace, moves.Moves+moves.GrowsInPlace)
			require.True(t, bytes.Equal(want, contents(c)))
		})
	}
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
