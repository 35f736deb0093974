//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

func TestPeakMemoryIsPayload(t *testing.T) {
	size := byLength(256*miB, 256*miB, giB)
	needMemory(t, 2*int64(size))
	if !inChild(t) {
		return
	}
	chunk := randomBytes(3, 64*kiB)
	debug.FreeOSMemory()
	base := status(t, "VmRSS")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var b Buffer
	for b.Len() < size {
		_, _ = b.Write(chunk)
	}
	runtime.ReadMemStats(&after)
	peak := status(t, "VmHWM") - base
	t.Logf("peak %s above the start for %s", sizeString(peak), sizeString(size))
	slack := 8 * miB
	if raceEnabled { // the detector's shadow of the slices
		slack = 32 * miB
	}
	assert.LessOrEqual(t, peak, size/100*101+slack)
	if mapThreshold >= miB && !raceEnabled { // the slices on the way there; the detector's are twice as large
		garbage := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s allocated on the Go heap", sizeString(int(garbage)))
		assert.LessOrEqual(t, garbage, uint64(3*miB))
	}
	assert.NoError(t, b.Close())
	time.Sleep(2 * idleFor) // rather than to ask again and again, which takes memory as well
	assert.Less(t, status(t, "VmRSS")-base, 8*miB+slack, "after Close")
}

func TestQueueMemoryFollowsItsBacklog(t *testing.T) {
	if raceEnabled {
		t.Skip("there is one goroutine, and the race detector takes its time")
	}
	const backlog = 128 * miB
	needMemory(t, 4*backlog)
	for _, step := range []int{64 * kiB, 3 * miB} {
		t.Run(sizeString(step), func(t *testing.T) {
			var b Buffer
			defer b.Close()
			chunk := randomBytes(4, step)
			for b.Len() < backlog {
				_, _ = b.Write(chunk)
			}
			most := 0
			for i := range byLength(2, 2, 4) * backlog / step {
				_, _ = b.Write(chunk)
				_, err := io.ReadFull(&b, chunk)
				require.NoError(t, err)
				if i%(8*miB/step+1) == 0 {
					most = max(most, vmas(t, b.m.Inspect().Mem)[0].rss)
				}
			}
			assert.LessOrEqual(t, most, backlog*5/4+64*miB)
			// and all of it goes when it is drained
			_, err := io.ReadFull(&b, make([]byte, b.Len()-miB))
			require.NoError(t, err)
			assert.Less(t, vmas(t, b.m.Inspect().Mem)[0].rss, 80*miB)
		})
	}
}

// A line that ends beyond a step gives back what lies before it, not itself.
func TestReadBytesGivesMemoryBack(t *testing.T) {
	const size, lines = 5*miB + 3, 12
	needMemory(t, giB/2)
	line := bytes.ReplaceAll(randomBytes(12, size), []byte("\n"), []byte(" "))
	line[size-1] = '\n'
	var b Buffer
	defer b.Close()
	for i := range lines {
		line[i] = 'x'
		_, _ = b.Write(line)
		line[i] = 'y'
	}
	for i := range lines {
		got, err := b.ReadBytes('\n')
		require.NoError(t, err)
		require.Len(t, got, size)
		require.Equal(t, byte('x'), got[i], "line %d", i)
		require.True(t, bytes.Equal(line[lines:], got[lines:]), "line %d", i)
	}
	require.Zero(t, b.Len())
	require.NotNil(t, b.m)
	assert.LessOrEqual(t, residentAt(t, uintptr(base(b.m.Inspect().Mem)), len(b.m.Inspect().Mem)), 3*discardStep)
}

func TestSparseWriteAtTouchesNothing(t *testing.T) {
	var b Buffer
	defer b.Close()
	n, err := b.WriteAt([]byte("end"), 8*giB)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, 8*giB+3, b.Len())
	require.Less(t, vmas(t, b.m.Inspect().Mem)[0].rss, 8*miB)
	p := make([]byte, 5)
	_, err = b.ReadAt(p, 8*giB-2)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00end", string(p))
}

func TestMemoryIsGivenBack(t *testing.T) {
	const size = 64 * miB
	needMemory(t, giB)
	ways := map[string]func(t *testing.T){
		"Close": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			require.NoError(t, b.Close())
		},
		"Shrink": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			_, _ = io.CopyN(io.Discard, &b, size-miB)
			b.Shrink()
			require.LessOrEqual(t, b.Cap(), 2*vm.Unit())
			t.Cleanup(func() { require.True(t, isFilled(b.Bytes(), 1, size-miB)) })
		},
		"Shrink of spare": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Truncate(100)
			b.Shrink()
			t.Cleanup(func() { require.True(t, isFilled(b.Bytes(), 1, 0)) })
		},
		"unreachable": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
		},
		"view": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Bytes()
		},
		"view, Close": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Bytes()
			require.NoError(t, b.Close())
		},
		"view, growth, view": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size/2)
			b.Bytes()
			fill(&b, 1, size)
			b.Bytes()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			was := settled(t)
			for range 4 { // 256 MiB, if it stayed
				way(t)
			}
			requireBackTo(t, was)
		})
	}
	t.Run("Close, without a collection", func(t *testing.T) {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		was := settled(t)
		var b Buffer
		fill(&b, 1, size)
		require.NoError(t, b.Close())
		waitFor(t, func() bool {
			return (raceEnabled || status(t, "VmRSS") < was.rss+16*miB) && mapCount(t) <= was.maps+8
		})
	})
}

