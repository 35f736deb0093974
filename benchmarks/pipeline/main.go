// Pipeline passes data through a queue whose consumer falls behind and catches
// up again, and draws how much memory the queue takes up meanwhile.
//
//	go -C benchmarks run ./pipeline
//	go -C benchmarks run ./pipeline -backlog 2GiB -runs 1 -out /tmp
//
// The queue is a bytes.Buffer and an mmapbuf.Buffer in turn, each time in a
// process of its own. Producer and consumer take turns in one goroutine. The
// picture is written as pipeline.svg and pipeline.png.
//
// Relative names are looked up from benchmarks/, where -C puts the program.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func main() {
	measure.Serve(serve)
	measure.Main("pipeline", run)
}

var names = []string{"bytes.Buffer", "mmapbuf.Buffer"}

// run is the program but for the exit status.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.out, 0o777); err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	if err := measure.Fits(fmt.Sprintf("-backlog %v", cfg.backlog), measure.PeakFactor*float64(cfg.backlog)); err != nil {
		return err
	}
	outcomes, err := measure.InTurn(ctx, names, cfg.runs, func(ctx context.Context, i int) (outcome, error) {
		got, _, err := measure.Run[outcome](ctx, job{int64(cfg.backlog), int64(cfg.block), i == 1}, nil)
		return got, err
	})
	if err != nil {
		return err
	}

	fmt.Fprintf(stdout, "work: a queue that grows to %v, runs empty, and does so again to half as much, in blocks of %v;\n"+
		"runs of each, in turn: %d\nmachine: %s\n\n", cfg.backlog, cfg.block, cfg.runs, measure.Machine())
	rows := [][]string{{"implementation", "median time", "MB/s", "longest Write", "peak memory", "memory of the empty queue"}}
	var medians []outcome
	for i, runs := range outcomes {
		o := measure.Median(runs, func(o outcome) time.Duration { return o.Elapsed })
		medians = append(medians, o)
		end := o.Samples[len(o.Samples)-1]
		speed := fmt.Sprintf("%.0f", float64(end.Moved)/2e6/o.Elapsed.Seconds())
		left := "n/a"
		if o.Peak > 0 {
			left = measure.Size(end.Resident).String()
		}
		rows = append(rows, []string{names[i], measure.Duration(o.Elapsed), speed, measure.Duration(o.Worst), measure.Memory(o.Peak), left})
	}
	if err := measure.Table(stdout, rows); err != nil {
		return err
	}
	fmt.Fprint(stdout, "\nThe runs with the median times. The memory of the empty queue is without garbage.\n\n")
	return drawPicture(stdout, cfg, medians)
}

// A config is what the command line asks for.
type config struct {
	backlog, block measure.Size
	runs           int
	out            string
}

// parse reads the command line.
func parse(args []string) (config, error) {
	cfg := config{backlog: 512 << 20, block: 64 << 10}
	fs := flag.NewFlagSet("pipeline", flag.ContinueOnError)
	fs.Var(&cfg.backlog, "backlog", "`bytes` that the consumer falls behind at most")
	fs.Var(&cfg.block, "block", "`bytes` that are written or read at a time")
	fs.IntVar(&cfg.runs, "runs", 3, "`number` of runs of each")
	fs.StringVar(&cfg.out, "out", ".", "`directory` for pipeline.svg and pipeline.png")
	if err := measure.Parse(fs, args, "pipeline [flags]\n\nPasses data through a queue that grows and runs empty, and compares time and memory\n"+
		"of bytes.Buffer and mmapbuf.Buffer."); err != nil {
		return cfg, err
	}
	switch {
	case fs.NArg() > 0:
		return cfg, fmt.Errorf("there are no arguments but flags, not %q", fs.Args())
	case cfg.backlog < 2*cfg.block:
		return cfg, fmt.Errorf("-backlog %v is less than two blocks of %v", cfg.backlog, cfg.block)
	case cfg.runs < 1:
		return cfg, fmt.Errorf("-runs %d: at least one run is needed", cfg.runs)
	case cfg.out == "":
		return cfg, errors.New("-out names no directory")
	}
	return cfg, nil
}

// A job tells a child what to do.
type job struct {
	Backlog, Block int64
	Mmapbuf        bool
}

// An outcome is what a child reports.
type outcome struct {
	measure.Figures
	Worst   time.Duration // the longest Write
	Samples []sample
}

// A sample is of some moment in the life of a queue.
type sample struct {
	Moved    int64 // bytes written and read so far
	Backlog  int64 // bytes in the queue
	Resident int64 // memory of the process less what it held before
}

// A queue is read while it is written.
type queue interface {
	io.ReadWriter
	Len() int
}

// serve is the child.
func serve(j job) (o outcome, err error) {
	if err := measure.Warm(measure.PeakFactor * j.Backlog); err != nil {
		return o, fmt.Errorf("warming up: %w", err)
	}
	var q queue = new(bytes.Buffer)
	if j.Mmapbuf {
		q = new(mmapbuf.Buffer)
	}
	meter, base := measure.Start(), measure.Resident()
	add := func(moved int64) {
		o.Samples = append(o.Samples, sample{moved, int64(q.Len()), max(0, measure.Resident()-base)})
	}
	add(0)
	var moved int64
	in, out := bytes.Repeat([]byte("mmapbuf\n"), int(j.Block+7)/8)[:j.Block], make([]byte, j.Block)
	// While the consumer falls behind it reads half of what is written, and while
	// it catches up twice as much.
	for _, level := range []int64{j.Backlog, 0, j.Backlog / 2, 0} {
		rising := level > 0
		for rising == (int64(q.Len()) < level) && int64(q.Len()) != level {
			writes, reads := 1, 2
			if rising {
				writes, reads = 2, 1
			}
			for range writes {
				start := time.Now()
				if _, err := q.Write(in); err != nil {
					return o, err
				}
				o.Worst = max(o.Worst, time.Since(start))
			}
			for range reads {
				if _, err := io.ReadFull(q, out); err != nil {
					return o, err
				} else if !bytes.Equal(in, out) {
					return o, errors.New("a block is not what was written")
				}
			}
			moved += int64(writes+reads) * j.Block
			// About 500 in all: some 9 times the backlog is written and read.
			if moved-o.Samples[len(o.Samples)-1].Moved >= j.Backlog/55 || int64(q.Len()) == level {
				add(moved)
			}
		}
	}
	worst, samples := o.Worst, o.Samples
	o = outcome{meter.Stop(), worst, samples}
	// Garbage of the heap is given back sooner or later: what is left then is the
	// last sample.
	debug.FreeOSMemory()
	add(moved)
	return o, nil
}
