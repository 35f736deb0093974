package main

import (
	"image/color"
	"io"
	"runtime"
	"runtime/debug"
	"slices"

	"github.com/dgraph-io/ristretto/v2/z"
	djherbis "github.com/djherbis/buffer"
	pool "github.com/libp2p/go-buffer-pool"
	"github.com/valyala/bytebufferpool"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A filler collects n bytes that arrive in writes of data. It reuses nothing from
// earlier calls: its pools are new.
type filler struct {
	name  string
	color color.Color // nil: not in the pictures
	fill  func(n int, data []byte) error
}

var kindColors = map[string]color.Color{
	"bytes.Buffer":   chart.Vermillion,
	"append":         chart.Orange,
	"mmapbuf.Buffer": chart.Blue,
	"make":           chart.Green,
	"bare mapping":   chart.Ink,
}

// fillers begins with the kinds of buffers that growth compares, too.
var fillers = func() (fillers []filler) {
	for _, kind := range buffers.Kinds {
		fillers = append(fillers, filler{kind.Name, kindColors[kind.Name], func(n int, data []byte) error {
			b, err := kind.Open(n)
			if err != nil {
				return err
			}
			return fill(b, n, data)
		}})
	}
	return append(fillers, []filler{
		{"mmapbuf.Buffer/NoHugePages", nil, into(func() io.Writer { return &mmapbuf.Buffer{NoHugePages: true} })},
		{"mmapbuf.Buffer/viewed", nil, into(func() io.Writer { return new(viewed) })},
		{"io.ReadAll", chart.Gray, func(n int, data []byte) (err error) {
			kept, err = io.ReadAll(io.LimitReader(endless(data), int64(n)))
			return err
		}},
		{"bytebufferpool", chart.Purple, into(func() io.Writer { return new(bytebufferpool.ByteBuffer) })},
		// Grows like bytes.Buffer, and returns its old arrays to a pool.
		{"go-buffer-pool", chart.Olive, into(func() io.Writer { return &pool.Buffer{Pool: new(pool.BufferPool)} })},
		// A list of blocks, which are never copied but are not one slice. The size of
		// a block is that of its documentation.
		{"djherbis-buffer", chart.SkyBlue, into(func() io.Writer { return djherbis.NewPartition(djherbis.NewMemPool(32 << 10)) })},
		// On the Go heap, unless it is built with cgo and jemalloc.
		{"ristretto", chart.Brown, into(func() io.Writer { return ristretto{z.NewBuffer(0, "")} })},
		// In a mapping of a temporary file that grows with mremap. The file is synced
		// whenever it grows; TMPDIR=/dev/shm avoids writes to a disk.
		{"ristretto/mmap", nil, func(n int, data []byte) error {
			b, err := z.NewBufferTmp("", 0)
			if err != nil {
				return err
			}
			return fill(ristretto{b}, n, data)
		}},
	}...)
}()

// kept keeps a result from being optimized away or collected too early.
var kept any

// into returns a function that fills what open returns.
func into(open func() io.Writer) func(n int, data []byte) error {
	return func(n int, data []byte) error { return fill(open(), n, data) }
}

// fill writes n bytes to w, and closes it if it can be closed.
func fill(w io.Writer, n int, data []byte) error {
	kept = w
	err := write(w, n, data)
	if c, ok := w.(io.Closer); ok && err == nil {
		err = c.Close()
	}
	return err
}

type viewed struct{ mmapbuf.Buffer }

func (v *viewed) Close() error {
	kept = v.Bytes()
	return nil
}

type ristretto struct{ *z.Buffer }

func (r ristretto) Close() error { return r.Release() }

// endless is a Reader that repeats itself.
type endless []byte

func (e endless) Read(p []byte) (int, error) { return copy(p, e), nil }

func fillerNames() (names []string) {
	for _, f := range fillers {
		names = append(names, f.name)
	}
	return names
}

// openFill returns a worker that fills one buffer after another.
func openFill(j job) ([]worker, error) {
	i := slices.IndexFunc(fillers, func(f filler) bool { return f.name == j.Implementation })
	data := measure.Noise(blockSize)
	work := func() error { return fillers[i].fill(int(j.Max), data) }
	// Nothing touches the ballast, so it takes no memory. Without it the heap
	// would be next to empty, and the collector would run all the time.
	ballast := make([]byte, 32*miB)
	peak, err := peakOf(work)
	between := func() error {
		// Each large buffer starts with memory that the kernel has to provide.
		if j.Max >= 64*miB {
			freeMemory()
		}
		runtime.KeepAlive(ballast)
		return nil
	}
	return []worker{{
		round:   func() (int64, error) { return int64(j.Max), work() },
		between: between,
		peak:    peak,
	}}, err
}

// peakOf returns how much memory is resident at most while work is done once.
func peakOf(work func() error) (int64, error) {
	freeMemory()
	measure.ResetPeak()
	base := measure.Resident()
	err := work()
	peak := measure.Peak() - base
	freeMemory()
	return peak, err
}

// freeMemory returns the free memory of the heap to the system. It takes two
// collections to empty a sync.Pool.
func freeMemory() {
	runtime.KeepAlive(kept)
	kept = nil
	runtime.GC()
	debug.FreeOSMemory()
}
