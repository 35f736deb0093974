// Package buffers has the buffers that both commands fill.
package buffers

import (
	"bytes"
	"io"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A Buffer collects bytes. Some are also an io.Closer.
type Buffer interface {
	io.Writer
	Bytes() []byte
	Cap() int
}

// A Kind is one kind of Buffer.
type Kind struct {
	Name string
	Peak float64 // how many times the contents may be resident at once

	// Open returns an empty Buffer. Only the last two kinds use n, which is the
	// number of bytes to come.
	Open func(n int) (Buffer, error)
}

// Kinds begins with the one that the others are compared with.
var Kinds = append([]Kind{
	{"bytes.Buffer", measure.PeakFactor, func(int) (Buffer, error) { return new(bytes.Buffer), nil }},
	{"append", measure.PeakFactor + 1, func(int) (Buffer, error) { return new(slice), nil }},
	{"mmapbuf.Buffer", 1, func(int) (Buffer, error) { return new(mmapbuf.Buffer), nil }},
	{"make", 1, func(n int) (Buffer, error) { s := make(slice, 0, n); return &s, nil }},
}, mappings...)

// A slice is a Buffer that grows by append.
type slice []byte

func (s *slice) Bytes() []byte { return *s }

func (s *slice) Cap() int { return cap(*s) }

func (s *slice) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}
