// Command archive packs a directory into Buffers, as a zip and as a compressed tar,
// and compares what it reads back from them with the files. A Buffer is the
// io.ReaderAt that package zip requires.
//
//	go -C examples run ./archive
//	go -C examples run ./archive ~/project
//
// Without an argument it packs examples/, where -C starts the program.
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

// formats pack the files of fsys into b, and compare b with them.
var formats = []struct {
	name    string
	pack    func(b *mmapbuf.Buffer, fsys fs.FS) error
	compare func(b *mmapbuf.Buffer, fsys fs.FS) (files int, err error)
}{{"zip", packZip, compareZip}, {"tar.gz", packTar, compareTar}}

func main() {
	flag.Parse()
	fsys := os.DirFS(".")
	if flag.NArg() > 0 {
		fsys = os.DirFS(flag.Arg(0))
	}
	for _, f := range formats {
		var b mmapbuf.Buffer
		if err := f.pack(&b, fsys); err != nil {
			log.Fatalf("packing %s: %v", f.name, err)
		}
		size := b.Len()
		files, err := f.compare(&b, fsys)
		if err != nil {
			log.Fatalf("reading %s: %v", f.name, err)
		}
		fmt.Printf("%-6s %d files in %d bytes, all as on disk\n", f.name, files, size)
		b.Close()
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
		contents, err := file.Open()
		if err == nil {
			err = errors.Join(compare(contents, fsys, file.Name), contents.Close())
		}
		if err != nil {
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

// compareTar consumes b. To keep the contents, read from an io.SectionReader.
func compareTar(b *mmapbuf.Buffer, fsys fs.FS) (files int, err error) {
	z, err := gzip.NewReader(b)
	if err != nil {
		return 0, err
	}
	for r := tar.NewReader(z); ; {
		header, err := r.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, z) // up to the checksum, which is the last
			return files, err
		} else if err != nil {
			return files, err
		}
		if header.Typeflag == tar.TypeReg {
			if err := compare(r, fsys, header.Name); err != nil {
				return files, err
			}
			files++
		}
	}
}

// compare returns an error unless r has the contents of the file with that name.
func compare(r io.Reader, fsys fs.FS, name string) error {
	got, err := io.ReadAll(r)
	want, wantErr := fs.ReadFile(fsys, name)
	if err := errors.Join(err, wantErr); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	} else if !bytes.Equal(got, want) {
		return fmt.Errorf("%s: differs from what was packed", name)
	}
	return nil
}
