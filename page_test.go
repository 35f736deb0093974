package mmapbuf

import (
	"math"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// units are sizes of pages and huge pages that there are.
var units = []int{4 * kiB, 16 * kiB, 64 * kiB, 2 * miB, 32 * miB, 512 * miB}

func TestChooseUnit(t *testing.T) {
	tests := []struct {
		name       string
		page, huge int
		unit       int
		advise     bool
	}{
		{"x86-64", 4 * kiB, 2 * miB, 2 * miB, true},
		{"no huge pages", 4 * kiB, 0, 2 * miB, false},
		{"arm64, 16 KiB pages", 16 * kiB, 32 * miB, 2 * miB, false},
		{"arm64, 64 KiB pages", 64 * kiB, 512 * miB, 2 * miB, false},
		{"s390x", 4 * kiB, 1 * miB, 1 * miB, true},
		{"sparc64, for its 8 KiB pages", 8 * kiB, 8 * miB, 2 * miB, false},
		{"a page larger than the unit", 4 * miB, 0, 4 * miB, false},
		{"a page larger than the huge page", 64 * kiB, 4 * kiB, 2 * miB, false},
		{"the largest that is sensible", 4 * kiB, 4 * miB, 4 * miB, true},
		{"no larger than the page", 4 * kiB, 4 * kiB, 4 * kiB, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			unit, advise := chooseUnit(tt.page, tt.huge)
			assert.Equal(t, tt.unit, unit)
			assert.Equal(t, tt.advise, advise)
		})
	}
}

func TestPageRounding(t *testing.T) {
	for _, u := range units {
		t.Run(sizeString(u), func(t *testing.T) {
			setUnit(t, u)
			for _, k := range []int{0, 1, 2, 3} {
				for _, d := range []int{-1, 0, 1} {
					n := k*u + d
					if n < 0 || n > math.MaxInt&^(u-1) {
						continue
					}
					up, ok := pageRound(n)
					assert.True(t, ok)
					assert.Equal(t, max((n+u-1)/u*u, u), up, "up %d", n)
					assert.Equal(t, n/u*u, pageFloor(n), "down %d", n)
				}
			}
			last := math.MaxInt &^ (u - 1) // the last multiple of u
			up, ok := pageRound(last)
			assert.True(t, ok)
			assert.Equal(t, last, up, "the last")
			for _, n := range []int{last + 1, math.MaxInt - 1, math.MaxInt, -1, math.MinInt} {
				_, ok := pageRound(n)
				assert.False(t, ok, "%d", n)
			}
		})
	}
}

func TestAlignment(t *testing.T) {
	for _, u := range units {
		t.Run(sizeString(u), func(t *testing.T) {
			setUnit(t, u)
			assert.Equal(t, u, alignment(u))
			assert.Equal(t, u, alignment(giB-u))
			assert.Equal(t, giB, alignment(giB))
			assert.Equal(t, giB, alignment(giB+u))
		})
	}
}

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
	b.buf.len, b.buf.cap = end, c
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
			for _, size := range []int{u, 2 * u, 31 * u, pageFloor(math.MaxInt / 3), maxSlice} {
				if size < u || size > maxSlice {
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
			for k := range strconv.IntSize {
				for d := -1; d <= 1; d++ {
					checkRounding(t, max(0, math.MaxInt>>k+min(d, k)))
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
		checkRounding(t, edge(a))
		checkUnit(t, 1<<(10+a&15), 1<<(b&31))

		// A full mapping, as grow hands it to remap.
		size := pageFloor(min(edge(a), maxSlice))
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

func checkRounding(t *testing.T, n int) {
	t.Helper()
	u := pageUnit()
	down := pageFloor(n)
	require.True(t, down%u == 0 && down <= n && n-down < u, "pageFloor(%d) = %d", n, down)
	up, ok := pageRound(n)
	if !ok {
		require.Greater(t, n, math.MaxInt-u, "pageRound")
		return
	}
	require.True(t, up%u == 0 && up >= n && (up-n < u || n == 0 && up == u), "pageRound(%d) = %d", n, up)
	at := alignment(n)
	require.True(t, at%u == 0 && at&(at-1) == 0 && at <= max(u, giB), "alignment(%d) = %d", n, at)
}

func checkUnit(t *testing.T, page, huge int) {
	t.Helper()
	unit, advise := chooseUnit(page, huge)
	require.True(t, unit%page == 0 && unit&(unit-1) == 0 && unit <= max(page, 4*miB), "chooseUnit(%d, %d) = %d", page, huge, unit)
	require.True(t, !advise || unit == huge, "chooseUnit(%d, %d): %d, %t", page, huge, unit, advise)
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
	require.True(t, 0 <= drop && drop <= off && drop%pageUnit() == 0, "drop %d of %d consumed", drop, off)
	require.True(t, drop == 0 || drop >= live/4, "drop %d for %d", drop, live)
	need := end - drop + n
	require.True(t, want >= need && want <= max(2*size, need), "want %d for %d", want, need)
	require.True(t, drop > 0 || want >= 2*size, "not doubled: %d of %d", want, size)

	b := imagine(off-drop, end-drop, size-drop)
	b.MaxLen = most
	c := b.limitToMaxLen(want, n)
	require.True(t, need <= c && c <= want, "bounded(%d, %d) = %d, need %d", want, n, c, need)
	var tried []int
	err := tryCapacities(c, need, func(c int) error { tried = append(tried, c); return errTest })
	least, ok := pageRound(need)
	if !ok {
		require.ErrorIs(t, err, ErrTooLarge)
		require.Empty(t, tried)
		return
	}
	require.ErrorIs(t, err, errTest)
	require.LessOrEqual(t, len(tried), 2)
	require.Equal(t, least, tried[len(tried)-1], "not the least that does")
	for _, c := range tried {
		require.True(t, c%pageUnit() == 0 && c >= need && c > b.Cap(), "%d for %d, beyond %d", c, need, b.Cap())
	}
	if up, ok := pageRound(c); ok {
		require.Equal(t, up, tried[0], "not what was wanted")
	}
	first := 0
	require.NoError(t, tryCapacities(c, need, func(c int) error { first = c; return nil }))
	require.Equal(t, tried[0], first)
}

func TestSizeString(t *testing.T) {
	for n, want := range map[int]string{
		0: "0 B", 1: "1 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB",
		2 * miB: "2 MiB", giB: "1 GiB", math.MaxInt32: "2 GiB",
	} {
		assert.Equal(t, want, sizeString(n))
	}
}
