//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// noIdle has no idle memory, and no garbage of other tests that could become it.
func noIdle(t testing.TB) {
	t.Helper()
	eventually(t, func() bool { return ReadStats().Mappings == 0 })
	emptyIdle()
}

// setIdleMax replaces idleMax for the length of a test.
func setIdleMax(t testing.TB, n int) {
	t.Helper()
	set := func(f func() int) (old func() int) {
		idle.mu.Lock() // for tick
		defer idle.mu.Unlock()
		old, idleMax = idleMax, f
		return old
	}
	old := set(func() int { return n })
	t.Cleanup(func() { set(old) })
}

// idleBytes is what is idle after f, with nothing idle before.
func idleBytes(t testing.TB, f func()) int64 {
	t.Helper()
	noIdle(t)
	require.Zero(t, ReadStats().IdleBytes)
	f()
	return ReadStats().IdleBytes
}

func TestIdleMemoryIsUsedAgain(t *testing.T) {
	needMemory(t, giB)
	const size = 10 * miB
	for _, no := range []bool{false, true} {
		t.Run(fmt.Sprintf("NoHugePages=%t", no), func(t *testing.T) {
			noIdle(t)
			b := Buffer{NoHugePages: no}
			fill(&b, 1, size)
			at := base(b.m.mem)
			require.NoError(t, b.Close())
			kept := ReadStats().IdleBytes
			require.GreaterOrEqual(t, kept, int64(size))
			require.LessOrEqual(t, kept, int64(size+4*miB))
			require.Positive(t, residentAt(t, uintptr(at), size))

			other := Buffer{NoHugePages: !no}
			fill(&other, 2, size)
			require.NotEqual(t, at, base(other.m.mem), "pages of another size")
			require.Equal(t, kept, ReadStats().IdleBytes)
			fill(&b, 3, size)
			require.Equal(t, at, base(b.m.mem))
			require.Zero(t, ReadStats().IdleBytes)
			require.True(t, isFilled(contents(&b), 3, 0))
			_, _ = b.Close(), other.Close()
		})
	}
}

// TestIdleMemoryComesFromEverywhere gives memory back in each way.
func TestIdleMemoryComesFromEverywhere(t *testing.T) {
	needMemory(t, giB)
	const size = 12 * miB
	ways := map[string]func(b *Buffer){
		"Close":        func(b *Buffer) { _ = b.Close() },
		"Shrink":       func(b *Buffer) { b.Truncate(miB / 2); b.Shrink() },
		"Shrink, rest": func(b *Buffer) { b.Truncate(4 * miB); b.Shrink() },
		"a copied view": func(b *Buffer) {
			b.Truncate(3 * miB)
			b.Shrink()
			emptyIdle()
			b.Bytes()
		},
		"garbage": func(b *Buffer) {
			*b = Buffer{}
			eventually(t, func() bool { return ReadStats().Mappings == 0 })
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			var b Buffer
			if name == "garbage" { // a collection that a program asks for empties the store
				pacer.mu.Lock()
				forced := pacer.forced
				pacer.forced += 1 << 40
				pacer.mu.Unlock()
				defer func() {
					pacer.mu.Lock()
					pacer.forced = forced
					pacer.mu.Unlock()
				}()
			}
			kept := idleBytes(t, func() {
				fill(&b, 1, size)
				way(&b)
			})
			require.Positive(t, kept)
			require.LessOrEqual(t, kept, int64(size+4*miB))
			_ = b.Close()
		})
	}
}

// TestIdleMemoryGoes looks at the resident memory of a process in which nothing
// happens after a Close.
func TestIdleMemoryGoes(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	const size = 64 * miB
	warm := func() { // what the first use of the package takes
		var b Buffer
		fill(&b, 1, size)
		_ = b.Close()
	}
	warm()
	emptyIdle()
	debug.FreeOSMemory()
	rss, goroutines := status(t, "VmRSS"), runtime.NumGoroutine()
	warm()
	require.Greater(t, status(t, "VmRSS"), rss+size/2)
	time.Sleep(2 * time.Second)
	require.Less(t, status(t, "VmRSS"), rss+8*miB)
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	require.Zero(t, ReadStats().IdleBytes)
	require.Zero(t, ReadStats().Mappings)

	// A small Buffer does not keep what a large one has left.
	warm()
	var b Buffer
	fill(&b, 2, 2*miB)
	require.Greater(t, residentAt(t, uintptr(base(b.m.mem)), cap(b.m.mem)), size/2)
	time.Sleep(2 * time.Second)
	require.LessOrEqual(t, residentAt(t, uintptr(base(b.m.mem)), cap(b.m.mem)), 4*miB)
	require.True(t, isFilled(contents(&b), 2, 0))
	fill(&b, 2, size)
	require.True(t, isFilled(contents(&b)[:2*miB], 2, 0))
	require.True(t, isFilled(contents(&b)[2*miB:], 2, 0))

	for name, ask := range map[string]func(){"runtime.GC": runtime.GC, "debug.FreeOSMemory": debug.FreeOSMemory} {
		warm()
		require.Positive(t, ReadStats().IdleBytes)
		ask()
		require.Eventually(t, func() bool { return ReadStats().IdleBytes == 0 }, idleFor/2, time.Millisecond, name)
	}
}

