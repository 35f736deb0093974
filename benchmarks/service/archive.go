package main

import (
	"archive/tar"
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// survey reads the directory to pack, so that each run finds it in the page cache,
// and sets the size of the jobs to that of its files.
func survey(cfg *config) (cleanup func(), err error) {
	size, err := readAll(os.DirFS(cfg.Dir))
	if err == nil && size == 0 {
		err = fmt.Errorf("%s has no files", cfg.Dir)
	}
	cfg.sizes = []measure.Size{size}
	return nil, err
}

// readAll reads all files and returns their size.
func readAll(fsys fs.FS) (size measure.Size, err error) {
	err = fs.WalkDir(fsys, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		file, err := fsys.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		n, err := io.Copy(io.Discard, file)
		size += measure.Size(n)
		return err
	})
	return size, err
}

// openArchive returns a worker that packs a directory into a buffer and reads the
// archive back.
func openArchive(j job) ([]worker, error) {
	fsys := os.DirFS(j.Dir)
	pack := packZip
	if j.Mode == "tar" {
		pack = packTar
	}
	return []worker{{round: func() (int64, error) {
		b := newFullBuffer(j.Implementation)
		defer b.Close()
		return int64(j.Max), pack(b, fsys)
	}}}, nil
}

func packZip(b fullBuffer, fsys fs.FS) error {
	z := zip.NewWriter(b)
	if err := errors.Join(z.AddFS(fsys), z.Close()); err != nil {
		return err
	}
	r, err := zip.NewReader(b, int64(b.Len()))
	if err != nil {
		return err
	}
	_, err = readAll(r)
	return err
}

func packTar(b fullBuffer, fsys fs.FS) error {
	w := tar.NewWriter(b)
	if err := errors.Join(w.AddFS(fsys), w.Close()); err != nil {
		return err
	}
	for r := tar.NewReader(b); ; {
		_, err := r.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}
