package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/color"
	"io"
	"runtime/debug"
	"slices"
	"time"

	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A sample is of some moment in the life of a queue.
type sample struct {
	Moved    int64 // bytes written and read so far
	Backlog  int64 // bytes in the queue
	Resident int64 // memory of the process less what it held before
}

// openBacklog returns a worker that has the backlog of a queue grow, run empty,
// and do so again to half as much.
func openBacklog(_ context.Context, j job) ([]worker, error) {
	q := newBuffer(j.Implementation).(queue)
	base := measure.Resident()
	var moved int64
	samples, done := new([]sample), false
	add := func() {
		if done {
			return // only the first round is drawn
		}
		*samples = append(*samples, sample{moved, int64(q.Len()), max(0, measure.Resident()-base)})
	}
	block := int64(64 << 10)
	in, out := bytes.Repeat([]byte("mmapbuf\n"), int(block/8)), make([]byte, block)
	round := func() (int64, error) {
		add()
		began := moved
		// While the consumer falls behind it reads half of what is written, and
		// while it catches up twice as much.
		for _, level := range []int64{j.Max, 0, j.Max / 2, 0} {
			writes, reads := 1, 2
			if level > 0 {
				writes, reads = 2, 1
			}
			for (level > 0) == (int64(q.Len()) < level) && int64(q.Len()) != level {
				for range writes {
					if _, err := q.Write(in); err != nil {
						return 0, err
					}
				}
				for range min(reads, q.Len()/len(in)) {
					if _, err := io.ReadFull(q, out); err != nil {
						return 0, err
					} else if !bytes.Equal(in, out) {
						return 0, errors.New("a block is not what was written")
					}
				}
				moved += int64(writes+reads) * block
				// About 500 in all: some 9 times the backlog is written and read.
				if moved-(*samples)[len(*samples)-1].Moved >= j.Max/55 {
					add()
				}
			}
		}
		return (moved - began) / 2, nil
	}
	// Garbage of the heap is given back sooner or later: what is left then is the
	// last sample.
	between := func() error {
		debug.FreeOSMemory()
		add()
		done = true
		return nil
	}
	return []worker{{round: round, between: between, samples: samples}}, nil
}

var queueColors = []color.Color{chart.Vermillion, chart.Blue}

// drawBacklog writes backlog.png, and their names to w: the
// memory of the first round of the median runs with the largest backlog, over what
// has been written and read, in which the runs agree, as they do not in time.
func drawBacklog(w io.Writer, cfg config, results []result) error {
	backlog := slices.Max(cfg.sizes)
	var runs []result
	var outcomes []outcome
	for _, r := range results {
		if r.Max == int64(backlog) {
			runs = append(runs, r)
			outcomes = append(outcomes, measure.Median(r.runs, func(o outcome) time.Duration { return o.P50 }))
		}
	}
	if outcomes[0].Peak == 0 {
		_, err := fmt.Fprintln(w, "No picture: it is not known how much memory is resident.")
		return err
	}
	unit, one := "MiB", float64(miB)
	if backlog >= 1024*miB {
		unit, one = "GiB", 1024*miB
	}
	p := chart.New()
	p.Title.Text = fmt.Sprintf("Resident memory of a queue with up to %v in it", backlog)
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
		line, err := add(runs[i].Implementation+", "+measure.Duration(o.P50), o.Samples, func(s sample) int64 { return s.Resident })
		if err != nil {
			return err
		}
		line.Width = 2
		line.Color = queueColors[i]
		end, err := plotter.NewScatter(line.XYs[len(line.XYs)-1:])
		if err != nil {
			return fmt.Errorf("%s: %w", runs[i].Implementation, err)
		}
		end.GlyphStyle = dot.GlyphStyle
		end.Color = line.Color
		p.Add(end)
	}
	line, err := add("what is in the queue", outcomes[0].Samples, func(s sample) int64 { return s.Backlog })
	if err != nil {
		return err
	}
	line.Color = chart.Ink
	line.Dashes = []vg.Length{5, 4}
	p.Legend.Add("in the end, when the collector has given garbage back", dot)
	p.X.Min, p.Y.Min = 0, 0
	p.Y.Max = top * 1.35 // leaves room for the legend
	return chart.Write(w, cfg.Out, "backlog", p)
}
