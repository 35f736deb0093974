package mmapbuf

import (
	"bytes"
	"io"
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// TestBadArgumentsChangeNothing: whatever was asked for in vain, the contents are intact and
// the Buffer goes on working.
func TestBadArgumentsChangeNothing(t *testing.T) {
	const (
		negative = "bytes.Buffer.Grow: negative count"
		outside  = "bytes.Buffer: truncation out of range"
	)
	// More than any address space: there may be 1<<47 elsewhere.
	huge := uint(56)
	if runtime.GOARCH == "amd64" {
		huge = 47
	}
	growth := func(n int) func(b *Buffer) error { return func(b *Buffer) error { b.Grow(n); return nil } }
	truncation := func(n int) func(b *Buffer) error { return func(b *Buffer) error { b.Truncate(n); return nil } }
	reservation := func(n int) func(b *Buffer) error { return func(b *Buffer) error { return b.Reserve(n) } }
	writingAt := func(n int, off int64) func(b *Buffer) error {
		return func(b *Buffer) error { _, err := b.WriteAt(make([]byte, n), off); return err }
	}
	readingAt := func(n int, off int64) func(b *Buffer) error {
		return func(b *Buffer) error { _, err := b.ReadAt(make([]byte, n), off); return err }
	}
	tests := []struct {
		name   string
		do     func(b *Buffer) error
		panics bool
		text   string // if not empty, the error's
		is     error  // if not nil, what the error is
	}{
		{"Grow(-1)", growth(-1), true, negative, nil},
		{"Grow(MinInt)", growth(math.MinInt), true, negative, nil},
		{"Grow(1<<47)", growth(bits(huge)), true, "", ErrTooLarge},
		{"Grow(1<<62)", growth(bits(62)), true, "", ErrTooLarge},
		{"Grow(MaxInt-1)", growth(math.MaxInt - 1), true, "", ErrTooLarge},
		{"Grow(MaxInt)", growth(math.MaxInt), true, ErrTooLarge.Error(), ErrTooLarge},
		{"Truncate(-1)", truncation(-1), true, outside, nil},
		{"Truncate(Len+1)", func(b *Buffer) error { b.Truncate(b.Len() + 1); return nil }, true, outside, nil},
		{"Truncate(MaxInt)", truncation(math.MaxInt), true, outside, nil},
		{"Next(-1)", func(b *Buffer) error { b.Next(-1); return nil }, true, "", nil},
		{"Peek(-1)", func(b *Buffer) error { peek(b, -1); return nil }, true, "", nil},
		{"Reserve(-1)", reservation(-1), false, "", nil},
		{"Reserve(MinInt)", reservation(math.MinInt), false, "", nil},
		{"Reserve(1<<47)", reservation(bits(huge)), false, "", ErrTooLarge},
		{"Reserve(1<<62)", reservation(bits(62)), false, "", ErrTooLarge},
		{"Reserve(MaxInt)", reservation(math.MaxInt), false, "", ErrTooLarge},
		{"ReadAt(-1)", readingAt(1, -1), false, "", nil},
		{"ReadAt(MinInt64)", readingAt(1, math.MinInt64), false, "", nil},
		{"ReadAt of nothing (-1)", readingAt(0, -1), false, "", nil},
		{"ReadAt(MaxInt64)", readingAt(1, math.MaxInt64), false, "EOF", io.EOF},
		{"ReadAt(MaxInt64-1)", readingAt(9, math.MaxInt64-1), false, "EOF", io.EOF},
		{"WriteAt(-1)", writingAt(1, -1), false, "", nil},
		{"WriteAt(MinInt64)", writingAt(1, math.MinInt64), false, "", nil},
		{"WriteAt of nothing (-1)", writingAt(0, -1), false, "", nil},
		{"WriteAt(1<<47)", writingAt(1, int64(bits(huge))), false, "", ErrTooLarge},
		{"WriteAt(1<<62)", writingAt(1, 1<<62), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64)", writingAt(1, math.MaxInt64), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64-1)", writingAt(1, math.MaxInt64-1), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64-1) of 9", writingAt(9, math.MaxInt64-1), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64-100) of 1000", writingAt(1000, math.MaxInt64-100), false, "", ErrTooLarge},
	}
	atSizes(t, func(t *testing.T, n int) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				for _, published := range []bool{false, true} {
					b := filled(t, n)
					b.Read(make([]byte, 10))
					want := noise()[10:n]
					if published {
						b.Bytes()
					}
					err, panicked := caught(func() error { return test.do(b) })
					require.Error(t, err)
					require.Equal(t, test.panics, panicked, "panic: %v", err)
					if test.text != "" {
						require.EqualError(t, err, test.text)
					}
					if test.is != nil {
						require.ErrorIs(t, err, test.is)
					} else {
						require.NotErrorIs(t, err, ErrTooLarge)
					}

					requireContents(t, b, want)
					writeAllOf(t, b, "more")
					requireContents(t, b, append(bytes.Clone(want), "more"...))
					p := make([]byte, n)
					m, err := b.Read(p)
					require.NoError(t, err)
					require.NoError(t, diffBytes(p[:m], append(bytes.Clone(want), "more"...)[:m]))
					b.Close()
				}
			})
		}
	})
}

