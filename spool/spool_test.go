package spool

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/mmapbuf/mmapbuf"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var table = []struct {
	name  string
	start string
	ops   []op
}{
	{"empty", "", []op{read(0), read(1), readAt(0, 0), readAt(1, 0), readAt(0, 5), readAt(1, 5), writeTo(9, nil), seek(0, io.SeekEnd), truncate(0), read(1)}},
	{"Read to the end", "abcdef", []op{read(2), read(0), read(3), read(3), read(0), read(1)}},
	{"Write", "", []op{write([]byte("abc")), writeString("def"), write(nil), writeString(""), write([]byte("g")), read(1), seek(0, io.SeekStart), read(10)}},
	{"Write overwrites", "abcdef", []op{write([]byte("AB")), read(1), writeString("DEFG"), read(1), write(nil), writeString("")}},
	{"Write across the end", "abc", []op{seek(-1, io.SeekEnd), write(noise()[:100]), seek(-3, io.SeekEnd), writeString(string(noise()[:3<<20]))}},
	{"Write beyond the end", "abc", []op{seek(3, io.SeekEnd), read(1), write(nil), writeString("x"), seek(5<<20, io.SeekStart), write([]byte("y")), readAt(9, 0)}},
	{"Write beyond the end, over what was there", string(noise()[:3<<20]), []op{truncate(5), seek(2<<20, io.SeekStart), write([]byte("x")), truncate(7 << 20)}},
	{"Write much", "", []op{write(noise()[:500_000]), write(noise()[500_000:1_500_000]), write(noise()[1_500_000:5_000_000]), seek(-10, io.SeekEnd), writeString(string(noise()[:1_000_000]))}},
	{"Seek", "abcdef", []op{seek(2, io.SeekStart), seek(2, io.SeekCurrent), read(1), seek(-1, io.SeekCurrent), seek(-1, io.SeekEnd), read(9),
		seek(100, io.SeekEnd), seek(1<<40, io.SeekStart), seek(1<<40, io.SeekCurrent), seek(1<<40, io.SeekEnd), read(1), write(nil), seek(0, io.SeekCurrent)}},
	{"Seek out of range", "abcdef", []op{seek(3, io.SeekStart), seek(-1, io.SeekStart), seek(-4, io.SeekCurrent), seek(-7, io.SeekEnd),
		seek(math.MinInt64, io.SeekStart), seek(math.MinInt64, io.SeekCurrent), seek(math.MinInt64, io.SeekEnd),
		seek(math.MaxInt64, io.SeekCurrent), seek(math.MaxInt64, io.SeekEnd), seek(0, -1), seek(0, 99), read(1)}},
	{"ReadAt and WriteAt leave the offset", "abcdef", []op{read(1), readAt(3, 2), readAt(9, 2), readAt(1, 6), writeAt([]byte("XY"), 5), writeAt(nil, 50),
		writeAt([]byte("Z"), 10), read(9)}},
	{"negative offsets", "abc", []op{readAt(1, -1), readAt(0, -1), writeAt([]byte("x"), -1), writeAt(nil, -1), readAt(1, math.MinInt64), writeAt(nil, math.MinInt64)}},
	{"Truncate", "abcdef", []op{read(4), truncate(2), read(1), truncate(8), read(9), truncate(-1), truncate(math.MinInt64), truncate(8), truncate(0), writeString("x")}},
	{"Truncate much", "abc", []op{truncate(9 << 20), readAt(9, 9<<20-9), truncate(1), truncate(3 << 20), truncate(0), truncate(1)}},
	{"ReadFrom", "abcdef", []op{read(2), readAll("CD"), readAll(""), readAll(string(noise()[:100_000])), seek(7, io.SeekEnd), readAll("x"),
		readFrom("WriterTo", func() io.Reader { return strings.NewReader("a WriterTo") })}},
	{"ReadFrom much", "abcdef", []op{read(2), readAll(string(noise()[:4_000_000]))}},
	{"ReadFrom and an error", "abcdef", []op{
		readFrom("error", func() io.Reader { return iotest.ErrReader(errTest) }),
		readFrom("data, error", func() io.Reader {
			return readerFunc(func(p []byte) (int, error) { return copy(p, "ab"), errTest })
		}),
		readFrom("data with EOF", func() io.Reader { return iotest.DataErrReader(iotest.OneByteReader(strings.NewReader("xyz"))) }),
	}},
	{"WriteTo", "abcdef", []op{writeTo(100, nil), writeTo(100, nil), seek(2, io.SeekStart), writeTo(2, errTest), writeTo(1, nil), writeTo(0, errTest),
		writeTo(1, nil), seek(0, io.SeekStart), writeLie(7), writeLie(-1), seek(7, io.SeekStart), writeTo(1, nil)}},
	{"WriteTo between Writes", "abcdef", []op{write([]byte("AB")), writeToBuffer, seek(2, io.SeekStart), write([]byte("CD")), writeToBuffer, write([]byte("gh")), seek(4, io.SeekStart), writeString("EF")}},
	{"WriteTo of much", string(noise()[:3<<20]), []op{writeTo(100_000, errTest), writeTo(math.MaxInt, nil)}},
	{"Close", "abc", []op{read(1), closing, closing, read(0), read(1), readAt(0, 0), readAt(1, 0), readAt(1, -1), write(nil), write([]byte("x")), writeString("x"),
		writeAt(nil, 0), writeAt([]byte("x"), 0), writeAt([]byte("x"), -1), seek(0, io.SeekStart), seek(0, 99), truncate(0), truncate(-1), writeTo(9, nil), readAll("x")}},
}

