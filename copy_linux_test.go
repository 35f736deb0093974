//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"io"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCopiesBehaveAsBytesBuffer does the same to a Buffer and its copy by value
// as to a bytes.Buffer and its copy, where no mapping is shared.
func TestCopiesBehaveAsBytesBuffer(t *testing.T) {
	const far = 20 * miB
	steps := map[string]func(x, y buffer){
		"write to one":       func(x, y buffer) { _, _ = x.WriteString("abc") },
		"write to the other": func(x, y buffer) { _, _ = y.WriteString("abc") },
		"append to both":     func(x, y buffer) { _, _ = x.WriteString("abc"); _, _ = y.WriteString("12345") },
		"grow":               func(x, y buffer) { x.Grow(far); _, _ = x.WriteString("abc") },
		"grow both":          func(x, y buffer) { x.Grow(far); y.Grow(far); _, _ = x.WriteString("abc"); _, _ = y.WriteString("12") },
		"grow, change":       func(x, y buffer) { x.Grow(far); copy(x.Bytes(), "changed"); x.Next(2) },
		"change":             func(x, y buffer) { copy(x.Bytes(), "changed") },
		"grow, then drop":    func(x, y buffer) { x.Grow(far); x.Reset(); runtime.GC(); _, _ = y.WriteString("abc") },
		"read":               func(x, y buffer) { x.Next(10); _, _ = y.ReadByte() },
		"reset, refill":      func(x, y buffer) { x.Reset(); _, _ = x.WriteString("refilled") },
		"truncate, write":    func(x, y buffer) { x.Truncate(x.Len() / 2); _, _ = x.WriteString("abc") },
		"close":              closeOne,
		"close both":         func(x, y buffer) { closeOne(x, y); closeOne(y, x) },
		"close, write both":  func(x, y buffer) { closeOne(x, y); _, _ = x.WriteString("abc"); _, _ = y.WriteString("12") },
		"close, grow other":  func(x, y buffer) { closeOne(x, y); runtime.GC(); y.Grow(far); _, _ = y.WriteString("12") },
	}
	kinds := map[string]func() (got *Buffer, want *bytes.Buffer){
		"zero": func() (*Buffer, *bytes.Buffer) { return new(Buffer), new(bytes.Buffer) },
		"slice": func() (*Buffer, *bytes.Buffer) {
			got, want := NewBuffer(make([]byte, 0, 100)), bytes.NewBuffer(make([]byte, 0, 100))
			_, _ = got.Write(noise()[:50])
			want.Write(noise()[:50])
			return got, want
		},
		"published": func() (*Buffer, *bytes.Buffer) {
			got, want := new(Buffer), new(bytes.Buffer)
			for _, b := range []buffer{got, want} {
				b.Grow(3*miB + 100)
				_, _ = b.Write(noise()[:3*miB])
				b.Bytes()
			}
			return got, want
		},
	}
	for kind, mk := range kinds {
		for name, step := range steps {
			t.Run(kind+"/"+name, func(t *testing.T) {
				got, want := mk()
				gotCopy, wantCopy := *got, *want
				step(got, &gotCopy)
				step(want, &wantCopy)
				runtime.GC()
				requireContents(t, got, want.Bytes(), "the original")
				requireContents(t, &gotCopy, wantCopy.Bytes(), "the copy")
				require.NoError(t, got.Close())
				require.NoError(t, gotCopy.Close())
			})
		}
	}
}

