package mmapbuf

import (
	"io"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestViewsAlias(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := filled(t, n)
		b.Next(10)
		p := b.Bytes()
		require.True(t, &p[0] == &b.Bytes()[0], "another Bytes")
		q, err := peek(b, 3)
		require.NoError(t, err)
		require.True(t, &p[0] == &q[0], "Peek and Bytes differ")

		copy(p, "bytes")
		c, err := b.ReadByte()
		require.NoError(t, err)
		require.Equal(t, byte('b'), c)
		q, err = peek(b, 4)
		require.NoError(t, err)
		require.Equal(t, "ytes", string(q))
		copy(q, "ou n")
		require.Equal(t, "bou n", string(p[:5]), "a change through Peek")
		require.Equal(t, "ou", string(b.Next(2)))
		p[len(p)-1] = 0
		s := b.String()
		require.Equal(t, byte(0), s[len(s)-1])
		require.Equal(t, " n", s[:2])
	})
}

// TestNextViewLastsUntilWrite: reads leave the view of Next alone.
func TestNextViewLastsUntilWrite(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := filled(t, n)
		view := b.Next(20)
		b.Read(make([]byte, n/2))
		b.ReadByte()
		b.ReadRune()
		b.UnreadByte()
		b.ReadBytes(noise()[n-10])
		b.ReadString(noise()[n-9])
		b.WriteTo(io.Discard)
		b.Read(make([]byte, 1))
		require.Equal(t, noise()[:20], view)
	})
}

// TestViewsSurvive: a view may be kept, whatever becomes of its Buffer.
// Growth beyond Cap leaves it the old storage.
func TestViewsSurvive(t *testing.T) {
	for name, kill := range map[string]func(b *Buffer){
		"unreachable": func(*Buffer) {},
		"Grow": func(b *Buffer) {
			b.Grow(b.Cap() + 1)
			n := b.Len()
			b.Reset()
			b.Write(make([]byte, n))
		},
		"Write": func(b *Buffer) {
			b.Write(make([]byte, b.Cap()))
			b.Write(make([]byte, b.Cap()))
		},
		"Close": func(b *Buffer) {
			b.Close()
			b.Write(make([]byte, 5<<20))
		},
	} {
		t.Run(name, func(t *testing.T) {
			atSizes(t, func(t *testing.T, n int) {
				var views [][]byte
				func() {
					for range 3 {
						b := filled(t, n)
						p, _ := peek(b, n/3)
						views = append(views, p, b.Bytes()[:n/4], b.Next(n/2))
						kill(b)
					}
				}()
				for range 3 {
					runtime.GC() // cleanups run after the first
					b := new(Buffer)
					b.Write(make([]byte, n))
				}
				for _, p := range views {
					require.NoError(t, diffBytes(p, noise()[:len(p)]))
				}
			})
		})
	}
}
