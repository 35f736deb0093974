// Package report prints tables and figures as the examples do.
package report

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// Table prints rows as a Markdown table, the first column to the left and
// figures to the right.
func Table(w io.Writer, rows [][]string) {
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

// Duration prints d with three digits or so.
func Duration(d time.Duration) string {
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

// Memory prints a number of bytes; 0 is one that is not known.
func Memory(n int64) string {
	if n == 0 {
		return "n/a"
	}
	return humanize.IBytesN(uint64(n), 3)
}

// Ratio prints x with two digits or so.
func Ratio(x float64) string {
	switch {
	case x >= 9.95:
		return fmt.Sprintf("%.0f×", x)
	case x >= 0.995:
		return fmt.Sprintf("%.1f×", x)
	case x >= 0.0995:
		return fmt.Sprintf("%.2f×", x)
	}
	return fmt.Sprintf("%.3f×", x)
}
