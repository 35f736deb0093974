package spool

import (
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// BenchmarkWrite fills a File below its size and one beyond it, in turn with a
// mmapbuf.File and an os.File. It reports medians of the time, and of the
// ratio within one turn.
func BenchmarkWrite(b *testing.B) {
	for _, piece := range []int{512, 4 << 10, 64 << 10} {
		size := min(64<<20, piece<<16)
		p := make([]byte, piece)
		fill := func(w io.Writer) time.Duration {
			start := time.Now()
			for range size / piece {
				_, _ = w.Write(p)
			}
			return time.Since(start)
		}
		b.Run(fmt.Sprintf("in=memory/piece=%d", piece), func(b *testing.B) {
			inTurn(b, size, "mmapbuf.File", func() time.Duration {
				var x mmapbuf.Buffer
				defer x.Close()
				return fill(mmapbuf.NewFile(&x))
			}, func() time.Duration {
				f := New(&mmapbuf.Buffer{MaxLen: size}, b.TempDir())
				defer f.Close()
				d := fill(f)
				require.True(b, inMemory(f))
				return d
			})
		})
		b.Run(fmt.Sprintf("in=file/piece=%d", piece), func(b *testing.B) {
			dir := b.TempDir()
			inTurn(b, size, "os.File", func() time.Duration {
				f, err := createTemp(dir)
				require.NoError(b, err)
				defer f.Close()
				return fill(f)
			}, func() time.Duration {
				f := New(&mmapbuf.Buffer{MaxLen: 1}, dir)
				defer f.Close()
				d := fill(f)
				require.False(b, inMemory(f))
				return d
			})
		})
	}
}

// BenchmarkRead reads 64 MiB.
func BenchmarkRead(b *testing.B) {
	const size = 64 << 20
	p := make([]byte, 64<<10)
	read := func(r io.ReadSeeker) time.Duration {
		_, _ = r.Seek(0, io.SeekStart)
		start := time.Now()
		for {
			if _, err := r.Read(p); err != nil {
				return time.Since(start)
			}
		}
	}
	b.Run("in=memory", func(b *testing.B) {
		x := new(mmapbuf.Buffer)
		y := new(mmapbuf.Buffer)
		_, _ = x.Write(make([]byte, size))
		_, _ = y.Write(make([]byte, size))
		want, got := mmapbuf.NewFile(x), New(y, b.TempDir())
		defer x.Close()
		defer got.Close()
		inTurn(b, size, "mmapbuf.File", func() time.Duration { return read(want) }, func() time.Duration { return read(got) })
	})
	b.Run("in=file", func(b *testing.B) {
		want, err := createTemp(b.TempDir())
		require.NoError(b, err)
		defer want.Close()
		_, _ = want.Write(make([]byte, size))
		x := new(mmapbuf.Buffer)
		_, _ = x.Write(make([]byte, size))
		got := New(x, b.TempDir())
		defer got.Close()
		require.NoError(b, got.Rollover())
		inTurn(b, size, "os.File", func() time.Duration { return read(want) }, func() time.Duration { return read(got) })
	})
}

// BenchmarkReadFrom copies a file of 64 MiB to a File that is on disk, and to an
// os.File, which has the kernel copy it.
func BenchmarkReadFrom(b *testing.B) {
	const size = 64 << 20
	dir := b.TempDir()
	src, err := createTemp(dir)
	require.NoError(b, err)
	defer src.Close()
	_, _ = src.Write(make([]byte, size))
	fill := func(w io.Writer) time.Duration {
		_, _ = src.Seek(0, io.SeekStart)
		start := time.Now()
		n, err := io.Copy(w, src)
		d := time.Since(start)
		require.NoError(b, err)
		require.EqualValues(b, size, n)
		return d
	}
	inTurn(b, size, "os.File", func() time.Duration {
		f, err := createTemp(dir)
		require.NoError(b, err)
		defer f.Close()
		return fill(f)
	}, func() time.Duration {
		f := New(&mmapbuf.Buffer{MaxLen: 1 << 20}, dir)
		defer f.Close()
		return fill(f)
	})
}

// BenchmarkRollover moves 64 MiB to a file.
func BenchmarkRollover(b *testing.B) {
	const size = 64 << 20
	dir, p := b.TempDir(), make([]byte, size)
	inTurn(b, size, "os.File.Write", func() time.Duration {
		f, err := createTemp(dir)
		require.NoError(b, err)
		defer f.Close()
		start := time.Now()
		_, _ = f.Write(p)
		return time.Since(start)
	}, func() time.Duration {
		var x mmapbuf.Buffer
		_, _ = x.Write(p)
		f := New(&x, dir)
		defer f.Close()
		start := time.Now()
		_ = f.Rollover()
		return time.Since(start)
	})
}

// inTurn times two functions in turn.
func inTurn(b *testing.B, size int, name string, want, got func() time.Duration) {
	b.Helper()
	want() // to warm up
	var wants, ratios []float64
	for i := 0; b.Loop(); i++ {
		var w, g time.Duration
		if i%2 == 0 {
			w = want()
			g = got()
		} else {
			g = got()
			w = want()
		}
		wants, ratios = append(wants, float64(w)/1e6), append(ratios, float64(g)/float64(w))
	}
	median := func(x []float64) float64 { slices.Sort(x); return x[len(x)/2] }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(wants), name+"-ms")
	b.ReportMetric(median(ratios), "spool.File-ratio")
	b.ReportMetric(float64(size)/(1<<20), "MiB")
}
