package main

import (
	"bufio"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/report"
)

// writeReport prints where the runs were made, and the table.
func writeReport(w io.Writer, data *results) error {
	out := bufio.NewWriter(w)
	fewest, most := data.runs()
	runs := fmt.Sprint(fewest)
	if most > fewest {
		runs += " to " + fmt.Sprint(most)
	}
	if data.machine != "" {
		fmt.Fprintf(out, "Machine: %s.\n", data.machine)
	}
	fmt.Fprintf(out, "Time to fill a buffer, as a multiple of what %s takes in the same process (and itself); medians; runs: %s.\n\n", base, runs)

	largest := data.sizes[len(data.sizes)-1]
	peaks := data.havePeaks(largest)
	header := []string{"implementation"}
	for _, size := range data.sizes {
		header = append(header, sizeName(size))
	}
	if peaks {
		header = append(header, "peak memory, "+sizeName(largest))
	}
	rows := [][]string{header}
	for _, impl := range data.impls {
		row := []string{impl}
		for _, size := range data.sizes {
			cell := "–"
			if f, ok := data.figures[point{impl, size}]; ok {
				cell = fmt.Sprintf("%s (%s)", report.Ratio(f.ratio), report.Duration(f.time))
			}
			row = append(row, cell)
		}
		if peaks {
			cell := "–"
			if f := data.figures[point{impl, largest}]; f.peak > 0 {
				cell = fmt.Sprintf("%s (%s)", report.Ratio(f.peak/float64(largest)), humanize.IBytesN(uint64(f.peak), 3))
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	report.Table(out, rows)
	if peaks {
		fmt.Fprint(out, "\nPeak memory: the most that was resident, as a multiple of the data (and itself).\n")
	}
	return out.Flush()
}

// runs returns how many results the medians are of.
func (r *results) runs() (fewest, most int) {
	for _, f := range r.figures {
		if fewest == 0 || f.runs < fewest {
			fewest = f.runs
		}
		most = max(most, f.runs)
	}
	return fewest, most
}

// havePeaks reports whether any peak is known for size.
func (r *results) havePeaks(size int64) bool {
	for at, f := range r.figures {
		if at.size == size && f.peak > 0 {
			return true
		}
	}
	return false
}
