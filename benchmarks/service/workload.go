package main

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A workload is a kind of work that implementations are compared by.
type workload struct {
	name            string
	about           string
	flags           []string // that apply to it, beside those that apply to all
	modes           []string
	sizes           []int64  // of buffers; 0: those of -min and -max
	implementations []string // first what the others are compared with
	columns         []column
	// open returns the workers for a job.
	open func(j job) ([]worker, error)
}

// A worker repeats a round in a goroutine of its own.
type worker struct {
	round   func() (n int, err error) // timed; n is in bytes
	between func() error              // not timed; nil: nothing to do
}

const miB = 1 << 20

var workloads = []workload{
	{
		name:            "service",
		about:           "jobs of many sizes in many goroutines",
		flags:           []string{"min", "max", "write", "goroutines", "settle"},
		modes:           []string{"closed", "dropped", "viewed", "pooled"},
		sizes:           []int64{0},
		implementations: append(slices.Clone(buffers.Names), bytePool, chunkList),
		columns:         []column{jobRate, throughput, p50, p99, worst, collections, forced, cpu, cpuPerGB, peak, final},
		open:            openJobs,
	},
	{
		name:            "loop",
		about:           "jobs of one size after another in one goroutine",
		flags:           []string{"sizes", "write"},
		modes:           []string{"closed", "viewed", "reset"},
		sizes:           []int64{2 * miB, 4 * miB, 16 * miB, 64 * miB},
		implementations: buffers.Names,
		columns:         []column{perRound, throughput, collections, cpuPerGB, peak},
		open:            openJobs,
	},
	{
		name:            "queue",
		about:           "a queue with a constant backlog, written and read in turn in blocks of 64 KiB",
		flags:           []string{"sizes"},
		modes:           []string{"steady"},
		sizes:           []int64{miB, 64 * miB, 512 * miB},
		implementations: buffers.Names,
		columns:         []column{throughput, longestWrite, peak, final},
		open:            openQueue,
	},
	{
		name:            "readfile",
		about:           "a file that is in the page cache, read into a new buffer again and again",
		flags:           []string{"sizes"},
		modes:           []string{"whole"},
		sizes:           []int64{512 * miB},
		implementations: append(slices.Clone(buffers.Names), "os.ReadFile", "io.ReadAll"),
		columns:         []column{perRound, throughput, cpuPerGB, peak},
		open:            openFile,
	},
}

// A job tells a child what to do.
type job struct {
	Workload, Mode, Implementation string

	Min, Max   int64 // bytes in a buffer
	Write      int   // bytes in a single write
	Goroutines int
	Duration   time.Duration
	Settle     time.Duration // from the last round until the final memory is read
	Live       int64         // bytes of live objects beside the buffers
	Path       string        // of the file to read
}

// String names the job for progress and errors.
func (j job) String() string {
	return fmt.Sprintf("%s %s, %s, %s", j.Workload, j.Mode, j.size(), j.Implementation)
}

// size prints the size of the buffers.
func (j job) size() string {
	if j.Min == j.Max {
		return command.Size(j.Max).String()
	}
	return fmt.Sprintf("%v to %v", command.Size(j.Min), command.Size(j.Max))
}

// memory returns how many bytes are in buffers at most.
func (j job) memory() int64 {
	n := float64(j.Goroutines) * float64(j.Max) // may be more than an int64
	return int64(min(n, command.MaxSize))
}

// An outcome is what a child reports.
type outcome struct {
	measure.Figures // Elapsed is from the first round to the last, Size of all rounds

	Rounds          int
	P50, P99, Worst time.Duration // of a round
}

// serve is the child.
func serve(j job) (o outcome, err error) {
	i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == j.Workload })
	if i < 0 {
		return o, fmt.Errorf("no workload is called %q", j.Workload)
	}
	if err := measure.Warm(measure.PeakFactor*j.memory() + 2*j.Live); err != nil {
		return o, fmt.Errorf("warming up: %w", err)
	}
	live := liveHeap(j.Live)
	meter := measure.Start()
	workers, err := workloads[i].open(j)
	if err != nil {
		return o, err
	}

	began := time.Now()
	var group errgroup.Group
	times := make([][]time.Duration, len(workers))
	sizes := make([]int64, len(workers))
	for g, w := range workers {
		group.Go(func() (err error) {
			times[g], sizes[g], err = w.repeat(began.Add(j.Duration))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return o, err
	}
	elapsed := time.Since(began)
	o.Figures = meter.Stop()
	o.Elapsed = elapsed

	// Nothing runs meanwhile but what the runtime and the package do on their own.
	time.Sleep(j.Settle)
	o.Final = meter.Stop().Final
	runtime.KeepAlive(workers)
	runtime.KeepAlive(live)

	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	o.Rounds = len(all)
	o.P50, o.P99, o.Worst = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
	for _, n := range sizes {
		o.Size += n
	}
	return o, nil
}

// repeat does rounds until the time is over, at least one, and returns how long
// each took and the bytes of all.
func (w worker) repeat(end time.Time) (times []time.Duration, size int64, err error) {
	for now := time.Now(); len(times) == 0 || now.Before(end); {
		n, err := w.round()
		if err != nil {
			return nil, 0, err
		}
		times = append(times, time.Since(now))
		size += int64(n)
		if w.between != nil {
			if err := w.between(); err != nil {
				return nil, 0, err
			}
		}
		now = time.Now()
	}
	return times, size, nil
}

// A node is a small object with pointers.
type node struct {
	left, right *node
	_           [48]byte
}

// liveHeap returns a tree of about size bytes. The collector stays off while
// the tree grows, for it would mark it many times.
func liveHeap(size int64) *node {
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	return newTree(size / 64)
}

func newTree(nodes int64) *node {
	if nodes <= 0 {
		return nil
	}
	left := (nodes - 1) / 2
	return &node{left: newTree(left), right: newTree(nodes - 1 - left)}
}

// newNoise returns n pseudo-random bytes, always the same.
func newNoise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
}

