// Package benchmarks fills buffers of other libraries as BenchmarkFill of mmapbuf
// fills those of the standard library: with the same names, sizes and writes, so
// that the results can be put side by side. Command compare does that.
//
//	go -C benchmarks test -run '^$' -bench . -timeout 0
package benchmarks

import (
	"bytes"
	"io"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/djherbis/buffer"
	pool "github.com/libp2p/go-buffer-pool"
	"github.com/valyala/bytebufferpool"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A filler makes n bytes out of writes of chunk. It uses nothing that it made
// last time: pools are its own, and new.
type filler struct {
	name string
	fill func(n int, chunk []byte) error
}

// bytes.Buffer is what the others are compared with, for which they must be in
// one process: how often the collector runs depends on what else there is.
var fillers = []filler{
	{"bytes.Buffer", func(n int, chunk []byte) error { return keep(new(bytes.Buffer), n, chunk) }},
	{"mmapbuf.Buffer", func(n int, chunk []byte) error {
		var b mmapbuf.Buffer
		defer b.Close()
		return write(&b, n, chunk)
	}},
	{"io.ReadAll", func(n int, chunk []byte) (err error) {
		kept, err = io.ReadAll(&repeater{chunk: chunk, left: n})
		return err
	}},
	{"bytebufferpool", func(n int, chunk []byte) error { return keep(new(bytebufferpool.ByteBuffer), n, chunk) }},
	// Grows as bytes.Buffer does, and keeps what it grew out of in a pool.
	{"go-buffer-pool", func(n int, chunk []byte) error {
		return keep(&pool.Buffer{Pool: new(pool.BufferPool)}, n, chunk)
	}},
	// A list of blocks, which never copies but cannot be had as one slice. The
	// size of a block is that of its documentation.
	{"djherbis-buffer", func(n int, chunk []byte) error {
		return keep(buffer.NewPartition(buffer.NewMemPool(32<<10)), n, chunk)
	}},
	// On the Go heap, as everywhere but with cgo and jemalloc.
	{"ristretto", func(n int, chunk []byte) error { return fillRistretto(z.NewBuffer(0, ""), n, chunk) }},
	// In a mapping of a temporary file, which it grows with mremap, and syncs
	// whenever it grows: TMPDIR=/dev/shm keeps the disk out of it.
	{"ristretto,mmap", func(n int, chunk []byte) error {
		b, err := z.NewBufferTmp("", 0)
		if err != nil {
			return err
		}
		return fillRistretto(b, n, chunk)
	}},
}

func fillRistretto(b *z.Buffer, n int, chunk []byte) error {
	if err := write(b, n, chunk); err != nil {
		return err
	}
	return b.Release()
}

// kept is a result that must not be optimised away, nor collected too early.
var kept any

func keep(w io.Writer, n int, chunk []byte) error {
	kept = w
	return write(w, n, chunk)
}

func write(w io.Writer, n int, chunk []byte) error {
	for ; n > 0; n -= len(chunk) {
		if _, err := w.Write(chunk); err != nil {
			return err
		}
	}
	return nil
}

// A repeater reads as chunk, again and again.
type repeater struct {
	chunk []byte
	left  int
}

func (r *repeater) Read(p []byte) (n int, err error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n = copy(p[:min(len(p), r.left)], r.chunk)
	r.left -= n
	return n, nil
}

const (
	kiB = 1 << 10
	miB = 1 << 20
	giB = 1 << 30

	// From here on an iteration starts from an equal chance.
	large = 64 * miB
)

func BenchmarkFill(b *testing.B) {
	// Nothing touches this, so it takes no memory. But with next to nothing on
	// the heap the collector would run all the time, as in no real program.
	ballast := make([]byte, 32*miB)
	defer runtime.KeepAlive(&ballast[0])
	chunk := bytes.Repeat([]byte("mmapbuf\n"), 64*kiB/8)
	for _, size := range []int{64 * kiB, 512 * kiB, miB, 4 * miB, large, giB} {
		for _, f := range fillers {
			b.Run("size="+sizeName(size)+"/impl="+f.name, func(b *testing.B) {
				needMemory(b, size)
				b.SetBytes(int64(size))
				fill := func() {
					if err := f.fill(size, chunk); err != nil {
						b.Fatal(err)
					}
				}
				var peak peakMeter
				if size < large {
					// Looking at memory takes longer than this: it has a turn of
					// its own. After it the heap needs its pages back.
					peak.start()
					fill()
					peak.stop()
					for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
						fill()
					}
				}
				for b.Loop() {
					if size < large {
						fill()
						continue
					}
					b.StopTimer()
					peak.start()
					b.StartTimer()
					fill()
					b.StopTimer()
					peak.stop()
					equalChance(b, size)
					b.StartTimer()
				}
				peak.report(b)
				kept = nil
			})
		}
	}
}

func sizeName(size int) string { return strings.ReplaceAll(measure.Size(size).String(), " ", "") }

// needMemory skips a benchmark that takes too much time or memory.
func needMemory(b *testing.B, size int) {
	b.Helper()
	if size > large && testing.Short() {
		b.Skip("-short")
	}
	if size >= large {
		if err := measure.Fits("this benchmark", 5*float64(size)); err != nil {
			b.Skip(err)
		}
		equalChance(b, size)
	}
}

// equalChance makes every implementation start from memory that the system has
// to hand out, and no other: see measure.Warm.
func equalChance(b *testing.B, size int) {
	freeMemory()
	if err := measure.Warm(4 * int64(size)); err != nil {
		b.Skip(err)
	}
}

// freeMemory makes the heap give back what it keeps. It takes two collections to
// empty a sync.Pool.
func freeMemory() {
	kept = nil
	runtime.GC()
	debug.FreeOSMemory()
}

// A peakMeter finds out how much memory was resident at most between start and
// stop, beyond what had been before.
type peakMeter struct{ base, peak int64 }

func (m *peakMeter) start() {
	freeMemory()
	measure.ResetPeak()
	m.base = measure.Resident()
}

func (m *peakMeter) stop() { m.peak = max(m.peak, measure.Peak()-m.base) }

// report adds the peak to the result, where the system tells.
func (m *peakMeter) report(b *testing.B) {
	if m.base > 0 && m.peak > 0 {
		b.ReportMetric(float64(m.peak), "peak-bytes")
	}
}
