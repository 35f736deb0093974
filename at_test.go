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
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestReadAt(t *testing.T) {
	b := NewBufferString("xx0123456789")
	b.Next(2)
	for _, test := range []struct {
		name string
		n    int
		off  int64
		want string
		err  error
	}{
		{"all", 10, 0, "0123456789", nil},
		{"start", 3, 0, "012", nil},
		{"middle", 3, 4, "456", nil},
		{"end", 3, 7, "789", nil},
		{"beyond the end", 5, 7, "789", io.EOF},
		{"much beyond the end", 500, 0, "0123456789", io.EOF},
		{"at Len", 1, 10, "", io.EOF},
		{"beyond Len", 1, 11, "", io.EOF},
		{"far beyond Len", 1, math.MaxInt64, "", io.EOF},
		{"sum overflows", 100, math.MaxInt64 - 50, "", io.EOF},
		{"nothing", 0, 0, "", nil},
		{"nothing in the middle", 0, 9, "", nil},
		{"nothing at Len", 0, 10, "", io.EOF},
		{"nothing beyond Len", 0, 11, "", io.EOF},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := make([]byte, test.n)
			n, err := b.ReadAt(p, test.off)
			require.True(t, err == test.err, "error %v, want %v", err, test.err)
			require.Equal(t, test.want, string(p[:n]))
			require.Equal(t, "0123456789", b.String(), "ReadAt changed the contents")
		})
	}
}

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
			for off := int64(-2); off <= int64(length-consumed)+2; off++ {
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

func TestWriteAt(t *testing.T) {
	for _, test := range []struct {
		name string
		p    string
		off  int64
		want string
	}{
		{"start", "ab", 0, "ab2345"},
		{"middle", "ab", 2, "01ab45"},
		{"end", "ab", 4, "0123ab"},
		{"all", "abcdef", 0, "abcdef"},
		{"over the end", "abc", 4, "0123abc"},
		{"more than all", "abcdefgh", 0, "abcdefgh"},
		{"at Len", "ab", 6, "012345ab"},
		{"beyond Len", "ab", 8, "012345\x00\x00ab"},
		{"far beyond Len", "ab", 1000, "012345" + strings.Repeat("\x00", 994) + "ab"},
		{"nothing", "", 3, "012345"},
		{"nothing at Len", "", 6, "012345"},
		{"nothing beyond Len", "", 9, "012345"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := NewBufferString("xx012345")
			b.Next(2)
			n, err := b.WriteAt([]byte(test.p), test.off)
			require.NoError(t, err)
			require.Equal(t, len(test.p), n)
			require.Equal(t, test.want, b.String())
			writeAllOf(t, b, "more")
			require.Equal(t, test.want+"more", b.String())
		})
	}
}

func TestWriteAtExhaustive(t *testing.T) {
	try := func(b *Buffer, dirt []byte, length, consumed, off, n int) {
		contents := writtenAt(slices.Clone(noise()[consumed:length]), noise()[100:100+n], off)
		b.Reset()
		b.Write(dirt)
		b.Reset()
		b.Write(noise()[:length])
		b.Read(make([]byte, consumed))
		m, err := b.WriteAt(noise()[100:100+n], int64(off))
		if m != n || err != nil || b.String() != string(contents) {
			require.Failf(t, "WriteAt", "%d bytes at %d of %d, %d consumed: %d, %v; %q, want %q",
				n, off, length, consumed, m, err, b.String(), contents)
		}
	}
	each := func(size int, f func(length, consumed, off, n int)) {
		for length := range size + 1 {
			for consumed := range length + 1 {
				for off := range length - consumed + 4 {
					for n := range size + 1 {
						f(length, consumed, off, n)
					}
				}
			}
		}
	}

	dirt := bytes.Repeat([]byte{0xff}, 100) // where there must be zeros
	t.Run("spare", func(t *testing.T) {
		var b Buffer
		defer b.Close()
		each(24, func(length, consumed, off, n int) { try(&b, dirt, length, consumed, off, n) })
	})
	t.Run("spare, published", func(t *testing.T) {
		var b Buffer
		b.Write(dirt)
		b.AvailableBuffer()
		each(24, func(length, consumed, off, n int) { try(&b, dirt, length, consumed, off, n) })
	})
	t.Run("no spare", func(t *testing.T) {
		each(8, func(length, consumed, off, n int) {
			b := NewBuffer(make([]byte, 0, length))
			try(b, dirt[:length], length, consumed, off, n)
			b.Close()
		})
	})
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
			p = p[:cap(p)]
			for i := range p {
				p[i] = 0xff
			}
		},
		"Read's scratch space": func(b *Buffer) {
			b.Truncate(10)
			b.ReadFrom(reader(func(p []byte) (int, error) {
				for i := range p {
					p[i] = 0xff
				}
				return 0, io.EOF
			}))
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
		_, err := b.WriteAt([]byte("x"), off)
		require.NoError(t, err)
		want := string(writtenAt([]byte("bc"), []byte("x"), int(off)))
		if b.UnreadByte() == nil {
			want = "a" + want
		}
		requireContents(t, b, []byte(want), "off %d", off)
	}
}

