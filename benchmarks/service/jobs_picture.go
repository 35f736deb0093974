package main

import (
	"fmt"
	"image/color"
	"io"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

var barColors = []color.Color{chart.Vermillion, chart.Blue, chart.Orange, chart.Green}

// drawService draws service.png.
func drawService(w io.Writer, cfg config, results []result) error {
	above, err := bars(cfg, results, throughput, 1e-3, "Throughput, GB/s (more is better)")
	if err != nil {
		return err
	}
	below, err := bars(cfg, results, p99, 1e-6, "p99 of the time for a job, ms (less is better)")
	if err != nil {
		return err
	}
	return chart.Write(w, cfg.out, "service", above, below)
}

// bars plots the medians of a column, multiplied by unit, as a group of bars for
// each mode.
func bars(cfg config, results []result, c column, unit float64, title string) (*plot.Plot, error) {
	p := chart.New()
	p.Title.Text = title
	p.NominalX(cfg.modes...)
	p.Legend.Left = false
	p.Legend.XOffs = -4
	groups, n := len(cfg.modes), len(cfg.Implementations)
	const legend = 0.25 // of the width of the groups, to the right of them
	p.X.Min, p.X.Max = -0.5, float64(groups)*(1+legend)-0.5
	width := 600 / vg.Length(float64(groups)*(1+legend)) / vg.Length(n+1)

	for i, name := range cfg.Implementations {
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
