// Package proctest looks at the process, for tests.
package proctest

import (
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Race reports whether the race detector is built in.
var Race = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// NoRace skips a test of a limit that the race detector does not fit in.
func NoRace(t testing.TB) {
	t.Helper()
	if Race {
		t.Skip("the race detector needs more than the limit leaves")
	}
}

// Set replaces a variable for the length of a test.
func Set[T any](t testing.TB, variable *T, value T) {
	t.Helper()
	old := *variable
	t.Cleanup(func() { *variable = old })
	*variable = value
}

// Eventually runs the collector and waits until cond is true; finalizers and
// cleanups run some time after the collection that finds them work, and an
// object with a finalizer takes two.
func Eventually(t testing.TB, cond func() bool) {
	t.Helper()
	WaitFor(t, func() bool { runtime.GC(); return cond() })
}

// WaitFor waits until cond is true. It counts tries instead of time, for a
// virtual machine may pause for longer than any deadline.
func WaitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for range 4000 {
		if cond() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	require.Fail(t, "the condition is never true")
}

// Bytes returns a figure of a file in /proc, in bytes, and 0 if there is none.
func Bytes(file, key string) int64 {
	s, _ := os.ReadFile("/proc/" + file)
	_, after, ok := strings.Cut(string(s), key+":")
	if !ok {
		return 0
	}
	kB, _ := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	return kB << 10
}

// NeedMemory skips a test or benchmark for which the machine has less than n
// bytes of free memory, where it tells.
func NeedMemory(t testing.TB, n int64) {
	t.Helper()
	if free := Bytes("meminfo", "MemAvailable"); free > 0 && free < n {
		t.Skipf("needs %d MiB of free memory, there are %d", n>>20, free>>20)
	}
}
