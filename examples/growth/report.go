package main

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
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
			median:         median(runs, func(o outcome) time.Duration { return o.Elapsed }),
			worst:          median(runs, func(o outcome) time.Duration { return o.Worst }).Worst,
			peak:           median(runs, func(o outcome) int64 { return o.Peak }).Peak,
		}
	}
	return results
}

// median returns the run in the middle by key; of two in the middle, the lower.
func median[K cmp.Ordered](runs []outcome, key func(outcome) K) outcome {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b outcome) int { return cmp.Compare(key(a), key(b)) })
	return sorted[(len(sorted)-1)/2]
}

// writeReport prints what was measured, where, and the table.
func writeReport(w io.Writer, cfg config, data *payload, results []result) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "work: %v (%d bytes) of %s in writes of %v; runs of each, in turn: %d\n",
		size(data.size), data.size, data.name, size(data.write), cfg.runs)
	fmt.Fprintf(out, "machine: %s\n\n", machine(root))

	rows := [][]string{{"implementation", "median time", "GB/s", "worst single write", "peak resident memory", "times faster than bytes.Buffer"}}
	for _, r := range results {
		rows = append(rows, []string{
			r.name,
			duration(r.median.Elapsed),
			fmt.Sprintf("%.2f", float64(data.size)/1e9/r.median.Elapsed.Seconds()),
			duration(r.worst),
			memory(r.peak),
			ratio(results, r),
		})
	}
	table(out, rows)
	fmt.Fprint(out, "\nThe time runs from before the buffer is created to after its last write, without reading\n"+
		"the data. The memory is that of the process less what it held before.\n")
	if !cfg.cold {
		fmt.Fprint(out, "As much memory was touched and given back before each run (-cold: it was not).\n")
	}
	return out.Flush()
}

// table prints rows as a Markdown table, the first column to the left and
// figures to the right.
func table(w io.Writer, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		for i, cell := range row {
			if i == 0 {
				fmt.Fprintf(w, "| %-*s |", widths[i], cell)
			} else {
				fmt.Fprintf(w, " %*s |", widths[i], cell)
			}
		}
		fmt.Fprintln(w)
		if n > 0 {
			continue
		}
		for i, width := range widths {
			if i == 0 {
				fmt.Fprintf(w, "| %s |", strings.Repeat("-", width))
			} else {
				fmt.Fprintf(w, " %s: |", strings.Repeat("-", width-1))
			}
		}
		fmt.Fprintln(w)
	}
}

// ratio compares the time of r with that of bytes.Buffer.
func ratio(results []result, r result) string {
	i := slices.IndexFunc(results, func(r result) bool { return r.key == "bytes" })
	if i < 0 {
		return "n/a"
	}
	return fmt.Sprintf("%.1f", results[i].median.Elapsed.Seconds()/r.median.Elapsed.Seconds())
}

// duration prints d with three digits or so.
func duration(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.2f s", d.Seconds())
	case d >= 10*time.Millisecond:
		return fmt.Sprintf("%.0f ms", d.Seconds()*1e3)
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	}
	return fmt.Sprintf("%.0f µs", d.Seconds()*1e6)
}

// memory prints a number of bytes that may not be known.
func memory(n int64) string {
	if n == 0 {
		return "n/a"
	}
	return humanize.IBytesN(uint64(n), 3)
}

// machine describes the computer, as far as it tells.
func machine(fsys fs.FS) string {
	read := func(name string) string {
		text, _ := fs.ReadFile(fsys, name)
		return strings.TrimSpace(string(text))
	}
	words := []string{strings.TrimSpace(runtime.GOOS + "/" + runtime.GOARCH + " " + read("proc/sys/kernel/osrelease"))}
	words = append(words, fmt.Sprintf("%d cores", runtime.NumCPU()))
	if n, ok := field(fsys, "proc/meminfo", "MemTotal"); ok {
		words = append(words, memory(n)+" memory")
	}
	words = append(words, runtime.Version())
	// The setting in force stands in brackets: always [madvise] never.
	_, rest, _ := strings.Cut(read("sys/kernel/mm/transparent_hugepage/enabled"), "[")
	if setting, _, ok := strings.Cut(rest, "]"); ok {
		words = append(words, "transparent huge pages: "+setting)
	}
	return strings.Join(words, ", ")
}
