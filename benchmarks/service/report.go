package main

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A result is what the runs of one job took.
type result struct {
	job
	runs []outcome
}

// A column of a table has the median of a value; NaN is one that is not known.
type column struct {
	title string
	value func(outcome) float64
	text  func(float64) string
	ratio bool // a column follows with multiples of the first implementation
}

var (
	jobRate = column{"jobs/s", func(o outcome) float64 { return float64(o.Rounds) / o.Elapsed.Seconds() }, format("%.0f"), false}
	// The sizes of few jobs differ between runs, so bytes are what is compared.
	throughput   = column{"MB/s", func(o outcome) float64 { return float64(o.Size) / 1e6 / o.Elapsed.Seconds() }, format("%.0f"), true}
	perRound     = column{"time per round", func(o outcome) float64 { return float64(o.Elapsed) / float64(o.Rounds) }, duration, true}
	medianTime   = column{"time", func(o outcome) float64 { return float64(o.P50) }, duration, true}
	p50          = column{"p50", func(o outcome) float64 { return float64(o.P50) }, duration, false}
	p99          = column{"p99", func(o outcome) float64 { return float64(o.P99) }, duration, true}
	worst        = column{"worst", func(o outcome) float64 { return float64(o.Worst) }, duration, false}
	longestWrite = column{"longest Write", worst.value, duration, true}
	collections  = column{"collections", func(o outcome) float64 { return float64(o.Collections) }, format("%.0f"), false}
	forced       = column{"of which forced", func(o outcome) float64 { return float64(o.Forced) }, format("%.0f"), false}
	cpu          = column{"CPU", func(o outcome) float64 { return known(int64(o.CPU), int64(o.CPU)) }, duration, false}
	cpuPerGB     = column{"CPU per GB", func(o outcome) float64 { return cpu.value(o) / float64(o.Size) * 1e9 }, duration, true}
	peak         = column{"peak memory", func(o outcome) float64 { return known(o.Peak, o.Peak) }, memory, true}
	final        = column{"final memory", func(o outcome) float64 { return known(o.Final, o.Peak) }, memory, true}
)

// known returns n, or NaN where the system does not tell the other figure.
func known(n, told int64) float64 {
	if told == 0 {
		return math.NaN()
	}
	return float64(n)
}

func format(verb string) func(float64) string {
	return func(x float64) string { return fmt.Sprintf(verb, x) }
}

func duration(x float64) string { return measure.Duration(time.Duration(x)) }
func memory(x float64) string   { return measure.Size(x).String() }

// median returns the value of the run in the middle.
func (r result) median(c column) float64 { return c.value(measure.Median(r.runs, c.value)) }

// writeReport prints what was measured, where, and a table for each mode.
func writeReport(w io.Writer, cfg config, results []result) error {
	fmt.Fprintf(w, "work: %s; %v for each run; runs of each, in turn: %d\nmachine: %s\n", cfg.workload.about, cfg.duration, cfg.Runs, measure.Machine())
	fmt.Fprintf(w, "live objects beside the buffers: %v", cfg.live)
	if slices.Contains(cfg.workload.flags, "goroutines") {
		fmt.Fprintf(w, "; goroutines: %d", cfg.goroutines)
	}
	if slices.Contains(cfg.workload.flags, "write") {
		fmt.Fprintf(w, "; in a single write: %v", cfg.write)
	}
	fmt.Fprintln(w)
	header := []string{"implementation", "size"}
	for _, c := range cfg.workload.columns {
		header = append(header, c.title)
		if c.ratio {
			header = append(header, "ratio")
		}
	}
	for _, mode := range cfg.modes {
		rows := [][]string{header}
		for _, r := range results {
			if r.Mode == mode {
				rows = append(rows, cellsOf(cfg.workload, r, results))
			}
		}
		heading := cfg.workload.name + ", " + mode
		if len(cfg.sizes) == 1 {
			heading += ", " + rows[1][1]
			for i := range rows {
				rows[i] = slices.Concat(rows[i][:1], rows[i][2:])
			}
		}
		fmt.Fprintf(w, "\n%s:\n\n", heading)
		if err := measure.Table(w, rows); err != nil {
			return err
		}
	}
	note := ""
	if cfg.settle > 0 {
		note = fmt.Sprintf("; the final one is read %v after the last job, and nothing runs meanwhile", cfg.settle)
	}
	_, err := fmt.Fprintf(w, "\nMedians; ratios are multiples of what %s takes. Memory is that of the process less what\n"+
		"it held before%s.\n\n", cfg.workload.implementations[0], note)
	return err
}

