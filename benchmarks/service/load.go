package main

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// A worker repeats a round in a goroutine of its own.
type worker struct {
	round   func() (n int64, err error) // timed; n is in bytes
	between func() error                // not timed; nil: nothing to do
	peak    int64                       // of a single round; 0: that of all rounds counts
	samples *[]sample                   // taken meanwhile; nil: none
}

// newNoise returns n pseudo-random bytes, always the same.
func newNoise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte{}).Read(p)
	return p
}

// sizes returns a function that draws the size of a job. Each implementation
// gets the same.
func sizes(j job, goroutine int) func() int {
	random := rand.New(rand.NewPCG(1, uint64(goroutine)))
	return func() int {
		return int(float64(j.Min) * math.Pow(float64(j.Max)/float64(j.Min), random.Float64()))
	}
}

// openJobs returns workers that fill a buffer and end as the mode says.
func openJobs(_ context.Context, j job) (workers []worker, err error) {
	noise := newNoise(j.Write)
	for g, buffers := range supplies(j) {
		draw := sizes(j, g)
		workers = append(workers, worker{round: func() (int64, error) {
			size := draw()
			b := buffers.take()
			for n := 0; n < size; n += len(noise) {
				if _, err := b.Write(noise[:min(len(noise), size-n)]); err != nil {
					return 0, err
				}
			}
			if j.Mode == "viewed" {
				return int64(size), look(b.Bytes(), size, noise)
			}
			n, err := b.WriteTo(io.Discard)
			if err == nil && n != int64(size) {
				err = fmt.Errorf("the buffer held %d bytes of %d", n, size)
			}
			return n, errors.Join(err, buffers.release(b))
		}})
	}
	return workers, nil
}

// look compares a few bytes of a view with those that were written.
func look(view []byte, size int, noise []byte) error {
	if len(view) != size {
		return fmt.Errorf("the view has %d bytes of %d", len(view), size)
	}
	for _, i := range []int{0, size / 2, size - 1} {
		if view[i] != noise[i%len(noise)] {
			return fmt.Errorf("byte %d of %d is not what was written", i, size)
		}
	}
	return nil
}

// openQueue returns a worker that writes to a queue, the backlog of which it has
// written before, and reads as much between.
func openQueue(_ context.Context, j job) ([]worker, error) {
	b := newBuffer(j.Implementation).(queue)
	block, read := newNoise(64<<10), make([]byte, 64<<10)
	for int64(b.Len()) < j.Max {
		if _, err := b.Write(block); err != nil {
			return nil, err
		}
	}
	return []worker{{
		round: func() (int64, error) { n, err := b.Write(block); return int64(n), err },
		between: func() error {
			_, err := io.ReadFull(b, read)
			return err
		},
	}}, nil
}

// openFile returns a worker that reads a file into memory, which writeFile has
// made.
func openFile(_ context.Context, j job) ([]worker, error) {
	name := filepath.Join(j.Dir, fmt.Sprint(j.Max))
	return []worker{{round: func() (int64, error) {
		n, err := readFile(name, j.Implementation)
		if err == nil && n != j.Max {
			err = fmt.Errorf("%d bytes of %d were read", n, j.Max)
		}
		return n, err
	}}}, nil
}

// readFile returns the number of bytes that it has read.
func readFile(name, implementation string) (int64, error) {
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
	b := newBuffer(implementation)
	defer b.Close()
	return b.(io.ReaderFrom).ReadFrom(f)
}

// writeFile writes a file of size bytes into dir, which leaves it in the page
// cache.
func writeFile(dir string, size int64) error {
	f, err := os.Create(filepath.Join(dir, fmt.Sprint(size)))
	if err != nil {
		return err
	}
	defer f.Close()
	for noise := newNoise(miB); size > 0; size -= miB {
		if _, err := f.Write(noise[:min(size, miB)]); err != nil {
			return err
		}
	}
	return f.Close()
}

