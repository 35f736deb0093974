package main

import (
	"bytes"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestDemonstrate(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, demonstrate(t.Context(), &out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 5)
	if runtime.GOOS == "linux" {
		assert.Equal(t, "mapped  400 MiB, left for Go  624 MiB", lines[3])
	}
	assert.Equal(t, "mapped    0 MiB, left for Go 1024 MiB", lines[4])
}

func TestLimit(t *testing.T) {
	for _, tt := range []struct{ total, mapped, want int64 }{
		{1000, 0, 1000},
		{1000, 300, 700},
		{1000, 900, 100},
		{1000, 950, 100},
		{1000, 5000, 100},
	} {
		assert.Equal(t, tt.want, limit(tt.total, tt.mapped))
	}
}
