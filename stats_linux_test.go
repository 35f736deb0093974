//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"bytes"
	"math/rand/v2"
	"runtime/pprof"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// TestStatsAgreeWithTheKernel compares the figures with /proc/self/smaps at
// random points of a random run.
func TestStatsAgreeWithTheKernel(t *testing.T) {
	r := rand.New(rand.NewPCG(testSeed(t), 0))
	// Buffers of other tests may still wait for the collector.
	eventually(t, func() bool { return ReadStats().Mappings == 0 })
	start := ReadStats()
	var viewed int64
	bufs := make([]*Buffer, 12)
	for i := range bufs {
		bufs[i] = new(Buffer)
	}
	owns := func(b *Buffer) bool { return b.m != nil && b.current() }
	for step := range 400 {
		b := bufs[r.IntN(len(bufs))]
		switch r.IntN(12) {
		case 0, 1, 2, 3, 4:
			_, _ = b.Write(make([]byte, r.IntN(5*miB)))
		case 5:
			_, _ = b.WriteAt([]byte("x"), r.Int64N(20*miB))
		case 6:
			_, _ = b.Read(make([]byte, r.IntN(8*miB)))
		case 7:
			b.Grow(r.IntN(64 * miB))
		case 8:
			b.Shrink()
		case 9:
			_ = b.Close()
		case 10:
			if owns(b) {
				viewed++
			}
			b.Bytes()
		case 11: // leave one behind
			if owns(b) {
				mem, was := b.m.Inspect().Mem, ReadStats()
				at, n := uintptr(base(mem)), cap(mem)
				*b = Buffer{}
				eventually(t, func() bool { return ReadStats().MappedBytes == was.MappedBytes-int64(n) })
				eventually(t, func() bool { return residentAt(t, at, n) == 0 }) // counted first, then unmapped
			}
		}
		if step%10 > 0 {
			continue
		}
		s := ReadStats()
		var count, sum int64
		for _, b := range bufs {
			if !owns(b) {
				continue
			}
			mem := b.m.Inspect().Mem
			lo, covered := uintptr(base(mem)), 0
			hi := lo + uintptr(cap(mem))
			for _, v := range vmas(t, mem) {
				covered += int(min(v.Hi, hi) - max(v.Lo, lo))
			}
			require.Equal(t, cap(mem), covered)
			count++
			sum += int64(cap(mem))
		}
		require.Equal(t, count, s.Mappings)
		require.Equal(t, sum, s.MappedBytes)
		require.EqualValues(t, count, pprof.Lookup("github.com/mmapbuf/mmapbuf").Count())
		require.Equal(t, viewed, s.Views-start.Views)
		require.True(t, vm.MovesRefused() || mapping.CopiesViews || s.Copies == start.Copies)
	}
	s := ReadStats()
	assert.Positive(t, s.Created-start.Created)
	assert.Positive(t, s.Moves+s.GrowsInPlace-start.Moves-start.GrowsInPlace)
	assert.Positive(t, s.ViewBytes-start.ViewBytes)
	for _, b := range bufs {
		_ = b.Close()
	}
	assert.Zero(t, ReadStats().Mappings)
	assert.Zero(t, ReadStats().MappedBytes)
}

// TestStatsCountEachEvent has each of the figures change for its reason, and for no other.
func TestStatsCountEachEvent(t *testing.T) {
	eventually(t, func() bool { return ReadStats().Mappings == 0 }) // of other tests
	start := ReadStats()
	since := func() Stats {
		s := ReadStats()
		return Stats{Copies: s.Copies - start.Copies, CopiedBytes: s.CopiedBytes - start.CopiedBytes,
			Collected: s.Collected - start.Collected, MaxLenExceeded: s.MaxLenExceeded - start.MaxLenExceeded}
	}

	b, _ := mapped(t, 5*miB)
	held := ReadStats().MappedBytes
	require.GreaterOrEqual(t, ReadStats().PeakMappedBytes, held)
	most := int(start.PeakMappedBytes) + 8*miB
	b.Grow(most)
	peak := ReadStats().PeakMappedBytes
	require.GreaterOrEqual(t, peak, int64(most))
	b.Shrink()
	require.Equal(t, peak, ReadStats().PeakMappedBytes, "what there is now is less")
	require.Zero(t, since())

	func() {
		defer vm.RefuseMoves(vm.MovesRefused())
		vm.RefuseMoves(true)
		split(t, b)
		b.Grow(8 * miB)
		require.Equal(t, Stats{Copies: 1, CopiedBytes: 5 * miB}, since())
		b.Bytes()
		require.Equal(t, Stats{Copies: 2, CopiedBytes: 10 * miB}, since())
	}()
	require.NoError(t, b.Close())

	closed, _ := mapped(t, 3*miB)
	require.NoError(t, closed.Close())
	fill(new(Buffer), 1, 3*miB)
	eventually(t, func() bool { return ReadStats().Mappings == 0 })
	require.Equal(t, Stats{Copies: 2, CopiedBytes: 10 * miB, Collected: 1}, since())

	full := Buffer{MaxLen: 2}
	for name, f := range map[string]func(){
		"Write":         func() { _, _ = full.Write([]byte("abc")) },
		"WriteByte":     func() { _ = full.WriteByte('x') },
		"WriteAt":       func() { _, _ = full.WriteAt([]byte("x"), 2) },
		"Reserve":       func() { _ = full.Reserve(3) },
		"ReadFrom":      func() { _, _ = full.ReadFrom(bytes.NewReader(make([]byte, 3))) },
		"File.Write":    func() { _, _ = NewFile(&full).Write([]byte("abc")) },
		"File.Truncate": func() { _ = NewFile(&full).Truncate(3) },
	} {
		full.Truncate(0)
		_, _ = full.Write([]byte("ab"))
		was := since().MaxLenExceeded
		f()
		require.EqualValues(t, 1, since().MaxLenExceeded-was, name)
	}
}
