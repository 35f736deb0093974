package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// looks are the operations that may run at once, and inside of a Reader or
// Writer that is being used. Each returns what it saw.
var looks = map[string]func(b buffer) []byte{
	"Bytes":  func(b buffer) []byte { return b.Bytes() },
	"String": func(b buffer) []byte { return []byte(b.String()) },
	"Peek":   func(b buffer) []byte { p, _ := peek(b, b.Len()/2); return p },
	"Peek, more than there is": func(b buffer) []byte {
		p, err := peek(b, b.Len()+1)
		if err != io.EOF {
			return nil
		}
		return p
	},
	"Len, Cap, Available": func(b buffer) []byte {
		if c, n := b.Cap(), b.Len(); c < n || b.Available() > c {
			return []byte(fmt.Sprint(c, n))
		}
		return nil
	},
	"AvailableBuffer": func(b buffer) []byte {
		n := b.Available()
		return bytes.Repeat([]byte{1}, len(b.AvailableBuffer())+cap(b.AvailableBuffer()[:0:n])-n)
	},
	"ReadAt": func(b buffer) []byte {
		p := make([]byte, b.Len()/3)
		if r, ok := b.(io.ReaderAt); ok {
			_, _ = r.ReadAt(p, int64(len(p)))
			return p
		}
		copy(p, b.Bytes()[len(p):])
		return p
	},
}

// lookSame runs a look on both and compares what they see.
func lookSame(name string, got *Buffer, want *bytes.Buffer) error {
	look := looks[name]
	if err := diffBytes(look(got), look(want)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// TestLookInsideReader has a Reader look at the Buffer that reads from it, as a
// decoder with back references does, or one that shows progress. What it
// delivers must not get lost.
func TestLookInsideReader(t *testing.T) {
	often := byLength(397, 397, 97)
	atBothThresholds(t, func(t *testing.T) {
		for name := range looks {
			for _, piece := range []int{512, 64 << 10, 3 << 20} {
				t.Run(fmt.Sprintf("%s/%d", name, piece), func(t *testing.T) {
					data := noise()
					if testing.Short() {
						data = data[:3<<20]
					}
					var got Buffer
					var want bytes.Buffer
					_, _ = got.Write(data[:5])
					want.Write(data[:5])
					left, calls := data, 0
					n, err := got.ReadFrom(reader(func(p []byte) (int, error) {
						if calls++; calls < 8 || calls%often == 0 || len(left) < piece {
							require.NoError(t, lookSame(name, &got, &want))
						}
						if len(left) == 0 {
							return 0, io.EOF
						}
						n := copy(p, left[:min(piece, len(left))])
						if calls%often == 1 { // also after p has been written
							require.NoError(t, lookSame(name, &got, &want))
						}
						want.Write(left[:n])
						left = left[n:]
						return n, nil
					}))
					require.NoError(t, err)
					require.EqualValues(t, len(data), n)
					requireContents(t, &got, want.Bytes())
					require.NoError(t, invariants(&got))
					require.NoError(t, got.Close())
				})
			}
		}
	})
}

// TestLookInsideWriter has a Writer, and goroutines that it starts, look at the
// Buffer that writes to it.
func TestLookInsideWriter(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for name := range looks {
			for _, err := range []error{nil, errTest} {
				t.Run(fmt.Sprintf("%s/%v", name, err), func(t *testing.T) {
					var got Buffer
					var want bytes.Buffer
					_, _ = got.Write(noise())
					want.Write(noise())
					_, _ = got.Read(make([]byte, 1000))
					want.Next(1000)
					n, gotErr := got.WriteTo(writerFunc(func(p []byte) (int, error) {
						var wg sync.WaitGroup
						for range 4 {
							wg.Go(func() {
								if err := lookSame(name, &got, &want); err != nil {
									panic(err)
								}
							})
						}
						wg.Wait()
						if !bytes.Equal(p, want.Bytes()) {
							panic("what was lent has changed")
						}
						return 3 << 20, err
					}))
					want.Next(3 << 20)
					require.EqualValues(t, 3<<20, n)
					require.Error(t, gotErr)
					requireContents(t, &got, want.Bytes())
					require.NoError(t, invariants(&got))
					require.NoError(t, got.Close())
				})
			}
		}
	})
}

// TestLookConcurrently has goroutines look at a Buffer that nobody changes, and at
// copies of it.
func TestLookConcurrently(t *testing.T) {
	runs := byLength(5, 8, 20)
	atBothThresholds(t, func(t *testing.T) {
		for _, size := range []int{100, 5<<20 + 7} {
			for range runs {
				var got Buffer
				var want bytes.Buffer
				_, _ = got.Write(noise()[:size])
				want.Write(noise()[:size])
				_ = got.WriteByte('x')
				_ = want.WriteByte('x')
				var wg sync.WaitGroup
				errs := make(chan error, 64)
				for range 3 {
					for name := range looks {
						moved := got // a struct in the slice of another goroutine
						wg.Go(func() { errs <- lookSame(name, &got, &want) })
						if size > 1000 {
							wg.Go(func() { errs <- lookSame(name, &moved, &want) })
						}
					}
				}
				wg.Wait()
				close(errs)
				for err := range errs {
					require.NoError(t, err)
				}
				require.NoError(t, invariants(&got))
				_ = got.WriteByte('y')
				_ = want.WriteByte('y')
				requireContents(t, &got, want.Bytes())
				_ = got.Close()
			}
		}
	})
}

