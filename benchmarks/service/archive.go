package main

import (
	"archive/tar"
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// survey reads all files in the directory to pack, so that each run finds them in
// the page cache, and sets the size of the jobs to the sum of theirs.
func survey(cfg *config) (cleanup func(), err error) {
	var size measure.Size
	err = filepath.WalkDir(cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		p, err := os.ReadFile(path)
		size += measure.Size(len(p))
		return err
	})
	if err == nil && size == 0 {
		err = fmt.Errorf("%s has no files", cfg.Dir)
	}
	cfg.sizes = []measure.Size{size}
	return func() {}, err
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
	for _, file := range r.File {
		contents, err := file.Open()
		if err == nil {
			_, err = io.Copy(io.Discard, contents)
			contents.Close()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", file.Name, err)
		}
	}
	return nil
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
