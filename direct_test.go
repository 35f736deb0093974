package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
)

// Readers and Writers that keep what they were given, and use it when they please.

// sound runs f. It returns an error if f panics or accesses memory that is not
// mapped.
func sound(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%v", v)
		}
	}()
	f()
	return nil
}

// still reports an error unless p is what fill wrote.
func still(p []byte, seed, n int) (err error) {
	if e := sound(func() {
		if len(p) != n || !isFilled(p, seed, 0) {
			err = fmt.Errorf("%d bytes are not %d of seed %d", len(p), n, seed)
		}
	}); e != nil {
		return e
	}
	return err
}

// requireMapping fails if n bytes in b should be in a mapping and are not.
func requireMapping(t *testing.T, b *Buffer, n int) {
	t.Helper()
	if n > mapThreshold && mapping.Available() {
		require.NotNil(t, b.m, "not in a mapping")
	}
}

// filledWith returns a Buffer of n bytes that depend on seed.
func filledWith(t *testing.T, seed, n int) *Buffer {
	t.Helper()
	b := new(Buffer)
	fill(b, seed, n)
	requireMapping(t, b, n)
	return b
}

// writesTo are the ways in which a Writer gets all of the contents.
var writesTo = map[string]func(b *Buffer, w io.Writer) (int64, error){
	"Buffer.WriteTo":    func(b *Buffer, w io.Writer) (int64, error) { return b.WriteTo(w) },
	"File.WriteTo":      func(b *Buffer, w io.Writer) (int64, error) { return NewFile(b).WriteTo(w) },
	"io.Copy":           func(b *Buffer, w io.Writer) (int64, error) { return io.Copy(w, b) },
	"io.Copy of a File": func(b *Buffer, w io.Writer) (int64, error) { return io.Copy(w, NewFile(b)) },
}

// readsFrom are the ways in which a Reader is read.
var readsFrom = map[string]func(b *Buffer, r io.Reader) (int64, error){
	"Buffer.ReadFrom":   func(b *Buffer, r io.Reader) (int64, error) { return b.ReadFrom(r) },
	"File.ReadFrom":     func(b *Buffer, r io.Reader) (int64, error) { return atItsEnd(b).ReadFrom(r) },
	"io.Copy to it":     func(b *Buffer, r io.Reader) (int64, error) { return io.Copy(b, r) },
	"io.Copy to a File": func(b *Buffer, r io.Reader) (int64, error) { return io.Copy(atItsEnd(b), r) },
}

// atItsEnd returns a File of b with the offset at the end.
func atItsEnd(b *Buffer) *File {
	f := NewFile(b)
	_, _ = f.Seek(0, io.SeekEnd)
	return f
}

// TestKeptPages has a cache keep what handlers write. Their Buffers are never
// closed, and what the cache had were the pages of other Buffers, or none.
func TestKeptPages(t *testing.T) {
	pages := byLength(6, 16, 60)
	atBothThresholds(t, func(t *testing.T) {
		for name, write := range writesTo {
			t.Run(name, func(t *testing.T) {
				r := rand.New(rand.NewPCG(testSeed(t), 0))
				var cache [][]byte
				var sizes []int
				cached := writerFunc(func(p []byte) (int, error) {
					cache = append(cache, p)
					return len(p), nil
				})
				for page := range pages {
					size := 100*kiB + r.IntN(6*miB-100*kiB)
					sizes = append(sizes, size)
					n, err := write(filledWith(t, page, size), cached)
					require.NoError(t, err)
					require.EqualValues(t, size, n)
					if page%4 == 3 {
						runtime.GC()
						runtime.GC()
					}
					size = 100*kiB + r.IntN(6*miB)
					b := filledWith(t, 1000+page, size)
					require.NoError(t, still(contents(b), 1000+page, size))
					if page%2 == 0 {
						_ = b.Close()
					}
				}
				require.Len(t, cache, pages)
				for page, p := range cache {
					require.NoError(t, still(p, page, sizes[page]), "page %d", page)
				}
			})
		}
	})
}

