//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A filter refuses a system call, as sandboxes do.
type filter struct {
	call  uintptr
	errno unix.Errno

	// Only calls whose argument arg has a bit of mask, if that is not 0.
	arg  int
	mask uint32
}

// install puts f in the way of all threads of the process, for good.
func install(t *testing.T, f filter) {
	t.Helper()
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jeq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jset = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	arg := uint32(16 + 8*f.arg) // the lower half of it in struct seccomp_data
	if binary.NativeEndian.Uint16([]byte{0, 1}) == 1 {
		arg += 4
	}
	prog := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the call
		{Code: jeq, K: uint32(f.call), Jf: 3},
		{Code: load, K: arg},
		{Code: jset, K: f.mask, Jf: 1},
		{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(f.errno)},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
	}
	if f.mask == 0 {
		prog = append(prog[:2], prog[4:]...)
		prog[1].Jf = 1
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	require.NoError(t, unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})))
	if errno != 0 {
		t.Skipf("no seccomp filters here: %v", errno)
	}
}

// limit leaves the process room bytes more of a resource than it takes by now,
// as status counts them under key, and returns what puts the old limit back.
func limit(t *testing.T, resource int, key string, room int) (restore func()) {
	t.Helper()
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(resource, &old))
	now := unix.Rlimit{Cur: uint64(status(t, key) + room), Max: old.Max}
	require.NoError(t, unix.Setrlimit(resource, &now))
	return func() { require.NoError(t, unix.Setrlimit(resource, &old)) }
}

// noRace skips a test of a limit that the race detector does not fit in.
func noRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector needs more than the limit leaves")
	}
}

// TestNoRoomForASecondObject refuses to move the pages of a view where there is
// room for the object that they were to go to, but for no other.
func TestNoRoomForASecondObject(t *testing.T) {
	noRace(t)
	needMoves(t)
	if !inChild(t) {
		return
	}
	_ = make([]byte, 32*miB) // the runtime dies of a lack of memory; let it have some
	b, want := mapped(t, 96*miB)
	install(t, filter{call: unix.SYS_MREMAP, errno: unix.EPERM})
	restore := limit(t, unix.RLIMIT_AS, "VmSize", 200*miB)
	err, panicked := caught(func() error { b.Bytes(); return nil })
	restore()
	require.True(t, panicked)
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.NotNil(t, b.m)
	require.True(t, bytes.Equal(want, b.Bytes()))
}

// useAll takes a Buffer through all that makes system calls, next to a
// bytes.Buffer.
func useAll(t *testing.T) {
	t.Helper()
	var b Buffer
	var want bytes.Buffer
	chunk := randomBytes(8, 3*miB/2)
	var views [][]byte
	was := stats.mappings.Load()
	for i := range 24 {
		_, _ = b.Write(chunk[i:])
		want.Write(chunk[i:])
		require.True(t, bytes.Equal(want.Bytes(), contents(&b)), "Write")
		_, err := io.ReadFull(&b, make([]byte, miB/2))
		require.NoError(t, err)
		want.Next(miB / 2)
		if i%8 == 7 {
			b.Shrink()
			views = append(views, b.Bytes(), bytes.Clone(want.Bytes()))
		}
	}
	b.Truncate(miB)
	_, err := b.WriteAt([]byte("x"), 30*miB) // over old contents
	require.NoError(t, err)
	p := append(want.Bytes()[:miB], make([]byte, 29*miB)...)
	require.True(t, bytes.Equal(append(p, 'x'), contents(&b)), "WriteAt")
	for i := 0; i < len(views); i += 2 {
		require.True(t, bytes.Equal(views[i+1], views[i]), "a view")
	}
	_, err = io.CopyN(io.Discard, &b, 30*miB)
	require.NoError(t, err)
	require.Equal(t, "x", b.String())
	require.NoError(t, b.Close())
	views = nil
	eventually(t, func() bool { return stats.mappings.Load() <= was })
}

// TestSandboxed lives with system calls that are refused: nothing is lost, and
// nobody is told.
func TestSandboxed(t *testing.T) {
	if raceEnabled {
		t.Skip("there is one goroutine, and the race detector takes its time")
	}
	const mremapFlags, prctlOption = 3, 0
	tests := map[string]struct {
		filter           filter
		refused, copying bool
	}{
		"mremap, EPERM":  {filter{call: unix.SYS_MREMAP, errno: unix.EPERM}, true, true},
		"mremap, ENOSYS": {filter{call: unix.SYS_MREMAP, errno: unix.ENOSYS}, true, true},
		"MREMAP_FIXED":   {filter{unix.SYS_MREMAP, unix.EPERM, mremapFlags, unix.MREMAP_FIXED}, true, true},
		"madvise":        {filter{call: unix.SYS_MADVISE, errno: unix.EPERM}, false, false},
		"PR_SET_VMA":     {filter{unix.SYS_PRCTL, unix.EINVAL, prctlOption, unix.PR_SET_VMA}, false, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if !inChild(t) {
				return
			}
			install(t, tt.filter)
			useAll(t)
			needMoves(t)
			require.Equal(t, tt.refused, mremapRefused.Load())
			require.Equal(t, tt.copying, ReadStats().Copies > 0)
			require.False(t, mmapRefused.Load())
		})
	}
}