// TestTable has the rollover come at each byte of small contents, and at some of
// large ones.
func TestTable(t *testing.T) {
	maxes := []int{noMax, toDisk, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 100, 100_005, 1 << 20, 2_000_000, 3 << 20, 3<<20 + 1, 5 << 20}
	for _, test := range table {
		t.Run(test.name, func(t *testing.T) {
			p := newPair(t, test.start, noMax)
			for _, max := range maxes {
				require.NoError(t, p.reset(test.start, max))
				for _, o := range test.ops {
					require.NoError(t, p.step(o))
				}
				require.NoError(t, p.compareAll(), "max %d", max)
			}
		})
	}
}

// TestExhaustive runs every sequence of three operations, from scratch, with the
// rollover at each byte.
func TestExhaustive(t *testing.T) {
	ops := []op{
		write([]byte("xy")),
		seek(0, io.SeekStart),
		seek(2, io.SeekEnd),
		truncate(1),
		truncate(6),
		writeAt([]byte("ab"), 3),
		readAll("rst"),
		read(2),
		seek(-1, io.SeekCurrent),
		writeTo(2, nil),
		writeToBuffer,
		closing,
	}
	p := newPair(t, "", noMax)
	rolled := 0
	maxes := []int{noMax, toDisk, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if testing.Short() {
		maxes = []int{noMax, toDisk, 5, 7}
	}
	for _, max := range maxes {
		for i := range len(ops) * len(ops) * len(ops) {
			require.NoError(t, p.reset("0123", max))
			for k, left := 0, i; k < 3; k, left = k+1, left/len(ops) {
				if err := p.step(ops[left%len(ops)]); err != nil {
					require.NoError(t, err)
				}
			}
			if onDisk(p.got) {
				rolled++
			}
		}
	}
	assert.Greater(t, rolled, len(maxes)*len(ops), "rollovers")
}

// A script decodes steps from bytes: those of the fuzzer, or random ones.
type script struct {
	src   io.ByteReader
	done  bool // src has no more
	bits  int  // log2 of the largest size
	limit int  // of the contents
}

func (s *script) byte() byte {
	c, err := s.src.ReadByte()
	s.done = s.done || err != nil
	return c
}

func (s *script) uint16() int { return int(s.byte())<<8 | int(s.byte()) }

// size draws a number below 1<<bits, its logarithm uniform.
func (s *script) size() int {
	e := int(s.byte()) % (s.bits + 1)
	return min(1<<e-1+s.uint16()<<max(0, e-16)&(1<<e-1), 1<<s.bits-1)
}

// data draws what to write at offset n.
func (s *script) data(n int) []byte {
	k := min(s.size(), max(0, s.limit-n))
	off := s.uint16()
	return noise()[off : off+k]
}

// offset draws an offset up to n, or, rarely, somewhat more.
func (s *script) offset(n int) int {
	if s.byte()%8 == 0 {
		return min(n+s.size(), max(n, s.limit))
	}
	return int(uint64(s.uint16()) * uint64(n+1) >> 16)
}

// step draws a step and does it.
func (s *script) step(p *pair) error {
	size := int(p.got.Size())
	off64, err := p.got.Seek(0, io.SeekCurrent)
	off := int(off64)
	if err != nil {
		off = 0
	}
	var o op
	switch s.byte() % 20 {
	case 0, 1, 2:
		o = write(s.data(off))
	case 3:
		o = writeString(string(s.data(off)))
	case 4, 5:
		o = read(s.size())
	case 6:
		o = readAt(s.size(), int64(s.offset(size)))
	case 7, 8:
		at := s.offset(size)
		o = writeAt(s.data(at), int64(at))
	case 9, 10:
		o = seek(int64(s.offset(size)), io.SeekStart)
	case 11:
		forth, back := s.size(), s.size()
		o = seek(int64(forth-back), io.SeekCurrent)
	case 12:
		o = seek(-int64(s.offset(size)), io.SeekEnd)
	case 13:
		o = seek(0, io.SeekEnd)
	case 14, 15:
		o = truncate(int64(s.offset(size)))
	case 16, 17:
		o = readAll(string(s.data(off)))
	case 18:
		o = writeTo(s.size(), []error{nil, errTest}[s.byte()%2])
		if s.byte()%2 == 0 {
			o = writeToBuffer
		}
	case 19:
		misuse := []op{seek(-1, io.SeekStart), seek(math.MinInt64, io.SeekEnd), seek(0, 77), readAt(1, -1), writeAt([]byte("x"), -1),
			truncate(-1), write(nil), read(0), writeTo(math.MaxInt, nil), closing}
		o = misuse[int(s.byte())%len(misuse)]
		if o.name == closing.name && s.byte()%8 != 0 { // rare, or little else happens
			return nil
		}
	}
	if s.done {
		return nil
	}
	return p.step(o)
}

// TestRandomWalk logs a seed, which MMAPBUF_TEST_SEED repeats.
func TestRandomWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if env := os.Getenv("MMAPBUF_TEST_SEED"); env != "" {
		n, err := strconv.ParseUint(env, 10, 64)
		require.NoError(t, err)
		seed = n
	}
	t.Logf("MMAPBUF_TEST_SEED=%d", seed)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	s := &script{src: bufio.NewReader(rand.NewChaCha8(key)), bits: 20, limit: 8 << 20}
	walks, rolled := 40, 0
	if testing.Short() {
		walks = 10
	}
	p := newPair(t, "", noMax)
	for i := range walks {
		start := noise()[:s.size()]
		require.NoError(t, p.reset(string(start), len(start)+[]int{s.size(), 1 << 20, 3 << 20}[i%3]))
		for step := 0; step < 60 && !isClosed(p.want); step++ {
			require.NoError(t, s.step(p), "walk %d", i)
			if step%16 == 0 {
				require.NoError(t, p.compareAll(), "walk %d, step %d", i, step)
			}
		}
		require.NoError(t, p.compareAll(), "walk %d", i)
		if onDisk(p.got) {
			rolled++
		}
	}
	assert.NotZero(t, rolled, "rollovers")
}

