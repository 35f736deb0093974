package measure

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/term"
)

// A progress shows on standard error which run is under way: on a terminal in one
// line that changes, elsewhere in a new line every five seconds.
type progress struct {
	mu       sync.Mutex
	terminal bool
	began    time.Time
	name     string // of the run
	number   int    // of the run, from 1
	runs     int
	quit     chan struct{}
}

func newProgress(runs int) *progress {
	p := &progress{
		terminal: term.IsTerminal(int(os.Stderr.Fd())),
		began:    time.Now(),
		runs:     runs,
		quit:     make(chan struct{}),
	}
	interval := 5 * time.Second
	if p.terminal {
		interval = time.Second
	}
	go func() {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for {
			select {
			case <-p.quit:
				return
			case <-tick.C:
				p.mu.Lock()
				p.show()
				p.mu.Unlock()
			}
		}
	}()
	return p
}

// next begins the next run.
func (p *progress) next(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.name = name
	p.number++
	if p.terminal || p.number == 1 {
		p.show()
	}
}

// stop ends the display, and removes it from a terminal.
func (p *progress) stop() {
	close(p.quit)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
	}
	p.runs = 0
}

// show requires mu. The end of a line is cleared on a terminal.
func (p *progress) show() {
	if p.runs == 0 { // stopped meanwhile
		return
	}
	line := fmt.Sprintf("run %d of %d: %s (%.0f s so far)", p.number, p.runs, p.name, time.Since(p.began).Seconds())
	if p.terminal {
		fmt.Fprint(os.Stderr, "\r"+line+"\x1b[K")
	} else {
		fmt.Fprintln(os.Stderr, line)
	}
}
