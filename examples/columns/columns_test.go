package main

import (
	"io"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

func TestRoundTrip(t *testing.T) {
	for _, rows := range []int64{1, 1<<10 - 1, 1 << 10, 1<<10 + 1, rowGroup, rowGroup + 5} {
		var b mmapbuf.Buffer
		require.NoError(t, write(&b, rows))
		sum, err := read(&b)
		require.NoError(t, err, rows)
		if rows > 1000 {
			assert.InDelta(t, 0.5, sum/float64(rows), 0.01, rows)
		}
		require.NoError(t, b.Close())
	}
	small := mmapbuf.Buffer{MaxLen: 1 << 20}
	assert.ErrorIs(t, write(&small, 200_000), mmapbuf.ErrTooLarge)
	require.NoError(t, small.Close())
}

// Single rows can be read in any order, also of a file that does not begin where
// the Buffer did.
func TestRandomRows(t *testing.T) {
	const rows = rowGroup + 1000
	var b mmapbuf.Buffer
	defer b.Close()
	b.WriteString("header")
	require.NoError(t, write(&b, rows))
	b.Next(len("header"))
	file, err := parquet.OpenFile(&b, int64(b.Len()))
	require.NoError(t, err)
	r := parquet.NewGenericReader[measurement](file)
	defer r.Close()
	for _, n := range []int64{rows - 1, 0, rowGroup, rowGroup - 1, 4711, rows / 2} {
		require.NoError(t, r.SeekToRow(n))
		var got [1]measurement
		if _, err := r.Read(got[:]); err != io.EOF {
			require.NoError(t, err)
		}
		assert.Equal(t, row(n), got[0])
	}
}

func TestOtherRows(t *testing.T) {
	var b mmapbuf.Buffer
	file := parquet.NewGenericWriter[measurement](&b)
	for n := range int64(3000) {
		r := row(n)
		if n == 2500 {
			r.Value++
		}
		_, err := file.Write([]measurement{r})
		require.NoError(t, err)
	}
	require.NoError(t, file.Close())
	_, err := read(&b)
	assert.EqualError(t, err, "row 2500 differs from what was written")
	b.Truncate(b.Len() - 1)
	_, err = read(&b)
	assert.Error(t, err)
}
