//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mapping

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// fresh has the pacer start as in a new process.
func fresh(t *testing.T) {
	t.Helper()
	noIdle(t)
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	require.Zero(t, pacer.held)
	pacer.least, pacer.survived, pacer.step, pacer.garbage = 0, 0, 0, false
	pacer.sinceLast.Store(0)
}

// forced returns how many collections f has the package start.
func forced(f func()) int {
	was := Counters.Collections.Load()
	f()
	pacer.collecting.Lock() // wait for the last
	defer pacer.collecting.Unlock()
	return int(Counters.Collections.Load() - was)
}

// limitMemory sets the memory limit to room more than the process has.
func limitMemory(t *testing.T, room int) {
	t.Helper()
	debug.FreeOSMemory()
	limit := debug.SetMemoryLimit(readHeap().total + heldBytes() + int64(room))
	t.Cleanup(func() { debug.SetMemoryLimit(limit) })
}

func gogc(t *testing.T, percent int) {
	t.Helper()
	old := debug.SetGCPercent(percent)
	t.Cleanup(func() { debug.SetGCPercent(old) })
}

// TestFreedForceNothing fills mappings, and frees them, in waves. The first
// may be garbage for all that is known; then, the step is larger than a wave.
func TestFreedForceNothing(t *testing.T) {
	wave := func(count, n int) {
		os := make([]owner, count)
		for i := range os {
			fill(&os[i], i, n)
		}
		for i := range os {
			os[i].Close()
		}
	}
	for _, tt := range []struct {
		name     string
		gogc     int
		count, n int
		most     int // collections
	}{
		{"one at a time", 100, 1, 200 * miB, 0},
		{"several", 100, 6, 50 * miB, 4}, // of ten, if each 128 MiB called for one
		{"GOGC=off", -1, 6, 50 * miB, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			gogc(t, tt.gogc)
			fresh(t)
			require.LessOrEqual(t, forced(func() {
				for range 5 {
					wave(tt.count, tt.n)
				}
			}), tt.most)
		})
	}
	t.Run("a reservation", func(t *testing.T) {
		fresh(t)
		require.Zero(t, forced(func() {
			o := new(owner)
			o.Grow(64 * giB)
			for k := range 50 {
				o.WriteAt([]byte("x"), k*giB)
				o.Write([]byte("x"))
			}
			o.Close()
		}))
	})
}

// TestGarbage drops owners, where nothing else calls for the collector.
func TestGarbage(t *testing.T) {
	proctest.NoRace(t)
	proctest.NeedMemory(t, 2*giB)
	const large = 32 * miB
	for _, tt := range []struct {
		name        string
		count, most int
		limit       int // memory limit, or 0
		fill        func(o *owner)
	}{
		{"2 MiB", 400, 512 * miB, 0, func(o *owner) { o.Write(noise()[:2*miB]) }},
		// Room that was reserved is filled by writes that grow nothing.
		{"reserved", 24, 480 * miB, 0, func(o *owner) { o.Grow(large); fill(o, 1, large) }},
		// Blocks in any order: the first leaves a gap for the others.
		{"backwards", 24, 480 * miB, 0, func(o *owner) {
			for at := large - miB; at >= 0; at -= miB {
				o.WriteAt(noise()[:miB], at)
			}
		}},
		// Holes are filled by Overwrite alone.
		{"holes", 16, 260 * miB, 200 * miB, func(o *owner) {
			o.Grow(large)
			o.WriteAt(nil, large)
			for at := 0; at < large; at += miB {
				o.WriteAt(noise()[:miB], at)
			}
		}},
		{"under a limit", 150, 200 * miB, 150 * miB, func(o *owner) { o.Write(noise()) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fresh(t)
			if tt.limit > 0 {
				gogc(t, -1)
				limitMemory(t, tt.limit)
			}
			was, most := rss(), 0
			require.Positive(t, forced(func() {
				for range tt.count {
					tt.fill(new(owner))
					most = max(most, rss()-was)
				}
			}))
			t.Logf("at most %d MiB resident", most/miB)
			assert.LessOrEqual(t, most, tt.most)
		})
	}
}

