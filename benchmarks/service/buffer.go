package main

import (
	"io"
	"sync"

	"github.com/valyala/bytebufferpool"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
)

// A buffer holds the data of a job.
type buffer interface {
	io.Writer
	io.WriterTo
	io.Closer
	Bytes() []byte
	Reset()
}

const (
	bytePool  = "bytebufferpool"
	chunkList = "64 KiB chunks"
)

// pools reports whether Close of that implementation returns memory to a pool
// of its own, from which the next buffer takes it.
func pools(name string) bool { return name == bytePool || name == chunkList }

// newBuffer returns an empty buffer.
func newBuffer(name string) (buffer, error) {
	switch name {
	case bytePool:
		return pooledBytes{bytebufferpool.Get()}, nil
	case chunkList:
		return new(chunks), nil
	}
	b, err := buffers.New(name)
	if err != nil {
		return nil, err
	}
	return b.(buffer), nil
}

// pooledBytes is a bytebufferpool.ByteBuffer that returns to its pool.
type pooledBytes struct{ *bytebufferpool.ByteBuffer }

// Close implements io.Closer.
func (b pooledBytes) Close() error {
	bytebufferpool.Put(b.ByteBuffer)
	return nil
}

const chunkSize = 64 << 10

var chunkPool = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// chunks is a list of chunks of equal size from a pool.
type chunks struct {
	list []*[chunkSize]byte
	size int
}

// Write implements io.Writer.
func (c *chunks) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		used := c.size % chunkSize
		if used == 0 {
			c.list = append(c.list, chunkPool.Get().(*[chunkSize]byte))
		}
		n := copy(c.list[len(c.list)-1][used:], rest)
		c.size += n
		rest = rest[n:]
	}
	return len(p), nil
}

// WriteTo implements io.WriterTo. The contents stay.
func (c *chunks) WriteTo(w io.Writer) (done int64, err error) {
	for _, chunk := range c.list {
		n, err := w.Write(chunk[:min(chunkSize, int64(c.size)-done)])
		done += int64(n)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Bytes returns a copy, since the contents are not one slice.
func (c *chunks) Bytes() []byte {
	p := make([]byte, 0, len(c.list)*chunkSize)
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

// Close implements io.Closer.
func (c *chunks) Close() error {
	c.Reset()
	return nil
}
