package measure

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/report"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

// InTurn does each of the works that have these names so many times, in turn,
// so that a machine that slows down or speeds up meanwhile does so for all of
// them, and shows how far it is. Each turn begins with another one, for a run
// feels what the one before it has left: memory that is warm, or that a virtual
// machine has yet to get from its host. It returns the outcomes of each.
func InTurn[A any](ctx context.Context, names []string, runs int, work func(ctx context.Context, i int) (A, error)) ([][]A, error) {
	width := 0
	for _, name := range names {
		width = max(width, utf8.RuneCountInString(name))
	}
	bar := command.Progress(runs*len(names), 30)
	// Nothing is lost when the bar cannot be drawn: its errors are dropped.
	defer func() { _ = bar.Clear() }()

	outcomes := make([][]A, len(names))
	for r := range runs {
		for k := range names {
			i := (k + r) % len(names)
			bar.Describe(fmt.Sprintf("%-*s", width, names[i]))
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

// A Row is what one implementation took for one piece of work.
type Row struct {
	Work           string
	Implementation string
	Runs           []Figures
}

// Compare has each of the works done by all implementations, in turn and so many
// times, each time in a child process that answers with its Figures.
func Compare(ctx context.Context, works, implementations []string, runs int, job func(work, implementation string) any) ([]Row, error) {
	var rows []Row
	var names []string
	for _, work := range works {
		for _, implementation := range implementations {
			rows = append(rows, Row{Work: work, Implementation: implementation})
			names = append(names, work+", "+implementation)
		}
	}
	outcomes, err := InTurn(ctx, names, runs, func(ctx context.Context, i int) (Figures, error) {
		var got Figures
		_, err := Run(ctx, job(rows[i].Work, rows[i].Implementation), &got)
		return got, err
	})
	if err != nil {
		return nil, err
	}
	for i := range rows {
		rows[i].Runs = outcomes[i]
	}
	return rows, nil
}

// Report prints what the work was, where it was done, how many runs the figures
// are medians of, the table, and a note.
func Report(w io.Writer, work string, runs int, rows []Row, note string) error {
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "work: %s; runs of each, in turn: %d\n", work, runs)
	fmt.Fprintf(out, "machine: %s\n\n", system.Machine(system.Root))
	Table(out, rows)
	fmt.Fprintf(out, "\nMedians. %s\n", note)
	if err := out.Flush(); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// Table prints the medians of rows, and next to them what the first
// implementation that did the same work took, as a multiple.
func Table(w io.Writer, rows []Row) {
	cells := [][]string{{"work", "implementation", "size", "time", "peak resident memory", "allocated on the Go heap", "times faster", "times less memory"}}
	for _, row := range rows {
		first := rows[slices.IndexFunc(rows, func(r Row) bool { return r.Work == row.Work })]
		elapsed, peak := row.elapsed(), row.peak()
		cells = append(cells, []string{
			row.Work,
			row.Implementation,
			report.Memory(row.Runs[0].Size),
			report.Duration(elapsed),
			report.Memory(peak),
			report.Memory(Median(row.Runs, func(f Figures) int64 { return f.Allocated }).Allocated),
			ratio(float64(first.elapsed()), float64(elapsed)),
			ratio(float64(first.peak()), float64(peak)),
		})
	}
	report.Table(w, cells)
}

func (r Row) elapsed() time.Duration {
	return Median(r.Runs, func(f Figures) time.Duration { return f.Elapsed }).Elapsed
}

func (r Row) peak() int64 { return Median(r.Runs, func(f Figures) int64 { return f.Peak }).Peak }

func ratio(x, y float64) string {
	if x == 0 || y == 0 {
		return "n/a"
	}
	return fmt.Sprintf("%.1f", x/y)
}
