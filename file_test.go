package mmapbuf

import (
	"bufio"
	"bytes"
	"encoding/binary"
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
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// file is what os.File and File have in common.
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
	_ file = (*File)(nil)
)

// A fileOp is one step of a test, the same for both files.
type fileOp struct {
	name string
	run  func(f file) result

	// moves says that the offset depends on how the method copies, for an
	// os.File: it moves by what was read, and not by what the Writer took.
	moves bool
}

// A filePair takes two os.Files of one name, and two Files on one Buffer, through
// the same steps.
type filePair struct {
	path string
	look *os.File
	want [2]*os.File
	b    *Buffer
	got  [2]*File
	at   int // which of the two the steps are for

	steps []string
}

// newFilePair returns a pair with the contents start.
func newFilePair(t testing.TB, start string) *filePair {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("os.File accepts other offsets there, and reports other errors")
	}
	p := &filePair{path: filepath.Join(t.TempDir(), "file")}
	require.NoError(t, p.reset(start))
	t.Cleanup(func() { p.look.Close(); p.want[0].Close(); p.want[1].Close(); p.b.Close() })
	return p
}

// reset makes start the contents and all offsets 0. It reuses the os.Files, for
// to open a file takes as long as many steps do.
func (p *filePair) reset(start string) (err error) {
	for i, f := range p.want {
		if f == nil || isClosed(f) {
			if p.want[i], err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
				return err
			}
		}
		if _, err := p.want[i].Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	if p.look == nil {
		if p.look, err = os.Open(p.path); err != nil {
			return err
		}
	}
	if p.b != nil {
		p.b.Close()
	}
	// A consumed prefix, which no File sees.
	p.b = NewBuffer(append([]byte("consumed"), start...))
	p.b.Next(len("consumed"))
	p.got = [2]*File{NewFile(p.b), NewFile(p.b)}
	p.at, p.steps = 0, p.steps[:0]
	_, err = p.want[0].WriteAt([]byte(start), 0)
	return errors.Join(err, p.want[0].Truncate(int64(len(start))))
}

func isClosed(f *os.File) bool {
	_, err := f.Stat()
	return errors.Is(err, os.ErrClosed)
}

// step does o with both files and compares results and state.
func (p *filePair) step(o fileOp) error {
	p.steps = append(p.steps, o.name)
	want, got := p.want[p.at], p.got[p.at]
	start, _ := got.Seek(0, io.SeekCurrent)
	res, wantRes := o.run(got), o.run(want)
	err := diffFileError(res.err, wantRes.err)
	switch {
	case err != nil:
	case res.n != wantRes.n:
		err = fmt.Errorf("n = %d, want %d", res.n, wantRes.n)
	default:
		err = diffBytes(res.p, wantRes.p)
	}
	if o.moves && err == nil && !isClosed(want) {
		_, err = want.Seek(start+wantRes.n, io.SeekStart)
	}
	if err == nil {
		err = p.check()
	}
	if err != nil {
		n := max(0, len(p.steps)-12)
		return fmt.Errorf("step %d of %s: %w", len(p.steps), strings.Join(p.steps[n:], ", "), err)
	}
	return nil
}