// closeOne closes x, or does to a bytes.Buffer what comes nearest.
func closeOne(x, _ buffer) {
	switch x := x.(type) {
	case *Buffer:
		_ = x.Close()
	case *bytes.Buffer:
		*x = bytes.Buffer{}
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// TestCopyOfMappingWorksOrPanics uses copies of a Buffer that owns a mapping.
func TestCopyOfMappingWorksOrPanics(t *testing.T) {
	uses := map[string]func(b *Buffer){
		"Write":           func(b *Buffer) { _, _ = b.Write([]byte("x")) },
		"WriteString":     func(b *Buffer) { _, _ = b.WriteString("x") },
		"WriteByte":       func(b *Buffer) { _ = b.WriteByte('x') },
		"WriteRune":       func(b *Buffer) { _, _ = b.WriteRune('€') },
		"ReadFrom":        func(b *Buffer) { _, _ = b.ReadFrom(strings.NewReader("x")) },
		"Grow":            func(b *Buffer) { b.Grow(1) },
		"Reserve":         func(b *Buffer) { _ = b.Reserve(1) },
		"Truncate":        func(b *Buffer) { b.Truncate(1) },
		"Reset":           func(b *Buffer) { b.Reset() },
		"Shrink":          func(b *Buffer) { b.Shrink() },
		"Close":           func(b *Buffer) { _ = b.Close() },
		"Bytes":           func(b *Buffer) { b.Bytes() },
		"Next":            func(b *Buffer) { b.Next(1) },
		"Peek":            func(b *Buffer) { _, _ = b.Peek(1) },
		"AvailableBuffer": func(b *Buffer) { b.AvailableBuffer() },
		"String":          func(b *Buffer) { _ = b.String() },
		"Read":            func(b *Buffer) { _, _ = b.Read(make([]byte, 1)) },
		"ReadByte":        func(b *Buffer) { _, _ = b.ReadByte() },
		"ReadRune":        func(b *Buffer) { _, _, _ = b.ReadRune() },
		"ReadBytes":       func(b *Buffer) { _, _ = b.ReadBytes(0) },
		"ReadString":      func(b *Buffer) { _, _ = b.ReadString(0) },
		"WriteTo":         func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
		// In these, an error is as good as a panic, and does not end the
		// goroutines of others.
		"ReadAt":  func(b *Buffer) { _, err := b.ReadAt(make([]byte, 1), 0); must(err) },
		"WriteAt": func(b *Buffer) { _, err := b.WriteAt([]byte("x"), 0); must(err) },
	}
	// What the original does meanwhile, and whether the copy then still has its
	// storage.
	meanwhile := map[string]struct {
		do   func(b *Buffer)
		live bool
	}{
		"":         {func(b *Buffer) {}, true},
		"viewed":   {func(b *Buffer) { b.Bytes() }, true},
		"appended": {func(b *Buffer) { _ = b.WriteByte('x'); b.Truncate(b.Len() - 1) }, true},
		"moved":    {func(b *Buffer) { b.Grow(512 * miB) }, false},
		"closed":   {func(b *Buffer) { _ = b.Close() }, false},
		"shrunk":   {func(b *Buffer) { b.Grow(64 * miB); b.Shrink() }, false},
		"drained":  {func(b *Buffer) { _, _ = io.CopyN(io.Discard, b, 140*miB) }, false},
	}
	methods := reflect.TypeFor[*Buffer]()
	for i := range methods.NumMethod() {
		switch name := methods.Method(i).Name; name {
		case "Len", "Cap", "Available", "UnreadByte", "UnreadRune": // look at no storage
		default:
			require.Contains(t, uses, name, "a method without a test")
		}
	}
	for name, use := range uses {
		for when, m := range meanwhile {
			t.Run(name+when, func(t *testing.T) {
				n := 3 * miB
				if when == "drained" {
					n = 141 * miB
				}
				b, want := mapped(t, n)
				c := *b
				m.do(b)
				switch {
				case m.live || name == "Close":
					// What a copy of a bytes.Buffer does.
					if name != "Close" {
						require.NoError(t, diffBytes(contents(&c), want))
					}
					if m.live && !slices.Contains([]string{"Close", "Grow", "Shrink", "Reserve"}, name) {
						var o bytes.Buffer
						o.Write(want)
						require.NotPanics(t, func() { use(&c) })
					}
					return
				default:
					require.PanicsWithValue(t, errStale, func() { use(&c) })
				}
				if when == "closed" {
					require.Zero(t, b.Len())
					_, _ = b.Write(want)
				}
				require.True(t, bytes.HasSuffix(want, contents(b)))
			})
		}
	}
}
