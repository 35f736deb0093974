package main

import (
	"fmt"
	"io"
	"math"
	"runtime"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// drawPicture draws the resident memory of the median runs over time as
// growth.png, and prints the name of the file to w.
func drawPicture(w io.Writer, cfg config, results []result) error {
	if !results[0].median.Known() {
		_, err := fmt.Fprintf(w, "No picture: %s does not tell how much memory is resident.\n", runtime.GOOS)
		return err
	}
	unit, one := chart.Unit(int64(cfg.size))
	p := chart.New()
	p.Title.Text = fmt.Sprintf("Resident memory while a buffer grows to %v", cfg.size)
	p.Y.Label.Text = "resident memory, " + unit
	// One implementation may take a hundred times as long as another. On a
	// logarithmic axis each keeps its shape.
	p.X.Label.Text = "seconds, logarithmic"
	p.X.Scale = plot.LogScale{}
	p.X.Tick.Marker = chart.Ticks{}

	level := float64(cfg.size) / one
	size := plotter.NewFunction(func(float64) float64 { return level })
	size.Color, size.Dashes = chart.Ink, chart.Dashes
	p.Add(size)

	p.X.Min, p.Y.Max = math.Inf(1), 2*level // leaves room for the legend
	for _, r := range results {
		seconds := r.median.Elapsed.Seconds()
		p.X.Min, p.X.Max = min(p.X.Min, seconds), max(p.X.Max, seconds)
		p.Y.Max = max(p.Y.Max, float64(r.median.Peak)/one)
	}
	p.X.Min /= 20 // there even the fastest holds little of the data
	p.Y.Max *= 1.05
	for _, r := range results {
		name := r.name + ", " + measure.Duration(r.median.Elapsed)
		if err := chart.AddLine(p, name, points(r.median, p.X.Min, one), r.color); err != nil {
			return err
		}
	}
	p.Legend.Add("size of the data", size)
	p.Y.Min = 0
	return chart.Write(w, cfg.Out, "growth", p)
}

// points returns the memory of a run in units of one byte count, over the seconds
// since its start. All that is before first is drawn at first.
func points(o outcome, first, one float64) plotter.XYs {
	points := plotter.XYs{{X: first}}
	for _, r := range o.readings {
		if t := r.At.Sub(o.Began); t > 0 && t < o.Elapsed {
			points = append(points, plotter.XY{X: max(first, t.Seconds()), Y: float64(max(0, r.Resident-o.Base)) / one})
		}
	}
	return append(points, plotter.XY{X: o.Elapsed.Seconds(), Y: float64(o.Final) / one})
}
