//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package vm

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
)

// mustMap returns a mapping of some units. It stays: a test that has moved it does not
// own its addresses any more, where the runtime may have mapped something since.
func mustMap(t *testing.T, units int, huge bool) []byte {
	t.Helper()
	mem, err := Map(units*Unit(), huge)
	require.NoError(t, err)
	require.Len(t, mem, units*Unit())
	require.Zero(t, proctest.Address(mem)%uintptr(Unit()))
	return mem
}

// requireGone fails if mem, which was resident and was moved, still is. Something else
// may be mapped there by now.
func requireGone(t *testing.T, mem []byte) {
	t.Helper()
	require.Less(t, resident(t, mem), len(mem), "still mapped")
}

// resident returns how many bytes of mem are in memory, and 0 if some are not mapped.
func resident(t *testing.T, mem []byte) int {
	t.Helper()
	return proctest.Resident(t, proctest.Address(mem), len(mem))
}

// flags returns the flags of the only VMA of mem (proc_pid_smaps(5)).
func flags(t *testing.T, mem []byte) string {
	t.Helper()
	vs := proctest.VMAs(t, mem)
	require.Len(t, vs, 1)
	return vs[0].Flags
}

func isFull(mem []byte, c byte) bool { return bytes.Count(mem, []byte{c}) == len(mem) }

func fillWith(mem []byte, c byte) {
	for i := range mem {
		mem[i] = c
	}
}

func TestMap(t *testing.T) {
	mem := mustMap(t, 3, true)
	require.Zero(t, resident(t, mem))
	require.True(t, isFull(mem, 0))
	require.Len(t, proctest.VMAs(t, mem), 1)
	_, err := Map(MaxSize+Unit(), true)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.True(t, NoRoom(err))
	require.True(t, Available(), "a lack of memory is no refusal")
}

// TestHugePagesOfNoSensibleSize has huge pages of 512 MiB: they are not asked
// for.
func TestHugePagesOfNoSensibleSize(t *testing.T) {
	old := hugePageSize
	defer func() { hugePageSize = old }()
	hugePageSize = func() int { return 512 * MiB }
	mem := mustMap(t, 4, true)
	assert.NotContains(t, flags(t, mem), " hg ")
	assert.NotContains(t, flags(t, mem), " nh ")
}

func TestAdviseHuge(t *testing.T) {
	if _, sensible := chooseUnit(os.Getpagesize(), hugePageSize()); !sensible {
		t.Skip("no huge pages of a sensible size here")
	}
	mem := mustMap(t, 2, true)
	assert.Contains(t, flags(t, mem), " hg ")
	AdviseHuge(mem, false)
	assert.Contains(t, flags(t, mem), " nh ")
	AdviseHuge(mem, true)
	assert.Contains(t, flags(t, mem), " hg ")
	assert.Contains(t, flags(t, mustMap(t, 1, false)), " nh ")
}

func TestAlignedToGiB(t *testing.T) {
	space := func() (pages int) {
		s, err := os.ReadFile("/proc/self/statm")
		require.NoError(t, err)
		_, err = fmt.Sscan(string(s), &pages)
		require.NoError(t, err)
		return pages
	}
	was := space()
	var mems [][]byte
	for range 10 {
		mustMap(t, 7, false) // so that the next is not aligned by chance
		mem, err := Map(GiB, true)
		require.NoError(t, err)
		assert.Zero(t, proctest.Address(mem)%GiB)
		mems = append(mems, mem)
	}
	require.Less(t, space()-was, (10*(GiB+7*Unit())+16*MiB)/os.Getpagesize(), "what was cut off is still mapped")
	for _, mem := range mems {
		require.NoError(t, Unmap(mem))
	}
}

// TestAbandon has memory that cannot be unmapped.
func TestAbandon(t *testing.T) {
	mem := mustMap(t, 1, false)
	fillWith(mem, 'x')
	if _, _, errno := unix.Syscall(unix.SYS_MSEAL, proctest.Address(mem), uintptr(len(mem)), 0); errno != 0 {
		t.Skip(errno) // before Linux 6.10
	}
	require.Error(t, Abandon(mem))
	require.Zero(t, resident(t, mem))
}

