// Compare turns results of BenchmarkFill into a table and pictures.
//
// It runs the benchmarks of mmapbuf and those of ./bench, which fill buffers of
// other libraries, in turn and several times, and keeps what they print as
// compare.txt. Medians of that become a Markdown table, and the pictures
// compare-time and compare-memory, each as SVG and PNG. With file names, or -
// for standard input, it reads results that were saved before, and runs nothing.
//
//	go -C benchmarks run ./compare
//	go -C benchmarks run ./compare -short -count 3 -out /tmp
//	go -C benchmarks run ./compare /tmp/compare.txt
//
// Relative names are looked up from benchmarks/, where -C puts the program.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
)

func main() {
	command.Main("compare", run)
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
	files := cfg.files
	if len(files) == 0 {
		files = []string{filepath.Join(cfg.out, "compare.txt")}
		if err := benchmark(ctx, cfg, files[0]); err != nil {
			return err
		}
	}
	data, err := readAll(files, os.Stdin)
	if err != nil {
		return err
	}
	if err := writeReport(os.Stdout, data); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return drawPictures(os.Stdout, cfg.out, data)
}

// A config is what the command line asks for.
type config struct {
	count     int
	short     bool
	bench     string
	benchTime string
	out       string
	files     []string // nil: run the benchmarks
}

// parse reads the command line.
func parse(args []string) (config, error) {
	var cfg config
	fs := flag.NewFlagSet("compare", flag.ContinueOnError)
	fs.IntVar(&cfg.count, "count", 5, "`number` of runs of each benchmark")
	fs.BoolVar(&cfg.short, "short", false, "leave out what takes more than 64 MiB")
	fs.StringVar(&cfg.bench, "bench", "Fill", "run the benchmarks that match `regexp`, such as Fill/size=64MiB")
	// One iteration would be enough for a gigabyte, but not for 64 KiB.
	fs.StringVar(&cfg.benchTime, "benchtime", "100ms", "run each benchmark for this `time`, or so many times (1x)")
	fs.StringVar(&cfg.out, "out", ".", "`directory` for compare.txt and the pictures")

	if err := command.Parse(fs, args, "compare [flags] [file ... | -]", "Runs the benchmarks that fill a buffer, or reads what they printed before from\n"+
		"files or standard input (-), and compares time and memory."); err != nil {
		return cfg, err
	}

	cfg.files = fs.Args()
	forRuns := ""
	fs.Visit(func(f *flag.Flag) {
		if f.Name != "out" {
			forRuns = f.Name
		}
	})
	switch {
	case len(cfg.files) > 0 && forRuns != "":
		return cfg, command.Usagef("-%s is for running benchmarks, which is not done when there is a file", forRuns)
	case slices.Contains(cfg.files, ""):
		return cfg, command.Usagef("a file name is empty")
	case cfg.count < 1:
		return cfg, command.Usagef("-count %d: at least one run is needed", cfg.count)
	case cfg.out == "":
		return cfg, command.Usagef("-out names no directory")
	}
	if _, err := regexp.Compile(cfg.bench); err != nil {
		return cfg, command.Usagef("-bench: %w", err)
	}
	return cfg, nil
}
