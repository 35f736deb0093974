package mmapbuf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	ft "github.com/mmapbuf/mmapbuf/internal/filetest"
)

// TestReadAtExhaustive has bytes.Reader for its oracle.
func TestReadAtExhaustive(t *testing.T) {
	const size = 24
	p, want := make([]byte, size+2), make([]byte, size+2)
	b := new(Buffer)
	defer b.Close()
	for length := range size + 1 {
		for consumed := range length + 1 {
			b.Reset()
			writeAllOf(t, b, noise()[:length])
			b.Read(p[:consumed])
			r := bytes.NewReader(noise()[consumed:length])
			offs := []int64{-2, -1, math.MaxInt64 - 10, math.MaxInt64}
			for off := range length - consumed + 3 {
				offs = append(offs, int64(off))
			}
			for _, off := range offs {
				for n := range len(p) + 1 {
					n1, err := b.ReadAt(p[:n], off)
					n2, wantErr := r.ReadAt(want[:n], off)
					same := err == wantErr
					if off < 0 { // the text is the Buffer's own
						same = err != nil && err != io.EOF
					}
					if n1 != n2 || !same || !bytes.Equal(p[:n1], want[:n2]) {
						require.Failf(t, "ReadAt", "%d bytes at %d of %d, %d consumed: %d, %v, want %d, %v",
							n, off, length, consumed, n1, err, n2, wantErr)
					}
				}
			}
			requireContents(t, b, noise()[consumed:length], "ReadAt changed the contents")
		}
	}
}

// TestReadAtUnread: ReadAt is no read that UnreadByte would see.
func TestReadAtUnread(t *testing.T) {
	b := NewBufferString("abc")
	b.ReadByte()
	b.ReadAt(make([]byte, 2), 0)
	b.ReadAt(make([]byte, 2), 5)
	require.NoError(t, b.UnreadByte())
	require.Equal(t, "abc", b.String())

	b.ReadAt(make([]byte, 2), 0)
	require.Error(t, b.UnreadByte())
	require.Equal(t, "abc", b.String())
}

// writtenAt is the oracle of WriteAt: like a file, contents grow by what is
// beyond them, zeros in between. A write of nothing does nothing.
func writtenAt(contents, p []byte, off int) []byte {
	if len(p) == 0 {
		return contents
	}
	if more := off + len(p) - len(contents); more > 0 {
		contents = append(contents, make([]byte, more)...)
	}
	copy(contents[off:], p)
	return contents
}

func TestWriteAtExhaustive(t *testing.T) {
	dirt := bytes.Repeat([]byte{0xff}, 100) // where there must be zeros
	spare, published := filled(t, len(dirt)), filled(t, len(dirt))
	defer spare.Close()
	defer published.Close()
	published.AvailableBuffer()
	for _, test := range []struct {
		name string
		size int
		open func(length int) *Buffer
	}{
		{"spare", 24, func(int) *Buffer { return spare }},
		{"spare, published", 24, func(int) *Buffer { return published }},
		{"no spare", 8, func(length int) *Buffer { return NewBuffer(make([]byte, 0, length)) }},
	} {
		try := func(length, consumed, off, n int) {
			p := noise()[100 : 100+n]
			want := append(writtenAt(slices.Clone(noise()[consumed:length]), p, off), '+')
			b := test.open(length)
			b.Reset()
			b.Write(dirt[:min(len(dirt), b.Cap())])
			b.Reset()
			b.Write(noise()[:length])
			b.Read(make([]byte, consumed))
			m, err := b.WriteAt(p, int64(off))
			b.WriteByte('+') // at the end
			if m != n || err != nil || b.String() != string(want) {
				require.Failf(t, test.name, "WriteAt of %d bytes at %d of %d, %d consumed: %d, %v; %q, want %q",
					n, off, length, consumed, m, err, b.String(), want)
			}
			if test.name == "no spare" {
				b.Close()
			}
		}
		for length := range test.size + 1 {
			for consumed := range length + 1 {
				for off := range length - consumed + 4 {
					for n := range test.size + 1 {
						try(length, consumed, off, n)
					}
				}
			}
		}
	}
}

