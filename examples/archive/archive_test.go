package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/examples/internal/buffers"
	"github.com/mmapbuf/mmapbuf/examples/internal/bufferstest"
	"github.com/mmapbuf/mmapbuf/examples/internal/commandtest"
)

func TestMain(m *testing.M) { commandtest.Main(m, main) }

// sample makes a directory of files, some large, some empty, with names that
// are not plain. What is not compressible keeps archives past where a mapping
// begins.
func sample(t *testing.T) (dir string, names []string) {
	t.Helper()
	dir = t.TempDir()
	noise := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(noise)
	for name, contents := range map[string][]byte{
		"empty":                  nil,
		"one":                    {1},
		"noise":                  noise,
		"deep/er/still":          noise[:100000],
		"deep/text":              bytes.Repeat([]byte("the quick brown fox\n"), 10000),
		"näme with spaces ☺":     []byte("x"),
		strings.Repeat("l", 200): []byte("long"),
	} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o777))
		require.NoError(t, os.WriteFile(path, contents, 0o666))
		names = append(names, name)
	}
	require.NoError(t, os.Mkdir(filepath.Join(dir, "no files"), 0o777))
	return dir, names
}

// eachWay runs a test for every format and buffer.
func eachWay(t *testing.T, test func(t *testing.T, b buffers.Buffer, f format)) {
	for _, f := range formats {
		t.Run(f.name, func(t *testing.T) {
			bufferstest.Each(t, func(t *testing.T, b buffers.Buffer) { test(t, b, f) })
		})
	}
}

func TestRoundTrip(t *testing.T) {
	dir, names := sample(t)
	if err := os.Symlink("nowhere", filepath.Join(dir, "link")); err != nil {
		t.Log(err) // not on every system
	}
	eachWay(t, func(t *testing.T, b buffers.Buffer, f format) {
		require.NoError(t, roundTrip(b, f, tree{os.DirFS(dir)}))
		var got []string
		require.NoError(t, f.unpack(b, int64(b.Len()), func(name string, r io.Reader) error {
			got = append(got, name)
			_, err := io.Copy(io.Discard, r)
			return err
		}))
		assert.ElementsMatch(t, names, got)
	})
}

// TestFS has package fstest find fault with a zip that lies in a Buffer.
func TestFS(t *testing.T) {
	dir, names := sample(t)
	eachWay(t, func(t *testing.T, b buffers.Buffer, f format) {
		if f.name != "zip" {
			t.Skip("no file system")
		}
		require.NoError(t, f.pack(b, tree{os.DirFS(dir)}))
		z, err := zip.NewReader(b, int64(b.Len()))
		require.NoError(t, err)
		require.NoError(t, fstest.TestFS(z, names...))
	})
}

// packed returns what f makes of fsys, by way of b.
func packed(t *testing.T, b buffers.Buffer, f format, fsys fs.FS) []byte {
	t.Helper()
	require.NoError(t, f.pack(b, fsys))
	whole, err := io.ReadAll(b)
	require.NoError(t, err)
	return whole
}

func TestCutOff(t *testing.T) {
	dir, _ := sample(t)
	eachWay(t, func(t *testing.T, b buffers.Buffer, f format) {
		fsys := tree{os.DirFS(dir)}
		whole := packed(t, b, f, fsys)
		// Plain tar has nothing but zeros in the end, which nobody misses.
		for _, n := range []int{0, 1, 10, 511, 1000, len(whole) / 3, len(whole) / 2, len(whole) - 2000} {
			bufferstest.Refill(t, b, whole[:n])
			err := readBack(b, f, fsys)
			require.Error(t, err, "%d of %d bytes", n, len(whole))
			assert.Regexp(t, `\Areading `+f.name+` back: [^\n]+\z`, err.Error())
		}
		if f.name == "zip" {
			for _, n := range []int{1, 21, 22, 100} {
				_, err := zip.NewReader(io.NewSectionReader(bytes.NewReader(whole), 0, int64(len(whole)-n)), int64(len(whole)-n))
				require.ErrorIs(t, err, zip.ErrFormat)
				bufferstest.Refill(t, b, whole[:len(whole)-n])
				assert.ErrorIs(t, readBack(b, f, fsys), zip.ErrFormat, "%d bytes lack", n)
			}
		}
	})
}

