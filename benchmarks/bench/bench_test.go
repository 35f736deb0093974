// Package bench fills buffers of other libraries, as BenchmarkFill of mmapbuf
// does with those of the standard library: the same names, sizes and writes, so
// that the results of both can be put side by side. Package compare does that.
package bench

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2/z"
	"github.com/djherbis/buffer"
	pool "github.com/libp2p/go-buffer-pool"
	"github.com/valyala/bytebufferpool"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
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
	{"bytes.Buffer", func(n int, chunk []byte) error {
		var b bytes.Buffer
		for b.Len() < n {
			if _, err := b.Write(chunk); err != nil {
				return err
			}
		}
		sink = b.Bytes()
		return nil
	}},
	{"mmapbuf.Buffer", func(n int, chunk []byte) error {
		var b mmapbuf.Buffer
		for b.Len() < n {
			if _, err := b.Write(chunk); err != nil {
				return err
			}
		}
		return b.Close()
	}},
	{"io.ReadAll", func(n int, chunk []byte) (err error) {
		sink, err = io.ReadAll(&repeater{chunk: chunk, left: n})
		return err
	}},
	{"bytebufferpool", func(n int, chunk []byte) error {
		var b bytebufferpool.ByteBuffer
		for b.Len() < n {
			if _, err := b.Write(chunk); err != nil {
				return err
			}
		}
		sink = b.B
		return nil
	}},
	// Grows as bytes.Buffer does, and keeps what it grew out of in a pool.
	{"go-buffer-pool", func(n int, chunk []byte) error {
		b := pool.Buffer{Pool: new(pool.BufferPool)}
		for b.Len() < n {
			if _, err := b.Write(chunk); err != nil {
				return err
			}
		}
		sink = b.Bytes()
		return nil
	}},
	// A list of blocks, which never copies but cannot be had as one slice. The
	// size of a block is that of its documentation.
	{"djherbis-buffer", func(n int, chunk []byte) error {
		b := buffer.NewPartition(buffer.NewMemPool(32 << 10))
		// Its Len goes through all blocks.
		for done := 0; done < n; done += len(chunk) {
			if _, err := b.Write(chunk); err != nil {
				return err
			}
		}
		kept = b
		return nil
	}},
	// On the Go heap, as everywhere but with cgo and jemalloc.
	{"ristretto", func(n int, chunk []byte) error {
		return fillRistretto(z.NewBuffer(0, ""), n, chunk)
	}},
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
	for b.LenNoPadding() < n {
		if _, err := b.Write(chunk); err != nil {
			return err
		}
	}
	return b.Release()
}

// Results that must not be optimised away.
var (
	sink []byte
	kept buffer.Buffer
)

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
	for _, step := range []struct {
		name string
		size int
	}{
		{"64KiB", 64 * kiB},
		{"512KiB", 512 * kiB},
		{"1MiB", 1 * miB},
		{"4MiB", 4 * miB},
		{"64MiB", 64 * miB},
		{"1GiB", 1 * giB},
	} {
		size := step.size
		for _, f := range fillers {
			b.Run(fmt.Sprintf("size=%s/impl=%s", step.name, f.name), func(b *testing.B) {
				needBench(b, size)
				chunk := bytes.Repeat([]byte("mmapbuf\n"), 64*kiB/8)
				b.SetBytes(int64(size))
				var peak peakMeter
				if size < large {
					// Looking at memory takes longer than this: it has a turn of
					// its own. After it the heap needs its pages back.
					peak.start()
					fill(b, f, size, chunk)
					peak.stop()
					for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
						fill(b, f, size, chunk)
					}
				}
				for b.Loop() {
					if size < large {
						fill(b, f, size, chunk)
						continue
					}
					b.StopTimer()
					peak.start()
					b.StartTimer()
					fill(b, f, size, chunk)
					b.StopTimer()
					peak.stop()
					equalChance(4 * size)
					b.StartTimer()
				}
				peak.report(b)
				sink, kept = nil, nil
			})
		}
	}
}

func fill(b *testing.B, f filler, size int, chunk []byte) {
	if err := f.fill(size, chunk); err != nil {
		b.Fatal(err)
	}
}

// needBench skips a benchmark that takes too much time or memory.
func needBench(b *testing.B, size int) {
	b.Helper()
	if size > large && testing.Short() {
		b.Skip("-short")
	}
	if size < large {
		return
	}
	need := 5 * int64(size)
	if free, ok := system.Field(system.Root, "proc/meminfo", "MemAvailable"); ok && free < need {
		b.Skipf("needs %d MiB of free memory, there are %d", need/miB, free/miB)
	}
	equalChance(4 * size)
}

// equalChance makes every implementation start from memory that the system
// has to hand out, and no other: the heap gives back what it keeps, and n bytes
// are touched and given back. (Many virtual machines hand free memory to their
// host; the first touch then takes ten times as long as it does elsewhere.)
func equalChance(n int) {
	freeMemory()
	var b mmapbuf.Buffer
	defer b.Close()
	if err := b.Reserve(n); err != nil {
		return
	}
	for zeros := make([]byte, miB); b.Len() < n; {
		if _, err := b.Write(zeros); err != nil {
			return
		}
	}
}

// freeMemory makes the heap give back what it keeps. It takes two collections to
// empty a sync.Pool.
func freeMemory() {
	sink, kept = nil, nil
	runtime.GC()
	debug.FreeOSMemory()
}

// A peakMeter finds out how much memory was resident at most between start and
// stop, beyond what had been before.
type peakMeter struct {
	base, peak int64
}

func (m *peakMeter) start() {
	freeMemory()
	system.ResetPeak()
	m.base = system.Resident()
}

func (m *peakMeter) stop() { m.peak = max(m.peak, system.Peak()-m.base) }

// report adds the peak to the result, where the system tells.
func (m *peakMeter) report(b *testing.B) {
	if m.base > 0 && m.peak > 0 {
		b.ReportMetric(float64(m.peak), "peak-bytes")
	}
}