// diffFileError says how err is of another kind than that of an os.File.
func diffFileError(err, want error) error {
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

// check compares offsets, size and contents.
func (p *filePair) check() error {
	info, err := p.look.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	if int64(p.b.Len()) != size {
		return fmt.Errorf("Len() = %d, want %d", p.b.Len(), size)
	}
	for i, want := range p.want {
		got := p.got[i]
		n, err := got.Seek(0, io.SeekCurrent)
		wantN, wantErr := want.Seek(0, io.SeekCurrent)
		if n != wantN || diffFileError(err, wantErr) != nil {
			return fmt.Errorf("offset %d, %v, want %d, %v", n, err, wantN, wantErr)
		}
		if wantErr == nil && got.Size() != size || wantErr != nil && got.Size() != 0 {
			return fmt.Errorf("Size() = %d, want %d", got.Size(), size)
		}
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
	return invariants(p.b)
}

// compare compares n bytes at off.
func (p *filePair) compare(off int64, n int) error {
	got, want := make([]byte, n), make([]byte, n)
	m, err := p.b.ReadAt(got, off)
	wantM, wantErr := p.look.ReadAt(want, off)
	if err != wantErr {
		return fmt.Errorf("ReadAt(%d bytes, %d): %v, want %v", n, off, err, wantErr)
	}
	return diffBytes(got[:m], want[:wantM])
}

func (p *filePair) compareAll() error { return p.compare(0, p.b.Len()+1) }

// The operations.

func fileRead(n int) fileOp {
	return fileOp{name: fmt.Sprintf("Read(%d)", n), run: func(f file) result {
		p := make([]byte, n)
		n, err := f.Read(p)
		return result{n: int64(n), p: p, err: err}
	}}
}

func fileReadAt(n int, off int64) fileOp {
	return fileOp{name: fmt.Sprintf("ReadAt(%d, %d)", n, off), run: func(f file) result {
		p := make([]byte, n)
		n, err := f.ReadAt(p, off)
		return result{n: int64(n), p: p, err: err}
	}}
}

func fileWrite(p []byte) fileOp {
	return fileOp{name: fmt.Sprintf("Write(%d)", len(p)), run: func(f file) result {
		n, err := f.Write(p)
		return result{n: int64(n), err: err}
	}}
}

func fileWriteString(s string) fileOp {
	return fileOp{name: fmt.Sprintf("WriteString(%d)", len(s)), run: func(f file) result {
		n, err := f.WriteString(s)
		return result{n: int64(n), err: err}
	}}
}

func fileWriteAt(p []byte, off int64) fileOp {
	return fileOp{name: fmt.Sprintf("WriteAt(%d, %d)", len(p), off), run: func(f file) result {
		n, err := f.WriteAt(p, off)
		return result{n: int64(n), err: err}
	}}
}

func fileSeek(offset int64, whence int) fileOp {
	return fileOp{name: fmt.Sprintf("Seek(%d, %d)", offset, whence), run: func(f file) result {
		n, err := f.Seek(offset, whence)
		return result{n: n, err: err}
	}}
}

func fileTruncate(size int64) fileOp {
	if runtime.GOOS == "js" {
		size = max(size, 0) // an os.File does not mind there
	}
	return fileOp{name: fmt.Sprintf("Truncate(%d)", size), run: func(f file) result {
		return result{err: f.Truncate(size)}
	}}
}

func fileReadFrom(name string, open func() io.Reader) fileOp {
	return fileOp{name: "ReadFrom(" + name + ")", run: func(f file) result {
		n, err := f.ReadFrom(open())
		return result{n: n, err: err}
	}}
}

func fileReadAll(s string) fileOp {
	return fileReadFrom(fmt.Sprint(len(s)), func() io.Reader { return iotest.HalfReader(strings.NewReader(s)) })
}

// fileWriteTo writes to a Writer that takes max bytes in all.
func fileWriteTo(max int, end error) fileOp {
	return fileOp{name: fmt.Sprintf("WriteTo(max %d, %v)", max, end), moves: true, run: func(f file) result {
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

var fileClose = fileOp{name: "Close", run: func(f file) result { return result{err: f.Close()} }}

// fileWriteLie is for the text of io, which ours is not.
func fileWriteLie(lie int) fileOp {
	return fileOp{name: fmt.Sprintf("WriteTo(lie %d)", lie), moves: true, run: func(f file) result {
		n, err := f.WriteTo(writerFunc(func(p []byte) (int, error) { return lie, nil }))
		if err != nil {
			err = errTest
		}
		return result{n: n, err: err}
	}}
}

var fileTable = []struct {
	name  string
	start string
	ops   []fileOp
}{
	{"empty", "", []fileOp{fileRead(0), fileRead(1), fileReadAt(0, 0), fileReadAt(1, 0), fileReadAt(0, 5), fileReadAt(1, 5), fileWriteTo(9, nil),
		fileSeek(0, io.SeekEnd), fileTruncate(0), fileRead(1)}},
	{"Read to the end", "abcdef", []fileOp{fileRead(2), fileRead(0), fileRead(3), fileRead(3), fileRead(0), fileRead(1)}},
	{"Write overwrites", "abcdef", []fileOp{fileWrite([]byte("AB")), fileRead(1), fileWriteString("DEFG"), fileRead(1), fileWrite(nil), fileWriteString("")}},
	{"Write across the end", "abc", []fileOp{fileSeek(-1, io.SeekEnd), fileWrite(noise()[:100]), fileSeek(-3, io.SeekEnd), fileWriteString(string(noise()[:3<<20]))}},
	{"Write beyond the end", "abc", []fileOp{fileSeek(3, io.SeekEnd), fileRead(1), fileWrite(nil), fileWriteString("x"), fileSeek(5<<20, io.SeekStart), fileWrite([]byte("y")),
		fileReadAt(9, 0)}},
	{"Write beyond the end, over what was there", string(noise()[:3<<20]), []fileOp{fileTruncate(5), fileSeek(2<<20, io.SeekStart), fileWrite([]byte("x")), fileTruncate(7 << 20)}},
	{"Seek", "abcdef", []fileOp{fileSeek(2, io.SeekStart), fileSeek(2, io.SeekCurrent), fileRead(1), fileSeek(-1, io.SeekCurrent), fileSeek(-1, io.SeekEnd), fileRead(9),
		fileSeek(100, io.SeekEnd), fileSeek(1<<40, io.SeekStart), fileSeek(1<<40, io.SeekCurrent), fileSeek(1<<40, io.SeekEnd), fileRead(1), fileWrite(nil), fileSeek(0, io.SeekCurrent)}},
	{"Seek out of range", "abcdef", []fileOp{fileSeek(3, io.SeekStart), fileSeek(-1, io.SeekStart), fileSeek(-4, io.SeekCurrent), fileSeek(-7, io.SeekEnd),
		fileSeek(math.MinInt64, io.SeekStart), fileSeek(math.MinInt64, io.SeekCurrent), fileSeek(math.MinInt64, io.SeekEnd),
		fileSeek(math.MaxInt64, io.SeekCurrent), fileSeek(math.MaxInt64, io.SeekEnd), fileSeek(0, -1), fileSeek(0, 99), fileRead(1)}},
	{"ReadAt and WriteAt leave the offset", "abcdef", []fileOp{fileRead(1), fileReadAt(3, 2), fileReadAt(9, 2), fileReadAt(1, 6), fileWriteAt([]byte("XY"), 5), fileWriteAt(nil, 50),
		fileWriteAt([]byte("Z"), 10), fileRead(9)}},
	{"negative offsets", "abc", []fileOp{fileReadAt(1, -1), fileReadAt(0, -1), fileWriteAt([]byte("x"), -1), fileWriteAt(nil, -1), fileReadAt(1, math.MinInt64), fileWriteAt(nil, math.MinInt64)}},
	{"Truncate", "abcdef", []fileOp{fileRead(4), fileTruncate(2), fileRead(1), fileTruncate(8), fileRead(9), fileTruncate(-1), fileTruncate(math.MinInt64), fileTruncate(8), fileTruncate(0), fileWriteString("x")}},
	{"Truncate much", "abc", []fileOp{fileTruncate(9 << 20), fileReadAt(9, 9<<20-9), fileTruncate(1), fileTruncate(3 << 20), fileTruncate(0), fileTruncate(1)}},
	{"ReadFrom", "abcdef", []fileOp{fileRead(2), fileReadAll("CD"), fileReadAll(""), fileReadAll(string(noise()[:100_000])), fileSeek(7, io.SeekEnd), fileReadAll("x"),
		fileReadFrom("WriterTo", func() io.Reader { return strings.NewReader("a WriterTo") })}},
	{"ReadFrom and an error", "abcdef", []fileOp{
		fileReadFrom("error", func() io.Reader { return iotest.ErrReader(errTest) }),
		fileReadFrom("data, error", func() io.Reader {
			return reader(func(p []byte) (int, error) { return copy(p, "ab"), errTest })
		}),
		fileReadFrom("data with EOF", func() io.Reader { return iotest.DataErrReader(iotest.OneByteReader(strings.NewReader("xyz"))) }),
		fileReadFrom("wrapped EOF", func() io.Reader { return iotest.ErrReader(errWrappedEOF) }),
	}},
	{"WriteTo", "abcdef", []fileOp{fileWriteTo(100, nil), fileWriteTo(100, nil), fileSeek(2, io.SeekStart), fileWriteTo(2, errTest), fileWriteTo(1, nil), fileWriteTo(0, errTest),
		fileWriteTo(1, nil), fileSeek(0, io.SeekStart), fileWriteLie(7), fileWriteLie(-1), fileSeek(7, io.SeekStart), fileWriteTo(1, nil)}},
	{"WriteTo of much", string(noise()[:3<<20]), []fileOp{fileWriteTo(100_000, errTest), fileWriteTo(math.MaxInt, nil)}},
	{"Close", "abc", []fileOp{fileRead(1), fileClose, fileClose, fileRead(0), fileRead(1), fileReadAt(0, 0), fileReadAt(1, 0), fileReadAt(1, -1), fileWrite(nil), fileWrite([]byte("x")), fileWriteString("x"),
		fileWriteAt(nil, 0), fileWriteAt([]byte("x"), 0), fileWriteAt([]byte("x"), -1), fileSeek(0, io.SeekStart), fileSeek(0, 99), fileTruncate(0), fileTruncate(-1), fileWriteTo(9, nil), fileReadAll("x")}},
}

func TestFileTable(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, test := range fileTable {
			t.Run(test.name, func(t *testing.T) {
				p := newFilePair(t, test.start)
				for _, o := range test.ops {
					require.NoError(t, p.step(o))
					require.NoError(t, p.compareAll(), "after %s", o.name)
				}
			})
		}
	})
}

// TestFileExhaustive runs every sequence of three operations, and of four of
// those that move the end, from scratch.
func TestFileExhaustive(t *testing.T) {
	other := fileOp{name: "other"}
	ops := []fileOp{
		fileWrite([]byte("xy")),
		fileSeek(0, io.SeekStart),
		fileSeek(2, io.SeekEnd),
		fileTruncate(1),
		fileTruncate(6),
		other, // the other File is meant from here on
		fileReadAll("rst"),
		fileRead(2),
		fileWriteString("z"),
		fileSeek(-1, io.SeekCurrent),
		fileReadAt(2, 1),
		fileWriteAt([]byte("ab"), 3),
		fileWriteTo(2, nil),
		fileClose,
	}
	p := newFilePair(t, "")
	fileSequences(t, p, ops, 3)
	if !testing.Short() && mapThreshold > 1<<10 { // else a mapping for each sequence
		fileSequences(t, p, ops[:7], 4)
	}
}

// fileSequences runs all sequences of n ops.
func fileSequences(t *testing.T, p *filePair, ops []fileOp, n int) {
	t.Helper()
	all := 1
	for range n {
		all *= len(ops)
	}
	for i := range all {
		require.NoError(t, p.reset("0123"))
		for k, left := 0, i; k < n; k, left = k+1, left/len(ops) {
			o := ops[left%len(ops)]
			if o.run == nil {
				p.at = 1 - p.at
				continue
			}
			if err := p.step(o); err != nil {
				require.NoError(t, err)
			}
		}
	}
}

// fileStep draws a step and does it.
func (s *script) fileStep(p *filePair) error {
	f := p.got[p.at]
	size := p.b.Len()
	off, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		off = 0
	}
	var o fileOp
	switch c := s.byte() % 24; c {
	case 0, 1, 2:
		o = fileWrite(s.data(int(off)))
	case 3:
		o = fileWriteString(string(s.data(int(off))))
	case 4, 5:
		o = fileRead(s.size(s.readBits))
	case 6:
		o = fileReadAt(s.size(s.readBits), int64(s.offset(size+10)))
	case 7:
		at := s.offset(size)
		o = fileWriteAt(s.data(at), int64(at))
	case 8:
		at := min(size+s.size(s.writeBits), max(size, s.limit))
		o = fileWriteAt(s.data(at), int64(at))
	case 9, 10:
		o = fileSeek(int64(s.offset(size)), io.SeekStart)
	case 11:
		forth, back := s.size(s.readBits), s.size(s.readBits)
		o = fileSeek(int64(forth-back), io.SeekCurrent)
	case 12:
		o = fileSeek(-int64(s.offset(size)), io.SeekEnd)
	case 13:
		o = fileSeek(0, io.SeekEnd)
	case 14:
		o = fileSeek(int64(min(size+s.size(s.writeBits), max(size, s.limit))), io.SeekStart)
	case 15:
		o = fileTruncate(int64(s.offset(size)))
	case 16:
		o = fileTruncate(int64(min(size+s.size(s.writeBits), max(size, s.limit))))
	case 17, 18:
		o = fileReadAll(string(s.data(int(off))))
	case 19:
		o = fileWriteTo(s.size(s.readBits), []error{nil, errTest}[s.byte()%2])
	case 20:
		p.at = 1 - p.at
	case 21:
		p.b.Shrink()
		p.steps = append(p.steps, "Shrink")
	case 22:
		if !s.noViews {
			p.b.Bytes()
			p.steps = append(p.steps, "Bytes")
		}
	case 23:
		misuse := []fileOp{fileSeek(-1, io.SeekStart), fileSeek(math.MinInt64, io.SeekEnd), fileSeek(0, 77), fileReadAt(1, -1), fileWriteAt([]byte("x"), -1),
			fileTruncate(-1), fileWrite(nil), fileRead(0), fileWriteTo(math.MaxInt, nil), fileClose}
		o = misuse[int(s.byte())%len(misuse)]
		if o.name == fileClose.name && s.byte()%8 != 0 { // rare, or little else happens
			return nil
		}
	}
	if o.run == nil || s.done {
		return nil
	}
	return p.step(o)
}

// TestFileRandomWalk is repeated by MMAPBUF_TEST_SEED, as TestRandomWalk is.
func TestFileRandomWalk(t *testing.T) {
	seed := testSeed(t)
	steps, limit := 1000, 12<<20
	if testing.Short() {
		steps, limit = 300, 6<<20
	}
	for i := range 2 {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed+uint64(i))
		s := &script{src: bufio.NewReader(rand.NewChaCha8(key)), writeBits: 21, readBits: 20, limit: limit, noViews: i == 0}
		p := newFilePair(t, "")
		for step := range steps {
			if isClosed(p.want[0]) || isClosed(p.want[1]) {
				require.NoError(t, p.compareAll(), "walk %d, step %d", i, step)
				require.NoError(t, p.reset(string(noise()[:s.size(21)])))
			}
			require.NoError(t, s.fileStep(p), "walk %d", i)
			if step%64 == 0 {
				require.NoError(t, p.compareAll(), "walk %d, step %d: %q", i, step, p.steps[max(0, len(p.steps)-64):])
			}
		}
		require.NoError(t, p.compareAll())
	}
}

// FuzzFile reads the kind of storage and the steps from its input.
func FuzzFile(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01mmapbuf, and then some more"))
	f.Add(noise()[:300])
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &script{src: bytes.NewReader(data), writeBits: 19, readBits: 19, limit: 2 << 20}
		s.storage(t)
		p := newFilePair(t, "")
		for step := 0; step < 200 && !s.done; step++ {
			require.NoError(t, s.fileStep(p))
		}
		require.NoError(t, p.compareAll())
	})
}

