// Package measure is what the benchmark commands share: it does pieces of work
// in processes of their own, so that none inherits the memory of another, and
// reports what they took.
package measure

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// jobVariable is the environment variable that makes a process a child: it holds
// the job to do.
const jobVariable = "MMAPBUF_BENCHMARK_JOB"

// Serve does the job that Run has for this process and ends it. In a process
// that Run did not start it returns at once. It is the first call of main, and
// of TestMain.
func Serve[J, A any](work func(job J) (A, error)) {
	spec := os.Getenv(jobVariable)
	if spec == "" {
		return
	}
	var job J
	err := json.Unmarshal([]byte(spec), &job)
	if err == nil {
		var answer A
		if answer, err = work(job); err == nil {
			err = json.NewEncoder(os.Stdout).Encode(answer)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err) // the parent puts its own prefix before it
		os.Exit(1)
	}
	os.Exit(0)
}

// A Reading is the resident memory of a process.
type Reading struct {
	At       time.Time
	Resident int64
}

// Run starts the program once more, has it do job, and decodes its answer. The
// readings are of the memory of the child meanwhile; there are none where the
// system does not tell. The child reads stdin, which may be nil.
func Run[A any](ctx context.Context, job any, stdin *os.File) (answer A, readings []Reading, err error) {
	exe, err := os.Executable()
	if err != nil {
		return answer, nil, err
	}
	spec, err := json.Marshal(job)
	if err != nil {
		return answer, nil, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), jobVariable+"="+string(spec))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := cmd.Start(); err != nil {
		return answer, nil, err
	}
	quit, done := make(chan struct{}), make(chan []Reading, 1)
	go func() { done <- watch(cmd.Process.Pid, quit) }()
	err = cmd.Wait()
	close(quit)
	readings = <-done
	if err != nil {
		// The first line says what happened: a crash of the runtime goes on
		// with stacks.
		if line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); line != "" {
			err = fmt.Errorf("%w: %s", err, line)
		}
		return answer, nil, err
	}
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		return answer, nil, fmt.Errorf("answer of the child: %w", err)
	}
	return answer, readings, nil
}

// watch reads the resident memory of a process until quit is closed. The process
// cannot do that itself: a collection that waits for a long copy to end stops all
// its other goroutines.
func watch(pid int, quit <-chan struct{}) (readings []Reading) {
	const every = 2 * time.Millisecond
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return nil // not known on this system
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return readings
		case <-tick.C:
		}
		// A process that has ended has no memory left.
		if stat, err := proc.Stat(); err == nil && stat.RSS > 0 {
			readings = append(readings, Reading{time.Now(), int64(stat.ResidentMemory())})
		}
	}
}
