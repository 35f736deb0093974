//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mapping

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// needMoves skips a test of what comes of it that views are moved.
func needMoves(t *testing.T) {
	t.Helper()
	if vm.MovesRefused() || CopiesViews {
		t.Skip("views are copied")
	}
}

// TestPublish publishes contents of all kinds of sizes and spare capacities, from
// idle memory of others, moved and copied.
func TestPublish(t *testing.T) {
	unit := vm.Unit()
	defer vm.RefuseMoves(vm.MovesRefused())
	for _, refused := range []bool{false, true} {
		for _, n := range []int{1, unit - 1, unit, CopiedView, CopiedView + 1, 7*unit - 3} {
			for _, spare := range []int{0, 1, unit, 1 << 40} {
				for _, off := range []int{0, 5, unit, unit + 5} {
					if off < n {
						testPublish(t, n, spare, off, refused)
					}
				}
			}
		}
		testPublish(t, 34*miB, 0, 0, refused)
	}
}

func testPublish(t *testing.T, n, spare, off int, refused bool) {
	t.Run(fmt.Sprintf("%d, %d, %d, %t", n, spare, off, refused), func(t *testing.T) {
		vm.RefuseMoves(refused)
		noIdle(t)
		leaveForeign(n+3*vm.Unit(), 0, false)
		o := new(owner)
		o.Grow(n + 2*vm.Unit()) // more than what is committed
		fill(o, 1, n)
		o.Read(off)
		m, gen, size := o.m, o.gen, len(o.m.mem)
		views, bytesWas, at := Counters.Views.Load(), Counters.ViewBytes.Load(), address(m.mem)
		p := o.Bytes(spare)
		require.True(t, isFilled(p, 1, off))
		require.False(t, hasForeign(p[:cap(p)]))
		more := cap(p) - len(p)
		require.GreaterOrEqual(t, more, min(spare, size-n))
		require.Less(t, more, min(spare, size-n)+vm.Unit())
		require.Equal(t, views+1, Counters.Views.Load())
		require.EqualValues(t, cap(p)+off-vm.Floor(off), Counters.ViewBytes.Load()-bytesWas)
		require.Zero(t, Counters.Mappings.Load())
		require.Zero(t, heldBytes())
		require.False(t, n-off > CopiedView && !refused && at == address(p), "not moved")

		// The generation from before finds the view.
		require.Equal(t, gen+1, m.Generation.Load())
		same := func(mem []byte) { require.True(t, len(mem) == n-off && &mem[0] == &p[0]) }
		require.True(t, m.Read(gen, off, n, same))
		require.False(t, m.Read(gen-1, off, n, nil))
		require.NoError(t, m.Publish(gen, 0, n, 0))
		require.Equal(t, views+1, Counters.Views.Load())
		require.NoError(t, m.Check(gen, off, n, 0))
		require.Error(t, m.Check(gen, off, n+1, 0))
		for _, end := range []int{n + 1, n + 100} { // contents of a copy
			q, _ := m.Published(gen, off, end)
			require.Nil(t, q)
		}
		if lo := vm.Floor(off); lo > 0 {
			q, _ := m.Published(gen, lo-1, n)
			require.Nil(t, q)
		}
	})
}

// TestPublishedIsMoved: the pages of large contents move, and what is beside them
// becomes idle memory or is unmapped.
func TestPublishedIsMoved(t *testing.T) {
	needMoves(t)
	unit := vm.Unit()
	noIdle(t)
	o := filled(1, 16*unit)
	mem := o.all()
	o.Read(2*unit + 1)
	o.Shorten(8 * unit)
	copies, was := Counters.Copies.Load(), rss()
	p := o.Bytes(0)
	require.True(t, isFilled(p, 1, 2*unit+1))
	require.Equal(t, copies, Counters.Copies.Load())
	for _, part := range [][]byte{mem[:2*unit], mem[2*unit : 8*unit]} {
		require.Less(t, resident(part), len(part), "the pages are still mapped") // or something else, by now
	}
	require.EqualValues(t, 5*unit, IdleBytes(), "what was written behind them")
	if !proctest.Race {
		require.Less(t, rss(), was+3*unit)
	}
}

