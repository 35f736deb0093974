package main

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/valyala/bytebufferpool"

	"github.com/mmapbuf/mmapbuf"
)

// A buffer holds the data of a job.
type buffer interface {
	io.Writer
	io.WriterTo
	io.Closer
	Bytes() []byte
	Reset()
}

// A queue is a buffer that is read while it is written. A randomBuffer is one
// that is read at random.
type (
	queue interface {
		io.ReadWriter
		Len() int
	}
	randomBuffer interface {
		buffer
		queue
		io.ReaderAt
	}
)

const (
	bytePool  = "bytebufferpool"
	chunkList = "64 KiB chunks"
)

var (
	both = []string{"bytes.Buffer", "mmapbuf.Buffer"} // these are queues and randomBuffers
	all  = append(both[:2:2], bytePool, chunkList)
)

// pools reports whether Close of that implementation returns memory to a pool
// of its own, from which the next buffer takes it.
func pools(name string) bool { return name == bytePool || name == chunkList }

// newBuffer returns an empty buffer.
func newBuffer(name string) buffer {
	switch name {
	case "bytes.Buffer":
		return new(std)
	case "mmapbuf.Buffer":
		return new(mmapbuf.Buffer)
	case bytePool:
		return pooledBytes{bytebufferpool.Get()}
	case chunkList:
		return new(chunks)
	}
	panic(fmt.Sprintf("no buffer is called %q", name))
}

// std is a bytes.Buffer with what it lacks.
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

const chunkSize = 64 << 10

var chunkPool = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// chunks is a list of chunks of equal size from a pool.
type chunks struct {
	list []*[chunkSize]byte
	size int
}

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

// WriteTo writes the contents, which stay.
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

func (c *chunks) Close() error {
	c.Reset()
	return nil
}

// A supply hands out buffers as a mode says. Each goroutine has its own; they
// share the pool.
type supply struct {
	mode, implementation string
	pool                 *sync.Pool
	kept                 buffer // in mode reset
}

func (s *supply) take() buffer {
	switch {
	case s.mode == "pooled" && !pools(s.implementation):
		return s.pool.Get().(buffer)
	case s.mode == "reset" && s.kept != nil:
		return s.kept
	}
	return newBuffer(s.implementation)
}

func (s *supply) release(b buffer) error {
	switch {
	case s.mode == "closed" || s.mode == "pooled" && pools(s.implementation):
		return b.Close()
	case s.mode == "pooled":
		b.Reset()
		s.pool.Put(b)
	case s.mode == "reset":
		b.Reset()
		s.kept = b
	}
	return nil // the collector frees it
}

// supplies returns one for each goroutine of j.
func supplies(j job) []*supply {
	pool := &sync.Pool{New: func() any { return newBuffer(j.Implementation) }}
	list := make([]*supply, j.Goroutines)
	for i := range list {
		list[i] = &supply{mode: j.Mode, implementation: j.Implementation, pool: pool}
	}
	return list
}
