//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"runtime"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// TestSuccessThatMovesNothing has mremap(2) as the Linux layer of FreeBSD does:
// no mapping grows, for want of memory as it says, and what should move to an
// address stays where it is, and that is called a success.
func TestSuccessThatMovesNothing(t *testing.T) {
	const flags = 3
	for name, growing := range map[string]bool{"nothing grows": false, "growing works": true} {
		t.Run(name, func(t *testing.T) {
			noRace(t)
			if !inChild(t) {
				return
			}
			if growing {
				needMoves(t)
			} else {
				install(t, filter{call: unix.SYS_MREMAP, errno: unix.ENOMEM})
			}
			install(t, filter{unix.SYS_MREMAP, 0, flags, unix.MREMAP_FIXED}) // the last one decides
			useAll(t)
			require.True(t, vm.MovesRefused(), "no view was to be moved")
			require.Positive(t, ReadStats().Copies)
		})
	}
}

// TestGrowthRefusedForLackOfMemory has mremap(2) report, from a certain size on, a
// lack of memory of which there is none, as the kernel of RHEL 9.2 did.
func TestGrowthRefusedForLackOfMemory(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	const newSize = 2
	install(t, filter{unix.SYS_MREMAP, unix.ENOMEM, newSize, 0xfc00_0000})
	var b Buffer
	for i := range 200 {
		fill(&b, i, miB)
	}
	got := contents(&b)
	for i := range 200 {
		require.True(t, isFilled(got[i*miB:][:miB], i, 0))
	}
	require.Positive(t, ReadStats().Copies, "no growth was refused")
	require.NoError(t, b.Close())
}

// fork makes a process that does nothing but to have the same memory, in pages
// that are copied when one of the two writes, and returns its number.
func fork(t *testing.T) (pid int) {
	t.Helper()
	if runtime.GOARCH == "s390x" {
		t.Skip("has the arguments in another order")
	}
	id, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if id == 0 && errno == 0 {
		// Only system calls: there are no other threads here.
		unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
		for {
			unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	}
	require.Zero(t, errno)
	t.Cleanup(func() {
		_ = unix.Kill(int(id), unix.SIGKILL)
		_, _ = unix.Wait4(int(id), nil, unix.WALL, nil)
	})
	return int(id)
}

// memoryOf reads n bytes of the memory of another process.
func memoryOf(t *testing.T, pid int, at uintptr, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	k, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &p[0], Len: uint64(n)}}, []unix.RemoteIovec{{Base: at, Len: n}}, 0)
	if err == unix.EPERM || err == unix.ENOSYS {
		t.Skipf("process_vm_readv: %v", err)
	}
	require.NoError(t, err)
	require.Equal(t, n, k)
	return p
}

// TestMoveAfterFork moves pages that a forked process shares. Linux 6.17 could
// make such pages writable for both when mremap(2) moved parts of huge pages one
// by one; what is then written here would show there.
func TestMoveAfterFork(t *testing.T) {
	const size = 12 * miB
	page := unix.Getpagesize()
	tests := map[string]func(t *testing.T, b *Buffer){
		"growth": func(t *testing.T, b *Buffer) {
			require.NoError(t, b.m.MoveAligned(giB))
			b.afterCut(0)
			require.NoError(t, b.Reserve(giB))
		},
		"publishing": func(t *testing.T, b *Buffer) {
			_ = b.Bytes()
			b.refresh()
		},
		// Where the address has no alignment, huge pages are moved in parts.
		"without alignment": func(t *testing.T, b *Buffer) {
			n := cap(b.m.Inspect().Mem)
			to, err := unix.MmapPtr(-1, 0, nil, uintptr(n+2*page), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
			require.NoError(t, err)
			require.NoError(t, b.m.MoveTo(unsafe.Slice((*byte)(to), n+page)[page:]))
			b.afterCut(0)
		},
	}
	for name, move := range tests {
		t.Run(name, func(t *testing.T) {
			noRace(t)
			if !inChild(t) {
				return
			}
			b, want := mapped(t, size)
			at := uintptr(base(b.m.Inspect().Mem))
			pid := fork(t)

			// Every other page becomes this process's own, so that a huge page is
			// mapped in parts, some of which may be written and some not.
			mine := bytes.Clone(want)
			change := func(first int) {
				for i := first * page; i < len(mine); i += 2 * page {
					mine[i] ^= 0xff
					_, err := b.WriteAt(mine[i:i+1], int64(i))
					require.NoError(t, err)
				}
			}
			change(1)
			move(t, b)
			require.True(t, bytes.Equal(mine, contents(b)))
			change(0)
			require.True(t, bytes.Equal(mine, contents(b)))
			require.True(t, bytes.Equal(want, memoryOf(t, pid, at, size)), "the other process sees what is written here")
		})
	}
}
