package proctest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Child is the environment variable that names the test of a child process.
const Child = "MMAPBUF_TEST_CHILD"

// InChild runs the test again in a process of its own, where it may use up a
// limit, and reports whether this is that process. In the parent it fails the
// test if the child does.
func InChild(t *testing.T, args ...string) bool {
	t.Helper()
	out, err := RunChild(t, args...)
	if out == nil {
		return true
	}
	t.Logf("%s", out)
	require.NoError(t, err)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "the test did not run")
	return false
}

// RunChild is InChild for a child that may die: it returns what the child has
// printed, and nil in the child.
func RunChild(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	if os.Getenv(Child) == t.Name() {
		return nil, nil
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	run := "-test.run=^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.Command(exe, append([]string{run, "-test.v", "-test.timeout=2m"}, args...)...)
	cmd.Env = append(os.Environ(), Child+"="+t.Name(), "GOTRACEBACK=none")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.ENOEXEC) {
		t.Skip("programs for this machine are run, but not by the kernel")
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("%s", out)
	}
	return append(out, '\n'), err
}

// Address returns that of mem.
func Address(mem []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(mem))) }

// A VMA is a line of /proc/self/smaps with what follows it, sizes in bytes.
type VMA struct {
	Lo, Hi    uintptr
	RSS, Huge int
	Flags     string // with a space around each
}

// VMAs returns the mappings of the process that overlap mem, or all of them if
// mem is nil.
func VMAs(t testing.TB, mem []byte) (vs []VMA) {
	t.Helper()
	s, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	lo, in := Address(mem), false
	hi := lo + uintptr(cap(mem))
	for line := range strings.Lines(string(s)) {
		var v VMA
		if n, _ := fmt.Sscanf(line, "%x-%x ", &v.Lo, &v.Hi); n == 2 {
			if in = mem == nil || v.Lo < hi && lo < v.Hi; in {
				vs = append(vs, v)
			}
		}
		key, value, _ := strings.Cut(line, ":")
		if !in {
			continue
		}
		last, kB := &vs[len(vs)-1], 0
		_, _ = fmt.Sscan(value, &kB)
		switch key {
		case "Rss":
			last.RSS = kB << 10
		case "AnonHugePages":
			last.Huge = kB << 10
		case "VmFlags":
			last.Flags = value
		}
	}
	return vs
}

// MapCount returns the number of mappings of the process.
func MapCount(t testing.TB) int {
	t.Helper()
	s, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	return bytes.Count(s, []byte("\n"))
}

// Pages returns a byte for each page of n bytes at an address, of which the lowest
// bit says whether it is in memory, whoever has mapped it. There are none if a page
// is not mapped.
func Pages(at uintptr, n int) ([]byte, error) {
	vec := make([]byte, n/os.Getpagesize()+1)
	at &^= uintptr(os.Getpagesize() - 1)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, at, uintptr(n), uintptr(unsafe.Pointer(&vec[0])))
	switch errno {
	case 0:
		return vec[:n/os.Getpagesize()], nil
	case unix.ENOMEM:
		return nil, nil
	}
	return nil, errno
}

// Resident returns how many of n bytes at an address are in memory, and 0 if some
// are not mapped.
func Resident(t testing.TB, at uintptr, n int) (sum int) {
	t.Helper()
	pages, err := Pages(at, n)
	require.NoError(t, err)
	for _, v := range pages {
		sum += int(v&1) * os.Getpagesize()
	}
	return sum
}

// Limit leaves the process room bytes more of a resource than it takes by now, as
// /proc/self/status counts them under key, and returns what puts the old limit back.
func Limit(t testing.TB, resource int, key string, room int) (restore func()) {
	t.Helper()
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(resource, &old))
	now := unix.Rlimit{Cur: uint64(Bytes("self/status", key) + int64(room)), Max: old.Max}
	require.NoError(t, unix.Setrlimit(resource, &now))
	return func() { require.NoError(t, unix.Setrlimit(resource, &old)) }
}