// FuzzFile reads the maximum in memory and the steps from its input.
func FuzzFile(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x05 spool, and then some more"))
	f.Add(noise()[:300])
	f.Add(noise()[300:1000])
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &script{src: bytes.NewReader(data), bits: 17, limit: 2 << 20}
		p := newPair(t, "", s.size())
		for step := 0; step < 200 && !s.done; step++ {
			require.NoError(t, s.step(p))
		}
		require.NoError(t, p.compareAll())
	})
}

// atBothPlaces runs f with a File with the contents start in memory, and with
// one on disk.
func atBothPlaces(t *testing.T, start []byte, f func(t *testing.T, f *File)) {
	t.Helper()
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%t", disk), func(t *testing.T) {
			x := newFile(t, noMax)
			_, err := x.WriteAt(start, 0)
			require.NoError(t, err)
			if disk {
				require.NoError(t, x.Rollover())
			}
			f(t, x)
			assert.Equal(t, !disk, inMemory(x))
			assert.Equal(t, disk, onDisk(x))
		})
	}
}

func TestReader(t *testing.T) {
	for _, n := range []int{0, 1, 1000, 100_000} {
		atBothPlaces(t, noise()[:n], func(t *testing.T, f *File) {
			require.NoError(t, iotest.TestReader(f, noise()[:n]), "%d bytes", n)
		})
	}
}

