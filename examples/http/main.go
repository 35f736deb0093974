// Http is a server for uploads that holds each of them in memory, in a Buffer
// from a pool and with a bound on its size.
//
//	go -C examples run ./http
//	go -C examples run ./http -listen localhost:8080
//
// The first starts a server, sends it uploads as clients do and as they should
// not, prints what becomes of them, compares with bytes.Buffer, and ends. The
// second serves until it is interrupted:
//
//	curl --data-binary @file http://localhost:8080/
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/command"
	"github.com/mmapbuf/mmapbuf/examples/internal/measure"
	"github.com/mmapbuf/mmapbuf/examples/internal/report"
)

func main() {
	measure.Serve(work)
	command.Main("http", run)
}

// run is the program but for the exit status.
func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if cfg.listen != "" {
		return listen(ctx, os.Stdout, cfg.listen, int(cfg.max))
	}
	if err := demonstrate(ctx, os.Stdout, int(cfg.max)); err != nil {
		return err
	}
	return compare(ctx, os.Stdout, cfg)
}

// A config is what the command line asks for.
type config struct {
	listen string
	max    command.Size
	runs   int
}

// parse reads the command line.
func parse(args []string) (config, error) {
	cfg := config{max: 64 << 20}
	fs := flag.NewFlagSet("http", flag.ContinueOnError)
	fs.StringVar(&cfg.listen, "listen", "", "serve at this `address` until interrupted")
	fs.Var(&cfg.max, "max", "`bytes` of the largest upload that is taken")
	fs.IntVar(&cfg.runs, "runs", 1, "`number` of runs of each implementation")
	if err := command.Parse(fs, args, "http [flags]", "Takes uploads into memory, and compares time and memory with bytes.Buffer."); err != nil {
		return cfg, err
	}
	switch {
	case fs.NArg() > 0:
		return cfg, command.Usagef("no arguments are taken, not %q", fs.Args())
	case cfg.runs < 1:
		return cfg, command.Usagef("-runs %d: at least one run is needed", cfg.runs)
	}
	return cfg, nil
}

// listen serves at address until ctx ends.
func listen(ctx context.Context, w io.Writer, address string, max int) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "listening at http://%v/\n", l.Addr())
	server := &http.Server{Handler: newUploads(max, newMmapbuf, log.Printf), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	return server.Serve(l)
}

// demonstrate sends a server uploads, some of them as they should not be, and
// prints what becomes of them.
func demonstrate(ctx context.Context, w io.Writer, max int) error {
	broken := make(chan string, len(sizes(max))+3) // room for all: no upload waits to be read of
	server := httptest.NewServer(newUploads(max, newMmapbuf, func(format string, args ...any) {
		broken <- fmt.Sprintf(format, args...)
	}))
	defer server.Close()
	client := newClient()
	defer client.CloseIdleConnections()

	var all []*upload
	for _, n := range sizes(max) {
		all = append(all, &upload{size: n})
	}
	all = append(all, &upload{size: int64(max) + 1}, &upload{size: int64(max) + 1, chunked: true})
	clients, group := errgroup.WithContext(ctx)
	for _, u := range all {
		clients.Go(func() error { return u.send(group, client, server.URL) })
	}
	if err := clients.Wait(); err != nil {
		return err
	}
	rows := [][]string{{"upload", "length", "sent", "answer"}}
	for _, u := range all {
		length := "known"
		if u.chunked {
			length = "not known"
		}
		rows = append(rows, []string{fmt.Sprint(u.size), length, fmt.Sprint(u.sent.Load()), u.status})
	}
	report.Table(w, rows)

	cut := upload{size: int64(max), cut: int64(max) / 2}
	if err := cut.send(ctx, client, server.URL); err == nil {
		return errors.New("an upload that was cut off has been taken")
	}
	fmt.Fprintf(w, "\none is cut off, the server says: %s\n\n%+v\n\n", <-broken, mmapbuf.ReadStats())
	return nil
}
