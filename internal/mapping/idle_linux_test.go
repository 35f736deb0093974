//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mapping

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// keeps returns the size of idle memory after f, with none before.
func keeps(t *testing.T, f func()) int {
	t.Helper()
	noIdle(t)
	f()
	return int(IdleBytes())
}

// locked calls f with mu locked.
func locked(mu sync.Locker, f func()) {
	mu.Lock()
	defer mu.Unlock()
	f()
}

func idleList() (list []idlePages) {
	locked(&idle.mu, func() { list = slices.Clone(idle.list) })
	return list
}

// reused returns how many mappings have unused idle memory.
func reused() (n int) {
	locked(&idle.mu, func() { n = len(idle.reused) })
	return n
}

func setIdleMax(t *testing.T, n int) {
	t.Helper()
	t.Cleanup(SetIdleMax(n))
}

func TestIdleMemoryIsUsedAgain(t *testing.T) {
	const n = 12 * miB
	for _, no := range []bool{false, true} {
		t.Run(fmt.Sprintf("noHuge=%t", no), func(t *testing.T) {
			noIdle(t)
			o := owner{noHuge: no}
			fill(&o, 1, n)
			at := o.all()[:n]
			o.Close()
			kept := IdleBytes()
			require.Equal(t, int64(n), kept)
			require.Positive(t, resident(at))

			other := owner{noHuge: !no}
			fill(&other, 2, n)
			require.NotEqual(t, address(at), address(other.m.mem), "pages of another size")
			require.Equal(t, kept, IdleBytes())
			fill(&o, 3, n)
			require.Equal(t, address(at), address(o.m.mem))
			require.Zero(t, IdleBytes())
			require.True(t, isFilled(o.contents(), 3, 0))
			o.Close()
			other.Close()
		})
	}
}

// unasked has collections free no idle memory while f runs, as if the program had
// requested none.
func unasked(f func()) {
	locked(&pacer.mu, func() { pacer.asked += 1 << 40 })
	f()
	locked(&pacer.mu, func() { pacer.asked -= 1 << 40 })
}

// TestWhatIsKept frees memory in each way.
func TestWhatIsKept(t *testing.T) {
	const n = 12 * miB
	for _, way := range []struct {
		name string
		kept int
		free func(t *testing.T, o *owner)
	}{
		{"Release", n, func(t *testing.T, o *owner) { o.Close() }},
		{"Shrink", 8 * miB, func(t *testing.T, o *owner) { o.Shorten(4 * miB); o.Shrink() }},
		{"a copied view", n, func(t *testing.T, o *owner) { o.Shorten(miB); o.Bytes(0) }},
		{"a moved view", 4 * miB, func(t *testing.T, o *owner) { needMoves(t); o.Shorten(8 * miB); o.Bytes(0) }},
		{"garbage", n, func(t *testing.T, o *owner) {
			unasked(func() {
				collected := Counters.Collected.Load()
				*o = owner{}
				proctest.Eventually(t, func() bool { return Counters.Mappings.Load() == 0 })
				require.Equal(t, collected+1, Counters.Collected.Load())
			})
		}},
		{"never written", 0, func(t *testing.T, o *owner) { o.Close(); EmptyIdle(); o.Grow(4 * miB); o.Close() }},
		{"sparse", 0, func(t *testing.T, o *owner) { o.WriteAt([]byte("x"), 20*miB); o.Close() }},
		{"locked, so that the kernel could not take it", 0, func(t *testing.T, o *owner) {
			if err := unix.Mlock(o.m.mem[:4096]); err != nil {
				t.Skip(err)
			}
			o.Close()
		}},
		{"several VMAs", 0, func(t *testing.T, o *owner) {
			o.Close()
			o = queue(t, 10, 5)
			o.Shorten(vm.Unit())
			o.Shrink()
			require.Zero(t, IdleBytes())
			o.Close()
			EmptyIdle()
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			require.Equal(t, way.kept, keeps(t, func() { way.free(t, filled(1, n)) }))
		})
	}
}

