package mmapbuf

import (
	"bytes"
	"io"
	"math"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestBadArgumentsChangeNothing: whatever was asked for in vain, the contents are intact and
// the Buffer goes on working.
func TestBadArgumentsChangeNothing(t *testing.T) {
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

// TestGrowTooLargeOfZeroBuffer: with nothing to keep, the panic is the same.
func TestGrowTooLargeOfZeroBuffer(t *testing.T) {
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

// TestShrinkDropsReadPrefix: what has been read goes too, and cannot be unread.
func TestShrinkDropsReadPrefix(t *testing.T) {
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

// TestGrowZeroAllocatesNothing: Grow(0) of a zero Buffer allocates nothing.
func TestGrowZeroAllocatesNothing(t *testing.T) {
	var b Buffer
	b.Grow(0)
	require.NoError(t, b.Reserve(0))
	require.Zero(t, b.Cap())
	require.Nil(t, b.Bytes())
}

// TestUnreadRuneAcrossAPage: growth drops consumed pages, the first byte of the
// rune perhaps among them. It is then not unread at all.
func TestUnreadRuneAcrossAPage(t *testing.T) {
	for back := range 4 {
		var got Buffer
		data := bytes.Repeat([]byte("x"), 2<<20-back)
		data = append(data, "€ and more"...)
		_, _ = got.Write(data)
		_, _ = got.Read(make([]byte, 2<<20-back))
		r, _, err := got.ReadRune()
		require.NoError(t, err)
		require.Equal(t, '€', r)
		got.Grow(64 << 20)
		_ = got.UnreadRune()
		require.Contains(t, []string{" and more", "€ and more"}, got.String())
	}
}
