package main

import (
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

// The colours of the implementations that growth draws too are those there.
var (
	lineColors  = map[string]color.Color{"mmapbuf.Buffer": chart.Blue, "bytes.Buffer": chart.Vermillion, floor: chart.Ink, "append": chart.Orange, "make": chart.Green}
	otherColors = []color.Color{chart.Purple, chart.SkyBlue, chart.Olive, chart.Gray, chart.Brown}
)

// drawFill writes fill-time and fill-memory, and their names to w.
func drawFill(w io.Writer, cfg config, results []result) error {
	for _, pic := range []struct {
		name, title, y string
		value          func(r result) float64 // NaN or 0: none
	}{
		{"fill-time", "Time to fill a buffer, compared with bytes.Buffer (less is better)", "times as long (log.)", func(r result) float64 {
			return compared(medianTime, r, results, both[0])
		}},
		{"fill-memory", "Memory to fill a buffer, compared with the data (less is better)", "times as much (log.)", func(r result) float64 {
			// Of little data little can be said: the runtime takes as much.
			if r.Max < miB {
				return 0
			}
			return r.median(peak) / float64(r.Max)
		}},
	} {
		p, err := lines(cfg, results, pic.value)
		if err != nil {
			return fmt.Errorf("%s: %w", pic.name, err)
		}
		if p == nil {
			fmt.Fprintf(w, "no %s: it is not known\n", pic.name)
			continue
		}
		p.Title.Text, p.Y.Label.Text = pic.title, pic.y
		if err := chart.Write(w, cfg.Out, pic.name, p); err != nil {
			return err
		}
	}
	return nil
}

// lines plots value against the size, a line to each implementation.
func lines(cfg config, results []result, value func(result) float64) (*plot.Plot, error) {
	p := chart.New()
	p.X.Label.Text = "size of the data, logarithmic"
	p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
	p.X.Tick.Marker, p.Y.Tick.Marker = sizeTicks(cfg.sizes), chart.Ticks{}
	p.Y.Min, p.Y.Max = math.Inf(1), 0

	// What matters is drawn last, over the others.
	impls := slices.DeleteFunc(slices.Clone(cfg.implementations), func(impl string) bool { return strings.Contains(impl, "/") })
	rank := func(impl string) int { return slices.Index([]string{floor, "bytes.Buffer", "mmapbuf.Buffer"}, impl) }
	slices.SortStableFunc(impls, func(a, b string) int { return rank(a) - rank(b) })
	var names []string
	var ends plotter.XYs
	var colors []color.Color
	others := 0
	for _, impl := range impls {
		var points plotter.XYs
		for _, r := range results {
			if v := value(r); r.Implementation == impl && v > 0 {
				points = append(points, plotter.XY{X: float64(r.Max), Y: v})
				p.Y.Min, p.Y.Max = min(p.Y.Min, v), max(p.Y.Max, v)
			}
		}
		if len(points) == 0 {
			continue
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", impl, err)
		}
		line.Width, line.Color = 1.25, lineColors[impl]
		if line.Color == nil {
			line.Color = otherColors[others%len(otherColors)]
			others++
		}
		if rank(impl) > 0 {
			line.Width = 2.5
		}
		dots.GlyphStyle = draw.GlyphStyle{Color: line.Color, Radius: line.Width + 1, Shape: draw.CircleGlyph{}}
		if impl == floor {
			line.Width, line.Dashes, dots.Radius = 1, []vg.Length{5, 4}, 0
		}
		p.Add(line, dots)
		names, ends, colors = append(names, impl), append(ends, points[len(points)-1]), append(colors, line.Color)
	}
	if len(names) == 0 {
		return nil, nil
	}
	p.X.Min, p.X.Max = float64(slices.Min(cfg.sizes))/1.1, float64(slices.Max(cfg.sizes))
	p.Y.Min, p.Y.Max = p.Y.Min/1.2, p.Y.Max*1.2
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