// TestWriteAtGap: gaps are zero over whatever was there before.
func TestWriteAtGap(t *testing.T) {
	for name, clear := range map[string]func(b *Buffer){
		"Truncate": func(b *Buffer) { b.Truncate(10) },
		"Reset":    func(b *Buffer) { b.Reset() },
		"Read":     func(b *Buffer) { io.CopyN(io.Discard, struct{ io.Reader }{b}, int64(b.Len()-10)) },
		"Next":     func(b *Buffer) { b.Next(b.Len() - 10) },
		"WriteTo":  func(b *Buffer) { b.WriteTo(io.Discard) },
		"Shrink":   func(b *Buffer) { b.Truncate(10); b.Shrink() },
		"Close":    func(b *Buffer) { b.Close() },
		"Bytes":    func(b *Buffer) { b.Bytes(); b.Truncate(10) },
		"append to AvailableBuffer": func(b *Buffer) {
			b.Truncate(10)
			p := b.AvailableBuffer()
			dirty(p[:cap(p)])
		},
		"Read's scratch space": func(b *Buffer) {
			b.Truncate(10)
			b.ReadFrom(reader(func(p []byte) (int, error) { dirty(p); return 0, io.EOF }))
		},
		"a read and growth": func(b *Buffer) { b.Next(b.Len() / 2); b.Truncate(10); b.Grow(b.Cap()) },
	} {
		t.Run(name, func(t *testing.T) {
			atSizes(t, func(t *testing.T, n int) {
				for _, gap := range []int{1, n / 4, n, 2*n + 1, n + 4<<20} {
					b := NewBuffer(bytes.Repeat([]byte{0xff}, n))
					clear(b)
					want := contents(b)
					want = writtenAt(want, []byte("end"), len(want)+gap)
					m, err := b.WriteAt([]byte("end"), int64(b.Len()+gap))
					require.NoError(t, err)
					require.Equal(t, 3, m)
					requireContents(t, b, want, "a gap of %d bytes", gap)
					b.Close()
				}
			})
		})
	}
}

// TestWriteAtUnread: UnreadByte either fails or unreads what was read.
func TestWriteAtUnread(t *testing.T) {
	for _, off := range []int64{0, 1, 2, 100, 5 << 20} {
		b := NewBufferString("abc")
		b.ReadByte()
		require.NoError(t, ft.Err(b.WriteAt([]byte("x"), off)))
		want := string(writtenAt([]byte("bc"), []byte("x"), int(off)))
		if b.UnreadByte() == nil {
			want = "a" + want
		}
		requireContents(t, b, []byte(want), "off %d", off)
	}
}

// atOp draws an operation for a Buffer of n bytes. Most are about WriteAt.
func (s *script) atOp(n int) op {
	c := s.byte() % 20
	if s.noViews && c >= 18 {
		c -= 18
	}
	switch c {
	case 0, 1, 2:
		p := s.data(n)
		return writeAt(p, int64(s.offset(n)))
	case 3, 4:
		p := s.data(n)
		return writeAt(p, int64(min(n+s.size(s.writeBits), max(n, s.limit))))
	case 5:
		return writeAt(s.data(n), int64(n))
	case 6:
		return write(s.data(n))
	case 7, 8:
		return read(s.size(s.readBits))
	case 9:
		return truncate(s.offset(n))
	case 10:
		return shrink
	case 11, 12:
		return reserveBy(s.size(s.writeBits))
	case 13:
		return readAll(string(s.data(n)))
	case 14:
		return readScratch
	case 15:
		bounds := []int{0, 0, n, n + s.size(8), n + s.size(s.writeBits), n / 2, 1, math.MaxInt}
		return setMaxLen(bounds[s.byte()%8])
	case 16:
		far := []int64{-1, math.MinInt64, math.MaxInt64, math.MaxInt64 - 1, 1 << 62}
		return writeAt([]byte("x"), far[s.byte()%5])
	case 17:
		if s.byte()%8 != 0 {
			return noHugePages
		}
		return closeIt
	case 18:
		return next(s.size(s.readBits))
	}
	return op{"AvailableBuffer", other, func(b buffer) result {
		p := b.AvailableBuffer()
		dirty(p[:min(cap(p), miB)])
		return result{}
	}}
}