// TestSlowCollector has the first collection take long. Near the memory
// limit nobody may go on meanwhile.
func TestSlowCollector(t *testing.T) {
	proctest.NoRace(t)
	fresh(t)
	gogc(t, -1)
	limitMemory(t, 150*miB)
	pacer.collecting.Lock()
	time.AfterFunc(200*time.Millisecond, pacer.collecting.Unlock)
	was, most := rss(), 0
	for range 80 {
		new(owner).Write(noise())
		most = max(most, rss()-was)
	}
	require.LessOrEqual(t, most, 220*miB)
}

// TestWaitingHoldsNoLock uses mappings while a goroutine waits for a collection
// that takes for ever.
func TestWaitingHoldsNoLock(t *testing.T) {
	fresh(t)
	o := filled(1, 3*miB)
	defer o.Close()
	release := HoldCollections(8 * giB)
	done := make(chan bool)
	go func() { Pace(o.m); close(done) }()
	for i := range 50 {
		o.WriteAt(noise()[:10], i)
		require.NotEmpty(t, o.contents())
		m, err := New(2*miB, true)
		require.NoError(t, err)
		require.NoError(t, m.Release(1))
		tick()
		EmptyIdle()
		runtime.Gosched()
		select {
		case <-done:
			t.Fatal("it has not waited")
		default:
		}
	}
	release()
	<-done
}

// setPacer returns what was held.
func setPacer(held, least, step int64, garbage bool) (was int64) {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	was = pacer.held
	pacer.held, pacer.least, pacer.step, pacer.garbage = held, least, step, garbage
	return was
}

// TestOverdue is the arithmetic of the pacer.
func TestOverdue(t *testing.T) {
	fresh(t)
	gogc(t, 100)
	o := filled(1, miB)
	defer o.Close()
	m := o.m
	own := m.held.Load()
	for _, tt := range []struct {
		name              string
		held, least, step int64
		garbage           bool
		gogc              int
		limit             int64
		over, due         int64
	}{
		{"little", collectMin, 0, 0, false, 100, noLimit, collectMin - own, collectMin},
		{"little is garbage", collectMin + own, 0, 0, true, 100, noLimit, collectMin, collectMin},
		{"more", 100 * miB, 0, 0, false, 100, noLimit, 100*miB - own, stepMin},
		{"since the last", 150 * miB, 100 * miB, 0, true, 100, noLimit, 50*miB - own, stepMin},
		{"a quarter of what survived", 900 * miB, 600 * miB, 0, false, 100, noLimit, 300*miB - own, 150 * miB},
		{"half of that", 900 * miB, 600 * miB, 0, false, 50, noLimit, 300*miB - own, 75 * miB},
		{"nothing was found", 900 * miB, 600 * miB, giB, false, 50, noLimit, 300*miB - own, giB},
		{"off", 900 * miB, 600 * miB, 0, true, -1, noLimit, 300*miB - own, 1 << 62},
		{"near the limit", 8 * giB, 7 * giB, 0, false, -1, 8 * giB, giB - own, 512 * miB},
		{"not so near", 7 * giB, 6 * giB, 0, false, 50, 8 * giB, giB - own, 768 * miB},
	} {
		debug.SetGCPercent(tt.gogc)
		limit := debug.SetMemoryLimit(tt.limit)
		held := setPacer(tt.held, tt.least, tt.step, tt.garbage)
		over, due, garbage := overdue(m)
		debug.SetMemoryLimit(limit)
		setPacer(held, 0, 0, false)
		assert.Equal(t, tt.over, over, tt.name)
		assert.GreaterOrEqual(t, due, tt.due-8*miB, tt.name) // integer division, and the heap
		if tt.due < 1<<62 {
			assert.LessOrEqual(t, due, tt.due+32*miB, tt.name)
		}
		assert.Equal(t, tt.garbage || tt.limit == tt.held, garbage, tt.name)
	}
}

