package vm

import (
	"fmt"
	"math"
	"strconv"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// units are sizes of pages and huge pages that there are.
var units = []int{4 * KiB, 16 * KiB, 64 * KiB, 2 * MiB, 32 * MiB, 512 * MiB}

func setUnit(t testing.TB, n int) {
	t.Helper()
	old := Unit
	t.Cleanup(func() { Unit = old })
	Unit = func() int { return n }
}

func TestChooseUnit(t *testing.T) {
	tests := []struct {
		name       string
		page, huge int
		unit       int
		advise     bool
	}{
		{"x86-64", 4 * KiB, 2 * MiB, 2 * MiB, true},
		{"no huge pages", 4 * KiB, 0, 2 * MiB, false},
		{"arm64, 16 KiB pages", 16 * KiB, 32 * MiB, 2 * MiB, false},
		{"arm64, 64 KiB pages", 64 * KiB, 512 * MiB, 2 * MiB, false},
		{"s390x", 4 * KiB, 1 * MiB, 1 * MiB, true},
		{"sparc64, for its 8 KiB pages", 8 * KiB, 8 * MiB, 2 * MiB, false},
		{"a page larger than the unit", 4 * MiB, 0, 4 * MiB, false},
		{"a page larger than the huge page", 64 * KiB, 4 * KiB, 2 * MiB, false},
		{"the largest that is sensible", 4 * KiB, 4 * MiB, 4 * MiB, true},
		{"no larger than the page", 4 * KiB, 4 * KiB, 4 * KiB, true},
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
		t.Run(fmt.Sprint(u), func(t *testing.T) {
			setUnit(t, u)
			for _, k := range []int{0, 1, 2, 3} {
				for _, d := range []int{-1, 0, 1} {
					n := k*u + d
					if n < 0 || n > math.MaxInt&^(u-1) {
						continue
					}
					up, ok := Round(n)
					assert.True(t, ok)
					assert.Equal(t, max((n+u-1)/u*u, u), up, "up %d", n)
					assert.Equal(t, n/u*u, Floor(n), "down %d", n)
				}
			}
			last := math.MaxInt &^ (u - 1) // the last multiple of u
			up, ok := Round(last)
			assert.True(t, ok)
			assert.Equal(t, last, up, "the last")
			for _, n := range []int{last + 1, math.MaxInt - 1, math.MaxInt, -1, math.MinInt} {
				_, ok := Round(n)
				assert.False(t, ok, "%d", n)
			}
		})
	}
}

// TestRoundingAtEdges takes rounding to where it turns or ends.
func TestRoundingAtEdges(t *testing.T) {
	for _, u := range units {
		setUnit(t, u)
		for k := range strconv.IntSize {
			for d := -1; d <= 1; d++ {
				checkRounding(t, max(0, math.MaxInt>>k+min(d, k)))
			}
		}
	}
}

func TestAlignment(t *testing.T) {
	for _, u := range units {
		t.Run(fmt.Sprint(u), func(t *testing.T) {
			setUnit(t, u)
			assert.Equal(t, u, alignment(u))
			assert.Equal(t, u, alignment(GiB-u))
			assert.Equal(t, GiB, alignment(GiB))
			assert.Equal(t, GiB, alignment(GiB+u))
		})
	}
}

func checkRounding(t *testing.T, n int) {
	t.Helper()
	u := Unit()
	down := Floor(n)
	require.True(t, down%u == 0 && down <= n && n-down < u, "Floor(%d) = %d", n, down)
	up, ok := Round(n)
	if !ok {
		require.Greater(t, n, math.MaxInt-u, "Round")
		return
	}
	require.True(t, up%u == 0 && up >= n && (up-n < u || n == 0 && up == u), "Round(%d) = %d", n, up)
	at := alignment(n)
	require.True(t, at%u == 0 && at&(at-1) == 0 && at <= max(u, GiB), "alignment(%d) = %d", n, at)
}

// TestAnyUnit has pages and huge pages of all sizes.
func TestAnyUnit(t *testing.T) {
	for page := 12; page <= 30; page++ {
		checkUnit(t, 1<<page, 0)
		for huge := 12; huge <= 30; huge++ {
			checkUnit(t, 1<<page, 1<<huge)
		}
	}
}

func checkUnit(t *testing.T, page, huge int) {
	t.Helper()
	unit, advise := chooseUnit(page, huge)
	require.True(t, unit%page == 0 && unit&(unit-1) == 0 && unit <= max(page, 4*MiB), "chooseUnit(%d, %d) = %d", page, huge, unit)
	require.True(t, !advise || unit == huge, "chooseUnit(%d, %d): %d, %t", page, huge, unit, advise)
}

func TestRegionIsASlice(t *testing.T) {
	require.Equal(t, unsafe.Sizeof([]byte(nil)), unsafe.Sizeof(Region{}))
	p := make([]byte, 3, 5)
	var r Region
	r.Set(p)
	require.Equal(t, Region{unsafe.Pointer(&p[0]), 3, 5}, r)
	q := r.Slice()
	require.True(t, &p[0] == &q[0] && len(q) == 3 && cap(q) == 5)
	r.Set(nil)
	require.Equal(t, Region{}, r)
	require.Nil(t, r.Slice())
}
