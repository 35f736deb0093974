package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// full returns a Buffer with n bytes of noise and room for room more.
func full(t *testing.T, n, room int) *Buffer {
	t.Helper()
	b := filled(t, n)
	b.MaxLen = n + room
	return b
}

func TestMaxLenWrite(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for _, test := range []struct {
			name  string
			write func(b *Buffer) (int, error)
			room  int
			want  string // what is stored; less than all is an error
			all   bool
		}{
			{"Write that fits", func(b *Buffer) (int, error) { return b.Write([]byte("abc")) }, 3, "abc", true},
			{"Write that does not fit", func(b *Buffer) (int, error) { return b.Write([]byte("abc")) }, 2, "ab", false},
			{"Write without room", func(b *Buffer) (int, error) { return b.Write([]byte("abc")) }, 0, "", false},
			{"Write of nothing", func(b *Buffer) (int, error) { return b.Write(nil) }, 0, "", true},
			{"Write far too much", func(b *Buffer) (int, error) { return b.Write(noise()[:4<<20]) }, 1 << 20, string(noise()[:1<<20]), false},
			{"WriteString that fits", func(b *Buffer) (int, error) { return b.WriteString("abc") }, 3, "abc", true},
			{"WriteString that does not fit", func(b *Buffer) (int, error) { return b.WriteString("abc") }, 2, "ab", false},
			{"WriteString without room", func(b *Buffer) (int, error) { return b.WriteString("abc") }, 0, "", false},
			{"WriteString of nothing", func(b *Buffer) (int, error) { return b.WriteString("") }, 0, "", true},
			{"WriteByte that fits", func(b *Buffer) (int, error) { return 1, b.WriteByte('a') }, 1, "a", true},
			{"WriteByte without room", func(b *Buffer) (int, error) { return 0, b.WriteByte('a') }, 0, "", false},
			{"WriteRune ASCII that fits", func(b *Buffer) (int, error) { return b.WriteRune('a') }, 1, "a", true},
			{"WriteRune ASCII without room", func(b *Buffer) (int, error) { return b.WriteRune('a') }, 0, "", false},
			{"WriteRune of 2 that fits", func(b *Buffer) (int, error) { return b.WriteRune('é') }, 2, "é", true},
			{"WriteRune of 2 that does not fit", func(b *Buffer) (int, error) { return b.WriteRune('é') }, 1, "", false},
			{"WriteRune of 3 that fits", func(b *Buffer) (int, error) { return b.WriteRune('€') }, 3, "€", true},
			{"WriteRune of 3 that does not fit", func(b *Buffer) (int, error) { return b.WriteRune('€') }, 2, "", false},
			{"WriteRune of 4 that fits", func(b *Buffer) (int, error) { return b.WriteRune('😀') }, 4, "😀", true},
			{"WriteRune of 4 that does not fit", func(b *Buffer) (int, error) { return b.WriteRune('😀') }, 3, "", false},
			{"WriteRune invalid that fits", func(b *Buffer) (int, error) { return b.WriteRune(-1) }, 3, "\uFFFD", true},
			{"WriteRune invalid that does not fit", func(b *Buffer) (int, error) { return b.WriteRune(-1) }, 2, "", false},
			{"Fprintf", func(b *Buffer) (int, error) { return fmt.Fprintf(b, "%d", 12345) }, 3, "123", false},
		} {
			t.Run(test.name, func(t *testing.T) {
				for _, spare := range []int{0, 8 << 20} { // MaxLen bounds Len, not Cap
					b := full(t, n, 0)
					b.MaxLen = 0
					b.Grow(spare)
					b.MaxLen = n + test.room
					m, err := test.write(b)
					if test.all {
						require.NoError(t, err)
					} else {
						require.ErrorIs(t, err, ErrTooLarge)
					}
					require.Equal(t, len(test.want), m)
					requireContents(t, b, append(bytes.Clone(noise()[:n]), test.want...))
					b.Close()
				}
			})
		}
	})
}

// loop is a reader without an end; a limit keeps its defects affordable.
var loop = reader(func(p []byte) (int, error) { return copy(p, noise()), nil })

