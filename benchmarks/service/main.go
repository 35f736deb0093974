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
// service.png.
//
// There are other workloads. -backlog and -fill also draw: the memory of the queue
// as backlog, and time and memory as fill-time and fill-memory.
//
//	go -C benchmarks run ./service -loop      # jobs of one size, in one goroutine
//	go -C benchmarks run ./service -queue     # a queue with a constant backlog
//	go -C benchmarks run ./service -backlog   # the memory of a queue that grows and runs empty
//	go -C benchmarks run ./service -readfile  # a file read into memory
//	go -C benchmarks run ./service -fill -duration 500ms  # buffers of other libraries
//	go -C benchmarks run ./service -writeat   # blocks written at random, as downloads are
//	go -C benchmarks run ./service -http      # uploads to a server
//	go -C benchmarks run ./service -archive   # a directory packed as tar and zip, and read back
//	go -C benchmarks run ./service -columns   # a Parquet file written and read back
//
// Each run is a process of its own, and implementations take turns. Relative
// names are looked up from benchmarks/, where -C puts the program.
package main

import (
	"context"
	"flag"
	"fmt"
	"go/build"
	"io"
	"io/fs"
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

// run is the program but for the exit status.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	switch cfg.workload.name {
	case "readfile":
		if cfg.dir, err = os.MkdirTemp("", "service-*"); err != nil {
			return err
		}
		defer os.RemoveAll(cfg.dir)
	case "archive":
		if cfg.min, err = survey(cfg.dir); err != nil {
			return fmt.Errorf("-dir: %w", err)
		}
		cfg.max = cfg.min
	}
	jobs := cfg.jobs()
	var names []string
	for _, j := range jobs {
		if err := measure.Fits(j.String(), j.memory()); err != nil {
			return err
		}
		if cfg.workload.name == "readfile" {
			if err := writeFile(cfg.dir, j.Max); err != nil {
				return fmt.Errorf("temporary file: %w", err)
			}
		}
		names = append(names, j.String())
	}
	outcomes, err := measure.InTurn(ctx, names, cfg.Runs, func(ctx context.Context, i int) (outcome, error) {
		got, _, err := measure.Run[outcome](ctx, jobs[i])
		return got, err
	})
	if err != nil {
		return err
	}
	results := make([]result, len(jobs))
	for i, j := range jobs {
		results[i] = result{j, outcomes[i]}
	}
	if err := writeReport(stdout, cfg, results); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if cfg.workload.draw == nil {
		return nil
	}
	return cfg.workload.draw(stdout, cfg, results)
}

// survey reads all files of a directory once, so that each run finds them in the
// page cache, and returns how many bytes they are.
func survey(dir string) (size measure.Size, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		size += measure.Size(len(p))
		return err
	})
	if err == nil && size == 0 {
		err = fmt.Errorf("%s has no files", dir)
	}
	return size, err
}

// A config is what the command line asks for.
type config struct {
	measure.Options
	workload        *workload
	modes           []string
	implementations []string
	sizes           []measure.Size // as in a workload
	min, max        measure.Size
	write, live     measure.Size
	dir             string
	goroutines      int
	duration        time.Duration
	settle          time.Duration
}

// jobs returns what the children have to do, in the order of the tables.
func (cfg config) jobs() []job {
	j := job{
		Workload: cfg.workload.name, Goroutines: cfg.goroutines, Write: int(cfg.write), Live: int64(cfg.live),
		Duration: cfg.duration, Settle: cfg.settle, Min: int64(cfg.min), Max: int64(cfg.max), Dir: cfg.dir,
	}
	var jobs []job
	for _, j.Mode = range cfg.modes {
		for _, size := range cfg.sizes {
			if size > 0 {
				j.Min, j.Max = int64(size), int64(size)
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
	fs.Var(&cfg.live, "live", "`bytes` of small objects that live beside the buffers, for the collector to mark (default none)")
	fs.StringVar(&cfg.dir, "dir", filepath.Join(build.Default.GOROOT, "src"), "`directory` to pack")
	fs.IntVar(&cfg.goroutines, "goroutines", 8, "`number` of goroutines")
	fs.DurationVar(&cfg.duration, "duration", 5*time.Second, "`time` that each run takes")
	fs.DurationVar(&cfg.settle, "settle", 3*time.Second, "`time` from the last job until the final memory is read")
	if err := cfg.Parse(fs, args, "Measures buffers as a service uses them: throughput, latency, collections, CPU time\n"+
		"and memory, of several implementations."); err != nil {
		return cfg, err
	}
	if !slices.Contains(cfg.workload.flags, "goroutines") {
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
	case chosen > 1:
		return cfg, fmt.Errorf("more than one workload")
	case misplaced != "":
		return cfg, fmt.Errorf("-%s does not apply to the workload %s", misplaced, cfg.workload.name)
	case cfg.min > cfg.max:
		return cfg, fmt.Errorf("-min %v is more than -max %v", cfg.min, cfg.max)
	case cfg.goroutines < 1:
		return cfg, fmt.Errorf("-goroutines %d: at least one is needed", cfg.goroutines)
	case cfg.duration <= 0:
		return cfg, fmt.Errorf("-duration %v: some time is needed", cfg.duration)
	}

	var err error
	if cfg.modes, err = measure.Choose(modes, cfg.workload.modes); err != nil {
		return cfg, fmt.Errorf("-modes: %w", err)
	}
	if cfg.implementations, err = measure.Choose(implementations, cfg.workload.implementations); err != nil {
		return cfg, fmt.Errorf("-implementations: %w", err)
	}
	cfg.sizes = cfg.workload.sizes
	if sizes != "" {
		cfg.sizes = nil
		for text := range strings.SplitSeq(sizes, ",") {
			var n measure.Size
			if err := n.Set(strings.TrimSpace(text)); err != nil {
				return cfg, fmt.Errorf("-sizes: %q: %w", text, err)
			}
			cfg.sizes = append(cfg.sizes, n)
		}
	}
	return cfg, nil
}