// TestGrowTooLargeOfZeroBuffer: with nothing to keep, the panic is the same.
func TestGrowTooLargeOfZeroBuffer(t *testing.T) {
	for _, n := range []int{bits(62), math.MaxInt} {
		var b Buffer
		err, panicked := caught(func() error { b.Grow(n); return nil })
		require.ErrorIs(t, err, ErrTooLarge)
		require.True(t, panicked)
		require.ErrorIs(t, reserve(&b, n), ErrTooLarge)
		assert.Zero(t, b.Cap())
		writeAllOf(t, &b, "usable")
		require.Equal(t, "usable", b.String())
	}
}

func TestReserve(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for _, more := range []int{0, 1, 100, 1 << 20, 5 << 20} {
			for _, consumed := range []int{0, n / 2, n} {
				b := filled(t, n)
				b.Read(make([]byte, consumed))
				require.NoError(t, b.Reserve(more))
				require.GreaterOrEqual(t, b.Available(), more)
				require.GreaterOrEqual(t, b.Cap(), b.Len()+more)
				requireContents(t, b, noise()[consumed:n])
				c := b.Cap()
				writeAllOf(t, b, noise()[:more])
				require.Equal(t, c, b.Cap(), "Write(%d) after Reserve", more)
				requireContents(t, b, append(bytes.Clone(noise()[consumed:n]), noise()[:more]...))
				b.Close()
			}
		}
	})
	var b Buffer
	require.NoError(t, b.Reserve(0))
	require.NoError(t, b.Reserve(10))
	require.GreaterOrEqual(t, b.Available(), 10)
	require.Zero(t, b.Len())
}

func TestShrink(t *testing.T) {
	const spare = 64 << 20
	for _, test := range []struct {
		name    string
		n, read int
		view    bool
	}{
		{"never used", 0, 0, false},
		{"small", 100, 0, false},
		{"small, part read", 100, 60, false},
		{"all read", 100, 100, false},
		{"large", 3 << 20, 0, false},
		{"large, part read", 3 << 20, 1<<20 + 1, false},
		{"large, all read", 3 << 20, 3 << 20, false},
		{"published", 3 << 20, 5, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := new(Buffer)
			b.Grow(spare)
			writeAllOf(t, b, noise()[:test.n])
			b.Read(make([]byte, test.read))
			want := noise()[test.read:test.n]
			var view []byte
			if test.view {
				view = b.Bytes()
				b.Grow(spare)
			}
			before := b.Cap()
			b.Shrink()
			requireContents(t, b, want)
			require.LessOrEqual(t, b.Cap(), before/2)
			c := b.Cap()
			b.Shrink()
			require.LessOrEqual(t, b.Cap(), c, "a second Shrink")
			requireContents(t, b, want)

			writeAllOf(t, b, noise()[:2<<20])
			requireContents(t, b, append(bytes.Clone(want), noise()[:2<<20]...))
			require.NoError(t, diffBytes(view, want[:len(view)]), "the view")
			b.Close()
		})
	}
}

// TestShrinkDropsReadPrefix: what has been read goes too, and cannot be unread.
func TestShrinkDropsReadPrefix(t *testing.T) {
	b := new(Buffer)
	for range 12 {
		writeAllOf(t, b, noise()[:4<<20])
	}
	b.Next(48<<20 - 100)
	b.ReadRune()
	want := contents(b)
	before := b.Cap()
	b.Shrink()
	require.Less(t, b.Cap(), before/2)
	require.Error(t, b.UnreadRune())
	require.Error(t, b.UnreadByte())
	requireContents(t, b, want)
}

func TestShrinkSlice(t *testing.T) {
	b := NewBuffer(make([]byte, 0, 64<<10))
	writeAllOf(t, b, noise()[:100])
	b.Next(50)
	b.Shrink()
	requireContents(t, b, noise()[50:100])
	if mapThreshold > 64<<10 { // a mapping has a least size
		require.Less(t, b.Cap(), 1<<10)
	}
	b = new(Buffer)
	b.Shrink()
	require.Zero(t, b.Cap())
}

