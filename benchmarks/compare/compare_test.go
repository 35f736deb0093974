package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRead(t *testing.T) {
	data, err := readAll([]string{"testdata/run.txt"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "linux/amd64 6.18.0, 2 cores, 24 GiB memory, go1.26.8, transparent huge pages: madvise, A Processor", data.machine)
	assert.Equal(t, []string{"floor", "mmapbuf.Buffer,viewed", "mmapbuf.Buffer", "bytes.Buffer", "io.ReadAll"}, data.impls)
	const ms = time.Millisecond
	for at, want := range map[point]figure{
		{base, 1 << 20}: {2, 600 * time.Microsecond, 1, 2 << 20},
		{base, 1 << 30}: {2, 3000 * ms, 1, 2 << 30},
		// The first package counts, and others are compared within theirs.
		{subject, 1 << 20}:      {2, 300 * time.Microsecond, 0.5, 1 << 20},
		{subject, 1 << 30}:      {2, 180 * ms, 0.06, 1 << 30},
		{"io.ReadAll", 1 << 20}: {1, 1 * ms, 2, 2.5 * (1 << 20)},
	} {
		got := data.figures[at]
		assert.Equal(t, want.runs, got.runs, at)
		assert.InDelta(t, want.time, got.time, 10, at)
		assert.InDelta(t, want.ratio, got.ratio, 1e-9, at)
		assert.InDelta(t, want.peak, got.peak, 1e-3, at)
	}
	assert.NotContains(t, data.figures, point{"io.ReadAll", 1 << 30})
}

func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), []string{"-out", dir, "testdata/run.txt"}, &out))
	assert.Contains(t, out.String(), "machine: linux/amd64 6.18.0, 2 cores,")
	assert.Contains(t, out.String(), "; medians of runs: 1 to 2\n")
	assert.Regexp(t, `\| implementation +\| +1 MiB \| +1 GiB \| +peak memory, 1 GiB \|\n\|:-+\|-+:\|-+:\|-+:\|\n`+
		`\| floor +\| +– \| +0\.040× \(120 ms\) \| +1\.0× \(1 GiB\) \|\n`+
		`\| mmapbuf\.Buffer,viewed +\| +– \| +0\.057× \(170 ms\) \| .*\n`+
		`\| mmapbuf\.Buffer +\| +0\.50× \(300 µs\) \| +0\.060× \(180 ms\) \| .*\n`+
		`\| bytes\.Buffer +\| +1\.0× \(600 µs\) \| +1\.0× \(3\.00 s\) \| +2\.0× \(2 GiB\) \|\n`+
		`\| io\.ReadAll +\| +2\.0× \(1\.0 ms\) \| +– \| +– \|\n`, out.String())
	for _, name := range []string{"compare-time", "compare-memory"} {
		assert.FileExists(t, filepath.Join(dir, name+".png"))
		svg, err := os.ReadFile(filepath.Join(dir, name+".svg"))
		require.NoError(t, err)
		for _, impl := range []string{"mmapbuf.Buffer", "bytes.Buffer", "floor", "io.ReadAll"} {
			assert.Contains(t, string(svg), ">"+impl+"<")
		}
		assert.NotContains(t, string(svg), "viewed", "variants are left to the table")
	}
}

func TestSizeTicks(t *testing.T) {
	var labels []string
	for _, tick := range (sizeTicks{64 << 10, 512 << 10, 1 << 20, 4 << 20, 1 << 30, 4 << 30}).Ticks(64<<10, 1<<30) {
		labels = append(labels, tick.Label)
	}
	assert.Equal(t, []string{"1 GiB", "4 MiB", "1 MiB", "", "64 KiB"}, labels)
}

// result returns a line as go test prints it.
func result(size, impl string) string {
	return "BenchmarkFill/size=" + size + "/impl=" + impl + "-2 \t 1\t 1000 ns/op\n"
}

func TestBadRuns(t *testing.T) {
	both := result("1MiB", base) + result("1MiB", subject)
	for name, test := range map[string]struct{ text, says string }{
		"empty":              {"", "-: no results of BenchmarkFill"},
		"no results":         {"PASS\nok\n", "no results of BenchmarkFill"},
		"others only":        {"BenchmarkOp/op=Len-2 \t 1\t 1 ns/op\n", "no results of BenchmarkFill"},
		"a damaged line":     {both + "BenchmarkFill/size=1MiB/impl=x-2 \t 1\t many ns/op\n", "-:3: "},
		"no size":            {"BenchmarkFill/impl=x-2 \t 1\t 1 ns/op\n", "the name has no size= and impl="},
		"odd size":           {result("big", base), `size "big": not a number of bytes`},
		"no time":            {"BenchmarkFill/size=1MiB/impl=x-2 \t 1\t 1 MB/s\n", "there is no time"},
		"no base":            {result("1MiB", subject), "mmapbuf.Buffer for 1 MiB cannot be compared: there is no result of bytes.Buffer in the same run"},
		"no subject":         {result("1MiB", base), "bytes.Buffer for 1 MiB cannot be compared: there is no result of mmapbuf.Buffer in the same run"},
		"no base for a size": {both + result("1GiB", subject), "mmapbuf.Buffer for 1 GiB cannot be compared"},
		"two machines":       {"machine: one\n" + both + "machine: two\n" + both, "not of one machine"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readAll([]string{"-"}, strings.NewReader(test.text))
			assert.ErrorContains(t, err, test.says)
		})
	}

	// Runs without peaks have no picture of them.
	data, err := readAll([]string{"-"}, strings.NewReader(both))
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, drawPictures(&out, t.TempDir(), data))
	assert.Contains(t, out.String(), "no compare-memory: the runs do not tell")
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	for args, says := range map[string]string{
		"-count 0":                              "at least one run",
		"-bench (":                              "-bench: error parsing regexp",
		"-out=":                                 "-out names no directory",
		filepath.Join(dir, "missing"):           "missing",
		dir:                                     "is a directory",
		"-benchtime never -count 1 -out " + dir: "go test: exit status 1; see " + dir,
		"-bench Nothing -short -count 1 -out " + dir:      "compare.txt: no results of BenchmarkFill",
		"-out testdata/run.txt/sub " + "testdata/run.txt": "output directory",
	} {
		assert.ErrorContains(t, run(t.Context(), strings.Fields(args), &bytes.Buffer{}), says, args)
	}
}
