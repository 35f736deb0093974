//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestWithoutSys runs in a sandbox that has no /sys. What the kernel has of huge
// pages cannot be read there, but they are to be had.
func TestWithoutSys(t *testing.T) {
	needHugePages(t)
	if os.Getpagesize() != 4*kiB {
		t.Skip("the size of huge pages is anybody's guess")
	}
	if os.Getenv("MMAPBUF_TEST_CHILD") == "" {
		runtime.LockOSThread() // for good: the thread is of no use to others
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Skipf("unshare: %v", err)
		}
		require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		require.NoError(t, unix.Mount("tmpfs", "/sys", "tmpfs", 0, ""))
	}
	if !inChild(t) {
		return
	}
	require.NoDirExists(t, "/sys/kernel")
	b, _ := mapped(t, 16*miB)
	requireOneVMA(t, b, "without /sys")
	require.NotZero(t, vmas(t, b.m.Inspect().Mem)[0].huge)
	require.NoError(t, b.Close())
	useAll(t)
}
