package main

import (
	"bytes"
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

func TestRun(t *testing.T) {
	for args, work := range map[string]string{
		"-size 8MiB":          "8 MiB (8388608 bytes) of pseudo-random bytes in writes of 64 KiB",
		"-size 8400953 -cold": "(8400953 bytes) of pseudo-random bytes", // the last write is shorter
		"-size 100":           "100 B (100 bytes) of pseudo-random bytes in writes of 100 B",
	} {
		t.Run(args, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			var out bytes.Buffer
			require.NoError(t, run(t.Context(), append(strings.Fields(args), "-runs", "1", "-out", dir), &out))
			assert.Contains(t, out.String(), work)
			for _, impl := range implementations {
				assert.Regexp(t, `(?m)^\| `+regexp.QuoteMeta(impl.name)+` +(\|[^|]*){5}\|$`, out.String())
			}
			if runtime.GOOS == "linux" {
				assert.FileExists(t, filepath.Join(dir, "growth.png"))
				assert.Contains(t, out.String(), "wrote "+filepath.Join(dir, "growth.png"))
			}
		})
	}
}

func TestMistakes(t *testing.T) {
	for args, says := range map[string]string{
		"-size lots":                         `invalid value "lots" for flag -size`,
		"-write -5":                          "not a number of bytes",
		"-implementations rope":              `-implementations: "rope" is none of append,bytes.Buffer,make,mmapbuf.Buffer`,
		"-size 100TiB":                       "100 TiB with append may need 500 TiB of memory",
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
	for _, impl := range implementations {
		got, readings, err := measure.Run[outcome](t.Context(), job{Implementation: impl.name, Size: size, Write: 64 << 10})
		require.NoError(t, err, impl.name)
		assert.GreaterOrEqual(t, got.Elapsed, got.Worst, impl.name)
		if runtime.GOOS == "linux" {
			assert.NotEmpty(t, readings)
			assert.Greater(t, got.Peak, int64(size*3/4), impl.name)
			assert.Less(t, got.Peak, int64(size*20), impl.name)
		}
	}
}

func TestCheck(t *testing.T) {
	assert.NoError(t, check([]byte("abcabca"), []byte("abc"), 7))
	assert.ErrorContains(t, check([]byte("abcabc"), []byte("abc"), 7), "6 bytes of 7")
	assert.ErrorContains(t, check([]byte("abcabx"), []byte("abc"), 6), "does not hold what was written")
}

// Where memory is not known, the table says so and there is no picture.
func TestMemoryNotKnown(t *testing.T) {
	o := outcome{Figures: measure.Figures{Elapsed: time.Second}, Worst: time.Millisecond}
	results := []result{summarize(implementations[0], []outcome{o})}
	cfg := config{size: 1e9, write: 1000}
	var out bytes.Buffer
	require.NoError(t, writeReport(&out, cfg, results))
	assert.Regexp(t, `\| append +\| +1\.00 s \| +1\.00 \| +1\.00 ms \| +n/a \| +n/a \|`, out.String())
	require.NoError(t, drawPicture(&out, cfg, results))
	assert.Contains(t, out.String(), "No picture")

	o.Base = 1 << 20 // and the work took none
	results = []result{summarize(implementations[0], []outcome{o})}
	out.Reset()
	cfg.Out = t.TempDir()
	require.NoError(t, writeReport(&out, cfg, results))
	assert.Regexp(t, `\| append .*\| +0 B \|`, out.String())
	require.NoError(t, drawPicture(&out, cfg, results))
	assert.Contains(t, out.String(), "wrote ")
}