// TestIdleGoes looks at a process in which nothing happens any more.
func TestIdleGoes(t *testing.T) {
	t.Parallel()
	proctest.NoRace(t)
	if !proctest.InChild(t) {
		return
	}
	const n = 64 * miB
	pair := func() { a, b := filled(1, n), filled(2, n); a.Close(); b.Close() }
	pair()
	EmptyIdle()
	debug.FreeOSMemory()
	proctest.WaitFor(t, seen)
	was, goroutines := rss(), runtime.NumGoroutine()
	pair()
	require.Greater(t, rss(), was+3*n/2)
	o := filled(2, 2*miB) // on the one, of which it uses little
	require.Greater(t, resident(o.all()), n/2)
	require.EqualValues(t, n, IdleBytes())
	time.Sleep(2*period + period/4)
	require.Less(t, rss(), was+8*miB)
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	require.Zero(t, IdleBytes())
	require.False(t, isTicking(), "there is nothing to do")
	require.LessOrEqual(t, resident(o.all()), 4*miB)
	fill(o, 2, n)
	require.True(t, isFilled(o.contents()[:2*miB], 2, 0))
	require.True(t, isFilled(o.contents()[2*miB:], 2, 0))
}

// TestRequestedCollection requests collections. Those of the package
// free nothing.
func TestRequestedCollection(t *testing.T) {
	// One may be missed, if the package looks whether there was one meanwhile.
	gone := func(ask func()) func() bool { return func() bool { ask(); return IdleBytes() == 0 } }
	for name, ask := range map[string]func(){"runtime.GC": runtime.GC, "debug.FreeOSMemory": debug.FreeOSMemory} {
		require.Positive(t, keeps(t, func() { use(miB) }), name)
		proctest.WaitFor(t, gone(ask))
	}
	kept := keeps(t, func() { use(miB) })
	locked(&pacer.collecting, collect)
	time.Sleep(20 * time.Millisecond) // for afterCollection
	require.EqualValues(t, kept, IdleBytes())
	proctest.WaitFor(t, gone(runtime.GC))
}

// TestTicks: memory is idle for one full time between two ticks.
func TestTicks(t *testing.T) {
	require.Positive(t, keeps(t, func() { use(4 * miB) }))
	tick()
	require.EqualValues(t, 4*miB, IdleBytes())
	use(4 * miB) // which is idle again as of now
	tick()
	require.EqualValues(t, 4*miB, IdleBytes())
	tick()
	require.Zero(t, IdleBytes())
}

// TestUnusedGoes has a small owner after a large one, again and again. Each is
// idle for too short a time to be freed; what none of them uses was idle all along.
func TestUnusedGoes(t *testing.T) {
	noIdle(t)
	use(128 * miB)
	require.EqualValues(t, 128*miB, IdleBytes())
	var m *Mapping
	for range 3 {
		m = FromIdle(100*kiB, true)
		require.NotNil(t, m)
		_, ok := m.Append(1, 0, 100*kiB, func(mem []byte) int { return copy(mem, noise()) })
		require.True(t, ok)
		require.NoError(t, m.Release(1))
		tick()
	}
	require.LessOrEqual(t, IdleBytes(), int64(vm.Unit()))
	require.NotZero(t, IdleBytes(), "what is used stays")
	All(func(mems [][]byte) {
		require.Len(t, mems, 1)
		require.LessOrEqual(t, resident(mems[0]), vm.Unit())
	})

	// The same, while an owner that uses little keeps it.
	EmptyIdle()
	use(128 * miB)
	o := new(owner)
	o.Grow(64 * miB)
	fill(o, 1, 100*kiB)
	tick()
	require.Greater(t, resident(o.all()), 100*miB)
	require.EqualValues(t, 128*miB, o.m.held.Load())
	tick()
	require.LessOrEqual(t, resident(o.all()), vm.Unit())
	require.LessOrEqual(t, o.m.held.Load(), int64(vm.Unit()))
	require.False(t, o.m.Sparse())
	require.NoError(t, o.check())
	require.True(t, isFilled(o.contents(), 1, 0))
	require.Zero(t, reused())
	o.Close()

	// None of it was used.
	EmptyIdle()
	use(4 * miB)
	for range 2 {
		require.NoError(t, FromIdle(miB, true).Release(1))
		tick()
	}
	require.EqualValues(t, 4*miB, IdleBytes())
	require.NoError(t, FromIdle(miB, true).Release(1))
	require.Zero(t, IdleBytes())
}

