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
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"

	ft "github.com/mmapbuf/mmapbuf/internal/filetest"
	"github.com/mmapbuf/mmapbuf/internal/proctest"
)

// TestTable has the rollover come at each byte of small contents, and at some of
// large ones.
func TestTable(t *testing.T) {
	maxes := []int{
		noMax, toDisk, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 100, 100_005, 1 << 20, 2_000_000, 3 << 20, 3<<20 + 1, 5 << 20,
	}
	p, x := newPair(t)
	for _, test := range ft.Table() {
		t.Run(test.Name, func(t *testing.T) {
			for _, x.max = range maxes {
				require.NoError(t, p.Run(test), "max %d", x.max)
			}
		})
	}
}

// TestExhaustive runs every sequence of three operations, from scratch, with the
// rollover at each byte.
func TestExhaustive(t *testing.T) {
	maxes := []int{noMax, toDisk, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if testing.Short() {
		maxes = []int{noMax, toDisk, 5, 7}
	}
	p, x := newPair(t)
	ops := slices.Concat(ft.Ends, ft.Rest)
	for _, x.max = range maxes {
		t.Run(fmt.Sprintf("max=%d", x.max), func(t *testing.T) { p.Sequences(t, "0123", ops, 3) })
	}
	assert.Greater(t, x.rollovers, len(maxes)*len(ops))
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
	s := &ft.Script{Src: bufio.NewReader(rand.NewChaCha8(key)), WriteBits: 20, ReadBits: 20, Limit: 8 << 20}
	walks := 40
	if testing.Short() {
		walks = 10
	}
	p, x := newPair(t)
	for i := range walks {
		start := noise()[:s.Size(20)]
		x.max = len(start) + []int{s.Size(20), 1 << 20, 3 << 20}[i%3]
		require.NoError(t, p.Reset(string(start)))
		require.NoError(t, s.Walk(p, 70, 16), "walk %d, max %d", i, x.max)
	}
	assert.NotZero(t, x.rollovers)
}

// FuzzFile reads the maximum in memory and the steps from its input.
func FuzzFile(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x05 spool, and then some more"))
	f.Add(noise()[:300])
	f.Add(noise()[300:1000])
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &ft.Script{Src: bytes.NewReader(data), WriteBits: 17, ReadBits: 17, Limit: 2 << 20}
		p, x := newPair(t)
		x.max = s.Size(17)
		require.NoError(t, p.Reset(""))
		require.NoError(t, s.Run(p), "max %d", x.max)
	})
}

