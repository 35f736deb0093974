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

// Main calls run with the arguments of the process. The first interrupt ends the
// context, the second the process. Main prints an error in one line and exits with
// status 1.
func Main(name string, run func(ctx context.Context, args []string, stdout io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop)
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

// Options are the flags that every command has.
type Options struct {
	Runs            int
	Implementations []string
}

// Parse parses the arguments of a command, all of which are flags. Runs is the
// default for -runs. Once Parse has read the flags, it asks for the names of the implementations. For -h it prints what the
// command does and its flags, and returns flag.ErrHelp.
func (o *Options) Parse(fs *flag.FlagSet, args []string, about string, names func() []string) error {
	fs.IntVar(&o.Runs, "runs", o.Runs, "`number` of runs of each")
	list := fs.String("implementations", "", "`names` of implementations, separated by commas (default all)")
	fs.SetOutput(io.Discard) // Main prints the error
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(os.Stderr)
		fmt.Fprintf(fs.Output(), "usage: %s [flags]\n\n%s\n\n", fs.Name(), about)
		fs.PrintDefaults()
	}
	switch {
	case err != nil:
		return err
	case fs.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", fs.Arg(0))
	case o.Runs < 1:
		return fmt.Errorf("-runs %d: at least one run is needed", o.Runs)
	}
	if o.Implementations, err = Choose(*list, names()); err != nil {
		return fmt.Errorf("-implementations: %w", err)
	}
	return nil
}

// Choose returns those of names that are in list, which is separated by commas,
// in the order of names. An empty list selects all.
func Choose(list string, names []string) ([]string, error) {
	if list == "" {
		return names, nil
	}
	wanted := strings.Split(list, ",")
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("%q is none of %s", name, strings.Join(names, ","))
		}
	}
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !slices.Contains(wanted, name) }), nil
}

// A Size is a number of bytes, and a flag.Value: 64MiB, 1.5GB, 1000.
type Size int64

// MaxSize fits an int, and several times MaxSize an int64.
const MaxSize = min(math.MaxInt, 1<<60)

// Set implements flag.Value.
func (s *Size) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		return errors.New("not a number of bytes such as 64MiB, 1.5GB or 1000")
	case n == 0 || n > MaxSize:
		return fmt.Errorf("not between 1 B and %v", Size(MaxSize))
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
