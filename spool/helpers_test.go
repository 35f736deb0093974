package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/mmapbuf/mmapbuf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// file is what os.File, mmapbuf.File and File have in common.
type file interface {
	io.ReadWriteSeeker
	io.ReaderAt
	io.WriterAt
	io.StringWriter
	io.ReaderFrom
	io.WriterTo
	io.Closer
	Truncate(size int64) error
}

var (
	_ file = (*os.File)(nil)
	_ file = (*mmapbuf.File)(nil)
	_ file = (*File)(nil)
)

var errTest = errors.New("test error")

// noise is data that shows every misplaced byte. It has no zeros.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{}).Read(p)
	for i, c := range p {
		p[i] = max(c, 1)
	}
	return p
})

func diffBytes(p, want []byte) error {
	if bytes.Equal(p, want) {
		return nil
	}
	i := 0
	for i < len(p) && i < len(want) && p[i] == want[i] {
		i++
	}
	around := func(p []byte) []byte { return p[max(0, i-8):min(len(p), i+24)] }
	return fmt.Errorf("%d bytes, want %d; they differ from [%d] on: ...%q, want ...%q", len(p), len(want), i, around(p), around(want))
}

// newFile returns a File with room for max bytes in memory.
func newFile(t testing.TB, max int) *File {
	t.Helper()
	f := New(&mmapbuf.Buffer{MaxLen: max}, t.TempDir())
	t.Cleanup(func() { f.Close() })
	return f
}

func inMemory(f *File) bool { return f.b != nil && f.mem != nil && f.disk == nil }
func onDisk(f *File) bool   { return f.b == nil && f.mem == nil && f.disk != nil }

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

// A result is what an operation returned.
type result struct {
	n   int64
	p   []byte
	err error
}

// An op is one step of a test, the same for all files.
type op struct {
	name string
	run  func(f file) result

	// moves says that the offset of an os.File depends on how the method
	// copies: it moves by what was read, not by what the Writer took.
	moves bool
}

// A pair takes an os.File and a File through the same steps.
type pair struct {
	t    testing.TB
	path string
	want *os.File
	look *os.File // to look at want without its offset, also after Close

	buf  *mmapbuf.Buffer
	got  *File
	max  int      // MaxLen, or one of toDisk and noMax
	peak int64    // the largest size that a step has extended the contents to
	disk *os.File // got.disk when it was first set

	steps []string
}

const (
	toDisk = 0  // the rollover comes first
	noMax  = -1 // there is none
)

// newPair returns a pair with the contents start.
func newPair(t testing.TB, start string, max int) *pair {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("os.File accepts other offsets there, and reports other errors")
	}
	p := &pair{t: t, path: filepath.Join(t.TempDir(), "want")}
	require.NoError(t, p.reset(start, max))
	t.Cleanup(func() { p.want.Close(); p.look.Close(); p.got.Close() })
	return p
}

// reset makes start the contents and all offsets 0.
func (p *pair) reset(start string, max int) (err error) {
	if p.want == nil || isClosed(p.want) {
		if p.want, err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return err
		}
	}
	if p.look == nil {
		if p.look, err = os.Open(p.path); err != nil {
			return err
		}
	}
	if _, err := p.want.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := p.want.WriteAt([]byte(start), 0); err != nil {
		return err
	}
	if err := p.want.Truncate(int64(len(start))); err != nil {
		return err
	}

	if p.got != nil {
		p.got.Close()
	}
	p.buf = mmapbuf.NewBuffer(append([]byte("consumed"), start...))
	p.buf.Next(len("consumed"))
	p.buf.MaxLen = max
	p.got = New(p.buf, filepath.Dir(p.path))
	p.max, p.peak, p.disk, p.steps = max, 0, nil, p.steps[:0]
	if max == toDisk {
		return p.got.Rollover()
	}
	return nil
}

func isClosed(f *os.File) bool {
	_, err := f.Stat()
	return errors.Is(err, os.ErrClosed)
}

