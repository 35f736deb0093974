//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mapping

import (
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

func TestNew(t *testing.T) {
	noIdle(t)
	created := Counters.Created.Load()
	m, err := New(4*miB, true)
	require.NoError(t, err)
	require.EqualValues(t, 1, m.Generation.Load())
	require.Equal(t, 4*miB, m.Capacity())
	require.False(t, m.Sparse())
	require.False(t, m.NeedsMemory(0))
	require.True(t, m.NeedsMemory(1))
	require.Zero(t, m.Committed())
	mem, gen := m.Window(0)
	require.Empty(t, mem)
	require.EqualValues(t, 1, gen)
	require.Zero(t, cap(mem), "bytes that were not cleared")
	require.Equal(t, created+1, Counters.Created.Load())
	require.EqualValues(t, 1, Counters.Mappings.Load())
	require.EqualValues(t, 4*miB, Counters.MappedBytes.Load())
	require.GreaterOrEqual(t, Counters.PeakMappedBytes.Load(), int64(4*miB))
	require.EqualValues(t, 1, profile.Count())

	require.NoError(t, m.Release(2), "another generation")
	require.EqualValues(t, 1, Counters.Mappings.Load())
	require.NoError(t, m.Release(1))
	require.NoError(t, m.Release(1))
	require.NoError(t, m.Release(2), "it is free already")
	require.Zero(t, Counters.Mappings.Load())
	require.Zero(t, Counters.MappedBytes.Load())
	require.Zero(t, profile.Count())

	_, err = New(vm.MaxSize+vm.Unit(), true)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.ErrorContains(t, err, "mmap")
}

func TestAvailable(t *testing.T) {
	noIdle(t)
	require.True(t, Available())
	require.Greater(t, Budget(), int64(1000))
	o := filled(1, 1)
	splits := vm.HeapSplits()
	for budget, want := range map[int64]bool{0: false, 1: false, 2: true} {
		restore := SetBudget(budget + splits)
		assert.Equal(t, want, Available(), budget)
		restore()
	}
	o.Close()
	vm.RefuseMaps(true)
	require.False(t, Available())
	vm.RefuseMaps(false)
}

// TestCapacity is that of idle memory for less than a unit.
func TestCapacity(t *testing.T) {
	noIdle(t)
	use(10 * miB)
	m := FromIdle(100*kiB, true)
	require.Equal(t, vm.Unit(), m.Capacity())
	m.BoundCapacity(100 * kiB)
	require.Equal(t, 128*kiB, m.Capacity())
	require.True(t, m.GrowCapacity(130*kiB))
	require.Equal(t, 256*kiB, m.Capacity(), "twice as much")
	require.True(t, m.GrowCapacity(600*kiB))
	require.Equal(t, miB, m.Capacity(), "what it needs")
	require.True(t, m.GrowCapacity(vm.Unit()))
	require.False(t, m.GrowCapacity(vm.Unit()+1))
	require.Equal(t, vm.Unit(), m.Capacity())
	require.NoError(t, m.Release(1))
}

// TestCommittedInSteps appends a byte: little of the memory is taken.
func TestCommittedInSteps(t *testing.T) {
	noIdle(t)
	o := owner{noHuge: true}
	o.Grow(8 * miB)
	o.Write([]byte("x"))
	require.Equal(t, 128*kiB, o.m.Committed())
	require.Equal(t, clearStep, cap(o.window), "what is cleared")
	if vm.Populate(o.all()[:os.Getpagesize()]) == nil {
		require.Equal(t, clearStep, resident(o.all()), "one system call for a step")
	}
	require.True(t, o.m.NeedsMemory(128*kiB+1))
	require.False(t, o.m.NeedsMemory(128*kiB))
	o.Write(noise()[:clearStep-1])
	require.Equal(t, clearStep, cap(o.window))
	o.Write(noise()[:1])
	require.Equal(t, 2*clearStep, cap(o.window))
	o.Close()
}

// TestPanicInACall: what the caller does with the memory may panic. Then no lock is
// held, and nothing is longer.
func TestPanicInACall(t *testing.T) {
	o := filled(1, 3*miB)
	defer o.Close()
	o.WriteAt([]byte("x"), 8*miB)
	window, gen := o.m.Window(o.end)
	boom := func([]byte) { panic("boom") }
	for name, call := range map[string]func(){
		"Append":    func() { o.m.Append(gen, o.end, 5, func(mem []byte) int { boom(mem); return 5 }) },
		"Read":      func() { o.m.Read(gen, 0, 10, boom) },
		"Overwrite": func() { o.m.Overwrite(gen, 0, 10, o.end, boom) },
	} {
		require.Panics(t, call, name)
		after, _ := o.m.Window(o.end)
		require.Equal(t, cap(window), cap(after), name)
		require.NoError(t, o.check(), name)
		require.True(t, o.m.mu.TryLock(), name)
		o.m.mu.Unlock()
	}
	require.True(t, isFilled(o.contents()[:3*miB], 1, 0))
}

// TestStaleGeneration: methods do nothing for another generation, and for what is not
// there.
func TestStaleGeneration(t *testing.T) {
	o := filled(1, 3*miB)
	defer o.Close()
	o.Grow(16 * miB)
	never := func([]byte) { t.Error("called") }
	committed := o.m.Committed()
	_, ok := o.m.Append(o.gen+1, o.end, miB+1, func([]byte) int { never(nil); return 0 })
	require.False(t, ok)
	require.Equal(t, committed, o.m.Committed())
	require.False(t, o.m.Read(o.gen+1, 0, 1, never))
	for _, tt := range []struct {
		gen       uint32
		i, n, end int
	}{
		{o.gen + 1, 0, 1, o.end},
		{o.gen, o.end - 1, 2, o.end},
		{o.gen, committed - 1, 2, committed + 1},
	} {
		_, ok = o.m.Overwrite(tt.gen, tt.i, tt.n, tt.end, never)
		require.False(t, ok, "%v", tt)
	}
	_, ok = o.m.Overwrite(o.gen, o.end-1, 1, o.end, func(mem []byte) { require.True(t, len(mem) == 1 && cap(mem) == 1) })
	require.True(t, ok)
	require.NoError(t, o.m.Publish(o.gen+1, 0, o.end, 0))
	require.NotNil(t, o.m.mem)

	// As if another goroutine had shortened it.
	for _, off := range []int{committed - 5, committed, committed + 5} {
		require.True(t, o.m.Read(o.gen, off, committed+10, func(mem []byte) { require.Len(t, mem, max(0, committed-off)) }))
	}
}

// TestGrow grows in place where that is possible, and moves otherwise; if it cannot
// get all, it gets what is needed.
func TestGrow(t *testing.T) {
	noIdle(t)
	unit := vm.Unit()
	grow := func(t *testing.T, o *owner, front, want, need, size int) (inPlace bool) {
		t.Helper()
		inPlaceWas, movesWas := Counters.GrowsInPlace.Load(), Counters.Moves.Load()
		gen, at := o.gen, address(o.m.mem[front:])
		cut, err := o.m.Grow(front, want, need)
		require.NoError(t, err)
		require.Equal(t, front, cut)
		o.moved(cut)
		require.Equal(t, gen+1, o.gen)
		require.Len(t, o.m.mem, size)
		require.Equal(t, size, o.m.Capacity())
		inPlace = Counters.Moves.Load() == movesWas
		if want <= vm.MaxSize { // else, it is moved below so many addresses first
			require.Equal(t, inPlace, at == address(o.m.mem))
			require.Equal(t, inPlace, Counters.GrowsInPlace.Load() == inPlaceWas+1)
		}
		require.NoError(t, o.check())
		return inPlace
	}

	t.Run("in place", func(t *testing.T) {
		o := new(owner)
		o.Grow(8 * unit)
		fill(o, 1, 3*unit)
		o.m.remap(func() error { return o.m.cutBack(4 * unit) }) // then there is room behind it
		o.moved(0)
		require.True(t, grow(t, o, 0, 5*unit, 5*unit, 5*unit))
		o.Read(unit)
		require.True(t, grow(t, o, unit, 6*unit, 5*unit, 6*unit))
		require.True(t, isFilled(o.contents(), 1, unit))
		o.Close()
	})
	t.Run("elsewhere", func(t *testing.T) {
		if vm.MovesRefused() {
			t.Skip("moves are refused")
		}
		o := filled(1, 3*unit)
		block(t, o, cap(o.m.mem))
		require.False(t, grow(t, o, 0, 20*unit, 10*unit, 20*unit))
		require.Zero(t, address(o.m.mem)%uintptr(unit), "not aligned")
		block(t, o, cap(o.m.mem))
		grow(t, o, 0, giB, giB, giB)
		require.Zero(t, address(o.m.mem)%giB, "not aligned to 1 GiB")
		require.True(t, isFilled(o.contents(), 1, 0))
		o.Close()
	})
	t.Run("what is needed", func(t *testing.T) {
		o := filled(1, 3*unit)
		grow(t, o, 0, vm.MaxSize+unit, 10*unit, 10*unit)
		require.True(t, isFilled(o.contents(), 1, 0))
		o.Close()
	})
	t.Run("a queue", func(t *testing.T) { // whose mapping is several VMAs, which do not move
		o := queue(t, 20, 18)
		size := cap(o.m.mem)
		block(t, o, size+10*unit)
		require.True(t, grow(t, o, 0, size+12*unit, size+3*unit, size+3*unit))
		_, err := o.m.Grow(0, size+12*unit, size+11*unit)
		require.True(t, vm.NoRoom(err), "%v", err)
		require.NoError(t, o.check())
		o.Close()
	})
}

// TestMovedBackIsNew cuts the front of a mapping, and then moves it back to where it had
// begun: the start and the length are those from before, the contents are not.
func TestMovedBackIsNew(t *testing.T) {
	noIdle(t)
	unit := vm.Unit()
	o := filled(1, 4*unit)
	defer o.Close()
	o.Read(2 * unit)
	gen, was := o.gen, o.m.mem
	err := o.m.remap(func() error {
		if err := o.m.cutFront(2 * unit); err != nil {
			return err
		}
		if err := vm.MoveOnto(was[:2*unit], o.m.mem); err != nil {
			return err
		}
		o.m.setMem(was[: 2*unit : 2*unit])
		return o.m.resize(4*unit, false)
	})
	if err != nil {
		t.Skip(err) // something else is mapped there by now
	}
	require.Equal(t, address(was), address(o.m.mem))
	require.Len(t, o.m.mem, len(was))
	o.moved(2 * unit)
	require.Equal(t, gen+1, o.gen)
	require.True(t, isFilled(o.contents(), 1, 2*unit))
}

// refuseGrowth has o not grow: what could not be had leaves no mapping behind.
func refuseGrowth(t *testing.T, o *owner, want, need int) {
	t.Helper()
	maps := proctest.MapCount(t)
	for range 20 {
		cut, err := o.m.Grow(0, want, need)
		require.ErrorIs(t, err, unix.ENOMEM)
		o.moved(cut)
	}
	require.LessOrEqual(t, proctest.MapCount(t), maps+5) // the runtime has some, too
	require.NoError(t, o.check())
	require.True(t, isFilled(o.contents(), 1, 0))
}

func TestRefusedGrowth(t *testing.T) {
	noIdle(t)
	o := filled(1, 3*miB)
	defer o.Close()
	refuseGrowth(t, o, vm.MaxSize+vm.Unit(), vm.MaxSize+vm.Unit())
}

// TestRefusedGrowthInSmallSpace has addresses to reserve, but none to grow to.
func TestRefusedGrowthInSmallSpace(t *testing.T) {
	proctest.NoRace(t)
	if !proctest.InChild(t) {
		return
	}
	o := filled(1, 30*miB)
	defer limitSpace(t, 200*miB)()
	refuseGrowth(t, o, 2*giB, giB)
}

// TestHeldOfFront: what is consumed and cut off is not held any more.
func TestHeldOfFront(t *testing.T) {
	noIdle(t)
	unit := vm.Unit()
	for name, cut := range map[string]func(o *owner){
		"CutFront": (*owner).CutFront,
		"Shrink":   (*owner).Shrink,
		"Grow":     func(o *owner) { o.Grow(o.m.Capacity() + 4*unit) },
	} {
		o := filled(1, 8*unit)
		front := o.all()[:5*unit]
		o.Read(5*unit + 3)
		cut(o)
		require.Equal(t, 3, o.off, name)
		require.EqualValues(t, 3*unit, o.m.held.Load(), name)
		require.EqualValues(t, 3*unit, heldBytes(), name)
		require.Zero(t, resident(front), name)
		require.NoError(t, o.check())
		require.True(t, isFilled(o.contents(), 1, 5*unit+3), name)
		o.Close()
	}
	o := filled(1, 10)
	defer o.Close()
	gen := o.gen
	require.Zero(t, o.m.CutFront(0))
	require.Zero(t, o.m.Shrink(0, len(o.m.mem)))
	o.moved(0)
	require.Equal(t, gen, o.gen, "nothing has changed")
}

// TestShrinkBothEnds cuts both ends.
func TestShrinkBothEnds(t *testing.T) {
	noIdle(t)
	unit := vm.Unit()
	o := filled(1, 8*unit)
	o.Read(2 * unit)
	o.Shorten(3*unit - 5)
	o.Shrink()
	require.Len(t, o.m.mem, 3*unit)
	require.Equal(t, 3*unit, cap(o.m.mem))
	require.Equal(t, 3*unit, o.m.Capacity())
	require.EqualValues(t, 3*unit, o.m.held.Load())
	require.EqualValues(t, 3*unit, IdleBytes(), "what was written there, and cut off")
	require.NoError(t, o.check())
	require.True(t, isFilled(o.contents(), 1, 2*unit))
	o.Close()
}

// TestProfile: the mappings are listed with their callers.
func TestProfile(t *testing.T) {
	noIdle(t)
	o := filled(1, 10)
	defer runtime.KeepAlive(o)
	var s strings.Builder
	require.NoError(t, profile.WriteTo(&s, 1))
	require.Contains(t, s.String(), "mapping.filled")
	o.Close()
}
