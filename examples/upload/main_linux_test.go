package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Environment variables of the server that a test starts.
const (
	groupKey = "MMAPBUF_TEST_GROUP" // directory of its control group
	implKey  = "MMAPBUF_TEST_IMPL"  // bytes.Buffer; otherwise it is main
)

// TestMain is the server if its environment says so, and otherwise runs the tests.
func TestMain(m *testing.M) {
	dir := os.Getenv(groupKey)
	if dir == "" {
		os.Exit(m.Run())
	}
	if err := os.WriteFile(dir+"/cgroup.procs", []byte("0"), 0); err != nil { // 0 is this process
		log.Fatal(err)
	}
	if os.Getenv(implKey) == "bytes.Buffer" {
		serveBytesBuffer()
	}
	main()
	os.Exit(0)
}

// serveBytesBuffer is main with a bytes.Buffer for each upload.
func serveBytesBuffer() {
	if _, err := memlimit.Set(); err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("http://%s", listener.Addr())
	log.Fatal(http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var b bytes.Buffer
		size, err := b.ReadFrom(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%d %x\n", size, sha256.Sum256(b.Bytes()))
	})))
}

// A group is a control group with a limit of memory.
type group struct {
	dir string
	v2  bool
}

// newGroup makes a control group for n bytes of memory, and skips the test where it may not.
func newGroup(t *testing.T, n int64) group {
	t.Helper()
	for _, g := range []group{{"/sys/fs/cgroup", true}, {"/sys/fs/cgroup/memory", false}} {
		dir, err := os.MkdirTemp(g.dir, "mmapbuf-test-")
		if err != nil {
			continue
		}
		g.dir = dir
		t.Cleanup(func() { assert.NoError(t, os.Remove(dir)) })
		if g.set("memory.max", "memory.limit_in_bytes", strconv.FormatInt(n, 10)) == nil {
			_ = g.set("memory.swap.max", "memory.swappiness", "0")
			return g
		}
	}
	t.Skip("no control group with a limit of memory is to be had")
	return group{}
}

// file is the path of a setting, which is named v2 or v1.
func (g group) file(v2, v1 string) string {
	if g.v2 {
		return filepath.Join(g.dir, v2)
	}
	return filepath.Join(g.dir, v1)
}

func (g group) set(v2, v1, value string) error {
	f, err := os.OpenFile(g.file(v2, v1), os.O_WRONLY, 0) // it is not there without the controller
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}

// memory returns what the group is charged for, and how much of that is not of files.
func (g group) memory() (all, anonymous int64) {
	s, _ := os.ReadFile(g.file("memory.current", "memory.usage_in_bytes"))
	all, _ = strconv.ParseInt(strings.TrimSpace(string(s)), 10, 64)
	stat, _ := os.ReadFile(g.file("memory.stat", "memory.stat"))
	name := filepath.Base(g.file("anon", "total_rss"))
	for line := range strings.Lines(string(stat)) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			anonymous, _ = strconv.ParseInt(value, 10, 64)
		}
	}
	return all, anonymous
}

// peak watches the memory of g until stop is called, which returns the largest values.
func (g group) peak() (stop func() (all, anonymous int64)) {
	var all, anonymous int64
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			a, b := g.memory()
			all, anonymous = max(all, a), max(anonymous, b)
			select {
			case <-done:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return func() (int64, int64) {
		close(done)
		watch.Wait()
		return all, anonymous
	}
}

// start starts a server in g, with its flags if it is main.
func (g group) start(t *testing.T, impl string, args ...string) (cmd *exec.Cmd, url string) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd = exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), groupKey+"="+g.dir, implKey+"="+impl, "GOTRACEBACK=none")
	cmd.Env = slices.DeleteFunc(cmd.Env, func(s string) bool {
		return strings.HasPrefix(s, "GOMEMLIMIT=") || strings.HasPrefix(s, "AUTOMEMLIMIT=")
	})
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stderr)
	for url == "" && lines.Scan() {
		t.Log(lines.Text())
		if _, after, ok := strings.Cut(lines.Text(), "http://"); ok {
			url = "http://" + strings.Fields(after)[0]
		}
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines.Scan() {
			t.Log(lines.Text())
		}
	})
	t.Cleanup(func() { // before the group is removed
		_ = cmd.Process.Kill()
		reading.Wait()
		_ = cmd.Wait()
	})
	require.NotEmpty(t, url, "the server does not start")
	return cmd, url
}

