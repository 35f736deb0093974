// Pipeline passes data through a queue of which the consumer falls behind and
// catches up again, and draws how much memory the queue takes up meanwhile.
//
//	go -C benchmarks run ./pipeline
//	go -C benchmarks run ./pipeline -backlog 2GiB -runs 1 -out /tmp
//
// The queue is a bytes.Buffer and an mmapbuf.Buffer in turn, each time in a
// process of its own. Producer and consumer take turns in one goroutine, for
// neither buffer is safe for concurrent use. The picture is written as
// pipeline.svg and pipeline.png.
//
// Relative names are looked up from benchmarks/, where -C puts the program.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

func main() {
	measure.Serve(serve)
	command.Main("pipeline", run)
}

// A job tells a child what to do.
type job struct {
	Backlog int64
	Block   int64
	Buffer  string
}

// An outcome is what a child reports.
type outcome struct {
	measure.Figures
	Samples []sample
}

// serve is the child.
func serve(j job) (outcome, error) {
	var (
		samples []sample
		elapsed time.Duration
	)
	figures, err := buffers.Measure(j.Buffer, measure.PeakFactor*j.Backlog, func(b buffers.Buffer) error {
		base, began := system.Resident(), time.Now()
		var err error
		samples, err = pass(context.Background(), b, j.Backlog, j.Block, base)
		elapsed = time.Since(began)
		// Garbage of the heap is given back sooner or later: what is left then
		// is the last sample.
		debug.FreeOSMemory()
		samples = append(samples, newSample(samples[len(samples)-1].Moved, b, base))
		return err
	})
	figures.Elapsed, figures.Size = elapsed, passed(j.Backlog)
	return outcome{figures, samples}, err
}

// run is the program but for the exit status.
func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.out, 0o777); err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	if err := measure.Fits(fmt.Sprintf("-backlog %v", cfg.backlog), int64(cfg.backlog)); err != nil {
		return err
	}
	outcomes, err := measure.InTurn(ctx, buffers.Names, cfg.runs, func(ctx context.Context, i int) (got outcome, err error) {
		_, err = measure.Run(ctx, job{int64(cfg.backlog), int64(cfg.block), buffers.Names[i]}, &got)
		return got, err
	})
	if err != nil {
		return err
	}

	var rows []measure.Row
	var lines []outcome
	for i, runs := range outcomes {
		row := measure.Row{Work: fmt.Sprintf("backlog of %v", cfg.backlog), Implementation: buffers.Names[i]}
		for _, o := range runs {
			row.Runs = append(row.Runs, o.Figures)
		}
		rows = append(rows, row)
		lines = append(lines, measure.Median(runs, func(o outcome) time.Duration { return o.Elapsed }))
	}
	work := fmt.Sprintf("a queue that grows to %v, runs empty, and does so again to half as much, in blocks of %v", cfg.backlog, cfg.block)
	note := "The size is that of all that has passed through the queue."
	for i, o := range lines {
		if end := o.Samples[len(o.Samples)-1]; o.Peak > 0 {
			note += fmt.Sprintf("\nThe empty queue still holds %v of memory, garbage aside: %s.", command.Size(end.Resident), buffers.Names[i])
		}
	}
	if err := measure.Report(os.Stdout, work, cfg.runs, rows, note); err != nil {
		return err
	}
	return drawPicture(os.Stdout, cfg, lines)
}

// A config is what the command line asks for.
type config struct {
	backlog command.Size
	block   command.Size
	runs    int
	out     string
}

// parse reads the command line.
func parse(args []string) (config, error) {
	cfg := config{backlog: 512 << 20, block: 64 << 10}
	fs := flag.NewFlagSet("pipeline", flag.ContinueOnError)
	fs.Var(&cfg.backlog, "backlog", "`bytes` that the consumer falls behind at most")
	fs.Var(&cfg.block, "block", "`bytes` that are written or read at a time")
	fs.IntVar(&cfg.runs, "runs", 3, "`number` of runs of each")
	fs.StringVar(&cfg.out, "out", ".", "`directory` for pipeline.svg and pipeline.png")
	if err := command.Parse(fs, args, "pipeline [flags]", "Passes data through a queue that grows and runs empty, and compares time and memory\n"+
		"of bytes.Buffer and mmapbuf.Buffer."); err != nil {
		return cfg, err
	}
	switch {
	case fs.NArg() > 0:
		return cfg, command.Usagef("there are no arguments but flags, not %q", fs.Args())
	case cfg.block < minBlock:
		return cfg, command.Usagef("-block %v: at least %d bytes are needed", cfg.block, minBlock)
	case cfg.backlog < 2*cfg.block:
		return cfg, command.Usagef("-backlog %v is less than two blocks of %v", cfg.backlog, cfg.block)
	case cfg.runs < 1:
		return cfg, command.Usagef("-runs %d: at least one run is needed", cfg.runs)
	case cfg.out == "":
		return cfg, command.Usagef("-out names no directory")
	}
	return cfg, nil
}
