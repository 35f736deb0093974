package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

// The modules whose benchmarks are run, and where in them they are.
const (
	rootModule     = "github.com/mmapbuf/mmapbuf"
	examplesModule = rootModule + "/examples"
	othersPackage  = examplesModule + "/bench"
)

// benchmark runs the benchmarks and saves what they print as file name. The two
// packages take turns, so that a machine that slows down or speeds up meanwhile
// does so for both.
func benchmark(ctx context.Context, cfg config, name string) (err error) {
	root, examples, err := modules(ctx)
	if err != nil {
		return err
	}
	saved, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, saved.Close()) }()
	if _, err := fmt.Fprintf(saved, "%s: %s\n", machineKey, system.Machine(system.Root)); err != nil {
		return err
	}

	bar := command.Progress(2*cfg.count, 20)
	// Nothing is lost when the bar cannot be drawn: its errors are dropped.
	defer func() { _ = bar.Clear() }()

	for range cfg.count {
		for _, at := range []struct{ dir, pkg string }{{root, rootModule}, {examples, othersPackage}} {
			bar.Describe(at.pkg)
			if err := goTest(ctx, cfg, at.dir, at.pkg, saved, bar); err != nil {
				return fmt.Errorf("benchmarks of %s: %w", at.pkg, err)
			}
			_ = bar.Add(1)
		}
	}
	return nil
}

// modules returns the directories of the modules, which are known to the go
// command anywhere inside benchmarks/.
func modules(ctx context.Context) (root, examples string, err error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", rootModule, examplesModule)
	out, err := cmd.Output()
	dirs := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return "", "", fmt.Errorf("looking for the benchmarks, which are found from benchmarks/: %w", err)
	} else if len(dirs) != 2 {
		return "", "", fmt.Errorf("looking for the benchmarks, which are found from benchmarks/: not in %q", dirs)
	}
	return dirs[0], dirs[1], nil
}

// goTest runs the benchmarks of pkg, from directory dir, once. It copies what
// they print to w and shows on bar how far they are.
func goTest(ctx context.Context, cfg config, dir, pkg string, w io.Writer, bar *progressbar.ProgressBar) error {
	args := []string{"test", "-run", "^$", "-bench", cfg.bench, "-benchtime", cfg.benchTime, "-count", "1", "-timeout", "0"}
	if cfg.short {
		args = append(args, "-short")
	}
	cmd := exec.CommandContext(ctx, "go", append(args, pkg)...)
	cmd.Dir = dir
	// The go command hands an interrupt on to the test, but not a kill.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}

	said := ""
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		line := lines.Text()
		if _, err = fmt.Fprintln(w, line); err != nil {
			break
		}
		if result, _, ok := strings.Cut(line, "-"); ok && strings.HasPrefix(line, "Benchmark") {
			bar.Describe(result)
		} else if said == "" && wrong(line) {
			said = line
		}
	}
	if err != nil {
		_ = cmd.Cancel()
	}
	_, _ = io.Copy(io.Discard, stdout)
	if err := errors.Join(err, lines.Err()); err != nil {
		_ = cmd.Wait()
		return err
	}
	if err := cmd.Wait(); err != nil {
		// One line has to do: what the go command says of a package that does
		// not build, or the test of what went wrong.
		for line := range strings.Lines(stderr.String()) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				said = line
				break
			}
		}
		if said != "" {
			return fmt.Errorf("%w: %s", err, said)
		}
		return err
	}
	return nil
}

// wrong reports whether a line of a test says what went wrong.
func wrong(line string) bool {
	for _, start := range []string{"--- FAIL", "panic:", "fatal error:", "testing:", "invalid value"} {
		if strings.HasPrefix(line, start) {
			return true
		}
	}
	return false
}