// An atPair takes a Buffer and a slice of bytes through the same steps.
type atPair struct {
	got  *Buffer
	want []byte
	was  Stats
	name string // of the last step
}

// step draws a step, does it, and compares.
func (p *atPair) step(s *script) error {
	err := p.do(s)
	off := s.offset(len(p.want))
	return errors.Join(err, invariants(p.got), p.compare(off, min(64*kiB, len(p.want)-off+1)))
}

// compare compares n bytes at off.
func (p *atPair) compare(off, n int) error {
	if p.got.Len() != len(p.want) {
		return fmt.Errorf("Len() = %d, want %d", p.got.Len(), len(p.want))
	}
	q := make([]byte, n)
	m, err := p.got.ReadAt(q, int64(off))
	if m < n != (err == io.EOF) {
		return fmt.Errorf("ReadAt(%d bytes, %d) = %d, %v", n, off, m, err)
	}
	return diffBytes(q[:m], p.want[off:min(off+n, len(p.want))])
}

// finish compares everything and closes.
func (p *atPair) finish() error {
	return errors.Join(p.compare(0, len(p.want)+1), p.got.Close(), leaked(p.was))
}

func (p *atPair) do(s *script) error {
	b, n := p.got, len(p.want)
	c := s.byte() % 20
	if s.noViews && c >= 18 {
		c -= 18
	}
	switch c {
	case 0, 1, 2:
		return p.writeAt(s.data(n), s.offset(n))
	case 3, 4:
		return p.writeAt(s.data(n), min(n+s.size(s.writeBits), max(n, s.limit)))
	case 5:
		return p.writeAt(s.data(n), n)
	case 6:
		q := s.data(n)
		p.name = fmt.Sprintf("Write(%d)", len(q))
		m, err := b.Write(q)
		p.want = append(p.want, q[:m]...)
		return expect(m == len(q) || p.isFull(err), "Write: %d, %v", m, err)
	case 7, 8:
		q := make([]byte, s.size(s.readBits))
		p.name = fmt.Sprintf("Read(%d)", len(q))
		m, _ := b.Read(q)
		return errors.Join(expect(m == min(len(q), n), "Read: %d", m), diffBytes(q[:m], p.take(m)))
	case 9:
		off := s.offset(n)
		p.name = fmt.Sprintf("Truncate(%d)", off)
		b.Truncate(off)
		p.want = p.want[:off]
	case 10:
		p.name = "Shrink"
		b.Shrink()
	case 11, 12:
		k := s.size(s.writeBits)
		p.name = fmt.Sprintf("Reserve(%d)", k)
		err := b.Reserve(k)
		return expect(b.Available() >= k || b.MaxLen > 0 && n+k > b.MaxLen && errors.Is(err, ErrTooLarge), "Reserve: %v", err)
	case 13:
		q := s.data(n)
		p.name = fmt.Sprintf("ReadFrom(%d)", len(q))
		m, err := b.ReadFrom(bytes.NewReader(q))
		p.want = append(p.want, q[:m]...)
		return expect(m == int64(len(q)) || p.isFull(err), "ReadFrom: %d, %v", m, err)
	case 14:
		p.name = "ReadFrom(scratch)"
		_, err := b.ReadFrom(reader(func(q []byte) (int, error) { dirty(q); return 0, io.EOF }))
		return err
	case 15:
		b.MaxLen = []int{0, 0, n, n + s.size(8), n + s.size(s.writeBits), n / 2, 1, math.MaxInt}[s.byte()%8]
		p.name = fmt.Sprintf("MaxLen = %d", b.MaxLen)
	case 16:
		far := []int64{-1, math.MinInt64, math.MaxInt64, math.MaxInt64 - 1, 1 << 62}[s.byte()%5]
		p.name = fmt.Sprintf("WriteAt(1 byte, %d)", far)
		m, err := b.WriteAt([]byte("x"), far)
		return expect(m == 0 && err != nil && errors.Is(err, ErrTooLarge) == (far > 0), "WriteAt: %d, %v", m, err)
	case 17:
		if b.NoHugePages, p.name = !b.NoHugePages, "NoHugePages"; s.byte()%8 == 0 {
			p.name, p.want = "Close", p.want[:0]
			return b.Close()
		}
	case 18:
		k := s.size(s.readBits)
		p.name = fmt.Sprintf("Next(%d)", k)
		q := b.Next(k)
		return errors.Join(expect(len(q) == min(k, n), "Next: %d", len(q)), diffBytes(q, p.take(len(q))))
	case 19:
		p.name = "AvailableBuffer"
		q := b.AvailableBuffer()
		dirty(q[:min(cap(q), miB)])
	}
	return nil
}

