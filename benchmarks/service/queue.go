package main

import (
	"bytes"
	"errors"
	"io"
	"runtime/debug"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// openQueue returns a worker that writes to a queue with a backlog. Between the
// writes, which are timed, it reads as much.
func openQueue(j job) ([]worker, error) {
	q := newFullBuffer(j.Implementation)
	in, out := measure.Noise(blockSize), make([]byte, blockSize)
	for q.Len() < int(j.Max) {
		if _, err := q.Write(in); err != nil {
			return nil, err
		}
	}
	return []worker{{
		round: func() (int64, error) { n, err := q.Write(in); return int64(n), err },
		between: func() error {
			_, err := io.ReadFull(q, out)
			return err
		},
	}}, nil
}

// A sample is one moment in the life of a queue.
type sample struct {
	Moved    int64 // bytes written and read so far
	Backlog  int64 // bytes in the queue
	Resident int64 // memory of the process, less what it held before
}

// openBacklog returns a worker whose queue grows, runs empty, grows half as much
// and runs empty again.
func openBacklog(j job) ([]worker, error) {
	q := newFullBuffer(j.Implementation)
	in, out := measure.Noise(blockSize), make([]byte, blockSize)
	base := measure.Resident()
	var moved int64
	samples, done := new([]sample), false
	add := func() {
		if !done { // only the first round is drawn
			*samples = append(*samples, sample{moved, int64(q.Len()), max(0, measure.Resident()-base)})
		}
	}
	// step moves blocks through the queue.
	step := func(writes, reads int) error {
		for range writes {
			if _, err := q.Write(in); err != nil {
				return err
			}
		}
		for range min(reads, q.Len()/blockSize) {
			if _, err := io.ReadFull(q, out); err != nil {
				return err
			} else if !bytes.Equal(in, out) {
				return errors.New("a block is not what was written")
			}
		}
		moved += int64(writes+reads) * blockSize
		// About 500 samples: some 9 times the backlog is written and read.
		if moved-(*samples)[len(*samples)-1].Moved >= int64(j.Max)/55 {
			add()
		}
		return nil
	}
	round := func() (int64, error) {
		add()
		began := moved
		for _, top := range []int{int(j.Max), int(j.Max) / 2} {
			for q.Len() < top {
				if err := step(2, 1); err != nil {
					return 0, err
				}
			}
			for q.Len() > 0 {
				if err := step(1, 2); err != nil {
					return 0, err
				}
			}
		}
		return (moved - began) / 2, nil
	}
	// The last sample shows what is left once the heap has returned its garbage.
	between := func() error {
		debug.FreeOSMemory()
		add()
		done = true
		return nil
	}
	return []worker{{round: round, between: between, samples: samples}}, nil
}
