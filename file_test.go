package mmapbuf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	ft "github.com/mmapbuf/mmapbuf/internal/filetest"
	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

var (
	_ ft.File  = (*os.File)(nil)
	_ ft.Sized = (*File)(nil)
)

// fileSubject is two Files on one Buffer.
type fileSubject struct{ *Buffer }

func (x *fileSubject) Open(start string) ([]ft.Sized, ft.Contents, error) {
	if x.Buffer != nil {
		_ = x.Close()
	}
	// A consumed prefix, which no File sees.
	x.Buffer = NewBuffer(append([]byte("consumed"), start...))
	x.Next(len("consumed"))
	return []ft.Sized{NewFile(x.Buffer), NewFile(x.Buffer)}, *x, nil
}

func (x *fileSubject) Check(was, is int64, closed bool) error { return invariants(x.Buffer) }

func (x fileSubject) Size() int64 { return int64(x.Len()) }

func newFilePair(t testing.TB) (*ft.Pair, *fileSubject) {
	t.Helper()
	x := new(fileSubject)
	t.Cleanup(func() { _ = x.Close() })
	return ft.New(t, x), x
}

// steps decodes steps with Files of x.
func (s *script) steps(x *fileSubject) *ft.Script {
	own := func(k int) string {
		switch {
		case k == 0:
			x.Shrink()
			return "Shrink"
		case !s.noViews:
			x.Bytes()
			return "Bytes"
		}
		return ""
	}
	return &ft.Script{Src: s.src, WriteBits: s.writeBits, ReadBits: s.readBits, Limit: s.limit, Own: own}
}

func TestFileTable(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		p, _ := newFilePair(t)
		for _, test := range ft.Table() {
			t.Run(test.Name, func(t *testing.T) { require.NoError(t, p.Run(test)) })
		}
	})
}

// TestFileExhaustive runs every sequence of three operations, and of four of
// those that move the end, from scratch.
func TestFileExhaustive(t *testing.T) {
	p, _ := newFilePair(t)
	ends := append(slices.Clone(ft.Ends), ft.Other)
	p.Sequences(t, "0123", append(slices.Clone(ends), ft.Rest...), 3)
	if !testing.Short() && mapThreshold > 1<<10 { // else a mapping for each sequence
		p.Sequences(t, "0123", ends, 4)
	}
}

// TestFileRandomWalk is repeated by MMAPBUF_TEST_SEED, as TestRandomWalk is.
func TestFileRandomWalk(t *testing.T) {
	seed := testSeed(t)
	for i := range 2 {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed+uint64(i))
		s := &script{
			src:       bufio.NewReader(rand.NewChaCha8(key)),
			writeBits: 21, readBits: 20, limit: byLength(6<<20, 12<<20, 12<<20), noViews: i == 0,
		}
		p, x := newFilePair(t)
		require.NoError(t, s.steps(x).Walk(p, byLength(300, 1000, 1000), 64), "walk %d", i)
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
		p, x := newFilePair(t)
		require.NoError(t, s.steps(x).Run(p))
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
	ft.TestErrorTexts(t, "mmapbuf.File", f)
	require.NoError(t, f.Close())
	ft.TestClosed(t, "mmapbuf.File", (*File)(nil), map[string]ft.Sized{"closed": f, "without a Buffer": new(File)})
}