func TestFileReader(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, n := range []int{0, 1, 1000, 3 << 20} {
			f := NewFile(filled(t, n))
			require.NoError(t, iotest.TestReader(f, noise()[:n]), "%d bytes", n)
		}
	})
}

// What follows an os.File does not have, or cannot show.

func TestFileErrors(t *testing.T) {
	f := NewFile(NewBufferString("abc"))
	_, err := f.Seek(-1, io.SeekStart)
	require.EqualError(t, err, "seek mmapbuf.File: invalid argument")
	_, err = f.ReadAt(make([]byte, 1), -1)
	require.EqualError(t, err, "readat mmapbuf.File: negative offset: invalid argument")
	require.NoError(t, f.Close())
	require.EqualError(t, f.Close(), "close mmapbuf.File: file already closed")

	for _, o := range []fileOp{fileRead(1), fileReadAt(1, 0), fileWrite(nil), fileWriteString(""), fileWriteAt(nil, 0), fileSeek(0, 0), fileTruncate(0),
		fileReadAll(""), fileWriteTo(1, nil), fileClose} {
		res := o.run((*File)(nil))
		require.Equal(t, result{n: 0, p: res.p, err: os.ErrInvalid}, res, "%s of a nil File", o.name)
		require.ErrorIs(t, o.run(new(File)).err, map[bool]error{true: nil, false: os.ErrClosed}[o.name == "WriteAt(0, 0)" || o.name == "ReadFrom(0)"], "%s of a File without a Buffer", o.name)
	}
	require.Zero(t, (*File)(nil).Size())
}