// TestUsedIsNotOld: when what was not used is freed, the rest begins anew.
func TestUsedIsNotOld(t *testing.T) {
	noIdle(t)
	unit := vm.Unit()
	use(32 * unit)
	use(4 * unit)
	tick()
	use(4 * unit)
	tick()
	require.EqualValues(t, 32*unit, IdleBytes())
	use(4 * unit)
	require.EqualValues(t, 4*unit, IdleBytes())
	use(unit)
	require.EqualValues(t, 4*unit, IdleBytes())

	// What is cut off is used up to the end of what was committed.
	EmptyIdle()
	use(32 * unit)
	tick()
	use(unit)
	tick()
	o := new(owner)
	o.Grow(32 * unit)
	fill(o, 1, 4*unit)
	o.Shorten(2 * unit)
	o.Shrink()
	require.EqualValues(t, 2*unit, IdleBytes())
	o.Close()
}

// TestTimer by whatever gives tick something to do.
func TestTimer(t *testing.T) {
	stopped := func() { locked(&idle.mu, func() { idle.ticking = false }) } // as at the end of tick
	noIdle(t)
	stopped()
	use(4 * miB)
	require.True(t, isTicking())
	stopped()
	m := FromIdle(4*miB, true)
	require.True(t, isTicking())

	// There is nothing to do for what is free.
	require.Equal(t, 1, reused())
	require.NoError(t, m.Release(1))
	require.Zero(t, reused())
	use(8 * miB)
	o := filled(1, 6*miB)
	require.Equal(t, 1, reused())
	o.Bytes(0)
	require.Zero(t, reused())
	stopped() // that has started no timer
}

// TestEmptyIdleWaits: memory that another goroutine frees may be enough.
func TestEmptyIdleWaits(t *testing.T) {
	noIdle(t)
	require.False(t, EmptyIdle())
	use(miB)
	require.True(t, EmptyIdle())
	proctest.WaitFor(t, func() bool {
		idle.freeing.Lock()
		done := make(chan bool)
		go func() { done <- EmptyIdle() }()
		time.Sleep(5 * time.Millisecond)
		idle.freeing.Unlock()
		return <-done
	})
}

// TestTickWhileLocked: tick neither waits for an owner nor forgets it.
func TestTickWhileLocked(t *testing.T) {
	noIdle(t)
	use(8 * miB)
	o := new(owner)
	o.Grow(8 * miB)
	o.m.mu.RLock()
	tick()
	tick()
	require.Equal(t, 8*miB, o.m.dirty)
	o.m.mu.RUnlock()
	tick()
	require.Zero(t, o.m.dirty)
	o.Close()
}

// TestHeldOfIdle drops small owners of large idle memory: what is
// resident is held, and so calls for the collector.
func TestHeldOfIdle(t *testing.T) {
	proctest.NoRace(t)
	fresh(t)
	use(32 * miB)
	was, most := rss(), 0
	for i := range 400 {
		m, err := New(2*miB, true)
		require.NoError(t, err)
		Pace(nil)
		_, ok := m.Append(1, 0, 10, func(mem []byte) int { return copy(mem, noise()[:10]) })
		require.True(t, ok)
		require.GreaterOrEqual(t, m.held.Load(), int64(resident(m.mem[:cap(m.mem)])), i)
		most = max(most, rss()-was)
	}
	assert.LessOrEqual(t, most, 450*miB)
	noIdle(t)
}

func TestIdleMax(t *testing.T) {
	setIdleMax(t, 20*miB)
	require.Equal(t, 16*miB, keeps(t, func() { // two of four
		os := []*owner{filled(1, 8*miB), filled(2, 8*miB), filled(3, 8*miB), filled(4, 8*miB)}
		for _, o := range os {
			o.Close()
		}
		require.Equal(t, 16*miB, int(IdleBytes()))
		at := address(idleList()[0].mem)
		os[0].Grow(8 * miB)
		require.NotEqual(t, at, address(os[0].m.mem), "the most recent first")
		os[0].Write(noise())
		fill(os[0], 1, 4*miB)
		os[0].Close()
	}))
	maps := proctest.MapCount(t)
	use(50 * miB)
	require.EqualValues(t, 20*miB, IdleBytes(), "all of it is of the last")
	require.LessOrEqual(t, proctest.MapCount(t), maps+2)

	// A reservation is not kept.
	EmptyIdle()
	o := new(owner)
	o.Grow(64 * giB)
	fill(o, 1, 3*miB)
	size := proctest.Bytes("self/status", "VmSize")
	o.Close()
	require.Less(t, proctest.Bytes("self/status", "VmSize"), size-63*giB)
	require.EqualValues(t, 4*miB, IdleBytes())
	require.Len(t, idleList()[0].mem, 16*miB, "for growing")

	setIdleMax(t, 0)
	require.Zero(t, keeps(t, func() { use(8 * miB) }))
}

