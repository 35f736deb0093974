package main

import (
	"io"

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
	// prepare runs once before all jobs, and may change cfg; nil: nothing to do.
	prepare func(cfg *config) (cleanup func(), err error)
	// open returns the workers for a job.
	open func(j job) ([]worker, error)
	// draw writes pictures, and their names to w; nil: there are none.
	draw func(w io.Writer, cfg config, results []result) error
}

const (
	miB       = 1 << 20
	blockSize = 64 << 10
)

var workloads = []workload{
	{
		name:            "service",
		about:           "jobs of many sizes in many goroutines",
		flags:           []string{"min", "max", "write", "live", "goroutines", "settle"},
		modes:           []string{"closed", "dropped", "viewed", "written", "pooled"},
		sizes:           []measure.Size{0},
		implementations: all,
		columns:         []column{jobRate, throughput, p50, p99, worst, collections, forced, cpu, cpuPerGB, peak, final},
		open:            openJobs,
		draw:            drawService,
	},
	{
		name:            "loop",
		about:           "jobs of one size after another in one goroutine",
		flags:           []string{"sizes", "write", "live"},
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
		modes:           []string{"*os.File", "another Reader"},
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
}
