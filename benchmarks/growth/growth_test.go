package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func TestMain(m *testing.M) {
	measure.Serve(fill)
	os.Exit(m.Run())
}

// runWith runs the program with that standard input. Nothing may be left in the
// directory for temporary files.
func runWith(t *testing.T, stdin *os.File, args ...string) (string, error) {
	t.Helper()
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	defer func(was *os.File) { os.Stdin = was }(os.Stdin)
	os.Stdin = stdin
	var out bytes.Buffer
	err := run(t.Context(), args, &out)
	left, _ := os.ReadDir(temp)
	assert.Empty(t, left, "temporary files are left behind")
	return out.String(), err
}

// pipe returns a pipe that p comes out of.
func pipe(t *testing.T, p []byte) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	go func() { _, _ = w.Write(p); w.Close() }()
	return r
}

func TestRun(t *testing.T) {
	const odd = 8<<20 + 12345 // the last write is shorter
	contents := bytes.Repeat([]byte("the quick brown fox\n"), odd/20+1)[:odd]
	file := filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.WriteFile(file, contents, 0o666))
	for args, work := range map[string]string{
		"-size 8MiB":        "8 MiB (8388608 bytes) of pseudo-random bytes in writes of 64 KiB",
		"-size 8400953":     "(8400953 bytes) of pseudo-random bytes",
		"-size 100":         "100 B (100 bytes) of pseudo-random bytes in writes of 100 B",
		file:                "(8400953 bytes) of " + file,
		"-size 1MB " + file: "(1000000 bytes) of " + file,
		"-size 1GB " + file: "(8400953 bytes) of " + file,
		"-":                 "(8400953 bytes) of standard input",
		"-size 1MB -":       "(1000000 bytes) of standard input",
	} {
		t.Run(args, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			out, err := runWith(t, pipe(t, contents), append([]string{"-runs", "1", "-out", dir}, strings.Fields(args)...)...)
			require.NoError(t, err)
			assert.Contains(t, out, work)
			for _, impl := range implementations {
				assert.Regexp(t, `(?m)^\| `+regexp.QuoteMeta(impl.name)+` +(\|[^|]*){5}\|$`, out)
			}
			if runtime.GOOS == "linux" {
				assert.FileExists(t, filepath.Join(dir, "growth.png"))
				assert.Contains(t, out, "wrote "+filepath.Join(dir, "growth.svg"))
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o666))
	for args, says := range map[string]string{
		"-size 0":                             "at least one byte",
		"-size lots":                          `invalid value "lots" for flag -size`,
		"-write -5":                           "not a number of bytes",
		"-only realloc":                       `-only: "realloc" is none of append,bytes,make,mmapbuf`,
		filepath.Join(dir, "missing"):         "missing",
		dir:                                   "is a directory",
		empty:                                 empty + " is empty",
		"-":                                   "standard input is empty",
		"-size 100TiB -out " + dir:            "100 TiB with append may need 500 TiB of memory",
		"-size 100TiB -only make -out " + dir: "100 TiB with make (right size) may need 100 TiB of memory",
	} {
		if measure.Available() == 0 && strings.Contains(says, "may need") {
			continue // memory is not known on this system
		}
		out, err := runWith(t, pipe(t, nil), strings.Fields(args)...)
		assert.ErrorContains(t, err, says, args)
		assert.Empty(t, out, args)
	}
}

// An interrupt ends the program though standard input stays silent.
func TestInterrupt(t *testing.T) {
	stdin, w, err := os.Pipe()
	require.NoError(t, err)
	defer stdin.Close()
	defer w.Close()
	defer func(was *os.File) { os.Stdin = was }(os.Stdin)
	os.Stdin = stdin
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	assert.ErrorIs(t, run(ctx, []string{"-out", t.TempDir(), "-"}, &bytes.Buffer{}), context.DeadlineExceeded)
}

func TestDataChanges(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "data"))
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Write(make([]byte, 100))
	require.NoError(t, err)
	data := &payload{name: "data", file: file, size: 100, write: 30}
	sum, err := data.checksum(t.Context())
	require.NoError(t, err)
	j := job{Implementation: "append", Source: "data", Size: 100, Write: 30, Sum: sum}
	_, err = data.measure(t.Context(), j)
	require.NoError(t, err)

	_, err = file.WriteAt([]byte{1}, 50)
	require.NoError(t, err)
	_, err = data.measure(t.Context(), j)
	assert.ErrorContains(t, err, "the data has changed")
	require.NoError(t, file.Truncate(40))
	_, err = data.measure(t.Context(), j)
	assert.EqualError(t, err, "exit status 1: data has become shorter: it ends after 40 of 100 bytes")
}

// What a child reports is in proportion to what it did.
func TestMeasure(t *testing.T) {
	data := &payload{size: 32 << 20, write: 64 << 10}
	sum, err := data.checksum(t.Context())
	require.NoError(t, err)
	for _, impl := range implementations {
		got, err := data.measure(t.Context(), job{Implementation: impl.key, Size: data.size, Write: data.write, Sum: sum})
		require.NoError(t, err, impl.name)
		assert.GreaterOrEqual(t, got.Elapsed, got.Worst, impl.name)
		assert.LessOrEqual(t, got.Elapsed, got.Ended.Sub(got.Began)+time.Millisecond, impl.name)
		if runtime.GOOS == "linux" {
			assert.Greater(t, got.Peak, int64(data.size*3/4), impl.name)
			assert.Less(t, got.Peak, int64(data.size*20), impl.name)
			assert.Equal(t, got.Final, got.samples[len(got.samples)-1].resident, impl.name)
		}
	}
}

// Where memory is not known the table says so and there is no picture.
func TestMemoryNotKnown(t *testing.T) {
	results := []result{summarise(implementations[0], []outcome{{Elapsed: time.Second, Worst: time.Millisecond}})}
	var out bytes.Buffer
	require.NoError(t, writeReport(&out, config{}, &payload{size: 1e9, write: 1000}, results))
	assert.Regexp(t, `\| append +\| +1\.00 s \| +1\.00 \| +1\.0 ms \| +n/a \| +n/a \|`, out.String())
	require.NoError(t, drawPicture(&out, t.TempDir(), &payload{}, results))
	assert.Contains(t, out.String(), "No picture")
}
