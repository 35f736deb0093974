// Package command is what the examples have in common as commands.
package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Main runs the command with that name on the arguments of the process. The
// context ends with the first interrupt. An error is printed in one line, and
// ends the process with status 2 if it is a UsageError, else with 1; but one of
// flag.ErrHelp is none.
func Main(name string, run func(ctx context.Context, args []string) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	err := run(ctx, os.Args[1:])
	if err == nil || errors.Is(err, flag.ErrHelp) {
		return
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted")
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	if errors.As(err, new(UsageError)) {
		os.Exit(2)
	}
	os.Exit(1)
}

// Parse parses the arguments of a command. For -h it prints usage, the text on
// what the command does, and the flags, and returns flag.ErrHelp.
func Parse(fs *flag.FlagSet, args []string, usage, text string) error {
	fs.SetOutput(io.Discard) // Main prints the error, in one line
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fs.SetOutput(os.Stderr)
		fmt.Fprintf(fs.Output(), "usage: %s\n\n%s\n\n", usage, text)
		fs.PrintDefaults()
		return err
	} else if err != nil {
		return Usage(err)
	}
	return nil
}

// A UsageError is a mistake on the command line.
type UsageError struct{ error }

// Unwrap returns what the mistake is.
func (e UsageError) Unwrap() error { return e.error }

// Usage makes err a UsageError.
func Usage(err error) error { return UsageError{err} }

// Usagef returns a UsageError, formatted as by fmt.Errorf.
func Usagef(format string, args ...any) error { return Usage(fmt.Errorf(format, args...)) }

// Progress returns a bar of so many steps on standard error, which is not seen
// where that is no terminal. Nothing is lost when it cannot be drawn: its errors
// may be dropped.
func Progress(steps, width int) *progressbar.ProgressBar {
	return progressbar.NewOptions(steps,
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetVisibility(term.IsTerminal(int(os.Stderr.Fd()))),
		progressbar.OptionSetWidth(width),
		progressbar.OptionShowCount(),
		progressbar.OptionSetPredictTime(false),
		progressbar.OptionClearOnFinish(),
	)
}
