package mmapbuf

import (
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// setUnit replaces pageUnit for the length of a test.
func setUnit(t testing.TB, n int) {
	t.Helper()
	old := pageUnit
	t.Cleanup(func() { pageUnit = old })
	pageUnit = func() int { return n }
}

// procBytes returns a figure of a file in /proc, in bytes, and 0 if there is
// none.
func procBytes(file, key string) int64 {
	s, _ := os.ReadFile("/proc/" + file)
	_, after, ok := strings.Cut(string(s), key+":")
	if !ok {
		return 0
	}
	kB, _ := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	return kB << 10
}

// needMemory skips a test or benchmark for which the machine has less than n
// bytes of free memory, where it tells.
func needMemory(t testing.TB, n int64) {
	t.Helper()
	if free := procBytes("meminfo", "MemAvailable"); free > 0 && free < n {
		t.Skipf("needs %d MiB of free memory, there are %d", n>>20, free>>20)
	}
}

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
	for _, u := range []int{4 * kiB, 16 * kiB, 64 * kiB, 2 * miB, 512 * miB} {
		t.Run(fmt.Sprint(u), func(t *testing.T) {
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
	setUnit(t, 2*miB)
	assert.Equal(t, 2*miB, alignment(2*miB))
	assert.Equal(t, 2*miB, alignment(giB-2*miB))
	assert.Equal(t, giB, alignment(giB))
	assert.Equal(t, giB, alignment(giB+2*miB))
}

func TestRemapPlan(t *testing.T) {
	setUnit(t, 2*miB)
	const m = miB
	tests := []struct {
		name            string
		live, off, c, n int
		drop, want      int
	}{
		{"nothing consumed: double", 64 * m, 0, 64 * m, 1, 0, 128 * m},
		{"a large write: what it needs", 64 * m, 0, 64 * m, 100 * m, 0, 164 * m},
		{"less than a quarter consumed: double", 56 * m, 8 * m, 64 * m, 1, 0, 128 * m},
		{"a quarter consumed: give it back", 48 * m, 16 * m, 64 * m, 1, 16 * m, 64 * m},
		{"only whole pages", 47 * m, 17 * m, 64 * m, 1, 16 * m, 64 * m},
		{"room for more than was consumed", 48 * m, 16 * m, 64 * m, 20 * m, 16 * m, 128 * m},
		{"nearly all consumed", 5 * m, 59 * m, 64 * m, 1, 58 * m, 64 * m},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			drop, want := remapPlan(tt.live, tt.off, tt.c, tt.n)
			assert.Equal(t, tt.drop, drop)
			assert.Equal(t, tt.want, want)
		})
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