// manyThreads starts more threads than the runtime will need: each has a stack,
// which shall not take up what is left once there is a limit, nor look like a
// leak.
func manyThreads() {
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			runtime.LockOSThread()
			time.Sleep(20 * time.Millisecond)
			runtime.UnlockOSThread()
		})
	}
	wg.Wait()
}

// TestLockedMemoryLimit has all mappings locked in memory, within RLIMIT_MEMLOCK.
func TestLockedMemoryLimit(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	manyThreads()
	_ = make([]byte, 64*miB) // the runtime dies of a lack of memory; let it have some
	runtime.GC()
	chunk := randomBytes(10, miB)
	p := make([]byte, miB)
	// Root has leave to lock all; this thread shall not.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	require.NoError(t, unix.Capget(&header, &caps[0]))
	caps[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	require.NoError(t, unix.Capset(&header, &caps[0]))
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old))
	// By default the hard limit is 8 MiB, and 64 KiB before 5.16.
	lim := unix.Rlimit{Cur: 64 * miB, Max: max(64*miB, old.Max)}
	if unix.Setrlimit(unix.RLIMIT_MEMLOCK, &lim) != nil {
		if old.Max < 8*miB {
			t.Skip("no mapping fits into the hard limit, which is not for us to raise")
		}
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: old.Max, Max: old.Max}))
	}
	if err := unix.Mlockall(unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		t.Skipf("mlockall: %v", err)
	}

	var b Buffer
	write := func() error { _, err := b.Write(chunk); return err }
	var writeErr error
	panicked := false
	for writeErr == nil && b.Len() < giB {
		writeErr, panicked = caught(write)
	}
	n := b.Len()
	mapped := b.m != nil // unless the runtime has taken up the limit all the same
	_, writeAtErr := b.WriteAt(chunk, giB)
	reserveErr := b.Reserve(giB)
	viewErr, _ := caught(func() error { b.Bytes(); return nil })
	right := true
	for range n / miB {
		_, err := io.ReadFull(&b, p)
		right = right && err == nil && bytes.Equal(chunk, p)
	}
	usableErr, _ := caught(write)
	require.NoError(t, unix.Munlockall())

	require.True(t, panicked)
	errs := []error{writeErr, writeAtErr, reserveErr}
	if mapped {
		errs = append(errs, viewErr)
	}
	for _, err := range errs {
		require.ErrorIs(t, err, ErrTooLarge)
		require.ErrorIs(t, err, unix.EAGAIN)
	}
	require.True(t, right)
	require.NoError(t, usableErr)
	require.True(t, bytes.Equal(chunk, b.Bytes()))
}

// TestMapCountUsedUp leaves the process few mappings more than it has.
func TestMapCountUsedUp(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	const spare, buffers = 60, 80 // published, a Buffer takes two mappings
	needMemory(t, giB)
	manyThreads()
	_ = make([]byte, (buffers+20)*8*miB)
	runtime.GC()
	data := randomBytes(11, 5*miB) // what is shorter is copied
	page := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, 200_000*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	i := page
	for ; i < len(mem) && unix.Mprotect(mem[i:][:page], unix.PROT_READ) == nil; i += 2 * page {
	}
	if i >= len(mem) {
		t.Skip("vm.max_map_count is out of reach")
	}
	require.NoError(t, unix.Mprotect(mem[i-spare*page:i], unix.PROT_NONE)) // these merge

	bufs := make([]Buffer, buffers)
	errs := make([]error, buffers)
	for i := range bufs {
		_, _ = bufs[i].Write(data)
		errs[i], _ = caught(func() error { bufs[i].Bytes(); return nil })
	}
	copies := ReadStats().Copies
	require.NoError(t, unix.Munmap(mem))

	require.Positive(t, copies, "mappings were not used up")
	for i := range bufs {
		if errs[i] != nil {
			require.ErrorIs(t, errs[i], ErrTooLarge)
			require.ErrorIs(t, errs[i], unix.ENOMEM)
		}
		_, _ = bufs[i].WriteString("usable")
		require.True(t, bytes.Equal(append(data[:len(data):len(data)], "usable"...), bufs[i].Bytes()))
	}
}

