//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// Idle memory and the pace of the collector, as far as it takes a Buffer or a File to
// see them. The rest is tested beside package mapping.

// leaveIdle makes n bytes idle memory, and nothing else.
func leaveIdle(t *testing.T, n int) {
	t.Helper()
	noIdle(t)
	var b Buffer
	fill(&b, 9, n)
	require.NoError(t, b.Close())
}

// TestNobodySeesBytesOfOthers has Buffers that write one value each, and looks at all
// that can be seen of each of them for other values but 0.
func TestNobodySeesBytesOfOthers(t *testing.T) {
	needMemory(t, giB)
	atBothThresholds(t, func(t *testing.T) {
		seed := testSeed(t)
		var wg sync.WaitGroup
		for g := range 3 {
			wg.Go(func() { walkAmongOthers(t, rand.New(rand.NewPCG(seed, uint64(g))), byte(1+g*80)) })
		}
		wg.Wait()
	})
}

// walkAmongOthers does random things with Buffers that write from value on.
func walkAmongOthers(t *testing.T, r *rand.Rand, value byte) {
	fresh := func() (*Buffer, byte, []byte) {
		value = max(value+1, 1)
		return &Buffer{NoHugePages: r.IntN(8) == 0}, value, bytes.Repeat([]byte{value}, 3*miB)
	}
	b, c, p := fresh()
	ok := true
	check := func(seen []byte, op string) {
		own := len(seen) == bytes.Count(seen, []byte{c})+bytes.Count(seen, []byte{0})
		ok = assert.True(t, own, "%s: bytes of another Buffer", op) && ok
	}
	for range byLength(250, 1000, 1000) {
		n := int(float64(len(p)) * r.Float64() * r.Float64())
		switch r.IntN(16) {
		case 0, 1, 2, 3:
			_, _ = b.Write(p[:n])
		case 4:
			view := b.Bytes()
			check(view[:cap(view)], "Bytes")
		case 5:
			view := b.AvailableBuffer()
			check(view[:cap(view)], "AvailableBuffer")
		case 6:
			view := b.Next(n)
			check(view[:cap(view)], "Next")
		case 7, 8:
			left := n
			_, _ = b.ReadFrom(reader(func(q []byte) (int, error) {
				check(q[:cap(q)], "ReadFrom")
				k := copy(q, p[:left])
				if left -= k; k == 0 {
					return 0, io.EOF
				}
				return k, nil
			}))
		case 9:
			_, _ = b.WriteAt(p[:n], int64(b.Len()+r.IntN(miB)))
		case 10:
			_, _ = b.WriteTo(writerFunc(func(q []byte) (int, error) {
				check(q[:cap(q)], "WriteTo")
				return min(n, len(q)), nil
			}))
		case 11:
			_, _ = io.ReadFull(b, p[:min(n, b.Len())])
		case 12:
			b.Truncate(r.IntN(b.Len() + 1))
		case 13:
			b.Shrink()
		case 14:
			b.Reset()
		case 15:
			_ = b.Close()
			b, c, p = fresh()
		}
		b.withContents(func(contents []byte) { check(contents, "contents") })
		if !ok {
			return
		}
		if b.Len() > 12*miB {
			_ = b.Close()
			b, c, p = fresh()
		}
		if r.IntN(100) == 0 {
			mapping.Tick()
		}
	}
	_ = b.Close()
}

// TestIdleMemoryIsNotForAnySize asks for more than there can be, where only idle
// memory is left: the size was rounded to a page.
func TestIdleMemoryIsNotForAnySize(t *testing.T) {
	leaveIdle(t, 8*miB)
	defer mapping.SetBudget(0)()
	var b Buffer
	for _, n := range []int{math.MaxInt, math.MaxInt - vm.Unit(), vm.MaxSize + 1} {
		require.ErrorIs(t, b.Reserve(n), ErrTooLarge, "%d", n)
		require.Zero(t, b.Cap())
	}
	require.NoError(t, b.Reserve(miB))
	require.NotNil(t, b.m)
	require.NoError(t, b.Close())
}

