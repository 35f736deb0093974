package main

import (
	"bytes"
	"io/fs"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// sample returns large, empty and other files. The noise makes
// archives so large that a Buffer keeps them in a mapping.
func sample() fstest.MapFS {
	noise := make([]byte, 3<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	fsys := fstest.MapFS{"no files": {Mode: fs.ModeDir | 0o755}}
	for name, contents := range map[string][]byte{
		"empty":                  nil,
		"one":                    {1},
		"noise":                  noise,
		"deep/er/still":          noise[:100000],
		"deep/text":              bytes.Repeat([]byte("the quick brown fox\n"), 10000),
		"näme with spaces ☺":     []byte("x"),
		strings.Repeat("l", 200): []byte("long"),
	} {
		fsys[name] = &fstest.MapFile{Data: contents, Mode: 0o644}
	}
	return fsys
}

func TestRoundTrip(t *testing.T) {
	for _, f := range formats {
		var b mmapbuf.Buffer
		require.NoError(t, f.pack(&b, sample()), f.name)
		packed := bytes.Clone(b.Bytes())
		files, err := f.compare(&b, sample())
		require.NoError(t, err, f.name)
		assert.Equal(t, 7, files, f.name)

		small := mmapbuf.Buffer{MaxLen: 2 << 20}
		assert.ErrorIs(t, f.pack(&small, sample()), mmapbuf.ErrTooLarge, f.name)

		// Differences are found.
		for _, n := range []int{0, 1000, len(packed) / 2, len(packed) - 1} {
			_, err := f.compare(mmapbuf.NewBuffer(packed[:n:n]), sample())
			assert.Error(t, err, "%s, cut to %d bytes", f.name, n)
		}
		changed, gone := sample(), sample()
		changed["one"].Data = []byte{2}
		delete(gone, "empty")
		for _, fsys := range []fs.FS{changed, gone} {
			_, err := f.compare(mmapbuf.NewBuffer(bytes.Clone(packed)), fsys)
			assert.Error(t, err, f.name)
		}
	}
}