func TestMaxLenReadFrom(t *testing.T) {
	const room = 2000
	fits, more := noise()[:room], noise()[:room+1]
	atSizes(t, func(t *testing.T, n int) {
		for _, test := range []struct {
			name string
			r    io.Reader
			want int // bytes stored
			err  error
		}{
			{"nothing", strings.NewReader(""), 0, nil},
			{"less", bytes.NewReader(fits[:room-1]), room - 1, nil},
			{"as much as fits", bytes.NewReader(fits), room, nil},
			{"as much as fits, one byte at a time", iotest.OneByteReader(bytes.NewReader(fits)), room, nil},
			{"as much as fits, with EOF", iotest.DataErrReader(bytes.NewReader(fits)), room, nil},
			{"as much as fits, then an error", io.MultiReader(bytes.NewReader(fits), iotest.ErrReader(errTest)), room, errTest},
			{"an error first", io.MultiReader(bytes.NewReader(fits[:9]), iotest.ErrReader(errTest)), 9, errTest},
			{"a byte more", bytes.NewReader(more), room, ErrTooLarge},
			{"a byte more, one at a time", iotest.OneByteReader(bytes.NewReader(more)), room, ErrTooLarge},
			{"a byte more, with EOF", iotest.DataErrReader(bytes.NewReader(more)), room, ErrTooLarge},
			{"much more", bytes.NewReader(noise()[:1<<20]), room, ErrTooLarge},
			{"no end", io.MultiReader(bytes.NewReader(fits), io.LimitReader(loop, 100<<20)), room, ErrTooLarge},
		} {
			t.Run(test.name, func(t *testing.T) {
				b := full(t, n, room)
				m, err := b.ReadFrom(test.r)
				if test.err == nil {
					require.NoError(t, err)
				} else {
					require.ErrorIs(t, err, test.err)
				}
				require.EqualValues(t, test.want, m)
				requireContents(t, b, append(bytes.Clone(noise()[:n]), fits[:test.want]...))
				b.Close()
			})
		}

		t.Run("full", func(t *testing.T) {
			b := full(t, n, 0)
			m, err := b.ReadFrom(strings.NewReader(""))
			require.NoError(t, err)
			require.Zero(t, m)
			m, err = b.ReadFrom(strings.NewReader("a"))
			require.ErrorIs(t, err, ErrTooLarge)
			require.Zero(t, m)
			requireContents(t, b, noise()[:n])
		})

		t.Run("io.Copy", func(t *testing.T) {
			b := full(t, n, room)
			m, err := io.Copy(b, bytes.NewReader(more))
			require.ErrorIs(t, err, ErrTooLarge)
			require.EqualValues(t, room, m)
			require.Equal(t, n+room, b.Len())
		})
	})
}

func TestMaxLenGrow(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := full(t, n, 100)
		require.NotPanics(t, func() { b.Grow(100) })
		require.GreaterOrEqual(t, b.Available(), 100)
		err, panicked := caught(func() error { b.Grow(101); return nil })
		require.ErrorIs(t, err, ErrTooLarge)
		require.True(t, panicked)

		require.NoError(t, reserve(b, 100))
		require.ErrorIs(t, reserve(b, 101), ErrTooLarge)
		requireContents(t, b, noise()[:n])
		writeAllOf(t, b, noise()[n:n+100])
		requireContents(t, b, noise()[:n+100])
	})
}

func TestMaxLenWriteAt(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := full(t, n, 10)
		for _, test := range []struct {
			n, off int
			fits   bool
		}{
			{3, 0, true},
			{10, n, true},
			{1, n + 10, false},
			{2, n + 9, false},
			{1, n + 5000, false},
			{n + 11, 0, false},
			{11, n, false},
			{3, n + 7, true},
			{n + 10, 0, true},
		} {
			want := contents(b)
			p := noise()[50:][:test.n]
			m, err := b.WriteAt(p, int64(test.off))
			if test.fits {
				require.NoError(t, err)
				require.Equal(t, test.n, m)
				want = writtenAt(want, p, test.off)
			} else {
				require.ErrorIs(t, err, ErrTooLarge)
				require.Zero(t, m)
			}
			requireContents(t, b, want, "%d bytes at %d", test.n, test.off)
		}
	})
}

// TestMaxLenBelowLen: a bound set too late removes nothing.
func TestMaxLenBelowLen(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := full(t, n, -50)
		requireContents(t, b, noise()[:n])
		for _, write := range []func() (int, error){
			func() (int, error) { return b.Write([]byte("abc")) },
			func() (int, error) { return b.WriteString("abc") },
			func() (int, error) { return 0, b.WriteByte('a') },
			func() (int, error) { return b.WriteRune('é') },
			func() (int, error) { m, err := b.ReadFrom(strings.NewReader("abc")); return int(m), err },
			func() (int, error) { return b.WriteAt([]byte("abc"), int64(n)) },
			func() (int, error) { return 0, reserve(b, 1) },
		} {
			m, err := write()
			require.ErrorIs(t, err, ErrTooLarge)
			require.Zero(t, m)
			requireContents(t, b, noise()[:n])
		}

		b.Next(50) // as much as fits
		require.ErrorIs(t, b.WriteByte('a'), ErrTooLarge)
		b.Next(1)
		require.NoError(t, b.WriteByte('a'))
		require.ErrorIs(t, b.WriteByte('b'), ErrTooLarge)
		require.Equal(t, n-50, b.Len())

		b.MaxLen = 0 // no bound again
		writeAllOf(t, b, "abc")
	})
}

