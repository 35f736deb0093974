package main

import (
	"fmt"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A job tells a child what to do.
type job struct {
	Workload, Mode, Implementation string

	Min, Max   measure.Size // of a buffer
	Write      measure.Size // of a single write
	Live       measure.Size // of objects for the collector to mark
	Goroutines int
	Duration   time.Duration
	Settle     time.Duration // from the last round until the final memory is read
	Dir        string        // with the files to pack or to read
}

// String names the job for progress and errors.
func (j job) String() string {
	return fmt.Sprintf("%s %s, %s, %s", j.Workload, j.Mode, j.size(), j.Implementation)
}

// size prints the size of the buffers.
func (j job) size() string {
	if j.Min == j.Max {
		return j.Max.String()
	}
	return fmt.Sprintf("%v to %v", j.Min, j.Max)
}

// memory returns how many bytes a job may need.
func (j job) memory() float64 {
	return measure.PeakFactor*float64(j.Goroutines)*float64(j.Max) + float64(j.Live)
}

// An outcome is what a child reports.
type outcome struct {
	measure.Figures // Elapsed is from the first round to the last, Size of all rounds

	Rounds          int
	P50, P99, Worst time.Duration // of a round
	Samples         []sample      // of the first round
}

// serve runs in the child and does j.
func serve(j job) (o outcome, err error) {
	i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == j.Workload })
	if err := measure.Warm(int64(j.memory())); err != nil {
		return o, fmt.Errorf("warming up: %w", err)
	}
	live := newTree(int64(j.Live) / int64(unsafe.Sizeof(node{})))
	runtime.GC() // otherwise the next collection is near
	meter := measure.Start()
	workers, err := workloads[i].open(j)
	if err != nil {
		return o, err
	}

	began := time.Now()
	var group errgroup.Group
	times := make([][]time.Duration, len(workers))
	sizes := make([]int64, len(workers))
	for g, w := range workers {
		group.Go(func() (err error) {
			times[g], sizes[g], err = w.repeat(began.Add(j.Duration))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return o, err
	}
	elapsed := time.Since(began)
	o.Figures = meter.Stop()
	o.Elapsed = elapsed
	if samples := workers[0].samples; samples != nil {
		o.Samples = *samples
	}
	if workers[0].peak > 0 {
		o.Peak = workers[0].peak
	}

	// In this time only the runtime and the package do work.
	time.Sleep(j.Settle)
	o.Final = meter.Stop().Final
	runtime.KeepAlive(workers)
	runtime.KeepAlive(live)

	all := slices.Sorted(slices.Values(slices.Concat(times...)))
	o.Rounds = len(all)
	o.P50, o.P99, o.Worst = all[len(all)/2], all[len(all)*99/100], all[len(all)-1]
	for _, n := range sizes {
		o.Size += n
	}
	return o, nil
}

// A node is a small object with pointers.
type node struct {
	left, right *node
	_           [48]byte
}

// newTree returns a tree of n nodes.
func newTree(n int64) *node {
	if n <= 0 {
		return nil
	}
	left := (n - 1) / 2
	return &node{left: newTree(left), right: newTree(n - 1 - left)}
}

// A worker repeats a round in a goroutine of its own.
type worker struct {
	round   func() (n int64, err error) // timed; n is in bytes
	between func() error                // not timed; nil: nothing to do
	peak    int64                       // of a single round; 0: the peak of all rounds counts
	samples *[]sample                   // nil: there are none
}

// repeat does rounds until end, but at least one. It returns the time of each
// round and the bytes of all.
func (w worker) repeat(end time.Time) (times []time.Duration, size int64, err error) {
	for now := time.Now(); len(times) == 0 || now.Before(end); now = time.Now() {
		n, err := w.round()
		if err != nil {
			return nil, 0, err
		}
		times = append(times, time.Since(now))
		size += n
		if w.between != nil {
			if err := w.between(); err != nil {
				return nil, 0, err
			}
		}
	}
	return times, size, nil
}
