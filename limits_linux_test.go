//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

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

	noIdle(t) // a mapping that was made before is not counted
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

// TestAddressSpaceLimit fills a Buffer until RLIMIT_AS is in the way.
func TestAddressSpaceLimit(t *testing.T) { testLimit(t, unix.RLIMIT_AS, "VmSize") }

// TestDataLimit does so with RLIMIT_DATA, which counts what can be written to:
// a mapping can still be moved then, but not grown.
func TestDataLimit(t *testing.T) { testLimit(t, unix.RLIMIT_DATA, "VmData") }

func testLimit(t *testing.T, resource int, counted string) {
	if raceEnabled {
		t.Skip("the race detector needs more addresses than the limit leaves")
	}
	needMemory(t, giB)
	if !inChild(t) {
		return
	}
	manyThreads() // each takes 72 MiB of addresses if there is C code
	chunk, p := randomBytes(6, miB), make([]byte, miB)
	_ = make([]byte, 32*miB) // the runtime dies of a lack of memory; let it have some
	var b Buffer
	for b.Len() < 64*miB {
		_, _ = b.Write(chunk)
	}
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(resource, &old))
	limit := uint64(status(t, counted) + 400*miB)
	require.NoError(t, unix.Setrlimit(resource, &unix.Rlimit{Cur: limit, Max: old.Max}))
	err, _ := caught(func() error {
		for {
			_, _ = b.Write(chunk)
		}
	})
	viewErr, _ := caught(func() error { b.Bytes(); return nil })
	reserveErr := b.Reserve(giB)
	_, writeAtErr := b.WriteAt(chunk, int64(b.Len()+giB))
	for i := range b.Len() / len(chunk) {
		n, err := b.ReadAt(p, int64(i*len(chunk)))
		if n < len(chunk) || err != nil || !bytes.Equal(chunk, p) {
			t.Errorf("chunk %d: %d, %v", i, n, err)
		}
	}
	for range 300 {
		_, _ = b.Read(p)
	}
	n := b.Len()
	_, _ = b.Write(chunk) // what was consumed is room again
	usable := b.Len() == n+len(chunk)
	require.NoError(t, unix.Setrlimit(resource, &old))

	// 64 MiB and 400 more, and no more than them: a move charges the
	// difference alone.
	require.Greater(t, n+300*miB, 440*miB, "gave up early")
	for _, err := range []error{err, viewErr, reserveErr, writeAtErr} {
		require.ErrorIs(t, err, ErrTooLarge)
		require.ErrorIs(t, err, unix.ENOMEM)
	}
	require.Regexp(t, `^mmapbuf: grow [0-9.]+ MiB to [0-9.]+ MiB: mmap: cannot allocate memory$`, err.Error())
	require.Regexp(t, `^mmapbuf: publish [0-9.]+ MiB: mmap: cannot allocate memory$`, viewErr.Error())
	require.True(t, usable)
	require.Equal(t, len(chunk), copy(p, b.Bytes()))
	require.True(t, bytes.Equal(chunk, p))
}

// TestFillNeedsNoSpaceForACopy fills four fifths of the addresses that are to be
// had, and reads them back. append and bytes.Buffer die of that.
func TestFillNeedsNoSpaceForACopy(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs more addresses than the limit leaves")
	}
	size := byLength(400, 400, 1200) * miB
	needMemory(t, 2*int64(size))
	chunk := randomBytes(7, miB)
	limit := func(t *testing.T) {
		n := uint64(status(t, "VmSize") + size/4*5)
		require.NoError(t, unix.Setrlimit(unix.RLIMIT_AS, &unix.Rlimit{Cur: n, Max: n}))
	}
	others := map[string]func(){
		"append": func() {
			var p []byte
			for len(p) < size {
				p = append(p, chunk...)
			}
			runtime.KeepAlive(p)
		},
		"bytes.Buffer": func() {
			var b bytes.Buffer
			for b.Len() < size {
				b.Write(chunk)
			}
		},
	}
	for name, fill := range others {
		t.Run(name, func(t *testing.T) {
			out, err := runChild(t)
			if out == nil {
				limit(t)
				fill()
				return
			}
			require.Error(t, err)
			require.Contains(t, string(out), "out of memory")
		})
	}
	t.Run("mmapbuf.Buffer", func(t *testing.T) {
		if !inChild(t) {
			return
		}
		p := make([]byte, miB)
		limit(t)
		var b Buffer
		for b.Len() < size {
			_, _ = b.Write(chunk)
		}
		for range size / miB {
			_, err := io.ReadFull(&b, p)
			require.NoError(t, err)
			require.True(t, bytes.Equal(chunk, p))
		}
		require.Zero(t, b.Len())
	})
}