// TestFileMaxLen: what fits is written, and a short write says how much.
func TestFileMaxLen(t *testing.T) {
	fromString := ft.ReadFrom("xyz", func() io.Reader { return strings.NewReader("xyz") })
	atBothThresholds(t, func(t *testing.T) {
		for _, test := range []struct {
			name   string
			maxLen int
			o      ft.Op
			offset int64
			n      int64
			want   string
			short  bool
		}{
			{"Write fits", 6, ft.Write("xyz"), 3, 3, "abcxyz", false},
			{"Write across MaxLen", 5, ft.Write("xyz"), 3, 2, "abcxy", true},
			{"Write across the end and MaxLen", 4, ft.Write("xyz"), 2, 2, "abxy", true},
			{"Write at MaxLen", 3, ft.Write("xyz"), 3, 0, "abc", true},
			{"Write nothing at MaxLen", 3, ft.Write(""), 3, 0, "abc", false},
			{"Write nothing beyond MaxLen", 3, ft.Write(""), 9, 0, "abc", false},
			{"Write behind a gap", 6, ft.Write("xyz"), 5, 1, "abc\x00\x00x", true},
			{"Write beyond MaxLen", 4, ft.Write("xyz"), 5, 0, "abc", true},
			{"Write far beyond MaxLen", 4, ft.Write("xyz"), math.MaxInt64 - 1, 0, "abc", true},
			{"Write within longer contents", 1, ft.Write("xy"), 1, 2, "axy", false},
			{"Write across the end of longer contents", 1, ft.Write("xyz"), 1, 2, "axy", true},
			{"WriteString across MaxLen", 5, ft.WriteString("xyz"), 3, 2, "abcxy", true},
			{"WriteAt fits", 6, ft.WriteAt("xyz", 3), 0, 3, "abcxyz", false},
			{"WriteAt across MaxLen", 5, ft.WriteAt("xyz", 3), 0, 0, "abc", true},
			{"WriteAt beyond MaxLen", 5, ft.WriteAt("xyz", 6), 0, 0, "abc", true},
			{"ReadFrom fits", 6, ft.ReadAll("xyz"), 3, 3, "abcxyz", false},
			{"ReadFrom across MaxLen", 5, fromString, 3, 2, "abcxy", true},
			{"Truncate fits", 5, ft.Truncate(5), 0, 0, "abc\x00\x00", false},
			{"Truncate beyond MaxLen", 5, ft.Truncate(6), 0, 0, "abc", true},
			{"Truncate longer contents", 1, ft.Truncate(2), 0, 0, "ab", false},
		} {
			t.Run(test.name, func(t *testing.T) {
				b := NewBufferString("--abc")
				b.Next(2)
				b.MaxLen = test.maxLen
				f := NewFile(b)
				require.NoError(t, ft.Err(f.Seek(test.offset, io.SeekStart)))
				res := test.o.Run(f)
				require.Equal(t, test.n, res.N)
				require.Equal(t, test.want, b.String())
				require.NoError(t, invariants(b))
				if test.short {
					var pe *fs.PathError
					require.ErrorAs(t, res.Err, &pe)
					require.ErrorIs(t, res.Err, ErrTooLarge)
				} else {
					require.NoError(t, res.Err)
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
				require.NoError(t, ft.Err(f.Seek(far, io.SeekStart)))
				for _, o := range []ft.Op{
					ft.Write("x"), ft.WriteString("x"), ft.WriteAt("x", far), ft.Truncate(far), ft.ReadAll("x"),
				} {
					res := o.Run(f)
					require.ErrorIs(t, res.Err, ErrTooLarge, "%s at %d", o.Name, far)
					require.Zero(t, res.N)
					at, _ := f.Seek(0, io.SeekCurrent)
					require.Equal(t, far, at)
				}
				require.Equal(t, ft.Result{P: make([]byte, 1), Err: io.EOF}, ft.Read(1).Run(f))
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
	resident := func() int64 { return proctest.Bytes("self/status", "VmRSS") }

	for range much / len(noise()) {
		writeAllOf(t, b, noise())
	}
	full := resident()
	require.NoError(t, f.Truncate(3<<20))
	require.NoError(t, f.Truncate(much))
	assert.Greater(t, full-resident(), int64(much-16*miB))
	assert.Less(t, b.m.Inspect().Held, int64(16*miB))

	before := resident()
	require.NoError(t, ft.Err(f.Seek(far, io.SeekStart)))
	require.NoError(t, ft.Err(f.WriteString("end")))
	require.NoError(t, f.Truncate(2*far))
	require.Equal(t, 2*far, f.Size())
	assert.Less(t, resident()-before, far/32) // an emulator has tables of its own
	assert.Less(t, b.m.Inspect().Held, int64(32*miB))
	require.NoError(t, invariants(b))

	p := make([]byte, 8)
	require.NoError(t, ft.Err(f.ReadAt(p, 3<<20-8)))
	require.Equal(t, noise()[3<<20-8:3<<20], p)
	for _, off := range []int64{3 << 20, much / 2, far / 2, far - 8, far + 3, 2*far - 8} {
		require.NoError(t, ft.Err(f.ReadAt(p, off)))
		require.Equal(t, make([]byte, 8), p, "at %d", off)
	}
	require.NoError(t, ft.Err(f.ReadAt(p[:3], far)))
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
	require.NoError(t, ft.Err(g.Seek(far/2, io.SeekStart)))
	for range 2 {
		require.NoError(t, ft.Err(g.Seek(far/2, io.SeekStart)))
		require.NoError(t, ft.Err(g.Write(noise()[:5<<20])))
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
		for name, call := range map[string]func(){
			"Write":               func() { f.Write(p) },
			"WriteString":         func() { f.WriteString(s) },
			"WriteAt":             func() { f.WriteAt(p, 500) },
			"Seek":                func() { f.Seek(0, io.SeekStart); f.Seek(0, io.SeekCurrent); f.Seek(-10_000, io.SeekEnd) },
			"Read":                func() { f.Read(q) },
			"Read at the end":     func() { f.Seek(0, io.SeekEnd); f.Read(q) },
			"ReadAt":              func() { f.ReadAt(q, 100) },
			"Truncate":            func() { f.Truncate(10_000); f.Truncate(900_000) },
			"ReadFrom":            func() { r.Reset(p); f.ReadFrom(plain) },
			"ReadFrom a WriterTo": func() { r.Reset(p); f.ReadFrom(r) },
			"WriteTo":             func() { f.Seek(-5000, io.SeekEnd); f.WriteTo(w) },
			"Size":                func() { f.Size() },
			"Len":                 func() { f.Len() },
		} {
			f.Seek(0, io.SeekStart)
			allocs := 0.0
			if name == "ReadFrom" {
				allocs = 1 // the buffer
			}
			assert.Equal(t, allocs, testing.AllocsPerRun(100, call), name)
		}
	})
}

// TestFileReadAtOnce has goroutines read one Buffer, each through a File of its
// own, and take the first views of it meanwhile.
func TestFileReadAtOnce(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, n := range []int{2000, 5<<20 + 7} { // what is shorter is copied to be viewed
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
					assert.NoError(t, ft.Err(f.WriteTo(&w)))
					assert.NoError(t, diffBytes(w.Bytes(), noise()[at:n]), "WriteTo")
					p = p[:n/5]
					for k := range 50 {
						off := i*7 + k
						assert.NoError(t, ft.Err(f.ReadAt(p, int64(off))))
						assert.NoError(t, diffBytes(p, noise()[off:off+len(p)]), "ReadAt")
					}
					assert.EqualValues(t, n, f.Size())
				})
			}
			wg.Wait()
		}
	})
}

