// Package chart gives the pictures of the benchmarks their common look.
package chart

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
)

// Colors that color-blind people can tell apart (Okabe and Ito).
var (
	Orange     = color.RGBA{0xe6, 0x9f, 0x00, 0xff}
	SkyBlue    = color.RGBA{0x56, 0xb4, 0xe9, 0xff}
	Green      = color.RGBA{0x00, 0x9e, 0x73, 0xff}
	Blue       = color.RGBA{0x00, 0x72, 0xb2, 0xff}
	Vermillion = color.RGBA{0xd5, 0x5e, 0x00, 0xff}
	Purple     = color.RGBA{0xcc, 0x79, 0xa7, 0xff}
	Olive      = color.RGBA{0x8a, 0x8a, 0x1f, 0xff}
	Brown      = color.RGBA{0x7a, 0x3b, 0x2e, 0xff}
	Gray       = color.Gray{0x88}

	Ink  = color.Gray{0x33} // text and axes
	Mist = color.Gray{0xe4} // the grid
)

// Dashes is the pattern of lines that show a limit.
var Dashes = []vg.Length{5, 4}

// New returns an empty plot with fonts, colors and a grid.
func New() *plot.Plot {
	p := plot.New()
	style := func(s *text.Style, size font.Length) {
		s.Font = font.Font{Typeface: "Liberation", Variant: "Sans", Size: size}
		s.Color = Ink
	}
	style(&p.Title.TextStyle, 15)
	p.Title.Padding = 12
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		style(&axis.Label.TextStyle, 12)
		style(&axis.Tick.Label, 11)
		axis.Color, axis.Tick.Color = Ink, Ink
		axis.Label.Padding = 6
		axis.Padding = 0
	}
	style(&p.Legend.TextStyle, 12)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.XOffs, p.Legend.YOffs = 12, -8
	p.Legend.Padding = 4
	p.Legend.ThumbnailWidth = 24

	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = Mist, Mist
	p.Add(grid)
	return p
}

// AddLine adds a line whose last point is marked with a dot.
func AddLine(p *plot.Plot, name string, points plotter.XYs, c color.Color) error {
	line, err := plotter.NewLine(points)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	line.Width, line.Color = 2, c
	end := &plotter.Scatter{XYs: points[len(points)-1:], GlyphStyle: Dot(c, 4)}
	p.Add(line, end)
	p.Legend.Add(name, line, end)
	return nil
}

// Dot returns the style of a dot.
func Dot(c color.Color, radius vg.Length) draw.GlyphStyle {
	return draw.GlyphStyle{Color: c, Radius: radius, Shape: draw.CircleGlyph{}}
}

// Unit returns the unit in which to show up to n bytes, and its size in bytes.
func Unit(n int64) (name string, size float64) {
	if n >= 1<<30 {
		return "GiB", 1 << 30
	}
	return "MiB", 1 << 20
}

// Ticks marks 1, 2 and 5 times each power of ten.
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

// Write draws plots, one above the other, writes them to the file name.png in
// directory dir, and prints the name of the file to stdout.
func Write(stdout io.Writer, dir, name string, plots ...*plot.Plot) (err error) {
	// A picture is 900 units wide, the width of a README. The file has two
	// pixels to the unit, for dense screens.
	const unit = vg.Inch / 96
	height := 480 * unit
	if len(plots) > 1 {
		height = 320 * unit * vg.Length(len(plots))
	}
	img := vgimg.NewWith(vgimg.UseWH(900*unit, height), vgimg.UseDPI(2*96))
	column := make([][]*plot.Plot, len(plots))
	for i, p := range plots {
		column[i] = []*plot.Plot{p}
	}
	tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadTop: 10, PadBottom: 8, PadLeft: 10, PadRight: 16, PadY: 20}
	for i, row := range plot.Align(column, tiles, draw.New(img)) {
		plots[i].Draw(row[0])
	}

	path := filepath.Join(dir, name+".png")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := (vgimg.PngCanvas{Canvas: img}).WriteTo(file); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	_, err = fmt.Fprintln(stdout, "wrote", path)
	return err
}
