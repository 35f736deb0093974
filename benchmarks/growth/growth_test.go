package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/commandtest"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

func TestMain(m *testing.M) { commandtest.Main(m, main) }

func TestFits(t *testing.T) {
	const gib = 1 << 30
	free := system.Room{Bytes: 10*gib + slack + 4096, From: "MemAvailable"}
	lean, err := choose("make, mmapbuf")
	require.NoError(t, err)

	assert.NoError(t, fits(implementations, 2*gib, 4096, free))
	assert.EqualError(t, fits(implementations, 2*gib+1, 4096, free),
		"2 GiB does not fit in memory: append may need 10.1 GiB and 10.1 GiB can be had (MemAvailable);"+
			" the largest that fits is -size 2048MiB, or -size 10240MiB with -only make,mmapbuf")
	assert.NoError(t, fits(lean, 10*gib, 4096, free))
	assert.ErrorContains(t, fits(lean, 10*gib+1, 4096, free), "the largest that fits is -size 10240MiB")
	assert.ErrorContains(t, fits(implementations, 1, 4096, system.Room{Bytes: 1 << 20, From: "MemAvailable"}), "no size worth measuring")
	// The arithmetic holds to the end.
	assert.ErrorContains(t, fits(implementations, command.MaxSize, command.MaxSize, free), "does not fit")
}

// Where memory is not known the table says so and there is no picture.
func TestMemoryNotKnown(t *testing.T) {
	o := outcome{Elapsed: time.Second, Worst: time.Millisecond}
	results := summarise(implementations[:1], [][]outcome{{o}})
	var out bytes.Buffer
	require.NoError(t, writeReport(&out, config{runs: 1}, &payload{size: 1e9, write: 1000}, results))
	assert.Regexp(t, `\| append +\| +1\.00 s \| +1\.00 \| +1\.0 ms \| +n/a \| +n/a \|`, out.String())

	dir := t.TempDir()
	require.NoError(t, drawPictures(&out, dir, &payload{size: 1e9}, results))
	assert.Contains(t, out.String(), "No picture")
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Empty(t, left)
}

func TestProgram(t *testing.T) {
	const odd = 8<<20 + 12345 // the last write is shorter
	contents := bytes.Repeat([]byte("the quick brown fox\n"), odd/20+1)[:odd]
	file := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.WriteFile(file, contents, 0o666))

	for _, test := range []struct {
		name  string
		args  []string
		stdin io.Reader
		work  string
	}{
		{"generated", []string{"-size", "8MiB"}, nil, "8 MiB (8388608 bytes) of pseudo-random bytes in writes of 64 KiB"},
		{"generated odd", []string{"-size", "8400953"}, nil, "(8400953 bytes) of pseudo-random bytes"},
		{"generated small", []string{"-size", "100"}, nil, "100 B (100 bytes) of pseudo-random bytes in writes of 100 B"},
		{"file", []string{file}, nil, "(8400953 bytes) of " + file},
		{"head of a file", []string{"-size", "1MB", file}, nil, "(1000000 bytes) of " + file},
		{"short file", []string{"-size", "1GB", file}, nil, "(8400953 bytes) of " + file},
		{"pipe", []string{"-"}, bytes.NewReader(contents), "(8400953 bytes) of standard input"},
		{"head of a pipe", []string{"-size", "1MB", "-"}, bytes.NewReader(contents), "(1000000 bytes) of standard input"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "new")
			cmd, stdout, stderr := commandtest.Program(t, append([]string{"-runs", "1", "-out", dir}, test.args...)...)
			cmd.Stdin = test.stdin
			require.NoError(t, cmd.Run(), stderr)
			assert.Empty(t, stderr.String(), "no bar where there is no terminal")
			assert.Contains(t, stdout.String(), test.work)
			for _, impl := range implementations {
				row := regexp.MustCompile(`(?m)^\| ` + regexp.QuoteMeta(impl.name) + ` .*$`).FindString(stdout.String())
				assert.Equal(t, 7, strings.Count(row, "|"), "%s in\n%s", impl.name, stdout)
			}
			if runtime.GOOS == "linux" {
				checkPictures(t, dir)
				assert.Contains(t, stdout.String(), filepath.Join(dir, "growth.svg"))
			}
		})
	}
}

func checkPictures(t *testing.T, dir string) {
	f, err := os.Open(filepath.Join(dir, "growth.png"))
	require.NoError(t, err)
	defer f.Close()
	picture, err := png.Decode(f)
	require.NoError(t, err)
	assert.Equal(t, 1800, picture.Bounds().Dx())
	assert.Equal(t, 960, picture.Bounds().Dy())

	svg, err := os.ReadFile(filepath.Join(dir, "growth.svg"))
	require.NoError(t, err)
	assert.True(t, bytes.HasPrefix(svg, []byte("<?xml")))
	d := xml.NewDecoder(bytes.NewReader(svg))
	for err == nil {
		_, err = d.Token()
	}
	assert.Equal(t, io.EOF, err, "the SVG is well-formed")
	for _, impl := range implementations {
		assert.Contains(t, string(svg), impl.name)
	}
}

