// Package chart is the look of the pictures that the benchmarks draw.
package chart

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A picture is 900 units wide, as a README is; the PNG has two pixels to the
// unit, for dense screens.
const (
	unit   = vg.Inch / 96
	width  = 900 * unit
	pngDPI = 2 * 96
)

var (
	// Colours that the colour-blind can tell apart (Okabe and Ito).
	Orange     = color.RGBA{0xe6, 0x9f, 0x00, 0xff}
	SkyBlue    = color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	Green      = color.RGBA{0x00, 0x9e, 0x73, 0xff}
	Blue       = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	Vermillion = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	Purple     = color.RGBA{0xcc, 0x79, 0xa7, 0xff}
	Olive      = color.RGBA{0x8a, 0x8a, 0x1f, 0xff}
	Gray       = color.Gray{0x88}

	Ink  = color.Gray{0x33} // text and axes
	Mist = color.Gray{0xe4} // the grid
)

// New returns an empty plot with the fonts and colours set.
func New() *plot.Plot {
	p := plot.New()
	sans := font.Font{Typeface: "Liberation", Variant: "Sans"}
	p.BackgroundColor = color.White
	p.Title.TextStyle.Font = sans
	p.Title.TextStyle.Font.Size = 15
	p.Title.TextStyle.Color = Ink
	p.Title.Padding = 12
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Color, axis.Tick.Color = Ink, Ink
		axis.Label.TextStyle.Font = sans
		axis.Label.TextStyle.Font.Size = 12
		axis.Label.TextStyle.Color = Ink
		axis.Label.Padding = 6
		axis.Tick.Label.Font = sans
		axis.Tick.Label.Font.Size = 11
		axis.Tick.Label.Color = Ink
		axis.Padding = 0
	}
	p.Legend.TextStyle.Font = sans
	p.Legend.TextStyle.Font.Size = 12
	p.Legend.TextStyle.Color = Ink
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = 12, -8
	p.Legend.Padding = 4
	p.Legend.ThumbnailWidth = 24

	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = Mist, Mist
	p.Add(grid)
	return p
}

// Ticks marks 1, 2 and 5 of every power of ten.
type Ticks struct{}

// Ticks implements plot.Ticker.
func (Ticks) Ticks(lo, hi float64) []plot.Tick {
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

// NewLabels returns names of lines, each to the right of where its line ends, and
// apart from each other. The Y axis of p is logarithmic and has its limits.
func NewLabels(p *plot.Plot, names []string, ends plotter.XYs, colors []color.Color) (*plotter.Labels, error) {
	const lines = 20 // of text, in the height of a plot
	apart := math.Pow(p.Y.Max/p.Y.Min, 1.0/lines)
	order := make([]int, len(ends))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(ends[a].Y, ends[b].Y) })
	at := slices.Clone(ends)
	for n, i := range order {
		if n > 0 {
			at[i].Y = max(at[i].Y, at[order[n-1]].Y*apart)
		}
	}
	limit := p.Y.Max
	for _, i := range slices.Backward(order) {
		at[i].Y = min(at[i].Y, limit)
		limit = at[i].Y / apart
	}
	labels, err := plotter.NewLabels(plotter.XYLabels{XYs: at, Labels: names})
	if err != nil {
		return nil, err
	}
	for i := range labels.TextStyle {
		labels.TextStyle[i] = p.Legend.TextStyle
		labels.TextStyle[i].Color = colors[i]
		labels.TextStyle[i].YAlign = text.YCenter
	}
	labels.Offset.X = 12
	return labels, nil
}

// Write draws plots, one above the other, as name.svg and name.png into directory
// dir, and tells stdout what these files are called.
func Write(stdout io.Writer, dir, name string, plots ...*plot.Plot) error {
	height := 480 * unit
	if len(plots) > 1 {
		height = 320 * unit * vg.Length(len(plots))
	}
	column := make([][]*plot.Plot, len(plots))
	for i, p := range plots {
		column[i] = []*plot.Plot{p}
	}
	paint := func(c draw.Canvas) {
		c.SetColor(color.White)
		c.Fill(c.Rectangle.Path())
		tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadTop: 10, PadBottom: 8, PadLeft: 10, PadRight: 16, PadY: 20}
		for i, row := range plot.Align(column, tiles, c) {
			plots[i].Draw(row[0])
		}
	}

	var svg, png bytes.Buffer
	vectors := vgsvg.New(width, height)
	paint(draw.New(vectors))
	pixels := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(pngDPI))
	paint(draw.New(pixels))
	if _, err := vectors.WriteTo(&svg); err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	if _, err := (vgimg.PngCanvas{Canvas: pixels}).WriteTo(&png); err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	// Few have the Liberation fonts; Arial is as wide.
	fonts := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans"),
		[]byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))
	for _, file := range []struct {
		suffix   string
		contents []byte
	}{{".svg", fonts}, {".png", png.Bytes()}} {
		path := filepath.Join(dir, name+file.suffix)
		if err := os.WriteFile(path, file.contents, 0o666); err != nil {
			return fmt.Errorf("picture: %w", err)
		}
		if _, err := fmt.Fprintln(stdout, "wrote", path); err != nil {
			return err
		}
	}
	return nil
}
