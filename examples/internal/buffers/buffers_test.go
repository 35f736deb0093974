package buffers

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
