package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http/httptest"

	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/measure"
)

// An implementation is one way to hold an upload.
type implementation struct {
	name string
	open func(max int) buffer
}

var implementations = []implementation{
	{"bytes.Buffer", func(max int) buffer { return &std{max: max} }},
	{"mmapbuf.Buffer", newMmapbuf},
}

// std is a bytes.Buffer with what it lacks.
type std struct {
	bytes.Buffer
	max int
}

// Reserve makes room for n bytes.
func (b *std) Reserve(n int) error {
	b.Grow(n)
	return nil
}

// ReadFrom implements io.ReaderFrom.
func (b *std) ReadFrom(r io.Reader) (int64, error) {
	n, err := b.Buffer.ReadFrom(io.LimitReader(r, int64(b.max)+1))
	if err == nil && n > int64(b.max) {
		err = mmapbuf.ErrTooLarge
	}
	return n, err
}

// Close leaves the memory to the collector.
func (b *std) Close() error {
	b.Buffer = bytes.Buffer{}
	return nil
}

// A job tells a child what to do.
type job struct {
	Implementation string
	Max            int
	Chunked        bool
}

// parallel is how many clients there are at a time, and rounds how often each
// size is uploaded.
const (
	parallel = 4
	rounds   = 4
)

// sizes are those of uploads that are taken.
func sizes(max int) []int64 {
	n := int64(max)
	return []int64{n / 1024, n / 64, n / 4, n / 2, n}
}

// work is the child: server and clients.
func work(j job) (f measure.Figures, err error) {
	for _, impl := range implementations {
		if impl.name != j.Implementation {
			continue
		}
		server := httptest.NewServer(newUploads(j.Max, impl.open, log.Printf))
		defer server.Close()
		client := newClient()
		defer client.CloseIdleConnections()
		if err := measure.Warm(int64(4 * parallel * j.Max)); err != nil {
			return f, err
		}
		m := measure.Start()
		clients, ctx := errgroup.WithContext(context.Background())
		clients.SetLimit(parallel)
		for range rounds {
			for _, n := range sizes(j.Max) {
				clients.Go(func() error {
					u := upload{size: n, chunked: j.Chunked}
					err := u.send(ctx, client, server.URL)
					if err == nil && u.status != "200 OK" {
						err = fmt.Errorf("%d bytes: %s", n, u.status)
					}
					return err
				})
			}
		}
		err := clients.Wait()
		f = m.Stop()
		for _, n := range sizes(j.Max) {
			f.Size += rounds * n
		}
		return f, err
	}
	return f, fmt.Errorf("no implementation is called %q", j.Implementation)
}

// compare prints what the same uploads take with each implementation.
func compare(ctx context.Context, w io.Writer, cfg config) error {
	var names []string
	for _, impl := range implementations {
		names = append(names, impl.name)
	}
	const known, unknown = "length known", "length not known"
	rows, err := measure.Compare(ctx, []string{known, unknown}, names, cfg.runs, func(work, name string) any {
		return job{name, int(cfg.max), work == unknown}
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%d uploads of up to %v, %d at a time; runs of each, in turn: %d\n\n", rounds*len(sizes(int(cfg.max))), cfg.max, parallel, cfg.runs)
	measure.Table(w, rows)
	return nil
}