func TestOnly(t *testing.T) {
	cmd, stdout, stderr := commandtest.Program(t, "-size", "1MiB", "-runs", "2", "-only", "mmapbuf, append,append", "-out", t.TempDir())
	require.NoError(t, cmd.Run(), stderr)
	assert.Regexp(t, `(?s)\| append .*\| mmapbuf\.Buffer `, stdout.String())
	assert.NotContains(t, stdout.String(), "| bytes.Buffer")
	assert.NotContains(t, stdout.String(), "| make")
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o666))

	for _, test := range []struct {
		args   string
		status int
		says   string
	}{
		{"-size 0", 2, "at least one byte"},
		{"-size -1", 2, "not a number of bytes"},
		{"-size lots", 2, `invalid value "lots" for flag -size`},
		{"-size 16EiB", 2, "-size"},
		{"-write 0", 2, "at least one byte"},
		{"-write -5", 2, "not a number of bytes"},
		{"-size 1KiB -write 1025", 2, "-write 1 KiB is more than -size 1 KiB"},
		{"-write 2GiB", 2, "-write 2 GiB is more than -size 1 GiB"},
		{"-runs 0", 2, "at least one run"},
		{"-runs -3", 2, "at least one run"},
		{"-runs few", 2, "-runs"},
		{"-only realloc", 2, `"realloc" is none of append,bytes,make,mmapbuf`},
		{"-only append,", 2, `"" is none of`},
		{"-out=", 2, "-out names no directory"},
		{"-colour", 2, "-colour"},
		{"one two", 2, "one file at most"},
		{"- -runs 3", 2, "one file at most, after the flags"},
		{filepath.Join(dir, "missing"), 1, "missing"},
		{dir, 1, "is a directory"},
		{empty, 1, empty + " is empty"},
		{"-", 1, "standard input is empty"},
		{"-out " + filepath.Join(empty, "sub") + " -size 1MiB", 1, "output directory"},
	} {
		t.Run(test.args, func(t *testing.T) {
			cmd, stdout, stderr := commandtest.Program(t, strings.Fields(test.args)...)
			cmd.Dir = dir
			assert.Error(t, cmd.Run())
			assert.Equal(t, test.status, cmd.ProcessState.ExitCode())
			assert.Empty(t, stdout.String())
			assert.Contains(t, stderr.String(), test.says)
			assert.Regexp(t, `\Agrowth: [^\n]+\n\z`, stderr.String(), "one sentence")
		})
	}
}

func TestTooLarge(t *testing.T) {
	if _, ok := system.Available(system.Root); !ok {
		t.Skip("memory is not known on this system")
	}
	cmd, _, stderr := commandtest.Program(t, "-size", "100TiB", "-out", t.TempDir())
	assert.Error(t, cmd.Run())
	assert.Equal(t, 1, cmd.ProcessState.ExitCode())
	assert.Regexp(t, `\Agrowth: pseudo-random bytes: 100 TiB does not fit in memory: append may need 500 TiB and .* can be had \(.*\); the largest that fits is -size \d+MiB, or -size \d+MiB with -only make,mmapbuf\n\z`, stderr.String())
}

// An interrupt ends the program though standard input stays silent, and the
// copy of what came in so far is removed: see commandtest.Program.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no interrupt can be sent")
	}
	cmd, _, stderr := commandtest.Program(t, "-out", t.TempDir(), "-")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	require.NoError(t, cmd.Start())
	// More than a pipe holds: once it is written, the program is copying.
	_, err = stdin.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.Error(t, cmd.Wait())
	assert.Equal(t, 1, cmd.ProcessState.ExitCode())
	assert.Equal(t, "growth: interrupted\n", stderr.String())
}

func TestShrinkingFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.WriteFile(file, make([]byte, 100), 0o666))
	src, err := openSource(file, 100, 30)
	require.NoError(t, err)
	defer src.close()
	_, err = src.next()
	require.NoError(t, err)
	require.NoError(t, os.Truncate(file, 40))
	_, err = src.next()
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.ErrorContains(t, err, file+" has become shorter: it ends after 40 of 100 bytes")
}

// A child that fails says why, and one that is killed how.
func TestChildFails(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	_, err := measureJob(context.Background(), job{Implementation: "append", Path: gone, Size: 1, Write: 1})
	assert.ErrorContains(t, err, "exit status 1: open "+gone)

	_, err = measureJob(context.Background(), job{Implementation: "append", Size: 1 << 20, Write: 1 << 10, Sum: 1})
	assert.ErrorContains(t, err, "does not hold what was written")

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = measureJob(ctx, job{Implementation: "mmapbuf", Size: 1 << 40, Write: 1})
	assert.Error(t, err)
	if runtime.GOOS != "windows" {
		assert.ErrorContains(t, err, "signal: killed")
	}
}

// What a child reports is in proportion to what it did.
func TestMeasure(t *testing.T) {
	data := &payload{size: 32 << 20, write: 64 << 10}
	require.NoError(t, data.checksum(context.Background()))
	for _, impl := range implementations {
		got, err := measureJob(context.Background(), data.job(impl))
		require.NoError(t, err, impl.name)
		assert.Positive(t, got.Worst, impl.name)
		assert.GreaterOrEqual(t, got.Elapsed, got.Worst, impl.name)
		assert.LessOrEqual(t, got.Elapsed, got.Ended.Sub(got.Began)+time.Millisecond, impl.name)
		if runtime.GOOS != "linux" {
			continue
		}
		assert.Greater(t, got.Peak, data.size*3/4, impl.name)
		// The race detector has its share as well.
		assert.Less(t, got.Peak, data.size*20, impl.name)
		last := got.samples[len(got.samples)-1]
		assert.Equal(t, got.Final, last.resident, impl.name)
		for i, s := range got.samples[1:] {
			assert.GreaterOrEqual(t, s.t, got.samples[i].t, "%s: time does not run backwards", impl.name)
		}
	}
}
