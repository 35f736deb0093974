package buffers

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

func TestBuffers(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789"), 1<<18) // past where a mapping begins
	for _, name := range Names {
		t.Run(name, func(t *testing.T) {
			b, err := New(name)
			require.NoError(t, err)
			_, err = b.Write(data)
			require.NoError(t, err)

			// Offsets count from the first unread byte.
			head := make([]byte, 3)
			_, err = io.ReadFull(b, head)
			require.NoError(t, err)
			require.Equal(t, "012", string(head))
			require.Equal(t, len(data)-3, b.Len())
			r := io.NewSectionReader(b, 0, int64(b.Len()))
			rest, err := io.ReadAll(r)
			require.NoError(t, err)
			require.True(t, bytes.Equal(data[3:], rest))
			require.NoError(t, iotest.TestReader(io.NewSectionReader(b, 5, 100), data[8:108]))

			require.NoError(t, b.Close())
			assert.Zero(t, b.Len())
		})
	}
	_, err := New("rope")
	assert.EqualError(t, err, `no buffer is called "rope"`)
}

func TestMeasure(t *testing.T) {
	const size = 8 << 20
	for _, name := range Names {
		base := mmapbuf.ReadStats()
		got, err := Measure(name, size, func(b Buffer) error {
			_, err := b.Write(make([]byte, size))
			return err
		})
		require.NoError(t, err, name)
		assert.Positive(t, got.Elapsed, name)
		assert.EqualValues(t, size, got.Size, name)
		assert.Equal(t, base.MappedBytes, mmapbuf.ReadStats().MappedBytes, "given back")
	}
	_, err := Measure(Names[1], 0, func(Buffer) error { return io.ErrClosedPipe })
	assert.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = Measure("rope", 0, nil)
	assert.ErrorContains(t, err, "rope")
}
