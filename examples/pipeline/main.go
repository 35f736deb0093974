// Pipeline connects a producer to a slower consumer through a pipe without a
// bound. What has not been read yet is in a Buffer, and the memory of what has been
// read goes back to the system.
//
//	go -C examples run ./pipeline
package main

import (
	"fmt"
	"io"
	"log"
	"os"
	"sync"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	if err := run(os.Stdout, 256<<20); err != nil {
		log.Fatal(err)
	}
}

// run sends size bytes through a pipe, and prints what the pipe holds while the
// consumer is behind and once it has caught up.
func run(stdout io.Writer, size int) error {
	p := newPipe()
	defer p.Close()
	block := make([]byte, 64<<10)
	for sent := 0; sent < size; sent += len(block) {
		if _, err := p.Write(block); err != nil {
			return err
		}
		if sent%(size/4) == 0 {
			report(stdout, p)
		}
	}
	p.CloseWrite()
	for {
		n, err := io.CopyN(io.Discard, p, int64(size/4))
		report(stdout, p)
		if err == io.EOF && n == 0 {
			return nil
		} else if err != nil && err != io.EOF {
			return err
		}
	}
}

func report(stdout io.Writer, p *pipe) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(stdout, "in the pipe %4d MiB, mapped %4d MiB\n", p.buf.Len()>>20, mmapbuf.ReadStats().MappedBytes>>20)
}

// A pipe is written by one goroutine and read by another. Write does not wait;
// Read waits for data, and returns io.EOF after CloseWrite. With MaxLen of buf
// set, a Write that exceeds it stores what fits and fails.
type pipe struct {
	mu     sync.Mutex
	more   sync.Cond // signalled by Write, CloseWrite and Close
	buf    mmapbuf.Buffer
	read   int  // bytes since the last Shrink
	done   bool // nothing more is written
	closed bool
}

func newPipe() *pipe {
	p := new(pipe)
	p.more.L = &p.mu
	return p
}

// Write appends b to what is in the pipe.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return 0, io.ErrClosedPipe
	}
	p.more.Signal()
	return p.buf.Write(b)
}

// Read reads what is in the pipe.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.buf.Len() == 0 && !p.done && len(b) > 0 {
		p.more.Wait()
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	n, err := p.buf.Read(b)
	// Room that has been read is used again only when the Buffer grows.
	if p.read += n; p.read >= shrinkEvery {
		p.buf.Shrink()
		p.read = 0
	}
	return n, err
}

const shrinkEvery = 32 << 20

// CloseWrite says that nothing more is written. The reader gets the rest.
func (p *pipe) CloseWrite() { p.close(false) }

// Close drops what is in the pipe, and ends a Read that waits.
func (p *pipe) Close() { p.close(true) }

func (p *pipe) close(drop bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done, p.closed = true, p.closed || drop
	p.more.Broadcast()
	if drop {
		_ = p.buf.Close()
	}
}
