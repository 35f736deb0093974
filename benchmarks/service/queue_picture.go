package main

import (
	"fmt"
	"image/color"
	"io"
	"slices"
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

var queueColors = map[string]color.Color{both[0]: chart.Vermillion, both[1]: chart.Blue}

// drawBacklog draws the memory of the first round of the median runs with the
// largest backlog as backlog.png. The X axis is the number of bytes written and
// read, because the time differs between implementations.
func drawBacklog(w io.Writer, cfg config, results []result) error {
	backlog := slices.Max(cfg.sizes)
	unit, one := chart.Unit(int64(backlog))
	p := chart.New()
	p.Title.Text = fmt.Sprintf("Resident memory of a queue with up to %v in it", backlog)
	p.X.Label.Text = "written and read, " + unit
	p.Y.Label.Text = "resident memory, " + unit
	points := func(samples []sample, y func(sample) int64) (points plotter.XYs) {
		for _, s := range samples {
			points = append(points, plotter.XY{X: float64(s.Moved) / one, Y: float64(y(s)) / one})
		}
		return points
	}
	var contents plotter.XYs
	for _, r := range results {
		if r.Max != backlog {
			continue
		}
		o := measure.Median(r.runs, func(o outcome) time.Duration { return o.P50 })
		if !o.Known() {
			_, err := fmt.Fprintln(w, "No picture: it is not known how much memory is resident.")
			return err
		}
		memory := points(o.Samples, func(s sample) int64 { return s.Resident })
		if err := chart.AddLine(p, r.Implementation+", "+measure.Duration(o.P50), memory, queueColors[r.Implementation]); err != nil {
			return err
		}
		contents = points(o.Samples, func(s sample) int64 { return s.Backlog })
	}
	line, err := plotter.NewLine(contents)
	if err != nil {
		return err
	}
	line.Color, line.Dashes = chart.Ink, chart.Dashes
	p.Add(line)
	p.Legend.Add("what is in the queue", line)
	p.Legend.Add("after the collector has released garbage", &plotter.Scatter{GlyphStyle: chart.Dot(chart.Ink, 4)})
	p.X.Min, p.Y.Min = 0, 0
	p.Y.Max *= 1.35 // leaves room for the legend
	return chart.Write(w, cfg.out, "backlog", p)
}
