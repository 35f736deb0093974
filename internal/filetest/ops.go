package filetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

// A Result is what an Op returned.
type Result struct {
	N   int64
	P   []byte
	Err error
}

// An Op is one step of a test, the same for all files. It keeps no state.
type Op struct {
	Name string
	Run  func(f File) Result // nil for Other

	// moves says that the offset of an os.File depends on how the method
	// copies: it moves by what was read, not by what the Writer took.
	moves bool
}

// ErrTest is an error of a Reader or a Writer.
var ErrTest = errors.New("test error")

// Other has the steps after it mean the next of the Files.
var Other = Op{Name: "other"}

// counting returns an Op that returns a count.
func counting[N int | int64](call func(f File) (N, error), format string, args ...any) Op {
	return Op{Name: fmt.Sprintf(format, args...), Run: func(f File) Result {
		n, err := call(f)
		return Result{N: int64(n), Err: err}
	}}
}

// Close is Close.
var Close = Op{Name: "Close", Run: func(f File) Result { return Result{Err: f.Close()} }}

// Read is Read of n bytes. Its Result has all n.
func Read(n int) Op {
	return Op{Name: fmt.Sprintf("Read(%d)", n), Run: func(f File) Result {
		p := make([]byte, n)
		n, err := f.Read(p)
		return Result{N: int64(n), P: p, Err: err}
	}}
}

// ReadAt is ReadAt of n bytes at off.
func ReadAt(n int, off int64) Op {
	return Op{Name: fmt.Sprintf("ReadAt(%d, %d)", n, off), Run: func(f File) Result {
		p := make([]byte, n)
		n, err := f.ReadAt(p, off)
		return Result{N: int64(n), P: p, Err: err}
	}}
}

// Write is Write of s.
func Write[T string | []byte](s T) Op {
	p := []byte(s)
	return counting(func(f File) (int, error) { return f.Write(p) }, "Write(%d)", len(p))
}

// WriteString is WriteString of p.
func WriteString[T string | []byte](p T) Op {
	s := string(p)
	return counting(func(f File) (int, error) { return f.WriteString(s) }, "WriteString(%d)", len(s))
}

// WriteAt is WriteAt of s at off.
func WriteAt[T string | []byte](s T, off int64) Op {
	p := []byte(s)
	return counting(func(f File) (int, error) { return f.WriteAt(p, off) }, "WriteAt(%d, %d)", len(p), off)
}

// Seek is Seek.
func Seek(offset int64, whence int) Op {
	return counting(func(f File) (int64, error) { return f.Seek(offset, whence) }, "Seek(%d, %d)", offset, whence)
}

// Truncate is Truncate.
func Truncate(size int64) Op {
	if runtime.GOOS == "js" {
		size = max(size, 0) // an os.File accepts negative ones there
	}
	return counting(func(f File) (int, error) { return 0, f.Truncate(size) }, "Truncate(%d)", size)
}

// ReadFrom is ReadFrom of what open returns.
func ReadFrom(name string, open func() io.Reader) Op {
	return counting(func(f File) (int64, error) { return f.ReadFrom(open()) }, "ReadFrom(%s)", name)
}

// ReadAll is ReadFrom of a Reader of p that is no WriterTo.
func ReadAll[T string | []byte](p T) Op {
	s := string(p)
	return ReadFrom(fmt.Sprint(len(s)), func() io.Reader { return iotest.HalfReader(strings.NewReader(s)) })
}

// WriteTo is WriteTo a Writer that takes max bytes in all, and then returns end.
func WriteTo(max int, end error) Op {
	return Op{Name: fmt.Sprintf("WriteTo(max %d, %v)", max, end), moves: true, Run: func(f File) Result {
		var took []byte
		n, err := f.WriteTo(WriterFunc(func(p []byte) (int, error) {
			if k := max - len(took); k < len(p) {
				took = append(took, p[:k]...)
				return k, end
			}
			took = append(took, p...)
			return len(p), nil
		}))
		return Result{N: n, P: took, Err: err}
	}}
}

// WriteToBuffer is WriteTo a Writer that reads.
var WriteToBuffer = Op{Name: "WriteTo(bytes.Buffer)", Run: func(f File) Result {
	var b bytes.Buffer
	n, err := f.WriteTo(&b)
	return Result{N: n, P: b.Bytes(), Err: err}
}}

// writeLie is WriteTo a Writer that returns an invalid count. The text of the
// error is not compared.
func writeLie(lie int) Op {
	o := counting(func(f File) (int64, error) {
		n, err := f.WriteTo(WriterFunc(func(p []byte) (int, error) { return lie, nil }))
		if err != nil {
			err = ErrTest
		}
		return n, err
	}, "WriteTo(lie %d)", lie)
	o.moves = true
	return o
}

// A WriterFunc is an io.Writer.
type WriterFunc func(p []byte) (int, error)

func (w WriterFunc) Write(p []byte) (int, error) { return w(p) }

