// Package chart is the look of the pictures that the examples draw.
package chart

import (
	"bytes"
	"cmp"
	"fmt"
	"image/color"
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
	width  = 900 * vg.Inch / 96
	height = 480 * vg.Inch / 96
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

// A Label names the line that ends at X, Y, where the plot ends.
type Label struct {
	Text  string
	X, Y  float64
	Color color.Color
}

// Write draws p as name.svg and name.png into directory dir and returns what
// these files are called. Labels stand to the right of the plot.
func Write(dir, name string, p *plot.Plot, labels ...Label) ([]string, error) {
	return write(dir, name, height, func(c draw.Canvas) { drawOn(c, p, labels) })
}

// WriteStacked is Write for plots that stand one above the other.
func WriteStacked(dir, name string, plots ...*plot.Plot) ([]string, error) {
	column := make([][]*plot.Plot, len(plots))
	for i, p := range plots {
		column[i] = []*plot.Plot{p}
	}
	return write(dir, name, height*2/3*vg.Length(len(plots)), func(c draw.Canvas) {
		c.SetColor(color.White)
		c.Fill(c.Rectangle.Path())
		tiles := draw.Tiles{Rows: len(plots), Cols: 1, PadTop: 10, PadBottom: 8, PadLeft: 10, PadRight: 16, PadY: 20}
		for i, row := range plot.Align(column, tiles, c) {
			plots[i].Draw(row[0])
		}
	})
}

// write makes both files of what paint draws.
func write(dir, name string, height vg.Length, paint func(draw.Canvas)) ([]string, error) {
	var svg bytes.Buffer
	vectors := vgsvg.New(width, height)
	paint(draw.New(vectors))
	if _, err := vectors.WriteTo(&svg); err != nil {
		return nil, fmt.Errorf("picture: %w", err)
	}
	// Few have the Liberation fonts; Arial is as wide.
	fonts := bytes.ReplaceAll(svg.Bytes(), []byte("font-family:Liberation Sans"),
		[]byte("font-family:Liberation Sans,Arial,Helvetica,sans-serif"))

	var png bytes.Buffer
	pixels := vgimg.NewWith(vgimg.UseWH(width, height), vgimg.UseDPI(pngDPI))
	paint(draw.New(pixels))
	if _, err := (vgimg.PngCanvas{Canvas: pixels}).WriteTo(&png); err != nil {
		return nil, fmt.Errorf("picture: %w", err)
	}

	var written []string
	for _, file := range []struct {
		suffix   string
		contents []byte
	}{{".svg", fonts}, {".png", png.Bytes()}} {
		path := filepath.Join(dir, name+file.suffix)
		if err := os.WriteFile(path, file.contents, 0o666); err != nil {
			return nil, fmt.Errorf("picture: %w", err)
		}
		written = append(written, path)
	}
	return written, nil
}

// drawOn draws p with a margin around it, and the labels into the margin.
func drawOn(c draw.Canvas, p *plot.Plot, labels []Label) {
	const gap = 22 // between the end of a line and its label
	style := p.Legend.TextStyle
	style.YAlign = text.YCenter
	right := vg.Length(16)
	for _, l := range labels {
		right = max(right, gap+style.Width(l.Text)+8)
	}

	c.SetColor(p.BackgroundColor)
	c.Fill(c.Rectangle.Path())
	plotted := draw.Crop(c, 10, -right, 8, -10)
	p.Draw(plotted)

	data := p.DataCanvas(plotted)
	x, y := p.Transforms(&data)
	ends := make([]vg.Length, len(labels))
	for i, l := range labels {
		ends[i] = y(l.Y)
	}
	for i, at := range spread(ends, style.Height("x")*1.1, data.Min.Y, data.Max.Y) {
		l := labels[i]
		style.Color = l.Color
		from := x(l.X)
		c.StrokeLine2(draw.LineStyle{Color: l.Color, Width: 0.5}, from+5, ends[i], from+gap-4, at)
		c.FillText(style, vg.Point{X: from + gap, Y: at}, l.Text)
	}
}

// spread returns places near those wanted that are at least apart from each
// other, and as far as they fit between lo and hi.
func spread(wanted []vg.Length, apart, lo, hi vg.Length) []vg.Length {
	// A group is labels that touch; it is centred where they want to be.
	type group struct {
		members []int
		middle  vg.Length
	}
	reach := func(g group) vg.Length { return vg.Length(len(g.members)) * apart / 2 }
	settle := func(members []int) group {
		g := group{members: members}
		for _, i := range members {
			g.middle += wanted[i] / vg.Length(len(members))
		}
		g.middle = max(min(g.middle, hi-reach(g)+apart/2), lo+reach(g)-apart/2)
		return g
	}

	order := make([]int, len(wanted))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(wanted[a], wanted[b]) })
	var groups []group
	for _, i := range order {
		g := settle([]int{i})
		for n := len(groups) - 1; n >= 0 && groups[n].middle+reach(groups[n]) > g.middle-reach(g); n-- {
			g = settle(append(groups[n].members, g.members...))
			groups = groups[:n]
		}
		groups = append(groups, g)
	}

	places := make([]vg.Length, len(wanted))
	for _, g := range groups {
		for n, i := range g.members {
			places[i] = g.middle - reach(g) + apart*(vg.Length(n)+0.5)
		}
	}
	return places
}
