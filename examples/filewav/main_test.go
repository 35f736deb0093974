package main

import (
	"os"
	"testing"
	"time"

	"github.com/go-audio/wav"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// TestTone compares with what the encoder writes to a file.
func TestTone(t *testing.T) {
	var b mmapbuf.Buffer
	require.NoError(t, tone(mmapbuf.NewFile(&b), 20)) // beyond 1 MiB
	f, err := os.CreateTemp(t.TempDir(), "")
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, tone(f, 20))
	want, err := os.ReadFile(f.Name())
	require.NoError(t, err)
	require.True(t, string(want) == b.String(), "%d bytes, want %d", b.Len(), len(want))

	length, err := wav.NewDecoder(mmapbuf.NewFile(&b)).Duration()
	require.NoError(t, err)
	assert.InDelta(t, 20*time.Second, length, float64(time.Millisecond))
}

func TestMaxLen(t *testing.T) {
	b := mmapbuf.Buffer{MaxLen: 100_000}
	assert.ErrorIs(t, tone(mmapbuf.NewFile(&b), 2), mmapbuf.ErrTooLarge)
}
