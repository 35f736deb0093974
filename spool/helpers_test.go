package spool

import (
	"errors"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"

	ft "github.com/mmapbuf/mmapbuf/internal/filetest"
)

var (
	_ ft.File  = (*os.File)(nil)
	_ ft.Sized = (*mmapbuf.File)(nil)
	_ ft.Sized = (*File)(nil)
)

var (
	noise     = ft.Noise
	diffBytes = ft.Diff
)

// newFile returns a File with room for max bytes in memory.
func newFile(t testing.TB, max int) *File {
	t.Helper()
	f := New(&mmapbuf.Buffer{MaxLen: max}, t.TempDir())
	t.Cleanup(func() { f.Close() })
	return f
}

// filled returns a File with room for max bytes in memory, the contents p and
// offset 0.
func filled(t testing.TB, max int, p []byte) *File {
	t.Helper()
	f := newFile(t, max)
	require.NoError(t, ft.Err(f.WriteAt(p, 0)))
	return f
}

func inMemory(f *File) bool { return f.b != nil && f.mem != nil && f.disk == nil }
func onDisk(f *File) bool   { return f.b == nil && f.mem == nil && f.disk != nil }

func rewind(t testing.TB, f *File) {
	t.Helper()
	require.NoError(t, ft.Err(f.Seek(0, io.SeekStart)))
}

// requireContents compares all of the contents, without the offset.
func requireContents(t testing.TB, f *File, want []byte, msg ...any) {
	t.Helper()
	require.EqualValues(t, len(want), f.Size(), msg...)
	p := make([]byte, len(want)+1)
	n, err := f.ReadAt(p, 0)
	require.Equal(t, io.EOF, err, msg...)
	require.NoError(t, diffBytes(p[:n], want), msg...)
}

// requireEmpty fails the test unless dir has no files.
func requireEmpty(t testing.TB, dir string) {
	t.Helper()
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)
}

// requireReleased fails the test unless the Buffer of a File is closed.
func requireReleased(t testing.TB, b *mmapbuf.Buffer) {
	t.Helper()
	assert.Zero(t, b.Len())
	assert.Zero(t, b.Cap())
}

const (
	toDisk = 0  // the rollover comes first
	noMax  = -1 // there is none
)

// A subject is a File that moves to disk where max says so: MaxLen, or one of
// toDisk and noMax.
type subject struct {
	dir string
	max int

	b    *mmapbuf.Buffer
	f    *File
	peak int64    // the largest size that a step has extended the contents to
	disk *os.File // f.disk when it was first set

	rollovers int // of all Files
}

func newPair(t testing.TB) (*ft.Pair, *subject) {
	t.Helper()
	x := &subject{dir: t.TempDir(), max: noMax}
	return ft.New(t, x), x
}

func (x *subject) Open(start string) ([]ft.Sized, ft.Contents, error) {
	x.b = mmapbuf.NewBuffer(append([]byte("consumed"), start...))
	x.b.Next(len("consumed"))
	x.b.MaxLen = x.max
	x.f, x.peak, x.disk = New(x.b, x.dir), 0, nil
	if x.max == toDisk {
		if err := x.f.Rollover(); err != nil {
			return nil, nil, err
		}
	}
	return []ft.Sized{x.f}, nil, nil
}

// Check compares where the contents are with where they should be.
func (x *subject) Check(was, is int64, closed bool) error {
	if is > was {
		x.peak = max(x.peak, is)
	}
	rolled := x.max == toDisk || x.max > 0 && x.peak > int64(x.max)
	switch f := x.f; {
	case (rolled || closed) && (x.b.Len() != 0 || x.b.Cap() != 0):
		return errors.New("the Buffer is not closed")
	case closed && (f.b != nil || f.mem != nil || f.disk != nil):
		return errors.New("not closed")
	case closed:
	case rolled && !onDisk(f):
		return errors.New("not on disk")
	case !rolled && !inMemory(f):
		return errors.New("not in memory")
	case rolled && x.disk == nil:
		x.disk = f.disk
		x.rollovers++
	case f.disk != x.disk:
		return errors.New("two rollovers")
	}
	return nil
}
