//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"io"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
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
// gap showed bytes of earlier owners.
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
	require.Equal(t, 44*miB, b.m.dirty, "as far as the other has written")
	_, _ = io.ReadFull(&b, make([]byte, 30*miB))
	b.Grow(20 * miB)
	require.NotEmpty(t, b.m.seams, "nothing was recycled")
	_, err := b.WriteAt([]byte{1}, int64(b.Len()+12*miB))
	require.NoError(t, err)
	require.Zero(t, bytes.Count(contents(&b), []byte{foreign}))
	spare := b.AvailableBuffer()
	require.Zero(t, bytes.Count(spare[:cap(spare)], []byte{foreign}))
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
		require.LessOrEqual(t, cap(view), 2*max(n, 128*kiB))

		var c Buffer
		fill(&c, 2, n)
		require.NotNil(t, c.m, "no idle memory")
		spare := c.AvailableBuffer()
		require.Equal(t, c.Available(), cap(spare))
		require.LessOrEqual(t, cap(spare), 2*max(n, 128*kiB))
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
	fill(&b, 2, 128*kiB)
	require.NotNil(t, b.m, "no idle memory")
	b.Shrink()
	require.LessOrEqual(t, b.Cap(), 2*128*kiB)
	require.True(t, isFilled(b.Bytes(), 2, 0))
}

// TestRecycledMemoryIsForTheKernelToTake closes a queue: what was moved behind its
// end was written, too.
func TestRecycledMemoryIsForTheKernelToTake(t *testing.T) {
	needMoves(t)
	noIdle(t)
	b := recycledQueue(t)
	before := procBytes("self/smaps_rollup", "LazyFree")
	require.NoError(t, b.Close())
	kept, free := ReadStats().IdleBytes, procBytes("self/smaps_rollup", "LazyFree")-before
	require.Greater(t, kept, int64(20*miB))
	assert.GreaterOrEqual(t, free, kept-8*miB, "of %d idle bytes", kept)
}

// recycledQueue returns a queue whose consumed prefix was moved behind its end.
func recycledQueue(t *testing.T) *Buffer {
	t.Helper()
	b := new(Buffer)
	t.Cleanup(func() { b.Close() })
	fill(b, 1, 100*miB)
	_, err := io.CopyN(io.Discard, struct{ io.Reader }{b}, 90*miB)
	require.NoError(t, err)
	b.Grow(20 * miB)
	require.NotEmpty(t, b.m.seams)
	return b
}

// TestQueueRecyclesAfterASmallerGrowth has the mapping of a queue refused the
// doubling, and granted what it needs.
func TestQueueRecyclesAfterASmallerGrowth(t *testing.T) {
	needMoves(t)
	noIdle(t)
	b := recycledQueue(t)
	at, err := unix.MmapPtr(-1, 0, unsafe.Add(base(b.m.mem), cap(b.m.mem)+30*miB), uintptr(pageUnit()), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE)
	require.NoError(t, err)
	defer func() { _ = unix.MunmapPtr(at, uintptr(pageUnit())) }()
	was := ReadStats()
	b.Grow(b.Available() + 10*miB)
	require.Equal(t, was.Copies, ReadStats().Copies)
	require.Equal(t, was.GrowsInPlace+1, ReadStats().GrowsInPlace)
	require.NoError(t, b.Close())
	assert.Positive(t, ReadStats().IdleBytes)
}

// TestTickBesideWrites lets tick free memory that a Buffer has not used, while it
// is written: gaps are filled, and a queue starts again. For the race detector.
func TestTickBesideWrites(t *testing.T) {
	needMemory(t, giB)
	p := noise()[:64*kiB]
	for range byLength(3, 10, 30) {
		var other, gap, queue Buffer
		fill(&other, 1, 40*miB)
		require.NoError(t, other.Close())
		_, err := gap.WriteAt([]byte("x"), 12*miB)
		require.NoError(t, err)
		tick := make(chan bool)
		go func() { decay(time.Now().Add(2 * idleFor)); close(tick) }()
		for off := range int64(100) {
			_, _ = gap.WriteAt(p, off*int64(len(p)))
		}
		<-tick
		require.NoError(t, invariants(&gap))
		require.NoError(t, gap.Close())

		fill(&other, 1, 120*miB)
		require.NoError(t, other.Close())
		fill(&queue, 2, 70*miB)
		_, _ = io.CopyN(io.Discard, struct{ io.Reader }{&queue}, 69*miB)
		tick = make(chan bool)
		go func() { decay(time.Now().Add(2 * idleFor)); close(tick) }()
		queue.Reset()
		_, _ = queue.Write(p)
		<-tick
		require.NoError(t, invariants(&queue))
		require.NoError(t, queue.Close())
	}
}

// TestFailedWriteShowsNothing has the memory that is written from fault.
func TestFailedWriteShowsNothing(t *testing.T) {
	const n = 3 * miB
	at, err := unix.MmapPtr(-1, 0, nil, n, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	defer func() { _ = unix.MunmapPtr(at, n) }()
	p := unsafe.Slice((*byte)(at), n)
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	for name, call := range map[string]func(b *Buffer){
		"Write":       func(b *Buffer) { _, _ = b.Write(p) },
		"WriteString": func(b *Buffer) { _, _ = b.WriteString(unsafe.String(&p[0], n)) },
		"Write, in place": func(b *Buffer) {
			b.Grow(2 * n)
			_, _ = b.Write([]byte("abc"))
			_, _ = b.Write(p[:clearStep-10])
		},
		"File.Write": func(b *Buffer) { _, _ = NewFile(b).Write(p) },
		"WriteAt":    func(b *Buffer) { _, _ = b.WriteAt(p, 10) },
	} {
		noIdle(t)
		var b, other Buffer
		fill(&other, 1, 8*miB)
		require.NoError(t, other.Close())
		func() {
			defer func() { require.NotNil(t, recover(), name) }()
			call(&b)
		}()
		for i, c := range []byte(strings.TrimPrefix(b.String(), "abc")) {
			require.Zero(t, c, "%s: byte %d of %d", name, i, b.Len())
		}
		require.NoError(t, b.Close())
	}
}