func TestIdleMemoryIsBounded(t *testing.T) {
	setIdleMax(t, 20*miB)
	bufs := make([]Buffer, 4)
	kept := idleBytes(t, func() {
		for i := range bufs {
			fill(&bufs[i], i, 8*miB)
		}
		for i := range bufs {
			_ = bufs[i].Close()
		}
	})
	require.Equal(t, int64(16*miB), kept, "two of four")
	fill(&bufs[0], 5, 100*miB)
	maps := mapCount(t)
	require.NoError(t, bufs[0].Close())
	require.LessOrEqual(t, ReadStats().IdleBytes, int64(20*miB))
	require.LessOrEqual(t, mapCount(t), maps+2)

	setIdleMax(t, 0)
	require.Zero(t, idleBytes(t, func() { fill(&bufs[0], 1, 8*miB); _ = bufs[0].Close() }))

	// A reservation is not kept.
	setIdleMax(t, 20*miB)
	emptyIdle()
	bufs[0].Grow(64 * giB)
	fill(&bufs[0], 1, 3*miB)
	size := status(t, "VmSize")
	require.NoError(t, bufs[0].Close())
	require.Less(t, status(t, "VmSize"), size-63*giB)
	require.Positive(t, ReadStats().IdleBytes)
}

// TestIdleMappingsAreFew closes more small mappings than may be idle.
func TestIdleMappingsAreFew(t *testing.T) {
	setThreshold(t, 1)
	noIdle(t)
	setIdleMax(t, giB)
	bufs := make([]Buffer, idleCount+100)
	for i := range bufs {
		bufs[i].NoHugePages = true
		writeAllOf(t, &bufs[i], "xyz")
	}
	for i := range bufs {
		require.NoError(t, bufs[i].Close())
	}
	idle.mu.Lock()
	n := len(idle.list)
	idle.mu.Unlock()
	require.LessOrEqual(t, n, idleCount)
	require.Greater(t, n, idleCount/2)
	emptyIdle()
}

func TestNoIdleMemoryNearTheLimit(t *testing.T) {
	var b Buffer
	use := func() { fill(&b, 1, 32*miB); _ = b.Close() }
	require.Positive(t, idleBytes(t, use))
	runtime.GC()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(readHeap().total + 16*miB))
	require.Zero(t, idleBytes(t, use))
	debug.SetMemoryLimit(readHeap().total + giB)
	require.Positive(t, idleBytes(t, use))
}

// TestIdleMemoryIsNoReasonToFail fills the address space, most of it with idle
// memory.
func TestIdleMemoryIsNoReasonToFail(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	setIdleMax(t, giB)
	var b, c Buffer
	fill(&b, 1, 300*miB)
	require.NoError(t, b.Close())
	require.Greater(t, ReadStats().IdleBytes, int64(250*miB))
	c.NoHugePages = true // so that the idle memory is of no use
	defer limit(t, unix.RLIMIT_AS, "VmSize", 250*miB)()
	require.NoError(t, c.Reserve(300*miB))
	require.Zero(t, ReadStats().IdleBytes)
}

// TestLockedMemoryIsNotKept: the kernel could not take it.
func TestLockedMemoryIsNotKept(t *testing.T) {
	require.Zero(t, idleBytes(t, func() {
		b, _ := mapped(t, 3*miB)
		if err := unix.Mlock(b.m.mem[:4096]); err != nil {
			t.Skip(err)
		}
		_ = b.Close()
	}))
}

// TestNobodySeesBytesOfOthers has Buffers that write one value each, and looks
// at all that can be seen of each of them for other values but 0.
func TestNobodySeesBytesOfOthers(t *testing.T) {
	needMemory(t, giB)
	for _, threshold := range []int{mapThreshold, 1} {
		t.Run(fmt.Sprint(threshold), func(t *testing.T) {
			setThreshold(t, threshold)
			var wg sync.WaitGroup
			for g := range 3 {
				seed := rand.Uint64()
				t.Logf("seed %d", seed)
				wg.Go(func() { walkAmongOthers(t, rand.New(rand.NewPCG(seed, 0)), byte(1+g*80)) })
			}
			wg.Wait()
		})
	}
}

