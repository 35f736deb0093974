//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"io"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fresh has the pacer start as in a new process.
func fresh(t *testing.T) {
	t.Helper()
	eventually(t, func() bool { return ReadStats().Mappings == 0 })
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	require.Zero(t, pacer.held)
	pacer.least, pacer.peak, pacer.proven = 0, 0, 0
	pacer.sinceLast.Store(0)
	pacer.falling, pacer.found, pacer.garbage = false, false, false
}

// forced returns how many collections f has the package start.
func forced(f func()) int64 {
	was := stats.collections.Load()
	f()
	return stats.collections.Load() - was
}

// TestClosedBuffersForceNoCollection closes all that it fills, in waves.
func TestClosedBuffersForceNoCollection(t *testing.T) {
	needMemory(t, 3*giB)
	chunk := randomBytes(1, miB)
	wave := func(count, n int) {
		bufs := make([]Buffer, count)
		for i := range bufs {
			for bufs[i].Len() < n {
				_, _ = bufs[i].Write(chunk)
			}
		}
		for i := range bufs {
			require.NoError(t, bufs[i].Close())
		}
	}
	t.Run("one at a time", func(t *testing.T) {
		fresh(t)
		require.Zero(t, forced(func() {
			for range byLength(3, 3, 10) {
				wave(1, 512*miB)
			}
		}))
	})
	t.Run("several", func(t *testing.T) {
		fresh(t)
		require.LessOrEqual(t, forced(func() { wave(10, 64*miB) }), int64(2), "the first wave may be garbage")
		require.Zero(t, forced(func() {
			for range byLength(3, 3, 9) {
				wave(10, 64*miB)
			}
		}))
	})
	t.Run("GOGC=off", func(t *testing.T) {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		fresh(t)
		require.Zero(t, forced(func() {
			for range 3 {
				wave(10, 64*miB)
			}
		}))
	})
	t.Run("a reservation", func(t *testing.T) {
		fresh(t)
		require.Zero(t, forced(func() {
			var b Buffer
			b.Grow(64 * giB)
			for range 100 {
				_, _ = b.Write(chunk)
				_, err := b.WriteAt([]byte("x"), int64(b.Len()))
				require.NoError(t, err)
			}
			require.NoError(t, b.Close())
		}))
	})
}

// TestGarbageIsCollected drops Buffers that nobody closes, where nothing else
// calls for the collector.
func TestGarbageIsCollected(t *testing.T) {
	needMemory(t, 3*giB)
	tests := map[string]struct {
		n, count, most int
		fill           func(b *Buffer, n int)
	}{
		"2 MiB": {2 * miB, 2000, 640 * miB, func(b *Buffer, n int) { _, _ = b.Write(noise()[:n]) }},
		// Room that was reserved is filled by writes that grow nothing.
		"64 MiB, reserved": {64 * miB, 40, 768 * miB, func(b *Buffer, n int) {
			b.Grow(n)
			for b.Len() < n {
				_, _ = b.Write(noise()[:4*kiB])
			}
		}},
		// Blocks in any order: the first leaves a gap for the others.
		"64 MiB, backwards": {64 * miB, 40, 768 * miB, func(b *Buffer, n int) {
			for n -= miB; n >= 0; n -= miB {
				_, _ = b.WriteAt(noise()[:miB], int64(n))
			}
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			fresh(t)
			was, most := settled(t).rss, 0
			require.Positive(t, forced(func() {
				for i := range tt.count / byLength(2, 2, 1) {
					tt.fill(new(Buffer), tt.n)
					if i%8 == 0 {
						most = max(most, status(t, "VmRSS")-was)
					}
				}
			}))
			t.Logf("at most %s resident", sizeString(most))
			assert.LessOrEqual(t, most, tt.most)
		})
	}
}

