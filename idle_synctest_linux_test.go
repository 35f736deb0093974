//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// TestIdleMemoryGoesAfterABubble uses Buffers in a bubble of testing/synctest.
// The timer that was to free idle memory ended with the bubble, and nothing was
// freed after that in all of the process.
func TestIdleMemoryGoesAfterABubble(t *testing.T) {
	use := func() {
		var b Buffer
		fill(&b, 1, 10*miB)
		_ = b.Close()
	}
	gone := func() bool { return ReadStats().IdleBytes == 0 && !isTicking() }
	noIdle(t)
	require.Eventually(t, gone, 4*idleFor, idleFor/20)
	synctest.Test(t, func(*testing.T) { use() })
	use()
	require.Positive(t, ReadStats().IdleBytes)
	require.Eventually(t, gone, 4*idleFor, idleFor/20)

	// Memory that others have left is not for the bubble, either.
	use()
	idle.mu.Lock()
	idle.ticking = false // as while tick runs
	idle.mu.Unlock()
	synctest.Test(t, func(*testing.T) { use(); time.Sleep(24 * time.Hour) })
	use()
	require.Eventually(t, gone, 4*idleFor, idleFor/20)
}

func isTicking() bool {
	idle.mu.Lock()
	defer idle.mu.Unlock()
	return idle.ticking
}
