package mmapbuf

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"runtime"
	"slices"
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
						if calls++; calls < 8 || calls%97 == 0 || len(left) < piece {
							require.NoError(t, lookSame(name, &got, &want))
						}
						if len(left) == 0 {
							return 0, io.EOF
						}
						n := copy(p, left[:min(piece, len(left))])
						if calls%97 == 1 { // also after p has been written
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

// TestLookAtOnce has goroutines look at a Buffer that nobody changes, and at
// copies of it.
func TestLookAtOnce(t *testing.T) {
	runs := 20
	if testing.Short() {
		runs = 5
	}
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

// TestChangeInsideReader has a Reader call each method that changes the Buffer.
// bytes.Buffer gives no useful contents then, so only what it promises is
// asked: nothing that was delivered afterwards is lost, and the Buffer goes on
// working.
func TestChangeInsideReader(t *testing.T) {
	changes := map[string]func(b *Buffer){
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
	if testing.Short() {
		delete(changes, "Write much")
		delete(changes, "Bytes, Write")
	}
	atBothThresholds(t, func(t *testing.T) {
		for name, change := range changes {
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

// TestGrowNothing: Grow(0) of a zero Buffer allocates nothing.
func TestGrowNothing(t *testing.T) {
	var b Buffer
	b.Grow(0)
	require.NoError(t, b.Reserve(0))
	require.Zero(t, b.Cap())
	require.Nil(t, b.Bytes())
}

type holder struct {
	name string
	b    Buffer
}

// TestMoveByValue moves filled Buffers as Go programs move values, with
// collections and changing stacks in between. Only the newest place is used.
func TestMoveByValue(t *testing.T) {
	filled := func(n int) Buffer {
		var b Buffer
		_, _ = b.Write(noise()[:n])
		return b
	}
	moves := map[string]func(n int) Buffer{
		"returned": func(n int) Buffer { return filled(n) },
		"appended to a slice of structs": func(n int) Buffer {
			var hs []holder
			for range 5 {
				hs = append(hs, holder{"x", filled(n / 5)})
			}
			for i := 1; i < 5; i++ {
				_, _ = hs[i].b.Write(noise()[n/5 : n])
			}
			return slices.Clone(hs)[3].b
		},
		"in a map": func(n int) Buffer {
			m := map[string]holder{}
			for i := range 20 {
				m[fmt.Sprint(i)] = holder{"x", filled(n / 20)}
			}
			m["x"] = holder{"x", filled(n)}
			return m["x"].b
		},
		"through a channel": func(n int) Buffer {
			c := make(chan Buffer)
			go func() { c <- filled(n) }()
			runtime.GC()
			return <-c
		},
		"from the stack to the heap": func(n int) Buffer {
			onStack := filled(n)
			heap := new(Buffer)
			*heap = onStack
			runtime.GC()
			return *heap
		},
		"as an argument, by value": func(n int) Buffer {
			return func(b Buffer) Buffer { _ = b.WriteByte(noise()[n]); b.Truncate(n); return b }(filled(n))
		},
		"after a view": func(n int) Buffer { b := filled(n); b.Bytes(); c := b; return c },
		"after it was lent": func(n int) Buffer {
			b := filled(n)
			_, _ = b.WriteTo(writerFunc(func([]byte) (int, error) { return 0, errTest }))
			return b
		},
	}
	atBothThresholds(t, func(t *testing.T) {
		for name, move := range moves {
			for _, n := range []int{100, 2 << 20, 5 << 20} {
				t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
					done := make(chan error)
					go func() { // a small stack
						b := move(n)
						runtime.GC()
						err := diffBytes([]byte(b.String()), noise()[:n])
						_, _ = b.Write(noise()[n:])
						runtime.GC()
						if err == nil {
							err = diffBytes(b.Bytes(), noise())
						}
						if err == nil {
							err = invariants(&b)
						}
						_ = b.Close()
						done <- err
					}()
					require.NoError(t, <-done)
				})
			}
		}
	})
}

// TestCopyAfterAView behaves as a copy of a bytes.Buffer: both share contents.
func TestCopyAfterAView(t *testing.T) {
	var got Buffer
	var want bytes.Buffer
	_, _ = got.Write(noise())
	want.Write(noise())
	got.Bytes()[0] = 'x'
	want.Bytes()[0] = 'x'
	gotCopy, wantCopy := got, want
	gotCopy.Bytes()[1] = 'y'
	wantCopy.Bytes()[1] = 'y'
	_, _ = got.Read(make([]byte, 1))
	want.Next(1)
	requireContents(t, &got, want.Bytes())
	requireContents(t, &gotCopy, wantCopy.Bytes())
}

// TestOnlyStorageTouchesMemory keeps what a Buffer's memory is used for in
// storage.go, whose functions keep its mapping reachable: elsewhere buf is only
// measured, and mem only in the page layer.
func TestOnlyStorageTouchesMemory(t *testing.T) {
	for _, name := range []string{"at.go", "buffer.go", "collect.go", "file.go", "grow.go", "stats.go"} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, 0)
		require.NoError(t, err)
		measured := make(map[ast.Node]bool)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if fn, ok := n.Fun.(*ast.Ident); ok && (fn.Name == "len" || fn.Name == "cap") {
					measured[n.Args[0]] = true
				}
			case *ast.SelectorExpr:
				if (n.Sel.Name == "buf" || n.Sel.Name == "mem") && !measured[n] && name != "stats.go" {
					t.Errorf("%s uses %s", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}
