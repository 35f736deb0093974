package buffers

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestKinds(t *testing.T) {
	for _, kind := range Kinds {
		b, err := kind.Open(6)
		require.NoError(t, err, kind.Name)
		for _, s := range []string{"abc", "def"} {
			n, err := io.WriteString(b, s)
			require.NoError(t, err, kind.Name)
			assert.Equal(t, 3, n, kind.Name)
		}
		assert.Equal(t, "abcdef", string(b.Bytes()), kind.Name)
		assert.GreaterOrEqual(t, b.Cap(), 6, kind.Name)
		if c, ok := b.(io.Closer); ok {
			assert.NoError(t, c.Close(), kind.Name)
		}
	}
}