func TestResize(t *testing.T) {
	mem := mustMap(t, 2, false)
	fillWith(mem, 'x')
	big, err := Resize(mem, 40*Unit(), true)
	require.NoError(t, err)
	require.True(t, isFull(big[:2*Unit()], 'x') && isFull(big[2*Unit():3*Unit()], 0))
	if !SameStart(big, mem) {
		requireGone(t, mem)
	}
	beside, err := unix.MmapPtr(-1, 0, unsafe.Add(base(big), len(big)), uintptr(Unit()), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	require.NoError(t, err)
	same, err := Resize(big, 41*Unit(), false)
	if beside == unsafe.Add(base(big), len(big)) {
		require.True(t, NoRoom(err), "%v", err)
		require.True(t, isFull(big[:2*Unit()], 'x'))
	} else {
		require.True(t, err != nil || SameStart(same, big))
	}
	require.NoError(t, unix.MunmapPtr(beside, uintptr(Unit())))
	_, err = Resize(big, MaxSize+Unit(), true)
	require.True(t, NoRoom(err))
	require.NoError(t, Unmap(big))
}

func TestMoveOnto(t *testing.T) {
	from, to := mustMap(t, 1, false), mustMap(t, 3, false)
	fillWith(from, 'x')
	fillWith(to, 'y')
	require.NoError(t, MoveOnto(to[Unit():2*Unit()], from))
	requireGone(t, from)
	require.True(t, isFull(to[:Unit()], 'y') && isFull(to[Unit():2*Unit()], 'x') && isFull(to[2*Unit():], 'y'))
}

func TestMoveAligned(t *testing.T) {
	mem := mustMap(t, 2, false)
	fillWith(mem, 'x')
	was := proctest.MapCount(t)
	moved, err := MoveAligned(mem, GiB, 4*Unit())
	require.NoError(t, err)
	require.Zero(t, proctest.Address(moved)%GiB)
	require.Equal(t, len(mem), cap(moved))
	require.True(t, isFull(moved, 'x'))
	requireGone(t, mem)
	require.LessOrEqual(t, proctest.MapCount(t), was+2, "the rest of the reservation is still mapped")
	require.NoError(t, Unmap(moved))
}

func TestDiscardPopulateResident(t *testing.T) {
	page := os.Getpagesize()
	mem := mustMap(t, 2, false)
	if err := Populate(mem[page : 3*page]); err != nil || resident(t, mem) == 0 {
		t.Skip("the kernel does not do MADV_POPULATE_WRITE", err)
	}
	require.Equal(t, 2*page, resident(t, mem))
	for i, want := range []bool{false, true, true, false} {
		require.Equal(t, want, Resident(mem, i*page+page/2), i)
	}
	fillWith(mem, 'x')
	require.NoError(t, Discard(mem[:Unit()]))
	require.True(t, isFull(mem[:Unit()], 0) && isFull(mem[Unit():], 'x'))
	fillWith(mem, 'z')
	if LazyFree(mem) == nil {
		require.True(t, isFull(mem, 'z') || bytes.Count(mem, []byte{0}) > 0)
	}
}

func TestMoveToHeap(t *testing.T) {
	if moveRefused.Load() {
		t.Skip("moves are refused")
	}
	for units := 1; units < 4; units++ {
		mem := mustMap(t, units, true)
		fillWith(mem, 'x')
		h := MoveToHeap(mem)
		require.NotNil(t, h)
		p := h.Bytes(len(mem))
		require.Len(t, p, len(mem))
		require.True(t, isFull(p, 'x'))
		requireGone(t, mem)
		for _, v := range proctest.VMAs(t, p) {
			require.Equal(t, hugePagesAlways(), strings.Contains(v.Flags, " hg "), "advice for huge pages")
		}
		runtime.GC()
		ClearHeap(p[3 : len(p)-5])
		require.True(t, isFull(p[3:len(p)-5], 0))
		require.Equal(t, "xxx", string(p[:3]))
		require.Equal(t, "xxxxx", string(p[len(p)-5:]))
		require.Positive(t, HeapSplits())
	}
}

// TestSplits moves to parts of the same memory.
func TestSplits(t *testing.T) {
	var s vmaSplits
	mem := mustMap(t, 8, false)
	for _, tt := range []struct {
		lo, hi int // units
		n      int64
	}{
		{1, 2, 2}, {3, 4, 4}, {2, 3, 4}, {1, 4, 2}, {0, 2, 3}, {0, 8, 2},
	} {
		s.add(mem[tt.lo*Unit() : tt.hi*Unit()])
		require.Equal(t, tt.n, s.n.Load(), "%v", tt)
	}
}

func TestHeapCopy(t *testing.T) {
	require.NoError(t, ProbeHeap(MiB))
	require.Error(t, ProbeHeap(MaxSize))
	for _, n := range []int{0, 1, 100, 3 * MiB} {
		for _, more := range []int{0, 1, n, 5*n + 3} {
			src := bytes.Repeat([]byte{'x'}, n)
			p := HeapCopy(src, n+more)
			require.Len(t, p, n+more)
			require.True(t, isFull(p[:n], 'x') && isFull(p[n:], 0))
		}
	}
}

// TestReclaim refuses memory until Reclaim says that there is none.
func TestReclaim(t *testing.T) {
	defer func(f func() bool) { Reclaim = f }(Reclaim)
	calls := 0
	Reclaim = func() bool { calls++; return true }
	_, err := mapAnywhere(1<<60, unix.PROT_NONE, 0)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.Equal(t, 1, calls)
}

func TestSystem(t *testing.T) {
	require.Greater(t, MaxMappings(), int64(1000))
	require.Greater(t, Memory(), 16*MiB)
	require.Less(t, time.Since(Time()).Abs(), time.Second)
	require.NoError(t, Unmap(nil))
	require.True(t, SameStart(Join(mustMap(t, 2, true)[:Unit()], 2*Unit()), nil) == false)
}

// The runtime has this for packages that rely on it; see runtime/mgc.go.
//
//go:linkname heapObjectsCanMove runtime.heapObjectsCanMove
func heapObjectsCanMove() bool

// TestHeapObjectsDoNotMove is about the release of Go, not about the package. If
// it fails, or no longer links, moveRefused must be set for that release.
func TestHeapObjectsDoNotMove(t *testing.T) {
	require.False(t, heapObjectsCanMove(), "pages must not be moved to the heap of %s", runtime.Version())
}

// TestFailedMoveToHeap has mremap(2) fail after it has unmapped its target, which
// may be: nothing is moved from then on, and the runtime does not get the
// addresses back, where something else may be mapped by now.
func TestFailedMoveToHeap(t *testing.T) {
	defer RefuseMoves(MovesRefused())
	RefuseMoves(false)
	kept := Lost()
	from, other := mustMap(t, 2, false), mustMap(t, 1, false)
	require.NoError(t, Unmap(from)) // a source that is not mapped
	for range 5 {
		require.Nil(t, MoveToHeap(from))
	}
	require.True(t, MovesRefused())
	require.Equal(t, kept+1, Lost())
	was := proctest.MapCount(t)
	for range 10 {
		_, err := MoveAligned(other, GiB, 0)
		require.Error(t, err)
	}
	require.Equal(t, was, proctest.MapCount(t), "reservations are left")
}

// TestLend has pages come back when their object is unreachable, or not, because the
// loan was ended before.
func TestLend(t *testing.T) {
	if moveRefused.Load() {
		t.Skip("moves are refused")
	}
	back := make(chan []byte, 1)
	lend := func() (p []byte, l *Loan) {
		mem := mustMap(t, 3, true)
		fillWith(mem, 'x')
		h := MoveToHeap(mem)
		require.NotNil(t, h)
		p = h.Bytes(Unit() + 5)
		require.True(t, len(p) == Unit()+5 && cap(p) == len(p))
		return p, h.Lend(func(mem []byte) { back <- mem })
	}
	collect := func() (mem []byte, ok bool) {
		for range 100 {
			runtime.GC()
			select {
			case mem = <-back:
				return mem, true
			case <-time.After(5 * time.Millisecond):
			}
		}
		return nil, false
	}

	p, l := lend()
	runtime.GC()
	runtime.GC()
	require.Empty(t, back, "lent pages came back while they were reachable")
	at := proctest.Address(p)
	runtime.KeepAlive(p)
	p = nil
	mem, ok := collect()
	require.True(t, ok, "nothing came back")
	if mem == nil {
		t.Skip("the kernel does not move pages out of the heap")
	}
	require.Len(t, mem, 3*Unit())
	require.NotEqual(t, at, proctest.Address(mem))
	require.True(t, isFull(mem, 'x'))
	require.Equal(t, 3*Unit(), resident(t, mem))
	require.False(t, l.End(0), "the loan was over")
	require.NoError(t, Unmap(mem))

	p, l = lend()
	require.True(t, l.End(2*Unit()))
	require.False(t, l.End(2*Unit()))
	require.True(t, isFull(p, 'x'))
	require.Equal(t, 2*Unit(), resident(t, Join(p[:Unit()], 3*Unit())), "the rest is resident")
	runtime.KeepAlive(p)
	p = nil
	for range 5 {
		runtime.GC()
	}
	require.Empty(t, back, "pages came back of a loan that was over")

	// A finalizer that blocks all others: what is unreachable uses no memory.
	block, blocked := make(chan bool), make(chan bool)
	func() { runtime.SetFinalizer(new([32]int), func(*[32]int) { close(blocked); <-block }) }()
	runtime.GC()
	<-blocked
	p, l = lend()
	whole := Join(p[:Unit()], 3*Unit())
	at = proctest.Address(whole)
	whole, p = nil, nil
	runtime.GC()
	require.True(t, l.End(2*Unit()))
	require.Zero(t, proctest.Resident(t, at, 3*Unit()))
	close(block)
	runtime.GC()
	require.Empty(t, back)
}
