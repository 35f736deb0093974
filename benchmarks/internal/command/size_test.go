package command

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"1":       1,
		"1000":    1000,
		"64KiB":   64 << 10,
		"64MiB":   64 << 20,
		"64 mib":  64 << 20,
		"1GiB":    1 << 30,
		"1.5GB":   1500000000,
		"0.5GiB":  1 << 29,
		"1048577": 1<<20 + 1,
	} {
		var s Size
		assert.NoError(t, s.Set(text), text)
		assert.Equal(t, want, s, text)
	}
	for _, text := range []string{"", "0", "-1", "-64MiB", "MiB", "64 apples", "1e9", "NaN", "16EiB", "99999999999999999999"} {
		s := Size(7)
		assert.Error(t, s.Set(text), "%q", text)
		assert.Equal(t, Size(7), s, "%q", text)
	}
	for s, want := range map[Size]string{
		0:              "0 B",
		1 << 30:        "1 GiB",
		64 << 10:       "64 KiB",
		3 << 19:        "1.5 MiB",
		100 << 40:      "100 TiB",
		1500 * 1000000: "1.4 GiB",
	} {
		assert.Equal(t, want, s.String())
	}
}
