// Memlimit keeps a program within a limit for all of its memory, Go heap and
// mappings together.
//
//	go -C examples run ./memlimit
//
// GOMEMLIMIT bounds what the Go runtime manages. Mappings of mmapbuf are
// outside of it, so the limit has to make room for them as they come and go:
// the collector then works harder while much is mapped, and the sum stays.
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
	const every = 50 * time.Millisecond // a second is often enough for a real program
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

// printLimit waits until share has come round to what is mapped now.
func printLimit(w io.Writer) {
	mapped := mmapbuf.ReadStats().MappedBytes
	for debug.SetMemoryLimit(-1) != limit(total, mapped) {
		time.Sleep(time.Millisecond)
	}
	fmt.Fprintf(w, "mapped %4d MiB, left for Go %4d MiB\n", mapped>>20, debug.SetMemoryLimit(-1)>>20)
}

// share sets the limit of the Go runtime to what mappings leave of total bytes,
// again and again until ctx is done. What is mapped counts with its spare
// capacity, which uses no memory yet, so it errs to the safe side.
func share(ctx context.Context, total int64, every time.Duration) {
	for {
		debug.SetMemoryLimit(limit(total, mmapbuf.ReadStats().MappedBytes))
		select {
		case <-ctx.Done():
			debug.SetMemoryLimit(math.MaxInt64)
			return
		case <-time.After(every):
		}
	}
}

// limit leaves Go a tenth of total at least: below, it would do little but
// collect.
func limit(total, mapped int64) int64 { return max(total-mapped, total/10) }