func (p *atPair) writeAt(q []byte, off int) error {
	p.name = fmt.Sprintf("WriteAt(%d bytes, %d)", len(q), off)
	end, most := off+len(q), p.got.MaxLen
	m, err := p.got.WriteAt(q, int64(off))
	if len(q) > 0 && end > len(p.want) && most > 0 && end > most {
		return expect(m == 0 && errors.Is(err, ErrTooLarge), "WriteAt beyond MaxLen %d: %d, %v", most, m, err)
	}
	p.want = writtenAt(p.want, q, off)
	return expect(m == len(q) && err == nil, "WriteAt: %d, %v", m, err)
}

// isFull reports whether a write had to end with err.
func (p *atPair) isFull(err error) bool {
	most := p.got.MaxLen
	return most > 0 && len(p.want) >= most && errors.Is(err, ErrTooLarge)
}

// take consumes the first n bytes.
func (p *atPair) take(n int) []byte {
	q := p.want[:n]
	p.want = p.want[n:]
	return q
}

// TestReadAtWriteAtRandomWalk takes ReadAt and WriteAt through all other operations.
func TestReadAtWriteAtRandomWalk(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	steps := byLength(300, 1500, 1500)
	for i, start := range []*Buffer{new(Buffer), NewBuffer(make([]byte, 0, 1000)), new(Buffer)} {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed+uint64(i))
		s := &script{src: bufio.NewReader(rand.NewChaCha8(key)), writeBits: 21, readBits: 22, limit: 12 << 20, noViews: i == 2}
		p := &atPair{got: start, was: ReadStats()}
		for step := range steps {
			require.NoError(t, p.step(s), "step %d, %s", step, p.name)
			if step%32 == 0 {
				requireContents(t, p.got, p.want, "step %d, %s", step, p.name)
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
		p := &atPair{got: new(Buffer), was: ReadStats()}
		defer p.got.Close()
		for step := 0; step < 200 && !s.done; step++ {
			require.NoError(t, p.step(s), "step %d, %s", step, p.name)
		}
		require.NoError(t, p.finish())
	})
}

// The io contracts allow ReadAt in parallel, and WriteAt too where the
// ranges do not overlap. The race detector has the last word.
func TestReadAtParallel(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := filled(t, n)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				p := make([]byte, n/5)
				for k := range 50 {
					off := (i*7 + k) % (n - len(p))
					m, err := b.ReadAt(p, int64(off))
					if m != len(p) || err != nil || !bytes.Equal(p, noise()[off:off+m]) {
						t.Errorf("ReadAt(%d bytes, %d) = %d, %v, or other contents", len(p), off, m, err)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestWriteAtParallel(t *testing.T) {
	for _, grow := range []bool{false, true} {
		t.Run(fmt.Sprintf("grow=%t", grow), func(t *testing.T) {
			for _, n := range []int{400, 5_000_000} {
				b := new(Buffer)
				if !grow {
					writeAllOf(t, b, make([]byte, n))
				}
				const writers, pieces = 4, 50
				size := n / (writers * pieces)
				var wg sync.WaitGroup
				for i := range writers {
					wg.Go(func() {
						defer func() {
							if v := recover(); v != nil {
								t.Errorf("panic: %v", v)
							}
						}()
						for k := range pieces {
							off := (k*writers + i) * size
							m, err := b.WriteAt(noise()[off:off+size], int64(off))
							if m != size || err != nil {
								t.Errorf("WriteAt(%d bytes, %d) = %d, %v", size, off, m, err)
								return
							}
						}
					})
				}
				wg.Wait()
				assert.NoError(t, diffBytes(contents(b), noise()[:size*writers*pieces]))
				b.Close()
			}
		})
	}
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
				_, err := b.Read(make([]byte, test.consumed))
				require.NoError(t, err)
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
				_, err := b.ReadAt(got, int64(n)*blockSize)
				require.NoError(t, err)
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
