//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
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
)

var soak = flag.Duration("soak", 0, "run the tests of lifetimes for `duration` and with more memory")

// runFor returns how long a test that has no end runs.
func runFor(d time.Duration) time.Duration {
	if testing.Short() {
		d /= 3
	}
	return max(d, *soak)
}

const piece = 64 * kiB

// pieceOf returns the k-th piece of what fill writes.
func pieceOf(seed, k int) []byte {
	p := noise()
	i := (seed*7919 + k*4099) % (len(p) - piece)
	return p[i : i+piece]
}

// fill appends n bytes, in pieces, that depend on seed. It takes no interface,
// for which b would escape.
func fill(b *Buffer, seed, n int) {
	for k := 0; n > 0; k++ {
		p := pieceOf(seed, k)
		p = p[:min(n, len(p))]
		_, _ = b.Write(p)
		n -= len(p)
	}
}

// isFilled reports whether p is what fill wrote from offset off on.
func isFilled(p []byte, seed, off int) bool {
	for len(p) > 0 {
		q := pieceOf(seed, off/piece)[off%piece:]
		q = q[:min(len(p), len(q))]
		if !bytes.Equal(q, p[:len(q)]) {
			return false
		}
		p, off = p[len(q):], off+len(q)
	}
	return true
}

// pattern returns n bytes as fill writes them.
func pattern(seed, n int) []byte {
	p := make([]byte, 0, n)
	for k := 0; len(p) < n; k++ {
		p = append(p, pieceOf(seed, k)[:min(piece, n-len(p))]...)
	}
	return p
}

// mapCount returns the number of mappings of the process.
func mapCount(t testing.TB) int {
	t.Helper()
	s, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return bytes.Count(s, []byte("\n"))
}

// footprint is what the process takes of the system.
type footprint struct {
	maps int // mappings
	data int // bytes of private, writable memory beside Go's own, resident or not
	rss  int // bytes resident
}

func footprintNow(t testing.TB) footprint {
	t.Helper()
	debug.FreeOSMemory()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return footprint{mapCount(t), status(t, "VmData") - int(ms.Sys), status(t, "VmRSS")}
}

// settled returns the footprint when finalizers and cleanups have had time.
func settled(t testing.TB) footprint {
	t.Helper()
	for range 3 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	return footprintNow(t)
}

// requireBackTo collects garbage until the process takes no more than it did,
// or a little more: other threads come with stacks, the heap with its tables.
// The race detector keeps its shadow of the heap.
func requireBackTo(t *testing.T, was footprint) {
	t.Helper()
	requireWithin(t, was, footprint{maps: 16, data: 200 * miB, rss: 24 * miB})
}

// requireWithin is requireBackTo with more for a little more.
func requireWithin(t *testing.T, was, more footprint) {
	t.Helper()
	var is footprint
	ok := func() bool {
		is = footprintNow(t)
		// Pages that were published part the heap for good.
		return is.maps <= was.maps+more.maps+int(splits.count()) && (raceEnabled || is.data <= was.data+more.data && is.rss <= was.rss+more.rss)
	}
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Failf(t, "memory is not given back", "was %+v, is %+v", was, is)
}