func TestManyUnclosedBuffersAreCollected(t *testing.T) {
	const size = 2 * miB
	data := pattern(3, size)
	// Writing by small steps leaves slices of up to mapThreshold
	// behind, which call for the collector; one Write, or Grow, leaves
	// nothing, and nobody does.
	makers := []struct {
		name string
		make func(i int) bool
	}{
		{"half of them viewed", func(i int) bool {
			var b Buffer
			fill(&b, i, size)
			return i%2 == 0 || isFilled(b.Bytes()[size-100:], i, size-100)
		}},
		{"nothing else allocates", func(int) bool {
			var b Buffer
			n, _ := b.Write(data)
			return n == size
		}},
	}
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			n, limit := 600, 2*giB
			if testing.Short() {
				n = 200
			}
			if *soak > 0 {
				n, limit = 10_000, 4*giB
				needMemory(t, 8*giB)
			}
			needMemory(t, int64(limit))
			was := settled(t)
			most := 0
			for i := range n {
				require.True(t, m.make(i))
				if i%50 == 0 {
					most = max(most, status(t, "VmRSS")-was.rss)
					require.LessOrEqual(t, most, limit, "memory ran away after %d Buffers", i)
				}
			}
			t.Logf("%d Buffers of %s: at most %s resident", n, sizeString(size), sizeString(most))
			requireBackTo(t, was)
		})
	}
}

// TestBlockedFinalizerKeepsNoMemory: a finalizer of the program that never returns keeps no
// memory of Buffers.
func TestBlockedFinalizerKeepsNoMemory(t *testing.T) {
	if !inChild(t) {
		return
	}
	needMemory(t, 4*giB)
	block, running := make(chan int), make(chan int)
	func() {
		x := new([32]int)
		runtime.SetFinalizer(x, func(*[32]int) { close(running); <-block })
	}()
	runtime.GC()
	<-running
	was := settled(t)
	for seed := range 30 {
		var b Buffer
		fill(&b, seed, 64*miB)
		b.Bytes()
		if seed%2 == 0 {
			_ = b.Close()
		}
	}
	requireWithin(t, was, footprint{maps: 128, data: giB, rss: 64 * miB})
	close(block)
}

// TestReservationOutlivesSmallWrites writes little after Grow.
func TestReservationOutlivesSmallWrites(t *testing.T) {
	for _, n := range []int{1, smallSize, smallSize + 1} {
		var b Buffer
		b.Grow(64 * miB)
		require.NotNil(t, b.m)
		was := ReadStats()
		_, _ = b.Write(noise()[:n])
		require.GreaterOrEqual(t, b.Available(), 63*miB)
		_, _ = b.WriteAt(noise()[:n], 0)
		require.NoError(t, b.Close())
		require.Equal(t, was.Mappings-1, ReadStats().Mappings, "a mapping was left to the collector")
	}
}

// TestHolesStaySmall writes 1 % of a File of 4 GiB, at random: a few bytes made a
// huge page resident. What is written in order gets huge pages even there.
func TestHolesStaySmall(t *testing.T) {
	needHugePages(t)
	const size, block, blocks = 4 * giB, 16 * kiB, 2600
	needMemory(t, giB)
	var b Buffer
	defer b.Close()
	f := NewFile(&b)
	require.NoError(t, f.Truncate(size))
	random := rand.New(rand.NewPCG(1, 2))
	for range blocks {
		_, err := f.WriteAt(noise()[:block], random.Int64N(size/block)*block)
		require.NoError(t, err)
	}
	vs := vmas(t, b.m.Inspect().Mem)
	require.Len(t, vs, 1)
	require.Contains(t, vs[0].flags, " nh ", "huge pages are enabled")
	assert.LessOrEqual(t, vs[0].rss, blocks*block*3/2)
	require.GreaterOrEqual(t, b.m.Inspect().Held, int64(vs[0].rss))

	writes := []func(off int){
		func(off int) { _, _ = f.WriteAt(noise()[:block], int64(off)) },
		func(off int) { _, _ = f.Seek(int64(off), io.SeekStart); _, _ = f.Write(noise()[:block]) },
		func(int) { _, _ = b.Write(noise()[:block]) }, // at the end
	}
	if vm.Populate(b.m.Inspect().Mem[:vm.Unit()]) != nil {
		writes = nil // before Linux 5.14, there is no way
	}
	for i, write := range writes {
		require.NoError(t, b.Close())
		require.NoError(t, f.Truncate(64*miB))
		was := vmas(t, b.m.Inspect().Mem)[0].huge
		for off := miB; off < 33*miB; off += block {
			write(off)
		}
		assert.GreaterOrEqual(t, vmas(t, b.m.Inspect().Mem)[0].huge-was, 24*miB, "written in order, %d", i)
		vs := vmas(t, b.m.Inspect().Mem)
		require.Len(t, vs, 1)
		require.Contains(t, vs[0].flags, " nh ", "huge pages are still enabled")
		require.NoError(t, invariants(&b))
	}

	// Each write of a few bytes far out takes a page.
	var far Buffer
	defer far.Close()
	for i := range 40 {
		_, err := far.WriteAt([]byte{1}, int64(i)*65*miB)
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, vmas(t, far.m.Inspect().Mem)[0].rss, 3*miB) // the first one gets a huge page

	// Without holes, all is as before.
	for off := 0; off < b.Len(); off += block {
		_, err := b.WriteAt([]byte{1}, int64(off))
		require.NoError(t, err)
	}
	require.NotContains(t, vmas(t, b.m.Inspect().Mem)[0].flags, " nh ", "huge pages are still disabled")
}