// setSystem writes a setting of the whole system for the length of a test, and
// skips the test where that is not to be had.
func setSystem(t *testing.T, path, value, restore string) {
	t.Helper()
	if err := writeSetting(path, value); err != nil {
		t.Skipf("not for us to change: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, writeSetting(path, restore)) })
}

// writeSetting writes a file that the kernel must have.
func writeSetting(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// TestHugePagesNever and TestHugePagesAlways: what the system says is what
// happens, but for NoHugePages.
func TestHugePagesNever(t *testing.T) {
	if !inChild(t) {
		return
	}
	require.NoError(t, unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0))
	b, want := mapped(t, 16*miB)
	requireOneVMA(t, b, "without huge pages")
	require.Zero(t, vmas(t, b.m.mem)[0].huge)
	require.True(t, bytes.Equal(want, b.Bytes()))
	useAll(t)
}

func TestHugePagesAlways(t *testing.T) {
	const path = "/sys/kernel/mm/transparent_hugepage/enabled"
	s, err := os.ReadFile(path)
	if err != nil {
		t.Skip("the kernel has no transparent huge pages")
	}
	_, now, _ := strings.Cut(string(s), "[")
	now, _, _ = strings.Cut(now, "]")
	setSystem(t, path, "always", now)
	b := Buffer{NoHugePages: true}
	fill(&b, 1, 8*miB)
	require.Zero(t, vmas(t, b.m.mem)[0].huge)
	require.NoError(t, b.Close())
	useAll(t)
}

// TestStrictOvercommit has the kernel count all that is mapped, used or not. The
// bound is far above what anybody else on the machine can want.
func TestStrictOvercommit(t *testing.T) {
	const vm = "/proc/sys/vm/"
	mode, err := os.ReadFile(vm + "overcommit_memory")
	require.NoError(t, err)
	ratio, err := os.ReadFile(vm + "overcommit_ratio")
	require.NoError(t, err)
	if strings.TrimSpace(string(ratio)) == "0" || strings.TrimSpace(string(mode)) == "2" {
		t.Skip("the system has a bound of its own")
	}
	setSystem(t, vm+"overcommit_ratio", string(ratio), string(ratio))      // which the next line makes 0
	require.NoError(t, writeSetting(vm+"overcommit_kbytes", "1073741824")) // 1 TiB
	setSystem(t, vm+"overcommit_memory", "2", string(mode))

	b, want := mapped(t, 3*miB)
	err = b.Reserve(2 << 40)
	require.ErrorIs(t, err, ErrTooLarge)
	require.ErrorIs(t, err, unix.ENOMEM)
	_, err = b.WriteAt([]byte("x"), 2<<40)
	require.ErrorIs(t, err, unix.ENOMEM)
	require.NoError(t, b.Reserve(600*giB), "just enough, though twice as much is not to be had")
	_, _ = b.Write(want)
	require.True(t, bytes.Equal(append(want, want...), contents(b)))
	require.NoError(t, b.Close())
}

// TestMaxLenAgainstTheOOMKiller fills Buffers in a control group with less
// memory than they want: the one without MaxLen is the end of its process.
func TestMaxLenAgainstTheOOMKiller(t *testing.T) {
	noRace(t)
	for name, maxLen := range map[string]int{"with": 128 * miB, "without": 0} {
		t.Run(name, func(t *testing.T) {
			if maxLen > 0 {
				needMoves(t) // two times 128 MiB do not fit
			}
			out, err := inGroup(t, 256*miB)
			if out != nil {
				if maxLen > 0 {
					require.NoError(t, err, "%s", out)
					require.Contains(t, string(out), "--- PASS")
					return
				}
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit, "%s", out)
				require.Equal(t, unix.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
				return
			}
			b := Buffer{MaxLen: maxLen}
			chunk := randomBytes(12, miB)
			for range 400 {
				if _, err = b.Write(chunk); err != nil {
					break
				}
			}
			require.ErrorIs(t, err, ErrTooLarge)
			require.Equal(t, maxLen, b.Len())
			for range maxLen / miB {
				require.True(t, bytes.Equal(chunk, b.Next(miB)))
			}
		})
	}
}

// inGroup is runChild with a child in a control group of n bytes of memory.
func inGroup(t *testing.T, n int) ([]byte, error) {
	t.Helper()
	const key = "MMAPBUF_TEST_GROUP"
	if dir := os.Getenv(key); dir != "" {
		require.NoError(t, writeSetting(dir+"/cgroup.procs", "0"))
		return runChild(t)
	}
	for root, file := range map[string]string{
		"/sys/fs/cgroup":        "memory.max",            // version 2
		"/sys/fs/cgroup/memory": "memory.limit_in_bytes", // version 1
	} {
		dir, err := os.MkdirTemp(root, "mmapbuf-test-")
		if err != nil {
			continue
		}
		defer os.Remove(dir)
		if writeSetting(dir+"/"+file, strconv.Itoa(n)) == nil {
			t.Setenv(key, dir)
			return runChild(t)
		}
	}
	t.Skip("no control group with a limit of memory is to be had")
	return nil, nil
}
