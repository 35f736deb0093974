package measure

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// InTurn does each of the works that have these names so many times, in turn, so
// that a machine that slows down or speeds up meanwhile does so for all of them.
// Each turn begins with another work, for a run feels what the one before it has
// left: memory that is warm, or that a virtual machine has yet to get from its
// host. It returns the outcomes of each.
func InTurn[A any](ctx context.Context, names []string, runs int, work func(ctx context.Context, i int) (A, error)) ([][]A, error) {
	bar := progressbar.NewOptions(runs*len(names),
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(term.IsTerminal(int(os.Stderr.Fd()))),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionClearOnFinish(),
	)
	// Nothing is lost when the bar cannot be drawn: its errors are dropped.
	defer func() { _ = bar.Clear() }()

	outcomes := make([][]A, len(names))
	for r := range runs {
		for k := range names {
			i := (k + r) % len(names)
			bar.Describe(names[i])
			got, err := work(ctx, i)
			if err != nil {
				return nil, fmt.Errorf("%s, run %d: %w", names[i], r+1, err)
			}
			outcomes[i] = append(outcomes[i], got)
			_ = bar.Add(1)
		}
	}
	return outcomes, nil
}

// Median returns the run in the middle by key; of two in the middle, the lower.
func Median[R any, K cmp.Ordered](runs []R, key func(R) K) R {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b R) int { return cmp.Compare(key(a), key(b)) })
	return sorted[(len(sorted)-1)/2]
}

// Table prints rows, the first of which is the header, as a Markdown table with
// figures to the right.
func Table(w io.Writer, rows [][]string) error {
	align := make(tw.Alignment, len(rows[0]))
	for i := range align {
		align[i] = tw.AlignRight
	}
	align[0] = tw.AlignLeft
	t := tablewriter.NewTable(w, tablewriter.WithRenderer(renderer.NewMarkdown()),
		tablewriter.WithHeaderAutoFormat(tw.Off), tablewriter.WithAlignment(align))
	t.Header(rows[0])
	if err := t.Bulk(rows[1:]); err != nil {
		return err
	}
	return t.Render()
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
	return Size(n).String()
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
