package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf"
)

// A target is written to at offsets, as parts of a download come in.
type target interface {
	io.WriterAt
	Bytes() []byte
}

// targets are what the SDK of AWS has for downloads, and a Buffer.
var targets = []string{"aws.WriteAtBuffer", "aws.WriteAtBuffer/GrowthCoeff=2", "aws.WriteAtBuffer/made", "mmapbuf.Buffer"}

func newTarget(name string, size int64) target {
	switch name {
	case targets[0]:
		return types.NewWriteAtBuffer(nil)
	case targets[1]:
		return &types.WriteAtBuffer{GrowthCoeff: 2}
	case targets[2]:
		return types.NewWriteAtBuffer(make([]byte, 0, size))
	}
	return new(mmapbuf.Buffer)
}

const blockSize = 64 << 10

// openWriteAt returns a worker that fills an empty target in blocks, in random
// order, by many goroutines.
func openWriteAt(_ context.Context, j job) ([]worker, error) {
	order := rand.New(rand.NewPCG(1, 2)).Perm(int(j.Max / blockSize))
	size := int64(len(order)) * blockSize
	var w target
	round := func() error {
		w = newTarget(j.Implementation, size)
		return writeBlocks(w, order)
	}
	between := func() error {
		err := checkBlocks(w.Bytes(), len(order))
		if c, ok := w.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
		w = nil
		freeMemory()
		return err
	}
	peak, err := peakOf(round)
	return []worker{{
		round:   func() (int64, error) { return size, round() },
		between: between,
		peak:    peak,
	}}, errors.Join(err, between())
}

// writeBlocks writes the blocks with the numbers in order, in that order, each
// by the goroutine that is free. A block begins with its number.
func writeBlocks(w io.WriterAt, order []int) error {
	var next atomic.Int64
	var group errgroup.Group
	for range 64 {
		group.Go(func() error {
			p := make([]byte, blockSize)
			for {
				i := next.Add(1) - 1
				if i >= int64(len(order)) {
					return nil
				}
				binary.LittleEndian.PutUint64(p, uint64(order[i]))
				if _, err := w.WriteAt(p, int64(order[i])*blockSize); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// checkBlocks returns an error unless contents are that many blocks in order.
func checkBlocks(contents []byte, blocks int) error {
	if len(contents) != blocks*blockSize {
		return fmt.Errorf("%d bytes of %d", len(contents), blocks*blockSize)
	}
	for i := range blocks {
		if n := binary.LittleEndian.Uint64(contents[i*blockSize:]); n != uint64(i) {
			return fmt.Errorf("block %d has number %d", i, n)
		}
	}
	return nil
}
