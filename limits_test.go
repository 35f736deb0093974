package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

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

// TestMaxLenCountsUnreadBytes: the bound is on what is unread, so a queue runs on.
func TestMaxLenCountsUnreadBytes(t *testing.T) {
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
