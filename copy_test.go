package mmapbuf

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

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

// TestCopyAfterViewSharesContents behaves as a copy of a bytes.Buffer: both share contents.
func TestCopyAfterViewSharesContents(t *testing.T) {
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
