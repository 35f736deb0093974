package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// readsBesideClose are the ways to read a Buffer that another goroutine may
// close. Each returns a function that reads n bytes as fill wrote them, or some
// of them, or finds the Buffer empty, and returns how many it has found.
var readsBesideClose = map[string]func(b *Buffer, seed, n int) func() (int, error){
	"ReadAt": func(b *Buffer, seed, n int) func() (int, error) {
		return readAtBesideClose(b, seed, n)
	},
	"File.ReadAt": func(b *Buffer, seed, n int) func() (int, error) {
		return readAtBesideClose(NewFile(b), seed, n)
	},
	"SectionReader": func(b *Buffer, seed, n int) func() (int, error) {
		return readAtBesideClose(io.NewSectionReader(b, 0, int64(n)), seed, n)
	},
	"File.Read": func(b *Buffer, seed, n int) func() (int, error) {
		f, p, off := NewFile(b), make([]byte, 50_000), 0
		return func() (int, error) {
			k, err := f.Read(p)
			if k == 0 {
				off = 0
				_, seekErr := f.Seek(0, io.SeekStart)
				return 0, expect(err == io.EOF && seekErr == nil, "%v, %v", err, seekErr)
			}
			off += k
			return k, expect(err == nil && off <= n && isFilled(p[:k], seed, off-k), "%d bytes before %d: %v", k, off, err)
		}
	},
	"File.Size": func(b *Buffer, seed, n int) func() (int, error) {
		f := NewFile(b)
		return func() (int, error) {
			k := int(f.Size())
			return k, expect(k == 0 || k == n, "%d", k)
		}
	},
	"File.Len": func(b *Buffer, seed, n int) func() (int, error) {
		f := NewFile(b)
		_, err := f.Seek(7, io.SeekStart)
		return func() (int, error) {
			k := f.Len()
			return k, expect(err == nil && (k == 0 || k == n-7), "%d, %v", k, err)
		}
	},
	"File.Seek": func(b *Buffer, seed, n int) func() (int, error) {
		f := NewFile(b)
		return func() (int, error) {
			k, err := f.Seek(0, io.SeekEnd)
			return int(k), expect(err == nil && (k == 0 || k == int64(n)), "%d, %v", k, err)
		}
	},
	"File.WriteTo": func(b *Buffer, seed, n int) func() (int, error) {
		return func() (int, error) {
			f, off, right := NewFile(b), 0, true
			k, err := f.WriteTo(writerFunc(func(p []byte) (int, error) {
				right = right && isFilled(p, seed, off)
				off += len(p)
				return len(p), nil
			}))
			return off, expect(err == nil && right && int(k) == off && off <= n, "%d bytes, %d were written, right: %t, %v", k, off, right, err)
		}
	},
	"File.WriteTo a hash": func(b *Buffer, seed, n int) func() (int, error) {
		whole := pattern(seed, n)
		return func() (int, error) {
			h := crc32.NewIEEE()
			k, err := NewFile(b).WriteTo(h)
			part := int(k) == n || k%directMax == 0 // what was found before Close
			right := part && int(k) <= n && h.Sum32() == crc32.ChecksumIEEE(whole[:k])
			return int(k), expect(err == nil && right, "%d bytes, %x, %v", k, h.Sum32(), err)
		}
	},
}

func readAtBesideClose(r io.ReaderAt, seed, n int) func() (int, error) {
	p := make([]byte, 50_000)
	return func() (int, error) {
		off := rand.N(n)
		k, err := r.ReadAt(p, int64(off))
		whole := err == nil && k == len(p) || err == io.EOF && (k == n-off || k == 0)
		return k, expect(whole && isFilled(p[:k], seed, off), "%d bytes at %d: %v", k, off, err)
	}
}

