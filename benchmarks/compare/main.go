// Compare fills buffers of many libraries and compares time and memory.
//
// It runs BenchmarkFill of mmapbuf and that of this module, in turn and several
// times, and keeps what they print as compare.txt. Medians of that become a
// Markdown table and the pictures compare-time and compare-memory, each as SVG
// and PNG. With file names, or - for standard input, it reads results that were
// saved before, and runs nothing.
//
//	go -C benchmarks run ./compare
//	go -C benchmarks run ./compare -short -count 3 -out /tmp
//	go -C benchmarks run ./compare /tmp/compare.txt
//
// Relative names are looked up from benchmarks/, where -C puts the program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func main() { measure.Main("compare", run) }

// run is the program but for the exit status.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.out, 0o777); err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	if len(cfg.files) == 0 {
		cfg.files = []string{filepath.Join(cfg.out, "compare.txt")}
		if err := benchmark(ctx, cfg, cfg.files[0]); err != nil {
			return err
		}
	}
	data, err := readAll(cfg.files, os.Stdin)
	if err != nil {
		return err
	}
	if err := writeReport(stdout, data); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return drawPictures(stdout, cfg.out, data)
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
	if err := measure.Parse(fs, args, "compare [flags] [file ... | -]\n\nRuns the benchmarks that fill a buffer, or reads what they printed before from files or\n"+
		"standard input (-), and compares time and memory."); err != nil {
		return cfg, err
	}
	cfg.files = fs.Args()
	_, err := regexp.Compile(cfg.bench)
	switch {
	case err != nil:
		return cfg, fmt.Errorf("-bench: %w", err)
	case cfg.count < 1:
		return cfg, fmt.Errorf("-count %d: at least one run is needed", cfg.count)
	case cfg.out == "":
		return cfg, errors.New("-out names no directory")
	}
	return cfg, nil
}

const (
	rootModule = "github.com/mmapbuf/mmapbuf"
	module     = rootModule + "/benchmarks"
)

// benchmark runs the benchmarks and saves what they print as file name. The two
// packages take turns, so that a machine that slows down or speeds up meanwhile
// does so for both.
func benchmark(ctx context.Context, cfg config, name string) (err error) {
	saved, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, saved.Close()) }()
	fmt.Fprintf(saved, "%s: %s\n", machineKey, measure.Machine())
	args := []string{"test", "-p", "1", "-run", "^$", "-bench", cfg.bench, "-benchtime", cfg.benchTime, "-count", "1", "-timeout", "0",
		"-short=" + strconv.FormatBool(cfg.short), rootModule, module}
	_, err = measure.InTurn(ctx, []string{"benchmarks"}, cfg.count, func(ctx context.Context, _ int) (struct{}, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		// The go command hands an interrupt on to the test, but not a kill.
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		cmd.WaitDelay = 10 * time.Second
		cmd.Stdout, cmd.Stderr = saved, os.Stderr
		if err := cmd.Run(); err != nil {
			return struct{}{}, fmt.Errorf("go test: %w; see %s", err, name)
		}
		return struct{}{}, nil
	})
	return err
}