// A ReaderFunc is an io.Reader.
type ReaderFunc func(p []byte) (int, error)

func (r ReaderFunc) Read(p []byte) (int, error) { return r(p) }

// Ends are operations on a few bytes that move the end of the contents.
var Ends = []Op{
	Write("xy"),
	Seek(0, io.SeekStart),
	Seek(2, io.SeekEnd),
	Truncate(1),
	Truncate(6),
	ReadAll("rst"),
}

// Rest are operations on a few bytes that Ends does not have.
var Rest = []Op{
	Read(2),
	WriteString("z"),
	Seek(-1, io.SeekCurrent),
	ReadAt(2, 1),
	WriteAt("ab", 3),
	WriteTo(2, nil),
	WriteToBuffer,
	Close,
}

// A Case is a row of Table.
type Case struct {
	Name  string
	Start string
	Ops   []Op
}

// Table returns sequences of operations, one for each subject.
func Table() []Case {
	much := string(Noise()[:3<<20])
	return []Case{
		{"empty", "", []Op{
			Read(0), Read(1), ReadAt(0, 0), ReadAt(1, 0), ReadAt(0, 5), ReadAt(1, 5), WriteTo(9, nil),
			Seek(0, io.SeekEnd), Truncate(0), Read(1),
		}},
		{"Read to the end", "abcdef", []Op{Read(2), Read(0), Read(3), Read(3), Read(0), Read(1)}},
		{"Write", "", []Op{
			Write("abc"), WriteString("def"), Write(""), WriteString(""), Write("g"), Read(1),
			Seek(0, io.SeekStart), Read(10),
		}},
		{"Write overwrites", "abcdef", []Op{
			Write("AB"), Read(1), WriteString("DEFG"), Read(1), Write(""), WriteString(""),
		}},
		{"Write across the end", "abc", []Op{
			Seek(-1, io.SeekEnd), Write(much[:100]), Seek(-3, io.SeekEnd), WriteString(much),
		}},
		{"Write beyond the end", "abc", []Op{
			Seek(3, io.SeekEnd), Read(1), Write(""), WriteString("x"), Seek(5<<20, io.SeekStart), Write("y"),
			ReadAt(9, 0),
		}},
		{"Write beyond the end, over what was there", much, []Op{
			Truncate(5), Seek(2<<20, io.SeekStart), Write("x"), Truncate(7 << 20),
		}},
		{"Write much", "", []Op{
			Write(Noise()[:500_000]), Write(Noise()[500_000:1_500_000]), Write(Noise()[1_500_000:5_000_000]),
			Seek(-10, io.SeekEnd), WriteString(Noise()[:1_000_000]),
		}},
		{"Seek", "abcdef", []Op{
			Seek(2, io.SeekStart), Seek(2, io.SeekCurrent), Read(1), Seek(-1, io.SeekCurrent),
			Seek(-1, io.SeekEnd), Read(9), Seek(100, io.SeekEnd), Seek(1<<40, io.SeekStart),
			Seek(1<<40, io.SeekCurrent), Seek(1<<40, io.SeekEnd), Read(1), Write(""), Seek(0, io.SeekCurrent),
		}},
		{"Seek out of range", "abcdef", []Op{
			Seek(3, io.SeekStart), Seek(-1, io.SeekStart), Seek(-4, io.SeekCurrent), Seek(-7, io.SeekEnd),
			Seek(math.MinInt64, io.SeekStart), Seek(math.MinInt64, io.SeekCurrent),
			Seek(math.MinInt64, io.SeekEnd), Seek(math.MaxInt64, io.SeekCurrent),
			Seek(math.MaxInt64, io.SeekEnd), Seek(0, -1), Seek(0, 99), Read(1),
		}},
		{"ReadAt and WriteAt leave the offset", "abcdef", []Op{
			Read(1), ReadAt(3, 2), ReadAt(9, 2), ReadAt(1, 6), WriteAt("XY", 5), WriteAt("", 50),
			WriteAt("Z", 10), Read(9),
		}},
		{"negative offsets", "abc", []Op{
			ReadAt(1, -1), ReadAt(0, -1), WriteAt("x", -1), WriteAt("", -1), ReadAt(1, math.MinInt64),
			WriteAt("", math.MinInt64),
		}},
		{"Truncate", "abcdef", []Op{
			Read(4), Truncate(2), Read(1), Truncate(8), Read(9), Truncate(-1), Truncate(math.MinInt64),
			Truncate(8), Truncate(0), WriteString("x"),
		}},
		{"Truncate much", "abc", []Op{
			Truncate(9 << 20), ReadAt(9, 9<<20-9), Truncate(1), Truncate(3 << 20), Truncate(0), Truncate(1),
		}},
		{"ReadFrom", "abcdef", []Op{
			Read(2), ReadAll("CD"), ReadAll(""), ReadAll(Noise()[:100_000]), Seek(7, io.SeekEnd), ReadAll("x"),
			ReadFrom("WriterTo", func() io.Reader { return strings.NewReader("a WriterTo") }),
		}},
		{"ReadFrom much", "abcdef", []Op{Read(2), ReadAll(Noise()[:4_000_000])}},
		{"ReadFrom and an error", "abcdef", []Op{
			ReadFrom("error", func() io.Reader { return iotest.ErrReader(ErrTest) }),
			ReadFrom("data, error", func() io.Reader {
				return ReaderFunc(func(p []byte) (int, error) { return copy(p, "ab"), ErrTest })
			}),
			ReadFrom("data with EOF", func() io.Reader {
				return iotest.DataErrReader(iotest.OneByteReader(strings.NewReader("xyz")))
			}),
			ReadFrom("wrapped EOF", func() io.Reader { return iotest.ErrReader(errWrappedEOF) }),
		}},
		{"WriteTo", "abcdef", []Op{
			WriteTo(100, nil), WriteTo(100, nil), Seek(2, io.SeekStart), WriteTo(2, ErrTest), WriteTo(1, nil),
			WriteTo(0, ErrTest), WriteTo(1, nil), Seek(0, io.SeekStart), writeLie(7), writeLie(-1),
			Seek(7, io.SeekStart), WriteTo(1, nil),
		}},
		{"WriteTo between Writes", "abcdef", []Op{
			Write("AB"), WriteToBuffer, Seek(2, io.SeekStart), Write("CD"), WriteToBuffer, Write("gh"),
			Seek(4, io.SeekStart), WriteString("EF"),
		}},
		{"WriteTo of much", much, []Op{WriteTo(100_000, ErrTest), WriteTo(math.MaxInt, nil)}},
		{"Close", "abc", []Op{
			Read(1), Close, Close, Read(0), Read(1), ReadAt(0, 0), ReadAt(1, 0), ReadAt(1, -1), Write(""),
			Write("x"), WriteString("x"), WriteAt("", 0), WriteAt("x", 0), WriteAt("x", -1),
			Seek(0, io.SeekStart), Seek(0, 99), Truncate(0), Truncate(-1), WriteTo(9, nil), ReadAll("x"),
		}},
	}
}

