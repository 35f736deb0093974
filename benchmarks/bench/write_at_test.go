package bench

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"

	"github.com/mmapbuf/mmapbuf"
)

// A target is written to at offsets, as parts of a download come in.
type target interface {
	io.WriterAt
	io.Closer
	Bytes() []byte
}

// sdk is the buffer that the SDK of AWS has for downloads.
type sdk struct{ *manager.WriteAtBuffer }

func (sdk) Close() error { return nil }

// appended writes from the start to the end, whatever the offset says.
type appended struct{ *mmapbuf.Buffer }

func (a appended) WriteAt(p []byte, _ int64) (int, error) { return a.Write(p) }

// A writeAtImpl opens an empty target for n bytes.
type writeAtImpl struct {
	name string
	open func(n int) target
}

var writeAtImpls = []writeAtImpl{
	{"mmapbuf.Buffer", func(int) target { return new(mmapbuf.Buffer) }},
	{"aws.WriteAtBuffer", func(int) target { return sdk{manager.NewWriteAtBuffer(nil)} }},
	{"aws.WriteAtBuffer,made", func(n int) target { return sdk{manager.NewWriteAtBuffer(make([]byte, 0, n))} }},
}

// BenchmarkWriteAt fills an empty target in blocks, with many goroutines in
// random order, and with one from the start to the end, which Write can do too.
func BenchmarkWriteAt(b *testing.B) {
	// What has the default growth of the SDK copies everything for each block
	// that comes in order: a gigabyte would take an hour.
	ordered := []writeAtImpl{
		{"mmapbuf.Buffer,Write", func(int) target { return appended{new(mmapbuf.Buffer)} }},
		writeAtImpls[0],
		writeAtImpls[2],
	}
	for _, step := range []struct {
		name string
		size int
	}{{"64MiB", 64 * miB}, {"1GiB", 1 * giB}} {
		blocks := step.size / len(block{})
		inOrder := make([]int, blocks)
		for i := range inOrder {
			inOrder[i] = i
		}
		for _, way := range []struct {
			goroutines int
			order      []int
			impls      []writeAtImpl
		}{
			{64, rand.New(rand.NewPCG(1, 2)).Perm(blocks), writeAtImpls},
			{1, inOrder, ordered},
		} {
			for _, impl := range way.impls {
				b.Run(fmt.Sprintf("size=%s/goroutines=%d/impl=%s", step.name, way.goroutines, impl.name), func(b *testing.B) {
					benchmarkWriteAt(b, impl, way.order, way.goroutines)
				})
			}
		}
	}
}

func benchmarkWriteAt(b *testing.B, impl writeAtImpl, order []int, goroutines int) {
	size := len(order) * len(block{})
	needBench(b, size)
	b.SetBytes(int64(size))
	checked := false
	for b.Loop() {
		w := impl.open(size)
		if err := writeBlocks(w, order, goroutines); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if !checked {
			if err := checkBlocks(w.Bytes(), len(order)); err != nil {
				b.Fatal(err)
			}
			checked = true
		}
		if err := w.Close(); err != nil {
			b.Fatal(err)
		}
		w = nil
		equalChance(4 * size)
		b.StartTimer()
	}
}

// A block is what is written at a time. It begins with its number.
type block [64 * kiB]byte

// newBlock returns block 0; the others differ in the number.
func newBlock() *block {
	var p block
	copy(p[:], bytes.Repeat([]byte("mmapbuf\n"), len(p)/8))
	p.setNumber(0)
	return &p
}

func (p *block) setNumber(n int) { binary.LittleEndian.PutUint64(p[:], uint64(n)) }

// writeBlocks writes the blocks with the numbers in order, in that order, each
// by the goroutine that is free.
func writeBlocks(w io.WriterAt, order []int, goroutines int) error {
	var (
		next   atomic.Int64
		failed atomic.Pointer[error]
		wg     sync.WaitGroup
	)
	for range goroutines {
		wg.Go(func() {
			p := newBlock()
			for i := next.Add(1) - 1; i < int64(len(order)) && failed.Load() == nil; i = next.Add(1) - 1 {
				p.setNumber(order[i])
				if _, err := w.WriteAt(p[:], int64(order[i])*int64(len(p))); err != nil {
					failed.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

// checkBlocks returns an error unless contents are that many blocks in order.
func checkBlocks(contents []byte, blocks int) error {
	want := newBlock()
	if len(contents) != blocks*len(want) {
		return fmt.Errorf("%d bytes of %d", len(contents), blocks*len(want))
	}
	for i := range blocks {
		want.setNumber(i)
		if !bytes.Equal(contents[i*len(want):(i+1)*len(want)], want[:]) {
			return fmt.Errorf("block %d is not what was written", i)
		}
	}
	return nil
}
