package chart

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"gonum.org/v1/plot/vg"
)

func TestTicks(t *testing.T) {
	var values []float64
	var labels []string
	for _, tick := range (Ticks{}).Ticks(0.05, 2.5) {
		values = append(values, tick.Value)
		labels = append(labels, tick.Label)
	}
	assert.InDeltaSlice(t, []float64{0.05, 0.1, 0.2, 0.5, 1, 2}, values, 1e-9)
	assert.Equal(t, []string{"0.05", "0.1", "0.2", "0.5", "1", "2"}, labels)
}

func TestSpread(t *testing.T) {
	for _, test := range []struct {
		name         string
		wanted, want []vg.Length
	}{
		{"none", nil, []vg.Length{}},
		{"far apart", []vg.Length{80, 20}, []vg.Length{80, 20}},
		{"the same place", []vg.Length{50, 50, 50}, []vg.Length{40, 50, 60}},
		{"one pushes the next", []vg.Length{50, 50, 58}, []vg.Length{128.0/3 + 0, 158.0 / 3, 188.0 / 3}},
		{"order stays", []vg.Length{52, 50}, []vg.Length{56, 46}},
		{"at the bottom", []vg.Length{0, 0}, []vg.Length{0, 10}},
		{"at the top", []vg.Length{100, 99}, []vg.Length{100, 90}},
	} {
		got := spread(test.wanted, 10, 0, 100)
		assert.Len(t, got, len(test.want), test.name)
		for i := range got {
			assert.InDelta(t, float64(test.want[i]), float64(got[i]), 1e-9, test.name)
		}
	}
}