// TestFailedMoveIsTheLast: each failed move costs the addresses of a heap
// object.
func TestFailedMoveIsTheLast(t *testing.T) {
	if !proctest.InChild(t) {
		return
	}
	needMoves(t)
	lost := vm.Lost()
	for i := range 5 {
		o := filled(i, 8*miB)
		// Sealed pages are neither moved nor unmapped.
		if _, _, errno := unix.Syscall(unix.SYS_MSEAL, address(o.m.mem), uintptr(len(o.m.mem)), 0); errno != 0 {
			t.Skip(errno) // before Linux 6.10
		}
		copies := Counters.CopiedBytes.Load()
		require.True(t, isFilled(o.Bytes(0), i, 0))
		require.EqualValues(t, copies+8*miB, Counters.CopiedBytes.Load())
	}
	require.Equal(t, lost+1, vm.Lost())
	require.True(t, vm.MovesRefused())
}

// TestPublishedWithinTheBudget copies contents when moves have split the heap at half
// of the mappings that the package may use.
func TestPublishedWithinTheBudget(t *testing.T) {
	needMoves(t)
	filled(1, 8*miB).Bytes(0)
	require.Positive(t, vm.HeapSplits())
	copies := Counters.Copies.Load()
	defer SetBudget(2 * vm.HeapSplits())()
	require.True(t, isFilled(filled(1, 8*miB).Bytes(0), 1, 0))
	require.Equal(t, copies+1, Counters.Copies.Load())
	SetBudget(2*vm.HeapSplits() + 2)
	require.True(t, isFilled(filled(1, 8*miB).Bytes(0), 1, 0))
	require.Equal(t, copies+1, Counters.Copies.Load())
}

// TestQueueIsPublished copies contents of several VMAs.
func TestQueueIsPublished(t *testing.T) {
	o, copies := queue(t, 10, 5), Counters.Copies.Load()
	require.True(t, isFilled(o.Bytes(0), 1, 5*vm.Unit()))
	require.Equal(t, copies+1, Counters.Copies.Load())
	require.Zero(t, Counters.Mappings.Load())
}

// TestPublishedShorterCopy publishes a copy of an owner that has less contents.
// What is beyond its end is not there for it to clear, or to leave behind.
func TestPublishedShorterCopy(t *testing.T) {
	for _, n := range []int{2*miB - 1000, 6*miB - 1000} {
		for _, warm := range []bool{false, true} {
			for _, spare := range []int{0, 1 << 40} {
				noIdle(t)
				if warm {
					leaveForeign(16*miB, 0, false)
				}
				o := filled(1, n)
				short := *o
				o.Write([]byte("more"))
				require.True(t, isFilled(short.Bytes(spare), 1, 0))
				require.False(t, o.m.Read(o.gen, o.off, o.end, func(mem []byte) { require.Equal(t, "more", string(mem[n:])) }), "%d, %t, %d", n, warm, spare)
			}
		}
	}
}

// TestNoRoomToPublish has not enough addresses for the heap: nothing changes. If the
// capacity that has no contents makes the difference, it is cut off.
func TestNoRoomToPublish(t *testing.T) {
	proctest.NoRace(t)
	if !proctest.InChild(t) {
		return
	}
	_ = bytes.Repeat([]byte{1}, 32*miB) // the runtime dies of a lack of memory; let it have some
	publish := func(o *owner, end, spare int) error {
		restore := limitSpace(t, 20*miB)
		err := o.m.Publish(o.gen, 0, end, spare)
		restore()
		return err
	}
	o := filled(1, 10*miB)
	o.Grow(400 * miB)
	require.ErrorIs(t, publish(o, o.end, 1), unix.ENOMEM)
	require.Greater(t, len(o.m.mem), 400*miB)
	require.NoError(t, publish(o, o.end, 0))
	p, _ := o.m.Published(o.gen, 0, o.end)
	require.True(t, isFilled(p, 1, 0))

	// Nor is that enough.
	o = filled(1, 200*miB)
	o.Shrink()
	size := len(o.m.mem) + 8*miB
	_, err := o.m.Grow(0, size, size)
	require.NoError(t, err)
	o.moved(0)
	EmptyIdle()
	require.ErrorIs(t, publish(o, 150*miB, 0), unix.ENOMEM) // as a copy that has less contents
	require.Equal(t, len(o.m.mem), o.m.Capacity())
	o.moved(0)
	require.NoError(t, o.check())
	require.True(t, isFilled(o.contents(), 1, 0))
}

// TestProbe has room for an object, but not for what comes with it.
func TestProbe(t *testing.T) {
	proctest.NoRace(t)
	if !proctest.InChild(t) {
		return
	}
	for room, ok := range map[int]bool{66 * miB: false, 88 * miB: true} {
		restore := limitSpace(t, room)
		err := vm.ProbeHeap(64*miB - vm.Unit())
		restore()
		require.Equal(t, ok, err == nil, room)
	}
}
