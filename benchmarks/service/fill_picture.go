package main

import (
	"fmt"
	"io"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// drawFill draws fill-time.png and fill-memory.png.
func drawFill(w io.Writer, cfg config, results []result) error {
	err := drawLines(w, cfg, "fill-time", "Time to fill a buffer, compared with bytes.Buffer (less is better)", "times as long (log.)", results,
		func(r result) float64 { return compared(medianTime, r, results, "bytes.Buffer") })
	if err != nil {
		return err
	}
	return drawLines(w, cfg, "fill-memory", "Memory to fill a buffer, compared with the data (less is better)", "times as much (log.)", results,
		func(r result) float64 {
			if r.Max < miB {
				return math.NaN() // the runtime itself takes as much
			}
			return r.median(peak) / float64(r.Max)
		})
}

// drawLines draws value over the size, with a line for each implementation. Points
// whose value is not known are left out.
func drawLines(w io.Writer, cfg config, name, title, label string, results []result, value func(result) float64) error {
	p := chart.New()
	p.Title.Text, p.Y.Label.Text = title, label
	p.X.Label.Text = "size of the data, logarithmic"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = sizeTicks(cfg.sizes), chart.Ticks{}

	for _, f := range slices.Backward(fillers) { // the first are drawn over the others
		var points plotter.XYs
		for _, r := range results {
			if v := value(r); r.Implementation == f.name && v > 0 {
				points = append(points, plotter.XY{X: float64(r.Max), Y: v})
			}
		}
		if len(points) == 0 || f.color == nil {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
		line.Color, line.Width = f.color, 1.25
		switch f.name {
		case "bytes.Buffer", "mmapbuf.Buffer":
			line.Width = 2.5
		case "bare mapping":
			line.Dashes = chart.Dashes
		}
		dots.GlyphStyle = chart.Dot(f.color, line.Width+1)
		p.Add(line, dots)
		p.Legend.Add(f.name, line, dots)
	}
	if p.X.Min > p.X.Max {
		_, err := fmt.Fprintf(w, "No picture %s: nothing is known.\n", name)
		return err
	}
	p.Legend.Left = false
	p.Legend.XOffs = -4
	p.X.Max *= math.Pow(p.X.Max/p.X.Min, 0.28) // leaves room for the legend
	p.X.Min /= 1.1
	p.Y.Min, p.Y.Max = p.Y.Min/1.2, p.Y.Max*1.2
	return chart.Write(w, cfg.out, name, p)
}

// sizeTicks marks sizes, which are in ascending order. A size has no label where
// that would overlap the next one.
func sizeTicks(sizes []measure.Size) (ticks plot.ConstantTicks) {
	for i, size := range sizes {
		tick := plot.Tick{Value: float64(size)}
		if i == len(sizes)-1 || sizes[i+1] >= 4*size {
			tick.Label = size.String()
		}
		ticks = append(ticks, tick)
	}
	return ticks
}
