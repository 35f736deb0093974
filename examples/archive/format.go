package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/mmapbuf/mmapbuf/examples/internal/buffers"
)

// A format is one way to pack a tree.
type format struct {
	name string
	pack func(w io.Writer, fsys fs.FS) error
	// unpack calls file for every file of an archive of size bytes.
	unpack func(r io.ReaderAt, size int64, file func(name string, r io.Reader) error) error
}

var formats = []format{
	tarFormat("tar", plainWriter, plainReader),
	tarFormat("tar.gz", gzipWriter, gzipReader),
	tarFormat("tar.zst", zstdWriter, zstdReader),
	{"zip", packZip, unpackZip},
}

// roundTrip packs fsys into b, and compares what comes out with fsys.
func roundTrip(b buffers.Buffer, f format, fsys fs.FS) error {
	if err := f.pack(b, fsys); err != nil {
		return fmt.Errorf("packing %s: %w", f.name, err)
	}
	return readBack(b, f, fsys)
}

// readBack compares what is packed in b with fsys.
func readBack(b buffers.Buffer, f format, fsys fs.FS) error {
	files := 0
	err := f.unpack(b, int64(b.Len()), func(name string, r io.Reader) error {
		files++
		want, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer want.Close()
		if err := same(r, want); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading %s back: %w", f.name, err)
	}
	want := 0
	if err := eachFile(fsys, func(string, fs.File) error { want++; return nil }); err != nil {
		return err
	}
	if files != want {
		return fmt.Errorf("reading %s back: %d files of %d", f.name, files, want)
	}
	return nil
}

// tarFormat is tar, compressed and expanded by these functions.
func tarFormat(name string, compress func(io.Writer) (io.WriteCloser, error), expand func(io.Reader) (io.ReadCloser, error)) format {
	pack := func(w io.Writer, fsys fs.FS) error {
		packed, err := compress(w)
		if err != nil {
			return err
		}
		t := tar.NewWriter(packed)
		if err := t.AddFS(fsys); err != nil {
			packed.Close() // it may have goroutines
			return err
		}
		return errors.Join(t.Close(), packed.Close())
	}
	unpack := func(r io.ReaderAt, size int64, file func(name string, r io.Reader) error) error {
		plain, err := expand(io.NewSectionReader(r, 0, size))
		if err != nil {
			return err
		}
		defer plain.Close()
		t := tar.NewReader(plain)
		for {
			header, err := t.Next()
			if err == io.EOF {
				// The checksum of all stands behind the last file.
				_, err := io.Copy(io.Discard, plain)
				return err
			} else if err != nil {
				return err
			}
			if header.Typeflag != tar.TypeReg {
				continue
			}
			if err := file(header.Name, t); err != nil {
				return err
			}
		}
	}
	return format{name, pack, unpack}
}

// writer has a Close that does nothing.
type writer struct{ io.Writer }

func (writer) Close() error { return nil }

func plainWriter(w io.Writer) (io.WriteCloser, error) { return writer{w}, nil }
func plainReader(r io.Reader) (io.ReadCloser, error)  { return io.NopCloser(r), nil }
func gzipWriter(w io.Writer) (io.WriteCloser, error)  { return gzip.NewWriter(w), nil }
func gzipReader(r io.Reader) (io.ReadCloser, error)   { return gzip.NewReader(r) }
func zstdWriter(w io.Writer) (io.WriteCloser, error)  { return zstd.NewWriter(w) }

func zstdReader(r io.Reader) (io.ReadCloser, error) {
	d, err := zstd.NewReader(r)
	if err != nil {
		return nil, err
	}
	return d.IOReadCloser(), nil
}

func packZip(w io.Writer, fsys fs.FS) error {
	z := zip.NewWriter(w)
	if err := z.AddFS(fsys); err != nil {
		return err
	}
	return z.Close()
}

func unpackZip(r io.ReaderAt, size int64, file func(name string, r io.Reader) error) error {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return err
	}
	return eachFile(z, func(name string, f fs.File) error { return file(name, f) })
}

// A tree is a file system of which only directories and regular files are seen.
type tree struct{ fs.FS }

// ReadDir implements fs.ReadDirFS.
func (t tree) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(t.FS, name)
	return slices.DeleteFunc(entries, func(d fs.DirEntry) bool { return !d.IsDir() && !d.Type().IsRegular() }), err
}

// eachFile opens every file of fsys and calls f with it.
func eachFile(fsys fs.FS, f func(name string, file fs.File) error) error {
	return fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		file, err := fsys.Open(name)
		if err != nil {
			return err
		}
		defer file.Close()
		return f(name, file)
	})
}

var errDiffers = errors.New("differs from what was packed")

// same returns an error unless r delivers what want does, to the end.
func same(r, want io.Reader) error {
	if _, err := io.Copy(&comparer{want: want}, r); err != nil {
		return err
	}
	if n, err := want.Read(make([]byte, 1)); n > 0 {
		return errDiffers
	} else if err != io.EOF {
		return err
	}
	return nil
}

// A comparer is written what it should read from want.
type comparer struct {
	want io.Reader
	buf  []byte
}

// Write implements io.Writer.
func (c *comparer) Write(p []byte) (int, error) {
	c.buf = slices.Grow(c.buf[:0], len(p))[:len(p)]
	_, err := io.ReadFull(c.want, c.buf)
	if err == io.EOF || err == io.ErrUnexpectedEOF || err == nil && !bytes.Equal(p, c.buf) {
		return 0, errDiffers
	}
	return len(p), err
}