// compared returns the median of c of r as a multiple of that of another
// implementation that did the same work; NaN where one of them is not known.
func compared(c column, r result, results []result, base string) float64 {
	for _, other := range results {
		if other.Mode == r.Mode && other.Max == r.Max && other.Implementation == base && other.median(c) > 0 {
			return r.median(c) / other.median(c)
		}
	}
	return math.NaN()
}

// cellsOf returns the cells of the row of r.
func cellsOf(w *workload, r result, results []result) []string {
	cells := []string{r.Implementation, r.size()}
	known := func(x float64, text func(float64) string) string {
		if math.IsNaN(x) {
			return "n/a"
		}
		return text(x)
	}
	for _, c := range w.columns {
		cells = append(cells, known(r.median(c), c.text))
		if c.ratio {
			cells = append(cells, known(compared(c, r, results, w.implementations[0]), measure.Ratio))
		}
	}
	return cells
}

var barColors = []color.Color{chart.Vermillion, chart.Blue, chart.Orange, chart.Green}

// drawService writes service.png, and their names to w.
func drawService(w io.Writer, cfg config, results []result) error {
	above, err := bars(cfg, results, throughput, 1e-3, "Throughput, GB/s (more is better)")
	if err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	below, err := bars(cfg, results, p99, 1e-6, "p99 of the time for a job, ms (less is better)")
	if err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	return chart.Write(w, cfg.Out, "service", above, below)
}

// bars plots the medians of a column, in units of one, as bars that stand in
// groups, a group for each mode.
func bars(cfg config, results []result, c column, unit float64, title string) (*plot.Plot, error) {
	p := chart.New()
	p.Title.Text = title
	p.NominalX(cfg.modes...)
	p.Legend.Left = false
	p.Legend.XOffs = -4
	groups, n := len(cfg.modes), len(cfg.implementations)
	const legend = 0.25 // of the groups, to the right of them
	p.X.Min, p.X.Max = -0.5, float64(groups)*(1+legend)-0.5
	width := 600 / vg.Length(float64(groups)*(1+legend)) / vg.Length(n+1)

	for i, name := range cfg.implementations {
		heights := make(plotter.Values, groups)
		tops := plotter.XYLabels{XYs: make(plotter.XYs, groups), Labels: make([]string, groups)}
		for _, r := range results {
			if r.Implementation != name {
				continue
			}
			g := slices.Index(cfg.modes, r.Mode)
			heights[g] = r.median(c) * unit
			tops.XYs[g] = plotter.XY{X: float64(g), Y: heights[g]}
			tops.Labels[g] = measure.Short(heights[g])
		}
		bar, err := plotter.NewBarChart(heights, width)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		bar.Color = barColors[slices.Index(cfg.workload.implementations, name)]
		bar.LineStyle.Width = 0
		bar.Offset = width * (vg.Length(i) - vg.Length(n-1)/2)
		labels, err := plotter.NewLabels(tops)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for g := range labels.TextStyle {
			labels.TextStyle[g].Font = p.X.Tick.Label.Font
			labels.TextStyle[g].Font.Size = 9
			labels.TextStyle[g].Color = chart.Ink
			labels.TextStyle[g].XAlign = text.XCenter
		}
		labels.Offset = vg.Point{X: bar.Offset, Y: 2}
		p.Add(bar, labels)
		p.Legend.Add(name, bar)
		p.Y.Max = max(p.Y.Max, slices.Max(heights)*1.12) // leaves room for the labels
	}
	p.Y.Min = 0
	return p, nil
}
