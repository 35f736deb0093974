//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
	"weak"

	"github.com/stretchr/testify/require"
)

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
		t.Skip("none did: before Linux 6.7")
	}
}
