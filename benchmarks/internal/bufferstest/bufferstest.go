// Package bufferstest tests what the examples do with buffers.
package bufferstest

import (
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
)

// Each runs a test for every buffer, after which no mapping may be left.
func Each(t *testing.T, test func(t *testing.T, b buffers.Buffer)) {
	t.Helper()
	for _, name := range buffers.Names {
		t.Run(name, func(t *testing.T) {
			b, err := buffers.New(name)
			require.NoError(t, err)
			AllGivenBack(t, func() {
				test(t, b)
				require.NoError(t, b.Close())
			})
		})
	}
}

// AllGivenBack checks that f leaves no mapping.
func AllGivenBack(t *testing.T, f func()) {
	t.Helper()
	base := mmapbuf.ReadStats()
	f()
	now := mmapbuf.ReadStats()
	assert.Equal(t, base.Mappings, now.Mappings)
	assert.Equal(t, base.MappedBytes, now.MappedBytes)
}

// Refill makes p the contents of b.
func Refill(t *testing.T, b buffers.Buffer, p []byte) {
	t.Helper()
	_, err := io.Copy(io.Discard, b)
	require.NoError(t, err)
	_, err = b.Write(p)
	require.NoError(t, err)
}