// useSmall frees small owners, after others that are to be idle for longer.
func useSmall(count int, others ...*owner) {
	small := make([]owner, count)
	for i := range small {
		small[i].noHuge = true
		small[i].Write([]byte("x"))
	}
	for _, o := range others {
		o.Close()
	}
	for i := range small {
		small[i].Close()
	}
}

// TestIdleCount frees more small mappings than may be idle.
func TestIdleCount(t *testing.T) {
	noIdle(t)
	setUnit(t, 64*kiB)
	setIdleMax(t, giB)
	useSmall(idleCount + 100)
	require.Equal(t, idleCount, len(idleList()))
}

// TestLookedThrough asks for more than the last idle mappings have.
func TestLookedThrough(t *testing.T) {
	setUnit(t, 64*kiB)
	for _, count := range []int{31, 32} {
		noIdle(t)
		large := owner{noHuge: true}
		fill(&large, 1, miB)
		useSmall(count, &large)
		m := FromIdle(miB, false)
		require.Equal(t, count < 32, m != nil, count)
		if m != nil {
			require.NoError(t, m.Release(1))
		}
	}
}

func TestIdleNearLimit(t *testing.T) {
	use32 := func() { use(32 * miB) }
	require.Positive(t, keeps(t, use32))
	EmptyIdle()
	runtime.GC()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(readHeap().total + 16*miB))
	require.Zero(t, keeps(t, use32))
	debug.SetMemoryLimit(2 * giB)
	require.Positive(t, keeps(t, use32))

	// All of it goes when the limit is near.
	other := owner{noHuge: true}
	fill(&other, 1, 8*miB)
	require.Positive(t, IdleBytes())
	debug.SetMemoryLimit(readHeap().total + 40*miB)
	other.Close()
	require.Zero(t, IdleBytes())
}

// TestIdleWithoutRoom fills the address space, most of it with idle
// memory.
func TestIdleWithoutRoom(t *testing.T) {
	proctest.NoRace(t)
	if !proctest.InChild(t) {
		return
	}
	setIdleMax(t, giB)
	use(200 * miB)
	require.EqualValues(t, 200*miB, IdleBytes())
	defer limitSpace(t, 150*miB)()
	m, err := New(200*miB, false) // so that the idle memory is of no use
	require.NoError(t, err)
	require.Zero(t, IdleBytes())
	runtime.KeepAlive(m)
}

// TestIdleSizes: the size was rounded to a unit.
func TestIdleSizes(t *testing.T) {
	noIdle(t)
	use(8 * miB)
	for _, n := range []int{math.MaxInt, math.MaxInt - vm.Unit(), vm.MaxSize + 1, 8*miB + 1, -1} {
		if n > 0 && n < 16*miB {
			n += 8 * miB // spare addresses
		}
		require.Nil(t, FromIdle(n, true), "%d", n)
	}
	require.NotNil(t, FromIdle(8*miB, true))
}

// TestRecycledIsLazilyFree frees a queue: what was moved behind its end
// was written, too.
func TestRecycledIsLazilyFree(t *testing.T) {
	if vm.MovesRefused() {
		t.Skip("moves are refused")
	}
	noIdle(t)
	o := filled(1, 50*miB)
	o.Read(40 * miB)
	o.Recycle()
	require.NotEmpty(t, o.m.seams)
	was := proctest.Bytes("self/smaps_rollup", "LazyFree")
	o.Close()
	require.GreaterOrEqual(t, IdleBytes(), int64(48*miB))
	assert.GreaterOrEqual(t, proctest.Bytes("self/smaps_rollup", "LazyFree"), was+44*miB)
	for _, e := range idleList() {
		require.LessOrEqual(t, len(proctest.VMAs(t, e.mem)), 1)
	}
}

// TestIdleInParallel has goroutines fill and free at once, while memory ages.
func TestIdleInParallel(t *testing.T) {
	var wg sync.WaitGroup
	end := time.Now().Add(walkFor() / 2)
	for g := range 6 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 7))
			for i := 0; time.Now().Before(end); i++ {
				o := filled(g, 1+r.IntN(5*miB))
				if !assert.True(t, isFilled(o.contents(), g, 0)) {
					return
				}
				if i%3 > 0 { // else it is left to the collector
					o.Close()
				}
				if i%40 == 0 {
					runtime.GC()
				}
				if i%10 == 0 {
					tick()
				}
			}
		})
	}
	wg.Wait()
}

