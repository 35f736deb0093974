package benchmarks

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf"
)

// A target is written to at offsets, as parts of a download come in.
type target interface {
	io.WriterAt
	Bytes() []byte
}

// appended writes from the start to the end, whatever the offset says.
type appended struct{ *mmapbuf.Buffer }

func (a appended) WriteAt(p []byte, _ int64) (int, error) { return a.Write(p) }

// BenchmarkWriteAt fills an empty target in blocks, with many goroutines in
// random order, as the parts of a download come in, and with one goroutine from
// the start to the end, which Write can do too.
func BenchmarkWriteAt(b *testing.B) {
	for _, size := range []int{64 * miB, giB} {
		blocks := size / blockSize
		inOrder := make([]int, blocks)
		for i := range inOrder {
			inOrder[i] = i
		}
		random := rand.New(rand.NewPCG(1, 2)).Perm(blocks)
		for _, impl := range []struct {
			name       string
			goroutines int
			order      []int
			open       func() target
		}{
			{"mmapbuf.Buffer", 64, random, func() target { return new(mmapbuf.Buffer) }},
			{"aws.WriteAtBuffer", 64, random, func() target { return types.NewWriteAtBuffer(nil) }},
			{"aws.WriteAtBuffer,GrowthCoeff=2", 64, random, func() target { return &types.WriteAtBuffer{GrowthCoeff: 2} }},
			{"aws.WriteAtBuffer,made", 64, random, func() target { return types.NewWriteAtBuffer(make([]byte, 0, size)) }},
			// The default growth of the SDK copies everything for each block that
			// comes in order: a gigabyte would take an hour.
			{"mmapbuf.Buffer,Write", 1, inOrder, func() target { return appended{new(mmapbuf.Buffer)} }},
			{"mmapbuf.Buffer", 1, inOrder, func() target { return new(mmapbuf.Buffer) }},
			{"aws.WriteAtBuffer,made", 1, inOrder, func() target { return types.NewWriteAtBuffer(make([]byte, 0, size)) }},
		} {
			b.Run(fmt.Sprintf("size=%s/goroutines=%d/impl=%s", sizeName(size), impl.goroutines, impl.name), func(b *testing.B) {
				needMemory(b, size)
				b.SetBytes(int64(size))
				var peak peakMeter
				for b.Loop() {
					b.StopTimer()
					peak.start()
					b.StartTimer()
					w := impl.open()
					if err := writeBlocks(w, impl.order, impl.goroutines); err != nil {
						b.Fatal(err)
					}
					b.StopTimer()
					peak.stop()
					if err := checkBlocks(w.Bytes(), blocks); err != nil {
						b.Fatal(err)
					}
					if c, ok := w.(io.Closer); ok {
						_ = c.Close()
					}
					w = nil
					equalChance(b, size)
					b.StartTimer()
				}
				peak.report(b)
			})
		}
	}
}

// A block is what is written at a time. It begins with its number.
const blockSize = 64 * kiB

// writeBlocks writes the blocks with the numbers in order, in that order, each
// by the goroutine that is free.
func writeBlocks(w io.WriterAt, order []int, goroutines int) error {
	var next atomic.Int64
	var group errgroup.Group
	for range goroutines {
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