// openJobs returns workers that fill a buffer and end as the mode says. Each
// implementation gets the same sizes.
func openJobs(j job) ([]worker, error) {
	if _, err := newBuffer(j.Implementation); err != nil {
		return nil, err
	}
	open := func() any { b, _ := newBuffer(j.Implementation); return b }
	pool := &sync.Pool{New: open}
	noise := newNoise(j.Write)
	workers := make([]worker, j.Goroutines)
	for g := range workers {
		random := rand.New(rand.NewPCG(1, uint64(g)))
		var kept buffer // in mode reset
		workers[g].round = func() (size int, err error) {
			size = int(float64(j.Min) * math.Pow(float64(j.Max)/float64(j.Min), random.Float64()))
			var b buffer
			switch {
			case j.Mode == "pooled" && !pools(j.Implementation):
				b = pool.Get().(buffer)
			case j.Mode == "reset" && kept != nil:
				b = kept
			default:
				b = open().(buffer)
			}
			for n := 0; n < size; n += len(noise) {
				if _, err := b.Write(noise[:min(len(noise), size-n)]); err != nil {
					return 0, err
				}
			}

			if j.Mode == "viewed" {
				return size, look(b.Bytes(), size, noise)
			}
			if n, err := b.WriteTo(io.Discard); err != nil {
				return 0, err
			} else if n != int64(size) {
				return 0, fmt.Errorf("the buffer held %d bytes of %d", n, size)
			}
			switch {
			case j.Mode == "closed" || j.Mode == "pooled" && pools(j.Implementation):
				err = b.Close()
			case j.Mode == "pooled":
				b.Reset()
				pool.Put(b)
			case j.Mode == "reset":
				b.Reset()
				kept = b
			}
			return size, err
		}
	}
	return workers, nil
}

// look compares a few bytes of a view with those that were written.
func look(view []byte, size int, noise []byte) error {
	if len(view) != size {
		return fmt.Errorf("the view has %d bytes of %d", len(view), size)
	}
	for _, i := range []int{0, size / 2, size - 1} {
		if view[i] != noise[i%len(noise)] {
			return fmt.Errorf("byte %d of %d is not what was written", i, size)
		}
	}
	return nil
}

// openQueue returns a worker that writes to a queue, the backlog of which it has
// written before, and reads as much between.
func openQueue(j job) ([]worker, error) {
	b, err := buffers.New(j.Implementation)
	if err != nil {
		return nil, err
	}
	block, read := newNoise(64<<10), make([]byte, 64<<10)
	for int64(b.Len()) < j.Max {
		if _, err := b.Write(block); err != nil {
			return nil, err
		}
	}
	return []worker{{
		round: func() (int, error) { return b.Write(block) },
		between: func() error {
			_, err := io.ReadFull(b, read)
			return err
		},
	}}, nil
}

// openFile returns a worker that reads a file into memory.
func openFile(j job) ([]worker, error) {
	return []worker{{round: func() (int, error) {
		n, err := readFile(j.Path, j.Implementation)
		if err == nil && n != j.Max {
			err = fmt.Errorf("%d bytes of %d were read", n, j.Max)
		}
		return int(n), err
	}}}, nil
}

// readFile returns the number of bytes that it has read.
func readFile(path, implementation string) (int64, error) {
	if implementation == "os.ReadFile" {
		p, err := os.ReadFile(path)
		return int64(len(p)), err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if implementation == "io.ReadAll" {
		p, err := io.ReadAll(f)
		return int64(len(p)), err
	}
	b, err := buffers.New(implementation)
	if err != nil {
		return 0, err
	}
	defer b.Close()
	return b.(io.ReaderFrom).ReadFrom(f)
}

// writeFile writes size bytes as a file, which leaves it in the page cache.
func writeFile(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if os.IsExist(err) {
		return nil // written for another implementation
	} else if err != nil {
		return err
	}
	defer f.Close()
	for noise := newNoise(miB); size > 0; size -= int64(len(noise)) {
		if _, err := f.Write(noise[:min(int64(len(noise)), size)]); err != nil {
			return err
		}
	}
	return f.Close()
}