// Some byte that is not as it was is found out, by a checksum or by comparing.
func TestDamaged(t *testing.T) {
	dir, _ := sample(t)
	eachWay(t, func(t *testing.T, b buffers.Buffer, f format) {
		fsys := tree{os.DirFS(dir)}
		whole := packed(t, b, f, fsys)
		whole[len(whole)/2] ^= 1
		bufferstest.Refill(t, b, whole)
		err := readBack(b, f, fsys)
		assert.ErrorContains(t, err, "reading "+f.name+" back: ")
		if f.name == "tar" {
			assert.ErrorIs(t, err, errDiffers)
		}
		if f.name == "tar.gz" {
			assert.True(t, errors.As(err, new(flate.CorruptInputError)) || errors.Is(err, gzip.ErrChecksum) || errors.Is(err, errDiffers), err)
		}
	})
}

// A vanishing file system loses the last of its files when the first is opened.
type vanishing struct {
	tree
	path string
}

func (v vanishing) Open(name string) (fs.File, error) {
	if name == "deep/text" {
		if err := os.Remove(v.path); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	return v.tree.Open(name)
}

func TestVanishingFile(t *testing.T) {
	eachWay(t, func(t *testing.T, b buffers.Buffer, f format) {
		dir, _ := sample(t)
		err := roundTrip(b, f, vanishing{tree{os.DirFS(dir)}, filepath.Join(dir, "one")})
		require.ErrorIs(t, err, fs.ErrNotExist)
		assert.Regexp(t, `\Apacking `+f.name+`: [^\n]*\bone: no such file or directory\z`, err.Error())
	})
}

// A tree that changes after it has been packed is not as it was packed.
func TestChangedTree(t *testing.T) {
	for name, test := range map[string]struct {
		change func(dir string) error
		says   string
	}{
		"longer":  {func(dir string) error { return os.WriteFile(filepath.Join(dir, "one"), []byte{1, 2}, 0o666) }, "one: differs from what was packed"},
		"shorter": {func(dir string) error { return os.Truncate(filepath.Join(dir, "noise"), 1<<20) }, "noise: differs from what was packed"},
		"more":    {func(dir string) error { return os.WriteFile(filepath.Join(dir, "more"), nil, 0o666) }, "7 files of 8"},
		"fewer":   {func(dir string) error { return os.Remove(filepath.Join(dir, "empty")) }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			eachWay(t, func(t *testing.T, b buffers.Buffer, f format) {
				dir, _ := sample(t)
				fsys := tree{os.DirFS(dir)}
				require.NoError(t, f.pack(b, fsys))
				require.NoError(t, test.change(dir))
				assert.ErrorContains(t, readBack(b, f, fsys), test.says)
			})
		})
	}
}

func TestProgram(t *testing.T) {
	dir, _ := sample(t)
	cmd, stdout, stderr := commandtest.Program(t, "-runs", "1", "-only", "zip,tar.zst", dir)
	require.NoError(t, cmd.Run(), stderr)
	assert.Empty(t, stderr.String(), "no bar where there is no terminal")
	assert.Contains(t, stdout.String(), "work: 7 files of "+dir+", 3.29 MiB, packed")
	for _, name := range []string{"zip", "tar.zst"} {
		for _, buffer := range buffers.Names {
			assert.Regexp(t, fmt.Sprintf(`\n\| %s +\| +%s \|(.*\|){6}\n`, name, buffer), stdout.String())
		}
	}
	assert.NotContains(t, stdout.String(), "tar.gz")
}

func TestMistakes(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	empty := filepath.Join(dir, "empty")
	require.NoError(t, os.Mkdir(empty, 0o777))
	commandtest.RequireHelp(t, "archive")
	for _, test := range []struct {
		args   string
		status int
		says   string
	}{
		{"-runs 0", 2, "at least one run"},
		{"-runs few", 2, "-runs"},
		{"-only rar", 2, `"rar" is none of tar,tar.gz,tar.zst,zip`},
		{"-only=", 2, `"" is none of`},
		{"-colour", 2, "-colour"},
		{"one two", 2, "one directory at most"},
		{filepath.Join(dir, "missing"), 1, "no such file"},
		{empty, 1, "has no files"},
		{file, 1, "not a directory"},
	} {
		t.Run(test.args, func(t *testing.T) {
			commandtest.RequireFails(t, test.status, test.says, "archive", strings.Fields(test.args)...)
		})
	}
}