// TestIdleMemoryMakesNoLargeViews: a Buffer of some KiB on idle memory was viewed with
// all of a huge page, and Shrink kept all of it.
func TestIdleMemoryMakesNoLargeViews(t *testing.T) {
	setThreshold(t, miB) // below it idle memory alone makes a mapping
	leaveIdle(t, 10*miB)
	for _, n := range []int{40 * kiB, 100 * kiB, 128 * kiB, 700 * kiB} {
		onIdle := func() *Buffer {
			b := new(Buffer)
			fill(b, 2, n)
			require.NotNil(t, b.m, "no idle memory")
			return b
		}
		view := onIdle().Bytes()
		require.True(t, isFilled(view, 2, 0))
		require.LessOrEqual(t, cap(view), 2*max(n, 128*kiB))

		b := onIdle()
		spare := b.AvailableBuffer()
		require.Equal(t, b.Available(), cap(spare))
		require.LessOrEqual(t, cap(spare), 2*max(n, 128*kiB))

		b = onIdle()
		b.Shrink()
		require.LessOrEqual(t, b.Cap(), 2*n)
		require.True(t, isFilled(b.Bytes(), 2, 0))
	}
}

// TestFailedWriteShowsNothing has the memory that is written from fault.
func TestFailedWriteShowsNothing(t *testing.T) {
	const n = 3 * miB
	at, err := unix.MmapPtr(-1, 0, nil, n, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	defer func() { _ = unix.MunmapPtr(at, n) }()
	p := unsafe.Slice((*byte)(at), n)
	for name, call := range map[string]func(b *Buffer){
		"Write":           func(b *Buffer) { _, _ = b.Write(p) },
		"WriteString":     func(b *Buffer) { _, _ = b.WriteString(unsafe.String(&p[0], n)) },
		"Write, in place": func(b *Buffer) { b.Grow(2 * n); _, _ = b.Write([]byte("abc")); _, _ = b.Write(p[:20*kiB]) },
		"File.Write":      func(b *Buffer) { _, _ = NewFile(b).Write(p) },
		"WriteAt":         func(b *Buffer) { _, _ = b.WriteAt(p, 10) },
	} {
		leaveIdle(t, 8*miB)
		var b Buffer
		require.Error(t, sound(func() { call(&b) }), name)
		got := strings.TrimPrefix(b.String(), "abc")
		require.Equal(t, len(got), strings.Count(got, "\x00"), name)
		require.NoError(t, b.Close())
	}
}

// TestWaitForCollectorHoldsNoLock reads from a Buffer with ReadAt while another
// goroutine, which lengthens it, waits for the collector.
func TestWaitForCollectorHoldsNoLock(t *testing.T) {
	var b Buffer
	_, _ = b.Write(noise())
	release := mapping.HoldCollections(8 * giB) // as if a collection took for ever
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = b.WriteAt(noise(), 20*miB) })
	p := make([]byte, 100)
	for range 100 {
		_, err := b.ReadAt(p, 5)
		require.NoError(t, err)
		runtime.Gosched()
	}
	release()
	wg.Wait()
	require.True(t, bytes.Equal(noise()[5:105], p))
	require.NoError(t, b.Close())
}

