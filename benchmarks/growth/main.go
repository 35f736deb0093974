// Command growth compares four ways to collect bytes whose number is not known
// beforehand: append, bytes.Buffer, mmapbuf.Buffer and, as the ideal, a slice that
// has the right size from the start.
//
// Each of them takes the same data in writes of the same size, several times in
// turn and each time in a process of its own. Growth prints a table of times and
// memory, and draws the resident memory over time as growth.png.
//
//	go -C benchmarks run ./growth
//	go -C benchmarks run ./growth -size 64MiB -out /tmp
//	go -C benchmarks run ./growth -size 8GiB -implementations make,mmapbuf.Buffer
//
// The picture goes to benchmarks/, where -C starts the program, unless -out says
// otherwise.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func main() {
	measure.Serve(fill)
	measure.Main("growth", run)
}

// run is the program except for the exit status.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	impls := cfg.chosen()
	for _, impl := range impls {
		if err := measure.Fits(fmt.Sprintf("%v with %s", cfg.size, impl.name), cfg.memory(impl)); err != nil {
			return fmt.Errorf("%w: choose a smaller -size, or -implementations make,mmapbuf.Buffer", err)
		}
	}
	outcomes, err := measure.InTurn(ctx, cfg.Implementations, cfg.Runs, func(ctx context.Context, i int) (outcome, error) {
		j := job{Implementation: impls[i].name, Size: int64(cfg.size), Write: int64(cfg.write)}
		if !cfg.cold {
			j.Warm = int64(cfg.memory(impls[i]))
		}
		got, readings, err := measure.Run[outcome](ctx, j)
		got.readings = readings
		return got, err
	})
	if err != nil {
		return err
	}
	var results []result
	for i, runs := range outcomes {
		results = append(results, summarize(impls[i], runs))
	}
	if err := writeReport(stdout, cfg, results); err != nil {
		return err
	}
	return drawPicture(stdout, cfg, results)
}

// A config is what the command line asks for.
type config struct {
	measure.Options
	size, write measure.Size
	cold        bool // do not warm up
}

// chosen returns the implementations to run.
func (cfg config) chosen() (impls []implementation) {
	for _, impl := range implementations {
		if slices.Contains(cfg.Implementations, impl.name) {
			impls = append(impls, impl)
		}
	}
	return impls
}

// memory returns how many bytes a run may need.
func (cfg config) memory(impl implementation) float64 {
	return float64(cfg.size) * float64(impl.peak)
}

func parse(args []string) (config, error) {
	cfg := config{size: 1 << 30, write: 64 << 10}
	fs := flag.NewFlagSet("growth", flag.ContinueOnError)
	fs.Var(&cfg.size, "size", "`bytes` to grow to")
	fs.Var(&cfg.write, "write", "`bytes` in a single write")
	fs.BoolVar(&cfg.cold, "cold", false, "do not touch memory before each run; a virtual machine may then have to get it from its host")
	err := cfg.Parse(fs, args, "Fills buffers and compares time and memory.", func() (names []string) {
		for _, impl := range implementations {
			names = append(names, impl.name)
		}
		return names
	})
	cfg.write = min(cfg.write, cfg.size)
	return cfg, err
}

// A result sums up the runs of one implementation.
type result struct {
	implementation
	median outcome       // the median run by time
	worst  time.Duration // median of the longest writes
	peak   int64         // median of the peaks
}

func summarize(impl implementation, runs []outcome) result {
	return result{
		implementation: impl,
		median:         measure.Median(runs, func(o outcome) time.Duration { return o.Elapsed }),
		worst:          measure.Median(runs, func(o outcome) time.Duration { return o.Worst }).Worst,
		peak:           measure.Median(runs, func(o outcome) int64 { return o.Peak }).Peak,
	}
}

// writeReport prints what was measured, the machine and the table.
func writeReport(w io.Writer, cfg config, results []result) error {
	fmt.Fprintf(w, "work: %v (%d bytes) of pseudo-random bytes in writes of %v; runs of each, in turn: %d\nmachine: %s\n\n",
		cfg.size, int64(cfg.size), cfg.write, cfg.Runs, measure.Machine())
	rows := [][]string{{"implementation", "median time", "GB/s", "worst single write", "peak resident memory", "times faster than bytes.Buffer"}}
	std := slices.IndexFunc(results, func(r result) bool { return r.name == "bytes.Buffer" })
	for _, r := range results {
		seconds := r.median.Elapsed.Seconds()
		ratio, peak := "n/a", "n/a"
		if std >= 0 {
			ratio = fmt.Sprintf("%.1f", results[std].median.Elapsed.Seconds()/seconds)
		}
		if r.median.Known() {
			peak = measure.Size(r.peak).String()
		}
		rows = append(rows, []string{r.name, measure.Duration(r.median.Elapsed), fmt.Sprintf("%.2f", float64(cfg.size)/1e9/seconds),
			measure.Duration(r.worst), peak, ratio})
	}
	if err := measure.Table(w, rows); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nThe time is from before the buffer is created until after its last write. The memory is that of\n"+
		"the process, less what it held before.")
	if !cfg.cold {
		fmt.Fprintln(w, "As much memory was touched and released before each run; -cold leaves this out.")
	}
	_, err := fmt.Fprintln(w)
	return err
}