// TestLateReaderBesideNext has a Reader fill its slice while ReadFrom uses the
// next one. A File gave both the same.
func TestLateReaderBesideNext(t *testing.T) {
	const n = 3 * miB
	atBothThresholds(t, func(t *testing.T) {
		for _, name := range []string{"File", "Buffer"} {
			t.Run(name, func(t *testing.T) {
				b := filledWith(t, 1, n)
				defer b.Close()
				readFrom := atItsEnd(b).ReadFrom
				if name == "Buffer" {
					if b.m == nil {
						t.Skip("as with bytes.Buffer")
					}
					readFrom = b.ReadFrom
				}
				var kept []byte
				_, err := readFrom(reader(func(p []byte) (int, error) {
					kept = p
					return 0, os.ErrDeadlineExceeded
				}))
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				rest := pattern(2, n)
				_, err = readFrom(reader(func(p []byte) (int, error) {
					if len(rest) == 0 {
						return 0, io.EOF
					}
					k := copy(p, rest)
					rest = rest[k:]
					dirty(kept) // between the read and the use
					return k, nil
				}))
				require.NoError(t, err)
				got := contents(b)
				require.NoError(t, still(got[:n], 1, n))
				require.NoError(t, still(got[n:], 2, n))
			})
		}
	})
}

// TestWriteAtOfSpareCapacity writes what was appended to AvailableBuffer
// elsewhere than at the end. It was cleared with the gap that it lies in.
func TestWriteAtOfSpareCapacity(t *testing.T) {
	const digits = "0123456789abcdef"
	writes := map[string]func(b *Buffer, p []byte, off int) (int, error){
		"WriteAt":      func(b *Buffer, p []byte, off int) (int, error) { return b.WriteAt(p, int64(off)) },
		"File.WriteAt": func(b *Buffer, p []byte, off int) (int, error) { return NewFile(b).WriteAt(p, int64(off)) },
		"File.Write": func(b *Buffer, p []byte, off int) (int, error) {
			f := NewFile(b)
			_, err := f.Seek(int64(off), io.SeekStart)
			require.NoError(t, err)
			return f.Write(p)
		},
	}
	atBothThresholds(t, func(t *testing.T) {
		for name, write := range writes {
			for _, test := range []struct{ n, room, step, most int }{
				{10, 100, 3, 24}, // p overlaps the gap, the target, or both
				{10, 10, 3, 10},  // p is elsewhere when the contents have grown
				{3*miB - 7, 200 * kiB, 50_000, byLength(1, 2, 3) * 50_000},     // with whole pages
				{3*miB - 7, 5 * miB, 1_700_000, byLength(0, 1, 2) * 1_700_000}, // with huge pages
			} {
				t.Run(fmt.Sprintf("%s/%d+%d", name, test.n, test.room), func(t *testing.T) {
					b := new(Buffer)
					defer b.Close()
					overlaps := 0
					for at := 0; at <= test.most; at += test.step { // where p is in the spare capacity
						for gap := -min(test.n, 2*test.step); gap <= test.most; gap += test.step {
							_ = b.Close()
							writeAllOf(t, b, noise()[:test.n])
							b.Grow(test.room)
							requireMapping(t, b, test.n+test.room)
							p := b.AvailableBuffer()
							if cap(p) < at+len(digits) {
								p = append(p, digits...)
							} else {
								p = append(p[:at], digits...)[at:]
								overlaps++
							}
							want := writtenAt(bytes.Clone(noise()[:test.n]), []byte(digits), test.n+gap)
							n, err := write(b, p, test.n+gap)
							require.NoError(t, err)
							require.Equal(t, len(digits), n)
							requireContents(t, b, want, "%d bytes after the end, of spare capacity %d bytes after it", gap, at)
							require.NoError(t, invariants(b))
						}
					}
					require.Positive(t, overlaps)
				})
			}
		}
	})
}

// TestTwoCopiesOfThePackage builds a program with two copies of the package, as
// with one that was vendored and renamed. It panicked before main.
func TestTwoCopiesOfThePackage(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if testing.Short() || err != nil {
		t.Skip("builds a program")
	}
	dir := t.TempDir()
	put := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	get := func(name string) string {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		return string(text)
	}
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	internal, err := filepath.Glob("internal/*/*.go")
	require.NoError(t, err)
	require.NotEmpty(t, internal)
	for _, name := range append(names, internal...) {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for _, dir := range []string{"one", "two"} {
			put(dir+"/"+name, strings.ReplaceAll(get(name), "github.com/mmapbuf/mmapbuf/internal", "both/"+dir+"/internal"))
		}
	}
	needs := regexp.MustCompile(`golang.org/x/sys v\S+`).FindString(get("go.mod"))
	require.NotEmpty(t, needs)
	put("go.mod", "module both\n\ngo 1.25.0\n\nrequire "+needs+"\n")
	put("go.sum", get("go.sum"))
	put("main.go", `package main

import (
	"bytes"
	"fmt"

	"both/one"
	two "both/two"
)

func main() {
	var a mmapbuf.Buffer
	var b two.Buffer
	data := bytes.Repeat([]byte("data"), 1<<20)
	a.Write(data)
	a.WriteTo(&b)
	fmt.Print(bytes.Equal(b.Bytes(), data))
}
`)
	cmd := exec.Command(goTool, "run", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "true", string(out))
}