// step does o with both files and compares results and state.
func (p *pair) step(o op) error {
	p.steps = append(p.steps, o.name)
	start, _ := p.got.Seek(0, io.SeekCurrent)
	was := p.got.Size()
	res, want := o.run(p.got), o.run(p.want)
	err := diffError(res.err, want.err)
	switch {
	case err != nil:
	case res.n != want.n:
		err = fmt.Errorf("n = %d, want %d", res.n, want.n)
	default:
		err = diffBytes(res.p, want.p)
	}
	if o.moves && err == nil && !isClosed(p.want) {
		_, err = p.want.Seek(start+want.n, io.SeekStart)
	}
	if err == nil {
		err = p.check(was)
	}
	if err != nil {
		n := max(0, len(p.steps)-12)
		return fmt.Errorf("max %d, step %d of %s: %w", p.max, len(p.steps), strings.Join(p.steps[n:], ", "), err)
	}
	return nil
}

// diffError says how err is of another kind than that of an os.File.
func diffError(err, want error) error {
	var is, as *fs.PathError
	same := err == want
	switch {
	case !errors.As(want, &as) || same:
	case !errors.As(err, &is) || is.Op != as.Op:
		same = false
	case errors.Is(want, os.ErrClosed):
		same = errors.Is(err, os.ErrClosed) && !errors.Is(err, os.ErrInvalid)
	default: // EINVAL, or a text of package os alone
		same = errors.Is(err, os.ErrInvalid) && !errors.Is(err, os.ErrClosed)
	}
	if !same {
		return fmt.Errorf("error %#v, want %#v", err, want)
	}
	return nil
}

// check compares offsets, size and contents, and where the contents are, with what
// they should be. was is the size before the step.
func (p *pair) check(was int64) error {
	if isClosed(p.want) {
		if p.got.Size() != 0 || p.got.Len() != 0 || p.got.b != nil || p.got.mem != nil || p.got.disk != nil {
			return errors.New("not closed")
		}
		if p.buf.Len() != 0 || p.buf.Cap() != 0 {
			return errors.New("the Buffer is not closed")
		}
		return nil
	}
	info, err := p.look.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if p.got.Size() != size {
		return fmt.Errorf("Size() = %d, want %d", p.got.Size(), size)
	}
	n, err := p.got.Seek(0, io.SeekCurrent)
	wantN, wantErr := p.want.Seek(0, io.SeekCurrent)
	if n != wantN || err != nil || wantErr != nil {
		return fmt.Errorf("offset %d, %v, want %d, %v", n, err, wantN, wantErr)
	}
	if left := int(min(max(size-n, 0), math.MaxInt)); p.got.Len() != left {
		return fmt.Errorf("Len() = %d, want %d", p.got.Len(), left)
	}

	if size > was {
		p.peak = max(p.peak, size)
	}
	rolled := p.max == toDisk || p.max > 0 && p.peak > int64(p.max)
	switch {
	case rolled && !onDisk(p.got):
		return errors.New("not on disk")
	case !rolled && !inMemory(p.got):
		return errors.New("not in memory")
	case rolled && p.disk == nil:
		p.disk = p.got.disk
	case p.got.disk != p.disk:
		return errors.New("two rollovers")
	}
	if rolled && (p.buf.Len() != 0 || p.buf.Cap() != 0) {
		return errors.New("the Buffer is not closed")
	}

	const sample = 4 << 10
	some := int64(uint64(len(p.steps)) * 0x9e3779b97f4a7c15 % uint64(size+1))
	for _, off := range []int64{0, some, size - sample} {
		if err := p.compare(max(off, 0), sample); err != nil {
			return err
		}
		if size < sample {
			break
		}
	}
	return nil
}

// compare compares n bytes at off.
func (p *pair) compare(off int64, n int) error {
	got, want := make([]byte, n), make([]byte, n)
	m, err := p.got.ReadAt(got, off)
	wantM, wantErr := p.look.ReadAt(want, off)
	if err != wantErr {
		return fmt.Errorf("ReadAt(%d bytes, %d): %v, want %v", n, off, err, wantErr)
	}
	return diffBytes(got[:m], want[:wantM])
}

func (p *pair) compareAll() error {
	if isClosed(p.want) {
		return nil
	}
	return p.compare(0, int(p.got.Size())+1)
}

// The operations.

