// Command service compares buffers in the way that a service uses them: many
// goroutines fill buffers of many sizes, use the contents and release the buffers.
//
//	go -C benchmarks run ./service
//	go -C benchmarks run ./service -live 2GiB -modes closed,viewed
//
// A job draws a size, fills a buffer and ends in one of these ways:
//
//	closed   the contents are written to io.Discard, the buffer is closed
//	dropped  the contents are written to io.Discard, the collector frees the buffer
//	viewed   the contents are read as one slice, the collector frees the buffer
//	written  the contents are written to a Writer of another type, the buffer is closed
//	pooled   the contents are written to io.Discard, the buffer returns to a pool
//	reset    as pooled, but the next job has the same buffer (only with -loop)
//
// Service prints a table for each of them, and draws throughput and latency as
// service.png.
//
// A flag selects another workload. -backlog also draws backlog.png, and -fill draws
// fill-time.png and fill-memory.png.
//
//	go -C benchmarks run ./service -loop      # jobs of one size, in one goroutine
//	go -C benchmarks run ./service -queue     # a queue with a constant backlog
//	go -C benchmarks run ./service -backlog   # the memory of a queue that grows and runs empty
//	go -C benchmarks run ./service -readfile  # a file read into memory
//	go -C benchmarks run ./service -fill -duration 500ms  # buffers of other libraries
//	go -C benchmarks run ./service -writeat   # blocks written in random order, as in downloads
//	go -C benchmarks run ./service -archive   # a directory packed as tar and zip, and read back
//
// Each run is a process of its own, and implementations take turns. Pictures go to
// benchmarks/, where -C starts the program, unless -out says otherwise.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"go/build"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func main() {
	measure.Serve(serve)
	measure.Main("service", run)
}

// run is the program except for the exit status.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if cfg.workload.prepare != nil {
		cleanup, err := cfg.workload.prepare(&cfg)
		if cleanup != nil {
			defer cleanup()
		}
		if err != nil {
			return err
		}
	}
	jobs := cfg.jobs()
	var names []string
	for _, j := range jobs {
		if err := measure.Fits(j.String(), j.memory()); err != nil {
			return err
		}
		names = append(names, j.String())
	}
	outcomes, err := measure.InTurn(ctx, names, cfg.Runs, func(ctx context.Context, i int) (outcome, error) {
		return measure.Run[outcome](ctx, jobs[i])
	})
	if err != nil {
		return err
	}
	results := make([]result, len(jobs))
	for i, j := range jobs {
		results[i] = result{j, outcomes[i]}
	}
	if err := writeReport(stdout, cfg, results); err != nil || cfg.workload.draw == nil {
		return err
	}
	return cfg.workload.draw(stdout, cfg, results)
}

// A config is what the command line asks for.
type config struct {
	measure.Options
	job      // what all jobs have in common
	workload *workload
	modes    []string
	sizes    []measure.Size // as in a workload
	out      string         // directory for pictures
}

// jobs returns what the children have to do, in the order of the tables.
func (cfg config) jobs() (jobs []job) {
	j := cfg.job
	j.Workload = cfg.workload.name
	for _, j.Mode = range cfg.modes {
		for _, size := range cfg.sizes {
			if size > 0 {
				j.Min, j.Max = size, size
			}
			for _, j.Implementation = range cfg.Implementations {
				jobs = append(jobs, j)
			}
		}
	}
	return jobs
}

func parse(args []string) (config, error) {
	cfg := config{Options: measure.Options{Runs: 3}, workload: &workloads[0], job: job{Min: 1 * miB, Max: 16 * miB, Write: 32 << 10}}
	fs := flag.NewFlagSet("service", flag.ContinueOnError)
	chosen := 0
	for i := range workloads[1:] {
		w := &workloads[i+1]
		fs.BoolFunc(w.name, "measure "+w.about, func(string) error {
			cfg.workload = w
			chosen++
			return nil
		})
	}
	var modes, sizes string
	fs.StringVar(&modes, "modes", "", "how a job ends, `names` separated by commas (default all)")
	fs.StringVar(&sizes, "sizes", "", "`bytes`, separated by commas, for workloads other than the service")
	fs.Var(&cfg.Min, "min", "`bytes` of the smallest buffer")
	fs.Var(&cfg.Max, "max", "`bytes` of the largest buffer; sizes are log-uniform between the two")
	fs.Var(&cfg.Write, "write", "`bytes` in a single write")
	fs.Var(&cfg.Live, "live", "`bytes` of small objects that live beside the buffers")
	fs.StringVar(&cfg.Dir, "dir", filepath.Join(build.Default.GOROOT, "src"), "`directory` to pack")
	fs.StringVar(&cfg.out, "out", ".", "`directory` for pictures")
	fs.IntVar(&cfg.Goroutines, "goroutines", 8, "`number` of goroutines")
	fs.DurationVar(&cfg.Duration, "duration", 5*time.Second, "`time` that each run takes")
	fs.DurationVar(&cfg.Settle, "settle", 3*time.Second, "`time` from the last job until the final memory is read")
	about := "Compares throughput, latency, collections, CPU time and memory of buffers."
	if err := cfg.Parse(fs, args, about, func() []string { return cfg.workload.implementations }); err != nil {
		return cfg, err
	}
	if !slices.Contains(cfg.workload.flags, "goroutines") {
		cfg.Goroutines, cfg.Settle = 1, 0
	}
	var misplaced string
	fs.Visit(func(f *flag.Flag) {
		of := func(w workload) bool { return slices.Contains(w.flags, f.Name) }
		if slices.ContainsFunc(workloads, of) && !of(*cfg.workload) {
			misplaced = f.Name
		}
	})
	switch {
	case chosen > 1:
		return cfg, errors.New("more than one workload")
	case misplaced != "":
		return cfg, fmt.Errorf("-%s does not apply to the workload %s", misplaced, cfg.workload.name)
	case cfg.Min > cfg.Max:
		return cfg, fmt.Errorf("-min %v is more than -max %v", cfg.Min, cfg.Max)
	case cfg.Goroutines < 1:
		return cfg, fmt.Errorf("-goroutines %d: at least one is needed", cfg.Goroutines)
	case cfg.Duration <= 0:
		return cfg, fmt.Errorf("-duration %v: some time is needed", cfg.Duration)
	}

	if err := os.MkdirAll(cfg.out, 0o777); err != nil {
		return cfg, fmt.Errorf("-out: %w", err)
	}
	var err error
	if cfg.modes, err = measure.Choose(modes, cfg.workload.modes); err != nil {
		return cfg, fmt.Errorf("-modes: %w", err)
	}
	if sizes == "" {
		cfg.sizes = cfg.workload.sizes
		return cfg, nil
	}
	for text := range strings.SplitSeq(sizes, ",") {
		var n measure.Size
		if err := n.Set(text); err != nil {
			return cfg, fmt.Errorf("-sizes: %q: %w", text, err)
		}
		cfg.sizes = append(cfg.sizes, n)
	}
	return cfg, nil
}
