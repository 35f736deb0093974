// Archive packs a tree of files into a buffer, as tar, compressed tar and zip,
// reads it back from there, and compares every file with the disk.
//
//	go -C examples run ./archive
//	go -C examples run ./archive -runs 1 -only zip ~/project
//
// A bytes.Buffer and an mmapbuf.Buffer do the same work in turn, each time in a
// process of its own. The zip is read at random: mmapbuf.Buffer is an
// io.ReaderAt, next to bytes.Buffer there is a bytes.Reader. Without a directory
// it is the source of the Go toolchain. Links, devices and the like are left
// out.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/mmapbuf/mmapbuf/examples/internal/buffers"
	"github.com/mmapbuf/mmapbuf/examples/internal/command"
	"github.com/mmapbuf/mmapbuf/examples/internal/measure"
)

func main() {
	measure.Serve(serve)
	command.Main("archive", run)
}

// A job tells a child what to do.
type job struct {
	Dir    string
	Format string
	Buffer string
	Warm   int64 // bytes of memory to touch beforehand
}

// serve is the child.
func serve(j job) (measure.Figures, error) {
	f := formats[slices.IndexFunc(formats, func(f format) bool { return f.name == j.Format })]
	return buffers.Measure(j.Buffer, j.Warm, func(b buffers.Buffer) error {
		return roundTrip(b, f, tree{os.DirFS(j.Dir)})
	})
}

// run is the program but for the exit status.
func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if cfg.dir == "" {
		if cfg.dir, err = goSource(ctx); err != nil {
			return err
		}
	}
	files, size, err := survey(ctx, tree{os.DirFS(cfg.dir)})
	if err != nil {
		return err
	}
	if files == 0 {
		return fmt.Errorf("%s has no files", cfg.dir)
	}
	if err := measure.Fits(cfg.dir, size); err != nil {
		return err
	}
	rows, err := measure.Compare(ctx, cfg.only, buffers.Names, cfg.runs, func(work, implementation string) any {
		return job{Dir: cfg.dir, Format: work, Buffer: implementation, Warm: measure.PeakFactor * size}
	})
	if err != nil {
		return err
	}

	work := fmt.Sprintf("%d files of %s, %v, packed and compared with the disk", files, cfg.dir, command.Size(size))
	return measure.Report(os.Stdout, work, cfg.runs, rows,
		"Packing and unpacking take most of the time, and some of the memory, with any buffer.")
}

// goSource returns where the source of the Go toolchain is.
func goSource(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOROOT, for no directory is named: %w", err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "src"), nil
}

// A config is what the command line asks for.
type config struct {
	runs int
	only []string // names of formats
	dir  string   // "": the source of the Go toolchain
}

// parse reads the command line.
func parse(args []string) (config, error) {
	var cfg config
	for _, f := range formats {
		cfg.only = append(cfg.only, f.name)
	}
	all := cfg.only
	fs := flag.NewFlagSet("archive", flag.ContinueOnError)
	fs.IntVar(&cfg.runs, "runs", 3, "`number` of runs of each")
	fs.Func("only", "`formats` to pack (default "+strings.Join(all, ",")+")", func(list string) error {
		cfg.only = nil
		for _, name := range strings.Split(list, ",") {
			if !slices.Contains(all, name) {
				return fmt.Errorf("%q is none of %s", name, strings.Join(all, ","))
			}
			cfg.only = append(cfg.only, name)
		}
		return nil
	})
	if err := command.Parse(fs, args, "archive [flags] [directory]", "Packs the files of a directory into a buffer, in several formats, and compares\n"+
		"time and memory of bytes.Buffer and mmapbuf.Buffer."); err != nil {
		return cfg, err
	}
	cfg.dir = fs.Arg(0)
	switch {
	case fs.NArg() > 1:
		return cfg, command.Usagef("one directory at most, after the flags, not %q", fs.Args())
	case fs.NArg() == 1 && cfg.dir == "":
		return cfg, command.Usagef("the directory name is empty")
	case cfg.runs < 1:
		return cfg, command.Usagef("-runs %d: at least one run is needed", cfg.runs)
	}
	return cfg, nil
}

// survey reads all files once, so that each run finds them in the cache, and
// returns how many they are and how many bytes.
func survey(ctx context.Context, fsys fs.FS) (files int, size int64, err error) {
	err = eachFile(fsys, func(name string, f fs.File) error {
		n, err := io.Copy(io.Discard, f)
		files++
		size += n
		if err == nil {
			err = ctx.Err()
		}
		return err
	})
	return files, size, err
}