func read(n int) op {
	return op{name: fmt.Sprintf("Read(%d)", n), run: func(f file) result {
		p := make([]byte, n)
		n, err := f.Read(p)
		return result{n: int64(n), p: p, err: err}
	}}
}

func readAt(n int, off int64) op {
	return op{name: fmt.Sprintf("ReadAt(%d, %d)", n, off), run: func(f file) result {
		p := make([]byte, n)
		n, err := f.ReadAt(p, off)
		return result{n: int64(n), p: p, err: err}
	}}
}

func write(p []byte) op {
	return op{name: fmt.Sprintf("Write(%d)", len(p)), run: func(f file) result {
		n, err := f.Write(p)
		return result{n: int64(n), err: err}
	}}
}

func writeString(s string) op {
	return op{name: fmt.Sprintf("WriteString(%d)", len(s)), run: func(f file) result {
		n, err := f.WriteString(s)
		return result{n: int64(n), err: err}
	}}
}

func writeAt(p []byte, off int64) op {
	return op{name: fmt.Sprintf("WriteAt(%d, %d)", len(p), off), run: func(f file) result {
		n, err := f.WriteAt(p, off)
		return result{n: int64(n), err: err}
	}}
}

func seek(offset int64, whence int) op {
	return op{name: fmt.Sprintf("Seek(%d, %d)", offset, whence), run: func(f file) result {
		n, err := f.Seek(offset, whence)
		return result{n: n, err: err}
	}}
}

func truncate(size int64) op {
	if runtime.GOOS == "js" {
		size = max(size, 0) // an os.File accepts negative ones there
	}
	return op{name: fmt.Sprintf("Truncate(%d)", size), run: func(f file) result {
		return result{err: f.Truncate(size)}
	}}
}

func readFrom(name string, open func() io.Reader) op {
	return op{name: "ReadFrom(" + name + ")", run: func(f file) result {
		n, err := f.ReadFrom(open())
		return result{n: n, err: err}
	}}
}

func readAll(s string) op {
	return readFrom(fmt.Sprint(len(s)), func() io.Reader { return iotest.HalfReader(strings.NewReader(s)) })
}

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// A readerFrom is a Writer that wants to read.
type readerFrom func(r io.Reader) (int64, error)

func (w readerFrom) ReadFrom(r io.Reader) (int64, error) { return w(r) }
func (w readerFrom) Write(p []byte) (int, error)         { return 0, errTest }

type readerFunc func(p []byte) (int, error)

func (r readerFunc) Read(p []byte) (int, error) { return r(p) }

// writeTo writes to a Writer that takes max bytes in all, and then returns end.
func writeTo(max int, end error) op {
	return op{name: fmt.Sprintf("WriteTo(max %d, %v)", max, end), moves: true, run: func(f file) result {
		var took []byte
		n, err := f.WriteTo(writerFunc(func(p []byte) (int, error) {
			if k := max - len(took); k < len(p) {
				took = append(took, p[:k]...)
				return k, end
			}
			took = append(took, p...)
			return len(p), nil
		}))
		return result{n: n, p: took, err: err}
	}}
}

// writeToBuffer writes to a Writer that reads.
var writeToBuffer = op{name: "WriteTo(bytes.Buffer)", run: func(f file) result {
	var b bytes.Buffer
	n, err := f.WriteTo(&b)
	return result{n: n, p: b.Bytes(), err: err}
}}

// writeLie writes to a Writer that returns an invalid count. The text of the
// error is not compared.
func writeLie(lie int) op {
	return op{name: fmt.Sprintf("WriteTo(lie %d)", lie), moves: true, run: func(f file) result {
		n, err := f.WriteTo(writerFunc(func(p []byte) (int, error) { return lie, nil }))
		if err != nil {
			err = errTest
		}
		return result{n: n, err: err}
	}}
}

var closing = op{name: "Close", run: func(f file) result { return result{err: f.Close()} }}

// requireReleased fails the test unless the Buffer of a File is closed.
func requireReleased(t testing.TB, b *mmapbuf.Buffer) {
	t.Helper()
	assert.Zero(t, b.Len())
	assert.Zero(t, b.Cap())
}
