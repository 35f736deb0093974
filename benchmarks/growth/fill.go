package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

// An implementation is one way to hold bytes that keep arriving.
type implementation struct {
	key  string // for -only
	name string // for the report
	// peak is how many times the payload may be resident at once: old and new
	// array while one is copied to the other, and what the collector has not
	// come round to.
	peak int64
	open func(size int) buffer
}

var implementations = []implementation{
	{"append", "append", 5, func(int) buffer { return new(slice) }},
	{"bytes", "bytes.Buffer", 4, func(int) buffer { return new(bytes.Buffer) }},
	{"make", "make (right size)", 1, func(n int) buffer { s := make(slice, 0, n); return &s }},
	{"mmapbuf", "mmapbuf.Buffer", 1, func(int) buffer { return new(mmapbuf.Buffer) }},
}

// A buffer is what a job fills, and how it is verified.
type buffer interface {
	io.Writer
	io.WriterTo
	Len() int
}

// A slice is a buffer that grows by append.
type slice []byte

func (s *slice) Len() int { return len(*s) }

func (s *slice) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

func (s *slice) WriteTo(w io.Writer) (int64, error) {
	n, err := w.Write(*s)
	return int64(n), err
}

// serve is the child.
func serve(j job) (outcome, error) {
	chosen, err := choose(j.Implementation)
	if err != nil {
		return outcome{}, err
	}
	return fill(chosen[0], j)
}

// fill does j and checks that the buffer holds what was written.
func fill(impl implementation, j job) (got outcome, err error) {
	src, err := openSource(j.Path, j.Size, j.Write)
	if err != nil {
		return got, err
	}
	defer src.close()

	if err := measure.Warm(j.Warm); err != nil {
		return got, fmt.Errorf("warming up: %w", err)
	}
	// Start from a process that holds no more than it needs, and start the
	// peak over with it.
	debug.FreeOSMemory()
	system.ResetPeak()
	got.Base = system.Resident()

	got.Began = time.Now()
	buf := impl.open(int(j.Size))
	got.Elapsed = time.Since(got.Began)
	for {
		chunk, err := src.next()
		if err == io.EOF {
			break
		} else if err != nil {
			return got, err
		}
		start := time.Now()
		_, err = buf.Write(chunk)
		took := time.Since(start)
		got.Elapsed += took
		got.Worst = max(got.Worst, took)
		if err != nil {
			return got, err
		}
	}
	got.Ended = time.Now()
	got.Final = max(0, system.Resident()-got.Base)
	got.Peak = max(0, system.Peak()-got.Base)

	if err := verify(buf, j); err != nil {
		return got, err
	}
	if c, ok := buf.(io.Closer); ok {
		return got, c.Close()
	}
	return got, nil
}

// verify compares what buf holds with the payload, so that nothing is fast by
// being wrong.
func verify(buf buffer, j job) error {
	if int64(buf.Len()) != j.Size {
		return fmt.Errorf("the buffer holds %d bytes of %d", buf.Len(), j.Size)
	}
	sum := newChecksum()
	if n, err := buf.WriteTo(sum); err != nil {
		return fmt.Errorf("reading back: %w", err)
	} else if n != j.Size {
		return fmt.Errorf("reading back: %d bytes of %d", n, j.Size)
	}
	if sum.Sum32() != j.Sum {
		if j.Path != "" {
			return fmt.Errorf("the buffer does not hold what %s did: one of them has changed", j.Path)
		}
		return errors.New("the buffer does not hold what was written to it")
	}
	return nil
}