// TestFileMaxLen: what fits is written, and a short write says how much.
func TestFileMaxLen(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, test := range []struct {
			name   string
			maxLen int
			o      fileOp
			offset int64
			n      int64
			want   string
			short  bool
		}{
			{"Write fits", 6, fileWrite([]byte("xyz")), 3, 3, "abcxyz", false},
			{"Write across MaxLen", 5, fileWrite([]byte("xyz")), 3, 2, "abcxy", true},
			{"Write across the end and MaxLen", 4, fileWrite([]byte("xyz")), 2, 2, "abxy", true},
			{"Write at MaxLen", 3, fileWrite([]byte("xyz")), 3, 0, "abc", true},
			{"Write nothing at MaxLen", 3, fileWrite(nil), 3, 0, "abc", false},
			{"Write nothing beyond MaxLen", 3, fileWrite(nil), 9, 0, "abc", false},
			{"Write behind a gap", 6, fileWrite([]byte("xyz")), 5, 1, "abc\x00\x00x", true},
			{"Write beyond MaxLen", 4, fileWrite([]byte("xyz")), 5, 0, "abc", true},
			{"Write far beyond MaxLen", 4, fileWrite([]byte("xyz")), math.MaxInt64 - 1, 0, "abc", true},
			{"Write within longer contents", 1, fileWrite([]byte("xy")), 1, 2, "axy", false},
			{"Write across the end of longer contents", 1, fileWrite([]byte("xyz")), 1, 2, "axy", true},
			{"WriteString across MaxLen", 5, fileWriteString("xyz"), 3, 2, "abcxy", true},
			{"WriteAt fits", 6, fileWriteAt([]byte("xyz"), 3), 0, 3, "abcxyz", false},
			{"WriteAt across MaxLen", 5, fileWriteAt([]byte("xyz"), 3), 0, 0, "abc", true},
			{"WriteAt beyond MaxLen", 5, fileWriteAt([]byte("xyz"), 6), 0, 0, "abc", true},
			{"ReadFrom fits", 6, fileReadAll("xyz"), 3, 3, "abcxyz", false},
			{"ReadFrom across MaxLen", 5, fileReadFrom("xyz", func() io.Reader { return strings.NewReader("xyz") }), 3, 2, "abcxy", true},
			{"Truncate fits", 5, fileTruncate(5), 0, 0, "abc\x00\x00", false},
			{"Truncate beyond MaxLen", 5, fileTruncate(6), 0, 0, "abc", true},
			{"Truncate longer contents", 1, fileTruncate(2), 0, 0, "ab", false},
		} {
			t.Run(test.name, func(t *testing.T) {
				b := NewBufferString("--abc")
				b.Next(2)
				b.MaxLen = test.maxLen
				f := NewFile(b)
				_, err := f.Seek(test.offset, io.SeekStart)
				require.NoError(t, err)
				res := test.o.run(f)
				require.Equal(t, test.n, res.n)
				require.Equal(t, test.want, b.String())
				require.NoError(t, invariants(b))
				if !test.short {
					require.NoError(t, res.err)
				} else {
					var pe *fs.PathError
					require.ErrorAs(t, res.err, &pe)
					require.ErrorIs(t, res.err, ErrTooLarge)
				}
				want := test.offset + test.n
				if strings.HasPrefix(test.name, "WriteAt") {
					want = test.offset
				}
				at, _ := f.Seek(0, io.SeekCurrent)
				require.Equal(t, want, at)
			})
		}
	})
}

