// Command memlimit keeps a program within a limit for all of its memory, Go heap and
// mappings together.
//
//	go -C examples run ./memlimit
//
// GOMEMLIMIT limits what the Go runtime manages, which does not include the mappings
// of mmapbuf. The package starts collections by the sum of both, which for most
// programs is enough. Memlimit bounds the heap strictly: it lowers that limit by what is
// mapped, so the collector runs more often while much is mapped, and mmapbuf keeps less
// idle memory.
package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"runtime/debug"
	"time"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := demonstrate(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "memlimit:", err)
		os.Exit(1)
	}
}

const total = 1 << 30

func demonstrate(ctx context.Context, w io.Writer) error {
	const every = 50 * time.Millisecond // in a real program a second is enough
	go share(ctx, total, every)

	var b mmapbuf.Buffer
	for range 4 {
		if _, err := b.Write(make([]byte, 100<<20)); err != nil {
			return err
		}
		printLimit(w)
	}
	if err := b.Close(); err != nil {
		return err
	}
	printLimit(w)
	return nil
}

// printLimit waits until share has set the limit for what is mapped now.
func printLimit(w io.Writer) {
	mapped := mappedBytes()
	for debug.SetMemoryLimit(-1) != limit(total, mapped) {
		time.Sleep(time.Millisecond)
		mapped = mappedBytes()
	}
	fmt.Fprintf(w, "mapped %4d MiB, left for Go %4d MiB\n", mapped>>20, debug.SetMemoryLimit(-1)>>20)
}

// share sets the limit of the Go runtime to what mappings leave of total bytes, at
// intervals until ctx is done. Mappings count with their spare capacity, which uses
// no memory yet, so the sum stays below total.
func share(ctx context.Context, total int64, every time.Duration) {
	for {
		debug.SetMemoryLimit(limit(total, mappedBytes()))
		select {
		case <-ctx.Done():
			debug.SetMemoryLimit(math.MaxInt64)
			return
		case <-time.After(every):
		}
	}
}

// mappedBytes returns the size of all mappings, those that are idle included.
func mappedBytes() int64 {
	s := mmapbuf.ReadStats()
	return s.MappedBytes + s.IdleBytes
}

// limit leaves at least a tenth of total to Go. With less, the collector would
// run all the time.
func limit(total, mapped int64) int64 { return max(total-mapped, total/10) }
