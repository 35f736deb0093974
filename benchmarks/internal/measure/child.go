// Package measure does work in processes of its own, so that none inherits the
// memory of another, and tells what it took.
package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// jobVariable is the environment variable that makes a program a child: it
// holds the job to do.
const jobVariable = "MMAPBUF_EXAMPLE_JOB"

// sampleEvery is how often the resident memory of a child is read.
const sampleEvery = 2 * time.Millisecond

// IsChild reports whether Run started this process.
func IsChild() bool { return os.Getenv(jobVariable) != "" }

// Serve does the job that Run has for this process, and ends it. In a process
// that Run did not start it returns at once.
func Serve[J, A any](work func(job J) (A, error)) {
	if !IsChild() {
		return
	}
	if err := serve(os.Getenv(jobVariable), os.Stdout, work); err != nil {
		fmt.Fprintln(os.Stderr, err) // the parent puts its own prefix before it
		os.Exit(1)
	}
	os.Exit(0)
}

func serve[J, A any](spec string, w io.Writer, work func(job J) (A, error)) error {
	var job J
	if err := json.Unmarshal([]byte(spec), &job); err != nil {
		return fmt.Errorf("%s: %w", jobVariable, err)
	}
	answer, err := work(job)
	if err != nil {
		return err
	}
	return json.NewEncoder(w).Encode(answer)
}

// Run starts the program once more, has it do job, and decodes what it answers
// into answer. The readings are of its resident memory meanwhile; there are
// none where the system does not tell.
func Run(ctx context.Context, job, answer any) ([]Reading, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	spec, err := json.Marshal(job)
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), jobVariable+"="+string(spec))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	sampler := startSampler(cmd.Process.Pid)
	err = cmd.Wait()
	readings := sampler.stop()
	if err != nil {
		// The first line says what happened: a crash of the runtime goes on
		// with stacks.
		if line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); line != "" {
			return nil, fmt.Errorf("%w: %s", err, line)
		}
		return nil, err
	}
	if err := json.Unmarshal(stdout.Bytes(), answer); err != nil {
		return nil, fmt.Errorf("its report: %w", err)
	}
	return readings, nil
}

// A Reading is the resident memory of a process.
type Reading struct {
	At       time.Time
	Resident int64
}

// A sampler reads the resident memory of a child until it ends. The child
// cannot do that itself: a collection that waits for a long copy to end keeps
// all its other goroutines waiting as well.
type sampler struct {
	readings []Reading
	quit     chan struct{}
	done     chan struct{}
}

func startSampler(pid int) *sampler {
	s := &sampler{quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		gauge, err := openGauge(pid)
		if err != nil {
			return // not known on this system
		}
		defer gauge.close()
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-s.quit:
				return
			case <-tick.C:
			}
			if n, err := gauge.resident(); err == nil {
				s.readings = append(s.readings, Reading{time.Now(), n})
			}
		}
	}()
	return s
}

// stop returns the readings.
func (s *sampler) stop() []Reading {
	close(s.quit)
	<-s.done
	return s.readings
}

// A gauge reads the resident memory of a process.
type gauge struct {
	statm *os.File
	line  [128]byte
}

func openGauge(pid int) (*gauge, error) {
	statm, err := os.Open(fmt.Sprintf("/proc/%d/statm", pid))
	return &gauge{statm: statm}, err
}

// resident is called every few milliseconds, so it only reads again what it
// holds open.
func (g *gauge) resident() (int64, error) {
	n, err := g.statm.ReadAt(g.line[:], 0)
	if n == 0 {
		return 0, err // the process has ended
	}
	_, rest, _ := bytes.Cut(g.line[:n], []byte(" "))
	pages, _, _ := bytes.Cut(rest, []byte(" "))
	count, err := strconv.ParseInt(string(pages), 10, 64)
	return count * int64(os.Getpagesize()), err
}

func (g *gauge) close() { g.statm.Close() }
