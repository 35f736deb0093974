package main

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The pictures are 900 units wide, as a README is; the PNG has two pixels to
// the unit, for dense screens.
const (
	pictureWidth  = 900 * vg.Inch / 96
	pictureHeight = 480 * vg.Inch / 96
	pngDPI        = 2 * 96
)

var (
	// Colours that the colour-blind can tell apart (Okabe and Ito).
	lineColors = map[string]color.Color{
		"append":  color.RGBA{0xe6, 0x9f, 0x00, 0xff},
		"bytes":   color.RGBA{0xd5, 0x5e, 0x00, 0xff},
		"make":    color.RGBA{0x00, 0x9e, 0x73, 0xff},
		"mmapbuf": color.RGBA{0x00, 0x72, 0xb2, 0xff},
	}
	ink  = color.Gray{0x33}
	mist = color.Gray{0xe4}
)

// drawPictures writes growth.svg and growth.png into directory dir, and their
// names to w.
func drawPictures(w io.Writer, dir string, data *payload, results []result) error {
	if len(results[0].median.samples) == 0 {
		_, err := fmt.Fprintf(w, "\nNo picture: %s does not tell how much memory is resident.\n", runtime.GOOS)
		return err
	}
	p, err := picture(data, results)
	if err != nil {
		return fmt.Errorf("picture: %w", err)
	}

	var svg bytes.Buffer
	vectors := vgsvg.New(pictureWidth, pictureHeight)
	drawOn(p, vectors)
	if _, err := vectors.WriteTo(&svg); err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	// Few have the Liberation fonts; Arial is as wide.
	fonts := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans"),
		[]byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))

	var png bytes.Buffer
	pixels := vgimg.NewWith(vgimg.UseWH(pictureWidth, pictureHeight), vgimg.UseDPI(pngDPI))
	drawOn(p, pixels)
	if _, err := (vgimg.PngCanvas{Canvas: pixels}).WriteTo(&png); err != nil {
		return fmt.Errorf("picture: %w", err)
	}

	fmt.Fprintln(w)
	for _, file := range []struct {
		name     string
		contents []byte
	}{{"growth.svg", fonts}, {"growth.png", png.Bytes()}} {
		name := filepath.Join(dir, file.name)
		if err := os.WriteFile(name, file.contents, 0o666); err != nil {
			return fmt.Errorf("picture: %w", err)
		}
		if _, err := fmt.Fprintln(w, "wrote", name); err != nil {
			return err
		}
	}
	return nil
}

// drawOn draws p with a margin around it.
func drawOn(p *plot.Plot, canvas vg.CanvasSizer) {
	c := draw.New(canvas)
	c.SetColor(p.BackgroundColor)
	c.Fill(c.Rectangle.Path())
	p.Draw(draw.Crop(c, 10, -16, 8, -10))
}

// picture plots the resident memory of the median runs over time.
func picture(data *payload, results []result) (*plot.Plot, error) {
	unit, one := "MiB", float64(1<<20)
	if data.size >= 1<<30 {
		unit, one = "GiB", 1<<30
	}
	level := float64(data.size) / one

	p := plot.New()
	style(p)
	p.Title.Text = fmt.Sprintf("Resident memory while a buffer grows to %v", size(data.size))
	p.Y.Label.Text = "resident memory, " + unit
	// One implementation may take a hundred times as long as another. On a
	// logarithmic axis each keeps its shape.
	p.X.Label.Text = "seconds, logarithmic"
	if data.path != "" {
		p.X.Label.Text += ", with the time to read the data"
	}
	p.X.Scale = plot.LogScale{}
	p.X.Tick.Marker = secondTicks{}

	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = mist, mist
	payload := plotter.NewFunction(func(float64) float64 { return level })
	payload.Color = ink
	payload.Dashes = []vg.Length{5, 4}
	p.Add(grid, payload)

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
		p.Legend.Add(r.name+", "+duration(r.median.Elapsed), line, end)
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

// style sets fonts and colours.
func style(p *plot.Plot) {
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	p.BackgroundColor = color.White
	p.Title.TextStyle.Font = sans
	p.Title.TextStyle.Font.Size = 15
	p.Title.TextStyle.Color = ink
	p.Title.Padding = 12
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = ink, ink
		axis.Label.TextStyle.Font = sans
		axis.Label.TextStyle.Font.Size = 12
		axis.Label.TextStyle.Color = ink
		axis.Label.Padding = 6
		axis.Tick.Label.Font = sans
		axis.Tick.Label.Font.Size = 11
		axis.Tick.Label.Color = ink
		axis.Padding = 0
	}
	p.Legend.TextStyle.Font = sans
	p.Legend.TextStyle.Font.Size = 12
	p.Legend.TextStyle.Color = ink
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = 12, -8
	p.Legend.Padding = 4
	p.Legend.ThumbnailWidth = 24
}

// secondTicks marks 1, 2 and 5 of every power of ten.
type secondTicks struct{}

func (secondTicks) Ticks(lo, hi float64) []plot.Tick {
	var ticks []plot.Tick
	for exp := math.Floor(math.Log10(lo)); exp <= math.Log10(hi); exp++ {
		for _, digit := range []float64{1, 2, 5} {
			if t := digit * math.Pow(10, exp); t >= lo && t <= hi {
				ticks = append(ticks, plot.Tick{Value: t, Label: strconv.FormatFloat(t, 'g', 3, 64)})
			}
		}
	}
	return ticks
}