// atBothPlaces runs f with a File with the contents start in memory, and with
// one on disk.
func atBothPlaces(t *testing.T, start []byte, f func(t *testing.T, f *File)) {
	t.Helper()
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%t", disk), func(t *testing.T) {
			x := filled(t, noMax, start)
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
	closed := newFile(t, 1)
	require.NoError(t, closed.Close())
	closedOnDisk := newFile(t, 1)
	require.NoError(t, closedOnDisk.Rollover())
	require.NoError(t, closedOnDisk.Close())
	ft.TestClosed(t, "spool.File", (*File)(nil), map[string]ft.Sized{
		"zero": new(File), "no Buffer": New(nil, ""), "closed": closed, "closed on disk": closedOnDisk,
	})
	require.Equal(t, os.ErrInvalid, (*File)(nil).Rollover())
	for _, f := range []*File{{}, New(nil, ""), closed, closedOnDisk} {
		require.ErrorIs(t, f.Rollover(), os.ErrClosed)
	}

	atBothPlaces(t, []byte("abc"), func(t *testing.T, f *File) {
		ft.TestErrorTexts(t, "spool.File", f)
		if runtime.GOOS == "js" {
			return // Node.js has no offsets beyond 1<<53, and fs.read of it never returns
		}
		// Offsets that no file can have.
		for _, far := range []int64{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64 / 2, 1 << 50} {
			require.Equal(t, ft.Result{N: far}, ft.Seek(far, io.SeekStart).Run(f))
			require.Equal(t, ft.Result{P: make([]byte, 2), Err: io.EOF}, ft.Read(2).Run(f))
			require.Equal(t, ft.Result{P: make([]byte, 2), Err: io.EOF}, ft.ReadAt(2, far).Run(f))
			require.Equal(t, ft.Result{}, ft.Write("").Run(f))
			require.Equal(t, ft.Result{}, ft.WriteTo(9, nil).Run(f))
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
	longest := ft.Truncate(math.MaxInt64)
	for _, o := range []ft.Op{
		ft.Write("xy"), ft.WriteString("xy"), ft.WriteAt("xy", math.MaxInt64-1), longest, ft.ReadAll("xy"),
	} {
		if o.Name == longest.Name && runtime.GOOS != "windows" && canBe(t, math.MaxInt64) {
			continue
		}
		f := newFile(t, 10)
		require.NoError(t, ft.Err(f.WriteString("abc")))
		require.NoError(t, ft.Err(f.Seek(math.MaxInt64-1, io.SeekStart)))
		res := o.Run(f)
		require.Error(t, res.Err, o.Name)
		require.NotErrorIs(t, res.Err, mmapbuf.ErrTooLarge, o.Name)
		require.Zero(t, res.N, o.Name)
		at, err := f.Seek(0, io.SeekCurrent)
		require.NoError(t, err)
		require.Equal(t, int64(math.MaxInt64-1), at)
		requireContents(t, f, []byte("abc"), o.Name)
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
	rollover := ft.Op{Name: "Rollover", Run: func(f ft.File) ft.Result { return ft.Result{Err: f.(*File).Rollover()} }}
	for _, test := range []struct {
		o    ft.Op
		n    int64  // returned
		want string // contents then
	}{
		{ft.Write("fgh"), 1, "abcdef"},
		{ft.WriteString("fgh"), 1, "abcdef"},
		{ft.WriteAt("fgh", 5), 0, "abcde"},
		{ft.WriteAt("x", 100), 0, "abcde"},
		{ft.Truncate(7), 0, "abcde"},
		{ft.ReadAll("fgh"), 1, "abcdef"},
		{rollover, 0, "abcde"},
	} {
		t.Run(test.o.Name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "later")
			b := &mmapbuf.Buffer{MaxLen: 6}
			f := New(b, dir)
			defer f.Close()
			require.NoError(t, ft.Err(f.WriteString("abcde")))
			res := test.o.Run(f)
			require.Equal(t, test.n, res.N)
			require.ErrorIs(t, res.Err, fs.ErrNotExist)
			require.NotErrorIs(t, res.Err, mmapbuf.ErrTooLarge)
			var pe *fs.PathError
			require.ErrorAs(t, res.Err, &pe)
			require.True(t, inMemory(f))
			requireContents(t, f, []byte(test.want))

			// It still works in memory.
			require.NoError(t, ft.Err(f.WriteAt([]byte("ABCDE"), 0)))
			require.NoError(t, f.Truncate(4))
			require.NoError(t, ft.Err(f.Seek(0, io.SeekEnd)))
			require.NoError(t, ft.Err(f.WriteString("EF")))
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
	require.NoError(t, ft.Err(f.WriteString("AB")))
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
				require.NoError(t, ft.Err(f.Write(noise())))
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
		t.Run(fmt.Sprintf("size=%d", n), func(t *testing.T) {
			data := noise()[:n]
			f := filled(t, n, data)
			var took bytes.Buffer
			requireTook := func(k int64, err error, want []byte) {
				t.Helper()
				require.NoError(t, err)
				require.EqualValues(t, len(want), k)
				require.NoError(t, diffBytes(took.Bytes(), want))
				took.Reset()
			}
			extend := func() {
				require.NoError(t, ft.Err(f.WriteAt([]byte("more"), f.Size())))
			}
			extending := ft.WriterFunc(func(p []byte) (int, error) { extend(); return took.Write(p) })

			// A Writer that extends the File, and with it rolls it over.
			k, err := f.WriteTo(extending)
			requireTook(k, err, data)
			require.True(t, onDisk(f))
			require.Equal(t, int64(n+4), f.Size())
			require.Equal(t, 4, f.Len(), "what came after the beginning")

			// The same on disk.
			rewind(t, f)
			k, err = f.WriteTo(extending)
			requireTook(k, err, slices.Concat(data, []byte("more")))

			// A Writer that writes at the offset, and one that reads by itself, what
			// was there at the beginning.
			require.NoError(t, f.Truncate(int64(n)))
			rewind(t, f)
			k, err = f.WriteTo(ft.WriterFunc(func(p []byte) (int, error) {
				rewind(t, f)
				require.NoError(t, ft.Err(f.Write(data[:4])))
				return took.Write(p)
			}))
			requireTook(k, err, data)
			require.NoError(t, f.Truncate(int64(n)))
			rewind(t, f)
			k, err = f.WriteTo(readerFrom(func(r io.Reader) (int64, error) { extend(); return took.ReadFrom(r) }))
			requireTook(k, err, data)

			// A Writer that closes the File.
			for _, rolled := range []bool{false, true} {
				f := filled(t, n, data)
				if rolled {
					require.NoError(t, f.Rollover())
				}
				k, err := f.WriteTo(ft.WriterFunc(func(p []byte) (int, error) {
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
			require.NoError(t, ft.Err(f.Write(data)))
			all := io.NewSectionReader(f, 0, int64(n))
			k, err = f.ReadFrom(ft.ReaderFunc(func(p []byte) (int, error) {
				require.NoError(t, ft.Err(f.WriteAt([]byte("patched"), 0)))
				require.NoError(t, f.Rollover())
				require.LessOrEqual(t, len(p), 64<<10)
				return all.Read(p)
			}))
			require.NoError(t, err)
			require.EqualValues(t, n, k)
			patched := append([]byte("patched"), data[7:]...)
			requireContents(t, f, slices.Concat(patched, patched))

			// A Reader that closes it.
			k, err = f.ReadFrom(ft.ReaderFunc(func(p []byte) (int, error) { return len(p), f.Close() }))
			require.ErrorIs(t, err, os.ErrClosed)
			require.Zero(t, k)
		})
	}
}

// A readerFrom is a Writer that wants to read.
type readerFrom func(r io.Reader) (int64, error)

func (w readerFrom) ReadFrom(r io.Reader) (int64, error) { return w(r) }
func (w readerFrom) Write(p []byte) (int, error)         { return 0, ft.ErrTest }

// rounds returns how often a test that looks for races is done.
func rounds(short, normal int) int {
	if testing.Short() || proctest.Race {
		return short
	}
	return normal
}

// TestAtAtOnce: ReadAt and WriteAt on ranges that do not overlap, of which one
// causes the rollover, beside Size and Rollover, and beside a goroutine that uses
// the offset.
func TestAtAtOnce(t *testing.T) {
	for round := range rounds(6, 16) {
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
				assert.NoError(t, ft.Err(f.Write(noise()[i:i+100])))
				if i%1000 == 0 {
					var p [100]byte
					assert.NoError(t, ft.Err(f.Seek(-100, io.SeekCurrent)))
					assert.NoError(t, ft.Err(f.Read(p[:])))
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
		require.NoError(t, ft.Err(f.Write(noise()[at:at+piece])))
		written.Add(piece)
	}
	wg.Wait()
	require.True(t, onDisk(f))
}

// TestBesideClose: methods that run beside Close return what is right, or
// os.ErrClosed, and no false end of the contents.
func TestBesideClose(t *testing.T) {
	const size = 2 << 20
	var early atomic.Int64
	for round := range rounds(12, 40) {
		b := &mmapbuf.Buffer{MaxLen: size + (round%3-1)*1000}
		dir := t.TempDir()
		f := New(b, dir)
		require.NoError(t, ft.Err(f.WriteAt(noise()[:size-2000], 0)))
		if round%4 == 0 {
			require.NoError(t, f.Rollover())
		}
		var wg, started sync.WaitGroup
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
	for round := range rounds(6, 16) {
		f := newFile(t, noMax)
		require.NoError(t, ft.Err(f.Write(data)))
		require.NoError(t, ft.Err(f.Seek(1, io.SeekStart)))
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
		require.NoError(t, ft.Err(to.Write(noise()[:2<<20])))
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
		require.NoError(t, ft.Err(f.Seek(5, io.SeekStart)))
		n, err := io.Copy(to, f)
		require.NoError(t, err)
		require.EqualValues(t, len(noise())-5, n)
		require.Zero(t, f.Len())
		p, err := io.ReadAll(io.NewSectionReader(to, 0, math.MaxInt64))
		require.NoError(t, err)
		require.NoError(t, diffBytes(p, noise()[5:]))

		// And back.
		require.NoError(t, ft.Err(to.Seek(0, io.SeekStart)))
		rewind(t, f)
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
			assert.NoError(t, ft.Err(f.Seek(5, io.SeekStart)))
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
		require.NoError(t, ft.Err(f.Write(noise()[:4<<20])))
	}
	require.True(t, inMemory(f))
	if before = mapped() - before; before != 0 {
		require.GreaterOrEqual(t, before, int64(size))
	}
	require.NoError(t, ft.Err(f.Write(noise()[:4<<20])))
	require.True(t, onDisk(f))
	if before != 0 {
		require.Less(t, mapped(), int64(size))
	}
	p := make([]byte, 4<<20)
	for off := int64(0); off < size+4<<20; off += 4 << 20 {
		require.NoError(t, ft.Err(f.ReadAt(p, off)))
		require.NoError(t, diffBytes(p, noise()[:4<<20]))
	}
}

// A Writer may use the File while it gets the contents.
func TestWriteToOfOwnWriter(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%t", disk), func(t *testing.T) {
			f := New(new(mmapbuf.Buffer), t.TempDir())
			defer f.Close()
			_, err := f.Write(data)
			require.NoError(t, err)
			if disk {
				require.NoError(t, f.Rollover())
			}
			_, err = f.Seek(0, io.SeekStart)
			require.NoError(t, err)
			var got bytes.Buffer
			w := bufio.NewWriterSize(ft.WriterFunc(func(p []byte) (int, error) { // a ReaderFrom
				_, err := f.WriteAt(data[:1], 0)
				require.NoError(t, err)
				_, err = f.Seek(0, io.SeekStart)
				require.NoError(t, err)
				_, err = f.Write(data[:1])
				require.NoError(t, err)
				return got.Write(p)
			}), 4096)
			n, err := f.WriteTo(w)
			require.NoError(t, err)
			require.EqualValues(t, len(data), n)
			require.NoError(t, w.Flush())
			require.True(t, bytes.Equal(data, got.Bytes()))
		})
	}
}