// TestErrors: what an os.File does not have, or not on all systems.
func TestErrors(t *testing.T) {
	ops := []op{read(1), readAt(1, 0), write(nil), write([]byte("x")), writeString(""), writeAt([]byte("x"), 0), seek(0, 0), truncate(0), readAll("x"), writeTo(1, nil), closing}
	for _, o := range ops {
		res := o.run((*File)(nil))
		require.Equal(t, result{p: res.p, err: os.ErrInvalid}, res, "%s of a nil File", o.name)
	}
	require.Equal(t, os.ErrInvalid, (*File)(nil).Rollover())
	require.Zero(t, (*File)(nil).Size())
	require.Zero(t, (*File)(nil).Len())

	closed := newFile(t, 1)
	require.NoError(t, closed.Close())
	closedOnDisk := newFile(t, 1)
	require.NoError(t, closedOnDisk.Rollover())
	require.NoError(t, closedOnDisk.Close())
	for name, f := range map[string]*File{"zero": {}, "no Buffer": New(nil, ""), "closed": closed, "closed on disk": closedOnDisk} {
		for _, o := range ops {
			res := o.run(f)
			require.ErrorIs(t, res.err, os.ErrClosed, "%s of a File: %s", o.name, name)
			require.Zero(t, res.n)
			var pe *fs.PathError
			require.ErrorAs(t, res.err, &pe)
		}
		require.ErrorIs(t, f.Rollover(), os.ErrClosed)
		require.Zero(t, f.Size())
		require.Zero(t, f.Len())
		require.NoError(t, readAt(0, 0).run(f).err)
		require.NoError(t, writeAt(nil, 0).run(f).err)
	}
	require.EqualError(t, closed.Close(), "close spool.File: file already closed")

	atBothPlaces(t, []byte("abc"), func(t *testing.T, f *File) {
		for text, err := range map[string]error{
			"readat spool.File: negative offset: invalid argument":  readAt(1, -1).run(f).err,
			"writeat spool.File: negative offset: invalid argument": writeAt(nil, -1).run(f).err,
			"seek spool.File: invalid argument":                     seek(-4, io.SeekEnd).run(f).err,
			"truncate spool.File: invalid argument":                 f.Truncate(-1),
		} {
			require.EqualError(t, err, text)
			require.ErrorIs(t, err, os.ErrInvalid)
		}
		if runtime.GOOS == "js" {
			return // Node.js has no offsets beyond 1<<53, and fs.read of it never returns
		}
		// Offsets that no file can have.
		for _, far := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2, 1 << 50} {
			require.Equal(t, result{n: far}, seek(far, io.SeekStart).run(f))
			require.Equal(t, result{p: make([]byte, 2), err: io.EOF}, read(2).run(f))
			require.Equal(t, result{p: make([]byte, 2), err: io.EOF}, readAt(2, far).run(f))
			require.Equal(t, result{}, write(nil).run(f))
			require.Equal(t, result{}, writeTo(9, nil).run(f))
			require.Zero(t, f.Len())
		}
		requireContents(t, f, []byte("abc"))
	})
}

// TestFar: writes that no system can do are errors, also of Truncate.
func TestFar(t *testing.T) {
	if runtime.GOOS == "js" {
		t.Skip("an os.File writes elsewhere there: the offset becomes a float64")
	}
	for _, o := range []op{write([]byte("xy")), writeString("xy"), writeAt([]byte("xy"), math.MaxInt64-1), truncate(math.MaxInt64), readAll("xy")} {
		if o.name == truncate(math.MaxInt64).name && runtime.GOOS != "windows" && canBe(t, math.MaxInt64) {
			continue
		}
		f := newFile(t, 10)
		_, err := f.WriteString("abc")
		require.NoError(t, err)
		_, err = f.Seek(math.MaxInt64-1, io.SeekStart)
		require.NoError(t, err)
		res := o.run(f)
		require.Error(t, res.err, o.name)
		require.NotErrorIs(t, res.err, mmapbuf.ErrTooLarge, o.name)
		require.Zero(t, res.n, o.name)
		at, err := f.Seek(0, io.SeekCurrent)
		require.NoError(t, err)
		require.Equal(t, int64(math.MaxInt64-1), at)
		requireContents(t, f, []byte("abc"), o.name)
	}
}

// canBe reports whether a file may have n bytes.
func canBe(t *testing.T, n int64) bool {
	t.Helper()
	f, err := createTemp(t.TempDir())
	require.NoError(t, err)
	defer f.Close()
	return f.Truncate(n) == nil
}

// TestRollover: it keeps the offset and the contents, closes the Buffer, which may
// be used again after Close, and comes once.
func TestRollover(t *testing.T) {
	for _, n := range []int{0, 1, 1000, 3 << 20, 6 << 20} {
		b := &mmapbuf.Buffer{MaxLen: 7 << 20}
		for range 2 {
			f := New(b, t.TempDir())
			k, err := io.Copy(f, bytes.NewReader(noise()[:n]))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			at, err := f.Seek(-int64(n/2), io.SeekEnd)
			require.NoError(t, err)
			require.True(t, inMemory(f))
			require.Equal(t, n, b.Len())
			require.NoError(t, f.Rollover())
			require.True(t, onDisk(f))
			requireReleased(t, b)
			disk := f.disk
			require.NoError(t, f.Rollover())
			require.Same(t, disk, f.disk)
			requireContents(t, f, noise()[:n])
			require.Equal(t, n/2, f.Len())
			p, err := io.ReadAll(f)
			require.NoError(t, err)
			require.NoError(t, diffBytes(p, noise()[at:n]))
			require.NoError(t, f.Close())
			require.Equal(t, 7<<20, b.MaxLen)
		}
	}
}

