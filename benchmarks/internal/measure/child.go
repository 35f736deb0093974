// Package measure has the code that the benchmark commands share. It runs each piece of
// work in a process of its own, so that none inherits the memory of another, and
// reports what the work took.
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

// jobVariable is the environment variable that holds the job of a child.
const jobVariable = "MMAPBUF_BENCHMARK_JOB"

// Serve does the job that Run has passed to this process, and exits. In a process
// that Run did not start, it returns at once. It is the first call of main and of
// TestMain.
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
		fmt.Fprintln(os.Stderr, err) // the parent adds its own prefix
		os.Exit(1)
	}
	os.Exit(0)
}

// A Reading is the resident memory of a process.
type Reading struct {
	At       time.Time
	Resident int64
}

// Run starts the program again as a child that does job, and decodes its answer.
// The readings are of the memory of the child; there are none where the system
// does not tell.
func Run[A any](ctx context.Context, job any) (answer A, readings []Reading, err error) {
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
	if err := cmd.Start(); err != nil {
		return answer, nil, err
	}
	quit, done := make(chan struct{}), make(chan []Reading, 1)
	go func() { done <- watch(cmd.Process.Pid, quit) }()
	err = cmd.Wait()
	close(quit)
	readings = <-done
	if err != nil {
		// If the runtime has crashed, stacks follow the first line.
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
// cannot do that itself: while a collection waits for a long copy to end, its
// other goroutines do not run.
func watch(pid int, quit <-chan struct{}) (readings []Reading) {
	proc, err := procfs.NewProc(pid)
	if err != nil {
		return nil
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-quit:
			return readings
		case <-tick.C:
		}
		// A process that has ended has no memory.
		if stat, err := proc.Stat(); err == nil && stat.RSS > 0 {
			readings = append(readings, Reading{time.Now(), int64(stat.ResidentMemory())})
		}
	}
}
