package report

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestRatio(t *testing.T) {
	for x, want := range map[float64]string{
		12.4: "12×", 9.96: "10×", 9.94: "9.9×", 1: "1.0×", 0.996: "1.0×", 0.994: "0.99×", 0.0996: "0.10×", 0.0994: "0.099×",
	} {
		assert.Equal(t, want, Ratio(x))
	}
}
