package main

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/bufferstest"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/commandtest"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

func TestMain(m *testing.M) { commandtest.Main(m, main) }

const (
	kiB = 1 << 10
	miB = 1 << 20
)

func TestPass(t *testing.T) {
	for _, test := range []struct {
		name           string
		backlog, block int64
	}{
		{"small", 100, 10},
		{"two blocks", 16, 8},
		{"odd", 10_000, 77},
		{"mapped", 8 * miB, 64 * kiB},
		{"mapped, odd", 5*miB + 1, 12_345},
	} {
		t.Run(test.name, func(t *testing.T) {
			bufferstest.Each(t, func(t *testing.T, q buffers.Buffer) {
				samples, err := pass(t.Context(), q, test.backlog, test.block, 0)
				require.NoError(t, err)
				assert.Zero(t, q.Len())

				// It rises and falls twice, and is moved through by as much as
				// passed says.
				var top, second int64
				half := samples[len(samples)-1].Moved / 3 * 2
				for i, s := range samples {
					if s.Moved < half {
						top = max(top, s.Backlog)
					} else {
						second = max(second, s.Backlog)
					}
					if i > 0 {
						assert.Greater(t, s.Moved, samples[i-1].Moved)
					}
				}
				within := float64(3 * test.block)
				assert.InDelta(t, test.backlog, top, within)
				assert.InDelta(t, test.backlog/2, second, within)
				assert.InDelta(t, 2*passed(test.backlog), samples[len(samples)-1].Moved, 8*within)
			})
		})
	}
}

func TestPassed(t *testing.T) {
	assert.EqualValues(t, 450, passed(100), "up: 200 in; down: 100 in; the same for half of it")
}

// A block that is lost, damaged or in the wrong place is found.
func TestFaultyQueue(t *testing.T) {
	for name, test := range map[string]struct {
		write func(n int, p []byte) []byte
		says  string
	}{
		"lost": {func(n int, p []byte) []byte {
			if n == 10 {
				return nil
			}
			return p
		}, "block 10 is not what was written"},
		"damaged": {func(n int, p []byte) []byte {
			if n == 20 {
				p = []byte(string(p))
				p[len(p)-1] ^= 1
			}
			return p
		}, "block 20 is not what was written"},
		"cut off": {func(n int, p []byte) []byte {
			if n > 1 {
				return nil
			}
			return p[:50]
		}, "block 1: unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			bufferstest.Each(t, func(t *testing.T, q buffers.Buffer) {
				_, err := pass(t.Context(), &faulty{Buffer: q, write: test.write}, 10*kiB, 100, 0)
				assert.EqualError(t, err, test.says)
			})
		})
	}
}

// A faulty queue has something else written to it.
type faulty struct {
	buffers.Buffer
	n     int
	write func(n int, p []byte) []byte
}

