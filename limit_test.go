package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
)

// requireUsed fails unless the Limit has that many bytes in use.
func requireUsed(t *testing.T, l *Limit, n int64) {
	t.Helper()
	require.Equal(t, n, l.Used())
}

// requireReturned collects garbage until nothing of the Limit is in use.
func requireReturned(t *testing.T, l *Limit) {
	t.Helper()
	for start := time.Now(); l.Used() > 0 && time.Since(start) < 20*time.Second; time.Sleep(time.Millisecond) {
		runtime.GC()
	}
	requireUsed(t, l, 0)
}

// TestLimitStores: every method that writes stores as much as fits, or nothing where
// MaxLen has it store nothing, and says which Limit.
func TestLimitStores(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer file.Close()
	readFrom := func(b *Buffer, r io.Reader) (int, error) {
		n, err := b.ReadFrom(r)
		return int(n), err
	}
	tests := map[string]struct {
		write func(b *Buffer, p []byte) (int, error)
		all   bool // or nothing
	}{
		"Write":       {(*Buffer).Write, false},
		"WriteString": {func(b *Buffer, p []byte) (int, error) { return b.WriteString(string(p)) }, false},
		"WriteByte": {func(b *Buffer, p []byte) (int, error) {
			for i, c := range p {
				if err := b.WriteByte(c); err != nil {
					return i, err
				}
			}
			return len(p), nil
		}, false},
		"ReadFrom": {func(b *Buffer, p []byte) (int, error) { return readFrom(b, bytes.NewReader(p)) }, false},
		"ReadFrom, small pieces": {func(b *Buffer, p []byte) (int, error) {
			r := bytes.NewReader(p)
			return readFrom(b, reader(func(q []byte) (int, error) { return r.Read(q[:min(len(q), 1000)]) }))
		}, false},
		"ReadFrom a file": {func(b *Buffer, p []byte) (int, error) {
			_ = file.Truncate(int64(len(p)))
			_, _ = file.WriteAt(p, 0)
			_, _ = file.Seek(0, io.SeekStart)
			return readFrom(b, file)
		}, false},
		"File.Write":   {func(b *Buffer, p []byte) (int, error) { return atItsEnd(b).Write(p) }, false},
		"WriteAt":      {func(b *Buffer, p []byte) (int, error) { return b.WriteAt(p, int64(b.Len())) }, true},
		"File.WriteAt": {func(b *Buffer, p []byte) (int, error) { return NewFile(b).WriteAt(p, int64(b.Len())) }, true},
		"Grow": {func(b *Buffer, p []byte) (int, error) {
			err, panicked := caught(func() error { b.Grow(len(p)); return nil })
			if err == nil {
				return b.Write(p)
			}
			require.True(t, panicked)
			require.ErrorIs(t, err, ErrTooLarge)
			return 0, b.Reserve(len(p))
		}, true},
	}
	for name, tt := range tests {
		for _, limit := range []int{0, 1, 100, 1000, 100 * kiB, miB, 3*miB + 5, 6 * miB, 20 * miB} {
			for _, before := range []int{0, 50, 90 * kiB, 2*miB + 1} {
				if before > limit/2 || testing.Short() && limit > 6*miB {
					continue
				}
				t.Run(fmt.Sprintf("%s/%d/%d", name, limit, before), func(t *testing.T) {
					l := NewLimit(int64(limit))
					b := &Buffer{Limit: l}
					defer b.Close()
					fill(b, 1, before)
					require.Equal(t, before, b.Len())
					require.GreaterOrEqual(t, l.Used(), int64(before))
					p := noise()[:min(2*limit+1, len(noise()))]
					want := contents(b)
					var err error
					for err == nil { // noise is shorter than some limits
						var n int
						n, err = tt.write(b, p)
						want = append(want, p[:n]...)
						require.LessOrEqual(t, l.Used(), l.Max())
						require.NoError(t, invariants(b))
					}
					require.ErrorIs(t, err, ErrTooLarge)
					require.ErrorContains(t, err, "Limit of "+sizeString(limit))
					require.True(t, isFilled(want[:before], 1, 0))
					requireContents(t, b, want)
					if !tt.all {
						most := limit
						if b.m != nil {
							most = limit / (2 * miB) * 2 * miB
						}
						require.GreaterOrEqual(t, b.Len(), most-MinRead, "less than what fits")
					}
					require.NoError(t, b.Close())
					requireUsed(t, l, 0)
					writeAllOf(t, b, p[:min(limit/2, len(p))])
				})
			}
		}
	}
}

