//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestIdleMemoryIsNotTakenWhileContentsAreCopiedToIt: a large copy takes longer
// than tick waits before it frees what the new owner has not committed. The
// contents became zero.
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
			for p := range idle.reused {
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

// TestRecycledMemoryIsNotTakenForClean: a queue on idle memory had committed all
// that earlier owners had written, but had not written as much itself. After it
// had recycled its consumed prefix, all of the memory counted as owned, and a
// Reader saw bytes of earlier owners.
func TestRecycledMemoryIsNotTakenForClean(t *testing.T) {
	needMemory(t, giB)
	noIdle(t)
	const foreign = 0xee
	var other, b Buffer
	other.Grow(100 * miB)
	_, _ = other.Write(bytes.Repeat([]byte{foreign}, 44*miB))
	require.NoError(t, other.Close())
	defer b.Close()
	b.Grow(60 * miB)
	_, _ = b.Write(make([]byte, 41*miB))
	require.Equal(t, 44*miB, b.m.committed, "as far as the other has written")
	_, _ = io.ReadFull(&b, make([]byte, 30*miB))
	b.Grow(20 * miB)
	require.NotEmpty(t, b.m.seams, "nothing was recycled")
	_, err := b.ReadFrom(reader(func(p []byte) (int, error) {
		require.Zero(t, bytes.Count(p, []byte{foreign}))
		return 0, io.EOF
	}))
	require.NoError(t, err)
}

// TestIdleMemoryMakesNoLargeViews: a Buffer of some KiB on idle memory was viewed
// with all of a huge page.
func TestIdleMemoryMakesNoLargeViews(t *testing.T) {
	setThreshold(t, miB) // below it idle memory alone makes a mapping
	noIdle(t)
	var other Buffer
	fill(&other, 1, 10*miB)
	require.NoError(t, other.Close())
	for _, n := range []int{40 * kiB, 100 * kiB, 700 * kiB} {
		var b Buffer
		fill(&b, 2, n)
		require.NotNil(t, b.m, "no idle memory")
		view := b.Bytes()
		require.True(t, isFilled(view, 2, 0))
		require.LessOrEqual(t, cap(view), 2*n)

		var c Buffer
		fill(&c, 2, n)
		require.NotNil(t, c.m, "no idle memory")
		spare := c.AvailableBuffer()
		require.Equal(t, c.Available(), cap(spare))
		require.LessOrEqual(t, cap(spare), 2*max(n, commitStepMin))
	}
}

// TestShrinkOfIdleMemory: contents that filled the committed part of a mapping
// kept all of it.
func TestShrinkOfIdleMemory(t *testing.T) {
	setThreshold(t, miB) // below it idle memory alone makes a mapping
	noIdle(t)
	var other, b Buffer
	fill(&other, 1, 10*miB)
	require.NoError(t, other.Close())
	fill(&b, 2, commitStepMin)
	require.NotNil(t, b.m, "no idle memory")
	b.Shrink()
	require.LessOrEqual(t, b.Cap(), 2*commitStepMin)
	require.True(t, isFilled(b.Bytes(), 2, 0))
}