// TestStep: no collection is due before the increase is twice of what the program has
// released by itself, until one finds enough.
func TestStep(t *testing.T) {
	fresh(t)
	requireRun := func(step int64, found bool, why string) {
		t.Helper()
		locked(&pacer.collecting, collect)
		pacer.mu.Lock()
		defer pacer.mu.Unlock()
		require.Equal(t, pacer.held, pacer.least, "what has survived")
		require.Equal(t, pacer.held, pacer.survived)
		require.Zero(t, pacer.sinceLast.Load())
		require.Equal(t, step, pacer.step, why)
		require.Equal(t, found, pacer.garbage, why)
	}
	noise() // no allocation between
	small := filled(1, collectMin)
	requireRun(0, false, "not worth a thought")
	kept := filled(2, 80*miB)
	requireRun(0, false, "what is held is not released")
	kept.Close()
	_, due, _ := overdue(nil)
	require.GreaterOrEqual(t, due, int64(collectMin))
	other := filled(3, 100*miB)
	over, due, _ := overdue(nil)
	require.EqualValues(t, 100*miB, over)
	require.GreaterOrEqual(t, due, int64(160*miB), "before the next collection, too")
	requireRun(160*miB, false, "twice of what was released")
	func() { filled(4, 8*miB) }()
	more := filled(5, 24*miB)
	requireRun(stepMin, true, "a quarter of the increase")
	for _, o := range []*owner{small, other, more} {
		o.Close()
	}
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	require.Zero(t, pacer.held)
	require.Zero(t, pacer.least, "what is freed has not survived")
}

// TestPolledSentinel looks for collections all the time, which must not keep the
// sentinel alive.
func TestPolledSentinel(t *testing.T) {
	fresh(t)
	live := make([]*[4]*int, 400_000) // so that marking takes time
	for i := range live {
		live[i] = new([4]*int)
	}
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for !stop.Load() {
			reap()
		}
	})
	cycles := 0
	for range 10 {
		func() { filled(1, 2*miB) }()
		for ; Counters.Mappings.Load() > 0; cycles++ {
			require.Less(t, cycles, 200)
			runtime.GC()
			time.Sleep(5 * time.Millisecond)
		}
	}
	stop.Store(true)
	wg.Wait()
	runtime.KeepAlive(live)
	require.LessOrEqual(t, cycles, 60)
}

// TestPaceNearLimit: half as near, there is no reason to collect.
func TestPaceNearLimit(t *testing.T) {
	fresh(t)
	gogc(t, -1)
	o := filled(1, 64*miB)
	defer o.Close()
	for room, want := range map[int]bool{giB: false, 2 * miB: true} {
		limitMemory(t, room)
		locked(&pacer.mu, func() { pacer.least = 0 }) // as before the collection that limitMemory has requested
		over, due, garbage := overdue(nil)
		require.EqualValues(t, 64*miB, over)
		require.Equal(t, want, over > due, room)
		require.Equal(t, want, garbage, room)
		if want {
			require.GreaterOrEqual(t, due, int64(collectMin))
		}
	}
}

// TestReapInTime: when the runtime's cleanups are late, those who take memory free what
// is unreachable.
func TestReapInTime(t *testing.T) {
	if !proctest.InChild(t) {
		return
	}
	const count = 1000 // cleanups that never return
	block, blocked := make(chan bool), make(chan bool, count)
	func() {
		for range count {
			runtime.AddCleanup(new([16]*int), func(int) { blocked <- true; <-block }, 0)
		}
	}()
	runtime.GC()
	<-blocked
	for name, take := range map[string]func(){
		"FromIdle": func() { FromIdle(giB, true) },
		"Pace":     func() { Pace(nil) },
	} {
		func() { filled(1, 40*miB) }()
		collections := Counters.Collections.Load()
		runtime.GC()
		take()
		require.Zero(t, Counters.Mappings.Load(), name)
		require.Equal(t, collections, Counters.Collections.Load(), name)
	}
}

func TestMetric(t *testing.T) {
	require.Zero(t, metric("/no/such:thing"))
	was := metric("/gc/cycles/forced:gc-cycles")
	runtime.GC()
	require.Greater(t, metric("/gc/cycles/forced:gc-cycles"), was)
	gogc(t, 70)
	require.EqualValues(t, 70, readHeap().percent)
	debug.SetGCPercent(-1)
	require.Negative(t, readHeap().percent)
	require.Positive(t, readHeap().live)
	require.Greater(t, readHeap().total, readHeap().live)
	require.Equal(t, vm.Floor(noLimit), vm.Floor(int(readHeap().limit)))
}
