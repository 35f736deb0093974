// Command http is a server that holds uploads in memory, in Buffers from a sync.Pool,
// with a limit on the size of each. It answers with the size and the SHA-256 of what
// it has received.
//
//	go -C examples run ./http
//	curl --data-binary @file http://localhost:8080/
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"time"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	listen := flag.String("listen", "localhost:8080", "`address` to serve at")
	max := flag.Int("max", 1<<30, "`bytes` of the largest upload")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	server := &http.Server{Addr: *listen, Handler: newUploads(*max), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// uploads is an http.Handler.
type uploads struct {
	max  int // bytes of the largest upload
	pool sync.Pool
}

func newUploads(max int) *uploads {
	return &uploads{max: max, pool: sync.Pool{
		New: func() any { return &mmapbuf.Buffer{MaxLen: max} },
	}}
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	size, sum, err := u.receive(r)
	switch {
	case errors.Is(err, mmapbuf.ErrTooLarge):
		w.Header().Set("Connection", "close") // without reading the rest
		http.Error(w, fmt.Sprintf("more than %d bytes", u.max), http.StatusRequestEntityTooLarge)
	case err != nil:
		http.Error(w, fmt.Sprintf("upload broke off after %d bytes: %v", size, err), http.StatusBadRequest)
	default:
		fmt.Fprintf(w, "%d %x\n", size, sum)
	}
}

// keep is the capacity up to which a Buffer keeps its memory in the pool. Memory
// that is used again causes no page faults, and most uploads are small. Larger
// Buffers are closed. Otherwise each would in time have the size of the largest
// upload.
const keep = 4 << 20

// receive reads an upload and returns its size and checksum.
func (u *uploads) receive(r *http.Request) (size int64, sum []byte, err error) {
	if r.ContentLength > int64(u.max) {
		return 0, nil, mmapbuf.ErrTooLarge // before it is sent
	}
	b := u.pool.Get().(*mmapbuf.Buffer)
	defer func() {
		b.Reset()
		if err != nil || b.Cap() > keep {
			_ = b.Close()
		}
		u.pool.Put(b)
	}()

	// If the length is wrong, Reserve has used addresses but no memory.
	if err := b.Reserve(int(max(r.ContentLength, 0))); err != nil {
		return 0, nil, err
	}
	if size, err = b.ReadFrom(r.Body); err != nil {
		return size, nil, err
	}
	// A real server would use the whole upload here.
	hash := sha256.New()
	_, err = b.WriteTo(hash)
	return size, hash.Sum(nil), err
}
