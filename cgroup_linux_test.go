//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// childInGroup is inChild for a child in a control group of n bytes of memory.
func childInGroup(t *testing.T, n int) bool {
	t.Helper()
	noRace(t)
	out, err := inGroup(t, n)
	if out == nil {
		return true
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "the test did not run")
	return false
}

// groupMemory returns what the control group is charged for, in bytes.
func groupMemory(t *testing.T) int {
	t.Helper()
	dir := os.Getenv("MMAPBUF_TEST_GROUP")
	s, err := os.ReadFile(dir + "/memory.current") // version 2
	if err != nil {
		s, err = os.ReadFile(dir + "/memory.usage_in_bytes") // version 1
	}
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(s)))
	require.NoError(t, err)
	return n
}

// slack is what a group may be charged for beside contents: slices that are not
// collected yet, page tables, stacks, and what each processor has in stock.
const slack = 32 * miB

// requireGroupMemory waits until the group is charged for at most n bytes more
// than was. A package that keeps memory for the next Buffer may do so for a
// while.
func requireGroupMemory(t *testing.T, was, n int, when string, while func()) {
	t.Helper()
	var is int
	for range 200 {
		while()
		if is = groupMemory(t) - was; is <= n+slack {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.Failf(t, "the control group is charged for too much",
		"%s: %s instead of %s; resident are %s", when, sizeString(is), sizeString(n), sizeString(status(t, "VmRSS")))
}

// TestGroupMemoryFollows looks at what a control group is charged for, which is
// not always what is resident: a huge page of which a part is unmapped counts
// as a whole until memory is short.
func TestGroupMemoryFollows(t *testing.T) {
	for _, mode := range []string{"as it is", "always"} {
		t.Run(mode, func(t *testing.T) {
			const path = "/sys/kernel/mm/transparent_hugepage/enabled"
			if mode == "always" && os.Getenv("MMAPBUF_TEST_CHILD") == "" {
				s, err := os.ReadFile(path)
				if err != nil {
					t.Skip("the kernel has no transparent huge pages")
				}
				_, now, _ := strings.Cut(string(s), "[")
				now, _, _ = strings.Cut(now, "]")
				setSystem(t, path, mode, now)
			}
			if childInGroup(t, giB) {
				groupMemoryFollows(t)
			}
		})
	}
}

func groupMemoryFollows(t *testing.T) {
	const size = 128 * miB
	idle := func() {}
	{
		var b Buffer
		fill(&b, 1, 8*miB)
		b.Bytes()
	}
	debug.FreeOSMemory()
	was := groupMemory(t)

	var b Buffer
	fill(&b, 1, size)
	require.Greater(t, groupMemory(t)-was, size-slack, "it is memory of this group")

	_, _ = io.CopyN(io.Discard, &b, size/2)
	requireGroupMemory(t, was, size/2+size/8+2*discardStep, "half is consumed", idle)
	b.Shrink()
	requireGroupMemory(t, was, size/2, "Shrink", idle)
	require.NoError(t, b.Close())
	requireGroupMemory(t, was, 0, "Close", idle)

	// In pages of which each has contents, but which are not full.
	bufs := make([]Buffer, 20)
	for i := range bufs {
		fill(&bufs[i], i, 5*miB)
		_, _ = io.CopyN(io.Discard, &bufs[i], 3*miB)
		bufs[i].Shrink()
	}
	unit := 2 * max(vm.Unit(), mapThreshold)
	requireGroupMemory(t, was, len(bufs)*(2*miB+unit), "Shrink of many", idle)
	for i := range bufs {
		require.NoError(t, bufs[i].Close())
	}
	requireGroupMemory(t, was, 0, "Close of many", idle)

	// A queue.
	for k := range 64 {
		fill(&b, k, 8*miB)
		if k > 1 {
			_, _ = io.CopyN(io.Discard, &b, 8*miB)
		}
		requireGroupMemory(t, was, 24*miB+2*discardStep, "a queue", idle)
	}
	require.NoError(t, b.Close())

	// Views, some copied, some moved. Of most, a part is what is kept longest.
	var parts [][]byte
	for k := range 16 {
		b := new(Buffer)
		fill(b, k, 2*miB+k*miB)
		p := b.Bytes()
		if k%4 == 0 {
			parts = append(parts, p[len(p)/2:])
		}
	}
	for k, p := range parts {
		n := 2*miB + 4*k*miB
		require.True(t, isFilled(p, 4*k, n-n/2), "a view")
	}
	parts = nil
	requireGroupMemory(t, was, 0, "views are collected", debug.FreeOSMemory)

	// And mappings that nobody has closed.
	for k := range 16 {
		fill(new(Buffer), k, 6*miB)
	}
	requireGroupMemory(t, was, 0, "mappings are collected", debug.FreeOSMemory)
}

// TestGroupWithMemoryLimit forgets Buffers, four times as many as fit, in a
// control group with a limit of memory. The collector comes only near the
// limit that Go was given, as is usual in containers.
func TestGroupWithMemoryLimit(t *testing.T) {
	for name, views := range map[string]bool{"mappings": false, "views": true} {
		t.Run(name, func(t *testing.T) {
			const size = 256 * miB
			if !childInGroup(t, size) {
				return
			}
			debug.SetGCPercent(-1)
			debug.SetMemoryLimit(size / 8 * 6)
			for k := range 4 * size / (10 * miB) {
				b := new(Buffer)
				fill(b, k, 10*miB)
				if views {
					require.True(t, isFilled(b.Bytes(), k, 0))
				}
			}
		})
	}
}

// TestGroupService serves requests of any size in a control group in which the
// Buffers fit if each has at most MaxLen.
func TestGroupService(t *testing.T) {
	const size, maxLen = 256 * miB, 16 * miB
	for name, tt := range map[string]struct {
		buffers int
		limit   bool
	}{
		"half of the memory":                         {size / maxLen / 2, false},
		"three quarters, and Go knows what there is": {size / maxLen * 3 / 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			if !childInGroup(t, size) {
				return
			}
			if tt.limit {
				debug.SetMemoryLimit(size / 10 * 9)
			}
			var wg sync.WaitGroup
			errs := make([]error, tt.buffers)
			end := time.Now().Add(runFor(3 * time.Second))
			for i := range errs {
				wg.Go(func() {
					b := Buffer{MaxLen: maxLen}
					for seed := i; time.Now().Before(end) && errs[i] == nil; seed += len(errs) {
						errs[i] = serve(&b, seed)
					}
				})
			}
			wg.Wait()
			require.NoError(t, errors.Join(errs...))
		})
	}
}

// serve takes a request into b, up to its MaxLen, and looks whether it is all
// there.
func serve(b *Buffer, seed int) error {
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	total := r.IntN(b.MaxLen * 5 / 4)
	var err error
	for k, n := 0, total; n > 0 && err == nil; k, n = k+1, n-piece {
		_, err = b.Write(pieceOf(seed, k)[:min(n, piece)])
	}
	if b.Len() != min(total, b.MaxLen) || (total > b.MaxLen) != errors.Is(err, ErrTooLarge) {
		return fmt.Errorf("%d of %d bytes, and the error is %v", b.Len(), total, err)
	}
	p := make([]byte, piece)
	for k := 0; b.Len() > 0; k++ {
		n, err := io.ReadFull(b, p)
		if err != nil && err != io.ErrUnexpectedEOF || !bytes.Equal(p[:n], pieceOf(seed, k)[:n]) {
			return fmt.Errorf("piece %d is another, or %v", k, err)
		}
	}
	if r.IntN(2) == 0 {
		return b.Close()
	}
	b.Reset()
	return nil
}

// TestGroupTakesIdleMemory has idle memory of half of what the group may have,
// and then needs more than half for something else.
func TestGroupTakesIdleMemory(t *testing.T) {
	noRace(t)
	const limit = 400 * miB
	if !childInGroup(t, limit) {
		return
	}
	setIdleMax(t, giB)
	var b Buffer
	fill(&b, 1, limit/2)
	require.NoError(t, b.Close())
	require.GreaterOrEqual(t, ReadStats().IdleBytes, int64(limit/2))
	p := make([]byte, limit*9/16)
	for i := 0; i < len(p); i += 4096 {
		p[i] = 1 // the kernel would kill us if it could not take the idle memory
	}
	fill(&b, 2, limit/16) // of idle memory of which some is gone
	require.True(t, isFilled(contents(&b), 2, 0))
	runtime.KeepAlive(p)
}

// TestMaxLenAgainstTheOOMKiller fills Buffers in a control group with less
// memory than they want: the one without MaxLen is the end of its process.
func TestMaxLenAgainstTheOOMKiller(t *testing.T) {
	noRace(t)
	for name, maxLen := range map[string]int{"with": 128 * miB, "without": 0} {
		t.Run(name, func(t *testing.T) {
			if maxLen > 0 {
				needMoves(t) // two times 128 MiB do not fit
			}
			out, err := inGroup(t, 256*miB)
			if out != nil {
				if maxLen > 0 {
					require.NoError(t, err, "%s", out)
					require.Contains(t, string(out), "--- PASS")
					return
				}
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit, "%s", out)
				require.Equal(t, unix.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
				return
			}
			b := Buffer{MaxLen: maxLen}
			chunk := randomBytes(12, miB)
			for range 400 {
				if _, err = b.Write(chunk); err != nil {
					break
				}
			}
			require.ErrorIs(t, err, ErrTooLarge)
			require.Equal(t, maxLen, b.Len())
			for range maxLen / miB {
				require.True(t, bytes.Equal(chunk, b.Next(miB)))
			}
		})
	}
}

// inGroup is runChild with a child in a control group of n bytes of memory.
func inGroup(t *testing.T, n int) ([]byte, error) {
	t.Helper()
	const key = "MMAPBUF_TEST_GROUP"
	if dir := os.Getenv(key); dir != "" {
		require.NoError(t, writeSetting(dir+"/cgroup.procs", "0"))
		return runChild(t)
	}
	for root, file := range map[string]string{
		"/sys/fs/cgroup":        "memory.max",            // version 2
		"/sys/fs/cgroup/memory": "memory.limit_in_bytes", // version 1
	} {
		dir, err := os.MkdirTemp(root, "mmapbuf-test-")
		if err != nil {
			continue
		}
		defer os.Remove(dir)
		if writeSetting(dir+"/"+file, strconv.Itoa(n)) == nil {
			t.Setenv(key, dir)
			return runChild(t)
		}
	}
	t.Skip("no control group with a limit of memory is to be had")
	return nil, nil
}
