package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
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
	data := measure.Noise(3*blockSize + 100)
	for _, name := range all {
		for _, size := range []int{0, 1, blockSize - 1, blockSize, blockSize + 1, len(data)} {
			b := newBuffer(name)
			for range 2 { // new, and after Reset
				for chunk := range slices.Chunk(data[:size], 40_000) {
					n, err := b.Write(chunk)
					require.NoError(t, err)
					require.Equal(t, len(chunk), n)
				}
				require.True(t, bytes.Equal(data[:size], b.Bytes()), "%s of %d bytes", name, size)
				var out bytes.Buffer
				n, err := b.WriteTo(&out)
				require.NoError(t, err)
				require.EqualValues(t, size, n)
				require.True(t, bytes.Equal(data[:size], out.Bytes()), "%s of %d bytes", name, size)
				b.Reset()
			}
			require.NoError(t, b.Close())
		}
	}
}

func TestLook(t *testing.T) {
	data := measure.Noise(100)
	view := append(bytes.Clone(data), data...)
	require.NoError(t, look(view, 200, data))
	assert.EqualError(t, look(view, 201, data), "the view has 200 bytes of 201")
	view[199]++
	assert.EqualError(t, look(view, 200, data), "byte 199 of 200 is not what was written")
}

func TestRun(t *testing.T) {
	tree := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(tree, "sub"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(tree, "sub", "file"), measure.Noise(3*miB), 0o666))
	t.Setenv("TMPDIR", t.TempDir())
	for i, args := range []string{
		"-min 100KiB -max 2MiB -goroutines 3 -settle 1ms -live 1MiB",
		"-loop -sizes 100KiB,2MiB",
		"-queue -sizes 1MiB,3MiB",
		"-backlog -sizes 1MiB,8MiB",
		"-readfile -sizes 2MiB,100",
		"-fill -sizes 1MiB,64KiB",
		"-writeat -sizes 2MiB,3MiB",
		"-archive -dir " + tree,
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
			for _, picture := range map[string][]string{"service": {"service"}, "backlog": {"backlog"}, "fill": {"fill-time", "fill-memory"}}[w.name] {
				assert.Contains(t, out.String(), "wrote "+filepath.Join(dir, picture+".png"))
				assert.FileExists(t, filepath.Join(dir, picture+".png"))
			}
		})
	}
	left, err := os.ReadDir(os.TempDir())
	require.NoError(t, err)
	assert.Empty(t, left, "temporary files are left behind")
}

// The table has medians, and multiples of what bytes.Buffer takes.
func TestReport(t *testing.T) {
	cfg, err := parse([]string{"-modes", "viewed", "-implementations", "bytebufferpool,mmapbuf.Buffer,bytes.Buffer"})
	require.NoError(t, err)
	var results []result
	for i, j := range cfg.jobs() {
		r := result{job: j}
		for _, ms := range []time.Duration{9, 1, 3} {
			o := outcome{Rounds: 100, P50: ms * time.Millisecond, P99: time.Second >> i, Worst: 2 * time.Second}
			o.Figures = measure.Figures{Elapsed: 2 * time.Second, Size: 2e9, Collections: 5, Forced: 1, CPU: 3 * time.Second}
			if o.Base = 5 << 20; i > 0 {
				o.Size, o.Peak = 6e9, 8<<20
			}
			if unknown := i > 1; unknown {
				o.Base, o.CPU, o.Peak = 0, 0, 0
			}
			r.runs = append(r.runs, o)
		}
		results = append(results, r)
	}
	var out bytes.Buffer
	require.NoError(t, writeReport(&out, cfg, results))
	assert.Contains(t, out.String(), "goroutines: 8\nin a single write: 32 KiB\n")
	assert.Contains(t, out.String(), "\nservice, viewed, 1 MiB to 16 MiB:\n")
	assert.Regexp(t, `\n\| bytes\.Buffer +\| +50 \| +1000 \| +1\.0× \| +3\.00 ms \| +1\.00 s \| +1\.0× \| +2\.00 s \| +5 \| +1 \| +3\.00 s \| +1\.50 s \| +1\.0× \| +0 B \| +n/a \| +0 B \| +n/a \|\n`+
		`\| mmapbuf\.Buffer +\| +50 \| +3000 \| +3\.0× \| +3\.00 ms \| +500 ms \| +0\.50× \| +2\.00 s \| +5 \| +1 \| +3\.00 s \| +500 ms \| +0\.33× \| +8 MiB \| +n/a \| +0 B \| +n/a \|\n`+
		`\| bytebufferpool +\| +50 \| +3000 \| +3\.0× \| +3\.00 ms \| +250 ms \| +0\.25× \| +2\.00 s \| +5 \| +1 \| +n/a \| +n/a \| +n/a \| +n/a \| +n/a \| +n/a \| +n/a \|\n`, out.String())
}

