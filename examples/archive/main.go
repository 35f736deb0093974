// Archive packs a directory into Buffers, as a zip and as a compressed tar, reads
// both back from there, and compares every file with the disk. A Buffer is the
// io.ReaderAt that package zip asks for.
//
//	go -C examples run ./archive
//	go -C examples run ./archive ~/project
//
// Without a directory it packs the examples. Relative names are looked up from
// examples/, where -C puts the program.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	flag.Parse()
	fsys := os.DirFS(".")
	if flag.NArg() > 0 {
		fsys = os.DirFS(flag.Arg(0))
	}
	for _, format := range []struct {
		name string
		pack func(b *mmapbuf.Buffer, fsys fs.FS) error
		read func(b *mmapbuf.Buffer, fsys fs.FS) (files int, err error)
	}{{"zip", packZip, compareZip}, {"tar.gz", packTar, compareTar}} {
		var b mmapbuf.Buffer
		if err := format.pack(&b, fsys); err != nil {
			log.Fatalf("packing %s: %v", format.name, err)
		}
		size := b.Len()
		files, err := format.read(&b, fsys)
		if err != nil {
			log.Fatalf("reading %s back: %v", format.name, err)
		}
		fmt.Printf("%-6s %d files in %d bytes, all as on disk\n", format.name, files, size)
		_ = b.Close()
	}
}

func packZip(b *mmapbuf.Buffer, fsys fs.FS) error {
	w := zip.NewWriter(b)
	return errors.Join(w.AddFS(fsys), w.Close())
}

func compareZip(b *mmapbuf.Buffer, fsys fs.FS) (files int, err error) {
	r, err := zip.NewReader(b, int64(b.Len()))
	if err != nil {
		return 0, err
	}
	for _, file := range r.File {
		if file.Mode().IsDir() {
			continue
		}
		contents, err := r.Open(file.Name)
		if err != nil {
			return files, err
		}
		if err := errors.Join(compare(contents, fsys, file.Name), contents.Close()); err != nil {
			return files, err
		}
		files++
	}
	return files, nil
}

func packTar(b *mmapbuf.Buffer, fsys fs.FS) error {
	z := gzip.NewWriter(b)
	w := tar.NewWriter(z)
	return errors.Join(w.AddFS(fsys), w.Close(), z.Close())
}

// compareTar consumes what it reads. An io.SectionReader over b would not.
func compareTar(b *mmapbuf.Buffer, fsys fs.FS) (files int, err error) {
	z, err := gzip.NewReader(b)
	if err != nil {
		return 0, err
	}
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, z) // the checksum is behind the last file
			return files, err
		} else if err != nil {
			return files, err
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if err := compare(r, fsys, header.Name); err != nil {
			return files, err
		}
		files++
	}
}

// compare returns an error unless r reads as the file with that name.
func compare(r io.Reader, fsys fs.FS, name string) error {
	got, err := io.ReadAll(r)
	want, wantErr := fs.ReadFile(fsys, name)
	if err := errors.Join(err, wantErr); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%s: differs from what was packed", name)
	}
	return nil
}
