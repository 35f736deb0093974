package main

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

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
	Longest time.Duration // of the writes
	Copied  int64         // bytes of contents that were copied because the buffer grew

	HugePages string // the setting of the system at the end
}

// fill runs in the child. It does j and checks that the buffer holds the data.
func fill(j job) (got outcome, err error) {
	i := slices.IndexFunc(buffers.Kinds, func(k buffers.Kind) bool { return k.Name == j.Implementation })
	data := measure.Noise(j.Write)
	if err := measure.Warm(j.Warm); err != nil {
		return got, fmt.Errorf("warming up: %w", err)
	}
	meter := measure.Start()
	buf, err := buffers.Kinds[i].Open(int(j.Size))
	if err != nil {
		return got, err
	}
	capacity, remapped := buf.Cap(), remaps()
	for rest := j.Size; rest > 0; rest -= j.Write {
		start := time.Now()
		if _, err := buf.Write(data[:min(j.Write, rest)]); err != nil {
			return got, err
		}
		got.Longest = max(got.Longest, time.Since(start))
		if c := buf.Cap(); c != capacity {
			capacity = c
			if r := remaps(); r != remapped {
				remapped = r
			} else {
				got.Copied += j.Size - rest
			}
		}
	}
	got.Figures = meter.Stop()
	got.HugePages = measure.HugePages()
	return got, check(buf.Bytes(), data, j.Size)
}

// remaps returns how often a Buffer has grown without a copy.
func remaps() int64 {
	s := mmapbuf.ReadStats()
	return s.GrowsInPlace + s.Moves
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