// TestLimitCountsStorage: what is counted follows the storage.
func TestLimitCountsStorage(t *testing.T) {
	l := NewLimit(64 * miB)
	b := &Buffer{Limit: l}
	_, _ = b.WriteString("x")
	requireUsed(t, l, int64(b.Cap()))
	fill(b, 1, 100*kiB)
	requireUsed(t, l, int64(b.Cap()))
	if !mapping.Available() {
		require.NoError(t, b.Close())
		requireUsed(t, l, 0)
		return
	}
	fill(b, 2, 5*miB)
	requireUsed(t, l, 6*miB)
	b.Grow(20 * miB)
	requireUsed(t, l, 26*miB)
	b.Shrink()
	requireUsed(t, l, 6*miB)
	v := b.Bytes()
	requireUsed(t, l, 6*miB)
	_, _ = b.WriteString("x") // adopts, and has room
	requireUsed(t, l, 6*miB)
	require.LessOrEqual(t, int64(cap(v)), l.Used())
	c := *b // a move by value counts once
	requireUsed(t, l, 6*miB)
	require.NoError(t, c.Close())
	requireUsed(t, l, 0)

	var d Buffer // a Limit applies from the next growth on
	fill(&d, 1, 5*miB)
	d.Limit = l
	requireUsed(t, l, 0)
	fill(&d, 2, 5*miB)
	requireUsed(t, l, 10*miB)
	other := NewLimit(4 * miB)
	d.Limit = other
	_, err := d.Write(noise()[:3*miB])
	require.ErrorIs(t, err, ErrTooLarge)
	requireUsed(t, other, 0)
	requireUsed(t, l, 10*miB) // still
	require.Equal(t, 10*miB, d.Len())
	d.Limit = nil
	fill(&d, 3, 9*miB)
	requireUsed(t, l, 0)
	require.NoError(t, d.Close())
}

// TestLimitCollectsGarbage: what unreachable Buffers have is available again.
func TestLimitCollectsGarbage(t *testing.T) {
	for _, n := range []int{100 * kiB, 3 * miB} {
		l := NewLimit(16 * int64(n))
		for i := range 100 {
			_, err := (&Buffer{Limit: l}).Write(noise()[:n])
			require.NoError(t, err, "%d", i)
			require.LessOrEqual(t, l.Used(), l.Max())
		}
		requireReturned(t, l)
	}
}

// TestLimitCollectsOnceForAll: goroutines that are refused at the same time collect
// once, not one after the other.
func TestLimitCollectsOnceForAll(t *testing.T) {
	const n = 8
	l := NewLimit(1000)
	full := &Buffer{Limit: l}
	_, err := full.Write(noise()[:1000])
	require.NoError(t, err)
	l.collecting.Lock() // as a goroutine that collects has it
	was := l.begun.Add(1)
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			_, err := (&Buffer{Limit: l}).WriteString("x")
			assert.ErrorIs(t, err, ErrTooLarge)
		})
	}
	stacks := make([]byte, miB)
	for start := time.Now(); time.Since(start) < 20*time.Second; time.Sleep(time.Millisecond) {
		waiting := 0
		for _, s := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(s, "[sync.Mutex.Lock") && strings.Contains(s, "(*Limit).collect(") {
				waiting++
			}
		}
		if waiting == n {
			break
		}
	}
	l.collecting.Unlock()
	wg.Wait()
	require.EqualValues(t, was+1, l.begun.Load())
	require.NoError(t, full.Close())
	requireUsed(t, l, 0)
}

