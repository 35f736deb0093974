package measure

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/olekukonko/tablewriter"
	"github.com/olekukonko/tablewriter/renderer"
	"github.com/olekukonko/tablewriter/tw"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// InTurn does each of the named works several times and returns the outcomes of
// each. Works take turns, so that a machine that becomes slower or faster does so
// for all of them. Each turn begins with another work, since the run before may
// leave memory behind that makes the next one faster.
func InTurn[A any](ctx context.Context, names []string, runs int, work func(ctx context.Context, i int) (A, error)) ([][]A, error) {
	bar := progressbar.NewOptions(runs*len(names),
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(term.IsTerminal(int(os.Stderr.Fd()))),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionClearOnFinish(),
	)
	// Errors are ignored: the bar is not important.
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

// Median returns the run whose key is the median; of two, the lower.
func Median[R any, K cmp.Ordered](runs []R, key func(R) K) R {
	sorted := slices.SortedFunc(slices.Values(runs), func(a, b R) int { return cmp.Compare(key(a), key(b)) })
	return sorted[(len(sorted)-1)/2]
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