func TestClose(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for _, published := range []bool{false, true} {
			b := filled(t, n)
			b.ReadByte()
			var view []byte
			if published {
				view = b.Bytes()
			}
			for range 3 {
				require.NoError(t, b.Close())
				require.Zero(t, b.Len())
				require.Zero(t, b.Cap())
				require.Zero(t, b.Available())
				require.Empty(t, b.String())
				require.Empty(t, b.Bytes())
				require.Error(t, b.UnreadByte())
				_, err := b.ReadByte()
				require.Equal(t, io.EOF, err)
				require.NoError(t, b.Close(), "idempotent")

				writeAllOf(t, b, noise()[5:n])
				requireContents(t, b, noise()[5:n], "used after Close")
			}
			require.NoError(t, diffBytes(view, noise()[1:][:len(view)]), "the view")
			b.Close()
		}
	})
	require.NoError(t, new(Buffer).Close())
	require.NoError(t, NewBufferString("abc").Close())
}

// TestNoHugePages: only the pages differ.
func TestNoHugePages(t *testing.T) {
	b := &Buffer{NoHugePages: true}
	for i := range 10 {
		writeAllOf(t, b, noise()[i<<19:(i+1)<<19])
	}
	requireContents(t, b, noise()[:10<<19])
	require.NoError(t, diffBytes(b.Bytes(), noise()[:10<<19]))
	require.NoError(t, b.Close())
}

// TestGrowZeroAllocatesNothing: Grow(0) of a zero Buffer allocates nothing.
func TestGrowZeroAllocatesNothing(t *testing.T) {
	var b Buffer
	b.Grow(0)
	require.NoError(t, b.Reserve(0))
	require.Zero(t, b.Cap())
	require.Nil(t, b.Bytes())
}

// TestUnreadRuneAcrossAPage: growth drops consumed pages, the first byte of the
// rune perhaps among them. It is then not unread at all.
func TestUnreadRuneAcrossAPage(t *testing.T) {
	for back := range 4 {
		var got Buffer
		data := bytes.Repeat([]byte("x"), 2<<20-back)
		data = append(data, "€ and more"...)
		_, _ = got.Write(data)
		_, _ = got.Read(make([]byte, 2<<20-back))
		r, _, err := got.ReadRune()
		require.NoError(t, err)
		require.Equal(t, '€', r)
		got.Grow(64 << 20)
		_ = got.UnreadRune()
		require.Contains(t, []string{" and more", "€ and more"}, got.String())
	}
}

// units are sizes of pages and huge pages that there are.
var units = []int{4 * kiB, 16 * kiB, 64 * kiB, 2 * miB, 32 * miB, 512 * miB}

func TestRemapPlan(t *testing.T) {
	// In units.
	tests := []struct {
		name            string
		live, off, c, n float64
		drop, want      float64
	}{
		{"nothing consumed: double", 32, 0, 32, 0.1, 0, 64},
		{"a large write: what it needs", 32, 0, 32, 50, 0, 82},
		{"less than a quarter consumed: double", 28, 4, 32, 0.1, 0, 64},
		{"a quarter consumed: give it back", 24, 8, 32, 0.1, 8, 32},
		{"only whole pages", 23.5, 8.5, 32, 0.1, 8, 32},
		{"no whole page", 1.5, 0.5, 2, 0.1, 0, 4},
		{"room for more than was consumed", 24, 8, 32, 10, 8, 64},
		{"nearly all consumed", 2.5, 29.5, 32, 0.1, 29, 32},
		{"all consumed", 0, 32, 32, 1, 32, 32},
	}
	for _, u := range units {
		t.Run(sizeString(u), func(t *testing.T) {
			setUnit(t, u)
			of := func(x float64) int { return int(x * float64(u)) }
			for _, tt := range tests {
				if tt.want*float64(u) > math.MaxInt {
					continue
				}
				drop, want := remapPlan(of(tt.live), of(tt.off), of(tt.c), of(tt.n))
				assert.Equal(t, of(tt.drop), drop, "%s: dropped", tt.name)
				assert.Equal(t, of(tt.want), want, "%s: wanted", tt.name)
			}
		})
	}
}

// imagine returns a Buffer of sizes that no machine has, for arithmetic alone.
func imagine(off, end, c int) *Buffer {
	b := &Buffer{off: off}
	b.buf.Len, b.buf.Cap = end, c
	return b
}

// An edge is a number near a power of two, near the largest int, or any, told
// by x.
func edge(x int64) int {
	near, any := math.MaxInt>>(x&63), int(x>>16&math.MaxInt)
	switch d := int(int8(x >> 8)); {
	case x>>6&3 == 3:
		return any
	case d > 0 && near > math.MaxInt-d:
		return math.MaxInt
	default:
		return max(near+d, 0)
	}
}