// TestRolloverFails: the error is that of the file system, the contents stay in
// memory, and a later call tries again.
func TestRolloverFails(t *testing.T) {
	for _, test := range []struct {
		o    op
		n    int64  // returned
		want string // contents then
	}{
		{write([]byte("fgh")), 1, "abcdef"},
		{writeString("fgh"), 1, "abcdef"},
		{writeAt([]byte("fgh"), 5), 0, "abcde"},
		{writeAt([]byte("x"), 100), 0, "abcde"},
		{truncate(7), 0, "abcde"},
		{readAll("fgh"), 1, "abcdef"},
		{op{name: "Rollover", run: func(f file) result { return result{err: f.(*File).Rollover()} }}, 0, "abcde"},
	} {
		t.Run(test.o.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "later")
			b := &mmapbuf.Buffer{MaxLen: 6}
			f := New(b, dir)
			defer f.Close()
			_, err := f.WriteString("abcde")
			require.NoError(t, err)
			res := test.o.run(f)
			require.Equal(t, test.n, res.n)
			require.ErrorIs(t, res.err, fs.ErrNotExist)
			require.NotErrorIs(t, res.err, mmapbuf.ErrTooLarge)
			var pe *fs.PathError
			require.ErrorAs(t, res.err, &pe)
			require.True(t, inMemory(f))
			requireContents(t, f, []byte(test.want))

			// It still works in memory.
			_, err = f.WriteAt([]byte("ABCDE"), 0)
			require.NoError(t, err)
			require.NoError(t, f.Truncate(4))
			_, err = f.Seek(0, io.SeekEnd)
			require.NoError(t, err)
			_, err = f.WriteString("EF")
			require.NoError(t, err)
			require.True(t, inMemory(f))
			requireContents(t, f, []byte("ABCDEF"))

			require.NoError(t, os.Mkdir(dir, 0o700))
			n, err := f.WriteString("GH")
			require.NoError(t, err)
			require.Equal(t, 2, n)
			require.True(t, onDisk(f))
			requireReleased(t, b)
			requireContents(t, f, []byte("ABCDEFGH"))
			require.NoError(t, f.Close())
			requireEmpty(t, dir)
		})
	}
}

// TestBufferWithContents: they are the contents of the File, even if they exceed
// MaxLen, without what was consumed.
func TestBufferWithContents(t *testing.T) {
	b := mmapbuf.NewBufferString("--abcdef")
	b.Next(2)
	b.MaxLen = 3
	f := New(b, t.TempDir())
	defer f.Close()
	requireContents(t, f, []byte("abcdef"))
	_, err := f.WriteString("AB")
	require.NoError(t, err)
	require.True(t, inMemory(f))
	require.NoError(t, f.Truncate(4))
	require.True(t, inMemory(f))
	require.NoError(t, f.Truncate(5))
	require.True(t, onDisk(f))
	requireContents(t, f, []byte("ABcd\x00"))
}

// TestTempDir: the directory is determined when it is needed.
func TestTempDir(t *testing.T) {
	if runtime.GOOS == "windows" || runtime.GOOS == "plan9" {
		t.Skip("TMPDIR is of Unix")
	}
	f := New(new(mmapbuf.Buffer), "")
	defer f.Close()
	dir := filepath.Join(t.TempDir(), "missing")
	t.Setenv("TMPDIR", dir)
	require.ErrorIs(t, f.Rollover(), fs.ErrNotExist)
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, f.Rollover())
	require.True(t, strings.HasPrefix(f.disk.Name(), dir), f.disk.Name())
}

// TestKilled kills a process after a rollover, and, later, perhaps in the middle of
// one.
func TestKilled(t *testing.T) {
	const key = "MMAPBUF_TEST_SPOOL_DIR"
	if dir := os.Getenv(key); dir != "" {
		fmt.Println("started")
		for {
			f := New(&mmapbuf.Buffer{MaxLen: 6 << 20}, dir)
			for range 6 {
				_, err := f.Write(noise())
				require.NoError(t, err)
			}
			require.True(t, onDisk(f))
			fmt.Println("rolled over")
			if os.Getenv(key+"_WAIT") != "" {
				time.Sleep(time.Minute)
			}
			_ = f.Close()
		}
	}
	if runtime.GOARCH == "wasm" {
		t.Skip("no processes here")
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	for i := range 6 {
		dir := t.TempDir()
		r, w, err := os.Pipe()
		require.NoError(t, err)
		child, err := os.StartProcess(exe, []string{exe, "-test.run=^TestKilled$"}, &os.ProcAttr{
			Env:   append(os.Environ(), key+"="+dir, key+"_WAIT="+[]string{"yes", ""}[min(i, 1)]),
			Files: []*os.File{nil, w, os.Stderr},
		})
		require.NoError(t, err)
		require.NoError(t, w.Close())
		out := bufio.NewReader(r)
		for _, want := range []string{"started\n", "rolled over\n"} {
			line, err := out.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, want, line)
		}
		if i > 0 {
			time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		}
		if runtime.GOOS == "linux" { // on other systems, it may have a name for a moment, or until it is closed
			requireEmpty(t, dir)
		}
		require.NoError(t, child.Kill())
		state, err := child.Wait()
		require.NoError(t, err)
		require.False(t, state.Success())
		require.NoError(t, r.Close())
		if runtime.GOOS == "linux" || i == 0 {
			requireEmpty(t, dir)
		}
	}
}