func (f *faulty) Write(p []byte) (int, error) {
	f.n++
	if _, err := f.Buffer.Write(f.write(f.n, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func TestCancelled(t *testing.T) {
	bufferstest.Each(t, func(t *testing.T, q buffers.Buffer) {
		ctx, cancel := context.WithCancel(t.Context())
		half := &faulty{Buffer: q, write: func(n int, p []byte) []byte {
			if n == 2*32 { // half of what is in it then has been read
				cancel()
			}
			return p
		}}
		_, err := pass(ctx, half, 8*miB, 64*kiB, 0)
		require.ErrorIs(t, err, context.Canceled)
		assert.EqualError(t, err, "stopped with 2 MiB in the queue: context canceled")
	})

	// The same in the middle of what is measured: see buffers.Measure.
	bufferstest.AllGivenBack(t, func() {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := buffers.Measure("mmapbuf.Buffer", 0, func(b buffers.Buffer) error {
			half := &faulty{Buffer: b, write: func(n int, p []byte) []byte {
				if n == 100 {
					cancel()
				}
				return p
			}}
			_, err := pass(ctx, half, 64*miB, 64*kiB, 0)
			return err
		})
		assert.ErrorIs(t, err, context.Canceled)
	})

	// And for the program, which kills its child.
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	err := run(ctx, []string{"-backlog", "1MiB", "-out", t.TempDir()})
	assert.ErrorContains(t, err, "bytes.Buffer, run 1: context canceled")
}

// A queue takes up what is in it, and a little more.
func TestMemory(t *testing.T) {
	if system.Resident() == 0 {
		t.Skip("memory is not known on this system")
	}
	var probe mmapbuf.Buffer
	defer probe.Close()
	probe.Grow(2 * miB)
	if mmapbuf.ReadStats().Mappings == 0 {
		t.Skip("no mappings here")
	}
	const backlog = 256 * miB
	var got outcome
	_, err := measure.Run(t.Context(), job{backlog, 64 * kiB, "mmapbuf.Buffer"}, &got)
	require.NoError(t, err)
	for _, s := range got.Samples {
		require.InDelta(t, s.Backlog, s.Resident, 64*miB, "after %d bytes", s.Moved)
	}
	assert.EqualValues(t, passed(backlog), got.Size)
}

func TestProgram(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	cmd, stdout, stderr := commandtest.Program(t, "-runs", "2", "-backlog", "8MiB", "-block", "5000B", "-out", dir)
	require.NoError(t, cmd.Run(), stderr)
	assert.Empty(t, stderr.String(), "no bar where there is no terminal")
	assert.Contains(t, stdout.String(), "work: a queue that grows to 8 MiB, runs empty, and does so again to half as much, in blocks of 4.88 KiB; runs of each, in turn: 2\n")
	for _, buffer := range buffers.Names {
		assert.Regexp(t, fmt.Sprintf(`\n\| backlog of 8 MiB +\| +%s \| +36\.0 MiB \|(.*\|){5}\n`, buffer), stdout.String())
	}
	if system.Resident() == 0 {
		assert.Contains(t, stdout.String(), "No picture")
		return
	}
	assert.Contains(t, stdout.String(), filepath.Join(dir, "pipeline.svg"))
	f, err := os.Open(filepath.Join(dir, "pipeline.png"))
	require.NoError(t, err)
	defer f.Close()
	_, err = png.Decode(f)
	assert.NoError(t, err)
	svg, err := os.ReadFile(filepath.Join(dir, "pipeline.svg"))
	require.NoError(t, err)
	d := xml.NewDecoder(strings.NewReader(string(svg)))
	for err == nil {
		_, err = d.Token()
	}
	assert.Equal(t, io.EOF, err, "the SVG is well-formed")
	for _, name := range append(buffers.Names, "what is in the queue") {
		assert.Contains(t, string(svg), name)
	}
}

func TestMistakes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	commandtest.RequireHelp(t, "pipeline")
	for _, test := range []struct {
		args   string
		status int
		says   string
	}{
		{"-backlog 0", 2, "at least one byte"},
		{"-backlog lots", 2, `invalid value "lots" for flag -backlog`},
		{"-backlog 100KiB", 2, "-backlog 100 KiB is less than two blocks of 64 KiB"},
		{"-block 7", 2, "-block 7 B: at least 8 bytes"},
		{"-block -1", 2, "not a number of bytes"},
		{"-runs 0", 2, "at least one run"},
		{"-out=", 2, "-out names no directory"},
		{"-colour", 2, "-colour"},
		{"file", 2, "no arguments but flags"},
		{"-out " + filepath.Join(file, "sub"), 1, "output directory"},
		{"-backlog 100TiB -out " + filepath.Dir(file), 1, "-backlog 100 TiB may need 400 TiB of memory in a bytes.Buffer"},
	} {
		t.Run(test.args, func(t *testing.T) {
			if _, ok := system.Available(system.Root); !ok && strings.Contains(test.says, "may need") {
				t.Skip("memory is not known on this system")
			}
			commandtest.RequireFails(t, test.status, test.says, "pipeline", strings.Fields(test.args)...)
		})
	}
}