// TestPaceOnlyWhereMemoryIsTaken: a write that commits no memory does not look up how
// much there is to collect, which allocates.
func TestPaceOnlyWhereMemoryIsTaken(t *testing.T) {
	noIdle(t)
	beside := filled(t, 6*miB)
	defer beside.Close()
	fill(beside, 1, 64*miB)
	b := &Buffer{MaxLen: giB}
	defer b.Close()
	_, _ = b.Write(noise()[:miB])
	b.Grow(2 * miB)
	f := NewFile(b)
	p, r := noise()[:10], bytes.NewReader(nil)
	_, _ = b.Write(p) // commits what is written below
	var plain io.Reader = struct{ io.Reader }{r}
	for name, call := range map[string]func(){
		"Write":          func() { _, _ = b.Write(p) },
		"WriteByte":      func() { _ = b.WriteByte(1) },
		"WriteRune":      func() { _, _ = b.WriteRune('é') },
		"WriteString":    func() { _, _ = b.WriteString("é") },
		"WriteAt":        func() { _, _ = b.WriteAt(p, int64(b.Len())) },
		"ReadFrom":       func() { r.Reset(p); _, _ = b.ReadFrom(plain) },
		"Reserve":        func() { _ = b.Reserve(10) },
		"Grow":           func() { b.Grow(10) },
		"File.Write":     func() { _, _ = f.Write(p) },
		"File.Truncate":  func() { _ = f.Truncate(f.Size() + 1) },
		"WriteAt inside": func() { _, _ = b.WriteAt(p, 5) },
	} {
		allocs := 0.0
		if name == "ReadFrom" {
			allocs = 1 // the chunk
		}
		assert.Equal(t, allocs, testing.AllocsPerRun(10, call), name)
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
	needMemory(t, giB)
	noIdle(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	debug.FreeOSMemory()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(int64(ms.Sys-ms.HeapReleased) + 200*miB))
	func() { fill(new(Buffer), 1, 60*miB) }() // garbage
	var b Buffer
	defer b.Close()
	b.Grow(giB)
	was, p := mapping.Counters.Collections.Load(), noise()[:64*kiB]
	_, _ = b.ReadFrom(io.LimitReader(reader(func(q []byte) (int, error) { return copy(q, p), nil }), 180*miB))
	require.Greater(t, mapping.Counters.Collections.Load(), was)
	waitFor(t, func() bool { return ReadStats().Mappings == 1 })
}

// TestFilledHolesCount fills holes by appending to what has become shorter, which is
// garbage like any other then.
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
		require.True(t, b.m.Sparse(), name)
		stale := b
		shorten(&b, f)
		require.NoError(t, invariants(&b), name)
		require.PanicsWithValue(t, errStale, func() { _ = stale.String() }, "%s: a copy may have what was given back", name)
		for b.Len() < n {
			writeAllOf(t, &b, noise()[:miB])
		}
		require.NoError(t, invariants(&b), name)
		s := b.m.Inspect()
		assert.LessOrEqual(t, len(s.Touched)*vm.Unit()-int(s.Held), 4*miB, name) // what was not shortened
		assert.GreaterOrEqual(t, s.Held, int64(residentAt(t, uintptr(base(s.Mem)), cap(s.Mem))), name)
		require.NoError(t, b.Close())
	}
}

// TestShorterCopyLosesNothing uses a copy by value that has less contents than the
// Buffer. What is beyond its end is not there for it to clear, or to leave behind.
func TestShorterCopyLosesNothing(t *testing.T) {
	for name, use := range map[string]func(c *Buffer){
		"Bytes":           func(c *Buffer) { c.Bytes() },
		"AvailableBuffer": func(c *Buffer) { c.AvailableBuffer() },
		"ReadFrom":        func(c *Buffer) { _, _ = c.ReadFrom(bytes.NewReader(nil)) },
	} {
		for _, n := range []int{2*miB - 1000, 6*miB - 1000} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				leaveIdle(t, 16*miB)
				var b Buffer
				fill(&b, 1, n)
				c := b
				_, _ = b.WriteString("more")
				use(&c)
				require.True(t, isFilled(contents(&c), 1, 0))
				var got []byte
				err, _ := caught(func() error { got = contents(&b); return nil })
				require.True(t, err == errStale || err == nil && string(got[n:]) == "more", "%v", err)
			})
		}
	}
}