// TestGrowthAtEdges takes the arithmetic of growth to where it turns or ends.
func TestGrowthAtEdges(t *testing.T) {
	for _, u := range units {
		t.Run(sizeString(u), func(t *testing.T) {
			setUnit(t, u)
			for _, size := range []int{u, 2 * u, 31 * u, vm.Floor(math.MaxInt / 3), vm.MaxSize} {
				if size < u || size > vm.MaxSize {
					continue // 32 bits
				}
				for _, end := range []int{size, size - 1, size - u, size / 2, 0} {
					for _, off := range []int{0, 1, u - 1, u, end / 5, end - 1, end} {
						if off < 0 || off > end {
							continue
						}
						most := math.MaxInt - 2*size // that grow allows
						for _, n := range []int{size - end + 1, size - end + u, size, most - 1, most} {
							if n <= size-end || n > most {
								continue
							}
							for _, bound := range []int{0, 1, end - off, end, size, size + n, math.MaxInt - 1, math.MaxInt} {
								checkBounds(t, off, end, size, n, max(bound, 0))
								checkRemap(t, off, end, size, n, max(bound, 0))
							}
						}
					}
				}
			}
		})
	}
}

// FuzzGrowth looks for sizes with which the arithmetic of growth asks for too
// little, overflows, or gives live bytes away.
func FuzzGrowth(f *testing.F) {
	f.Add(uint8(3), int64(0), int64(0), int64(0), int64(0), int64(0))
	f.Fuzz(func(t *testing.T, unit uint8, a, b, c, d, e int64) {
		setUnit(t, units[int(unit)%len(units)])
		// A full mapping, as grow hands it to remap.
		size := vm.Floor(min(edge(a), vm.MaxSize))
		end := size - min(edge(b)>>1, size)
		off := min(edge(c), end)
		n, most := edge(d), edge(e)
		if n <= size-end || size > math.MaxInt-size-n {
			return
		}
		checkBounds(t, off, end, size, n, most)
		checkRemap(t, off, end, size, n, most)
	})
}

// checkBounds checks what MaxLen, most, makes of capacities.
func checkBounds(t *testing.T, off, end, size, n, most int) {
	t.Helper()
	b := imagine(off, end, size)
	require.Equal(t, math.MaxInt, b.roomToMax(), "without a bound")
	for _, c := range []int{end + n, size + n, max(2*(size-off), end+n), math.MaxInt} {
		b.MaxLen = 0
		require.Equal(t, c, b.limitToMaxLen(c, n))
		b.MaxLen = most
		got := b.limitToMaxLen(c, n)
		require.True(t, end+n <= got && got <= c, "bounded(%d, %d) = %d", c, n, got)
		if most > 0 {
			fill := max(most, b.Len()+n)
			require.LessOrEqual(t, got-off, fill, "bounded(%d, %d)", c, n)
			require.True(t, got == c || got-off == fill, "bounded(%d, %d) = %d", c, n, got)
		}
	}
	room := b.roomToMax()
	require.True(t, room >= 0 && (most <= 0 || b.Len() > most || b.Len()+room == most), "roomToMax() = %d", room)
}

// checkRemap goes the way of remap, with a mapping that does not exist.
func checkRemap(t *testing.T, off, end, size, n, most int) {
	t.Helper()
	live := end - off
	drop, want := remapPlan(live, off, size, n)
	require.True(t, 0 <= drop && drop <= off && drop%vm.Unit() == 0, "drop %d of %d consumed", drop, off)
	require.True(t, drop == 0 || drop >= live/4, "drop %d for %d", drop, live)
	need := end - drop + n
	require.True(t, want >= need && want <= max(2*size, need), "want %d for %d", want, need)
	require.True(t, drop > 0 || want >= 2*size, "not doubled: %d of %d", want, size)

	b := imagine(off-drop, end-drop, size-drop)
	b.MaxLen = most
	c := b.limitToMaxLen(want, n)
	require.True(t, need <= c && c <= want, "bounded(%d, %d) = %d, need %d", want, n, c, need)
	large, least, ok := roundCapacities(c, need)
	if _, fits := vm.Round(need); !fits {
		require.False(t, ok)
		return
	}
	require.True(t, ok)
	for _, n := range []int{large, least} {
		require.True(t, n%vm.Unit() == 0 && n >= need && n > b.Cap(), "%d for %d, beyond %d", n, need, b.Cap())
	}
	require.Less(t, least-need, vm.Unit(), "not the least that does")
	if up, ok := vm.Round(c); ok {
		require.Equal(t, max(up, least), large, "not what was wanted")
	}
}

func TestSizeString(t *testing.T) {
	for n, want := range map[int]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB",
		2 * miB: "2 MiB", giB: "1 GiB", math.MaxInt32: "2 GiB",
	} {
		assert.Equal(t, want, sizeString(n))
	}
}