// underPressure runs f while other Buffers grow, are closed and forgotten, and
// the ordinary heap turns over.
func underPressure(t *testing.T, f func()) {
	t.Helper()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for seed := 1000; !stop.Load(); seed++ {
			var b Buffer
			fill(&b, seed, 2*miB+seed*99991%(8*miB))
			if seed%2 == 0 {
				b.Bytes()
			}
			if seed%3 == 0 {
				_ = b.Close()
			}
		}
	})
	wg.Go(func() {
		var ring [8][]byte
		for i := 0; !stop.Load(); i++ {
			ring[i%8] = bytes.Repeat([]byte{0xee}, i*77773%(4*miB))
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	f()
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
			for i := range 10 {
				runtime.GC()
				for name, ok := range views {
					require.True(t, ok(), "%s changed by collection %d", name, i+1)
				}
			}
		})
	}
	sizes := []int{2 * miB, 5*miB + 12345, 64 * miB}
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
	if testing.Short() || raceEnabled {
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

// TestViewKeptAcross changes a Buffer whose view is kept and looks at the view:
// it must show what that of a bytes.Buffer does.
func TestViewKeptAcross(t *testing.T) {
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

func TestManyBuffers(t *testing.T) {
	const size = 2 * miB
	data := pattern(3, size)
	// Writing by small steps leaves slices of up to mapThreshold
	// behind, which call for the collector; one Write, or Grow, leaves
	// nothing, and nobody does.
	makers := []struct {
		name string
		make func(i int) bool
	}{
		{"half of them viewed", func(i int) bool {
			var b Buffer
			fill(&b, i, size)
			return i%2 == 0 || isFilled(b.Bytes()[size-100:], i, size-100)
		}},
		{"nothing else allocates", func(int) bool {
			var b Buffer
			n, _ := b.Write(data)
			return n == size
		}},
	}
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			n, limit := 600, 2*giB
			if testing.Short() {
				n = 200
			}
			if *soak > 0 {
				n, limit = 10_000, 4*giB
				needMemory(t, 8*giB)
			}
			needMemory(t, int64(limit))
			was := settled(t)
			most := 0
			for i := range n {
				require.True(t, m.make(i))
				if i%50 == 0 {
					most = max(most, status(t, "VmRSS")-was.rss)
					require.LessOrEqual(t, most, limit, "memory ran away after %d Buffers", i)
				}
			}
			t.Logf("%d Buffers of %s: at most %s resident", n, sizeString(size), sizeString(most))
			requireBackTo(t, was)
		})
	}
}