// TestLimitOfManyBuffers has goroutines do random things with Buffers of a Limit.
func TestLimitOfManyBuffers(t *testing.T) {
	needMemory(t, giB)
	for _, limit := range []int{miB, 40 * miB, 200 * miB} {
		t.Run(sizeString(limit), func(t *testing.T) {
			atBothThresholds(t, func(t *testing.T) {
				l := NewLimit(int64(limit))
				seed := testSeed(t)
				end := time.Now().Add(byLength[time.Duration](200, 300, 2000) * time.Millisecond)
				var wg sync.WaitGroup
				var stored atomic.Bool
				for g := range 6 {
					wg.Go(func() {
						if limitWalk(t, l, rand.New(rand.NewPCG(seed, uint64(g))), end) {
							stored.Store(true)
						}
					})
				}
				for time.Now().Before(end) {
					if used := l.Used(); used > l.Max() || used < 0 {
						t.Errorf("%d of %d used", used, l.Max())
						break
					}
					runtime.Gosched()
				}
				wg.Wait()
				require.True(t, stored.Load())
				requireReturned(t, l)
			})
		})
	}
}

// limitWalk does random things with Buffers of l, and reports whether it has stored
// anything.
func limitWalk(t *testing.T, l *Limit, r *rand.Rand, end time.Time) (stored bool) {
	b := &Buffer{Limit: l}
	for time.Now().Before(end) {
		n := min(r.IntN(int(l.Max())/4), len(noise()))
		var err error
		switch r.IntN(12) {
		case 0, 1, 2, 3:
			_, err = b.Write(noise()[:n])
			stored = stored || b.Len() > 0
		case 4:
			_, err = b.WriteAt(noise()[:n/2], int64(b.Len()+r.IntN(n+1)/2))
		case 5:
			err = b.Reserve(n)
		case 6:
			assert.Len(t, b.Bytes(), b.Len())
		case 7:
			_, _ = io.ReadFull(b, make([]byte, r.IntN(b.Len()+1)))
		case 8:
			b.Shrink()
		case 9:
			b.Reset()
		case 10:
			_ = b.Close()
		case 11: // left to the collector
			b = &Buffer{Limit: l}
		}
		assert.True(t, err == nil || errors.Is(err, ErrTooLarge), "%v", err)
		assert.NoError(t, invariants(b))
	}
	assert.NoError(t, b.Close())
	return stored
}

// TestLimitsOfTenants: one Limit does not concern another, and nil none. The zero Limit
// is one of 0 bytes.
func TestLimitsOfTenants(t *testing.T) {
	text := strings.Repeat("x", 5000)
	for _, tt := range []struct {
		l *Limit
		n int
	}{{NewLimit(100), 100}, {NewLimit(10 * kiB), 5000}, {nil, 5000}, {new(Limit), 0}, {NewLimit(-5), 0}} {
		b := &Buffer{Limit: tt.l}
		defer b.Close() // all are in use at the same time
		n, err := b.WriteString(text)
		require.Equal(t, tt.n, n)
		require.Equal(t, tt.n < 5000, errors.Is(err, ErrTooLarge))
		switch tt.n {
		case 0:
			require.Zero(t, tt.l.Max())
		case 100:
			require.EqualError(t, err, "mmapbuf: 0 bytes and 5000 more exceed the Limit of 100 B, of which 0 B are used")
			require.EqualValues(t, 100, tt.l.Used())
			require.EqualValues(t, 100, tt.l.Max())
		}
	}
}

