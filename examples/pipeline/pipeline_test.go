package main

import (
	"bytes"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// The data arrives in order, whatever the sizes of writes and reads.
func TestPipe(t *testing.T) {
	const size = 20 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{}).Read(data)
	for name, test := range map[string]struct {
		write, read int
	}{
		"blocks":                 {64 << 10, 64 << 10},
		"large writes":           {5 << 20, 4 << 10},
		"large reads":            {12345, 3 << 20},
		"odd":                    {7777, 1001},
		"all at once":            {size, size},
		"nearly one by one read": {size / 2, 100},
	} {
		t.Run(name, func(t *testing.T) {
			was := mmapbuf.ReadStats().MappedBytes
			p := newPipe()
			go func() {
				for block := range slices.Chunk(data, test.write) {
					_, _ = p.Write(block)
				}
				p.CloseWrite()
			}()
			var got bytes.Buffer
			_, err := io.CopyBuffer(struct{ io.Writer }{&got}, struct{ io.Reader }{p}, make([]byte, test.read))
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, got.Bytes()))
			p.Close()
			assert.Equal(t, was, mmapbuf.ReadStats().MappedBytes)
		})
	}
	p := newPipe()
	_, err := p.Write(data[:5000])
	require.NoError(t, err)
	p.CloseWrite()
	assert.NoError(t, iotest.TestReader(p, data[:5000]))
}

func TestPipeClosed(t *testing.T) {
	p := newPipe()
	n, err := p.Read(nil)
	assert.Zero(t, n)
	assert.NoError(t, err, "a Read of no bytes does not wait")
	waiting := make(chan error)
	go func() {
		_, err := p.Read(make([]byte, 1))
		waiting <- err
	}()
	time.Sleep(10 * time.Millisecond)
	p.Close()
	assert.ErrorIs(t, <-waiting, io.ErrClosedPipe)
	_, err = p.Write([]byte("x"))
	assert.ErrorIs(t, err, io.ErrClosedPipe)
	p.Close()

	full := newPipe()
	full.buf.MaxLen = 3 << 20
	n, err = full.Write(make([]byte, 4<<20))
	assert.Equal(t, 3<<20, n)
	assert.ErrorIs(t, err, mmapbuf.ErrTooLarge)
	full.CloseWrite()
	rest, err := io.ReadAll(full)
	assert.NoError(t, err)
	assert.Len(t, rest, 3<<20, "what fitted can be read")
	full.Close()
}

func TestRun(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(&out, 32<<20))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	assert.Contains(t, lines[3], "in the pipe   24 MiB")
	assert.Contains(t, lines[len(lines)-1], "in the pipe    0 MiB")
}
