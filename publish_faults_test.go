//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x) && mmapbuf_faults

package mmapbuf

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// TestFailedViewKeepsTheMapping refuses to move the pages of a view, and memory
// for a copy. The part of the mapping that the view did not need was idle memory
// by then: the Buffer went on writing to it, and so did the next owner.
func TestFailedViewKeepsTheMapping(t *testing.T) {
	needMemory(t, giB)
	var b, other Buffer
	defer b.Close()
	defer other.Close()
	fill(&b, 1, 48*miB)
	b.Truncate(8 * miB)
	size := b.Cap()
	probes := 0
	hook := func(call string, target, source []byte) error {
		switch {
		case call == "mremap fixed":
			return unix.ENOMEM
		case call == "mmap":
			if probes++; probes > 1 {
				return unix.ENOMEM
			}
		}
		return nil
	}
	vm.OnCall.Store(&hook)
	err, panicked := caught(func() error { b.Bytes(); return nil })
	vm.OnCall.Store(nil)
	require.True(t, panicked)
	require.ErrorIs(t, err, ErrTooLarge)
	require.True(t, isFilled(contents(&b), 1, 0))

	fill(&other, 2, 30*miB)
	require.Equal(t, size, b.Cap())
	_, _ = b.Write(make([]byte, 40*miB))
	require.True(t, isFilled(contents(&other), 2, 0), "what another Buffer has written is overwritten")
	require.True(t, isFilled(contents(&b)[:8*miB], 1, 0))
	require.NoError(t, invariants(&b))
}

// TestFailedViewOfShorterCopy views a copy of a Buffer that has fewer contents, and
// fails: nothing has happened then to what the other has beyond them.
func TestFailedViewOfShorterCopy(t *testing.T) {
	noIdle(t)
	var other, b Buffer
	fill(&other, 9, 16*miB)
	require.NoError(t, other.Close())
	fill(&b, 1, 5*miB)
	short := b
	fill(&b, 2, miB)
	require.True(t, short.current())
	moved := false
	hook := func(call string, target, source []byte) error {
		switch {
		case call == "mremap fixed":
			moved = true
			return unix.ENOMEM
		case call == "mmap" && moved:
			return unix.ENOMEM
		}
		return nil
	}
	vm.OnCall.Store(&hook)
	err, _ := caught(func() error { short.Bytes(); return nil })
	vm.OnCall.Store(nil)
	require.ErrorIs(t, err, ErrTooLarge)
	got := contents(&b)
	require.Equal(t, 6*miB, len(got))
	require.True(t, isFilled(got[:5*miB], 1, 0))
	require.True(t, isFilled(got[5*miB:], 2, 0))
	require.NoError(t, b.Close())
}