// The last use of a Buffer of n bytes is one of these calls: the collector may
// find it unreachable in the middle. Each reports whether the result is right.
var lastCalls = []func(b *Buffer, seed, n int) bool{
	func(b *Buffer, seed, n int) bool {
		m, err := b.Write(noise())
		return m == len(noise()) && err == nil
	},
	func(b *Buffer, seed, n int) bool {
		m, _ := b.WriteString(strings.Repeat("x", 5*miB))
		return m == 5*miB
	},
	func(b *Buffer, seed, n int) bool { return b.WriteByte('x') == nil },
	func(b *Buffer, seed, n int) bool { m, _ := b.WriteRune('€'); return m == 3 },
	func(b *Buffer, seed, n int) bool {
		p := make([]byte, n)
		m, err := b.Read(p)
		return m == n && err == nil && isFilled(p, seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
		p, err := b.ReadBytes(0) // noise has none
		return len(p) == n && err == io.EOF && isFilled(p, seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
		return isFilled([]byte(b.String()), seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
		c, err := b.ReadByte()
		return c == pieceOf(seed, 0)[0] && err == nil
	},
	func(b *Buffer, seed, n int) bool {
		ok := false
		m, err := b.WriteTo(writerFunc(func(p []byte) (int, error) {
			runtime.GC()
			ok = isFilled(p, seed, 0)
			runtime.GC()
			return len(p), nil
		}))
		return ok && m == int64(n) && err == nil
	},
	func(b *Buffer, seed, n int) bool {
		calls := 0
		m, err := b.ReadFrom(reader(func(p []byte) (int, error) {
			runtime.GC()
			if calls++; calls == 4 {
				return 0, io.EOF
			}
			return copy(p, noise()), nil
		}))
		return m > 0 && err == nil
	},
	func(b *Buffer, seed, n int) bool {
		p := make([]byte, n/2)
		m, err := b.ReadAt(p, int64(n/3))
		return m == n/2 && err == nil && isFilled(p, seed, n/3)
	},
	func(b *Buffer, seed, n int) bool {
		m, err := b.WriteAt(noise(), int64(n/3))
		return m == len(noise()) && err == nil
	},
	func(b *Buffer, seed, n int) bool { v := b.Bytes(); return len(v) == n && isFilled(v, seed, 0) },
	func(b *Buffer, seed, n int) bool { v := b.Next(n - 5); return len(v) == n-5 && isFilled(v, seed, 0) },
	func(b *Buffer, seed, n int) bool {
		v, err := b.Peek(n / 2)
		return err == nil && len(v) == n/2 && isFilled(v, seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
		v := b.AvailableBuffer()
		v = v[:cap(v)]
		clear(v)
		return true
	},
	func(b *Buffer, seed, n int) bool { b.Grow(3 * n); return true },
	func(b *Buffer, seed, n int) bool { b.Shrink(); return true },
	func(b *Buffer, seed, n int) bool { return b.Close() == nil },
	func(_ *Buffer, seed, n int) bool { // on the stack
		var b Buffer
		fill(&b, seed, n)
		p := make([]byte, n)
		m, err := b.Read(p)
		return m == n && err == nil && isFilled(p, seed, 0)
	},
	func(_ *Buffer, seed, n int) bool { // on the stack, the contents moved meanwhile
		var b Buffer
		fill(&b, seed, n)
		b.Shrink()
		b.Grow(8 * miB)
		m, err := b.Write(noise())
		return m == len(noise()) && err == nil
	},
}

// churnHeap allocates ordinary memory of all sizes and reports an error if it
// is not zero when it is new, or changes while it is held.
func churnHeap(stop *atomic.Bool) error {
	var held [24][]byte
	is := func(p []byte, c byte) bool { return bytes.Count(p, []byte{c}) == len(p) }
	for i := 0; !stop.Load(); i++ {
		n := 16 << rand.N(22) // 16 B to 32 MiB
		n -= rand.N(n / 2)
		p := make([]byte, n)
		if !is(p, 0) {
			return fmt.Errorf("%d new bytes are not zero", n)
		}
		slot := i % len(held)
		if q := held[slot]; len(q) > 0 && !is(q, q[0]) {
			return fmt.Errorf("%d bytes of the heap changed", len(q))
		}
		for j, c := 0, byte(i)|1; j < n; j++ {
			if j == 64 { // the rest by doubling
				for k := j; k < n; k *= 2 {
					copy(p[k:], p[:k])
				}
				break
			}
			p[j] = c
		}
		held[slot] = p
	}
	return nil
}

// useUntilUnreachable has Buffers become unreachable in the middle of calls for
// a time, with the collector at work all the while.
func useUntilUnreachable(t *testing.T, d time.Duration) {
	needMemory(t, 2*giB)
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for g := range 6 {
		wg.Go(func() {
			var kept [4]func() bool // views, for some time
			for seed := g * 10000; !stop.Load(); seed++ {
				i := rand.N(len(lastCalls))
				n := 2*miB + rand.N(3*miB)
				func() {
					b := new(Buffer)
					fill(b, seed, n)
					if !lastCalls[i](b, seed, n) {
						errs <- fmt.Errorf("call %d on %d bytes: wrong result", i, n)
						stop.Store(true)
					}
				}()
				if k := seed % 32; k < len(kept) {
					if kept[k] != nil && !kept[k]() {
						errs <- fmt.Errorf("a view changed")
						stop.Store(true)
					}
					kept[k] = viewsOf[[]string{"Bytes", "Next", "Peek", "AvailableBuffer"}[k]](seed, n)
				}
			}
		})
	}
	wg.Go(func() { errs <- churnHeap(&stop) })
	wg.Go(func() {
		for !stop.Load() {
			runtime.GC()
			debug.FreeOSMemory()
		}
	})
	time.AfterFunc(d, func() { stop.Store(true) })
	wg.Wait()
	close(errs)
	for err := range errs {
		assert.NoError(t, err)
	}
}

func TestUnreachableInTheMiddleOfACall(t *testing.T) {
	useUntilUnreachable(t, runFor(3*time.Second))
}

// TestRuntimeChecks has the runtime look for what must not be: freed memory in
// use, marks that do not hold, pointers to nowhere.
func TestRuntimeChecks(t *testing.T) {
	for _, check := range []string{"clobberfree=1", "gccheckmark=1", "invalidptr=1"} {
		t.Run(check, func(t *testing.T) {
			if testing.Short() && check != "clobberfree=1" {
				t.Skip("slow")
			}
			t.Setenv("GODEBUG", check)
			if inChild(t) {
				useUntilUnreachable(t, runFor(time.Second))
			}
		})
	}
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
			require.LessOrEqual(t, mapCount(t), was.maps+64+int(splits.count()))
		}
	}
	t.Logf("%d published, the heap is parted at %d places", published, splits.count())
	// A place is a huge page; the heap was never larger than this.
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	require.LessOrEqual(t, splits.count(), int64(ms.HeapSys)/int64(pageUnit())+1)
	require.LessOrEqual(t, splits.count(), vmaBudget()/2+2)
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
	require.Eventually(t, func() bool { return freed.Load() == 2 }, 5*time.Second, time.Millisecond)
}

// TestBlockedFinalizer: a finalizer of the program that never returns keeps no
// memory of Buffers.
func TestBlockedFinalizer(t *testing.T) {
	if !inChild(t) {
		return
	}
	needMemory(t, 4*giB)
	block, running := make(chan int), make(chan int)
	func() {
		x := new([32]int)
		runtime.SetFinalizer(x, func(*[32]int) { close(running); <-block })
	}()
	runtime.GC()
	<-running
	was := settled(t)
	for seed := range 30 {
		var b Buffer
		fill(&b, seed, 64*miB)
		b.Bytes()
		if seed%2 == 0 {
			_ = b.Close()
		}
	}
	requireWithin(t, was, footprint{maps: 128, data: giB, rss: 64 * miB})
	close(block)
}

// TestManyViews holds more views than the system has mappings for a process.
func TestManyViews(t *testing.T) {
	s, err := os.ReadFile("/proc/sys/vm/max_map_count")
	require.NoError(t, err)
	var limit int
	_, _ = fmt.Sscan(string(s), &limit)
	switch {
	case raceEnabled:
		t.Skip("the race detector has no room for so large a heap")
	case limit > 70_000:
		t.Skipf("vm.max_map_count is %d: out of reach", limit)
	case testing.Short():
		t.Skip("slow")
	}
	needMemory(t, 3*giB)
	if !inChild(t) {
		return
	}
	var views [][]byte
	for i := range limit/2 + 3000 {
		b := Buffer{NoHugePages: true}
		b.Grow(4*mapThreshold + 1)
		_, _ = b.Write([]byte{byte(i), byte(i >> 8)})
		b.AvailableBuffer() // publishes more than Bytes, too much to be copied
		views = append(views, b.Bytes())
	}
	assert.Less(t, mapCount(t), limit*3/4, "too few are left to the runtime")
	for i, v := range views {
		require.Equal(t, []byte{byte(i), byte(i >> 8)}, v)
	}
}

// TestRefusedPublish has no mremap(2): publishing copies, and leaks nothing.
func TestRefusedPublish(t *testing.T) {
	was := settled(t)
	defer mremapRefused.Store(false)
	for seed := range 20 {
		mremapRefused.Store(false)
		var b Buffer
		fill(&b, seed, 20*miB)
		_, _ = b.Read(make([]byte, 7*miB+1))
		require.NotNil(t, b.m)
		mremapRefused.Store(true)
		v := b.Bytes()
		require.Len(t, v, 13*miB-1)
		require.True(t, isFilled(v, seed, 7*miB+1))
		fill(&b, seed, miB)
		require.True(t, isFilled(b.Bytes()[13*miB-1:], seed, 0))
	}
	requireBackTo(t, was)
}

// TestMoveToHeapFails has mremap(2) fail after and before it has unmapped its
// target.
func TestMoveToHeapFails(t *testing.T) {
	was := settled(t)
	for range 5 {
		obj, skip := heapObject(8 * miB)
		in := within(obj, skip, 8*miB)
		clear(in)
		for _, how := range []uintptr{unix.MAP_FIXED_NOREPLACE, 0} { // 0: kernels before 4.17 take it for a wish
			require.ErrorIs(t, mapOnto(in, how), unix.EEXIST)
		}
		// A source that is not mapped.
		from, err := mmap(8*miB, pageUnit(), unix.PROT_READ)
		require.NoError(t, err)
		require.NoError(t, munmap(from))
		require.Nil(t, (&pages{mem: from}).moveToHeap(0, len(from)))
		require.False(t, mremapRefused.Load(), "a refusal is of one mapping")
		require.Zero(t, bytes.Count(in, []byte{1})) // readable throughout
		for i := range in {
			in[i] = 1
		}
	}
	// Whose pages they are is not known after such a failure, so the heap does
	// not get the place back, once for each.
	require.LessOrEqual(t, len(lost.objects), 5)
	lost.objects = nil // but we know
	requireBackTo(t, was)
}

// TestPublishBeyondLimit has limits that a process sets itself in the way of
// publishing, and of giving pages back.
func TestPublishBeyondLimit(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs more addresses than the limit leaves")
	}
	needMemory(t, 2*giB)
	limits := map[string]struct {
		resource int
		key      string
	}{
		"RLIMIT_AS":   {unix.RLIMIT_AS, "VmSize"},
		"RLIMIT_DATA": {unix.RLIMIT_DATA, "VmData"},
	}
	for name, l := range limits {
		// limited runs f with room bytes to spare.
		limited := func(t *testing.T, room int, f func()) {
			var old unix.Rlimit
			require.NoError(t, unix.Getrlimit(l.resource, &old))
			now := unix.Rlimit{Cur: uint64(status(t, l.key) + room), Max: old.Max}
			require.NoError(t, unix.Setrlimit(l.resource, &now))
			f()
			require.NoError(t, unix.Setrlimit(l.resource, &old))
		}
		t.Run(name+"/publish", func(t *testing.T) {
			if !inChild(t) {
				return
			}
			_ = make([]byte, 32*miB) // the runtime dies of a lack of memory; let it have some
			b, want := mapped(t, 256*miB)
			_, _ = b.Read(make([]byte, 1000))
			var bytesErr, nextErr error
			var little, rest []byte
			usable := false
			limited(t, 128*miB, func() {
				bytesErr, _ = caught(func() error { b.Bytes(); return nil })
				nextErr, _ = caught(func() error { b.Next(200 * miB); return nil })
				// Little needs memory for little.
				little, _ = b.Peek(100)
				rest = b.Next(100)
				c, err := b.ReadByte()
				usable = c == want[1100] && err == nil && b.UnreadByte() == nil
			})
			for _, err := range []error{bytesErr, nextErr} {
				require.ErrorIs(t, err, ErrTooLarge)
				require.ErrorIs(t, err, unix.ENOMEM)
			}
			require.True(t, usable)
			require.Equal(t, want[1000:1100], little)
			require.Equal(t, want[1000:1100], rest)
			require.True(t, bytes.Equal(want[1100:], b.Bytes()))
		})
	}
}

// TestViewLadder views contents where there is no room for them and as much
// spare capacity, and where only the mapping's own unused end leaves any.
func TestViewLadder(t *testing.T) {
	noRace(t)
	needMemory(t, 4*giB)
	tests := map[string]struct{ reserve, room int }{
		"without spare":          {0, 480 * miB},
		"the unused end is cut":  {2 * giB, 100 * miB},
		"spare that is not used": {2 * giB, 480 * miB},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if !inChild(t) {
				return
			}
			_ = make([]byte, 32*miB) // the runtime dies of a lack of memory; let it have some
			var b Buffer
			fill(&b, 1, 300*miB)
			b.Grow(tt.reserve)
			restore := limit(t, unix.RLIMIT_AS, "VmSize", tt.room)
			p := b.Next(miB)
			restore()
			require.Len(t, p, miB)
			require.True(t, isFilled(p, 1, 0))
			require.Nil(t, b.m, "a copy, not a view")
			require.True(t, isFilled(b.Bytes(), 1, miB))
		})
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

func TestMemoryIsGivenBack(t *testing.T) {
	const size = 64 * miB
	needMemory(t, giB)
	ways := map[string]func(t *testing.T){
		"Close": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			require.NoError(t, b.Close())
		},
		"Shrink": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			_, _ = io.CopyN(io.Discard, &b, size-miB)
			b.Shrink()
			require.LessOrEqual(t, b.Cap(), 2*pageUnit())
			t.Cleanup(func() { require.True(t, isFilled(b.Bytes(), 1, size-miB)) })
		},
		"Shrink of spare": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Truncate(100)
			b.Shrink()
			t.Cleanup(func() { require.True(t, isFilled(b.Bytes(), 1, 0)) })
		},
		"unreachable": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
		},
		"view": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Bytes()
		},
		"view, Close": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Bytes()
			require.NoError(t, b.Close())
		},
		"view, growth, view": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size/2)
			b.Bytes()
			fill(&b, 1, size)
			b.Bytes()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			was := settled(t)
			for range 4 { // 256 MiB, if it stayed
				way(t)
			}
			requireBackTo(t, was)
		})
	}
	t.Run("Close, without a collection", func(t *testing.T) {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		was := settled(t)
		var b Buffer
		fill(&b, 1, size)
		require.NoError(t, b.Close())
		require.Eventually(t, func() bool {
			return (raceEnabled || status(t, "VmRSS") < was.rss+16*miB) && mapCount(t) <= was.maps+8
		}, 10*time.Second, 20*time.Millisecond)
	})
}

