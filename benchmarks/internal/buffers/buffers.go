// Package buffers has the buffers that examples compare, all with the same
// methods.
package buffers

import (
	"bytes"
	"fmt"
	"io"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
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

// Measure measures work on a new Buffer of that name, after it has touched warm
// bytes of memory; see measure.Warm.
func Measure(name string, warm int64, work func(b Buffer) error) (measure.Figures, error) {
	b, err := New(name)
	if err != nil {
		return measure.Figures{}, err
	}
	defer b.Close()
	if err := measure.Warm(warm); err != nil {
		return measure.Figures{}, fmt.Errorf("warming up: %w", err)
	}
	meter := measure.Start()
	err = work(b)
	figures := meter.Stop()
	figures.Size = int64(b.Len())
	return figures, err
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
