package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

// A sample is of some moment in the life of a queue.
type sample struct {
	Moved    int64 // bytes written and read so far
	Backlog  int64 // bytes in the queue
	Resident int64 // memory of the process less what it held before; 0: not known
}

// newSample takes a sample of q in a process that held base before.
func newSample(moved int64, q buffers.Buffer, base int64) sample {
	s := sample{Moved: moved, Backlog: int64(q.Len())}
	if base > 0 {
		s.Resident = max(0, system.Resident()-base)
	}
	return s
}

// sampleCount is about how many are taken.
const sampleCount = 500

// levels returns what the backlog grows or falls to, one after the other.
func levels(backlog int64) []int64 { return []int64{backlog, 0, backlog / 2, 0} }

// passed returns about how many bytes pass through the queue. While the
// consumer falls behind it reads half of what is written, and while it catches
// up twice as much.
func passed(backlog int64) int64 {
	var sum, from int64
	for _, to := range levels(backlog) {
		sum += max(2*(to-from), from-to)
		from = to
	}
	return sum
}

// pass passes data through an empty queue q and checks what comes out.
func pass(ctx context.Context, q buffers.Buffer, backlog, block, base int64) ([]sample, error) {
	produced, consumed := newStream(block), newStream(block)
	samples := []sample{{}}
	moved, every := int64(0), 2*passed(backlog)/sampleCount
	for _, level := range levels(backlog) {
		writes, reads := 2, 1
		if level < int64(q.Len()) {
			writes, reads = 1, 2
		}
		for rising := writes > reads; rising == (int64(q.Len()) < level) && int64(q.Len()) != level; {
			if err := ctx.Err(); err != nil {
				return samples, fmt.Errorf("stopped with %v in the queue: %w", command.Size(q.Len()), err)
			}
			for range writes {
				if _, err := q.Write(produced.next()); err != nil {
					return samples, err
				}
			}
			for range reads {
				if err := consumed.check(q); err != nil {
					return samples, err
				}
			}
			moved += int64(writes+reads) * block
			if moved-samples[len(samples)-1].Moved >= every || int64(q.Len()) == level {
				samples = append(samples, newSample(moved, q, base))
			}
		}
	}
	return samples, nil
}

// minBlock has room for the number of a block.
const minBlock = 8

// A stream is an endless sequence of blocks, all different.
type stream struct {
	n     uint64
	block []byte
	buf   []byte // as large, for reading
}

func newStream(block int64) *stream {
	s := &stream{block: make([]byte, block), buf: make([]byte, block)}
	rand.NewChaCha8([32]byte{}).Read(s.block)
	return s
}

// next returns the next block, good until the following call.
func (s *stream) next() []byte {
	s.n++
	binary.LittleEndian.PutUint64(s.block, s.n)
	return s.block
}

// check reads the next block from r.
func (s *stream) check(r io.Reader) error {
	if _, err := io.ReadFull(r, s.buf); err != nil {
		return fmt.Errorf("block %d: %w", s.n+1, err)
	}
	if !bytes.Equal(s.buf, s.next()) {
		return fmt.Errorf("block %d is not what was written", s.n)
	}
	return nil
}