// TestFileNoMemory: sizes that no machine has are errors.
func TestFileNoMemory(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, start := range []string{"", "abc"} {
			b := NewBufferString(start)
			f := NewFile(b)
			for _, far := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2, math.MaxInt, int64(bits(56))} {
				_, err := f.Seek(far, io.SeekStart)
				require.NoError(t, err)
				for _, o := range []fileOp{fileWrite([]byte("x")), fileWriteString("x"), fileWriteAt([]byte("x"), far), fileTruncate(far), fileReadAll("x")} {
					res := o.run(f)
					require.ErrorIs(t, res.err, ErrTooLarge, "%s at %d", o.name, far)
					require.Zero(t, res.n)
					at, _ := f.Seek(0, io.SeekCurrent)
					require.Equal(t, far, at)
				}
				require.Equal(t, result{p: make([]byte, 1), err: io.EOF}, fileRead(1).run(f))
			}
			require.Equal(t, start, b.String())
			require.NoError(t, invariants(b))
		}
	})
}

// TestFileHoles: what a Seek or a Truncate leaves out takes no memory and is not
// taken for written, also where there was something before.
func TestFileHoles(t *testing.T) {
	if !mapping.Available() {
		t.Skip("no mappings here")
	}
	mapping.Settle() // what an earlier Buffer had would count
	const far, much = int64(8 << 30), 64 << 20
	b := new(Buffer)
	defer b.Close()
	f := NewFile(b)
	resident := func() int64 { return procBytes("self/status", "VmRSS") }

	for range much / len(noise()) {
		writeAllOf(t, b, noise())
	}
	full := resident()
	require.NoError(t, f.Truncate(3<<20))
	require.NoError(t, f.Truncate(much))
	assert.Greater(t, full-resident(), int64(much-16*miB))
	assert.Less(t, b.m.Inspect().Held, int64(16*miB))

	before := resident()
	_, err := f.Seek(far, io.SeekStart)
	require.NoError(t, err)
	_, err = f.WriteString("end")
	require.NoError(t, err)
	require.NoError(t, f.Truncate(2*far))
	require.Equal(t, 2*far, f.Size())
	assert.Less(t, resident()-before, far/32) // an emulator has tables of its own
	assert.Less(t, b.m.Inspect().Held, int64(32*miB))
	require.NoError(t, invariants(b))

	p := make([]byte, 8)
	_, err = f.ReadAt(p, 3<<20-8)
	require.NoError(t, err)
	require.Equal(t, noise()[3<<20-8:3<<20], p)
	for _, off := range []int64{3 << 20, much / 2, far / 2, far - 8, far + 3, 2*far - 8} {
		_, err = f.ReadAt(p, off)
		require.NoError(t, err)
		require.Equal(t, make([]byte, 8), p, "at %d", off)
	}
	_, err = f.ReadAt(p[:3], far)
	require.NoError(t, err)
	require.Equal(t, "end", string(p[:3]))

	idleBefore := mapping.IdleBytes()
	require.NoError(t, b.Close())
	assert.Equal(t, idleBefore, mapping.IdleBytes(), "nobody knows how much memory there is between holes")

	c := filled(t, 5<<20)
	defer c.Close()
	g := NewFile(c)
	require.NoError(t, g.Truncate(far))
	was := c.m.Inspect().Held
	assert.GreaterOrEqual(t, was, int64(5<<20), "what is before the hole")
	assert.Less(t, was, int64(32*miB))
	_, err = g.Seek(far/2, io.SeekStart)
	require.NoError(t, err)
	for range 2 {
		_, err = g.Seek(far/2, io.SeekStart)
		require.NoError(t, err)
		_, err = g.Write(noise()[:5<<20])
		require.NoError(t, err)
		assert.Equal(t, was+int64(vm.Ceil(5*miB)), c.m.Inspect().Held, "what is written into the hole, once")
	}
}