// atStep draws a step, does it, and looks where nothing was written, too.
func (s *script) atStep(p *pair) error {
	err := p.step(s.atOp(p.got.Len()), byReadAt)
	n := p.want.Len()
	off := s.offset(n)
	return errors.Join(err, p.readAt(p.want.Bytes(), off, min(64*kiB, n-off+1)))
}

// TestReadAtWriteAtRandomWalk takes ReadAt and WriteAt through all other operations.
func TestReadAtWriteAtRandomWalk(t *testing.T) {
	seed := testSeed(t)
	for i, start := range []*Buffer{new(Buffer), NewBuffer(make([]byte, 0, 1000)), new(Buffer)} {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed+uint64(i))
		s := &script{
			src:       bufio.NewReader(rand.NewChaCha8(key)),
			writeBits: 21, readBits: 22, limit: 12 << 20, noViews: i == 2,
		}
		p := newPair("")
		p.got = start
		for step := range byLength(300, 1500, 1500) {
			require.NoError(t, s.atStep(p), "walk %d", i)
			if step%32 == 0 {
				require.NoError(t, p.check(byString), "walk %d, step %d", i, step)
			}
		}
		require.NoError(t, p.finish())
	}
}

// FuzzWriteAt reads the kind of storage and the steps from its input.
func FuzzWriteAt(f *testing.F) {
	f.Add([]byte{})
	f.Add(noise()[:300])
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &script{src: bytes.NewReader(data), writeBits: 20, readBits: 20, limit: 3 << 20}
		s.storage(t)
		p := newPair("")
		defer p.close()
		for step := 0; step < 200 && !s.done; step++ {
			require.NoError(t, s.atStep(p))
		}
		require.NoError(t, p.finish())
	})
}

// TestWriteAtRandomOrder fills an empty Buffer as a download in many parts
// does, with and without a bound that refuses some of them.
func TestWriteAtRandomOrder(t *testing.T) {
	const (
		writers   = 64
		blockSize = 64 * kiB
	)
	size := byLength(16*miB, 64*miB, 256*miB)
	if math.MaxInt == math.MaxInt32 {
		size = 16 * miB
	}
	blockOf := func(p []byte, n int) []byte {
		copy(p, noise()[n:])
		return binary.LittleEndian.AppendUint64(p[:blockSize-8], uint64(n))
	}
	for _, test := range []struct {
		name             string
		consumed, maxLen int
	}{
		{"no bound", 0, 0},
		{"behind a consumed prefix", 5 * miB / 2, 0},
		{"MaxLen between blocks", 0, size / 2},
		{"MaxLen inside of a block", 0, size/2 + 1},
		{"MaxLen behind a consumed prefix", 5 * miB / 2, size/2 - 1},
		{"MaxLen below a block", 0, blockSize - 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			needMemory(t, 4*int64(size)) // without mappings, growing copies
			b := &Buffer{MaxLen: test.maxLen}
			defer b.Close()
			if test.consumed > 0 {
				writeAllOf(t, b, make([]byte, test.consumed+1)) // of an empty Buffer the prefix is room
				require.NoError(t, ft.Err(b.Read(make([]byte, test.consumed))))
			}
			fit := size / blockSize
			if test.maxLen > 0 {
				fit = test.maxLen / blockSize
			}

			order := rand.New(rand.NewPCG(1, 2)).Perm(size / blockSize)
			var next atomic.Int64
			var wg sync.WaitGroup
			for range writers {
				wg.Go(func() {
					p := make([]byte, blockSize)
					for i := next.Add(1); i <= int64(len(order)); i = next.Add(1) {
						n := order[i-1]
						m, err := b.WriteAt(blockOf(p, n), int64(n)*blockSize)
						if n < fit && (m != blockSize || err != nil) || n >= fit && (m != 0 || !errors.Is(err, ErrTooLarge)) {
							t.Errorf("WriteAt of block %d, %d fit: %d, %v", n, fit, m, err)
							return
						}
					}
				})
			}
			wg.Wait()

			require.Equal(t, fit*blockSize, b.Len())
			got, want := make([]byte, blockSize), make([]byte, blockSize)
			for n := range fit {
				require.NoError(t, ft.Err(b.ReadAt(got, int64(n)*blockSize)))
				require.NoError(t, diffBytes(got, blockOf(want, n)), "block %d", n)
			}
		})
	}
}