// TestMemoryLimitCountsMappings: the collector runs before what is mapped and
// the heap together reach the memory limit, also where GOGC is off.
func TestMemoryLimitCountsMappings(t *testing.T) {
	needMemory(t, 2*giB)
	fresh(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	limit := int64(ms.Sys-ms.HeapReleased) + 200*miB
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	was, most := settled(t).rss, 0
	for range 300 {
		_, _ = new(Buffer).Write(noise()[:4*miB])
		most = max(most, status(t, "VmRSS")-was)
	}
	assert.LessOrEqual(t, most, 320*miB)
}

// TestWaitForCollectorHoldsNoLock reads from one Buffer with ReadAt while another
// goroutine lengthens it and garbage has piled up: lengthening must not hold the
// lock while it waits for the collector.
func TestWaitForCollectorHoldsNoLock(t *testing.T) {
	fresh(t)
	foundGarbage()
	var b Buffer
	_, _ = b.Write(noise())
	pacer.collecting.Lock() // as if a collection took forever
	pacer.mu.Lock()
	pacer.held += 8 * giB
	pacer.sinceLast.Add(8 * giB)
	pacer.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = b.WriteAt(noise(), 20*miB) })
	p := make([]byte, 100)
	for range 100 {
		_, err := b.ReadAt(p, 5)
		require.NoError(t, err)
		runtime.Gosched()
	}
	pacer.mu.Lock()
	pacer.held -= 8 * giB
	pacer.sinceLast.Add(-8 * giB)
	pacer.mu.Unlock()
	pacer.collecting.Unlock()
	wg.Wait()
	require.True(t, bytes.Equal(noise()[5:105], p))
	_ = b.Close()
}

// TestSlowCollectorNearTheLimit has the first collection take long, as it
// seems to where processors are scarce. Near the limit of memory nobody may go on
// meanwhile.
func TestSlowCollectorNearTheLimit(t *testing.T) {
	noRace(t)
	needMemory(t, 2*giB)
	fresh(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	limit := int64(ms.Sys-ms.HeapReleased) + 200*miB
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	pacer.collecting.Lock()
	time.AfterFunc(500*time.Millisecond, pacer.collecting.Unlock)
	was, most := settled(t).rss, 0
	for range 200 {
		_, _ = new(Buffer).Write(noise()[:4*miB])
		most = max(most, status(t, "VmRSS")-was)
	}
	require.LessOrEqual(t, most, 320*miB)
}

// TestPaceOnlyWhereMemoryIsTaken: a write that commits no memory does not look
// up how much there is to collect, which allocates.
func TestPaceOnlyWhereMemoryIsTaken(t *testing.T) {
	fresh(t)
	beside := new(Buffer)
	defer beside.Close()
	fill(beside, 1, 64*miB)
	require.Greater(t, pacer.sinceLast.Load(), int64(collectMin))
	b := &Buffer{MaxLen: giB}
	defer b.Close()
	_, _ = b.Write(noise()[:miB])
	b.Grow(2 * miB)
	f := NewFile(b)
	p, r := noise()[:10], bytes.NewReader(nil)
	var plain io.Reader = struct{ io.Reader }{r}
	for _, test := range []struct {
		name string
		call func()
	}{
		{"Write", func() { _, _ = b.Write(p) }},
		{"WriteByte", func() { _ = b.WriteByte(1) }},
		{"WriteRune", func() { _, _ = b.WriteRune('é') }},
		{"WriteString", func() { _, _ = b.WriteString("é") }},
		{"WriteAt the end", func() { _, _ = b.WriteAt(p, int64(b.Len())) }},
		{"ReadFrom", func() { r.Reset(p); _, _ = b.ReadFrom(plain) }},
		{"Reserve", func() { _ = b.Reserve(10) }},
		{"Grow", func() { b.Grow(10) }},
		{"File.Write", func() { _, _ = f.Write(p) }},
		{"File.Truncate", func() { _ = f.Truncate(f.Size() + 1) }},
	} {
		allocs := 0.0
		if test.name == "ReadFrom" {
			allocs = 1 // the chunk
		}
		assert.Equal(t, allocs, testing.AllocsPerRun(10, test.call), test.name)
	}
	if mapThreshold > 2*kiB && !raceEnabled {
		assert.LessOrEqual(t, testing.AllocsPerRun(10, func() {
			var small Buffer
			for range kiB {
				_ = small.WriteByte(1)
			}
		}), 5.0, "slices of 64 bytes to 1 KiB")
	}
}

// TestReadFromPaces: a Reader of small pieces takes memory as well.
func TestReadFromPaces(t *testing.T) {
	needMemory(t, 2*giB)
	fresh(t)
	noIdle(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	runtime.GC()
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(readHeap().total + heldBytes() + 300*miB))
	func() { fill(new(Buffer), 1, 100*miB) }() // garbage
	var b Buffer
	defer b.Close()
	b.Grow(giB)
	p := noise()[:64*kiB]
	require.Positive(t, forced(func() {
		_, _ = b.ReadFrom(io.LimitReader(reader(func(q []byte) (int, error) { return copy(q, p), nil }), 280*miB))
	}))
	eventually(t, func() bool { return ReadStats().Mappings == 1 })
}

// holeBytes returns the size of the holes of b.
func holeBytes(b *Buffer) int { return len(b.m.touched)*pageUnit() - int(b.m.held.Load()) }

// TestFilledHolesCount fills holes by appending to what has become shorter, which
// is garbage like any other then.
func TestFilledHolesCount(t *testing.T) {
	const n = 32 * miB
	for name, shorten := range map[string]func(b *Buffer, f *File){
		"Reset":         func(b *Buffer, f *File) { b.Reset() },
		"Truncate":      func(b *Buffer, f *File) { b.Truncate(5 * miB) },
		"File.Truncate": func(b *Buffer, f *File) { require.NoError(t, f.Truncate(3*miB)) },
		"Read":          func(b *Buffer, f *File) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{b}) },
		"WriteTo":       func(b *Buffer, f *File) { _, _ = b.WriteTo(io.Discard) },
		"sliding": func(b *Buffer, f *File) {
			_, _ = io.CopyN(io.Discard, struct{ io.Reader }{b}, n-3*miB)
			b.Grow(n/2 - 4*miB)
			require.Zero(t, b.off)
		},
	} {
		var b Buffer
		f := NewFile(&b)
		require.NoError(t, f.Truncate(n), name)
		require.True(t, b.m.sparse.Load(), name)
		shorten(&b, f)
		require.NoError(t, invariants(&b), name)
		for b.Len() < n {
			writeAllOf(t, &b, noise()[:miB])
		}
		require.NoError(t, invariants(&b), name)
		assert.LessOrEqual(t, holeBytes(&b), 4*miB, name) // what was not shortened
		assert.GreaterOrEqual(t, b.m.held.Load(), int64(residentAt(t, uintptr(base(b.m.mem)), cap(b.m.mem))), name)
		require.NoError(t, b.Close())
	}
}

