// Service measures buffers as a service uses them: many goroutines that fill
// buffers of many sizes, hand the contents on, and release them.
//
//	go -C benchmarks run ./service
//	go -C benchmarks run ./service -live 2GiB -modes closed,viewed
//
// A job draws a size, fills a new buffer and ends in one of these ways:
//
//	closed   the contents are written to a Writer, the buffer is closed
//	dropped  the contents are written to a Writer, the collector frees the buffer
//	viewed   the contents are read as one slice, the collector frees the buffer
//	pooled   the contents are written to a Writer, the buffer returns to a pool
//	reset    as pooled, but the next job has the same buffer (only with -loop)
//
// It prints a table for each of them and draws throughput and latency as
// service.svg and service.png.
//
// Other workloads have one goroutine and no picture:
//
//	go -C benchmarks run ./service -loop      # jobs of one size
//	go -C benchmarks run ./service -queue     # a queue with a constant backlog
//	go -C benchmarks run ./service -readfile  # a file read into memory
//
// Each run is a process of its own, and implementations take turns. Relative
// names are looked up from benchmarks/, where -C puts the program.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func main() {
	measure.Serve(serve)
	command.Main("service", run)
}

// run is the program but for the exit status.
func run(ctx context.Context, args []string) (err error) {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.out, 0o777); err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	jobs := cfg.jobs()
	for _, j := range jobs {
		if err := measure.Fits(j.String(), j.memory()+j.Live); err != nil {
			return err
		}
	}
	if cfg.workload.name == "readfile" {
		dir, err := os.MkdirTemp("", "service-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		for i := range jobs {
			jobs[i].Path = filepath.Join(dir, fmt.Sprint(jobs[i].Max))
			if err := writeFile(jobs[i].Path, jobs[i].Max); err != nil {
				return fmt.Errorf("temporary file: %w", err)
			}
		}
	}

	var names []string
	for _, j := range jobs {
		names = append(names, j.String())
	}
	outcomes, err := measure.InTurn(ctx, names, cfg.runs, func(ctx context.Context, i int) (got outcome, err error) {
		_, err = measure.Run(ctx, jobs[i], &got)
		return got, err
	})
	if err != nil {
		return err
	}
	results := make([]result, len(jobs))
	for i, j := range jobs {
		results[i] = result{j, outcomes[i]}
	}
	if err := writeReport(os.Stdout, cfg, results); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if cfg.workload.name != "service" {
		return nil
	}
	return drawPicture(os.Stdout, cfg, results)
}

// A config is what the command line asks for.
type config struct {
	workload        *workload
	modes           []string
	implementations []string
	sizes           []int64 // as in a workload
	min, max        command.Size
	write           command.Size
	live            int64
	goroutines      int
	duration        time.Duration
	settle          time.Duration
	runs            int
	out             string
}

// jobs returns what the children have to do, in the order of the tables.
func (cfg config) jobs() []job {
	j := job{
		Workload: cfg.workload.name, Goroutines: cfg.goroutines, Write: int(cfg.write), Live: cfg.live,
		Duration: cfg.duration, Settle: cfg.settle, Min: int64(cfg.min), Max: int64(cfg.max),
	}
	var jobs []job
	for _, j.Mode = range cfg.modes {
		for _, size := range cfg.sizes {
			if size > 0 {
				j.Min, j.Max = size, size
			}
			for _, j.Implementation = range cfg.implementations {
				jobs = append(jobs, j)
			}
		}
	}
	return jobs
}

// parse reads the command line.
func parse(args []string) (config, error) {
	cfg := config{workload: &workloads[0], min: 1 << 20, max: 16 << 20, write: 32 << 10}
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
	var modes, implementations, sizes string
	fs.StringVar(&modes, "modes", "", "how a job ends, `names` separated by commas (default all of the workload)")
	fs.StringVar(&implementations, "implementations", "", "`names` of implementations, separated by commas (default all of the workload)")
	fs.StringVar(&sizes, "sizes", "", "`bytes`, separated by commas, for workloads other than the service")
	fs.Var(&cfg.min, "min", "`bytes` of the smallest buffer")
	fs.Var(&cfg.max, "max", "`bytes` of the largest buffer; sizes are log-uniform between the two")
	fs.Var(&cfg.write, "write", "`bytes` in a single write")
	fs.Func("live", "`bytes` of small objects that live beside the buffers, for the collector to mark (default none)", func(s string) error {
		var n command.Size
		err := n.Set(s)
		cfg.live = int64(n)
		return err
	})
	fs.IntVar(&cfg.goroutines, "goroutines", 8, "`number` of goroutines")
	fs.DurationVar(&cfg.duration, "duration", 5*time.Second, "`time` that each run takes")
	fs.DurationVar(&cfg.settle, "settle", 3*time.Second, "`time` from the last job until the final memory is read")
	fs.IntVar(&cfg.runs, "runs", 3, "`number` of runs of each")
	fs.StringVar(&cfg.out, "out", ".", "`directory` for service.svg and service.png")
	if err := command.Parse(fs, args, "service [flags]", "Measures buffers as a service uses them: throughput, latency, collections, CPU time\n"+
		"and memory, of several implementations."); err != nil {
		return cfg, err
	}

	if cfg.workload.name != "service" {
		cfg.goroutines, cfg.settle = 1, 0
	}
	var misplaced string
	fs.Visit(func(f *flag.Flag) {
		of := func(w workload) bool { return slices.Contains(w.flags, f.Name) }
		if slices.ContainsFunc(workloads, of) && !of(*cfg.workload) {
			misplaced = f.Name
		}
	})
	switch {
	case fs.NArg() > 0:
		return cfg, command.Usagef("there are no arguments but flags, not %q", fs.Args())
	case chosen > 1:
		return cfg, command.Usagef("more than one workload")
	case misplaced != "":
		return cfg, command.Usagef("-%s does not apply to the workload %s", misplaced, cfg.workload.name)
	case cfg.min > cfg.max:
		return cfg, command.Usagef("-min %v is more than -max %v", cfg.min, cfg.max)
	case cfg.goroutines < 1:
		return cfg, command.Usagef("-goroutines %d: at least one is needed", cfg.goroutines)
	case cfg.duration <= 0:
		return cfg, command.Usagef("-duration %v: some time is needed", cfg.duration)
	case cfg.runs < 1:
		return cfg, command.Usagef("-runs %d: at least one run is needed", cfg.runs)
	case cfg.out == "":
		return cfg, command.Usagef("-out names no directory")
	}

	var err error
	if cfg.modes, err = command.Choose(cmp.Or(modes, strings.Join(cfg.workload.modes, ",")), cfg.workload.modes); err != nil {
		return cfg, command.Usagef("-modes: %w", err)
	}
	if cfg.implementations, err = command.Choose(cmp.Or(implementations, strings.Join(cfg.workload.implementations, ",")), cfg.workload.implementations); err != nil {
		return cfg, command.Usagef("-implementations: %w", err)
	}
	cfg.sizes = cfg.workload.sizes
	if sizes != "" {
		cfg.sizes = nil
		for text := range strings.SplitSeq(sizes, ",") {
			var n command.Size
			if err := n.Set(strings.TrimSpace(text)); err != nil {
				return cfg, command.Usagef("-sizes: %q: %w", text, err)
			}
			cfg.sizes = append(cfg.sizes, int64(n))
		}
	}
	return cfg, nil
}
