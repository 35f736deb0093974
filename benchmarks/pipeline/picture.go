package main

import (
	"fmt"
	"image/color"
	"io"
	"runtime"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

var lineColors = []color.Color{chart.Vermillion, chart.Blue}

// drawPicture writes pipeline.svg and pipeline.png, and their names to w.
func drawPicture(w io.Writer, cfg config, outcomes []outcome) error {
	if outcomes[0].Peak == 0 {
		_, err := fmt.Fprintf(w, "No picture: %s does not tell how much memory is resident.\n", runtime.GOOS)
		return err
	}
	p, err := picture(cfg, outcomes)
	if err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	return chart.Write(w, cfg.out, "pipeline", p)
}

// picture plots the resident memory over what has been written and read, in
// which the runs agree, as they do not in time.
func picture(cfg config, outcomes []outcome) (*plot.Plot, error) {
	unit, one := "MiB", float64(1<<20)
	if cfg.backlog >= 1<<30 {
		unit, one = "GiB", 1<<30
	}
	p := chart.New()
	p.Title.Text = fmt.Sprintf("Resident memory of a queue with up to %v in it", cfg.backlog)
	p.X.Label.Text = "written and read, " + unit
	p.Y.Label.Text = "resident memory, " + unit

	top := 0.0
	add := func(name string, samples []sample, y func(sample) int64) (*plotter.Line, error) {
		var points plotter.XYs
		for _, s := range samples {
			points = append(points, plotter.XY{X: float64(s.Moved) / one, Y: float64(y(s)) / one})
			top = max(top, points[len(points)-1].Y)
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		p.Add(line)
		p.Legend.Add(name, line)
		return line, nil
	}
	dot := &plotter.Scatter{GlyphStyle: draw.GlyphStyle{Color: chart.Ink, Radius: 4, Shape: draw.CircleGlyph{}}}
	for i, o := range outcomes {
		line, err := add(names[i]+", "+measure.Duration(o.Elapsed), o.Samples, func(s sample) int64 { return s.Resident })
		if err != nil {
			return nil, err
		}
		line.Width = 2
		line.Color = lineColors[i]
		end, err := plotter.NewScatter(line.XYs[len(line.XYs)-1:])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", names[i], err)
		}
		end.GlyphStyle = dot.GlyphStyle
		end.Color = line.Color
		p.Add(end)
	}
	line, err := add("what is in the queue", outcomes[0].Samples, func(s sample) int64 { return s.Backlog })
	if err != nil {
		return nil, err
	}
	line.Color = chart.Ink
	line.Dashes = []vg.Length{5, 4}
	p.Legend.Add("in the end, when the collector has given garbage back", dot)
	p.X.Min, p.Y.Min = 0, 0
	p.Y.Max = top * 1.35 // leaves room for the legend
	return p, nil
}