func isTicking() (is bool) {
	locked(&idle.mu, func() { is = idle.ticking })
	return is
}

// TestBubbles uses mappings in bubbles of testing/synctest. Timers end with them, and
// their clock is not the real one, of which it may be ahead. Idle memory is none of
// theirs; that of others goes as ever.
func TestBubbles(t *testing.T) {
	t.Parallel()
	if !proctest.InChild(t) {
		return // if it fails, no idle memory is ever freed again
	}
	var open []*owner
	for name, do := range map[string]func(){
		"a mapping":   func() { use(10 * miB) },
		"a small one": func() { require.Nil(t, FromIdle(100*kiB, true)) },
		"left open":   func() { open = append(open, filled(1, 100*kiB)) },
		"ticks":       func() { use(10 * miB); time.Sleep(period); use(10 * miB) },
	} {
		for _, sleep := range []time.Duration{0, 40 * 365 * 24 * time.Hour} {
			EmptyIdle()
			use(4 * miB)
			locked(&idle.mu, func() { idle.ticking = idle.ticking && len(open)%2 == 0 }) // as while tick runs
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(sleep)
				do()
			})
			require.EqualValues(t, 4*miB, IdleBytes(), name)
		}
	}
	use(10 * miB)
	require.Positive(t, IdleBytes())
	start := time.Now()
	proctest.WaitFor(t, func() bool { return IdleBytes() == 0 && !isTicking() })
	require.Less(t, time.Since(start), 4*period)
	for _, o := range open {
		require.True(t, isFilled(o.contents(), 1, 0))
		o.Close()
	}
}

// lending has n bytes lent at most during a test.
func lending(t *testing.T, n int64) {
	t.Helper()
	needMoves(t)
	if !vm.Lends() {
		t.Skip("the kernel does not move pages out of the heap")
	}
	noIdle(t)
	restore := SetLentMax(n)
	t.Cleanup(func() {
		var loans []loan
		locked(&idle.mu, func() { loans, idle.loans = idle.loans, nil })
		for _, l := range loans {
			l.end()
		}
		restore()
		EmptyIdle()
	})
}

// TestViewsComeBack: the pages of views are idle memory when they are unreachable, with
// what their owner had not used.
func TestViewsComeBack(t *testing.T) {
	lending(t, 128*miB)
	leaveForeign(16*miB, 0, false)
	func() {
		o := filled(1, 9*miB)
		require.Zero(t, IdleBytes(), "not the memory of the other")
		p := o.Bytes(0)
		require.True(t, isFilled(p, 1, 0))
		require.EqualValues(t, 16*miB, idle.lent.Load())
		require.Zero(t, bytes.Count(p[:cap(p)], []byte{foreign}))
		runtime.GC()
		require.Positive(t, idle.lent.Load())
		runtime.KeepAlive(p)
	}()
	unasked(func() { proctest.Eventually(t, func() bool { return idle.lent.Load() == 0 }) })
	require.EqualValues(t, 16*miB, IdleBytes())
	o := filled(2, 14*miB)
	require.Zero(t, IdleBytes())
	require.True(t, isFilled(o.contents(), 2, 0))
	require.NoError(t, o.check())
	o.Close()
}

// TestLoans: no more is lent than lentMax, and not after two ticks, when
// what the view does not show is freed.
func TestLoans(t *testing.T) {
	lending(t, 20*miB)
	leaveForeign(16*miB, 0, false)
	o := filled(1, 9*miB)
	p := o.Bytes(0)
	whole := vm.Join(p, 16*miB)
	require.Equal(t, 16*miB, resident(whole))
	q := filled(2, 6*miB).Bytes(0) // too much
	require.EqualValues(t, 16*miB, idle.lent.Load())
	r := filled(3, 4*miB).Bytes(0)
	require.EqualValues(t, 20*miB, idle.lent.Load())
	tick()
	require.EqualValues(t, 20*miB, idle.lent.Load())
	require.Equal(t, 16*miB, resident(whole))
	tick()
	require.Zero(t, idle.lent.Load())
	require.Equal(t, 10*miB, resident(whole))
	require.True(t, isFilled(p, 1, 0) && isFilled(q, 2, 0) && isFilled(r, 3, 0))
	runtime.KeepAlive(p)
}
