package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A result is what the runs of one job took.
type result struct {
	job
	runs []outcome
}

// A column of a table shows medians.
type column struct {
	title string
	value func(outcome) float64 // NaN: not known
	text  func(float64) string
	ratio bool // a column follows with multiples of the first implementation
}

var (
	jobRate = column{"jobs/s", func(o outcome) float64 { return float64(o.Rounds) / o.Elapsed.Seconds() }, whole, false}
	// Ratios are of bytes, since the sizes of jobs differ between runs.
	throughput   = column{"MB/s", func(o outcome) float64 { return float64(o.Size) / 1e6 / o.Elapsed.Seconds() }, whole, true}
	perRound     = column{"time per round", func(o outcome) float64 { return float64(o.Elapsed) / float64(o.Rounds) }, duration, true}
	medianTime   = column{"time", func(o outcome) float64 { return float64(o.P50) }, duration, true}
	p50          = column{"p50", func(o outcome) float64 { return float64(o.P50) }, duration, false}
	p99          = column{"p99", func(o outcome) float64 { return float64(o.P99) }, duration, true}
	worst        = column{"worst", func(o outcome) float64 { return float64(o.Worst) }, duration, false}
	longestWrite = column{"longest Write", worst.value, duration, true}
	collections  = column{"collections", func(o outcome) float64 { return float64(o.Collections) }, whole, false}
	forced       = column{"of which forced", func(o outcome) float64 { return float64(o.Forced) }, whole, false}
	cpu          = column{"CPU", func(o outcome) float64 { return known(o, int64(o.CPU)) }, duration, false}
	cpuPerGB     = column{"CPU per GB", func(o outcome) float64 { return cpu.value(o) / float64(o.Size) * 1e9 }, duration, true}
	peak         = column{"peak memory", func(o outcome) float64 { return known(o, o.Peak) }, memory, true}
	final        = column{"final memory", func(o outcome) float64 { return known(o, o.Final) }, memory, true}
)

// known returns n, which is of o, or NaN where the system does not tell.
func known(o outcome, n int64) float64 {
	if !o.Known() {
		return math.NaN()
	}
	return float64(n)
}

func whole(x float64) string    { return fmt.Sprintf("%.0f", x) }
func duration(x float64) string { return measure.Duration(time.Duration(x)) }
func memory(x float64) string   { return measure.Size(x).String() }

// median returns the value of the run in the middle.
func (r result) median(c column) float64 { return c.value(measure.Median(r.runs, c.value)) }

// compared returns the median of c of r as a multiple of that of another
// implementation that did the same work. It is NaN if one of them is not known.
func compared(c column, r result, results []result, base string) float64 {
	for _, other := range results {
		if other.Mode == r.Mode && other.Max == r.Max && other.Implementation == base && other.median(c) > 0 {
			return r.median(c) / other.median(c)
		}
	}
	return math.NaN()
}

// writeReport prints what was measured, the machine, and a table for each mode.
func writeReport(w io.Writer, cfg config, results []result) error {
	load := cfg.workload
	fmt.Fprintf(w, "work: %s; %v for each run; runs of each, in turn: %d\nmachine: %s\n", load.about, cfg.Duration, cfg.Runs, measure.Machine(measure.HugePages()))
	if slices.Contains(load.flags, "goroutines") {
		fmt.Fprintf(w, "goroutines: %d\n", cfg.Goroutines)
	}
	if slices.Contains(load.flags, "write") {
		fmt.Fprintf(w, "in a single write: %v\n", cfg.Write)
	}
	if slices.Contains(load.flags, "live") {
		fmt.Fprintf(w, "live objects beside the buffers: %v\n", cfg.Live)
	}
	for _, mode := range cfg.modes {
		heading := load.name + ", " + mode
		rows := [][]string{header(load)}
		for _, r := range results {
			if r.Mode == mode {
				rows = append(rows, cells(load, r, results))
			}
		}
		if len(cfg.sizes) == 1 { // the size goes into the heading
			heading += ", " + rows[1][1]
			for i := range rows {
				rows[i] = slices.Delete(rows[i], 1, 2)
			}
		}
		fmt.Fprintf(w, "\n%s:\n\n", heading)
		if err := measure.Table(w, rows); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nMedians; ratios are multiples of what %s takes. Memory is that of the process, less what\nit held before", load.implementations[0])
	if cfg.Settle > 0 {
		fmt.Fprintf(w, "; the final memory is read %v after the last job", cfg.Settle)
	}
	_, err := fmt.Fprint(w, ".\n\n")
	return err
}

func header(w *workload) []string {
	row := []string{"implementation", "size"}
	for _, c := range w.columns {
		row = append(row, c.title)
		if c.ratio {
			row = append(row, "ratio")
		}
	}
	return row
}

func cells(w *workload, r result, results []result) []string {
	row := []string{r.Implementation, r.size()}
	add := func(x float64, text func(float64) string) {
		if math.IsNaN(x) {
			row = append(row, "n/a")
		} else {
			row = append(row, text(x))
		}
	}
	for _, c := range w.columns {
		add(r.median(c), c.text)
		if c.ratio {
			add(compared(c, r, results, w.implementations[0]), measure.Ratio)
		}
	}
	return row
}
