package mmapbuf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
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

// TestAtRandom takes ReadAt and WriteAt through all other operations, with a
// slice for an oracle.
func TestAtRandom(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	const limit = 12 << 20
	steps := 1500
	if testing.Short() {
		steps = 300
	}
	size := func() int { return 1<<r.IntN(22) - 1 + r.IntN(1000) }
	for _, start := range []*Buffer{new(Buffer), NewBuffer(make([]byte, 0, 1000))} {
		b, want := start, []byte(nil)
		last := ""
		for step := range steps {
			n := size()
			p := noise()[r.IntN(1000):][:n]
			off := r.IntN(len(want) + 1)
			if len(want)+n > limit {
				last = "Truncate"
				off /= 8
				b.Truncate(off)
				want = want[:off]
				continue
			}
			switch op := r.IntN(14); op {
			case 0, 1, 2, 3:
				last = fmt.Sprintf("WriteAt(%d, %d)", n, off)
				if op == 3 {
					off = len(want) + size()
				}
				m, err := b.WriteAt(p, int64(off))
				require.NoError(t, err, last)
				require.Equal(t, n, m, last)
				want = writtenAt(want, p, off)
			case 4:
				last = fmt.Sprintf("Write(%d)", n)
				writeAllOf(t, b, p)
				want = append(want, p...)
			case 5, 6:
				last = fmt.Sprintf("Read(%d)", n)
				m, _ := b.Read(make([]byte, n))
				require.Equal(t, min(n, len(want)), m, last)
				want = want[m:]
			case 7:
				last = fmt.Sprintf("Truncate(%d)", off)
				b.Truncate(off)
				want = want[:off]
			case 8:
				last = "Shrink"
				b.Shrink()
			case 9:
				last = "Bytes"
				b.Bytes()
			case 10:
				last = fmt.Sprintf("Next(%d)", n)
				want = want[len(b.Next(n)):]
			case 11:
				last = fmt.Sprintf("Reserve(%d)", n)
				require.NoError(t, b.Reserve(n))
				require.GreaterOrEqual(t, b.Available(), n)
			case 12:
				last = fmt.Sprintf("ReadFrom(%d)", n)
				m, err := b.ReadFrom(bytes.NewReader(p))
				require.NoError(t, err)
				require.EqualValues(t, n, m)
				want = append(want, p...)
			case 13:
				last = "AvailableBuffer"
				a := b.AvailableBuffer()
				a = a[:min(cap(a), 1<<20)]
				for i := range a {
					a[i] = 0xff
				}
			}

			require.Equal(t, len(want), b.Len(), "step %d, %s", step, last)
			got := make([]byte, 1+r.IntN(64<<10))
			off = r.IntN(len(want) + 1)
			m, err := b.ReadAt(got, int64(off))
			require.NoError(t, diffBytes(got[:m], want[off:min(off+len(got), len(want))]), "step %d, %s", step, last)
			require.Equal(t, m < len(got), err == io.EOF, "error %v", err)
			if step%32 == 0 {
				requireContents(t, b, want, "step %d, %s", step, last)
			}
		}
		requireContents(t, b, want)
		b.Close()
	}
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
	size := 256 * miB
	if testing.Short() || math.MaxInt == math.MaxInt32 {
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
