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

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
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

// TestWorksUnderSeccomp lives with system calls that are refused: nothing is lost, and
// nobody is told.
func TestWorksUnderSeccomp(t *testing.T) {
	if raceEnabled {
		t.Skip("there is one goroutine, and the race detector takes its time")
	}
	const mremapFlags = 3
	tests := map[string]struct {
		filter  filter
		copying bool
	}{
		"mremap, EPERM":  {filter{call: unix.SYS_MREMAP, errno: unix.EPERM}, true},
		"mremap, ENOSYS": {filter{call: unix.SYS_MREMAP, errno: unix.ENOSYS}, true},
		"mremap, ENOMEM": {filter{call: unix.SYS_MREMAP, errno: unix.ENOMEM}, true},
		"MREMAP_FIXED":   {filter{unix.SYS_MREMAP, unix.EPERM, mremapFlags, unix.MREMAP_FIXED}, true},
		"madvise":        {filter{call: unix.SYS_MADVISE, errno: unix.EPERM}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if !inChild(t) {
				return
			}
			install(t, tt.filter)
			useAll(t)
			needMoves(t)
			require.Equal(t, tt.copying, vm.MovesRefused())
			require.Equal(t, tt.copying, ReadStats().Copies > 0)
			require.LessOrEqual(t, vm.Lost(), 1, "the first refusal is the last")
			require.False(t, !vm.Available())
		})
	}
}

// TestViewWithoutRoomForACopyPanics refuses to move the pages of a view where there is
// room for the object that they were to go to, but for no other.
func TestViewWithoutRoomForACopyPanics(t *testing.T) {
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
	require.ErrorIs(t, err, unix.ENOMEM)
	require.Contains(t, ReadStats().LastFailure, "cannot allocate memory")
	require.NotNil(t, b.m)
	require.True(t, bytes.Equal(want, b.Bytes()))
}

// TestRefusedCallsAreReplacedByCopies walks the ways without mremap(2) and mmap(2).
func TestRefusedCallsAreReplacedByCopies(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	install(t, filter{call: unix.SYS_MREMAP, errno: unix.EPERM})
	var b Buffer
	defer b.Close()
	var want bytes.Buffer
	step := func(n int) {
		p := randomBytes(uint64(n), n)
		_, _ = b.Write(p)
		want.Write(p)
		b.Next(n / 3)
		want.Next(n / 3)
		require.True(t, bytes.Equal(want.Bytes(), contents(&b)))
	}
	for range 20 {
		step(miB + 12345)
	}
	var c Buffer
	p := randomBytes(5, 9*miB)
	for off := 0; off < len(p); off += miB {
		_, _ = c.Write(p[off : off+miB])
	}
	require.NotNil(t, c.m)
	require.True(t, bytes.Equal(p, contents(&c)), "growth by copying")
	require.True(t, bytes.Equal(p, c.Bytes()), "publishing by copying")
	_ = c.Close()
	require.Positive(t, ReadStats().Copies)

	vm.RefuseMaps(true)
	for range 20 {
		step(miB + 54321)
	}
	require.Nil(t, b.m)
	require.ErrorIs(t, b.Reserve(vm.MaxSize), ErrTooLarge)
	require.True(t, bytes.Equal(want.Bytes(), contents(&b)))
}

// TestRefusedPublishCopies has views copied, as after a refusal of mremap(2):
// nothing leaks.
func TestRefusedPublishCopies(t *testing.T) {
	was := settled(t)
	defer vm.RefuseMoves(vm.MovesRefused())
	vm.RefuseMoves(true)
	for seed := range 20 {
		var b Buffer
		fill(&b, seed, 20*miB)
		_, _ = b.Read(make([]byte, 7*miB+1))
		require.NotNil(t, b.m)
		v := b.Bytes()
		require.Len(t, v, 13*miB-1)
		require.True(t, isFilled(v, seed, 7*miB+1))
		fill(&b, seed, miB)
		require.True(t, isFilled(b.Bytes()[13*miB-1:], seed, 0))
	}
	requireBackTo(t, was)
}

// TestRefusalConcernsOneMapping has one mapping locked, or marked, in part: it is
// then two VMAs, which mremap(2) does not grow. Other Buffers go on moving.
func TestRefusalConcernsOneMapping(t *testing.T) {
	tricks := map[string]func(p []byte) error{
		"MADV_DONTFORK": func(p []byte) error { return unix.Madvise(p, unix.MADV_DONTFORK) },
		"mlock":         unix.Mlock,
	}
	for name, trick := range tricks {
		t.Run(name, func(t *testing.T) {
			mapping.EmptyIdle() // b is to be a mapping of its own, which must grow
			b, want := mapped(t, 5*miB)
			if err := trick(b.m.Inspect().Mem[vm.Unit() : 2*vm.Unit()]); err != nil {
				t.Skip(err)
			}
			copies := ReadStats().Copies
			b.Grow(100 * miB)
			require.True(t, bytes.Equal(want, contents(b)))
			require.Greater(t, ReadStats().Copies, copies, "nothing was refused")

			mapping.EmptyIdle()
			c, want := mapped(t, 5*miB)
			moves := ReadStats()
			c.Grow(100 * miB)
			require.Greater(t, ReadStats().Moves+ReadStats().GrowsInPlace, moves.Moves+moves.GrowsInPlace)
			require.True(t, bytes.Equal(want, contents(c)))
		})
	}
}