// diskDir returns a directory that is on disk and has room for n bytes, or skips the
// test if there is none.
func diskDir(t *testing.T, n int64) string {
	t.Helper()
	const tmpfs, ramfs = 0x01021994, 0x858458f6
	why := ""
	for _, parent := range []string{os.TempDir(), "/var/tmp", "."} {
		var fs unix.Statfs_t
		if err := unix.Statfs(parent, &fs); err != nil {
			continue
		}
		free := int64(fs.Bavail) * int64(fs.Bsize)
		switch {
		case uint32(fs.Type) == tmpfs || uint32(fs.Type) == ramfs:
			why += fmt.Sprintf("; %s is in memory", parent)
		case free < n:
			why += fmt.Sprintf("; %s has %d MiB", parent, free/miB)
		default:
			dir, err := os.MkdirTemp(parent, "mmapbuf-test-")
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, os.Remove(dir), "something is left") })
			dir, err = filepath.Abs(dir)
			require.NoError(t, err)
			return dir
		}
	}
	t.Skipf("no directory on disk has room for %d MiB%s", n/miB, why)
	return ""
}

// inGroup returns the parameters of the test in a control group: how many uploads,
// their size, and the memory for them. They are 6.25 times as large as the memory with
// MMAPBUF_TEST_LONG, and otherwise half of that.
func inGroup(t *testing.T) (uploads int, size, memory int64) {
	t.Helper()
	if testing.Short() {
		t.Skip("it uploads almost a gigabyte")
	}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("the race detector needs memory of its own")
	}
	if os.Getenv("MMAPBUF_TEST_LONG") != "" {
		return 16, 200 * miB, 512 * miB
	}
	return 8, 100 * miB, 256 * miB
}

// All uploads arrive, although other clients break off.
func TestInGroup(t *testing.T) {
	n, size, memory := inGroup(t)
	dir := diskDir(t, int64(n+4)*size)
	g := newGroup(t, memory)
	cmd, url := g.start(t, "", "-listen", "127.0.0.1:0", "-dir", dir)

	start, peak := time.Now(), g.peak()
	var broken sync.WaitGroup
	for range 4 {
		broken.Go(func() { assert.NoError(t, breakOff(url, size)) })
	}
	err := sendAll(url, n, size, func() {
		all, anonymous := g.memory()
		t.Logf("all but the last bytes are there after %v; %d MiB of memory, %d without files",
			time.Since(start).Round(time.Millisecond), all/miB, anonymous/miB)
	})
	broken.Wait()
	all, anonymous := peak()
	t.Logf("%d uploads of %d MiB in %v; at most %d of %d MiB of memory, %d without files",
		n, size/miB, time.Since(start).Round(time.Millisecond), all/miB, memory/miB, anonymous/miB)
	require.NoError(t, err)
	assert.Less(t, anonymous, memory*3/4, "more than what is for uploads and Go")

	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.NoError(t, cmd.Wait(), "it was not killed, and stops when it is told to")
}

// A server with a bytes.Buffer for each upload does not survive that.
func TestBytesBufferInGroup(t *testing.T) {
	n, size, memory := inGroup(t)
	g := newGroup(t, memory)
	cmd, url := g.start(t, "bytes.Buffer")
	start := time.Now()
	err := sendAll(url, n, size, func() {})
	t.Logf("after %v: %.200s", time.Since(start).Round(time.Millisecond), fmt.Sprint(err))
	require.Error(t, err)
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal(), "the kernel has killed it")
}