// TestReadBesideClose closes a Buffer that goroutines read, as the body of an HTTP
// request is read when the client has its answer, and fills others with what it
// had.
func TestReadBesideClose(t *testing.T) {
	rounds := byLength(3, 20, 200)
	atBothThresholds(t, func(t *testing.T) {
		b := new(Buffer) // the same, refilled
		for _, n := range []int{100 * kiB, 3 * miB, 5*miB + 12345} {
			for _, views := range []bool{false, true} { // which move the contents
				t.Run(fmt.Sprintf("%d/views=%t", n, views), func(t *testing.T) {
					for seed := range rounds {
						readAndClose(t, b, seed, n, views)
					}
				})
			}
		}
	})
}

func readAndClose(t *testing.T, b *Buffer, seed, n int, views bool) {
	t.Helper()
	fill(b, seed, n)
	requireMapping(t, b, n)
	var wg sync.WaitGroup
	var found atomic.Int64
	var closed, stop atomic.Bool
	errs := make(chan error, 2*len(readsBesideClose))
	for name, reads := range readsBesideClose {
		if name == "File.WriteTo" && !views {
			continue
		}
		for range 2 {
			read := reads(b, seed, n)
			wg.Go(func() {
				for !stop.Load() {
					after, k := closed.Load(), 0
					var err error
					if e := sound(func() { k, err = read() }); e != nil {
						err = e
					}
					if err == nil && after && k > 0 {
						err = errors.New("not empty after Close")
					}
					if err != nil {
						errs <- fmt.Errorf("%s: %w", name, err)
						return
					}
					found.Add(int64(k))
					runtime.Gosched()
				}
			})
		}
	}
	for i := 0; i < 1000 && found.Load() < int64(n); i++ {
		time.Sleep(10 * time.Microsecond)
	}
	_ = b.Close()
	closed.Store(true)
	other := new(Buffer)
	fill(other, seed+500, n)
	stop.Store(true)
	wg.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Positive(t, found.Load(), "closed before anything was read")
	require.Zero(t, b.Len())
	require.NoError(t, invariants(b))
	require.NoError(t, still(contents(other), seed+500, n))
	require.NoError(t, other.Close())
}

// TestWriteAtBesideClose: the Buffer ends up empty, or as if Close had been
// first.
func TestWriteAtBesideClose(t *testing.T) {
	const n = 3 * miB / 2
	data := noise()[:50_000]
	least := byLength(4, 20, 300)
	atBothThresholds(t, func(t *testing.T) {
		for _, off := range []int{0, 1000, n - 1000, n, n + 5, n + 3*miB} {
			for name, writeAt := range map[string]func(b *Buffer) (int, error){
				"WriteAt":      func(b *Buffer) (int, error) { return b.WriteAt(data, int64(off)) },
				"File.WriteAt": func(b *Buffer) (int, error) { return NewFile(b).WriteAt(data, int64(off)) },
			} {
				t.Run(fmt.Sprintf("%s/%d", name, off), func(t *testing.T) {
					b := new(Buffer)
					defer b.Close()
					var empty, written int
					for round := 0; round < least || (empty == 0 || written == 0) && round < 100*least; round++ {
						fill(b, round, n)
						requireMapping(t, b, n)
						var wg sync.WaitGroup
						var k int
						var err, panicked error
						wg.Go(func() { panicked = sound(func() { k, err = writeAt(b) }) })
						if round%2 == 0 {
							runtime.Gosched()
						}
						_ = b.Close()
						other := new(Buffer)
						fill(other, round+500, n)
						wg.Wait()
						require.NoError(t, panicked)
						require.NoError(t, err)
						require.Equal(t, len(data), k)
						got := contents(b)
						if len(got) == 0 {
							empty++
						} else {
							written++
							require.Len(t, got, off+len(data))
							require.Equal(t, off, bytes.Count(got[:off], []byte{0}))
							require.NoError(t, diffBytes(got[off:], data))
						}
						require.NoError(t, invariants(b))
						require.NoError(t, still(contents(other), round+500, n))
						_ = b.Close()
						_ = other.Close()
					}
					require.Positive(t, empty, "WriteAt was never first")
					require.Positive(t, written, "Close was never first")
				})
			}
		}
	})
}
