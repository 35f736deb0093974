// Http is a server that holds uploads in memory, in Buffers from a sync.Pool and
// with a bound on the size of each. It answers with the size and the SHA-256 of
// what it has received.
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
	"io"
	"log"
	"net"
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
	if err := serve(ctx, os.Stdout, *listen, *max); err != nil {
		log.Fatal(err)
	}
}

// serve serves at address until ctx is done.
func serve(ctx context.Context, stdout io.Writer, address string, max int) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "listening at http://%v/\n", l.Addr())
	server := &http.Server{Handler: newUploads(max), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Uploads is a handler.
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

// keep is the capacity up to which a Buffer keeps its memory in the pool. Using
// it again saves page faults, and most uploads are small. Larger Buffers are
// closed: otherwise each would in time be as large as the largest upload.
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

	// A false length costs addresses, not memory.
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