// walkAmongOthers does random things with Buffers that write from value on.
func walkAmongOthers(t *testing.T, r *rand.Rand, value byte) {
	steps := 1000
	if testing.Short() {
		steps /= 4
	}
	own := func(p []byte, c byte) bool {
		return len(p) == bytes.Count(p, []byte{c})+bytes.Count(p, []byte{0})
	}
	fresh := func() (*Buffer, byte, []byte) {
		value = max(value+1, 1)
		return &Buffer{NoHugePages: r.IntN(8) == 0}, value, bytes.Repeat([]byte{value}, 3*miB)
	}
	b, c, p := fresh()
	check := func(seen []byte, op string) bool {
		return assert.True(t, own(seen, c), "%s: bytes of another Buffer", op)
	}
	for range steps {
		n := int(float64(len(p)) * r.Float64() * r.Float64())
		ok := true
		switch r.IntN(16) {
		case 0, 1, 2, 3:
			_, _ = b.Write(p[:n])
		case 4:
			view := b.Bytes()
			ok = check(view[:cap(view)], "Bytes")
		case 5:
			view := b.AvailableBuffer()
			ok = check(view[:cap(view)], "AvailableBuffer")
		case 6:
			view := b.Next(n)
			ok = check(view[:cap(view)], "Next")
		case 7, 8:
			_, _ = b.ReadFrom(&lookingReader{n: n, fill: c, see: func(q []byte) { ok = ok && check(q[:cap(q)], "ReadFrom") }})
		case 9:
			off := b.Len() + r.IntN(miB)
			_, _ = b.WriteAt(p[:n], int64(off))
		case 10:
			_, _ = b.WriteTo(writerFunc(func(q []byte) (int, error) {
				ok = check(q[:cap(q)], "WriteTo")
				return min(n, len(q)), nil
			}))
		case 11:
			_, _ = io.ReadFull(b, p[:min(n, b.Len())])
		case 12:
			b.Truncate(r.IntN(b.Len() + 1))
		case 13:
			b.Shrink()
		case 14:
			b.Reset()
		case 15:
			_ = b.Close()
			b, c, p = fresh()
		}
		if b.withContents(func(contents []byte) { ok = ok && check(contents, "contents") }); !ok {
			return
		}
		if b.Len() > 12*miB {
			_ = b.Close()
			b, c, p = fresh()
		}
		if r.IntN(200) == 0 {
			decay(time.Now().Add(idleFor * time.Duration(r.IntN(3)) * 2 / 3))
		}
	}
	_ = b.Close()
}

// TestIdleMemoryIsNotForAnySize asks for more than there can be, where only idle
// memory is left: the size was rounded to a page.
func TestIdleMemoryIsNotForAnySize(t *testing.T) {
	noIdle(t)
	var b Buffer
	fill(&b, 1, 8*miB)
	require.NoError(t, b.Close())
	old := vmaBudget
	defer func() { vmaBudget = old }()
	vmaBudget = func() int64 { return 0 }
	for _, n := range []int{math.MaxInt, math.MaxInt - pageUnit(), maxSlice + 1} {
		require.ErrorIs(t, b.Reserve(n), ErrTooLarge, "%d", n)
		require.Zero(t, b.Cap())
	}
	require.NoError(t, b.Reserve(miB))
	require.NotNil(t, b.m)
	_ = b.Close()
}

// TestShorterCopyLosesNothing uses a copy by value that has less contents than
// the Buffer. What is beyond its end is not there for it to clear, or to leave
// behind.
func TestShorterCopyLosesNothing(t *testing.T) {
	uses := map[string]func(c *Buffer){
		"Bytes":           func(c *Buffer) { c.Bytes() },
		"AvailableBuffer": func(c *Buffer) { c.AvailableBuffer() },
		"ReadFrom":        func(c *Buffer) { _, _ = c.ReadFrom(bytes.NewReader(nil)) },
	}
	for name, use := range uses {
		for _, size := range []int{2*miB - 1000, 6*miB - 1000} {
			for _, warm := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/%d/warm=%t", name, size, warm), func(t *testing.T) {
					noIdle(t)
					if warm {
						var d Buffer
						fill(&d, 9, 16*miB)
						_ = d.Close()
					}
					var b Buffer
					fill(&b, 1, size)
					c := b
					_, _ = b.WriteString("more")
					use(&c)
					require.True(t, isFilled(contents(&c), 1, 0))
					got, stale := func() (p []byte, stale bool) {
						defer func() {
							if v := recover(); v != nil {
								require.Equal(t, errStale, v)
								stale = true
							}
						}()
						return contents(&b), false
					}()
					require.True(t, stale || string(got[size:]) == "more")
				})
			}
		}
	}
}

// A lookingReader shows what it is to fill before it fills it with one value.
type lookingReader struct {
	n    int
	fill byte
	see  func(p []byte)
}

func (r *lookingReader) Read(p []byte) (int, error) {
	r.see(p)
	n := min(len(p), r.n)
	for i := range p[:n] {
		p[i] = r.fill
	}
	if r.n -= n; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// TestIdleMemoryInParallel has goroutines fill and close at once, while memory
// decays.
func TestIdleMemoryInParallel(t *testing.T) {
	needMemory(t, giB)
	var wg sync.WaitGroup
	end := time.Now().Add(runFor(600 * time.Millisecond))
	for g := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 7))
			for i := 0; time.Now().Before(end); i++ {
				var b Buffer
				n := r.IntN(6 * miB)
				fill(&b, g, n)
				if !assert.True(t, isFilled(contents(&b), g, 0)) {
					return
				}
				if i%3 > 0 { // else it is left to the collector
					_ = b.Close()
				}
				if i%40 == 0 {
					runtime.GC()
				}
				if i%10 == 0 {
					decay(time.Now().Add(idleFor))
				}
			}
		})
	}
	wg.Wait()
}
