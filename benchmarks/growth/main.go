// Command growth compares ways to collect bytes whose number is not known
// beforehand: bytes.Buffer, append and mmapbuf.Buffer. Beside them it shows two that
// are told the number: a slice of the right size, and a bare mapping of the right size,
// which is the least work possible.
//
// Each of them takes the same data in writes of the same size, several times in
// turn and each time in a process of its own. Growth prints tables of memory and time.
//
//	go -C benchmarks run ./growth
//	go -C benchmarks run ./growth -size 1GiB -runs 3
//	go -C benchmarks run ./growth -size 8GiB -implementations make,mmapbuf.Buffer
//	go -C benchmarks run ./growth -thp always,madvise  # as root
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

func main() {
	measure.Serve(fill)
	measure.Main("growth", run)
}

// run is the program except for the exit status.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	for _, kind := range cfg.chosen() {
		if err := measure.Fits(fmt.Sprintf("%v with %s", cfg.size, kind.Name), cfg.memory(kind)); err != nil {
			return fmt.Errorf("%w: choose a smaller -size, or -implementations make,mmapbuf.Buffer", err)
		}
	}
	if cfg.hugePages == nil {
		results, err := compare(ctx, cfg)
		if err != nil {
			return err
		}
		return writeReport(stdout, cfg, results)
	}
	for _, setting := range cfg.hugePages {
		var results []result
		err := measure.WithHugePages(setting, func() (err error) {
			results, err = compare(ctx, cfg)
			return err
		})
		if err != nil {
			return err
		}
		if err := writeReport(stdout, cfg, results); err != nil {
			return err
		}
	}
	return nil
}

// compare does all runs.
func compare(ctx context.Context, cfg config) (results []result, err error) {
	kinds := cfg.chosen()
	var warm float64 // the same for all: none gets memory that another had to touch first
	for _, kind := range kinds {
		if !cfg.cold {
			warm = max(warm, cfg.memory(kind))
		}
	}
	outcomes, err := measure.InTurn(ctx, cfg.Implementations, cfg.Runs, func(ctx context.Context, i int) (outcome, error) {
		return measure.Run[outcome](ctx, job{kinds[i].Name, int64(cfg.size), int64(cfg.write), int64(warm)})
	})
	if err != nil {
		return nil, err
	}
	for i, runs := range outcomes {
		results = append(results, result{kinds[i], runs})
	}
	return results, nil
}

// A config is what the command line asks for.
type config struct {
	measure.Options
	size, write measure.Size
	cold        bool     // do not warm up
	hugePages   []string // settings to compare under; nil: that of the system
}

// chosen returns the kinds to run.
func (cfg config) chosen() (kinds []buffers.Kind) {
	for _, kind := range buffers.Kinds {
		if slices.Contains(cfg.Implementations, kind.Name) {
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// memory returns how many bytes a run may need.
func (cfg config) memory(kind buffers.Kind) float64 { return float64(cfg.size) * kind.Peak }

func parse(args []string) (config, error) {
	// With these, all takes about ten seconds on two cores.
	cfg := config{Options: measure.Options{Runs: 5}, size: 128 << 20, write: 64 << 10}
	fs := flag.NewFlagSet("growth", flag.ContinueOnError)
	fs.Var(&cfg.size, "size", "`bytes` to grow to")
	fs.Var(&cfg.write, "write", "`bytes` in a single write")
	fs.BoolVar(&cfg.cold, "cold", false, "do not touch memory before each run; a virtual machine may then have to get it from its host")
	thp := fs.String("thp", "", "`settings` of transparent huge pages, separated by commas: always,madvise,never.\n"+
		"All runs are done with each. This changes the whole system, and requires root. The setting\n"+
		"is restored, also at an interrupt but not at SIGKILL (default: no change)")
	err := cfg.Parse(fs, args, "Fills buffers and compares memory and time.", func() (names []string) {
		for _, kind := range buffers.Kinds {
			names = append(names, kind.Name)
		}
		return names
	})
	if err != nil {
		return cfg, err
	}
	cfg.write = min(cfg.write, cfg.size)
	if *thp != "" {
		if cfg.hugePages, err = measure.Choose(*thp, []string{"always", "madvise", "never"}); err != nil {
			return cfg, fmt.Errorf("-thp: %w", err)
		}
	}
	return cfg, nil
}