// TestCloseHoldsItsMapping looks whether a mapping is found unreachable while
// Close is about to unmap it: its cleanup would unmap it as well, and the
// second to come could hit what has been mapped there since.
func TestCloseHoldsItsMapping(t *testing.T) {
	const size = 512 * miB
	needMemory(t, 2*size)
	unmap := map[string]func(b *Buffer){
		"Close": func(b *Buffer) { _ = b.Close() },
		// The Writer closes the Buffer, so the end of the call unmaps.
		"WriteTo": func(b *Buffer) {
			_, _ = b.WriteTo(writerFunc(func(p []byte) (int, error) { _ = b.Close(); return 0, errTest }))
		},
	}
	for name, do := range unmap {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				b := Buffer{NoHugePages: true} // which takes longer to unmap
				b.Grow(size)
				fill(&b, 1, size)
				var closed, early, stop atomic.Bool
				runtime.AddCleanup(b.m, func(int) { early.Store(!closed.Load()) }, 0)
				var wg sync.WaitGroup
				wg.Go(func() {
					for !stop.Load() {
						runtime.GC()
					}
				})
				do(&b)
				closed.Store(true)
				stop.Store(true)
				wg.Wait()
				require.False(t, early.Load(), "the cleanup ran before the call was over")
			}
		})
	}
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