// A keeper keeps all slices that it gets. While it has one, it calls the Buffer.
type keeper struct {
	call func()
	left int   // bytes to read
	end  error // after them
	kept [][]byte
}

func (k *keeper) Read(p []byte) (int, error) {
	dirty(p)
	_, _ = k.Write(p)
	n := min(len(p), k.left)
	if k.left -= n; n == 0 {
		return 0, k.end
	}
	return n, nil
}

func (k *keeper) Write(p []byte) (int, error) {
	k.kept = append(k.kept, p)
	k.call()
	dirty(p) // a Writer should not, but can
	return len(p), nil
}

// TestForeignSweep has Readers and Writers keep what they are given, call each
// method of the Buffer meanwhile, and write to all that they have kept when the
// Buffer is gone, as a Reader does that has given up before its goroutine has. No
// other Buffer shows any of that.
func TestForeignSweep(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) { foreignSweep(t, byLength(1, 1, 4)) })
}

func foreignSweep(t *testing.T, rounds int) {
	t.Helper()
	r := rand.New(rand.NewPCG(testSeed(t), 0))
	calls := maps.Clone(changes)
	for name, look := range looks {
		calls[name] = func(b *Buffer) { look(b) }
	}
	calls["Grow"] = func(b *Buffer) { b.Grow(3 << 20) }
	calls["Reserve"] = func(b *Buffer) { _ = b.Reserve(3 << 20) }
	calls["Write much"] = func(b *Buffer) { _, _ = b.Write(noise()[:2<<20]) }
	delete(calls, "Bytes, Write")
	var others []*Buffer // that nobody has passed to anything
	for i := range 4 {
		b := filledWith(t, i, 40*kiB+i*miB)
		defer b.Close()
		others = append(others, b)
	}
	check := func() {
		for i, b := range others {
			require.NoError(t, still(contents(b), i, 40*kiB+i*miB), "another Buffer")
		}
	}
	mapped := 0
	// use has b read from k, or write to it, and leaves b.
	use := func(k *keeper, run func(b *Buffer, k *keeper), call func(b *Buffer), closes bool) {
		b := filledWith(t, r.IntN(1000), 40*kiB+r.IntN(byLength(2, 2, 6)*miB))
		_, _ = b.Read(make([]byte, r.IntN(100)))
		if b.m != nil {
			mapped++
		}
		times := 0
		k.call = func() {
			if times++; times < 3 {
				call(b)
			}
		}
		run(b, k)
		if closes {
			_ = b.Close()
		}
	}
	var ways []func(b *Buffer, k *keeper)
	for _, read := range readsFrom {
		ways = append(ways, func(b *Buffer, k *keeper) { _, _ = read(b, k) })
	}
	for _, write := range writesTo {
		ways = append(ways, func(b *Buffer, k *keeper) { _, _ = write(b, k) })
	}
	ends := []error{io.EOF, os.ErrDeadlineExceeded}
	for range rounds {
		for i, name := range slices.Sorted(maps.Keys(calls)) {
			var wg sync.WaitGroup
			late := make(chan error, 2*len(ways))
			r.Shuffle(len(ways), func(i, j int) { ways[i], ways[j] = ways[j], ways[i] })
			for way, run := range ways[:byLength(3, len(ways), len(ways))] {
				for _, closes := range []bool{true, false} {
					k := &keeper{left: r.IntN(600 * kiB), end: ends[r.IntN(2)]}
					require.NoError(t, sound(func() { use(k, run, calls[name], closes) }), "%s, way %d", name, way)
					require.NotEmpty(t, k.kept)
					wg.Go(func() {
						late <- sound(func() {
							for _, p := range k.kept {
								dirty(p)
							}
						})
					})
				}
			}
			runtime.GC()
			n := 40*kiB + r.IntN(3*miB)
			b := filledWith(t, 7, n) // of what the others have left
			wg.Wait()
			close(late)
			for err := range late {
				require.NoError(t, err, name)
			}
			require.NoError(t, still(contents(b), 7, n), name)
			if i%byLength(5, 1, 1) == 0 {
				check()
			}
			_ = b.Close()
		}
	}
	check()
	if mapping.Available() {
		require.Positive(t, mapped)
	}
}
