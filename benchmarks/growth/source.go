package main

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A payload is the data that every run writes.
type payload struct {
	name  string   // what it is called in the report
	file  *os.File // nil: generated
	size  measure.Size
	write measure.Size // bytes in a single write, at most size
	close func()
}

// openPayload finds out what cfg asks for and how long it is. What is not a
// regular file is copied to one, since every run reads it again.
func openPayload(ctx context.Context, cfg config) (*payload, error) {
	data := &payload{name: "pseudo-random bytes", size: cfg.size, write: min(cfg.write, cfg.size), close: func() {}}
	if cfg.file == "" {
		return data, nil
	}
	file := os.Stdin
	data.name = "standard input"
	if cfg.file != "-" {
		data.name = cfg.file
		var err error
		if file, err = os.Open(cfg.file); err != nil {
			return nil, err
		}
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	limit := measure.Size(measure.MaxSize)
	if cfg.sizeGiven {
		limit = cfg.size
	}
	switch {
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory", data.name)
	case info.Mode().IsRegular() && cfg.file != "-":
		data.file, data.size = file, min(measure.Size(info.Size()), limit)
		data.close = func() { file.Close() }
	default:
		// What cannot fit in memory need not be copied to the end.
		if free := measure.Available(); free > 0 {
			limit = min(limit, measure.Size(free)+1)
		}
		if err := data.spool(ctx, io.LimitReader(file, int64(limit))); err != nil {
			return nil, fmt.Errorf("copying %s to a temporary file: %w", data.name, err)
		}
	}
	if data.size == 0 {
		data.close()
		return nil, fmt.Errorf("%s is empty", data.name)
	}
	data.write = min(cfg.write, data.size)
	return data, nil
}

// spool makes what r has the data.
func (d *payload) spool(ctx context.Context, r io.Reader) error {
	tmp, err := os.CreateTemp("", "growth-*")
	if err != nil {
		return err
	}
	os.Remove(tmp.Name()) // nothing is left behind, whatever happens; but on Windows below
	d.file, d.close = tmp, func() { tmp.Close(); os.Remove(tmp.Name()) }
	copied := make(chan error, 1)
	go func() {
		n, err := io.Copy(tmp, r)
		d.size = measure.Size(n)
		copied <- err
	}()
	select {
	case err = <-copied:
	case <-ctx.Done():
		err = ctx.Err() // the read may block for good: it ends with the program
	}
	if err != nil {
		d.close()
	}
	return err
}

// measure does j in a child, which reads the data as its standard input.
func (d *payload) measure(ctx context.Context, j job) (outcome, error) {
	if err := d.rewind(); err != nil {
		return outcome{}, err
	}
	got, readings, err := measure.Run[outcome](ctx, j, d.file)
	if err != nil || got.Peak == 0 {
		return got, err
	}
	got.samples = []sample{{0, 0}}
	for _, r := range readings {
		if t := r.At.Sub(got.Began); t > 0 && r.At.Before(got.Ended) {
			got.samples = append(got.samples, sample{t, max(0, r.Resident-got.Base)})
		}
	}
	got.samples = append(got.samples, sample{got.Ended.Sub(got.Began), got.Final})
	return got, nil
}

func (d *payload) rewind() error {
	if d.file == nil {
		return nil
	}
	_, err := d.file.Seek(0, io.SeekStart)
	return err
}

// checksum reads the data once.
func (d *payload) checksum(ctx context.Context) (uint32, error) {
	if err := d.rewind(); err != nil {
		return 0, err
	}
	name := ""
	if d.file != nil {
		name = d.name
	}
	src, sum := newSource(d.file, name, d.size, d.write), newChecksum()
	for {
		chunk, err := src.next()
		if err == io.EOF {
			return sum.Sum32(), nil
		} else if err := errors.Join(err, ctx.Err()); err != nil {
			return 0, err
		}
		sum.Write(chunk)
	}
}

func newChecksum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// A source hands out size bytes, one write at a time: those of a file, or, if
// name is empty, generated ones.
type source struct {
	file       *os.File
	name       string
	chunk      []byte
	size, done int64
}

func newSource(file *os.File, name string, size, write measure.Size) *source {
	s := &source{file: file, name: name, chunk: make([]byte, write), size: int64(size)}
	// Also for a file, so that these pages are resident before memory is
	// looked at.
	rand.NewChaCha8([32]byte{}).Read(s.chunk)
	return s
}

// next returns the next chunk, good until the following call, or io.EOF.
func (s *source) next() ([]byte, error) {
	chunk := s.chunk[:min(int64(len(s.chunk)), s.size-s.done)]
	if len(chunk) == 0 {
		return nil, io.EOF
	}
	if s.name != "" {
		if n, err := io.ReadFull(s.file, chunk); err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("%s has become shorter: it ends after %d of %d bytes", s.name, s.done+int64(n), s.size)
		} else if err != nil {
			return nil, err
		}
	}
	s.done += int64(len(chunk))
	return chunk, nil
}