// TestLimitSetOnAMapping: a Limit that is set later bounds what ReadFrom, and a view,
// use of room that was there before.
func TestLimitSetOnAMapping(t *testing.T) {
	if !mapping.Available() {
		t.Skip("no mappings here")
	}
	endless := func() io.Reader { return io.LimitReader(loop, 64*miB) }

	// The Limit refuses, and then the contents become shorter.
	var b Buffer
	defer b.Close()
	fill(&b, 1, 10*miB)
	b.Limit = NewLimit(4 * miB)
	_, err := b.Write(noise())
	require.ErrorIs(t, err, ErrTooLarge)
	b.Truncate(3 * miB)
	n, err := b.ReadFrom(endless())
	require.ErrorIs(t, err, ErrTooLarge)
	require.Equal(t, 3*miB+int(n), b.Len())
	require.NoError(t, b.Close())

	// Room was reserved before.
	b.Limit = nil
	b.Grow(80 * miB)
	writeAllOf(t, &b, "text")
	b.Limit = NewLimit(miB)
	n, err = b.ReadFrom(endless())
	require.ErrorIs(t, err, ErrTooLarge)
	require.Equal(t, 4+int(n), b.Len())
	require.LessOrEqual(t, b.Len(), 4*miB)
	require.LessOrEqual(t, cap(b.Bytes()), 4*miB)
	require.LessOrEqual(t, cap(b.AvailableBuffer()), 4*miB)
	require.LessOrEqual(t, b.Limit.Used(), int64(miB))
}

// TestLimitAfterAFailure: what was charged for memory that the system has refused is
// returned.
func TestLimitAfterAFailure(t *testing.T) {
	l := NewLimit(1 << 62)
	b := &Buffer{Limit: l}
	defer b.Close()
	for _, size := range []int{0, 100, 10 * miB} {
		fill(b, 1, size-b.Len())
		was := l.Used()
		require.ErrorIs(t, b.Reserve(bits(47)), ErrTooLarge)
		require.LessOrEqual(t, l.Used(), max(was, int64(b.Cap())))
	}
}

// TestLimitFallsWithTheFront: the consumed prefix is returned as it is unmapped.
func TestLimitFallsWithTheFront(t *testing.T) {
	if !mapping.Available() {
		t.Skip("no mappings here")
	}
	needMemory(t, giB)
	l := NewLimit(giB)
	b := &Buffer{Limit: l}
	defer b.Close()
	fill(b, 1, 200*miB)
	used := l.Used()
	_, err := io.CopyN(io.Discard, struct{ io.Reader }{b}, 150*miB)
	require.NoError(t, err)
	require.LessOrEqual(t, l.Used(), used-64*miB)
	require.NoError(t, invariants(b))
}

// TestLimitCollectsSeldom: refusals, one after the other, do not run a collection each,
// if little is found.
func TestLimitCollectsSeldom(t *testing.T) {
	l := NewLimit(2 * miB)
	full := &Buffer{Limit: l}
	full.Grow(miB)
	defer full.Close()
	before, refusals := l.begun.Load(), 0
	for start := time.Now(); time.Since(start) < 200*time.Millisecond; refusals++ {
		b := &Buffer{Limit: l}
		_ = b.WriteByte('x') // a little garbage
		require.ErrorIs(t, b.Reserve(2*miB), ErrTooLarge)
	}
	require.Greater(t, refusals, 100)
	require.Less(t, l.begun.Load()-before, int64(refusals/10))
}

// A bubble of testing/synctest has a clock of its own.
func TestLimitInBubble(t *testing.T) {
	l := NewLimit(miB)
	drop := func() error {
		b := &Buffer{Limit: l}
		_, err := b.Write(noise()[:600*kiB])
		return err
	}
	refuse := func() {
		held := Buffer{Limit: l}
		defer held.Close()
		writeAllOf(t, &held, noise()[:900*kiB])
		_, err := held.Write(noise()[:200*kiB]) // collects, and finds little
		require.ErrorIs(t, err, ErrTooLarge)
	}
	collects := func(when string) {
		t.Helper()
		require.NoError(t, drop(), when)
		require.NoError(t, drop(), when)
	}
	refuse()
	time.Sleep(pauseMax)
	synctest.Test(t, func(t *testing.T) { collects("the bubble's clock is behind") })
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(100 * 365 * 24 * time.Hour)
		refuse()
	})
	time.Sleep(pauseMax)
	collects("the bubble's clock was ahead")
}
