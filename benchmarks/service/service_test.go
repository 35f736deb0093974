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

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func TestMain(m *testing.M) {
	measure.Serve(serve)
	os.Exit(m.Run())
}

func TestBuffers(t *testing.T) {
	noise := newNoise(3*chunkSize + 100)
	for _, name := range all {
		for _, size := range []int{0, 1, chunkSize - 1, chunkSize, chunkSize + 1, len(noise)} {
			b := newBuffer(name)
			for range 2 {
				for rest := noise[:size]; len(rest) > 0; {
					n, err := b.Write(rest[:min(len(rest), 40_000)])
					require.NoError(t, err)
					rest = rest[n:]
				}
				require.True(t, bytes.Equal(noise[:size], b.Bytes()), "%s of %d bytes", name, size)
				var out bytes.Buffer
				n, err := b.WriteTo(&out)
				require.NoError(t, err)
				require.EqualValues(t, size, n)
				require.True(t, bytes.Equal(noise[:size], out.Bytes()), "%s of %d bytes", name, size)
				b.Reset()
			}
			require.NoError(t, b.Close())
		}
	}
}

func TestLook(t *testing.T) {
	noise := newNoise(100)
	view := append(bytes.Clone(noise), noise...)
	require.NoError(t, look(view, 200, noise))
	assert.EqualError(t, look(view, 201, noise), "the view has 200 bytes of 201")
	view[199]++
	assert.EqualError(t, look(view, 200, noise), "byte 199 of 200 is not what was written")
}

func TestRun(t *testing.T) {
	tree := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(tree, "sub"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "sub", "file"), newNoise(3*miB), 0o666))
	t.Setenv("TMPDIR", t.TempDir())
	for i, args := range []string{
		"-min 100KiB -max 2MiB -goroutines 3 -settle 1ms -live 1MiB",
		"-loop -sizes 100KiB,2MiB",
		"-queue -sizes 1MiB,3MiB",
		"-readfile -sizes 2MiB,100",
		"-http -min 1KiB -max 2MiB -goroutines 3 -settle 1ms",
		"-archive -dir " + tree,
		"-columns -sizes 2MiB,1",
	} {
		w := workloads[i]
		t.Run(w.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "new")
			var out bytes.Buffer
			require.NoError(t, run(t.Context(), strings.Fields(args+" -runs 1 -duration 50ms -out "+dir), &out))
			assert.Contains(t, out.String(), "work: "+w.about+"; 50ms for each run; runs of each, in turn: 1\n")
			for _, mode := range w.modes {
				assert.Contains(t, out.String(), "\n"+w.name+", "+mode)
			}
			rows := len(w.modes) * (1 + strings.Count(args, ","))
			for _, implementation := range w.implementations {
				assert.Equal(t, rows, strings.Count(out.String(), "\n| "+implementation+" "), implementation)
			}
			if w.name == "service" {
				assert.Contains(t, out.String(), "wrote "+filepath.Join(dir, "service.svg"))
				assert.FileExists(t, filepath.Join(dir, "service.png"))
			}
		})
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left, "temporary files are left behind")
}

// The table has medians, and multiples of what bytes.Buffer takes.
func TestReport(t *testing.T) {
	cfg, err := parse([]string{"-modes", "viewed", "-implementations", "mmapbuf.Buffer,bytes.Buffer", "-live", "2GiB"})
	require.NoError(t, err)
	var results []result
	for i, j := range cfg.jobs() {
		r := result{job: j}
		for _, ms := range []time.Duration{9, 1, 3} {
			o := outcome{Rounds: 100, P50: ms * time.Millisecond, P99: time.Second >> i, Worst: 2 * time.Second}
			o.Figures = measure.Figures{Elapsed: 2 * time.Second, Size: 2e9, Collections: 5, Forced: 1, CPU: 3 * time.Second}
			if i > 0 {
				o.Size, o.Peak, o.Final = 6e9, 8<<20, 0
			}
			r.runs = append(r.runs, o)
		}
		results = append(results, r)
	}
	var out bytes.Buffer
	require.NoError(t, writeReport(&out, cfg, results))
	assert.Contains(t, out.String(), "goroutines: 8; live objects beside the buffers: 2 GiB; in a single write: 32 KiB\n")
	assert.Contains(t, out.String(), "\nservice, viewed, 1 MiB to 16 MiB:\n")
	assert.Regexp(t, `\n\| bytes\.Buffer +\| +50 \| +1000 \| +1\.0× \| +3\.0 ms \| +1\.00 s \| +1\.0× \| +2\.00 s \| +5 \| +1 \| +3\.00 s \| +1\.50 s \| +1\.0× \| +n/a \| +n/a \| +n/a \| +n/a \|\n`+
		`\| mmapbuf\.Buffer +\| +50 \| +3000 \| +3\.0× \| +3\.0 ms \| +500 ms \| +0\.50× \| +2\.00 s \| +5 \| +1 \| +3\.00 s \| +500 ms \| +0\.33× \| +8 MiB \| +n/a \| +0 B \| +n/a \|\n`, out.String())
}

func TestMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	for args, says := range map[string]string{
		"-min 2MiB -max 1MiB":           "-min 2 MiB is more than -max 1 MiB",
		"-min 0":                        "at least one byte",
		"-live lots":                    "not a number of bytes",
		"-goroutines 0":                 "-goroutines 0: at least one",
		"-duration 0s":                  "-duration 0s: some time",
		"-runs 0":                       "at least one run",
		"-modes closed,open":            `-modes: "open" is none of closed,dropped,viewed,pooled`,
		"-loop -modes pooled":           `-modes: "pooled" is none of closed,viewed,reset`,
		"-implementations rope":         `-implementations: "rope" is none of bytes.Buffer,mmapbuf.Buffer,`,
		"-loop -queue":                  "more than one workload",
		"-loop -max 1MiB":               "-max does not apply to the workload loop",
		"-sizes 1MiB":                   "-sizes does not apply to the workload service",
		"-queue -sizes 1MiB,-1":         `-sizes: "-1": not a number of bytes`,
		"-out=":                         "-out names no directory",
		"file":                          "no arguments but flags",
		"-out " + file + "/sub":         "output directory",
		"-archive -dir " + file + "/no": "-dir: ",
		"-archive -dir " + file:         "has no files",
	} {
		assert.ErrorContains(t, run(t.Context(), strings.Fields(args), &bytes.Buffer{}), says, args)
	}
}
