//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

func TestMappingIsOneVMA(t *testing.T) {
	mapping.EmptyIdle()
	runtime.GC() // mappings that other tests left could lie next to ours and merge with it
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var b Buffer
	chunk := randomBytes(1, 256*kiB)
	c := 0
	for b.Len() < 100*miB {
		_, _ = b.Write(chunk)
		if b.m != nil && b.Cap() != c {
			c = b.Cap()
			requireOneVMA(t, &b, fmt.Sprintf("filled to %d", b.Len()))
		}
	}
	for range 2000 { // 500 MiB through a backlog of 100 MiB
		_, err := io.ReadFull(&b, chunk)
		require.NoError(t, err)
		_, _ = b.Write(chunk)
		if b.Cap() != c || rand.N(50) == 0 {
			c = b.Cap()
			requireOneVMA(t, &b, "as a queue")
		}
	}
	require.LessOrEqual(t, b.Cap(), 256*miB, "consumed bytes are not dropped")
	b.Shrink()
	requireOneVMA(t, &b, "after Shrink")
	require.LessOrEqual(t, b.Cap(), b.Len()+2*vm.Unit())
	b.Grow(2 * giB)
	requireOneVMA(t, &b, "after Grow")
	require.Zero(t, uintptr(base(b.m.Inspect().Mem))%giB, "not aligned to 1 GiB")
	b.Truncate(30 * miB)
	b.Shrink()
	mapping.EmptyIdle() // what was cut off
	requireOneVMA(t, &b, "after Truncate and Shrink")

	mem := b.m.Inspect().Mem
	require.NoError(t, b.Close())
	mapping.EmptyIdle()
	require.Empty(t, vmas(t, mem), "after Close")
}

func TestHugePagesAreUsed(t *testing.T) {
	needHugePages(t)
	for _, no := range []bool{false, true} {
		b := Buffer{NoHugePages: no}
		for b.Len() < 16*miB {
			_, _ = b.Write(make([]byte, 64*kiB))
		}
		vs := vmas(t, b.m.Inspect().Mem)
		require.Len(t, vs, 1)
		if no {
			assert.Zero(t, vs[0].huge)
		} else {
			assert.NotZero(t, vs[0].huge, "no huge pages, or none left")
		}
		require.NoError(t, b.Close())
	}
}

// TestHugePagesDisabled and TestNoHugePagesWhereAlwaysEnabled: what the system says is what
// happens, but for NoHugePages.
func TestHugePagesDisabled(t *testing.T) {
	if !inChild(t) {
		return
	}
	require.NoError(t, unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0))
	b, want := mapped(t, 16*miB)
	requireOneVMA(t, b, "without huge pages")
	require.Zero(t, vmas(t, b.m.Inspect().Mem)[0].huge)
	require.True(t, bytes.Equal(want, b.Bytes()))
	useAll(t)
}

func TestNoHugePagesWhereAlwaysEnabled(t *testing.T) {
	const path = "/sys/kernel/mm/transparent_hugepage/enabled"
	s, err := os.ReadFile(path)
	if err != nil {
		t.Skip("the kernel has no transparent huge pages")
	}
	_, now, _ := strings.Cut(string(s), "[")
	now, _, _ = strings.Cut(now, "]")
	setSystem(t, path, "always", now)
	b := Buffer{NoHugePages: true}
	fill(&b, 1, 8*miB)
	require.Zero(t, vmas(t, b.m.Inspect().Mem)[0].huge)
	require.NoError(t, b.Close())
	useAll(t)
}