// TestMaxLenOfMaxInt: what has been read and the bound together are more than
// an int holds. Write took that for too large.
func TestMaxLenOfMaxInt(t *testing.T) {
	for _, most := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt/2 + 1} {
		atSizes(t, func(t *testing.T, n int) {
			b := &Buffer{MaxLen: most}
			writeAllOf(t, b, noise()[:n])
			b.Read(make([]byte, 10))
			c := b.Cap()
			for b.Cap() == c {
				writeAllOf(t, b, noise()[:n])
			}
			require.GreaterOrEqual(t, b.Cap(), 2*(c-10), "not doubled")
			require.NoError(t, b.Close())
		})
	}
}

// TestMaxLenConsume: the bound is on what is unread, so a queue runs on.
func TestMaxLenConsume(t *testing.T) {
	for _, n := range []int{1, 10, 3000, 1 << 20} {
		b := full(t, 0, n)
		for i := range 10 {
			writeAllOf(t, b, noise()[i:i+n])
			require.ErrorIs(t, b.WriteByte('x'), ErrTooLarge)
			p := make([]byte, n)
			m, err := b.Read(p)
			require.NoError(t, err)
			require.Equal(t, n, m)
			require.NoError(t, diffBytes(p, noise()[i:i+n]))
		}
		for _, clear := range []func(){b.Reset, func() { b.Truncate(0) }, func() { b.Next(n) }, func() { b.WriteTo(io.Discard) }} {
			writeAllOf(t, b, noise()[:n])
			require.Error(t, b.WriteByte('x'))
			clear()
		}
		writeAllOf(t, b, noise()[:n])
	}
}

// caught runs f. A panic is as good as an error.
func caught(f func() error) (err error, panicked bool) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case error:
			err, panicked = v, true
		default:
			err, panicked = fmt.Errorf("%v", v), true
		}
	}()
	return f(), false
}

var errPanic = errors.New("a panic instead of an error")

// reserve calls b.Reserve, which must not panic.
func reserve(b *Buffer, n int) error {
	err, panicked := caught(func() error { return b.Reserve(n) })
	if panicked {
		return errPanic
	}
	return err
}

// bits returns 1<<n, or the largest int where that is not one.
func bits(n uint) int {
	if n >= strconv.IntSize-1 {
		return math.MaxInt
	}
	return 1 << n
}

