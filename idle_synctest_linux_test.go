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

// TestIdleMemoryGoesAfterALongBubble sleeps in a bubble until its clock, which
// begins in the year 2000, is ahead of the real one. Memory that becomes idle then
// seems to have done so in the future, and the timer ends with the bubble.
func TestIdleMemoryGoesAfterALongBubble(t *testing.T) {
	if !inChild(t) {
		return // if it fails, no idle memory is ever freed again
	}
	setThreshold(t, miB)
	use := func(n int) *Buffer {
		b := new(Buffer)
		fill(b, 1, n)
		return b
	}
	var open []*Buffer
	now := time.Now()
	for _, bubble := range []func(){
		func() { _ = use(10 * miB).Close() },
		func() { _ = use(100 * kiB).Close() }, // of idle memory, if there is any
		func() { open = append(open, use(100*kiB)) },
		func() { _ = use(10 * miB).Close(); time.Sleep(idleFor); _ = use(10 * miB).Close() },
	} {
		_ = use(20 * miB).Close()
		require.Positive(t, ReadStats().IdleBytes)
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(40 * 365 * 24 * time.Hour)
			require.True(t, time.Now().After(now))
			bubble()
		})
	}
	_ = use(10 * miB).Close()
	require.Positive(t, ReadStats().IdleBytes)
	gone := func() bool { return ReadStats().IdleBytes == 0 && !isTicking() }
	require.Eventually(t, gone, 4*idleFor, idleFor/20)
	for _, b := range open {
		require.NoError(t, still(contents(b), 1, b.Len()))
		require.NoError(t, b.Close())
	}
}
