// Columns writes a Parquet file of a few million rows into a buffer, reads it
// back at random from there, and compares every row.
//
//	go -C examples run ./columns
//	go -C examples run ./columns -rows 20000000 -runs 1
//
// A bytes.Buffer and an mmapbuf.Buffer do the same work in turn, each time in a
// process of its own. A Parquet file is read from its end: mmapbuf.Buffer is an
// io.ReaderAt, next to bytes.Buffer there is a bytes.Reader.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/mmapbuf/mmapbuf/examples/internal/buffers"
	"github.com/mmapbuf/mmapbuf/examples/internal/command"
	"github.com/mmapbuf/mmapbuf/examples/internal/measure"
)

func main() {
	measure.Serve(serve)
	command.Main("columns", run)
}

// A job tells a child what to do.
type job struct {
	Rows   int64
	Buffer string
	Warm   int64 // bytes of memory to touch beforehand
}

// serve is the child.
func serve(j job) (measure.Figures, error) {
	return buffers.Measure(j.Buffer, j.Warm, func(b buffers.Buffer) error {
		if err := write(b, j.Rows); err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		if err := verify(b, j.Rows); err != nil {
			return fmt.Errorf("reading back: %w", err)
		}
		return nil
	})
}

// run is the program but for the exit status.
func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := measure.Fits(fmt.Sprintf("-rows %d", cfg.rows), rowSize*cfg.rows); err != nil {
		return err
	}
	work := fmt.Sprintf("%d rows", cfg.rows)
	rows, err := measure.Compare(ctx, []string{work}, buffers.Names, cfg.runs, func(_, implementation string) any {
		return job{Rows: cfg.rows, Buffer: implementation, Warm: measure.PeakFactor * rowSize * cfg.rows}
	})
	if err != nil {
		return err
	}

	return measure.Report(os.Stdout, fmt.Sprintf("%s of %d columns to a Parquet file and back", work, columns), cfg.runs, rows,
		"The rows of a group that is being written take up memory as well, with any buffer.")
}

// A config is what the command line asks for.
type config struct {
	rows int64
	runs int
}

// maxRows is more than any machine has the memory for.
const maxRows = 1 << 50

// parse reads the command line.
func parse(args []string) (config, error) {
	var cfg config
	fs := flag.NewFlagSet("columns", flag.ContinueOnError)
	fs.Int64Var(&cfg.rows, "rows", 5_000_000, "`number` of rows")
	fs.IntVar(&cfg.runs, "runs", 3, "`number` of runs of each")
	if err := command.Parse(fs, args, "columns [flags]", "Writes a Parquet file into a buffer and reads it back, and compares time and memory\n"+
		"of bytes.Buffer and mmapbuf.Buffer."); err != nil {
		return cfg, err
	}
	switch {
	case fs.NArg() > 0:
		return cfg, command.Usagef("there are no arguments but flags, not %q", fs.Args())
	case cfg.rows < 1 || cfg.rows > maxRows:
		return cfg, command.Usagef("-rows %d: a number from 1 to %d is needed", cfg.rows, int64(maxRows))
	case cfg.runs < 1:
		return cfg, command.Usagef("-runs %d: at least one run is needed", cfg.runs)
	}
	return cfg, nil
}
