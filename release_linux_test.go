//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// TestCopiedViewTouchesNoSpare copies a view with a spare capacity of a GiB, which
// takes no memory until it is used.
func TestCopiedViewTouchesNoSpare(t *testing.T) {
	noRace(t)
	needMemory(t, 2*giB)
	if !inChild(t) {
		return
	}
	vm.RefuseMoves(true)
	var b Buffer
	fill(&b, 1, 8*miB)
	b.Grow(giB)
	was := status(t, "VmRSS")
	p := b.AvailableBuffer()
	require.GreaterOrEqual(t, cap(p), giB)
	require.LessOrEqual(t, status(t, "VmRSS")-was, 64*miB)
	runtime.KeepAlive(p)
}
