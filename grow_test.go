package mmapbuf

import (
	"bytes"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// TestBadArgumentsChangeNothing: whatever was asked for in vain, the contents are intact and
// the Buffer goes on working.
func TestBadArgumentsChangeNothing(t *testing.T) {
	ops := []op{truncate(-1), truncate(math.MaxInt), cut(-1), next(-1), peekN(-1), peekN(math.MaxInt)}
	for _, n := range []int{-1, math.MinInt, bits(addressBits), bits(62), math.MaxInt - 1, math.MaxInt} {
		ops = append(ops, growBy(n), reserveBy(n))
	}
	for _, n := range []int{0, 1, 9, 1000} {
		for _, off := range []int64{
			-1, math.MinInt64, 1 << addressBits, 1 << 62, math.MaxInt64 - 100, math.MaxInt64 - 1, math.MaxInt64,
		} {
			ops = append(ops, readAt(n, off), writeAt(make([]byte, n), off))
		}
	}
	for _, n := range []int{0, 100, 3 << 20} {
		for _, published := range []bool{false, true} {
			for _, o := range ops {
				p := newPair("")
				p.run(t, byReadAt, write(noise()[:n]), read(10))
				if published {
					p.run(t, byReadAt, getBytes)
				}
				c := p.got.Cap()
				p.run(t, byReadAt, o)
				require.LessOrEqual(t, p.got.Cap(), c, o.name)
				p.run(t, byReadAt, write([]byte("more")), read(n))
				require.NoError(t, p.finish(), o.name)
			}
		}
	}
}

func TestShrink(t *testing.T) {
	for _, test := range []struct{ n, consumed, spare int }{
		{0, 0, 0},
		{0, 0, 16 << 20},
		{100, 50, 64 << 10}, // a slice
		{100, 0, 16 << 20},
		{100, 60, 16 << 20},
		{100, 100, 16 << 20},
		{3 << 20, 0, 16 << 20},
		{3 << 20, 1<<20 + 1, 16 << 20},
		{3 << 20, 3 << 20, 16 << 20},
		{6 << 20, 4<<20 + 1, 0}, // consumed pages go, too
		{6 << 20, 6<<20 - 100, 0},
	} {
		for _, published := range []bool{false, true} {
			t.Run(fmt.Sprintf("%+v/published=%t", test, published), func(t *testing.T) {
				p := newPair("")
				p.run(t, byString, growBy(test.spare), write(noise()[:test.n]))
				if published {
					p.run(t, byString, getBytes, growBy(test.spare))
				}
				p.run(t, byString, read(test.consumed), readRune)
				most := p.got.Cap() / 2
				p.run(t, byString, shrink, unreadRune, unreadByte)
				if test.n-test.consumed > mapThreshold { // whole pages
					most = max(most, vm.Unit())
				}
				require.LessOrEqual(t, p.got.Cap(), most)
				most = p.got.Cap()
				p.run(t, byString, shrink)
				require.LessOrEqual(t, p.got.Cap(), most, "a second Shrink")
				p.run(t, byString, write(noise()[:2<<20]))
				require.NoError(t, p.finish())
			})
		}
	}
}

func TestClose(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for v := range views {
			p := newPair("")
			for range 3 {
				p.run(t, v, write(noise()[:n]), readByte, closeIt)
				require.Zero(t, p.got.Cap())
				p.run(t, v, unreadByte, readByte, closeIt)
			}
			require.NoError(t, p.finish())
		}
	})
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
