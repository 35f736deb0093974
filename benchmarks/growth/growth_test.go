package main

import (
	"bytes"
	"math"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func TestMain(m *testing.M) {
	measure.Serve(fill)
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	for args, work := range map[string]string{
		"-size 8MiB":          "8 MiB (8388608 bytes) in writes of 64 KiB; runs of each, in turn: 2\n",
		"-size 8400953 -cold": "(8400953 bytes) in writes of 64 KiB", // the last write is shorter
		"-size 100":           "100 B (100 bytes) in writes of 100 B",
	} {
		t.Run(args, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, run(t.Context(), append(strings.Fields(args), "-runs", "2"), &out))
			assert.Contains(t, out.String(), work)
			for _, kind := range buffers.Kinds {
				for _, columns := range []string{"4", "3"} {
					assert.Regexp(t, `(?m)^\| `+regexp.QuoteMeta(kind.Name)+` +(\|[^|]*){`+columns+`}\|$`, out.String())
				}
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	for args, says := range map[string]string{
		"-size lots":                         `invalid value "lots" for flag -size`,
		"-write -5":                          "not a number of bytes",
		"-implementations rope":              `-implementations: "rope" is none of bytes.Buffer,append,mmapbuf.Buffer,make`,
		"-thp sometimes":                     `-thp: "sometimes" is none of always,madvise,never`,
		"-size 100TiB":                       "100 TiB with bytes.Buffer may need 400 TiB of memory",
		"-size 100TiB -implementations make": "100 TiB with make may need 100 TiB of memory",
	} {
		if measure.Available() == 0 && strings.Contains(says, "may need") {
			continue // memory is not known on this system
		}
		assert.ErrorContains(t, run(t.Context(), strings.Fields(args), &bytes.Buffer{}), says, args)
	}
}

// The figures of a child are in proportion to its work.
func TestFill(t *testing.T) {
	const size = 32 << 20
	for _, kind := range buffers.Kinds {
		got, err := measure.Run[outcome](t.Context(), job{kind.Name, size, 64 << 10, 2 * size})
		require.NoError(t, err, kind.Name)
		assert.GreaterOrEqual(t, got.Elapsed, got.Longest, kind.Name)
		if runtime.GOOS == "linux" {
			assert.Greater(t, got.Peak, int64(size*3/4), kind.Name)
			assert.Less(t, got.Peak, int64(size*20), kind.Name)
			assert.Positive(t, got.Faults, kind.Name)
		}
		switch kind.Name {
		case "bytes.Buffer", "append":
			assert.Greater(t, got.Copied, int64(size/2), kind.Name)
		case "mmapbuf.Buffer":
			if runtime.GOOS == "linux" && math.MaxInt == math.MaxInt64 {
				assert.Less(t, got.Copied, int64(size/4), kind.Name)
			}
		default:
			assert.Zero(t, got.Copied, kind.Name)
		}
	}
}

func TestCheck(t *testing.T) {
	assert.NoError(t, check([]byte("abcabca"), []byte("abc"), 7))
	assert.ErrorContains(t, check([]byte("abcabc"), []byte("abc"), 7), "6 bytes of 7")
	assert.ErrorContains(t, check([]byte("abcabx"), []byte("abc"), 6), "does not hold what was written")
}

// fake returns results of kinds with these milliseconds for each run.
func fake(ms ...[]float64) (results []result) {
	for i, list := range ms {
		r := result{Kind: buffers.Kinds[i]}
		for _, x := range list {
			var o outcome
			o.Elapsed, o.Longest = time.Duration(x*1e6), time.Millisecond
			r.runs = append(r.runs, o)
		}
		results = append(results, r)
	}
	return results
}

// A difference is a difference only where no two runs of the kinds contradict it.
func TestTimeTable(t *testing.T) {
	rows := timeTable(fake([]float64{100, 80, 120}, []float64{118, 150, 130}, []float64{10, 8, 79}))
	assert.Equal(t, [][]string{
		{"bytes.Buffer", "100 ms (80.0..120)", "1.00 ms", "1×"},
		{"append", "130 ms (118..150)", "1.00 ms", "within the spread"},
		{"mmapbuf.Buffer", "10.0 ms (8.00..79.0)", "1.00 ms", "10× (1.0..15)"},
	}, rows[1:])
	rows = timeTable(fake([]float64{100}, []float64{1}))
	assert.Equal(t, []string{"append", "1.00 ms", "1.00 ms", "n/a"}, rows[2], "one run")
	rows = timeTable(fake(nil, []float64{5, 5})[1:])
	assert.Equal(t, [][]string{{"append", "5.00 ms", "1.00 ms", "n/a"}}, rows[1:])
}

// Where memory is not known, the table says so.
func TestMemoryTable(t *testing.T) {
	all := fake([]float64{4, 2}, []float64{2})
	all[0].runs[1].Copied = 5e8
	all[1].runs[0].Base = 1 << 20
	all[1].runs[0].Peak = 38e8
	all[1].runs[0].Faults = 123456
	assert.Equal(t, [][]string{
		{"bytes.Buffer", "n/a", "0.0× (0.0..0.50)", "n/a", "25% (25..50)"},
		{"append", "3.8×", "0.0×", "123,000", "50%"},
	}, memoryTable(all, 1e9)[1:])
}

func TestReport(t *testing.T) {
	for changes, says := range map[string]string{
		"":             "\nWhile a collection waits",
		"always":       "[always]. With this setting, all may have huge pages.",
		"madvise":      "[madvise]. With this setting, mmapbuf.Buffer and the bare mapping\nhave huge pages",
		"never,always": "Another program changed the setting",
		"never":        "[never]. With this setting, all have pages of ",
	} {
		var out bytes.Buffer
		all := fake([]float64{1}, []float64{1})
		for i, setting := range strings.Split(changes+","+changes, ",")[:2] {
			all[i].runs[0].HugePages = setting
		}
		cfg := config{size: 1e9, write: 1000, Options: measure.Options{Runs: 1}}
		require.NoError(t, writeReport(&out, cfg, all))
		assert.Contains(t, out.String(), says)
		assert.Contains(t, out.String(), "A single run has no spread")
	}
}