// TestFileAndBuffer: what becomes of Files when their Buffer is used.
func TestFileAndBuffer(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		b := new(Buffer)
		f, g := NewFile(b), NewFile(b)
		b.WriteString("0123456789")
		text := func(f *File) string {
			p, err := io.ReadAll(f)
			require.NoError(t, err)
			return string(p)
		}
		f.Seek(4, io.SeekStart)
		require.Equal(t, "0123", string(b.Next(4)), "consumed, offsets stay")
		require.Equal(t, "89", text(f))
		require.Equal(t, "456789", text(g))
		g.Seek(-1, io.SeekEnd)
		g.WriteString("x")
		require.Equal(t, "45678x", b.String())

		require.NoError(t, f.Close())
		require.Equal(t, "45678x", b.String(), "Close of a File leaves the Buffer alone")
		g.Seek(0, io.SeekStart)
		require.Equal(t, "45678x", text(g), "and other Files")

		require.NoError(t, b.Close())
		require.Zero(t, g.Size())
		require.Equal(t, "", text(g))
		g.WriteString("!") // the offset has stayed
		require.Equal(t, "\x00\x00\x00\x00\x00\x00!", b.String())
		require.NoError(t, b.Close())
	})
}

func TestFileNoAllocs(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		b := new(Buffer)
		defer b.Close()
		f := NewFile(b)
		p := noise()[:1000]
		s := string(p)
		q := make([]byte, 1000)
		r := bytes.NewReader(nil)
		var plain io.Reader = struct{ io.Reader }{r}
		require.NoError(t, f.Truncate(1<<20))
		var w io.Writer = writerFunc(func(p []byte) (int, error) { return len(p), nil })
		for _, test := range []struct {
			name string
			call func()
		}{
			{"Write", func() { f.Write(p) }},
			{"WriteString", func() { f.WriteString(s) }},
			{"WriteAt", func() { f.WriteAt(p, 500) }},
			{"Seek", func() { f.Seek(0, io.SeekStart); f.Seek(0, io.SeekCurrent); f.Seek(-10_000, io.SeekEnd) }},
			{"Read", func() { f.Read(q) }},
			{"Read at the end", func() { f.Seek(0, io.SeekEnd); f.Read(q) }},
			{"ReadAt", func() { f.ReadAt(q, 100) }},
			{"Truncate", func() { f.Truncate(10_000); f.Truncate(900_000) }},
			{"ReadFrom", func() { r.Reset(p); f.ReadFrom(plain) }},
			{"ReadFrom a WriterTo", func() { r.Reset(p); f.ReadFrom(r) }},
			{"WriteTo", func() { f.Seek(-5000, io.SeekEnd); f.WriteTo(w) }},
			{"Size", func() { f.Size() }},
			{"Len", func() { f.Len() }},
		} {
			f.Seek(0, io.SeekStart)
			allocs := 0.0
			if test.name == "ReadFrom" {
				allocs = 1 // the buffer
			}
			assert.Equal(t, allocs, testing.AllocsPerRun(100, test.call), test.name)
		}
	})
}