var errWrappedEOF = fmt.Errorf("wrapped: %w", io.EOF)

// Run does the steps of a row, and compares all after each.
func (p *Pair) Run(c Case) error {
	if err := p.Reset(c.Start); err != nil {
		return err
	}
	for _, o := range c.Ops {
		if err := p.Step(o); err != nil {
			return err
		}
		if err := p.Compare(); err != nil {
			return fmt.Errorf("after %s: %w", o.Name, err)
		}
	}
	return nil
}

// TestClosed tests a nil File and closed ones.
func TestClosed(t *testing.T, name string, null Sized, closed map[string]Sized) {
	t.Helper()
	calls := []Op{
		Read(1), ReadAt(1, 0), Write(""), Write("x"), WriteString(""), WriteAt("x", 0), Seek(0, 0), Truncate(0),
		ReadAll("x"), WriteTo(1, nil), Close,
	}
	nothing := []Op{ReadAt(0, 0), WriteAt("", 0), ReadAll("")}
	for _, o := range append(nothing, calls...) {
		res := o.Run(null)
		require.Equal(t, Result{P: res.P, Err: os.ErrInvalid}, res, "%s of a nil File", o.Name)
	}
	require.Zero(t, null.Size())
	require.Zero(t, null.Len())
	for kind, f := range closed {
		for _, o := range calls {
			res := o.Run(f)
			require.ErrorIs(t, res.Err, os.ErrClosed, "%s of a File: %s", o.Name, kind)
			require.Zero(t, res.N)
			var pe *fs.PathError
			require.ErrorAs(t, res.Err, &pe)
		}
		for _, o := range nothing {
			require.NoError(t, o.Run(f).Err, "%s of a File: %s", o.Name, kind)
		}
		require.Zero(t, f.Size(), kind)
		require.Zero(t, f.Len(), kind)
		require.EqualError(t, f.Close(), "close "+name+": file already closed")
	}
}

// TestErrorTexts tests errors of a File of 3 bytes.
func TestErrorTexts(t *testing.T, name string, f Sized) {
	t.Helper()
	for text, err := range map[string]error{
		"readat " + name + ": negative offset: invalid argument":  ReadAt(1, -1).Run(f).Err,
		"writeat " + name + ": negative offset: invalid argument": WriteAt("", -1).Run(f).Err,
		"seek " + name + ": invalid argument":                     Seek(-4, io.SeekEnd).Run(f).Err,
		"truncate " + name + ": invalid argument":                 f.Truncate(-1),
	} {
		require.EqualError(t, err, text)
		require.ErrorIs(t, err, os.ErrInvalid)
	}
}

// Err is the error of a call that also returns something else.
func Err[T any](_ T, err error) error { return err }
