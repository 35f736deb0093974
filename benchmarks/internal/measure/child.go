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

// Run starts the program again as a child that does job, and decodes its answer.
func Run[A any](ctx context.Context, job any) (answer A, err error) {
	exe, err := os.Executable()
	if err != nil {
		return answer, err
	}
	spec, err := json.Marshal(job)
	if err != nil {
		return answer, err
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), jobVariable+"="+string(spec))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		// If the runtime has crashed, stacks follow the first line.
		if line, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n"); line != "" {
			err = fmt.Errorf("%w: %s", err, line)
		}
		return answer, err
	}
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		return answer, fmt.Errorf("answer of the child: %w", err)
	}
	return answer, nil
}
