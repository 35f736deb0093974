package main

import (
	"bytes"
	"encoding/xml"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/commandtest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { commandtest.Main(m, main) }

func TestMedian(t *testing.T) {
	values := []float64{5, 1, 4}
	assert.EqualValues(t, 4, median(values))
	assert.Equal(t, []float64{5, 1, 4}, values, "the order stays")
	assert.EqualValues(t, 3, median([]float64{5, 1, 4, 2}))
	assert.EqualValues(t, 7, median([]float64{7}))
}

func TestRead(t *testing.T) {
	data, err := readAll([]string{"testdata/run.txt"}, nil)
	require.NoError(t, err)
	assert.Equal(t, "linux/amd64 6.18.0, 2 cores, 24 GiB memory, go1.26.8, transparent huge pages: madvise, A Processor", data.machine)
	assert.Equal(t, []int64{1 << 20, 1 << 30}, data.sizes)
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
	_, ok := data.figures[point{"io.ReadAll", 1 << 30}]
	assert.False(t, ok)
}

func TestProgram(t *testing.T) {
	saved, err := os.ReadFile("testdata/run.txt")
	require.NoError(t, err)
	for _, arg := range []string{"testdata/run.txt", "-"} {
		dir := filepath.Join(t.TempDir(), "new")
		cmd, stdout, stderr := commandtest.Program(t, "-out", dir, arg)
		cmd.Stdin = bytes.NewReader(saved)
		require.NoError(t, cmd.Run(), stderr)
		assert.Empty(t, stderr.String())
		out := stdout.String()
		assert.Contains(t, out, "Machine: linux/amd64 6.18.0, 2 cores,")
		assert.Contains(t, out, "medians; runs: 1 to 2.")
		assert.Regexp(t, `\| implementation +\| +1 MiB \| +1 GiB \| +peak memory, 1 GiB \|\n\| -+ \| -+: \| -+: \| -+: \|\n`+
			`\| floor +\| +– \| +0\.040× \(120 ms\) \| +1\.0× \(1\.00 GiB\) \|\n`+
			`\| mmapbuf\.Buffer,viewed +\| +– \| +0\.057× \(170 ms\) \| .*\n`+
			`\| mmapbuf\.Buffer +\| +0\.50× \(300 µs\) \| +0\.060× \(180 ms\) \| .*\n`+
			`\| bytes\.Buffer +\| +1\.0× \(600 µs\) \| +1\.0× \(3\.00 s\) \| +2\.0× \(2\.00 GiB\) \|\n`+
			`\| io\.ReadAll +\| +2\.0× \(1\.0 ms\) \| +– \| +– \|\n`, out)
		for _, name := range []string{"compare-time", "compare-memory"} {
			checkPicture(t, filepath.Join(dir, name))
			assert.Contains(t, out, filepath.Join(dir, name+".svg"))
		}
	}
}

func checkPicture(t *testing.T, path string) {
	f, err := os.Open(path + ".png")
	require.NoError(t, err)
	defer f.Close()
	picture, err := png.Decode(f)
	require.NoError(t, err)
	assert.Equal(t, 1800, picture.Bounds().Dx())

	svg, err := os.ReadFile(path + ".svg")
	require.NoError(t, err)
	d := xml.NewDecoder(bytes.NewReader(svg))
	for err == nil {
		_, err = d.Token()
	}
	assert.Equal(t, io.EOF, err, "the SVG is well-formed")
	for _, impl := range []string{"mmapbuf.Buffer", "bytes.Buffer", "floor", "io.ReadAll"} {
		assert.Contains(t, string(svg), ">"+impl+"<")
	}
	assert.NotContains(t, string(svg), "viewed", "variants are left to the table")
}

// Runs without peaks have no column and no picture of them.
func TestNoPeaks(t *testing.T) {
	dir := t.TempDir()
	cmd, stdout, stderr := commandtest.Program(t, "-out", dir, "-")
	cmd.Stdin = strings.NewReader(result("1MiB", base) + result("1MiB", subject))
	require.NoError(t, cmd.Run(), stderr)
	assert.NotContains(t, stdout.String(), "eak memory")
	assert.NotContains(t, stdout.String(), "Machine:")
	assert.Contains(t, stdout.String(), "no compare-memory: the runs do not tell")
	assert.NoFileExists(t, filepath.Join(dir, "compare-memory.png"))
	assert.FileExists(t, filepath.Join(dir, "compare-time.png"))
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

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	both := result("1MiB", base) + result("1MiB", subject)

	for _, test := range []struct {
		name   string
		args   string
		stdin  string
		status int
		says   string
	}{
		{"nothing", "-", "", 1, "standard input has no results of BenchmarkFill"},
		{"empty file", file, "", 1, "file has no results of BenchmarkFill"},
		{"no benchmark lines", "-", "PASS\nok\n", 1, "standard input has no results of BenchmarkFill"},
		{"others only", "-", "BenchmarkOp/op=Len-2 \t 1\t 1 ns/op\n", 1, "has no results of BenchmarkFill"},
		{"a damaged line", "-", both + "BenchmarkFill/size=1MiB/impl=x-2 \t 1\t many ns/op\n", 1, "standard input:3: "},
		{"no size", "-", "BenchmarkFill/impl=x-2 \t 1\t 1 ns/op\n", 1, "the name has no size= and impl="},
		{"odd size", "-", result("big", base), 1, `the size "big" is not a number of bytes`},
		{"no time", "-", "BenchmarkFill/size=1MiB/impl=x-2 \t 1\t 1 MB/s\n", 1, "has no time"},
		{"no base", "-", result("1MiB", subject), 1,
			"mmapbuf.Buffer for 1 MiB cannot be compared: there is no result of bytes.Buffer in the same run"},
		{"no subject", "-", result("1MiB", base), 1,
			"bytes.Buffer for 1 MiB cannot be compared: there is no result of mmapbuf.Buffer in the same run"},
		{"no base for a size", "-", both + result("1GiB", subject), 1, "mmapbuf.Buffer for 1 GiB cannot be compared"},
		{"two machines", "-", "machine: one\n" + both + "machine: two\n" + both, 1, "more than one machine"},
		{"unknown file", filepath.Join(dir, "missing"), "", 1, "missing"},
		{"a directory", dir, "", 1, "is a directory"},
		{"output directory", "-out " + filepath.Join(file, "sub") + " -", both, 1, "output directory"},
		{"count", "-count 0", "", 2, "at least one run"},
		{"regexp", "-bench (", "", 2, "-bench: error parsing regexp"},
		{"flag", "-colour", "", 2, "-colour"},
		{"no output directory", "-out=", "", 2, "-out names no directory"},
		{"flags and a file", "-count 3 " + file, "", 2, "-count is for running benchmarks"},
		{"no such benchmark", "-bench Nothing -count 1 -out " + dir, "", 1, "has no results of BenchmarkFill"},
		{"benchtime", "-benchtime never -count 1 -out " + dir, "", 1, `invalid value "never"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			args := strings.Fields(test.args)
			if !strings.Contains(test.args, "-out") {
				args = append([]string{"-out", dir}, args...)
			}
			cmd, stdout, stderr := commandtest.Program(t, args...)
			cmd.Stdin = strings.NewReader(test.stdin)
			assert.Error(t, cmd.Run())
			assert.Equal(t, test.status, cmd.ProcessState.ExitCode())
			assert.Empty(t, stdout.String())
			assert.Contains(t, stderr.String(), test.says)
			assert.Regexp(t, `\Acompare: [^\n]+\n\z`, stderr.String(), "one sentence")
		})
	}
}

func TestBenchmark(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	dir := t.TempDir()
	cmd, stdout, stderr := commandtest.Program(t, "-short", "-count", "1", "-benchtime", "1x", "-bench", "Fill/size=1MiB", "-out", dir)
	require.NoError(t, cmd.Run(), stderr)
	for _, impl := range []string{base, subject, "io.ReadAll", "ristretto"} {
		assert.Contains(t, stdout.String(), "\n| "+impl+" ")
	}
	assert.FileExists(t, filepath.Join(dir, "compare-time.png"))

	// What was saved gives the same again.
	again, repeated, stderr := commandtest.Program(t, "-out", dir, filepath.Join(dir, "compare.txt"))
	require.NoError(t, again.Run(), stderr)
	assert.Equal(t, stdout.String(), repeated.String())
}