// TestInsideCalls uses a File in the middle of its own ReadFrom and WriteTo, which
// hold no locks then.
func TestInsideCalls(t *testing.T) {
	for _, n := range []int{100, 3 << 20, 5 << 20} {
		data := noise()[:n]
		t.Run(fmt.Sprintf("size=%d", n), func(t *testing.T) {
			// A Writer that extends the File, and with it rolls it over.
			f := newFile(t, n)
			_, err := f.WriteAt(data, 0)
			require.NoError(t, err)
			var took bytes.Buffer
			k, err := f.WriteTo(writerFunc(func(p []byte) (int, error) {
				_, err := f.WriteAt([]byte("more"), f.Size())
				require.NoError(t, err)
				return took.Write(p)
			}))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			require.NoError(t, diffBytes(took.Bytes(), data))
			require.True(t, onDisk(f))
			require.Equal(t, int64(n+4), f.Size())
			require.Equal(t, 4, f.Len(), "what came after the beginning")

			// The same on disk.
			took.Reset()
			_, err = f.Seek(0, io.SeekStart)
			require.NoError(t, err)
			k, err = f.WriteTo(writerFunc(func(p []byte) (int, error) {
				_, err := f.WriteAt([]byte("more"), f.Size())
				require.NoError(t, err)
				return took.Write(p)
			}))
			require.NoError(t, err)
			require.EqualValues(t, n+4, k)
			require.NoError(t, diffBytes(took.Bytes(), append(bytes.Clone(data), "more"...)))

			// A Writer that writes at the offset, and one that reads by itself, what
			// was there at the beginning.
			took.Reset()
			require.NoError(t, f.Truncate(int64(n)))
			_, err = f.Seek(0, io.SeekStart)
			require.NoError(t, err)
			_, err = f.WriteTo(writerFunc(func(p []byte) (int, error) {
				_, err := f.Seek(0, io.SeekStart)
				require.NoError(t, err)
				_, err = f.Write(data[:4])
				require.NoError(t, err)
				return took.Write(p)
			}))
			require.NoError(t, err)
			require.NoError(t, diffBytes(took.Bytes(), data))
			took.Reset()
			require.NoError(t, f.Truncate(int64(n)))
			_, err = f.Seek(0, io.SeekStart)
			require.NoError(t, err)
			k, err = f.WriteTo(readerFrom(func(r io.Reader) (int64, error) {
				_, err := f.WriteAt([]byte("more"), f.Size())
				require.NoError(t, err)
				return took.ReadFrom(r)
			}))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			require.NoError(t, diffBytes(took.Bytes(), data))

			// A Writer that closes the File.
			for _, rolled := range []bool{false, true} {
				f := newFile(t, n)
				_, err := f.WriteAt(data, 0)
				require.NoError(t, err)
				if rolled {
					require.NoError(t, f.Rollover())
				}
				k, err := f.WriteTo(writerFunc(func(p []byte) (int, error) {
					_ = f.Close()
					return len(p), diffBytes(p, data[:len(p)])
				}))
				if int(k) < n {
					require.ErrorIs(t, err, os.ErrClosed)
				} else {
					require.NoError(t, err)
				}
			}

			// A Reader that reads the File, patches it and rolls it over.
			f = newFile(t, 2*n)
			_, err = f.Write(data)
			require.NoError(t, err)
			all := io.NewSectionReader(f, 0, int64(n))
			k, err = f.ReadFrom(readerFunc(func(p []byte) (int, error) {
				_, err := f.WriteAt([]byte("patched"), 0)
				require.NoError(t, err)
				require.NoError(t, f.Rollover())
				require.LessOrEqual(t, len(p), 64<<10)
				return all.Read(p)
			}))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			want := append(bytes.Clone(data), data...)
			copy(want, "patched")
			copy(want[n:], "patched")
			requireContents(t, f, want)

			// A Reader that closes it.
			k, err = f.ReadFrom(readerFunc(func(p []byte) (int, error) { return len(p), f.Close() }))
			require.ErrorIs(t, err, os.ErrClosed)
			require.Zero(t, k)
		})
	}
}

