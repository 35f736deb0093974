package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// writeFiles writes the files for openReadFile into a new directory, and thereby
// into the page cache.
func writeFiles(cfg *config) (cleanup func(), err error) {
	if cfg.Dir, err = os.MkdirTemp("", "service-*"); err != nil {
		return nil, err
	}
	cleanup = func() { os.RemoveAll(cfg.Dir) }
	for _, size := range cfg.sizes {
		if err := measure.Fits("reading a file of "+size.String(), measure.PeakFactor*float64(size)); err != nil {
			return cleanup, err
		}
		file, err := os.Create(fileName(cfg.Dir, size))
		if err == nil {
			_, err = io.CopyN(file, rand.NewChaCha8([32]byte{}), int64(size))
			file.Close()
		}
		if err != nil {
			return cleanup, err
		}
	}
	return cleanup, nil
}

func fileName(dir string, size measure.Size) string {
	return filepath.Join(dir, fmt.Sprint(int64(size)))
}

// openReadFile returns a worker that reads a file into memory.
func openReadFile(j job) ([]worker, error) {
	return []worker{{round: func() (int64, error) {
		n, err := readFile(fileName(j.Dir, j.Max), j.Implementation, j.Mode)
		if err == nil && n != int64(j.Max) {
			err = fmt.Errorf("%d bytes of %d were read", n, int64(j.Max))
		}
		return n, err
	}}}, nil
}

// readFile returns the number of bytes that it has read.
func readFile(name, implementation, mode string) (int64, error) {
	if implementation == "os.ReadFile" {
		p, err := os.ReadFile(name)
		return int64(len(p)), err
	}
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if implementation == "io.ReadAll" {
		p, err := io.ReadAll(f)
		return int64(len(p)), err
	}
	b := newFullBuffer(implementation)
	defer b.Close()
	if mode != "*os.File" {
		return b.ReadFrom(struct{ io.Reader }{f})
	}
	return b.ReadFrom(f)
}