// TestFileReadAtOnce has goroutines read one Buffer, each through a File of its
// own, and take the first views of it meanwhile.
func TestFileReadAtOnce(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		const n = 5<<20 + 7 // what is shorter is copied to be viewed
		b := filled(t, n)
		defer b.Close()
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				f := NewFile(b)
				defer f.Close()
				if i > 1 {
					assert.NoError(t, diffBytes(b.Bytes(), noise()[:n]), "Bytes")
				}
				p, err := io.ReadAll(struct{ io.Reader }{f})
				assert.NoError(t, err)
				assert.NoError(t, diffBytes(p, noise()[:n]), "Read")
				at, err := f.Seek(-1000, io.SeekEnd)
				assert.NoError(t, err)
				var w bytes.Buffer
				_, err = f.WriteTo(&w)
				assert.NoError(t, err)
				assert.NoError(t, diffBytes(w.Bytes(), noise()[at:n]), "WriteTo")
				_, err = f.ReadAt(p[:1000], int64(i))
				assert.NoError(t, err)
				assert.NoError(t, diffBytes(p[:1000], noise()[i:i+1000]), "ReadAt")
				assert.EqualValues(t, n, f.Size())
			})
		}
		wg.Wait()
	})
}

// TestFileAtAtOnce: ReadAt and WriteAt of one File, of Files and of the Buffer,
// on ranges that do not overlap.
func TestFileAtAtOnce(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		const part, parts, workers = 50_000, 24, 4
		var b Buffer
		defer b.Close()
		shared := NewFile(&b)
		var wg sync.WaitGroup
		for w := range workers {
			at := []interface {
				io.ReaderAt
				io.WriterAt
			}{shared, &b, NewFile(&b), shared}[w]
			wg.Go(func() {
				p := make([]byte, part)
				for i := parts - workers + w; i >= 0; i -= workers { // from the back, so that there are gaps
					want, off := noise()[i*part:][:part], int64(i*part)
					_, err := at.WriteAt(want, off)
					assert.NoError(t, err)
					_, err = at.ReadAt(p, off)
					assert.NoError(t, err)
					assert.NoError(t, diffBytes(p, want))
				}
			})
		}
		wg.Wait()
		requireContents(t, &b, noise()[:parts*part])
	})
}

// TestFileOfMovedBuffer: a Buffer that is moved takes a new File. One that was
// made before reads the old copy, until the storage is elsewhere.
func TestFileOfMovedBuffer(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, n := range []int{100, 3 << 20, 5 << 20} {
			var before *File
			b := func() Buffer {
				var b Buffer
				before = NewFile(&b)
				_, err := before.Write(noise()[:n])
				require.NoError(t, err)
				return b
			}()
			runtime.GC()
			f := NewFile(&b)
			_, err := f.Seek(0, io.SeekEnd)
			require.NoError(t, err)
			_, err = f.Write(noise()[n:])
			require.NoError(t, err)
			runtime.GC()
			requireContents(t, &b, noise())
			require.EqualValues(t, n, before.Size())
			before.Seek(0, io.SeekStart)
			p := make([]byte, n)
			if _, err := io.ReadFull(before, p); err == nil {
				require.NoError(t, diffBytes(p, noise()[:n]))
			} else {
				require.ErrorIs(t, err, errStale)
			}
			b.Close()
		}
	})
}