// TestHolesBeforeTheEndStay shortens a Buffer that has holes elsewhere only,
// which returns no memory to the kernel, so that what is written next is warm.
func TestHolesBeforeTheEndStay(t *testing.T) {
	var b Buffer
	defer b.Close()
	require.NoError(t, NewFile(&b).Truncate(8*miB))
	holes := holeBytes(&b)
	require.NotZero(t, holes)
	writeAllOf(t, &b, noise()[:4*miB])
	gen, committed := b.gen, b.m.committed
	b.Truncate(10 * miB)
	assert.Equal(t, gen, b.gen)
	assert.Equal(t, committed, b.m.committed)
	assert.Equal(t, holes, holeBytes(&b))
	require.NoError(t, invariants(&b))
	b.Truncate(miB)
	assert.LessOrEqual(t, b.m.committed, 2*miB, "what is beyond the contents is not committed")
	require.NoError(t, invariants(&b))
}

// TestHolesOfAConsumedPrefix reads through a hole, as a queue would, and then has
// the prefix unmapped, or moved.
func TestHolesOfAConsumedPrefix(t *testing.T) {
	const n, read = 200 * miB, 100 * miB
	for _, more := range []int{miB, 40 * miB, 400 * miB} {
		var b Buffer
		require.NoError(t, NewFile(&b).Truncate(n))
		writeAllOf(t, &b, "end")
		_, err := io.CopyN(io.Discard, struct{ io.Reader }{&b}, read)
		require.NoError(t, err)
		require.NoError(t, invariants(&b))
		b.Grow(b.Available() + more)
		require.NoError(t, invariants(&b))
		require.Greater(t, holeBytes(&b), n-read-4*miB)
		fill(&b, 1, more)
		require.NoError(t, invariants(&b))
		got := contents(&b)
		require.Equal(t, n-read, bytes.Count(got[:n-read], []byte{0}))
		require.Equal(t, "end", string(got[n-read:n-read+3]))
		require.True(t, isFilled(got[n-read+3:], 1, 0))
		require.NoError(t, b.Close())
	}
}

// TestCopyOfAShortenedSparseBuffer: what a Buffer with holes gives back when it
// becomes shorter, a copy of it may have: that copy is stale.
func TestCopyOfAShortenedSparseBuffer(t *testing.T) {
	var b Buffer
	defer b.Close()
	require.NoError(t, NewFile(&b).Truncate(32*miB))
	writeAllOf(t, &b, "end")
	c := b
	b.Truncate(5 * miB)
	require.PanicsWithValue(t, errStale, func() { _ = c.String() })
}
