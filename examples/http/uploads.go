package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/mmapbuf/mmapbuf"
)

// keep is the capacity, in bytes, up to which a buffer keeps its memory in the
// pool. To use it again saves system calls and page faults, and most uploads are
// small. Buffers that have grown beyond are closed, for else every one would in
// time be as large as the largest upload, and hold that much for small ones.
const keep = 4 << 20

// Uploads is a handler that takes what is sent into a buffer, and answers with
// its size and SHA-256.
type uploads struct {
	max  int // bytes that are taken of an upload
	pool sync.Pool
	logf func(format string, args ...any) // told of uploads that break off
}

// A buffer is what holds an upload. An upload that exceeds its bound is an error
// that wraps mmapbuf.ErrTooLarge.
type buffer interface {
	Reserve(n int) error
	Cap() int
	io.ReaderFrom
	io.WriterTo
	io.Closer
}

func newMmapbuf(max int) buffer { return &mmapbuf.Buffer{MaxLen: max} }

func newUploads(max int, open func(max int) buffer, logf func(format string, args ...any)) *uploads {
	return &uploads{max: max, pool: sync.Pool{New: func() any { return open(max) }}, logf: logf}
}

// ServeHTTP implements http.Handler.
func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	size, sum, err := u.take(r)
	switch {
	case errors.Is(err, mmapbuf.ErrTooLarge):
		w.Header().Set("Connection", "close") // without reading the rest
		http.Error(w, fmt.Sprintf("more than %d bytes", u.max), http.StatusRequestEntityTooLarge)
	case err != nil:
		err = fmt.Errorf("upload broke off after %d bytes: %w", size, err)
		u.logf("%v", err)
		http.Error(w, err.Error(), http.StatusBadRequest)
	default:
		fmt.Fprintf(w, "%d %x\n", size, sum)
	}
}

// take reads an upload and returns its size and checksum. It has given its
// buffer back when it returns.
func (u *uploads) take(r *http.Request) (size int64, sum []byte, err error) {
	if r.ContentLength > int64(u.max) {
		return 0, nil, mmapbuf.ErrTooLarge
	}
	b := u.pool.Get().(buffer)
	defer func() { u.giveBack(b, err) }()

	// A length that is not true costs addresses only.
	if err := b.Reserve(int(max(r.ContentLength, 0))); err != nil {
		return 0, nil, err
	}
	if size, err = b.ReadFrom(r.Body); err != nil {
		return size, nil, err
	}
	// Here a real server would do what it needs the whole upload for.
	hash := sha256.New()
	_, err = b.WriteTo(hash)
	return size, hash.Sum(nil), err
}

// giveBack puts b into the pool, empty: WriteTo has left nothing in it, and it is
// closed after a large upload or one that failed with err.
func (u *uploads) giveBack(b buffer, err error) {
	if err != nil || b.Cap() > keep {
		if err := b.Close(); err != nil {
			u.logf("%v", err)
		}
	}
	u.pool.Put(b)
}
