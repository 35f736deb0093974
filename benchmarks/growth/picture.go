package main

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"runtime"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

var lineColors = map[string]color.Color{
	"append":  chart.Orange,
	"bytes":   chart.Vermillion,
	"make":    chart.Green,
	"mmapbuf": chart.Blue,
}

// drawPicture writes growth.svg and growth.png into directory dir, and their
// names to w.
func drawPicture(w io.Writer, dir string, data *payload, results []result) error {
	fmt.Fprintln(w)
	if len(results[0].median.samples) == 0 {
		_, err := fmt.Fprintf(w, "No picture: %s does not tell how much memory is resident.\n", runtime.GOOS)
		return err
	}
	p, err := picture(data, results)
	if err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	return chart.Write(w, dir, "growth", p)
}

// picture plots the resident memory of the median runs over time.
func picture(data *payload, results []result) (*plot.Plot, error) {
	unit, one := "MiB", float64(1<<20)
	if data.size >= 1<<30 {
		unit, one = "GiB", 1<<30
	}
	level := float64(data.size) / one

	p := chart.New()
	p.Title.Text = fmt.Sprintf("Resident memory while a buffer grows to %v", data.size)
	p.Y.Label.Text = "resident memory, " + unit
	// One implementation may take a hundred times as long as another. On a
	// logarithmic axis each keeps its shape.
	p.X.Label.Text = "seconds, logarithmic"
	if data.file != nil {
		p.X.Label.Text += ", with the time to read the data"
	}
	p.X.Scale = plot.LogScale{}
	p.X.Tick.Marker = chart.Ticks{}

	payload := plotter.NewFunction(func(float64) float64 { return level })
	payload.Color = chart.Ink
	payload.Dashes = []vg.Length{5, 4}
	p.Add(payload)

	first, last := math.Inf(1), 0.0
	for _, r := range results {
		took := r.median.Ended.Sub(r.median.Began).Seconds()
		first, last = min(first, took), max(last, took)
	}
	// The fastest has a twentieth of the payload there, the others less.
	first /= 20

	top := 2 * level // leaves room for the legend
	for _, r := range results {
		points := polyline(r.median, first, last, one)
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		end, err := plotter.NewScatter(points[len(points)-1:])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		line.Width = 2
		line.Color = lineColors[r.key]
		end.GlyphStyle = draw.GlyphStyle{Color: line.Color, Radius: 4, Shape: draw.CircleGlyph{}}
		p.Add(line, end)
		p.Legend.Add(r.name+", "+measure.Duration(r.median.Elapsed), line, end)
		for _, pt := range points {
			top = max(top, pt.Y)
		}
	}
	p.Legend.Add("size of the data", payload)
	p.X.Min, p.X.Max = first, last
	p.Y.Min, p.Y.Max = 0, top*1.05
	return p, nil
}

// polyline returns the samples of o in seconds from first to last and in units
// of one byte count. Of those that fall on the same column of the picture it
// keeps the highest.
func polyline(o outcome, first, last, one float64) plotter.XYs {
	const columns = 900
	var points plotter.XYs
	column := -1
	for _, s := range o.samples {
		pt := plotter.XY{X: max(first, s.t.Seconds()), Y: float64(s.resident) / one}
		c := int(columns * math.Log(pt.X/first) / math.Log(last/first))
		if n := len(points); c > column {
			points = append(points, pt)
			column = c
		} else if pt.Y > points[n-1].Y {
			points[n-1] = pt
		}
	}
	return points
}