// TestBadInput: whatever was asked for in vain, the contents are intact and
// the Buffer goes on working.
func TestBadInput(t *testing.T) {
	const (
		negative = "bytes.Buffer.Grow: negative count"
		outside  = "bytes.Buffer: truncation out of range"
	)
	// More than any address space: there may be 1<<47 elsewhere.
	huge := uint(56)
	if runtime.GOARCH == "amd64" {
		huge = 47
	}
	growth := func(n int) func(b *Buffer) error { return func(b *Buffer) error { b.Grow(n); return nil } }
	truncation := func(n int) func(b *Buffer) error { return func(b *Buffer) error { b.Truncate(n); return nil } }
	reservation := func(n int) func(b *Buffer) error { return func(b *Buffer) error { return b.Reserve(n) } }
	writingAt := func(n int, off int64) func(b *Buffer) error {
		return func(b *Buffer) error { _, err := b.WriteAt(make([]byte, n), off); return err }
	}
	readingAt := func(n int, off int64) func(b *Buffer) error {
		return func(b *Buffer) error { _, err := b.ReadAt(make([]byte, n), off); return err }
	}
	tests := []struct {
		name   string
		do     func(b *Buffer) error
		panics bool
		text   string // if not empty, the error's
		is     error  // if not nil, what the error is
	}{
		{"Grow(-1)", growth(-1), true, negative, nil},
		{"Grow(MinInt)", growth(math.MinInt), true, negative, nil},
		{"Grow(1<<47)", growth(bits(huge)), true, "", ErrTooLarge},
		{"Grow(1<<62)", growth(bits(62)), true, "", ErrTooLarge},
		{"Grow(MaxInt-1)", growth(math.MaxInt - 1), true, "", ErrTooLarge},
		{"Grow(MaxInt)", growth(math.MaxInt), true, ErrTooLarge.Error(), ErrTooLarge},
		{"Truncate(-1)", truncation(-1), true, outside, nil},
		{"Truncate(Len+1)", func(b *Buffer) error { b.Truncate(b.Len() + 1); return nil }, true, outside, nil},
		{"Truncate(MaxInt)", truncation(math.MaxInt), true, outside, nil},
		{"Next(-1)", func(b *Buffer) error { b.Next(-1); return nil }, true, "", nil},
		{"Peek(-1)", func(b *Buffer) error { peek(b, -1); return nil }, true, "", nil},
		{"Reserve(-1)", reservation(-1), false, "", nil},
		{"Reserve(MinInt)", reservation(math.MinInt), false, "", nil},
		{"Reserve(1<<47)", reservation(bits(huge)), false, "", ErrTooLarge},
		{"Reserve(1<<62)", reservation(bits(62)), false, "", ErrTooLarge},
		{"Reserve(MaxInt)", reservation(math.MaxInt), false, "", ErrTooLarge},
		{"ReadAt(-1)", readingAt(1, -1), false, "", nil},
		{"ReadAt(MinInt64)", readingAt(1, math.MinInt64), false, "", nil},
		{"ReadAt of nothing (-1)", readingAt(0, -1), false, "", nil},
		{"ReadAt(MaxInt64)", readingAt(1, math.MaxInt64), false, "EOF", io.EOF},
		{"ReadAt(MaxInt64-1)", readingAt(9, math.MaxInt64-1), false, "EOF", io.EOF},
		{"WriteAt(-1)", writingAt(1, -1), false, "", nil},
		{"WriteAt(MinInt64)", writingAt(1, math.MinInt64), false, "", nil},
		{"WriteAt of nothing (-1)", writingAt(0, -1), false, "", nil},
		{"WriteAt(1<<47)", writingAt(1, int64(bits(huge))), false, "", ErrTooLarge},
		{"WriteAt(1<<62)", writingAt(1, 1<<62), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64)", writingAt(1, math.MaxInt64), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64-1)", writingAt(1, math.MaxInt64-1), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64-1) of 9", writingAt(9, math.MaxInt64-1), false, "", ErrTooLarge},
		{"WriteAt(MaxInt64-100) of 1000", writingAt(1000, math.MaxInt64-100), false, "", ErrTooLarge},
	}
	atSizes(t, func(t *testing.T, n int) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				for _, published := range []bool{false, true} {
					b := filled(t, n)
					b.Read(make([]byte, 10))
					want := noise()[10:n]
					if published {
						b.Bytes()
					}
					err, panicked := caught(func() error { return test.do(b) })
					require.Error(t, err)
					require.Equal(t, test.panics, panicked, "panic: %v", err)
					if test.text != "" {
						require.EqualError(t, err, test.text)
					}
					if test.is != nil {
						require.ErrorIs(t, err, test.is)
					} else {
						require.NotErrorIs(t, err, ErrTooLarge)
					}

					requireContents(t, b, want)
					writeAllOf(t, b, "more")
					requireContents(t, b, append(bytes.Clone(want), "more"...))
					p := make([]byte, n)
					m, err := b.Read(p)
					require.NoError(t, err)
					require.NoError(t, diffBytes(p[:m], append(bytes.Clone(want), "more"...)[:m]))
					b.Close()
				}
			})
		}
	})
}

// TestGrowTooLargeFirst: with nothing to keep, the panic is the same.
func TestGrowTooLargeFirst(t *testing.T) {
	for _, n := range []int{bits(62), math.MaxInt} {
		var b Buffer
		err, panicked := caught(func() error { b.Grow(n); return nil })
		require.ErrorIs(t, err, ErrTooLarge)
		require.True(t, panicked)
		require.ErrorIs(t, reserve(&b, n), ErrTooLarge)
		assert.Zero(t, b.Cap())
		writeAllOf(t, &b, "usable")
		require.Equal(t, "usable", b.String())
	}
}

