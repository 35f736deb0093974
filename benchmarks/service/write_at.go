package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf"
)

// A target is written to at offsets, like the parts of a download.
type target interface {
	io.WriterAt
	Bytes() []byte
}

// targets are a Buffer and what the AWS SDK has for downloads.
var targets = []string{"aws.WriteAtBuffer", "aws.WriteAtBuffer/GrowthCoeff=2", "aws.WriteAtBuffer/made", "mmapbuf.Buffer"}

func newTarget(name string, size int) target {
	switch slices.Index(targets, name) {
	case 0:
		return types.NewWriteAtBuffer(nil)
	case 1:
		return &types.WriteAtBuffer{GrowthCoeff: 2}
	case 2:
		return types.NewWriteAtBuffer(make([]byte, 0, size))
	}
	return new(mmapbuf.Buffer)
}

// openWriteAt returns a worker that fills an empty target in blocks, in random
// order and with many goroutines.
func openWriteAt(j job) ([]worker, error) {
	order := rand.New(rand.NewPCG(1, 2)).Perm(int(j.Max / blockSize))
	size := len(order) * blockSize
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
		round:   func() (int64, error) { return int64(size), round() },
		between: between,
		peak:    peak,
	}}, errors.Join(err, between())
}

// writeBlocks writes the blocks with these numbers, each with the next goroutine
// that is free. A block begins with its number.
func writeBlocks(w io.WriterAt, order []int) error {
	var next atomic.Int64
	var group errgroup.Group
	for range 64 {
		group.Go(func() error {
			p := make([]byte, blockSize)
			for i := next.Add(1) - 1; i < int64(len(order)); i = next.Add(1) - 1 {
				binary.LittleEndian.PutUint64(p, uint64(order[i]))
				if _, err := w.WriteAt(p, int64(order[i])*blockSize); err != nil {
					return err
				}
			}
			return nil
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