// changes are the methods that change a Buffer.
var changes = map[string]func(b *Buffer){
	"Write":        func(b *Buffer) { _, _ = b.Write([]byte("abc")) },
	"Write much":   func(b *Buffer) { _, _ = b.Write(noise()) },
	"WriteString":  func(b *Buffer) { _, _ = b.WriteString("abc") },
	"WriteByte":    func(b *Buffer) { _ = b.WriteByte('x') },
	"WriteRune":    func(b *Buffer) { _, _ = b.WriteRune('€') },
	"ReadFrom":     func(b *Buffer) { _, _ = b.ReadFrom(strings.NewReader("abc")) },
	"Grow":         func(b *Buffer) { b.Grow(64 << 20) },
	"Reserve":      func(b *Buffer) { _ = b.Reserve(64 << 20) },
	"Read":         func(b *Buffer) { _, _ = b.Read(make([]byte, 100)) },
	"ReadByte":     func(b *Buffer) { _, _ = b.ReadByte(); _ = b.UnreadByte() },
	"ReadRune":     func(b *Buffer) { _, _, _ = b.ReadRune(); _ = b.UnreadRune() },
	"ReadBytes":    func(b *Buffer) { _, _ = b.ReadBytes(noise()[50]) },
	"ReadString":   func(b *Buffer) { _, _ = b.ReadString(noise()[50]) },
	"Next":         func(b *Buffer) { b.Next(100) },
	"WriteTo":      func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
	"WriteAt":      func(b *Buffer) { _, _ = b.WriteAt([]byte("abc"), int64(b.Len())) },
	"Truncate":     func(b *Buffer) { b.Truncate(b.Len() / 2) },
	"Reset":        func(b *Buffer) { b.Reset() },
	"Shrink":       func(b *Buffer) { b.Shrink() },
	"Close":        func(b *Buffer) { _ = b.Close() },
	"Bytes, Write": func(b *Buffer) { b.Bytes(); _, _ = b.Write(noise()) },
}

// TestChangeInsideReader has a Reader call each method that changes the Buffer.
// bytes.Buffer gives no useful contents then, so only what it promises is
// asked: nothing that was delivered afterwards is lost, and the Buffer goes on
// working.
func TestChangeInsideReader(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for name, change := range changes {
			if testing.Short() && (name == "Write much" || name == "Bytes, Write") {
				continue
			}
			for _, size := range []int{0, 1000, 3 << 20} {
				t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
					var b Buffer
					_, _ = b.Write(noise()[:size])
					calls := 0
					n, err := b.ReadFrom(reader(func(p []byte) (int, error) {
						change(&b)
						runtime.GC()
						if calls++; calls == 3 {
							return 0, io.EOF
						}
						return copy(p, "delivered"), nil
					}))
					require.NoError(t, err)
					require.EqualValues(t, 18, n)
					require.NoError(t, invariants(&b))
					_, _ = b.Write(noise()[:2<<20])
					require.True(t, bytes.HasSuffix(contents(&b), noise()[:2<<20]))
					require.NoError(t, b.Close())
				})
				t.Run(fmt.Sprintf("Writer/%s/%d", name, size), func(t *testing.T) {
					var b Buffer
					_, _ = b.Write(noise()[:size+10])
					n, err := b.WriteTo(writerFunc(func(p []byte) (int, error) {
						change(&b)
						runtime.GC()
						require.NoError(t, diffBytes(p, noise()[:size+10]))
						return 10, errTest
					}))
					require.Equal(t, errTest, err)
					require.EqualValues(t, 10, n)
					require.NoError(t, invariants(&b))
					_, _ = b.Write(noise()[:2<<20])
					require.True(t, bytes.HasSuffix(contents(&b), noise()[:2<<20]))
					require.NoError(t, b.Close())
				})
			}
		}
	})
}

// TestReadBeyondInsideReader reads more, within a Reader, than there was when
// ReadFrom began, which leaves a bytes.Buffer with a negative length.
func TestReadBeyondInsideReader(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := filled(t, n)
		b.Grow(4 * n)
		left := 0
		if b.m != nil { // nothing that the Reader has written is replaced
			left = n/2 - n/3
		}
		_, err := b.ReadFrom(reader(func(p []byte) (int, error) {
			writeAllOf(t, b, noise()[:n/2])
			_, err := io.CopyN(io.Discard, struct{ io.Reader }{b}, int64(n+n/3))
			require.NoError(t, err)
			return 0, io.EOF
		}))
		require.NoError(t, err)
		require.NoError(t, invariants(b))
		require.Equal(t, left, b.Len())
		for range 3 {
			b.Grow(b.buf.Cap/2 + n)
			writeAllOf(t, b, noise()[:n])
		}
		require.NoError(t, invariants(b))
		require.Equal(t, left+3*n, b.Len())
	})
}