func TestReserve(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for _, more := range []int{0, 1, 100, 1 << 20, 5 << 20} {
			for _, consumed := range []int{0, n / 2, n} {
				b := filled(t, n)
				b.Read(make([]byte, consumed))
				require.NoError(t, b.Reserve(more))
				require.GreaterOrEqual(t, b.Available(), more)
				require.GreaterOrEqual(t, b.Cap(), b.Len()+more)
				requireContents(t, b, noise()[consumed:n])
				c := b.Cap()
				writeAllOf(t, b, noise()[:more])
				require.Equal(t, c, b.Cap(), "Write(%d) after Reserve", more)
				requireContents(t, b, append(bytes.Clone(noise()[consumed:n]), noise()[:more]...))
				b.Close()
			}
		}
	})
	var b Buffer
	require.NoError(t, b.Reserve(0))
	require.NoError(t, b.Reserve(10))
	require.GreaterOrEqual(t, b.Available(), 10)
	require.Zero(t, b.Len())
}

func TestShrink(t *testing.T) {
	const spare = 64 << 20
	for _, test := range []struct {
		name    string
		n, read int
		view    bool
	}{
		{"never used", 0, 0, false},
		{"small", 100, 0, false},
		{"small, part read", 100, 60, false},
		{"all read", 100, 100, false},
		{"large", 3 << 20, 0, false},
		{"large, part read", 3 << 20, 1<<20 + 1, false},
		{"large, all read", 3 << 20, 3 << 20, false},
		{"published", 3 << 20, 5, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := new(Buffer)
			b.Grow(spare)
			writeAllOf(t, b, noise()[:test.n])
			b.Read(make([]byte, test.read))
			want := noise()[test.read:test.n]
			var view []byte
			if test.view {
				view = b.Bytes()
				b.Grow(spare)
			}
			before := b.Cap()
			b.Shrink()
			requireContents(t, b, want)
			require.LessOrEqual(t, b.Cap(), before/2)
			c := b.Cap()
			b.Shrink()
			require.LessOrEqual(t, b.Cap(), c, "a second Shrink")
			requireContents(t, b, want)

			writeAllOf(t, b, noise()[:2<<20])
			requireContents(t, b, append(bytes.Clone(want), noise()[:2<<20]...))
			require.NoError(t, diffBytes(view, want[:len(view)]), "the view")
			b.Close()
		})
	}
}

// TestShrinkPrefix: what has been read goes too, and cannot be unread.
func TestShrinkPrefix(t *testing.T) {
	b := new(Buffer)
	for range 12 {
		writeAllOf(t, b, noise()[:4<<20])
	}
	b.Next(48<<20 - 100)
	b.ReadRune()
	want := contents(b)
	before := b.Cap()
	b.Shrink()
	require.Less(t, b.Cap(), before/2)
	require.Error(t, b.UnreadRune())
	require.Error(t, b.UnreadByte())
	requireContents(t, b, want)
}

func TestShrinkSlice(t *testing.T) {
	b := NewBuffer(make([]byte, 0, 64<<10))
	writeAllOf(t, b, noise()[:100])
	b.Next(50)
	b.Shrink()
	requireContents(t, b, noise()[50:100])
	if mapThreshold > 64<<10 { // a mapping has a least size
		require.Less(t, b.Cap(), 1<<10)
	}
	b = new(Buffer)
	b.Shrink()
	require.Zero(t, b.Cap())
}

func TestClose(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for _, published := range []bool{false, true} {
			b := filled(t, n)
			b.ReadByte()
			var view []byte
			if published {
				view = b.Bytes()
			}
			for range 3 {
				require.NoError(t, b.Close())
				require.Zero(t, b.Len())
				require.Zero(t, b.Cap())
				require.Zero(t, b.Available())
				require.Empty(t, b.String())
				require.Empty(t, b.Bytes())
				require.Error(t, b.UnreadByte())
				_, err := b.ReadByte()
				require.Equal(t, io.EOF, err)
				require.NoError(t, b.Close(), "idempotent")

				writeAllOf(t, b, noise()[5:n])
				requireContents(t, b, noise()[5:n], "used after Close")
			}
			require.NoError(t, diffBytes(view, noise()[1:][:len(view)]), "the view")
			b.Close()
		}
	})
	require.NoError(t, new(Buffer).Close())
	require.NoError(t, NewBufferString("abc").Close())
}

// TestNoHugePages: only the pages differ.
func TestNoHugePages(t *testing.T) {
	b := &Buffer{NoHugePages: true}
	for i := range 10 {
		writeAllOf(t, b, noise()[i<<19:(i+1)<<19])
	}
	requireContents(t, b, noise()[:10<<19])
	require.NoError(t, diffBytes(b.Bytes(), noise()[:10<<19]))
	require.NoError(t, b.Close())
}
