// Command pipeline connects a producer to a slower consumer through a pipe without a
// limit. A Buffer holds what has not been read yet; the memory of the rest goes back
// to the kernel.
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

// run sends size bytes through a pipe. It prints how much is in the pipe while the
// producer writes, and while the consumer catches up.
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

// A pipe is written by one goroutine and read by another. Write does not wait. If
// MaxLen of buf is set, a Write that exceeds it stores what fits and fails.
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

// Write appends b to the contents of the pipe.
func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return 0, io.ErrClosedPipe
	}
	p.more.Signal()
	return p.buf.Write(b)
}

// Read waits for data and reads it.
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
	// Read keeps 32 MiB and a quarter of the contents of what was read; Shrink none.
	if p.read += n; p.read >= shrinkEvery {
		p.buf.Shrink()
		p.read = 0
	}
	return n, err
}

const shrinkEvery = 32 << 20

// CloseWrite ends the data. Reads return what is left and then io.EOF.
func (p *pipe) CloseWrite() { p.close(false) }

// Close drops what is in the pipe. Reads and writes fail from now on.
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
