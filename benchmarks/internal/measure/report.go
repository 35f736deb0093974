package measure

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
)

// InTurn does each of the named works several times and returns the outcomes of
// each. Works take turns, so that a machine that becomes slower or faster does so
// for all of them. Each turn begins with another work, since the run before may
// leave memory behind that makes the next one faster.
func InTurn[A any](ctx context.Context, names []string, runs int, work func(ctx context.Context, i int) (A, error)) ([][]A, error) {
	p := newProgress(runs * len(names))
	defer p.stop()
	outcomes := make([][]A, len(names))
	for r := range runs {
		for k := range names {
			i := (k + r) % len(names)
			p.next(names[i])
			got, err := work(ctx, i)
			if err != nil {
				return nil, fmt.Errorf("%s, run %d: %w", names[i], r+1, err)
			}
			outcomes[i] = append(outcomes[i], got)
		}
	}
	return outcomes, nil
}

// Median returns the run whose key is the median; of two, the lower.
func Median[R any, K cmp.Ordered](runs []R, key func(R) K) R {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b R) int { return cmp.Compare(key(a), key(b)) })
	return sorted[(len(sorted)-1)/2]
}

// A Spread is a figure of several runs.
type Spread struct{ Median, Min, Max float64 }

// SpreadOf returns the spread of a figure.
func SpreadOf[R any](runs []R, figure func(R) float64) Spread {
	all := make([]float64, len(runs))
	for i, r := range runs {
		all[i] = figure(r)
	}
	return Spread{Median(all, func(x float64) float64 { return x }), slices.Min(all), slices.Max(all)}
}

// Over returns how many times as large as other s is. Any run of one may have met
// any run of the other.
func (s Spread) Over(other Spread) Spread {
	return Spread{s.Median / other.Median, s.Min / other.Max, s.Max / other.Min}
}

// Format returns the median with its unit and, unless all look the same, the least
// and the greatest.
func (s Spread) Format(number func(float64) string, unit string) string {
	mid, low, high := number(s.Median), number(s.Min), number(s.Max)
	if low == mid && mid == high {
		return mid + unit
	}
	return fmt.Sprintf("%s%s (%s..%s)", mid, unit, low, high)
}

// Duration formats a spread of seconds, all in the unit that suits the median.
func (s Spread) Duration() string {
	value, prefix := humanize.ComputeSI(s.Median)
	scale := 1.0
	if value > 0 {
		scale = value / s.Median
	}
	return s.Format(func(x float64) string { return digits(x*scale, 3) }, " "+prefix+"s")
}

// Table prints a Markdown table. The first row is the header, and all columns but
// the first are aligned to the right.
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

// Duration formats d with three significant digits.
func Duration(d time.Duration) string {
	value, prefix := humanize.ComputeSI(d.Seconds())
	return digits(value, 3) + " " + prefix + "s"
}

// Ratio formats x as a multiple.
func Ratio(x float64) string { return Short(x) + "×" }

// Short formats x with two significant digits.
func Short(x float64) string { return digits(x, 2) }

// digits formats x with n significant digits, and with all digits before the
// decimal point.
func digits(x float64, n int) string {
	s := strconv.FormatFloat(x, 'e', n-1, 64) // rounds to a power of ten
	exponent, _ := strconv.Atoi(s[strings.IndexByte(s, 'e')+1:])
	return strconv.FormatFloat(x, 'f', max(0, n-1-exponent), 64)
}