// TestAtAtOnce: ReadAt and WriteAt on ranges that do not overlap, of which one
// causes the rollover, beside Size and Rollover, and beside a goroutine that uses
// the offset.
func TestAtAtOnce(t *testing.T) {
	rounds := 16
	if testing.Short() || raceEnabled {
		rounds = 6
	}
	for round := range rounds {
		const part, parts, workers = 40_000, 48, 4
		f := newFile(t, []int{noMax, 1, part*parts - 1, part * parts / 2, 3 * part * parts / 4, 100_000}[round%6])
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				p := make([]byte, part)
				for i := range parts / workers {
					i = i*workers + w
					if round%2 == 1 {
						i = parts - 1 - i // from the back, so that there are gaps
					}
					want, off := noise()[i*part:][:part], int64((i+1)*part)
					n, err := f.WriteAt(want, off)
					assert.NoError(t, err)
					assert.Equal(t, part, n)
					n, err = f.ReadAt(p, off)
					assert.NoError(t, err)
					assert.NoError(t, diffBytes(p[:n], want))
					assert.GreaterOrEqual(t, f.Size(), off+part)
				}
			})
		}
		wg.Go(func() { // the first part, in small pieces
			for i := 0; i < part; i += 100 {
				_, err := f.Write(noise()[i : i+100])
				assert.NoError(t, err)
				if i%1000 == 0 {
					var p [100]byte
					_, err = f.Seek(-100, io.SeekCurrent)
					assert.NoError(t, err)
					_, err = f.Read(p[:])
					assert.NoError(t, err)
					assert.NoError(t, diffBytes(p[:], noise()[i:i+100]))
				}
			}
		})
		if round%6 == 0 {
			wg.Go(func() { assert.NoError(t, f.Rollover()) })
		}
		wg.Wait()
		require.True(t, onDisk(f))
		requireContents(t, f, append(bytes.Clone(noise()[:part]), noise()[:part*parts]...))
	}
}

// TestAppendBesideReadAt: one goroutine appends, in memory and then on disk, and
// others read what it has written.
func TestAppendBesideReadAt(t *testing.T) {
	const piece, size = 5000, 3_000_000
	f := newFile(t, 2_000_000)
	var written atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			p := make([]byte, piece)
			for off := int64(0); off < size; {
				if off+piece > written.Load() {
					runtime.Gosched()
					continue
				}
				n, err := f.ReadAt(p, off)
				if !assert.NoError(t, err) || !assert.NoError(t, diffBytes(p[:n], noise()[off:off+piece])) {
					return
				}
				off += piece
			}
		})
	}
	for written.Load() < size {
		at := written.Load()
		_, err := f.Write(noise()[at : at+piece])
		require.NoError(t, err)
		written.Add(piece)
	}
	wg.Wait()
	require.True(t, onDisk(f))
}

// TestBesideClose: methods that run beside Close return what is right, or
// os.ErrClosed, and no false end of the contents.
func TestBesideClose(t *testing.T) {
	const size = 2 << 20
	rounds := 40
	if testing.Short() || raceEnabled {
		rounds = 12
	}
	var early atomic.Int64
	for round := range rounds {
		b := &mmapbuf.Buffer{MaxLen: size + (round%3-1)*1000}
		dir := t.TempDir()
		f := New(b, dir)
		_, err := f.WriteAt(noise()[:size-2000], 0)
		require.NoError(t, err)
		if round%4 == 0 {
			require.NoError(t, f.Rollover())
		}
		var wg sync.WaitGroup
		var started sync.WaitGroup
		started.Add(3)
		go1 := func(call func(p []byte, off int64) (int, error), check func(n int, off int64, p []byte)) {
			wg.Go(func() {
				started.Done()
				p := make([]byte, 50_000)
				for off := int64(0); off+int64(len(p)) <= size-2000; off += int64(len(p)) {
					n, err := call(p, off)
					if err != nil {
						assert.ErrorIs(t, err, os.ErrClosed)
						early.Add(1)
						return
					}
					check(n, off, p)
				}
			})
		}
		go1(f.ReadAt, func(n int, off int64, p []byte) { assert.NoError(t, diffBytes(p[:n], noise()[off:off+50_000])) })
		go1(func(p []byte, off int64) (int, error) { // which may cause the rollover
			return f.WriteAt(p, off+size)
		}, func(n int, _ int64, p []byte) { assert.Len(t, p, n) })
		wg.Go(func() {
			started.Done()
			p, err := io.ReadAll(io.LimitReader(struct{ io.Reader }{f}, size-2000))
			if err != nil {
				assert.ErrorIs(t, err, os.ErrClosed)
				early.Add(1)
			} else {
				assert.Len(t, p, size-2000, "a false end")
			}
			assert.NoError(t, diffBytes(p, noise()[:len(p)]))
		})
		started.Wait()
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		require.NoError(t, f.Close())
		wg.Wait()
		require.ErrorIs(t, f.Close(), os.ErrClosed)
		requireReleased(t, b)
		requireEmpty(t, dir)
	}
	if runtime.GOARCH != "wasm" { // which has one thread
		t.Logf("%d calls ended early", early.Load())
		assert.NotZero(t, early.Load(), "Close always came last")
	}
}

