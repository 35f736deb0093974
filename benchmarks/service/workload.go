package main

import (
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A workload is a kind of work that implementations are compared by.
type workload struct {
	name            string
	about           string
	flags           []string // that apply to it, apart from those that apply to all
	modes           []string
	sizes           []measure.Size // of buffers; 0: from -min to -max
	implementations []string       // the others are compared with the first
	columns         []column
	// prepare does what is done once for all jobs, and may change cfg; nil: nothing.
	prepare func(cfg *config) (cleanup func(), err error)
	// open returns the workers for a job.
	open func(j job) ([]worker, error)
	// draw writes pictures, and their names to w; nil: there are none.
	draw func(w io.Writer, cfg config, results []result) error
}

// A worker repeats a round in a goroutine of its own.
type worker struct {
	round   func() (n int64, err error) // timed; n is in bytes
	between func() error                // not timed; nil: nothing to do
	peak    int64                       // of a single round; 0: the peak of all rounds counts
	samples *[]sample                   // nil: there are none
}

const (
	miB       = 1 << 20
	blockSize = 64 << 10
)

var workloads = []workload{
	{
		name:            "service",
		about:           "jobs of many sizes in many goroutines",
		flags:           []string{"min", "max", "write", "goroutines", "settle"},
		modes:           []string{"closed", "dropped", "viewed", "pooled"},
		sizes:           []measure.Size{0},
		implementations: all,
		columns:         []column{jobRate, throughput, p50, p99, worst, collections, forced, cpu, cpuPerGB, peak, final},
		open:            openJobs,
		draw:            drawService,
	},
	{
		name:            "loop",
		about:           "jobs of one size after another in one goroutine",
		flags:           []string{"sizes", "write"},
		modes:           []string{"closed", "viewed", "reset"},
		sizes:           []measure.Size{2 * miB, 4 * miB, 16 * miB, 64 * miB},
		implementations: both,
		columns:         []column{perRound, throughput, collections, cpuPerGB, peak},
		open:            openJobs,
	},
	{
		name:            "queue",
		about:           "a queue with a constant backlog, written and read in turn in blocks of 64 KiB",
		flags:           []string{"sizes"},
		modes:           []string{"steady"},
		sizes:           []measure.Size{miB, 64 * miB, 512 * miB},
		implementations: both,
		columns:         []column{throughput, longestWrite, peak, final},
		open:            openQueue,
	},
	{
		name:            "backlog",
		about:           "a queue that grows, runs empty, and does so again to half as much",
		flags:           []string{"sizes"},
		modes:           []string{"up and down"},
		sizes:           []measure.Size{512 * miB},
		implementations: both,
		columns:         []column{medianTime, throughput, peak, final},
		open:            openBacklog,
		draw:            drawBacklog,
	},
	{
		name:            "readfile",
		about:           "a file that is in the page cache, read into a new buffer again and again",
		flags:           []string{"sizes"},
		modes:           []string{"whole"},
		sizes:           []measure.Size{512 * miB},
		implementations: append(both[:2:2], "os.ReadFile", "io.ReadAll"),
		columns:         []column{perRound, throughput, cpuPerGB, peak},
		prepare:         writeFiles,
		open:            openReadFile,
	},
	{
		name:            "fill",
		about:           "buffers of other libraries, filled in writes of 64 KiB",
		flags:           []string{"sizes"},
		modes:           []string{"one after another"},
		sizes:           []measure.Size{64 << 10, 512 << 10, miB, 4 * miB, 64 * miB, 1024 * miB},
		implementations: fillerNames(),
		columns:         []column{medianTime, peak},
		open:            openFill,
		draw:            drawFill,
	},
	{
		name:            "writeat",
		about:           "blocks of 64 KiB written at random by 64 goroutines",
		flags:           []string{"sizes"},
		modes:           []string{"random order"},
		sizes:           []measure.Size{64 * miB, 1024 * miB},
		implementations: targets,
		columns:         []column{medianTime, peak},
		open:            openWriteAt,
	},
	{
		name:            "archive",
		about:           "a tree of files packed into a buffer and read back",
		flags:           []string{"dir"},
		modes:           []string{"tar", "zip"},
		implementations: both,
		columns:         []column{perRound, throughput, collections, cpuPerGB, peak},
		prepare:         survey,
		open:            openArchive,
	},
	{
		name:            "columns",
		about:           "a Parquet file written into a buffer and read back",
		flags:           []string{"sizes"},
		modes:           []string{"round trip"},
		sizes:           []measure.Size{100 * miB},
		implementations: both,
		columns:         []column{perRound, throughput, collections, cpuPerGB, peak},
		open:            openColumns,
	},
}

// A job tells a child what to do.
type job struct {
	Workload, Mode, Implementation string

	Min, Max   measure.Size // of a buffer
	Write      measure.Size // of a single write
	Goroutines int
	Duration   time.Duration
	Settle     time.Duration // from the last round until the final memory is read
	Dir        string        // with the files to pack or to read
}

// String names the job for progress and errors.
func (j job) String() string {
	return fmt.Sprintf("%s %s, %s, %s", j.Workload, j.Mode, j.size(), j.Implementation)
}

// size prints the size of the buffers.
func (j job) size() string {
	if j.Min == j.Max {
		return j.Max.String()
	}
	return fmt.Sprintf("%v to %v", j.Min, j.Max)
}

// memory returns how many bytes a job may need.
func (j job) memory() float64 {
	return measure.PeakFactor * float64(j.Goroutines) * float64(j.Max)
}

// An outcome is what a child reports.
type outcome struct {
	measure.Figures // Elapsed is from the first round to the last, Size of all rounds

	Rounds          int
	P50, P99, Worst time.Duration // of a round
	Samples         []sample      // of the first round
}

// serve is the child. It does j.
func serve(j job) (o outcome, err error) {
	i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == j.Workload })
	if err := measure.Warm(int64(j.memory())); err != nil {
		return o, fmt.Errorf("warming up: %w", err)
	}
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
	if samples := workers[0].samples; samples != nil {
		o.Samples = *samples
	}
	if workers[0].peak > 0 {
		o.Peak = workers[0].peak
	}

	// Meanwhile nothing runs but the runtime and the package.
	time.Sleep(j.Settle)
	o.Final = meter.Stop().Final
	runtime.KeepAlive(workers)

	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	o.Rounds = len(all)
	o.P50, o.P99, o.Worst = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
	for _, n := range sizes {
		o.Size += n
	}
	return o, nil
}

// repeat does rounds until end, but at least one. It returns the time of each
// round and the bytes of all.
func (w worker) repeat(end time.Time) (times []time.Duration, size int64, err error) {
	for now := time.Now(); len(times) == 0 || now.Before(end); now = time.Now() {
		n, err := w.round()
		if err != nil {
			return nil, 0, err
		}
		times = append(times, time.Since(now))
		size += n
		if w.between != nil {
			if err := w.between(); err != nil {
				return nil, 0, err
			}
		}
	}
	return times, size, nil
}