// TestNilBufferLeavesNoLock: many Buffers share the lock that a method of a nil
// Buffer takes before it panics.
func TestNilBufferLeavesNoLock(t *testing.T) {
	for name, call := range map[string]func(b *Buffer){
		"ReadAt":  func(b *Buffer) { _, _ = b.ReadAt(make([]byte, 1), 0) },
		"WriteAt": func(b *Buffer) { _, _ = b.WriteAt(make([]byte, 1), 0) },
		"Close":   func(b *Buffer) { _ = b.Close() },
		"Reserve": func(b *Buffer) { _ = b.Reserve(1) },
		"Shrink":  func(b *Buffer) { b.Shrink() },
		"Size":    func(b *Buffer) { NewFile(b).Size() },
		"Read":    func(b *Buffer) { _, _ = NewFile(b).Read(make([]byte, 1)) },
	} {
		_, _ = caught(func() error { call(nil); return nil })
		for i := range atLocks {
			require.True(t, atLocks[i].TryLock(), name)
			atLocks[i].Unlock()
		}
	}
}

// readsBesideClose returns ways to read a Buffer that another goroutine may close.
// Each reads n bytes as fill wrote them, or some of them, or finds the Buffer empty,
// and returns how many it has found.
func readsBesideClose(b *Buffer, seed, n int) map[string]func() (int, error) {
	readAt := func(r io.ReaderAt) func() (int, error) {
		p := make([]byte, 50_000)
		return func() (int, error) {
			off := rand.N(n)
			k, err := r.ReadAt(p, int64(off))
			whole := err == nil && k == len(p) || err == io.EOF && (k == n-off || k == 0)
			return k, expect(whole && isFilled(p[:k], seed, off), "%d bytes at %d: %v", k, off, err)
		}
	}
	read, p, off := NewFile(b), make([]byte, 50_000), 0
	rest := NewFile(b)
	_, _ = rest.Seek(7, io.SeekStart)
	whole := pattern(seed, n)
	return map[string]func() (int, error){
		"ReadAt":        readAt(b),
		"File.ReadAt":   readAt(NewFile(b)),
		"SectionReader": readAt(io.NewSectionReader(b, 0, int64(n))),
		"File.Read": func() (int, error) {
			k, err := read.Read(p)
			if k == 0 {
				off = 0
				_, seekErr := read.Seek(0, io.SeekStart)
				return 0, expect(err == io.EOF && seekErr == nil, "%v, %v", err, seekErr)
			}
			off += k
			return k, expect(err == nil && off <= n && isFilled(p[:k], seed, off-k), "%d bytes before %d: %v", k, off, err)
		},
		"File.Size": func() (int, error) {
			k := int(NewFile(b).Size())
			return k, expect(k == 0 || k == n, "%d", k)
		},
		"File.Len": func() (int, error) {
			k := rest.Len()
			return k, expect(k == 0 || k == n-7, "%d", k)
		},
		"File.Seek": func() (int, error) {
			k, err := NewFile(b).Seek(0, io.SeekEnd)
			return int(k), expect(err == nil && (k == 0 || k == int64(n)), "%d, %v", k, err)
		},
		"File.WriteTo": func() (int, error) {
			off, right := 0, true
			k, err := NewFile(b).WriteTo(writerFunc(func(p []byte) (int, error) {
				right = right && isFilled(p, seed, off)
				off += len(p)
				return len(p), nil
			}))
			ok := err == nil && right && int(k) == off && off <= n
			return off, expect(ok, "%d bytes, %d were written, right: %t, %v", k, off, right, err)
		},
		"File.WriteTo a hash": func() (int, error) {
			h := crc32.NewIEEE()
			k, err := NewFile(b).WriteTo(h)
			part := int(k) == n || k%directMax == 0 // what was found before Close
			right := part && int(k) <= n && h.Sum32() == crc32.ChecksumIEEE(whole[:k])
			return int(k), expect(err == nil && right, "%d bytes, %x, %v", k, h.Sum32(), err)
		},
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
	errs := make(chan error, 100)
	for range 2 {
		for name, read := range readsBesideClose(b, seed, n) {
			if name == "File.WriteTo" && !views {
				continue
			}
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
