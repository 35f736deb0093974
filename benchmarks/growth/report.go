package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/report"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

// A result sums up the runs of one implementation.
type result struct {
	implementation
	median outcome       // the median run by time
	worst  time.Duration // median of the worst writes
	peak   int64         // median of the peaks; 0: not known
}

// summarise reduces the runs of each of impls to a result.
func summarise(impls []implementation, outcomes [][]outcome) []result {
	results := make([]result, len(impls))
	for i, runs := range outcomes {
		results[i] = result{
			implementation: impls[i],
			median:         measure.Median(runs, func(o outcome) time.Duration { return o.Elapsed }),
			worst:          measure.Median(runs, func(o outcome) time.Duration { return o.Worst }).Worst,
			peak:           measure.Median(runs, func(o outcome) int64 { return o.Peak }).Peak,
		}
	}
	return results
}

// writeReport prints what was measured, where, and the table.
func writeReport(w io.Writer, cfg config, data *payload, results []result) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "work: %v (%d bytes) of %s in writes of %v; runs of each, in turn: %d\n",
		size(data.size), data.size, data.name, size(data.write), cfg.runs)
	fmt.Fprintf(out, "machine: %s\n\n", system.Machine(system.Root))

	rows := [][]string{{"implementation", "median time", "GB/s", "worst single write", "peak resident memory", "times faster than bytes.Buffer"}}
	for _, r := range results {
		rows = append(rows, []string{
			r.name,
			report.Duration(r.median.Elapsed),
			fmt.Sprintf("%.2f", float64(data.size)/1e9/r.median.Elapsed.Seconds()),
			report.Duration(r.worst),
			report.Memory(r.peak),
			ratio(results, r),
		})
	}
	report.Table(out, rows)
	fmt.Fprint(out, "\nThe time runs from before the buffer is created to after its last write, without reading\n"+
		"the data. The memory is that of the process less what it held before.\n")
	if !cfg.cold {
		fmt.Fprint(out, "As much memory was touched and given back before each run (-cold: it was not).\n")
	}
	return out.Flush()
}

// ratio compares the time of r with that of bytes.Buffer.
func ratio(results []result, r result) string {
	i := slices.IndexFunc(results, func(r result) bool { return r.key == "bytes" })
	if i < 0 {
		return "n/a"
	}
	return fmt.Sprintf("%.1f", results[i].median.Elapsed.Seconds()/r.median.Elapsed.Seconds())
}
