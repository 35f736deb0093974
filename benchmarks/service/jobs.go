package main

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"sync"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// openJobs returns workers for the workloads service and loop. Each job fills a
// buffer and ends as the mode says.
func openJobs(j job) (workers []worker, err error) {
	data := measure.Noise(int64(j.Write))
	pool := &sync.Pool{New: func() any { return newBuffer(j.Implementation) }}
	for g := range j.Goroutines {
		buffers := supply{mode: j.Mode, implementation: j.Implementation, pool: pool}
		random := rand.New(rand.NewPCG(1, uint64(g))) // each implementation gets the same sizes
		workers = append(workers, worker{round: func() (int64, error) {
			size := int(float64(j.Min) * math.Pow(float64(j.Max)/float64(j.Min), random.Float64()))
			b := buffers.take()
			if err := write(b, size, data); err != nil {
				return 0, err
			}
			if j.Mode == "viewed" {
				return int64(size), look(b.Bytes(), size, data)
			}
			var to io.Writer = io.Discard
			if j.Mode == "written" {
				to = ownWriter{}
			}
			n, err := b.WriteTo(to)
			if err == nil && n != int64(size) {
				err = fmt.Errorf("the buffer held %d bytes of %d", n, size)
			}
			return n, errors.Join(err, buffers.release(b))
		}})
	}
	return workers, nil
}

// write writes n bytes to w: data, again and again.
func write(w io.Writer, n int, data []byte) error {
	for ; n > 0; n -= len(data) {
		if _, err := w.Write(data[:min(len(data), n)]); err != nil {
			return err
		}
	}
	return nil
}

// look compares a few bytes of a view with data, which was written again and again.
func look(view []byte, size int, data []byte) error {
	if len(view) != size {
		return fmt.Errorf("the view has %d bytes of %d", len(view), size)
	}
	for _, i := range []int{0, size / 2, size - 1} {
		if view[i] != data[i%len(data)] {
			return fmt.Errorf("byte %d of %d is not what was written", i, size)
		}
	}
	return nil
}

// An ownWriter discards what it gets, as io.Discard does, but is a type that no
// buffer knows.
type ownWriter struct{}

func (ownWriter) Write(p []byte) (int, error) { return len(p), nil }

// A supply provides a goroutine with buffers as the mode says.
type supply struct {
	mode, implementation string
	pool                 *sync.Pool // shared by all goroutines
	kept                 buffer     // in mode reset
}

func (s *supply) take() buffer {
	switch {
	case s.mode == "pooled" && !hasPool(s.implementation):
		return s.pool.Get().(buffer)
	case s.mode == "reset" && s.kept != nil:
		return s.kept
	}
	return newBuffer(s.implementation)
}

func (s *supply) release(b buffer) error {
	switch {
	case s.mode == "closed" || s.mode == "written" || s.mode == "pooled" && hasPool(s.implementation):
		return b.Close()
	case s.mode == "pooled":
		b.Reset()
		s.pool.Put(b)
	case s.mode == "reset":
		b.Reset()
		s.kept = b
	}
	return nil // in the other modes the collector frees the buffer
}
