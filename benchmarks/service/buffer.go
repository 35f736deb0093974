package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/valyala/bytebufferpool"

	"github.com/mmapbuf/mmapbuf"
)

// A buffer has the methods that all jobs need.
type buffer interface {
	io.Writer
	io.WriterTo
	io.Closer
	Bytes() []byte
	Reset()
}

// A fullBuffer can also be read, in order and at random.
type fullBuffer interface {
	buffer
	io.Reader
	io.ReaderAt
	io.ReaderFrom
	Len() int
}

const (
	bytePool  = "bytebufferpool"
	chunkList = "64 KiB chunks"
)

var (
	both = []string{"bytes.Buffer", "mmapbuf.Buffer"} // the fullBuffers
	all  = append(both[:2:2], bytePool, chunkList)
)

// hasPool reports whether Close of an implementation returns memory to a pool
// of its own, from which the next buffer takes it.
func hasPool(implementation string) bool {
	return implementation == bytePool || implementation == chunkList
}

// newBuffer returns an empty buffer.
func newBuffer(implementation string) buffer {
	switch implementation {
	case bytePool:
		return pooledBytes{bytebufferpool.Get()}
	case chunkList:
		return new(chunks)
	}
	return newFullBuffer(implementation)
}

func newFullBuffer(implementation string) fullBuffer {
	switch implementation {
	case "bytes.Buffer":
		return new(std)
	case "mmapbuf.Buffer":
		return new(mmapbuf.Buffer)
	}
	panic(fmt.Sprintf("no buffer is called %q", implementation))
}

// std is a bytes.Buffer with the methods that it lacks.
type std struct{ bytes.Buffer }

func (b *std) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(b.Bytes()).ReadAt(p, off)
}

// Close leaves the memory to the collector.
func (b *std) Close() error {
	b.Buffer = bytes.Buffer{}
	return nil
}

// pooledBytes is a bytebufferpool.ByteBuffer that returns to its pool.
type pooledBytes struct{ *bytebufferpool.ByteBuffer }

func (b pooledBytes) Close() error {
	bytebufferpool.Put(b.ByteBuffer)
	return nil
}

var chunkPool = sync.Pool{New: func() any { return new([blockSize]byte) }}

// chunks is a list of chunks of equal size from a pool.
type chunks struct {
	list []*[blockSize]byte
	size int
}

func (c *chunks) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		used := c.size % blockSize
		if used == 0 {
			c.list = append(c.list, chunkPool.Get().(*[blockSize]byte))
		}
		n := copy(c.list[len(c.list)-1][used:], rest)
		c.size += n
		rest = rest[n:]
	}
	return len(p), nil
}

// WriteTo writes the contents and keeps them.
func (c *chunks) WriteTo(w io.Writer) (done int64, err error) {
	for _, chunk := range c.list {
		n, err := w.Write(chunk[:min(blockSize, int64(c.size)-done)])
		done += int64(n)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Bytes returns a copy, since the contents are not one slice.
func (c *chunks) Bytes() []byte {
	p := make([]byte, 0, len(c.list)*blockSize)
	for _, chunk := range c.list {
		p = append(p, chunk[:]...)
	}
	return p[:c.size]
}

// Reset returns the chunks to the pool.
func (c *chunks) Reset() {
	for _, chunk := range c.list {
		chunkPool.Put(chunk)
	}
	*c = chunks{}
}

func (c *chunks) Close() error {
	c.Reset()
	return nil
}
