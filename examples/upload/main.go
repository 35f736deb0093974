// Command upload is a server for uploads of any size in a container with little
// memory. All uploads together use half of it; what is beyond that goes to disk. It
// answers with the size and the SHA-256 of what it has received.
//
//	go -C examples run ./upload
//	curl --data-binary @file http://localhost:8080/
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/spool"
)

func main() {
	listen := flag.String("listen", "localhost:8080", "`address` to serve at")
	dir := flag.String("dir", "/var/tmp", "`directory` on disk, not in memory (tmpfs)")
	max := flag.Int64("max", 10<<30, "`bytes` of the largest upload")
	flag.Parse()

	// What the container may use, or the machine if there is no limit. Half is for
	// uploads, and a quarter is left to the kernel, mainly for the pages of files
	// that are not on disk yet.
	memory, err := memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)()
	if err != nil {
		log.Fatal(err)
	}
	if _, err := memlimit.Set(memlimit.WithProvider(memlimit.Limit(memory)), memlimit.WithRatio(0.75)); err != nil {
		log.Fatal(err)
	}
	u := &uploads{limit: mmapbuf.NewLimit(int64(memory / 2)), dir: *dir, max: *max}

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("http://%s has %d MiB of memory for uploads", listener.Addr(), u.limit.Max()>>20)
	server := &http.Server{Handler: u, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Hour}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
}

// uploads is an http.Handler.
type uploads struct {
	limit *mmapbuf.Limit // of all uploads together
	dir   string         // for what exceeds it
	max   int64          // bytes of the largest upload
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	size, sum, err := u.receive(http.MaxBytesReader(w, r.Body, u.max))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		http.Error(w, fmt.Sprintf("more than %d bytes", u.max), http.StatusRequestEntityTooLarge)
	case errors.As(err, new(*fs.PathError)): // of the File: the disk is full, for example
		log.Print(err)
		http.Error(w, "no room for the upload", http.StatusInsufficientStorage)
	case err != nil:
		http.Error(w, fmt.Sprintf("upload broke off after %d bytes: %v", size, err), http.StatusBadRequest)
	default:
		fmt.Fprintf(w, "%d %x\n", size, sum)
	}
}

// receive reads an upload and returns its size and checksum.
func (u *uploads) receive(body io.Reader) (size int64, sum []byte, err error) {
	f := spool.New(&mmapbuf.Buffer{Limit: u.limit}, u.dir)
	defer f.Close() // releases memory and disk, also if the client breaks off
	if size, err = f.ReadFrom(body); err != nil {
		return size, nil, err
	}

	// A real server would use the whole upload here.
	if _, err = f.Seek(0, io.SeekStart); err != nil {
		return size, nil, err
	}
	hash := sha256.New()
	_, err = f.WriteTo(hash)
	return size, hash.Sum(nil), err
}
