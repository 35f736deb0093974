//go:build linux && !nommap && !386 && !arm && !mips && !mipsle && mmapbuf_faults

package mapping

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// failing has system calls fail with err, while f runs, if their names are true.
func failing(t *testing.T, err error, f func(), fails func(call string) bool) {
	t.Helper()
	t.Cleanup(func() { vm.RefuseMoves(false) })
	hook := func(call string, target, source []byte) error {
		if fails(call) {
			return err
		}
		return nil
	}
	vm.OnCall.Store(&hook)
	defer vm.OnCall.Store(nil)
	f()
}

func named(names ...string) func(call string) bool {
	return func(call string) bool { return slices.Contains(names, call) }
}

// TestWalkFault is TestWalk with calls that fail at random, but for those that take
// memory, and those whose failure is one of the owner's Grow.
func TestWalkFault(t *testing.T) {
	walks(t, func(w *walk, n int, more func() bool) (err error) {
		rate := 2 + w.dice(10)
		failing(t, unix.ENOMEM, func() {
			err = w.run(n, func() bool { vm.RefuseMoves(false); return more() })
		}, func(call string) bool {
			return call != "mmap" && rand.IntN(rate) == 0
		})
		return err
	})
}

// TestFaultOfCutting has the front not unmapped: it stays, and comes on top.
func TestFaultOfCutting(t *testing.T) {
	noIdle(t)
	unit := vm.Unit()
	o := filled(1, 8*unit)
	defer o.Close()
	for _, tt := range []struct{ want, need, len int }{
		{20 * unit, 10 * unit, 24 * unit},
		{vm.MaxSize, 30 * unit, 34 * unit},
		{40 * unit, 40 * unit, 44 * unit},
	} {
		failing(t, unix.ENOMEM, func() {
			cut, err := o.m.Grow(4*unit, tt.want, tt.need)
			require.Zero(t, cut)
			require.NoError(t, err)
		}, named("munmap"))
		o.moved(0)
		require.Len(t, o.m.mem, tt.len)
		require.NoError(t, o.check())
	}
	failing(t, unix.ENOMEM, func() {
		require.Zero(t, o.m.CutFront(unit))
		require.Zero(t, o.m.Shrink(unit, 9*unit))
		require.Zero(t, o.m.Recycle(unit))
	}, named("munmap", "madvise", "mremap fixed"))
	o.moved(0)
	require.NoError(t, o.check())
	require.True(t, isFilled(o.contents(), 1, 0))
}

// TestFaultOfRecycling cannot move the consumed pages. They are unmapped, and the
// mapping may end where what was written ends.
func TestFaultOfRecycling(t *testing.T) {
	unit := vm.Unit()
	for _, more := range []int{0, 20 * unit} {
		noIdle(t)
		o := new(owner)
		o.Grow(8*unit + more)
		fill(o, 1, 8*unit)
		o.Read(4 * unit)
		calls := 0
		failing(t, unix.ENOMEM, o.Recycle, func(call string) bool {
			calls++
			return call == "mremap fixed"
		})
		require.Positive(t, calls)
		require.Zero(t, o.off)
		require.EqualValues(t, 4*unit, o.m.held.Load())
		require.Empty(t, o.m.seams)
		require.NoError(t, o.check())
		require.True(t, isFilled(o.contents(), 1, 4*unit))
		require.Len(t, proctest.VMAs(t, o.all()), 1)
		vm.RefuseMoves(false)
		o.Close()
	}
}

// TestFaultOfGrowing: growths that are refused leave no mappings behind, and reserve
// no addresses.
func TestFaultOfGrowing(t *testing.T) {
	for _, names := range [][]string{{"mremap"}, {"mremap", "mremap fixed"}} {
		noIdle(t)
		o := filled(1, 4*miB)
		failing(t, unix.ENOMEM, func() { refuseGrowth(t, o, 20*miB, 10*miB) }, named(names...))
		vm.RefuseMoves(false)
		o.Close()
	}
}

// TestFaultOfPublishing refuses to move pages, and the memory for a copy: nothing has
// changed then.
func TestFaultOfPublishing(t *testing.T) {
	noIdle(t)
	leaveForeign(16*miB, 32*miB, false)
	o := new(owner)
	o.Grow(16 * miB)
	fill(o, 1, 8*miB)
	moved := false
	failing(t, unix.ENOMEM, func() {
		require.ErrorIs(t, o.m.Publish(o.gen, 0, o.end, 1<<40), unix.ENOMEM)
	}, func(call string) bool {
		moved = moved || call == "mremap fixed"
		return moved && call != "munmap"
	})
	require.True(t, moved)
	require.NoError(t, o.check())
	require.Len(t, o.m.mem, 16*miB)
	require.True(t, isFilled(o.contents(), 1, 0))
	o.Close()
}

// TestFaultForGood has mmap(2) refused by a filter, and for lack of memory.
func TestFaultForGood(t *testing.T) {
	defer vm.RefuseMaps(false)
	for _, tt := range []struct {
		err   error
		there bool
	}{{unix.ENOMEM, true}, {unix.EPERM, false}, {unix.ENOSYS, false}, {unix.EACCES, false}} {
		EmptyIdle()
		vm.RefuseMaps(false)
		failing(t, tt.err, func() {
			_, err := New(vm.Unit(), true)
			require.ErrorIs(t, err, tt.err)
		}, named("mmap"))
		require.Equal(t, tt.there, Available(), tt.err)
	}
}

// TestFaultOfIdleMemory cannot be freed lazily, or be unmapped: it still is no memory
// that stays.
func TestFaultOfIdleMemory(t *testing.T) {
	require.Zero(t, keeps(t, func() {
		o := filled(1, 4*miB)
		failing(t, unix.EINVAL, o.Close, named("madvise"))
	}))
	noIdle(t)
	o := filled(1, 4*miB)
	mem, m, gen := o.all(), o.m, o.gen
	failing(t, unix.ENOMEM, func() {
		setIdleMax(t, 0)
		require.ErrorIs(t, m.Release(gen), unix.ENOMEM)
	}, named("munmap"))
	require.Zero(t, resident(mem))
	require.Zero(t, Counters.Mappings.Load())
	require.NoError(t, vm.Unmap(mem))
}
