package measure

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/dustin/go-humanize"
)

// Main runs a command on the arguments of the process. The first interrupt ends
// the context. An error is printed in one line and ends the process with status
// 1; flag.ErrHelp is not an error.
func Main(name string, run func(ctx context.Context, args []string, stdout io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the process at once
	err := run(ctx, os.Args[1:], os.Stdout)
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	os.Exit(1)
}

// Options are what every command has.
type Options struct {
	Runs int
	Out  string // directory for pictures
}

// Parse parses the arguments of a command, which takes so many beside its flags.
// For -h it prints the usage and the flags, and returns flag.ErrHelp.
func (o *Options) Parse(fs *flag.FlagSet, args []string, usage string, most int) error {
	fs.IntVar(&o.Runs, "runs", 3, "`number` of runs of each")
	fs.StringVar(&o.Out, "out", ".", "`directory` for pictures, each as SVG and PNG")
	fs.SetOutput(io.Discard) // Main prints the error
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(os.Stderr)
		fmt.Fprintf(fs.Output(), "usage: %s\n\n", usage)
		fs.PrintDefaults()
	}
	switch {
	case err != nil:
		return err
	case fs.NArg() > most:
		return fmt.Errorf("%d arguments at most, after the flags, not %q", most, fs.Args())
	case o.Runs < 1:
		return fmt.Errorf("-runs %d: at least one run is needed", o.Runs)
	}
	if err := os.MkdirAll(o.Out, 0o777); err != nil {
		return fmt.Errorf("output directory: %w", err)
	}
	return nil
}

// Choose returns those of names that list, separated by commas, has, in the order
// of names.
func Choose(list string, names []string) ([]string, error) {
	wanted := strings.Split(list, ",")
	for i, name := range wanted {
		wanted[i] = strings.TrimSpace(name)
		if !slices.Contains(names, wanted[i]) {
			return nil, fmt.Errorf("%q is none of %s", wanted[i], strings.Join(names, ","))
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !slices.Contains(wanted, name) }), nil
}

// A Size is a flag.Value for a number of bytes: 64MiB, 1.5GB, 1000.
type Size int64

// MaxSize fits an int, and several times of it an int64.
const MaxSize = min(math.MaxInt, 1<<60)

// Set implements flag.Value.
func (s *Size) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		return errors.New("not a number of bytes such as 64MiB, 1.5GB or 1000")
	case n == 0:
		return errors.New("at least one byte is needed")
	case n > MaxSize:
		return fmt.Errorf("more than %v", Size(MaxSize))
	}
	*s = Size(n)
	return nil
}

// String returns s in binary units, with three digits at most.
func (s Size) String() string {
	number, unit, _ := strings.Cut(humanize.IBytesN(uint64(max(s, 0)), 3), " ")
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	return number + " " + unit
}
