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

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

// A payload is the data that every run writes.
type payload struct {
	name  string // what it is called in the report
	path  string // file it is read from; "": generated
	size  int64
	write int64 // bytes in a single write, at most size
	sum   uint32
	spool bool // path is a copy of ours
}

// openPayload finds out what cfg asks for and how long it is. What is not a
// regular file is spooled into one first, since every run reads it again.
func openPayload(ctx context.Context, cfg config, stdin *os.File) (*payload, error) {
	data := &payload{name: "pseudo-random bytes", size: int64(cfg.size), write: int64(cfg.write)}
	if cfg.file == "" {
		data.write = min(data.write, data.size)
		return data, nil
	}

	file := stdin
	data.name = "standard input"
	if cfg.file != "-" {
		data.name, data.path = cfg.file, cfg.file
		var err error
		if file, err = os.Open(cfg.file); err != nil {
			return nil, err
		}
		defer file.Close()
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}

	limit := int64(command.MaxSize)
	if cfg.sizeGiven {
		limit = int64(cfg.size)
	}
	switch {
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory", data.name)
	case info.Mode().IsRegular() && cfg.file != "-":
		data.size = min(info.Size(), limit)
	default:
		// What cannot fit in memory need not be copied to disk to the end: one
		// byte more than fits is enough for the refusal.
		if free, ok := system.Available(system.Root); ok {
			limit = min(limit, largest(cfg.only, data.write, free)+1)
		}
		data.spool = true
		if data.path, data.size, err = spool(ctx, file, limit); err != nil {
			return nil, fmt.Errorf("copying %s to a temporary file: %w", data.name, err)
		}
	}
	if data.size == 0 {
		data.close()
		return nil, fmt.Errorf("%s is empty", data.name)
	}
	data.write = min(data.write, data.size)
	return data, nil
}

// spool copies at most limit bytes of r into a temporary file.
func spool(ctx context.Context, r io.Reader, limit int64) (path string, n int64, err error) {
	tmp, err := os.CreateTemp("", "growth-*")
	if err != nil {
		return "", 0, err
	}
	copied := make(chan error, 1)
	go func() {
		var err error
		n, err = io.Copy(tmp, io.LimitReader(r, limit))
		copied <- err
	}()
	select {
	case err = <-copied:
	case <-ctx.Done():
		// The read may block for good: leave it. It ends with the program.
		tmp.Close()
		os.Remove(tmp.Name())
		return "", 0, ctx.Err()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		os.Remove(tmp.Name())
		return "", 0, err
	}
	return tmp.Name(), n, nil
}

// close removes what openPayload left on disk.
func (d *payload) close() {
	if d.spool {
		os.Remove(d.path)
	}
}

// job returns the task of filling impl with the payload.
func (d *payload) job(impl implementation) job {
	return job{Implementation: impl.key, Path: d.path, Size: d.size, Write: d.write, Sum: d.sum}
}

// checksum reads the payload once and sets sum, which every run is held to.
func (d *payload) checksum(ctx context.Context) error {
	src, err := openSource(d.path, d.size, d.write)
	if err != nil {
		return err
	}
	defer src.close()
	sum := newChecksum()
	for {
		chunk, err := src.next()
		if err == io.EOF {
			d.sum = sum.Sum32()
			return nil
		} else if err != nil {
			return err
		} else if ctx.Err() != nil {
			return ctx.Err()
		}
		sum.Write(chunk)
	}
}

// newChecksum returns the hash that contents are compared by.
func newChecksum() hash.Hash32 { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) }

// A source hands out a payload, one write at a time.
type source struct {
	file  *os.File // nil: chunk is written again and again
	chunk []byte
	size  int64
	done  int64
}

// openSource returns a source of size bytes in chunks of write bytes, from the
// file at path or, if path is empty, generated.
func openSource(path string, size, write int64) (*source, error) {
	s := &source{chunk: make([]byte, write), size: size}
	// Either way the chunk is filled here, so that its pages are resident
	// before memory is looked at.
	rand.NewChaCha8([32]byte{}).Read(s.chunk)
	if path != "" {
		var err error
		if s.file, err = os.Open(path); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// next returns the next chunk, good until the following call, or io.EOF.
func (s *source) next() ([]byte, error) {
	chunk := s.chunk[:min(int64(len(s.chunk)), s.size-s.done)]
	if len(chunk) == 0 {
		return nil, io.EOF
	}
	if s.file != nil {
		n, err := io.ReadFull(s.file, chunk)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil, fmt.Errorf("%s has become shorter: it ends after %d of %d bytes: %w",
				s.file.Name(), s.done+int64(n), s.size, io.ErrUnexpectedEOF)
		} else if err != nil {
			return nil, err
		}
	}
	s.done += int64(len(chunk))
	return chunk, nil
}

func (s *source) close() {
	if s.file != nil {
		s.file.Close()
	}
}
