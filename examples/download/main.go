// Download reads a large object from an S3 server into memory, in parallel parts
// and with the AWS SDK, and compares an mmapbuf.Buffer as the io.WriterAt with
// the buffer that the SDK has for it. Then it downloads the object by plain HTTP
// over connections that drop, and goes on each time from what has arrived.
//
//	go -C examples run ./download
//	go -C examples run ./download -size 64MiB -runs 1
//
// The server is in the program itself; each download that is measured runs in a
// process of its own.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/command"
	"github.com/mmapbuf/mmapbuf/examples/internal/measure"
	"github.com/mmapbuf/mmapbuf/examples/internal/report"
	"github.com/mmapbuf/mmapbuf/examples/internal/system"
)

func main() {
	measure.Serve(work)
	command.Main("download", run)
}

// run is the program but for the exit status.
func run(ctx context.Context, args []string) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	handler, sum, err := serveObject(int64(cfg.size))
	if err != nil {
		return fmt.Errorf("server: %w", err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	fmt.Printf("work: an object of %v; runs of each, in turn: %d\n", cfg.size, cfg.runs)
	fmt.Printf("machine: %s\n\n", system.Machine(system.Root))

	var names []string
	for _, impl := range implementations {
		names = append(names, impl.name)
	}
	rows, err := measure.Compare(ctx, []string{"S3, parallel parts"}, names, cfg.runs, func(_, name string) any {
		return job{name, server.URL, int64(cfg.size), sum}
	})
	if err != nil {
		return err
	}
	measure.Table(os.Stdout, rows)
	fmt.Println()
	return resume(ctx, os.Stdout, handler, int64(cfg.size), sum)
}

// A config is what the command line asks for.
type config struct {
	size command.Size
	runs int
}

// parse reads the command line.
func parse(args []string) (config, error) {
	cfg := config{size: 256 << 20}
	fs := flag.NewFlagSet("download", flag.ContinueOnError)
	fs.Var(&cfg.size, "size", "`bytes` of the object")
	fs.IntVar(&cfg.runs, "runs", 1, "`number` of downloads with each implementation")
	if err := command.Parse(fs, args, "download [flags]", "Downloads an object from an S3 server into memory in several ways, and compares\n"+
		"time and memory."); err != nil {
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

// serveObject returns an S3 server that has an object of size bytes, and the
// checksum of the object.
func serveObject(size int64) (http.Handler, [sha256.Size]byte, error) {
	backend := s3mem.New()
	sum := sha256.New()
	data := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), sum)
	err := backend.CreateBucket(bucket)
	if err == nil {
		_, err = backend.PutObject(bucket, key, nil, data, size, nil)
	}
	return gofakes3.New(backend).Server(), [sha256.Size]byte(sum.Sum(nil)), err
}

// resume downloads the object from a server that drops the first two
// connections.
func resume(ctx context.Context, w io.Writer, handler http.Handler, size int64, sum [sha256.Size]byte) error {
	const drops = 2
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) <= drops {
			w = &droppingWriter{w, size / (drops + 1)}
		}
		handler.ServeHTTP(w, r)
	}))
	defer server.Close()

	var b mmapbuf.Buffer
	defer b.Close()
	began := time.Now()
	if err := fetch(ctx, server.Client(), server.URL+"/"+bucket+"/"+key, &b); err != nil {
		return err
	}
	took := time.Since(began)
	if err := verify(b.Bytes(), sum); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "HTTP, %d connections dropped: %d requests, %s, contents verified\n", drops, requests.Load(), report.Duration(took))
	return err
}

// A droppingWriter closes the connection after left bytes of the body.
type droppingWriter struct {
	http.ResponseWriter
	left int64
}

// Write implements io.Writer.
func (w *droppingWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		_, _ = w.ResponseWriter.Write(p[:w.left])
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	w.left -= int64(len(p))
	return w.ResponseWriter.Write(p)
}
