//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x) && mmapbuf_faults

package mmapbuf

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// failing has the calls of these names fail while f runs.
func failing(names []string, f func()) {
	hook := func(call string, target, source []byte) error {
		if slices.Contains(names, call) {
			return unix.ENOMEM
		}
		return nil
	}
	vm.OnCall.Store(&hook)
	defer vm.OnCall.Store(nil)
	f()
}

// TestPagesAtRandomFault is TestPagesAtRandom with calls that fail at random, but
// for mmap(2), without which operations may fail.
func TestPagesAtRandomFault(t *testing.T) {
	defer func(n int) { mostAlignment = n }(mostAlignment)
	mostAlignment = os.Getpagesize()
	defer vm.RefuseMoves(vm.MovesRefused())
	pagesAtRandom(t, func(r *rand.Rand) func() {
		vm.RefuseMoves(false)
		if r.IntN(2) == 0 {
			return func() {}
		}
		rate := 1 + r.IntN(10)
		hook := func(call string, target, source []byte) error {
			if call != "mmap" && r.IntN(rate) == 0 {
				return unix.ENOMEM
			}
			return nil
		}
		vm.OnCall.Store(&hook)
		return func() { vm.OnCall.Store(nil) }
	})
}

// TestFaultOfRecycling has the consumed prefix neither moved nor unmapped: the
// capacity was taken for what it had been before.
func TestFaultOfRecycling(t *testing.T) {
	noIdle(t)
	var b Buffer
	defer b.Close()
	b.Grow(100 * miB)
	fill(&b, 1, 60*miB)
	_, _ = b.Read(make([]byte, 31*miB))
	n := b.m.Inspect().Dirty - b.buf.Len + 1
	require.True(t, b.canRecycle(n))
	failing([]string{"mremap", "mremap fixed", "munmap"}, func() { _, _ = b.Write(noise()[:n]) })
	require.True(t, isFilled(contents(&b)[:29*miB], 1, 31*miB))
	require.NoError(t, diffBytes(contents(&b)[29*miB:], noise()[:n]))
}

// TestFaultInReadFromAFile has the mapping become a slice in the middle of ReadFrom
// from a file.
func TestFaultInReadFromAFile(t *testing.T) {
	noIdle(t)
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, noise()[:3*miB], 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	var b Buffer
	defer b.Close()
	b.Grow(100 * miB)
	fill(&b, 1, 60*miB-kiB)
	_, _ = b.Read(make([]byte, 31*miB))
	defer mapping.SetBudget(0)()
	failing([]string{"mremap", "mremap fixed"}, func() {
		n, err := b.ReadFrom(f)
		require.NoError(t, err)
		require.EqualValues(t, 3*miB, n)
	})
	require.NoError(t, diffBytes(contents(&b)[29*miB-kiB:], noise()[:3*miB]))
}

// TestAdviceAfterAMoveFaultless: after the pages of a view had been moved, advice was
// given to their old addresses, where something else may be mapped by then.
func TestAdviceAfterAMoveFaultless(t *testing.T) {
	needMoves(t)
	noIdle(t)
	var b Buffer
	defer b.Close()
	b.Grow(62 * miB)
	_, _ = b.Write(noise())
	_, err := b.WriteAt([]byte("x"), 40*miB)
	require.NoError(t, err)
	b.Truncate(len(noise()))
	require.True(t, b.m.Sparse())
	at, moved, other := uintptr(base(b.m.Inspect().Mem)), false, false
	const n = 6 * miB
	hook := func(call string, target, source []byte) error {
		moved = moved || call == "mremap fixed"
		if moved && call == "munmap" && !other { // by now, something else is mapped there
			_, _, errno := unix.Syscall6(unix.SYS_MMAP, at, n, unix.PROT_READ|unix.PROT_WRITE,
				unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE, ^uintptr(0), 0)
			_, _, err := unix.Syscall(unix.SYS_MADVISE, at, n, unix.MADV_NOHUGEPAGE)
			other = errno == 0 && err == 0
		}
		return nil
	}
	vm.OnCall.Store(&hook)
	v, err := b.view(false)
	vm.OnCall.Store(nil)
	require.NoError(t, err)
	require.True(t, moved && other)
	require.NoError(t, diffBytes(v, noise()))
	for _, v := range vmas(t, nil) {
		if v.lo <= at && at < v.hi {
			require.Contains(t, v.flags, " nh ", "advice for what is not ours")
		}
	}
	_, _, errno := unix.Syscall(unix.SYS_MUNMAP, at, n, 0)
	require.Zero(t, errno)
}