// openHTTP returns workers that upload to a server, which holds what it takes in
// a buffer until it has all of it.
func openHTTP(ctx context.Context, j job) (workers []worker, err error) {
	free := make(chan *supply, j.Goroutines)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		buffers := <-free
		defer func() { free <- buffers }()
		b := buffers.take()
		n, err := io.Copy(b, r.Body)
		if err == nil {
			_, err = b.WriteTo(io.Discard)
		}
		if err := errors.Join(err, buffers.release(b)); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprint(w, n)
	}))
	context.AfterFunc(ctx, server.Close)
	client := server.Client()
	client.Transport.(*http.Transport).MaxIdleConnsPerHost = j.Goroutines
	noise := endless(newNoise(64 << 10))
	for g, buffers := range supplies(j) {
		free <- buffers
		draw := sizes(j, g)
		workers = append(workers, worker{round: func() (int64, error) {
			size := draw()
			resp, err := client.Post(server.URL, "", io.LimitReader(noise, int64(size)))
			if err != nil {
				return 0, err
			}
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			if err == nil && string(answer) != fmt.Sprint(size) {
				err = fmt.Errorf("the server has taken %q of %d bytes", answer, size)
			}
			return int64(size), err
		}})
	}
	return workers, nil
}

// endless is read again and again.
type endless []byte

func (e endless) Read(p []byte) (int, error) { return copy(p, e), nil }

// openArchive returns a worker that packs a directory into a buffer, and reads
// it back from there.
func openArchive(_ context.Context, j job) ([]worker, error) {
	fsys := os.DirFS(j.Dir)
	round := roundZip
	if j.Mode == "tar" {
		round = roundTar
	}
	return []worker{{round: func() (int64, error) {
		b := newBuffer(j.Implementation).(randomBuffer)
		defer b.Close()
		if err := round(b, fsys); err != nil {
			return 0, err
		}
		return j.Max, nil
	}}}, nil
}

func roundZip(b randomBuffer, fsys fs.FS) error {
	z := zip.NewWriter(b)
	if err := errors.Join(z.AddFS(fsys), z.Close()); err != nil {
		return err
	}
	r, err := zip.NewReader(b, int64(b.Len()))
	if err != nil {
		return err
	}
	for _, file := range r.File {
		if err := discard(file.Open()); err != nil {
			return fmt.Errorf("%s: %w", file.Name, err)
		}
	}
	return nil
}

func discard(r io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

func roundTar(b randomBuffer, fsys fs.FS) error {
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

// A row is one of a Parquet file; it takes about rowSize bytes there.
type row struct {
	ID      int64   `parquet:"id,delta"`
	Station string  `parquet:"station,dict"`
	Value   float64 `parquet:"value"`
	Error   float32 `parquet:"error"`
	Valid   bool    `parquet:"valid"`
}

const rowSize = 20

// openColumns returns a worker that writes a Parquet file into a buffer, and
// reads it back from there.
func openColumns(_ context.Context, j job) ([]worker, error) {
	rows := max(1, j.Max/rowSize)
	batch := make([]row, 1<<10)
	return []worker{{round: func() (int64, error) {
		b := newBuffer(j.Implementation).(randomBuffer)
		defer b.Close()
		w := parquet.NewGenericWriter[row](b, parquet.MaxRowsPerRowGroup(1<<18))
		random := rand.New(rand.NewPCG(1, 2))
		for id := int64(0); id < rows; {
			n := min(int64(len(batch)), rows-id)
			for i := range batch[:n] {
				batch[i] = row{id, fmt.Sprint("station ", id%500), random.Float64(), random.Float32(), id%3 == 0}
				id++
			}
			if _, err := w.Write(batch[:n]); err != nil {
				return 0, err
			}
		}
		if err := w.Close(); err != nil {
			return 0, err
		}
		size := int64(b.Len())
		file, err := parquet.OpenFile(b, size)
		if err != nil {
			return 0, err
		}
		r := parquet.NewGenericReader[row](file)
		defer r.Close()
		for read := int64(0); read < rows; {
			n, err := r.Read(batch)
			if err != nil && (err != io.EOF || read+int64(n) < rows) {
				return 0, err
			}
			if last := read + int64(n) - 1; n > 0 && (batch[n-1].ID != last || !strings.HasPrefix(batch[n-1].Station, "station ")) {
				return 0, fmt.Errorf("row %d is not what was written", last)
			}
			read += int64(n)
		}
		return size, nil
	}}}, nil
}