// TestFileAtAtOnce: ReadAt and WriteAt of one File, of Files and of the Buffer,
// on ranges that do not overlap; they extend the contents at first, and then
// overwrite them.
func TestFileAtAtOnce(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		const parts, workers = 24, 4
		for _, part := range []int{7, 50_000, 250_000} {
			var b Buffer
			defer b.Close()
			shared := NewFile(&b)
			for _, data := range [][]byte{noise(), noise()[1:]} {
				var wg sync.WaitGroup
				for w := range workers {
					at := []interface {
						io.ReaderAt
						io.WriterAt
					}{shared, &b, NewFile(&b), shared}[w]
					wg.Go(func() {
						p := make([]byte, part)
						for i := parts - workers + w; i >= 0; i -= workers { // from the back, so that there are gaps
							want, off := data[i*part:][:part], int64(i*part)
							assert.NoError(t, ft.Err(at.WriteAt(want, off)))
							assert.NoError(t, ft.Err(at.ReadAt(p, off)))
							assert.NoError(t, diffBytes(p, want))
						}
					})
				}
				wg.Wait()
				requireContents(t, &b, data[:parts*part])
			}
		}
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
				require.NoError(t, ft.Err(before.Write(noise()[:n])))
				return b
			}()
			runtime.GC()
			f := NewFile(&b)
			require.NoError(t, ft.Err(f.Seek(0, io.SeekEnd)))
			require.NoError(t, ft.Err(f.Write(noise()[n:])))
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
			twice := slices.Concat(data, data)
			end := func(b *Buffer) *File {
				f := NewFile(b)
				f.Seek(0, io.SeekEnd)
				return f
			}
			all := func(k int64, err error) {
				t.Helper()
				require.NoError(t, err)
				require.EqualValues(t, n, k)
			}

			// A Writer that appends what it gets.
			b := filled(t, n)
			all(NewFile(b).WriteTo(struct{ io.Writer }{end(b)}))
			requireContents(t, b, twice)

			// The Buffer itself as the source, which consumes.
			b = filled(t, n)
			all(b.WriteTo(struct{ io.Writer }{end(b)}))
			require.Zero(t, b.Len(), "WriteTo leaves an empty Buffer, as that of bytes.Buffer")

			// A Writer that closes the Buffer, and one that takes a view.
			b = filled(t, n)
			f := NewFile(b)
			all(f.WriteTo(writerFunc(func(p []byte) (int, error) {
				require.NoError(t, b.Close())
				runtime.GC()
				return len(p), diffBytes(p, data)
			})))
			require.Zero(t, f.Size())
			b = filled(t, n)
			f = NewFile(b)
			all(f.WriteTo(writerFunc(func(p []byte) (int, error) {
				require.NoError(t, diffBytes(b.Bytes(), data))
				require.NoError(t, f.Close())
				return len(p), diffBytes(p, data)
			})))
			requireContents(t, b, data)

			// A Reader that reads the Buffer it is read into, and patches it.
			b = filled(t, n)
			f = NewFile(b)
			r := io.LimitReader(f, int64(n))
			all(b.ReadFrom(reader(func(p []byte) (int, error) {
				require.NoError(t, ft.Err(f.WriteAt([]byte("patched"), 0)))
				return r.Read(p)
			})))
			patched := append([]byte("patched"), data[7:]...)
			requireContents(t, b, slices.Concat(patched, patched))

			// The same of a File, and a Reader that calls ReadFrom as well.
			b = filled(t, n)
			g := end(b)
			require.NoError(t, ft.Err(g.ReadFrom(iotest.OneByteReader(strings.NewReader(""))))) // so that there is a chunk
			r = io.LimitReader(NewFile(b), int64(n))
			all(g.ReadFrom(reader(func(p []byte) (int, error) {
				m, err := r.Read(p)
				require.NoError(t, ft.Err(g.ReadFrom(reader(func(p []byte) (int, error) {
					clear(p) // scratch space
					return 0, io.EOF
				}))))
				return m, err
			})))
			requireContents(t, b, twice)
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
