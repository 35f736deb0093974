//go:build linux && !nommap && !386 && !arm && !mips && !mipsle && mmapbuf_faults

package vm

import (
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
)

// failing has calls of a name fail while f runs, and returns how many did.
func failing(name string, f func()) (calls int) {
	hook := func(call string, target, source []byte) error {
		if call == name {
			calls++
			return unix.EPERM
		}
		return nil
	}
	OnCall.Store(&hook)
	defer OnCall.Store(nil)
	f()
	return calls
}

// TestFaultOfMovingOut: the first failure is the last, and the object is freed as any
// other.
func TestFaultOfMovingOut(t *testing.T) {
	defer RefuseMoves(MovesRefused())
	RefuseMoves(false)
	back := make(chan []byte, 2)
	lend := func() {
		h := MoveToHeap(mustMap(t, 2, true))
		require.NotNil(t, h)
		h.Lend(func(mem []byte) { back <- mem })
	}
	calls := failing("mremap out", func() {
		for range 2 {
			lend()
			runtime.GC()
			select {
			case mem := <-back:
				require.Nil(t, mem)
			case <-time.After(10 * time.Second):
				t.Fatal("the finalizer did not run")
			}
		}
	})
	require.Equal(t, 1, calls)
}

// TestFaultOfAMoveAligned leaves at most one reservation.
func TestFaultOfAMoveAligned(t *testing.T) {
	defer RefuseMoves(MovesRefused())
	RefuseMoves(false)
	mem := mustMap(t, 2, true)
	fillWith(mem, 'x')
	was := proctest.MapCount(t)
	require.Equal(t, 1, failing("mremap fixed", func() {
		for range 10 {
			_, err := MoveAligned(mem, GiB, 0)
			require.Error(t, err)
		}
	}))
	require.LessOrEqual(t, proctest.MapCount(t), was+1)
	require.True(t, isFull(mem, 'x'))
}