// TestWriteToBeside: WriteTo is complete although a rollover comes meanwhile, and
// Close does not cut it short without an error.
func TestWriteToBeside(t *testing.T) {
	data := bytes.Repeat(noise(), 4)
	rounds := 16
	if testing.Short() || raceEnabled {
		rounds = 6
	}
	for round := range rounds {
		f := newFile(t, noMax)
		_, err := f.Write(data)
		require.NoError(t, err)
		_, err = f.Seek(1, io.SeekStart)
		require.NoError(t, err)
		started := make(chan bool)
		var wg sync.WaitGroup
		wg.Go(func() {
			<-started
			for range rand.IntN(50) { // a WriteTo takes some milliseconds
				time.Sleep(time.Microsecond)
			}
			if round%2 == 0 {
				assert.NoError(t, f.Rollover())
			} else {
				assert.NoError(t, f.Close())
			}
		})
		var to mmapbuf.Buffer // gets the contents in parts if it has a mapping
		_, err = to.Write(noise()[:2<<20])
		require.NoError(t, err)
		close(started)
		n, err := f.WriteTo(&to)
		wg.Wait()
		if err == nil {
			require.EqualValues(t, len(data)-1, n)
		} else {
			require.Equal(t, 1, round%2)
			require.ErrorIs(t, err, os.ErrClosed)
		}
		to.Next(2 << 20)
		require.NoError(t, diffBytes(to.Bytes(), data[1:][:n]))
		to.Close()
	}
}

// TestWriteToFile: to a file, in parts and beyond offsets of Files.
func TestWriteToFile(t *testing.T) {
	atBothPlaces(t, noise(), func(t *testing.T, f *File) {
		to, err := createTemp(t.TempDir())
		require.NoError(t, err)
		defer to.Close()
		_, err = f.Seek(5, io.SeekStart)
		require.NoError(t, err)
		n, err := io.Copy(to, f)
		require.NoError(t, err)
		require.EqualValues(t, len(noise())-5, n)
		require.Zero(t, f.Len())
		p, err := io.ReadAll(io.NewSectionReader(to, 0, math.MaxInt64))
		require.NoError(t, err)
		require.NoError(t, diffBytes(p, noise()[5:]))

		// And back.
		_, err = to.Seek(0, io.SeekStart)
		require.NoError(t, err)
		_, err = f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		n, err = io.Copy(f, to)
		require.NoError(t, err)
		require.EqualValues(t, len(noise())-5, n)
		requireContents(t, f, append(bytes.Clone(noise()[5:]), noise()[len(noise())-5:]...))
	})
}

// TestWriteToConn: to a TCP connection, which has the kernel copy a file.
func TestWriteToConn(t *testing.T) {
	if runtime.GOARCH == "wasm" {
		t.Skip("no connections here")
	}
	atBothPlaces(t, noise(), func(t *testing.T, f *File) {
		l, err := net.Listen("tcp", "localhost:0")
		require.NoError(t, err)
		defer l.Close()
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			c, err := net.Dial("tcp", l.Addr().String())
			if !assert.NoError(t, err) {
				return
			}
			_, err = f.Seek(5, io.SeekStart)
			assert.NoError(t, err)
			n, err := io.Copy(c, f)
			assert.NoError(t, err)
			assert.EqualValues(t, len(noise())-5, n)
			assert.Zero(t, f.Len())
			assert.NoError(t, c.Close())
		})
		c, err := l.Accept()
		require.NoError(t, err)
		p, err := io.ReadAll(c)
		require.NoError(t, err)
		require.NoError(t, c.Close())
		require.NoError(t, diffBytes(p, noise()[5:]))
	})
}

// TestLarge: the mapping of large contents is released by the rollover.
func TestLarge(t *testing.T) {
	const size = 64 << 20
	mapped := func() int64 { return int64(mmapbuf.ReadStats().MappedBytes) }
	before := mapped()
	f := newFile(t, size)
	for range size / (4 << 20) {
		_, err := f.Write(noise()[:4<<20])
		require.NoError(t, err)
	}
	require.True(t, inMemory(f))
	if before = mapped() - before; before != 0 {
		require.GreaterOrEqual(t, before, int64(size))
	}
	_, err := f.Write(noise()[:4<<20])
	require.NoError(t, err)
	require.True(t, onDisk(f))
	if before != 0 {
		require.Less(t, mapped(), int64(size))
	}
	p := make([]byte, 4<<20)
	for off := int64(0); off < size+4<<20; off += 4 << 20 {
		_, err := f.ReadAt(p, off)
		require.NoError(t, err)
		require.NoError(t, diffBytes(p, noise()[:4<<20]))
	}
}