// TestPublishBeyondLimit has limits that a process sets itself in the way of
// publishing, and of giving pages back.
func TestPublishBeyondLimit(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs more addresses than the limit leaves")
	}
	needMemory(t, 2*giB)
	limits := map[string]struct {
		resource int
		key      string
	}{
		"RLIMIT_AS":   {unix.RLIMIT_AS, "VmSize"},
		"RLIMIT_DATA": {unix.RLIMIT_DATA, "VmData"},
	}
	for name, l := range limits {
		// limited runs f with room bytes to spare.
		limited := func(t *testing.T, room int, f func()) {
			var old unix.Rlimit
			require.NoError(t, unix.Getrlimit(l.resource, &old))
			now := unix.Rlimit{Cur: uint64(status(t, l.key) + room), Max: old.Max}
			require.NoError(t, unix.Setrlimit(l.resource, &now))
			f()
			require.NoError(t, unix.Setrlimit(l.resource, &old))
		}
		t.Run(name+"/publish", func(t *testing.T) {
			if !inChild(t) {
				return
			}
			_ = make([]byte, 32*miB) // the runtime dies of a lack of memory; let it have some
			b, want := mapped(t, 256*miB)
			_, _ = b.Read(make([]byte, 1000))
			var bytesErr, nextErr error
			var little, rest []byte
			usable := false
			limited(t, 128*miB, func() {
				bytesErr, _ = caught(func() error { b.Bytes(); return nil })
				nextErr, _ = caught(func() error { b.Next(200 * miB); return nil })
				// Little needs memory for little.
				little, _ = b.Peek(100)
				rest = b.Next(100)
				c, err := b.ReadByte()
				usable = c == want[1100] && err == nil && b.UnreadByte() == nil
			})
			for _, err := range []error{bytesErr, nextErr} {
				require.ErrorIs(t, err, ErrTooLarge)
				require.ErrorIs(t, err, unix.ENOMEM)
			}
			require.True(t, usable)
			require.Equal(t, want[1000:1100], little)
			require.Equal(t, want[1000:1100], rest)
			require.True(t, bytes.Equal(want[1100:], b.Bytes()))
		})
	}
}

// TestViewWithLittleAddressSpace views contents where there is no room for them and as much
// spare capacity, and where only the mapping's own unused end leaves any.
func TestViewWithLittleAddressSpace(t *testing.T) {
	noRace(t)
	needMemory(t, 4*giB)
	tests := map[string]struct{ reserve, room int }{
		"without spare":          {0, 480 * miB},
		"the unused end is cut":  {2 * giB, 100 * miB},
		"spare that is not used": {2 * giB, 480 * miB},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if !inChild(t) {
				return
			}
			_ = make([]byte, 32*miB) // the runtime dies of a lack of memory; let it have some
			var b Buffer
			fill(&b, 1, 300*miB)
			b.Grow(tt.reserve)
			restore := limit(t, unix.RLIMIT_AS, "VmSize", tt.room)
			p := b.Next(miB)
			restore()
			require.Len(t, p, miB)
			require.True(t, isFilled(p, 1, 0))
			require.Nil(t, b.m, "a copy, not a view")
			require.True(t, isFilled(b.Bytes(), 1, miB))
		})
	}
}

// TestRoomForTheTablesOfTheHeap has a little more memory than a view takes. The
// runtime needs some for its tables as well, and dies if there is none.
func TestRoomForTheTablesOfTheHeap(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	const size, arenas = 4 * giB, 4*giB + 64*miB // what the object takes, of whole arenas
	manyThreads()
	for extra := miB; extra <= 16*miB; extra += 2 * miB {
		var b Buffer
		_, err := b.WriteAt([]byte("x"), size-1)
		require.NoError(t, err)
		restore := limit(t, unix.RLIMIT_AS, "VmSize", arenas+extra)
		var p []byte
		err, _ = caught(func() error { p = b.Bytes(); return nil })
		restore()
		if err == nil {
			require.Len(t, p, size)
			require.Equal(t, "x", string(p[size-1:]))
			return
		}
		require.ErrorIs(t, err, ErrTooLarge)
		require.NoError(t, b.Close())
	}
}

// TestMoreViewsThanMappings holds more views than the system has mappings for a process.
func TestMoreViewsThanMappings(t *testing.T) {
	s, err := os.ReadFile("/proc/sys/vm/max_map_count")
	require.NoError(t, err)
	var limit int
	_, _ = fmt.Sscan(string(s), &limit)
	switch {
	case raceEnabled:
		t.Skip("the race detector has no room for so large a heap")
	case limit > 70_000:
		t.Skipf("vm.max_map_count is %d: out of reach", limit)
	case testing.Short():
		t.Skip("slow")
	}
	needMemory(t, 3*giB)
	if !inChild(t) {
		return
	}
	// Where huge pages are for all, 2 MiB of the heap would be used for each view.
	require.NoError(t, unix.Prctl(unix.PR_SET_THP_DISABLE, 1, 0, 0, 0))
	var views [][]byte
	for i := range limit/2 + 3000 {
		b := Buffer{NoHugePages: true}
		b.Grow(4*mapThreshold + 1)
		_, _ = b.Write([]byte{byte(i), byte(i >> 8)})
		b.AvailableBuffer() // publishes more than Bytes, too much to be copied
		views = append(views, b.Bytes())
	}
	assert.Less(t, mapCount(t), limit*3/4, "too few are left to the runtime")
	for i, v := range views {
		require.Equal(t, []byte{byte(i), byte(i >> 8)}, v)
	}
}

// TestVMABudgetUsedUp lives with few mappings.
func TestVMABudgetUsedUp(t *testing.T) {
	eventually(t, func() bool { return ReadStats().Mappings == 0 })
	defer mapping.SetBudget(vm.HeapSplits() + 3)()

	p := randomBytes(9, 5*miB) // what is shorter is copied
	bufs := make([]Buffer, 5)
	for i := range bufs {
		_, _ = bufs[i].Write(p)
		assert.Equal(t, i < 3, bufs[i].m != nil)
	}
	_ = bufs[1].Close()
	was := vm.HeapSplits()
	mapping.SetBudget(was)
	assert.True(t, bytes.Equal(p, bufs[2].Bytes()), "published by copying")
	assert.Equal(t, was, vm.HeapSplits())
	m := bufs[0].m
	bufs[0].Shrink()
	assert.Same(t, m, bufs[0].m, "cut, not copied to a slice")
	assert.Equal(t, 6*miB, bufs[0].Cap())
	for i := range bufs {
		if i != 1 {
			assert.True(t, bytes.Equal(p, contents(&bufs[i])))
		}
		_ = bufs[i].Close()
	}
}
