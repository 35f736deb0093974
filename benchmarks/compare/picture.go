package main

import (
	"cmp"
	"fmt"
	"image/color"
	"io"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// floor is what no buffer can beat: its line is dashed.
const floor = "floor"

// The subject and what it takes the place of stand out; the colours are those of
// growth.
var (
	lineColors = map[string]color.Color{
		subject:  chart.Blue,
		base:     chart.Vermillion,
		floor:    chart.Ink,
		"append": chart.Orange,
		"make":   chart.Green,
	}
	otherColors = []color.Color{chart.Purple, chart.SkyBlue, chart.Olive, chart.Gray, color.RGBA{0x7a, 0x3b, 0x2e, 0xff}}
)

// drawPictures writes the pictures into directory dir, and their names to w.
func drawPictures(w io.Writer, dir string, data *results) error {
	pictures := []struct {
		name  string
		value func(point, figure) float64 // 0: none
		dress func(*plot.Plot)
	}{
		{"compare-time", func(_ point, f figure) float64 { return f.ratio }, func(p *plot.Plot) {
			p.Title.Text = "Time to fill a buffer, compared with " + base + " (less is better)"
			p.Y.Label.Text = "times as long (log.)"
		}},
		{"compare-memory", func(at point, f figure) float64 {
			// Of little data little can be said: the runtime takes as much.
			if at.size < 1<<20 {
				return 0
			}
			return f.peak / float64(at.size)
		}, func(p *plot.Plot) {
			p.Title.Text = "Memory to fill a buffer, compared with the data (less is better)"
			p.Y.Label.Text = "times as much (log.)"
			var ticks plot.ConstantTicks
			for _, x := range []float64{0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10} {
				if x >= p.Y.Min && x <= p.Y.Max {
					ticks = append(ticks, plot.Tick{Value: x, Label: fmt.Sprint(x)})
				}
			}
			p.Y.Tick.Marker = ticks
		}},
	}
	fmt.Fprintln(w)
	for _, pic := range pictures {
		p, err := picture(data, pic.value)
		if err != nil {
			return fmt.Errorf("%s: %w", pic.name, err)
		}
		if p == nil {
			if _, err := fmt.Fprintf(w, "no %s: the runs do not tell\n", pic.name); err != nil {
				return err
			}
			continue
		}
		pic.dress(p)
		if err := chart.Write(w, dir, pic.name, p); err != nil {
			return err
		}
	}
	return nil
}

// picture plots value against the size, a line to each implementation. Variants
// of one, which have a comma in their names, are left to the table.
func picture(data *results, value func(point, figure) float64) (*plot.Plot, error) {
	p := chart.New()
	p.X.Label.Text = "size of the data, logarithmic"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = sizeTicks(data.sizes), chart.Ticks{}

	// What matters is drawn last, over the others.
	impls := slices.Clone(data.impls)
	rank := func(impl string) int { return slices.Index([]string{floor, base, subject}, impl) }
	slices.SortFunc(impls, func(a, b string) int { return cmp.Or(rank(a)-rank(b), cmp.Compare(a, b)) })

	var names []string
	var ends plotter.XYs
	var colors []color.Color
	others := 0
	lo, hi := math.Inf(1), 0.0
	first, last := math.Inf(1), 0.0
	for _, impl := range impls {
		if strings.Contains(impl, ",") {
			continue
		}
		var points plotter.XYs
		for _, size := range data.sizes {
			at := point{impl, size}
			f, ok := data.figures[at]
			if !ok {
				continue
			}
			if v := value(at, f); v > 0 {
				points = append(points, plotter.XY{X: float64(size), Y: v})
				lo, hi = min(lo, v), max(hi, v)
				first, last = min(first, float64(size)), max(last, float64(size))
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", impl, err)
		}
		line.Width = 1.25
		line.Color = lineColors[impl]
		if line.Color == nil {
			line.Color = otherColors[others%len(otherColors)]
			others++
		}
		if impl == subject || impl == base {
			line.Width = 2.5
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: line.Color, Radius: line.Width + 1, Shape: draw.CircleGlyph{}}
		if impl == floor {
			line.Width = 1
			line.Dashes = []vg.Length{5, 4}
			dots.Radius = 0
		}
		p.Add(line, dots)
		names = append(names, impl)
		ends = append(ends, points[len(points)-1])
		colors = append(colors, line.Color)
	}
	if len(names) == 0 {
		return nil, nil
	}
	if first == last {
		first, last = first/2, last*2
	}
	p.X.Min, p.X.Max = first, last
	p.Y.Min, p.Y.Max = lo/1.2, hi*1.2
	labels, err := chart.NewLabels(p, names, ends, colors)
	if err != nil {
		return nil, err
	}
	p.Add(labels)
	return p, nil
}

// sizeTicks marks the sizes that were measured, in ascending order.
type sizeTicks []measure.Size

// Ticks implements plot.Ticker. A size has no label where that would run into
// the label of the next one.
func (s sizeTicks) Ticks(lo, hi float64) []plot.Tick {
	const apart = 0.09 // of the axis
	var ticks []plot.Tick
	next := math.Inf(1)
	for _, size := range slices.Backward(s) {
		x := float64(size)
		if x < lo || x > hi {
			continue
		}
		tick := plot.Tick{Value: x}
		if math.Log(next/x) >= apart*math.Log(hi/lo) {
			tick.Label = size.String()
			next = x
		}
		ticks = append(ticks, tick)
	}
	return ticks
}
