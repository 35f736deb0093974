//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"os"
	"runtime"
	"testing"
	_ "unsafe" // for go:linkname

	"github.com/stretchr/testify/require"
)

// MMAPBUF_TEST_PUBLISH=copy has all views copied.
func init() {
	copyViews.Store(os.Getenv("MMAPBUF_TEST_PUBLISH") == "copy")
}

// The runtime has this for packages that rely on it; see runtime/mgc.go.
//
//go:linkname heapObjectsCanMove runtime.heapObjectsCanMove
func heapObjectsCanMove() bool

// TestHeapObjectsDoNotMove is about the release of Go, not about the package. If
// it fails, or no longer links, copyViews must be set for that release.
func TestHeapObjectsDoNotMove(t *testing.T) {
	require.False(t, heapObjectsCanMove(), "pages must not be moved to the heap of %s", runtime.Version())
}

// TestCopiedViewTouchesNoSpare copies a view with a spare capacity of a GiB, which
// takes no memory until it is used.
func TestCopiedViewTouchesNoSpare(t *testing.T) {
	noRace(t)
	needMemory(t, 2*giB)
	if !inChild(t) {
		return
	}
	copyViews.Store(true)
	var b Buffer
	fill(&b, 1, 8*miB)
	b.Grow(giB)
	was := status(t, "VmRSS")
	p := b.AvailableBuffer()
	require.GreaterOrEqual(t, cap(p), giB)
	require.LessOrEqual(t, status(t, "VmRSS")-was, 64*miB)
	runtime.KeepAlive(p)
}