// TestFileInsideCalls uses Files in the middle of calls of the same Buffer, and
// of other Files on it.
func TestFileInsideCalls(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, n := range []int{100, 100_000, 3 << 20} {
			data := noise()[:n]
			twice := append(bytes.Clone(data), data...)
			end := func(b *Buffer) *File {
				f := NewFile(b)
				f.Seek(0, io.SeekEnd)
				return f
			}

			// A Writer that appends what it gets.
			b := filled(t, n)
			k, err := NewFile(b).WriteTo(struct{ io.Writer }{end(b)})
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			requireContents(t, b, twice)

			// The Buffer itself as the source, which consumes.
			b = filled(t, n)
			k, err = b.WriteTo(struct{ io.Writer }{end(b)})
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			require.Zero(t, b.Len(), "WriteTo leaves an empty Buffer, as that of bytes.Buffer")

			// A Writer that closes the Buffer, and one that takes a view.
			b = filled(t, n)
			f := NewFile(b)
			k, err = f.WriteTo(writerFunc(func(p []byte) (int, error) {
				require.NoError(t, b.Close())
				runtime.GC()
				return len(p), diffBytes(p, data)
			}))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			require.Zero(t, f.Size())
			b = filled(t, n)
			f = NewFile(b)
			_, err = f.WriteTo(writerFunc(func(p []byte) (int, error) {
				require.NoError(t, diffBytes(b.Bytes(), data))
				require.NoError(t, f.Close())
				return len(p), diffBytes(p, data)
			}))
			require.NoError(t, err)
			requireContents(t, b, data)

			// A Reader that reads the Buffer it is read into, and patches it.
			b = filled(t, n)
			f = NewFile(b)
			all := io.LimitReader(f, int64(n))
			k, err = b.ReadFrom(reader(func(p []byte) (int, error) {
				_, err := f.WriteAt([]byte("patched"), 0)
				require.NoError(t, err)
				return all.Read(p)
			}))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			copy(twice, "patched")
			copy(twice[n:], "patched")
			requireContents(t, b, twice)

			// The same of a File, and a Reader that calls ReadFrom as well.
			b = filled(t, n)
			g := end(b)
			_, err = g.ReadFrom(iotest.OneByteReader(strings.NewReader(""))) // so that there is a chunk
			require.NoError(t, err)
			all = io.LimitReader(NewFile(b), int64(n))
			k, err = g.ReadFrom(reader(func(p []byte) (int, error) {
				m, err := all.Read(p)
				_, again := g.ReadFrom(reader(func(p []byte) (int, error) {
					clear(p) // scratch space
					return 0, io.EOF
				}))
				require.NoError(t, again)
				return m, err
			}))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			requireContents(t, b, append(bytes.Clone(data), data...))
			require.NoError(t, invariants(b))
		}
	})
}

// BenchmarkFileOneByte writes 1,000,000 times one byte.
func BenchmarkFileOneByte(b *testing.B) {
	const n = 1_000_000
	p := []byte{'x'}
	turns(b, n,
		impl{"bytes.Buffer", func() time.Duration {
			return timed(func() {
				var x bytes.Buffer
				for range n {
					x.Write(p)
				}
			})
		}},
		impl{"mmapbuf.Buffer", func() time.Duration {
			return timed(func() {
				var x Buffer
				for range n {
					_, _ = x.Write(p)
				}
			})
		}},
		impl{"mmapbuf.File", func() time.Duration {
			return timed(func() {
				f := NewFile(new(Buffer))
				for range n {
					_, _ = f.Write(p)
				}
			})
		}},
	)
}

// BenchmarkFileFill is 64 KiB at a time, against the Buffer alone.
func BenchmarkFileFill(b *testing.B) {
	size, chunk := large(), make([]byte, 64*kiB)
	filling := func(open func(x *Buffer) io.Writer) func() time.Duration {
		return func() time.Duration {
			var x Buffer
			defer x.Close()
			w := open(&x)
			return timed(func() {
				for range size / len(chunk) {
					_, _ = w.Write(chunk)
				}
			})
		}
	}
	turns(b, size,
		impl{"mmapbuf.Buffer", filling(func(x *Buffer) io.Writer { return x })},
		impl{"mmapbuf.File", filling(func(x *Buffer) io.Writer { return NewFile(x) })},
	)
}

// BenchmarkFilePatch appends 100,000 records, and after each patches a length at
// the start: not at all, with WriteAt, and with Seek, Write and Seek.
func BenchmarkFilePatch(b *testing.B) {
	const n = 100_000
	record, header := make([]byte, 512), make([]byte, 4)
	patched := func(patch func(f *File)) func() time.Duration {
		return func() time.Duration {
			var x Buffer
			defer x.Close()
			f := NewFile(&x)
			return timed(func() {
				for range n {
					_, _ = f.Write(record)
					patch(f)
				}
			})
		}
	}
	turns(b, n*len(record),
		impl{"append", patched(func(*File) {})},
		impl{"WriteAt", patched(func(f *File) { _, _ = f.WriteAt(header, 40) })},
		impl{"Seek", patched(func(f *File) {
			_, _ = f.Seek(40, io.SeekStart)
			_, _ = f.Write(header)
			_, _ = f.Seek(0, io.SeekEnd)
		})},
	)
}