// A size has no label where that would overlap the next one.
func TestSizeTicks(t *testing.T) {
	var labels []string
	for _, tick := range sizeTicks([]measure.Size{64 << 10, 512 << 10, 1 << 20, 4 << 20, 1 << 30}) {
		labels = append(labels, tick.Label)
	}
	assert.Equal(t, []string{"64 KiB", "", "1 MiB", "4 MiB", "1 GiB"}, labels)
}

// The backlog rises and falls twice.
func TestBacklog(t *testing.T) {
	const backlog = 5*miB + 1
	for _, name := range both {
		workers, err := openBacklog(job{Implementation: name, Max: backlog})
		require.NoError(t, err)
		n, err := workers[0].round()
		require.NoError(t, err)
		require.NoError(t, workers[0].between())
		samples := *workers[0].samples
		assert.Zero(t, samples[len(samples)-1].Backlog)
		var tops [2]int64
		for _, s := range samples {
			half := 0
			if s.Moved > 2*n/3*2 {
				half = 1
			}
			tops[half] = max(tops[half], s.Backlog)
		}
		assert.InDelta(t, backlog, tops[0], 3*blockSize)
		assert.InDelta(t, backlog/2, tops[1], 3*blockSize)
	}
}

func TestWriteAt(t *testing.T) {
	for _, name := range targets {
		w := newTarget(name, 3*blockSize)
		require.NoError(t, writeBlocks(w, []int{2, 0, 1}))
		require.NoError(t, checkBlocks(w.Bytes(), 3))
		assert.ErrorContains(t, checkBlocks(w.Bytes(), 2), "196608 bytes of 131072")
		w.Bytes()[blockSize]++
		assert.EqualError(t, checkBlocks(w.Bytes(), 3), "block 1 has number 2")
	}
}

func TestMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	for args, says := range map[string]string{
		"-min 2MiB -max 1MiB":                 "-min 2 MiB is more than -max 1 MiB",
		"-min 0":                              "not between 1 B and",
		"-write lots":                         "not a number of bytes",
		"-goroutines 0":                       "-goroutines 0: at least one",
		"-duration 0s":                        "-duration 0s: some time",
		"-modes closed,open":                  `-modes: "open" is none of closed,dropped,viewed,written,pooled`,
		"-loop -modes pooled":                 `-modes: "pooled" is none of closed,viewed,reset`,
		"-implementations rope":               `-implementations: "rope" is none of bytes.Buffer,mmapbuf.Buffer,`,
		"-loop -queue":                        "more than one workload",
		"-loop -max 1MiB":                     "-max does not apply to the workload loop",
		"-sizes 1MiB":                         "-sizes does not apply to the workload service",
		"-queue -sizes 1MiB,-1":               `-sizes: "-1": not a number of bytes`,
		"-readfile -sizes 100TiB":             "reading a file of 100 TiB may need 400 TiB of memory",
		"file":                                "unexpected argument",
		"-out " + file + "/sub":               "not a directory",
		"-archive -dir " + file:               "not a directory",
		"-archive -dir " + filepath.Dir(file): "has no files",
	} {
		assert.ErrorContains(t, run(t.Context(), strings.Fields(args), &bytes.Buffer{}), says, args)
	}
}
