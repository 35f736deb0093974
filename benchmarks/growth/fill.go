package main

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"io"
	"slices"
	"time"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// An implementation is one way to collect bytes.
type implementation struct {
	name  string
	peak  int64       // how many times the data may be resident at once
	color color.Color // in the picture
	open  func(size int64) buffer
}

var implementations = []implementation{
	{"append", measure.PeakFactor + 1, chart.Orange, func(int64) buffer { return new(slice) }},
	{"bytes.Buffer", measure.PeakFactor, chart.Vermillion, func(int64) buffer { return new(bytes.Buffer) }},
	{"make", 1, chart.Green, func(n int64) buffer { s := make(slice, 0, n); return &s }},
	{"mmapbuf.Buffer", 1, chart.Blue, func(int64) buffer { return new(mmapbuf.Buffer) }},
}

type buffer interface {
	io.Writer
	Bytes() []byte
}

// A slice is a buffer that grows by append.
type slice []byte

func (s *slice) Bytes() []byte { return *s }

func (s *slice) Write(p []byte) (int, error) {
	*s = append(*s, p...)
	return len(p), nil
}

// A job tells a child what to do.
type job struct {
	Implementation string
	Size, Write    int64
	Warm           int64 // bytes of memory to touch beforehand
}

// An outcome is what a child reports.
type outcome struct {
	// Elapsed is from before the buffer is created until after its last write.
	measure.Figures
	Worst time.Duration // the longest single write

	readings []measure.Reading // added by the parent
}

// fill runs in the child. It does j and checks that the buffer holds the data.
func fill(j job) (got outcome, err error) {
	i := slices.IndexFunc(implementations, func(i implementation) bool { return i.name == j.Implementation })
	data := measure.Noise(j.Write)
	if err := measure.Warm(j.Warm); err != nil {
		return got, fmt.Errorf("warming up: %w", err)
	}
	meter := measure.Start()
	buf := implementations[i].open(j.Size)
	for rest := j.Size; rest > 0; rest -= j.Write {
		start := time.Now()
		if _, err := buf.Write(data[:min(j.Write, rest)]); err != nil {
			return got, err
		}
		got.Worst = max(got.Worst, time.Since(start))
	}
	got.Figures = meter.Stop()
	return got, check(buf.Bytes(), data, j.Size)
}

// check returns an error unless contents are size bytes of data, repeated.
func check(contents, data []byte, size int64) error {
	if int64(len(contents)) != size {
		return fmt.Errorf("the buffer holds %d bytes of %d", len(contents), size)
	}
	for chunk := range slices.Chunk(contents, len(data)) {
		if !bytes.Equal(chunk, data[:len(chunk)]) {
			return errors.New("the buffer does not hold what was written to it")
		}
	}
	return nil
}
