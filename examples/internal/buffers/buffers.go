// Package buffers has the buffers that examples compare, all with the same
// methods.
package buffers

import (
	"bytes"
	"fmt"
	"io"

	"github.com/mmapbuf/mmapbuf"
)

// A Buffer is written to, and read as a queue or at random.
type Buffer interface {
	io.Reader
	io.Writer
	io.ReaderAt
	io.Closer
	Len() int
}

// Names are what New knows, first what the others are compared with.
var Names = []string{"bytes.Buffer", "mmapbuf.Buffer"}

// New returns an empty Buffer of that name.
func New(name string) (Buffer, error) {
	switch name {
	case Names[0]:
		return new(std), nil
	case Names[1]:
		return new(mmapbuf.Buffer), nil
	}
	return nil, fmt.Errorf("no buffer is called %q", name)
}

// std is a bytes.Buffer with what it lacks.
type std struct{ bytes.Buffer }

// ReadAt implements io.ReaderAt.
func (b *std) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(b.Bytes()).ReadAt(p, off)
}

// Close leaves the memory to the collector.
func (b *std) Close() error {
	b.Buffer = bytes.Buffer{}
	return nil
}