// TestFinalizerOfABuffer has one on the Buffer itself, or on what it is part
// of: that it knows its own address must not keep it.
func TestFinalizerOfABuffer(t *testing.T) {
	type inside struct {
		Before [3]int
		b      Buffer
		After  [1000]int
	}
	for _, n := range []int{100, 3 * miB} {
		var ran atomic.Int32
		func() {
			b := new(Buffer)
			fill(b, 1, n)
			runtime.SetFinalizer(b, func(b *Buffer) {
				if isFilled(contents(b), 1, 0) && b.Close() == nil {
					ran.Add(1)
				}
			})
			s := new(inside)
			fill(&s.b, 2, n)
			runtime.SetFinalizer(s, func(s *inside) {
				if isFilled(s.b.Bytes(), 2, 0) {
					ran.Add(1)
				}
			})
			a := new([5]Buffer)
			for i := range a {
				fill(&a[i], i, n)
			}
			runtime.SetFinalizer(a, func(a *[5]Buffer) {
				for i := range a {
					if !isFilled(contents(&a[i]), i, 0) {
						return
					}
				}
				ran.Add(1)
			})
		}()
		eventually(t, func() bool { return ran.Load() == 3 })
	}
}

// TestWeakPointerToAView never leads to memory whose pages are gone.
func TestWeakPointerToAView(t *testing.T) {
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

var globalBuffer Buffer

// TestWhereverItLives keeps Buffers in all sorts of places while the collector
// is at work.
func TestWhereverItLives(t *testing.T) {
	const n = 3 * miB
	array := new([6]Buffer)
	byName := make(map[string]*Buffer)
	var local Buffer
	closure := func() bool { return isFilled(contents(&local), 3, 0) }
	ch := make(chan *Buffer, 1)
	any1 := any(new(Buffer))
	defer globalBuffer.Close()
	underPressure(t, func() {
		fill(&globalBuffer, 1, n)
		fill(&local, 3, n)
		for i := range array {
			fill(&array[i], 10+i, n)
			b := new(Buffer)
			fill(b, 20+i, n)
			byName[fmt.Sprint(i)] = b
		}
		inChan := new(Buffer)
		fill(inChan, 30, n)
		ch <- inChan
		fill(any1.(*Buffer), 31, n)
		for range 5 {
			runtime.GC()
		}
		for i := range array {
			require.True(t, isFilled(contents(&array[i]), 10+i, 0))
			require.True(t, isFilled(contents(byName[fmt.Sprint(i)]), 20+i, 0))
		}
		require.True(t, closure())
		require.True(t, isFilled(contents(&globalBuffer), 1, 0))
		require.True(t, isFilled((<-ch).Bytes(), 30, 0))
		require.True(t, isFilled(contents(any1.(*Buffer)), 31, 0))

		// Neighbours that the kernel may have merged into one mapping:
		// each goes its own way without a trace on the others.
		array[1].Grow(40 * miB)
		_ = array[2].Close()
		v := array[3].Bytes()
		_, _ = array[4].WriteAt(noise(), n+5*miB)
		array[5].Shrink()
		fill(&array[2], 12, n)
		for range 3 {
			runtime.GC()
		}
		require.True(t, isFilled(v, 13, 0))
		for i := range array {
			require.True(t, isFilled(contents(&array[i])[:n], 10+i, 0), i)
		}
	})
}

// TestViewsInOtherGoroutines hands views to goroutines with small stacks and
// leaves.
func TestViewsInOtherGoroutines(t *testing.T) {
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
