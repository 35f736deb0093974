package main

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/dgraph-io/ristretto/v2/z"
	djherbis "github.com/djherbis/buffer"
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

// Variants, which have a slash in their names, are not in the pictures.
var fillers = append([]filler{
	{"bytes.Buffer", func(n int, chunk []byte) error { return keep(new(bytes.Buffer), n, chunk) }},
	{"mmapbuf.Buffer", func(n int, chunk []byte) error { return fillMmapbuf(&mmapbuf.Buffer{}, n, chunk) }},
	{"mmapbuf.Buffer/NoHugePages", func(n int, chunk []byte) error {
		return fillMmapbuf(&mmapbuf.Buffer{NoHugePages: true}, n, chunk)
	}},
	{"mmapbuf.Buffer/viewed", func(n int, chunk []byte) error {
		var b mmapbuf.Buffer
		err := write(&b, n, chunk)
		kept = b.Bytes()
		return err
	}},
	{"append", func(n int, chunk []byte) error {
		kept = fillSlice(nil, n, chunk)
		return nil
	}},
	{"make", func(n int, chunk []byte) error {
		kept = fillSlice(make([]byte, 0, n), n, chunk)
		return nil
	}},
	{"io.ReadAll", func(n int, chunk []byte) (err error) {
		kept, err = io.ReadAll(io.LimitReader(endless(chunk), int64(n)))
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
		return keep(djherbis.NewPartition(djherbis.NewMemPool(32<<10)), n, chunk)
	}},
	// On the Go heap, as everywhere but with cgo and jemalloc.
	{"ristretto", func(n int, chunk []byte) error { return fillRistretto(z.NewBuffer(0, ""), n, chunk) }},
	// In a mapping of a temporary file, which it grows with mremap, and syncs
	// whenever it grows: TMPDIR=/dev/shm keeps the disk out of it.
	{"ristretto/mmap", func(n int, chunk []byte) error {
		b, err := z.NewBufferTmp("", 0)
		if err != nil {
			return err
		}
		return fillRistretto(b, n, chunk)
	}},
}, floors...)

func fillMmapbuf(b *mmapbuf.Buffer, n int, chunk []byte) error {
	defer b.Close()
	return write(b, n, chunk)
}

func fillSlice(p []byte, n int, chunk []byte) []byte {
	for len(p) < n {
		p = append(p, chunk[:min(len(chunk), n-len(p))]...)
	}
	return p
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
		if _, err := w.Write(chunk[:min(len(chunk), n)]); err != nil {
			return err
		}
	}
	return nil
}

func fillerNames() (names []string) {
	for _, f := range fillers {
		names = append(names, f.name)
	}
	return names
}

// openFill returns a worker that fills one buffer after another.
func openFill(_ context.Context, j job) ([]worker, error) {
	var fill func() error
	chunk := bytes.Repeat([]byte("mmapbuf\n"), 8<<10)
	for _, f := range fillers {
		if f.name == j.Implementation {
			fill = func() error { return f.fill(int(j.Max), chunk) }
		}
	}
	// Nothing touches this, so it takes no memory. But with next to nothing on
	// the heap the collector would run all the time, as in no real program.
	ballast := make([]byte, 32*miB)
	w := worker{round: func() (int64, error) { return j.Max, fill() }}
	var err error
	if w.peak, err = peakOf(fill); err != nil {
		return nil, err
	}
	runtime.KeepAlive(ballast)
	w.between = func() error {
		// Each large buffer starts from memory that the system has to hand out.
		if j.Max >= 64*miB {
			freeMemory()
		}
		runtime.KeepAlive(ballast)
		return nil
	}
	return []worker{w}, nil
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

// freeMemory makes the heap give back what it keeps. It takes two collections to
// empty a sync.Pool.
func freeMemory() {
	runtime.KeepAlive(kept)
	kept = nil
	runtime.GC()
	debug.FreeOSMemory()
}
