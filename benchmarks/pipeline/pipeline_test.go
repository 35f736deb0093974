package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func TestMain(m *testing.M) {
	measure.Serve(serve)
	os.Exit(m.Run())
}

// The backlog rises and falls twice.
func TestServe(t *testing.T) {
	for _, j := range []job{{100, 10, true}, {16, 8, true}, {10_000, 77, true}, {5<<20 + 1, 12_345, true}, {8 << 20, 64 << 10, true}, {8 << 20, 64 << 10, false}} {
		o, err := serve(j)
		require.NoError(t, err)
		end := o.Samples[len(o.Samples)-1]
		var tops [2]int64
		for _, s := range o.Samples {
			half := 0
			if s.Moved > end.Moved/3*2 {
				half = 1
			}
			tops[half] = max(tops[half], s.Backlog)
		}
		within := float64(3 * j.Block)
		assert.Zero(t, end.Backlog, j)
		assert.InDelta(t, j.Backlog, tops[0], within, j)
		assert.InDelta(t, j.Backlog/2, tops[1], within, j)
		assert.InDelta(t, 9*j.Backlog, end.Moved, 8*within, j)
	}
}

func TestRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	var out bytes.Buffer
	require.NoError(t, run(t.Context(), strings.Fields("-runs 2 -backlog 8MiB -block 5000B -out "+dir), &out))
	assert.Contains(t, out.String(), "work: a queue that grows to 8 MiB, runs empty,")
	for _, name := range names {
		assert.Regexp(t, `\n\| `+name+` +(\|[^|]*){5}\|\n`, out.String())
	}
	if measure.Resident() > 0 {
		assert.Contains(t, out.String(), "wrote "+filepath.Join(dir, "pipeline.svg"))
		assert.FileExists(t, filepath.Join(dir, "pipeline.png"))
	}
}

func TestMistakes(t *testing.T) {
	for args, says := range map[string]string{
		"-backlog 0":                          "at least one byte",
		"-backlog lots":                       `invalid value "lots" for flag -backlog`,
		"-backlog 100KiB":                     "-backlog 100 KiB is less than two blocks of 64 KiB",
		"-runs 0":                             "at least one run",
		"-out=":                               "-out names no directory",
		"file":                                "no arguments but flags",
		"-out main.go/sub":                    "output directory",
		"-backlog 100TiB -out " + t.TempDir(): "-backlog 100 TiB may need 400 TiB of memory",
	} {
		if measure.Available() == 0 && strings.Contains(says, "may need") {
			continue // memory is not known on this system
		}
		assert.ErrorContains(t, run(t.Context(), strings.Fields(args), &bytes.Buffer{}), says, args)
	}
}
