//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestIdleMemoryIsNotTakenWhileContentsAreCopiedToIt: a large copy takes longer
// than tick waits before it frees what the new owner has not used. The contents
// became zero.
func TestIdleMemoryIsNotTakenWhileContentsAreCopiedToIt(t *testing.T) {
	needMemory(t, giB)
	const size = 16 * miB
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() { // tick, without the wait
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
			}
			idle.mu.Lock()
			var lent []*pages
			for p := range idle.lent {
				lent = append(lent, p)
			}
			idle.mu.Unlock()
			for _, p := range lent {
				p.freeExcess()
			}
		}
	}()
	defer func() { close(done); <-stopped }()
	for i := range 20 {
		var other Buffer
		fill(&other, 1, 2*size+miB)
		require.NoError(t, other.Close())
		b := NewBuffer(pattern(i, size))
		require.NoError(t, b.WriteByte('x'))
		require.True(t, isFilled(contents(b)[:size], i, 0))
		require.NoError(t, b.Close())
	}
}
