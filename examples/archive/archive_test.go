package main

import (
	"archive/zip"
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

// formats are zip, which is read at random, and tar, which is a stream.
var formats = map[string]struct {
	pack    func(b *mmapbuf.Buffer, fsys fs.FS) error
	compare func(b *mmapbuf.Buffer, fsys fs.FS) (int, error)
}{"zip": {packZip, compareZip}, "tar.gz": {packTar, compareTar}}

// sample returns files of which some are large and some empty, with names that
// are not plain. The noise keeps archives past where a mapping begins.
func sample() fstest.MapFS {
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(noise)
	fsys := fstest.MapFS{}
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
	fsys["no files"] = &fstest.MapFile{Mode: fs.ModeDir | 0o755}
	return fsys
}

func TestRoundTrip(t *testing.T) {
	for name, f := range formats {
		var b mmapbuf.Buffer
		require.NoError(t, f.pack(&b, sample()), name)
		if name == "zip" {
			r, err := zip.NewReader(&b, int64(b.Len()))
			require.NoError(t, err)
			require.NoError(t, fstest.TestFS(r, "empty", "noise", "deep/er/still", "näme with spaces ☺"))
		}
		files, err := f.compare(&b, sample())
		require.NoError(t, err, name)
		assert.Equal(t, 7, files, name)
		require.NoError(t, b.Close())

		b.MaxLen = 2 << 20
		assert.ErrorIs(t, f.pack(&b, sample()), mmapbuf.ErrTooLarge, name)
		require.NoError(t, b.Close())
	}
}

func TestBadArchives(t *testing.T) {
	for name, f := range formats {
		b := new(mmapbuf.Buffer)
		require.NoError(t, f.pack(b, sample()))
		whole := b.Bytes()
		refused := func(p []byte, fsys fs.FS, about ...any) {
			t.Helper()
			_, err := f.compare(mmapbuf.NewBuffer(bytes.Clone(p)), fsys)
			assert.Error(t, err, append([]any{name}, about...)...)
		}
		for _, n := range []int{0, 1, 10, 511, 1000, len(whole) / 3, len(whole) / 2, len(whole) - 2000, len(whole) - 22, len(whole) - 21, len(whole) - 1} {
			refused(whole[:n], sample(), n)
		}
		damaged := bytes.Clone(whole)
		damaged[len(whole)/2] ^= 1
		refused(damaged, sample(), "damaged")
		// A tree that changes after it has been packed.
		for about, change := range map[string]func(fsys fstest.MapFS){
			"longer":  func(fsys fstest.MapFS) { fsys["one"].Data = []byte{1, 2} },
			"shorter": func(fsys fstest.MapFS) { fsys["noise"].Data = fsys["noise"].Data[:1<<20] },
			"gone":    func(fsys fstest.MapFS) { delete(fsys, "empty") },
		} {
			fsys := sample()
			change(fsys)
			refused(whole, fsys, about)
		}
		assert.ErrorIs(t, f.pack(new(mmapbuf.Buffer), vanishing{sample()}), fs.ErrNotExist)
	}
}

// A vanishing file system has lost a file when it is opened.
type vanishing struct{ fstest.MapFS }

func (v vanishing) Open(name string) (fs.File, error) {
	if name == "deep/text" {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return v.MapFS.Open(name)
}
