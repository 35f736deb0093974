//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"
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

// needAddresses skips a test of limits that the race detector does not fit in.
func needAddresses(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector needs more addresses than the limit leaves")
	}
}

// TestNoRoomForASecondObject refuses to move the pages of a view where there is
// room for the object that they were to go to, but for no other.
func TestNoRoomForASecondObject(t *testing.T) {
	needAddresses(t)
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
