package chart

import (
	"bytes"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
)

func TestTicks(t *testing.T) {
	var labels []string
	for _, tick := range (Ticks{}).Ticks(0.05, 2.5) {
		labels = append(labels, tick.Label)
	}
	assert.Equal(t, []string{"0.05", "0.1", "0.2", "0.5", "1", "2"}, labels)
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	for name, plots := range map[string][]*plot.Plot{"one": {New()}, "two": {New(), New()}} {
		for _, p := range plots {
			require.NoError(t, AddLine(p, "a line", plotter.XYs{{X: 0, Y: 0}, {X: 1, Y: 1}}, Blue))
		}
		var out bytes.Buffer
		require.NoError(t, Write(&out, dir, name, plots...))
		path := filepath.Join(dir, name+".png")
		assert.Equal(t, "wrote "+path+"\n", out.String())
		file, err := os.Open(path)
		require.NoError(t, err)
		defer file.Close()
		picture, err := png.Decode(file)
		require.NoError(t, err)
		assert.Equal(t, 1800, picture.Bounds().Dx())
	}
	assert.ErrorIs(t, Write(io.Discard, filepath.Join(dir, "missing"), "one", New()), os.ErrNotExist)
}
