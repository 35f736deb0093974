//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

func TestPeakMemoryIsPayload(t *testing.T) {
	size := byLength(256*miB, 256*miB, giB)
	needMemory(t, 2*int64(size))
	if !inChild(t) {
		return
	}
	chunk := randomBytes(3, 64*kiB)
	debug.FreeOSMemory()
	base := status(t, "VmRSS")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var b Buffer
	for b.Len() < size {
		_, _ = b.Write(chunk)
	}
	runtime.ReadMemStats(&after)
	peak := status(t, "VmHWM") - base
	t.Logf("peak %s above the start for %s", sizeString(peak), sizeString(size))
	slack := 8 * miB
	if raceEnabled { // the detector's shadow of the slices
		slack = 32 * miB
	}
	assert.LessOrEqual(t, peak, size/100*101+slack)
	if mapThreshold >= miB && !raceEnabled { // the slices on the way there; the detector's are twice as large
		garbage := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s allocated on the Go heap", sizeString(int(garbage)))
		assert.LessOrEqual(t, garbage, uint64(3*miB))
	}
	assert.NoError(t, b.Close())
	time.Sleep(2 * idleFor) // rather than to ask again and again, which takes memory as well
	assert.Less(t, status(t, "VmRSS")-base, 8*miB+slack, "after Close")
}

func TestQueueMemoryFollowsItsBacklog(t *testing.T) {
	if raceEnabled {
		t.Skip("there is one goroutine, and the race detector takes its time")
	}
	const backlog = 128 * miB
	needMemory(t, 4*backlog)
	for _, step := range []int{64 * kiB, 3 * miB} {
		t.Run(sizeString(step), func(t *testing.T) {
			var b Buffer
			defer b.Close()
			chunk := randomBytes(4, step)
			for b.Len() < backlog {
				_, _ = b.Write(chunk)
			}
			most := 0
			for i := range byLength(2, 2, 4) * backlog / step {
				_, _ = b.Write(chunk)
				_, err := io.ReadFull(&b, chunk)
				require.NoError(t, err)
				if i%(8*miB/step+1) == 0 {
					most = max(most, vmas(t, b.m.Inspect().Mem)[0].rss)
				}
			}
			assert.LessOrEqual(t, most, backlog*5/4+64*miB)
			// and all of it goes when it is drained
			_, err := io.ReadFull(&b, make([]byte, b.Len()-miB))
			require.NoError(t, err)
			assert.Less(t, vmas(t, b.m.Inspect().Mem)[0].rss, 80*miB)
		})
	}
}

// A line that ends beyond a step gives back what lies before it, not itself.
func TestReadBytesGivesMemoryBack(t *testing.T) {
	const size, lines = 5*miB + 3, 12
	needMemory(t, giB/2)
	line := bytes.ReplaceAll(randomBytes(12, size), []byte("\n"), []byte(" "))
	line[size-1] = '\n'
	var b Buffer
	defer b.Close()
	for i := range lines {
		line[i] = 'x'
		_, _ = b.Write(line)
		line[i] = 'y'
	}
	for i := range lines {
		got, err := b.ReadBytes('\n')
		require.NoError(t, err)
		require.Len(t, got, size)
		require.Equal(t, byte('x'), got[i], "line %d", i)
		require.True(t, bytes.Equal(line[lines:], got[lines:]), "line %d", i)
	}
	require.Zero(t, b.Len())
	require.NotNil(t, b.m)
	assert.LessOrEqual(t, residentAt(t, uintptr(base(b.m.Inspect().Mem)), len(b.m.Inspect().Mem)), 3*discardStep)
}

func TestSparseWriteAtTouchesNothing(t *testing.T) {
	var b Buffer
	defer b.Close()
	n, err := b.WriteAt([]byte("end"), 8*giB)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, 8*giB+3, b.Len())
	require.Less(t, vmas(t, b.m.Inspect().Mem)[0].rss, 8*miB)
	p := make([]byte, 5)
	_, err = b.ReadAt(p, 8*giB-2)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00end", string(p))
}

func TestMemoryIsGivenBack(t *testing.T) {
	const size = 64 * miB
	needMemory(t, giB)
	ways := map[string]func(t *testing.T){
		"Close": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			require.NoError(t, b.Close())
		},
		"Shrink": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			_, _ = io.CopyN(io.Discard, &b, size-miB)
			b.Shrink()
			require.LessOrEqual(t, b.Cap(), 2*vm.Unit())
			t.Cleanup(func() { require.True(t, isFilled(b.Bytes(), 1, size-miB)) })
		},
		"Shrink of spare": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Truncate(100)
			b.Shrink()
			t.Cleanup(func() { require.True(t, isFilled(b.Bytes(), 1, 0)) })
		},
		"unreachable": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
		},
		"view": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Bytes()
		},
		"view, Close": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size)
			b.Bytes()
			require.NoError(t, b.Close())
		},
		"view, growth, view": func(t *testing.T) {
			var b Buffer
			fill(&b, 1, size/2)
			b.Bytes()
			fill(&b, 1, size)
			b.Bytes()
		},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			was := settled(t)
			for range 4 { // 256 MiB, if it stayed
				way(t)
			}
			requireBackTo(t, was)
		})
	}
	t.Run("Close, without a collection", func(t *testing.T) {
		defer debug.SetGCPercent(debug.SetGCPercent(-1))
		was := settled(t)
		var b Buffer
		fill(&b, 1, size)
		require.NoError(t, b.Close())
		waitFor(t, func() bool {
			return (raceEnabled || status(t, "VmRSS") < was.rss+16*miB) && mapCount(t) <= was.maps+8
		})
	})
}

func TestManyUnclosedBuffersAreCollected(t *testing.T) {
	const size = 2 * miB
	data := pattern(3, size)
	// Writing by small steps leaves slices of up to mapThreshold
	// behind, which call for the collector; one Write, or Grow, leaves
	// nothing, and nobody does.
	makers := []struct {
		name string
		make func(i int) bool
	}{
		{"half of them viewed", func(i int) bool {
			var b Buffer
			fill(&b, i, size)
			return i%2 == 0 || isFilled(b.Bytes()[size-100:], i, size-100)
		}},
		{"nothing else allocates", func(int) bool {
			var b Buffer
			n, _ := b.Write(data)
			return n == size
		}},
	}
	for _, m := range makers {
		t.Run(m.name, func(t *testing.T) {
			n, limit := 600, 2*giB
			if testing.Short() {
				n = 200
			}
			if *soak > 0 {
				n, limit = 10_000, 4*giB
				needMemory(t, 8*giB)
			}
			needMemory(t, int64(limit))
			was := settled(t)
			most := 0
			for i := range n {
				require.True(t, m.make(i))
				if i%50 == 0 {
					most = max(most, status(t, "VmRSS")-was.rss)
					require.LessOrEqual(t, most, limit, "memory ran away after %d Buffers", i)
				}
			}
			t.Logf("%d Buffers of %s: at most %s resident", n, sizeString(size), sizeString(most))
			requireBackTo(t, was)
		})
	}
}

// TestBlockedFinalizerKeepsNoMemory: a finalizer of the program that never returns keeps no
// memory of Buffers.
func TestBlockedFinalizerKeepsNoMemory(t *testing.T) {
	if !inChild(t) {
		return
	}
	needMemory(t, 4*giB)
	block, running := make(chan int), make(chan int)
	func() {
		x := new([32]int)
		runtime.SetFinalizer(x, func(*[32]int) { close(running); <-block })
	}()
	runtime.GC()
	<-running
	was := settled(t)
	for seed := range 30 {
		var b Buffer
		fill(&b, seed, 64*miB)
		b.Bytes()
		if seed%2 == 0 {
			_ = b.Close()
		}
	}
	requireWithin(t, was, footprint{maps: 128, data: giB, rss: 64 * miB})
	close(block)
}

// TestReservationOutlivesSmallWrites writes little after Grow.
func TestReservationOutlivesSmallWrites(t *testing.T) {
	for _, n := range []int{1, smallSize, smallSize + 1} {
		var b Buffer
		b.Grow(64 * miB)
		require.NotNil(t, b.m)
		was := ReadStats()
		_, _ = b.Write(noise()[:n])
		require.GreaterOrEqual(t, b.Available(), 63*miB)
		_, _ = b.WriteAt(noise()[:n], 0)
		require.NoError(t, b.Close())
		require.Equal(t, was.Mappings-1, ReadStats().Mappings, "a mapping was left to the collector")
	}
}

// TestHolesStaySmall writes 1 % of a File of 4 GiB, at random: a few bytes made a
// huge page resident. What is written in order gets huge pages even there.
func TestHolesStaySmall(t *testing.T) {
	needHugePages(t)
	const size, block, blocks = 4 * giB, 16 * kiB, 2600
	needMemory(t, giB)
	var b Buffer
	defer b.Close()
	f := NewFile(&b)
	require.NoError(t, f.Truncate(size))
	random := rand.New(rand.NewPCG(1, 2))
	for range blocks {
		_, err := f.WriteAt(noise()[:block], random.Int64N(size/block)*block)
		require.NoError(t, err)
	}
	vs := vmas(t, b.m.Inspect().Mem)
	require.Len(t, vs, 1)
	require.Contains(t, vs[0].flags, " nh ", "huge pages are enabled")
	assert.LessOrEqual(t, vs[0].rss, blocks*block*3/2)
	require.GreaterOrEqual(t, b.m.Inspect().Held, int64(vs[0].rss))

	writes := []func(off int){
		func(off int) { _, _ = f.WriteAt(noise()[:block], int64(off)) },
		func(off int) { _, _ = f.Seek(int64(off), io.SeekStart); _, _ = f.Write(noise()[:block]) },
		func(int) { _, _ = b.Write(noise()[:block]) }, // at the end
	}
	if vm.Populate(b.m.Inspect().Mem[:vm.Unit()]) != nil {
		writes = nil // before Linux 5.14, there is no way
	}
	for i, write := range writes {
		require.NoError(t, b.Close())
		require.NoError(t, f.Truncate(64*miB))
		was := vmas(t, b.m.Inspect().Mem)[0].huge
		for off := miB; off < 33*miB; off += block {
			write(off)
		}
		assert.GreaterOrEqual(t, vmas(t, b.m.Inspect().Mem)[0].huge-was, 24*miB, "written in order, %d", i)
		vs := vmas(t, b.m.Inspect().Mem)
		require.Len(t, vs, 1)
		require.Contains(t, vs[0].flags, " nh ", "huge pages are still enabled")
		require.NoError(t, invariants(&b))
	}

	// Each write of a few bytes far out takes a page.
	var far Buffer
	defer far.Close()
	for i := range 40 {
		_, err := far.WriteAt([]byte{1}, int64(i)*65*miB)
		require.NoError(t, err)
	}
	assert.LessOrEqual(t, vmas(t, far.m.Inspect().Mem)[0].rss, 3*miB) // the first one gets a huge page

	// Without holes, all is as before.
	for off := 0; off < b.Len(); off += block {
		_, err := b.WriteAt([]byte{1}, int64(off))
		require.NoError(t, err)
	}
	require.NotContains(t, vmas(t, b.m.Inspect().Mem)[0].flags, " nh ", "huge pages are still disabled")
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

// childInGroup is inChild for a child in a control group of n bytes of memory.
func childInGroup(t *testing.T, n int) bool {
	t.Helper()
	noRace(t)
	out, err := inGroup(t, n)
	if out == nil {
		return true
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "the test did not run")
	return false
}

// groupMemory returns what the control group is charged for, in bytes.
func groupMemory(t *testing.T) int {
	t.Helper()
	dir := os.Getenv("MMAPBUF_TEST_GROUP")
	s, err := os.ReadFile(dir + "/memory.current") // version 2
	if err != nil {
		s, err = os.ReadFile(dir + "/memory.usage_in_bytes") // version 1
	}
	require.NoError(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(string(s)))
	require.NoError(t, err)
	return n
}

// slack is what a group may be charged for beside contents: slices that are not
// collected yet, page tables, stacks, and what each processor has in stock.
const slack = 32 * miB

// requireGroupMemory waits until the group is charged for at most n bytes more
// than was. A package that keeps memory for the next Buffer may do so for a
// while.
func requireGroupMemory(t *testing.T, was, n int, when string, while func()) {
	t.Helper()
	var is int
	for range 200 {
		while()
		if is = groupMemory(t) - was; is <= n+slack {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	require.Failf(t, "the control group is charged for too much",
		"%s: %s instead of %s; resident are %s", when, sizeString(is), sizeString(n), sizeString(status(t, "VmRSS")))
}

// TestGroupMemoryFollows looks at what a control group is charged for, which is
// not always what is resident: a huge page of which a part is unmapped counts
// as a whole until memory is short.
func TestGroupMemoryFollows(t *testing.T) {
	for _, mode := range []string{"as it is", "always"} {
		t.Run(mode, func(t *testing.T) {
			const path = "/sys/kernel/mm/transparent_hugepage/enabled"
			if mode == "always" && os.Getenv("MMAPBUF_TEST_CHILD") == "" {
				s, err := os.ReadFile(path)
				if err != nil {
					t.Skip("the kernel has no transparent huge pages")
				}
				_, now, _ := strings.Cut(string(s), "[")
				now, _, _ = strings.Cut(now, "]")
				setSystem(t, path, mode, now)
			}
			if childInGroup(t, giB) {
				groupMemoryFollows(t)
			}
		})
	}
}

func groupMemoryFollows(t *testing.T) {
	const size = 128 * miB
	idle := func() {}
	{
		var b Buffer
		fill(&b, 1, 8*miB)
		b.Bytes()
	}
	debug.FreeOSMemory()
	was := groupMemory(t)

	var b Buffer
	fill(&b, 1, size)
	require.Greater(t, groupMemory(t)-was, size-slack, "it is memory of this group")

	_, _ = io.CopyN(io.Discard, &b, size/2)
	requireGroupMemory(t, was, size/2+size/8+2*discardStep, "half is consumed", idle)
	b.Shrink()
	requireGroupMemory(t, was, size/2, "Shrink", idle)
	require.NoError(t, b.Close())
	requireGroupMemory(t, was, 0, "Close", idle)

	// In pages of which each has contents, but which are not full.
	bufs := make([]Buffer, 20)
	for i := range bufs {
		fill(&bufs[i], i, 5*miB)
		_, _ = io.CopyN(io.Discard, &bufs[i], 3*miB)
		bufs[i].Shrink()
	}
	unit := 2 * max(vm.Unit(), mapThreshold)
	requireGroupMemory(t, was, len(bufs)*(2*miB+unit), "Shrink of many", idle)
	for i := range bufs {
		require.NoError(t, bufs[i].Close())
	}
	requireGroupMemory(t, was, 0, "Close of many", idle)

	// A queue.
	for k := range 64 {
		fill(&b, k, 8*miB)
		if k > 1 {
			_, _ = io.CopyN(io.Discard, &b, 8*miB)
		}
		requireGroupMemory(t, was, 24*miB+2*discardStep, "a queue", idle)
	}
	require.NoError(t, b.Close())

	// Views, some copied, some moved. Of most, a part is what is kept longest.
	var parts [][]byte
	for k := range 16 {
		b := new(Buffer)
		fill(b, k, 2*miB+k*miB)
		p := b.Bytes()
		if k%4 == 0 {
			parts = append(parts, p[len(p)/2:])
		}
	}
	for k, p := range parts {
		n := 2*miB + 4*k*miB
		require.True(t, isFilled(p, 4*k, n-n/2), "a view")
	}
	parts = nil
	requireGroupMemory(t, was, 0, "views are collected", debug.FreeOSMemory)

	// And mappings that nobody has closed.
	for k := range 16 {
		fill(new(Buffer), k, 6*miB)
	}
	requireGroupMemory(t, was, 0, "mappings are collected", debug.FreeOSMemory)
}

// TestGroupWithMemoryLimit forgets Buffers, four times as many as fit, in a
// control group with a limit of memory. The collector comes only near the
// limit that Go was given, as is usual in containers.
func TestGroupWithMemoryLimit(t *testing.T) {
	for name, views := range map[string]bool{"mappings": false, "views": true} {
		t.Run(name, func(t *testing.T) {
			const size = 256 * miB
			if !childInGroup(t, size) {
				return
			}
			debug.SetGCPercent(-1)
			debug.SetMemoryLimit(size / 8 * 6)
			for k := range 4 * size / (10 * miB) {
				b := new(Buffer)
				fill(b, k, 10*miB)
				if views {
					require.True(t, isFilled(b.Bytes(), k, 0))
				}
			}
		})
	}
}

// TestGroupService serves requests of any size in a control group in which the
// Buffers fit if each has at most MaxLen.
func TestGroupService(t *testing.T) {
	const size, maxLen = 256 * miB, 16 * miB
	for name, tt := range map[string]struct {
		buffers int
		limit   bool
	}{
		"half of the memory":                         {size / maxLen / 2, false},
		"three quarters, and Go knows what there is": {size / maxLen * 3 / 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			if !childInGroup(t, size) {
				return
			}
			if tt.limit {
				debug.SetMemoryLimit(size / 10 * 9)
			}
			var wg sync.WaitGroup
			errs := make([]error, tt.buffers)
			end := time.Now().Add(runFor(3 * time.Second))
			for i := range errs {
				wg.Go(func() {
					b := Buffer{MaxLen: maxLen}
					for seed := i; time.Now().Before(end) && errs[i] == nil; seed += len(errs) {
						errs[i] = serve(&b, seed)
					}
				})
			}
			wg.Wait()
			require.NoError(t, errors.Join(errs...))
		})
	}
}

// serve takes a request into b, up to its MaxLen, and looks whether it is all
// there.
func serve(b *Buffer, seed int) error {
	r := rand.New(rand.NewPCG(uint64(seed), 0))
	total := r.IntN(b.MaxLen * 5 / 4)
	var err error
	for k, n := 0, total; n > 0 && err == nil; k, n = k+1, n-piece {
		_, err = b.Write(pieceOf(seed, k)[:min(n, piece)])
	}
	if b.Len() != min(total, b.MaxLen) || (total > b.MaxLen) != errors.Is(err, ErrTooLarge) {
		return fmt.Errorf("%d of %d bytes, and the error is %v", b.Len(), total, err)
	}
	p := make([]byte, piece)
	for k := 0; b.Len() > 0; k++ {
		n, err := io.ReadFull(b, p)
		if err != nil && err != io.ErrUnexpectedEOF || !bytes.Equal(p[:n], pieceOf(seed, k)[:n]) {
			return fmt.Errorf("piece %d is another, or %v", k, err)
		}
	}
	if r.IntN(2) == 0 {
		return b.Close()
	}
	b.Reset()
	return nil
}

// TestGroupTakesIdleMemory has idle memory of half of what the group may have,
// and then needs more than half for something else.
func TestGroupTakesIdleMemory(t *testing.T) {
	noRace(t)
	const limit = 400 * miB
	if !childInGroup(t, limit) {
		return
	}
	setIdleMax(t, giB)
	var b Buffer
	fill(&b, 1, limit/2)
	require.NoError(t, b.Close())
	require.GreaterOrEqual(t, ReadStats().IdleBytes, int64(limit/2))
	p := make([]byte, limit*9/16)
	for i := 0; i < len(p); i += 4096 {
		p[i] = 1 // the kernel would kill us if it could not take the idle memory
	}
	fill(&b, 2, limit/16) // of idle memory of which some is gone
	require.True(t, isFilled(contents(&b), 2, 0))
	runtime.KeepAlive(p)
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

// TestWithoutSys runs in a sandbox that has no /sys. What the kernel has of huge
// pages cannot be read there, but they are to be had.
func TestWithoutSys(t *testing.T) {
	needHugePages(t)
	if os.Getpagesize() != 4*kiB {
		t.Skip("the size of huge pages is anybody's guess")
	}
	if os.Getenv("MMAPBUF_TEST_CHILD") == "" {
		runtime.LockOSThread() // for good: the thread is of no use to others
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Skipf("unshare: %v", err)
		}
		require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		require.NoError(t, unix.Mount("tmpfs", "/sys", "tmpfs", 0, ""))
	}
	if !inChild(t) {
		return
	}
	require.NoDirExists(t, "/sys/kernel")
	b, _ := mapped(t, 16*miB)
	requireOneVMA(t, b, "without /sys")
	require.NotZero(t, vmas(t, b.m.Inspect().Mem)[0].huge)
	require.NoError(t, b.Close())
	useAll(t)
}

// TestSuccessThatMovesNothing has mremap(2) as the Linux layer of FreeBSD does:
// no mapping grows, for want of memory as it says, and what should move to an
// address stays where it is, and that is called a success.
func TestSuccessThatMovesNothing(t *testing.T) {
	const flags = 3
	for name, growing := range map[string]bool{"nothing grows": false, "growing works": true} {
		t.Run(name, func(t *testing.T) {
			noRace(t)
			if !inChild(t) {
				return
			}
			if growing {
				needMoves(t)
			} else {
				install(t, filter{call: unix.SYS_MREMAP, errno: unix.ENOMEM})
			}
			install(t, filter{unix.SYS_MREMAP, 0, flags, unix.MREMAP_FIXED}) // the last one decides
			useAll(t)
			require.True(t, vm.MovesRefused(), "no view was to be moved")
			require.Positive(t, ReadStats().Copies)
		})
	}
}

// TestGrowthRefusedForLackOfMemory has mremap(2) report, from a certain size on, a
// lack of memory of which there is none, as the kernel of RHEL 9.2 did.
func TestGrowthRefusedForLackOfMemory(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	const newSize = 2
	install(t, filter{unix.SYS_MREMAP, unix.ENOMEM, newSize, 0xfc00_0000})
	var b Buffer
	for i := range 200 {
		fill(&b, i, miB)
	}
	got := contents(&b)
	for i := range 200 {
		require.True(t, isFilled(got[i*miB:][:miB], i, 0))
	}
	require.Positive(t, ReadStats().Copies, "no growth was refused")
	require.NoError(t, b.Close())
}

// fork makes a process that does nothing but to have the same memory, in pages
// that are copied when one of the two writes, and returns its number.
func fork(t *testing.T) (pid int) {
	t.Helper()
	if runtime.GOARCH == "s390x" {
		t.Skip("has the arguments in another order")
	}
	id, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if id == 0 && errno == 0 {
		// Only system calls: there are no other threads here.
		unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0, 0)
		for {
			unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		}
	}
	require.Zero(t, errno)
	t.Cleanup(func() {
		_ = unix.Kill(int(id), unix.SIGKILL)
		_, _ = unix.Wait4(int(id), nil, unix.WALL, nil)
	})
	return int(id)
}

// memoryOf reads n bytes of the memory of another process.
func memoryOf(t *testing.T, pid int, at uintptr, n int) []byte {
	t.Helper()
	p := make([]byte, n)
	k, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &p[0], Len: uint64(n)}}, []unix.RemoteIovec{{Base: at, Len: n}}, 0)
	if err == unix.EPERM || err == unix.ENOSYS {
		t.Skipf("process_vm_readv: %v", err)
	}
	require.NoError(t, err)
	require.Equal(t, n, k)
	return p
}

// TestMoveAfterFork moves pages that a forked process shares. Linux 6.17 could
// make such pages writable for both when mremap(2) moved parts of huge pages one
// by one; what is then written here would show there.
func TestMoveAfterFork(t *testing.T) {
	const size = 12 * miB
	page := unix.Getpagesize()
	tests := map[string]func(t *testing.T, b *Buffer){
		"growth": func(t *testing.T, b *Buffer) {
			require.NoError(t, b.m.MoveAligned(giB))
			b.afterCut(0)
			require.NoError(t, b.Reserve(giB))
		},
		"publishing": func(t *testing.T, b *Buffer) {
			_ = b.Bytes()
			b.refresh()
		},
		// Where the address has no alignment, huge pages are moved in parts.
		"without alignment": func(t *testing.T, b *Buffer) {
			n := cap(b.m.Inspect().Mem)
			to, err := unix.MmapPtr(-1, 0, nil, uintptr(n+2*page), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
			require.NoError(t, err)
			require.NoError(t, b.m.MoveTo(unsafe.Slice((*byte)(to), n+page)[page:]))
			b.afterCut(0)
		},
	}
	for name, move := range tests {
		t.Run(name, func(t *testing.T) {
			noRace(t)
			if !inChild(t) {
				return
			}
			b, want := mapped(t, size)
			at := uintptr(base(b.m.Inspect().Mem))
			pid := fork(t)

			// Every other page becomes this process's own, so that a huge page is
			// mapped in parts, some of which may be written and some not.
			mine := bytes.Clone(want)
			change := func(first int) {
				for i := first * page; i < len(mine); i += 2 * page {
					mine[i] ^= 0xff
					_, err := b.WriteAt(mine[i:i+1], int64(i))
					require.NoError(t, err)
				}
			}
			change(1)
			move(t, b)
			require.True(t, bytes.Equal(mine, contents(b)))
			change(0)
			require.True(t, bytes.Equal(mine, contents(b)))
			require.True(t, bytes.Equal(want, memoryOf(t, pid, at, size)), "the other process sees what is written here")
		})
	}
}

// Idle memory and the pace of the collector, as far as it takes a Buffer or a File to
// see them. The rest is tested beside package mapping.

// leaveIdle makes n bytes idle memory, and nothing else.
func leaveIdle(t *testing.T, n int) {
	t.Helper()
	noIdle(t)
	var b Buffer
	fill(&b, 9, n)
	require.NoError(t, b.Close())
}

// TestNobodySeesBytesOfOthers has Buffers that write one value each, and looks at all
// that can be seen of each of them for other values but 0.
func TestNobodySeesBytesOfOthers(t *testing.T) {
	needMemory(t, giB)
	atBothThresholds(t, func(t *testing.T) {
		seed := testSeed(t)
		var wg sync.WaitGroup
		for g := range 3 {
			wg.Go(func() { walkAmongOthers(t, rand.New(rand.NewPCG(seed, uint64(g))), byte(1+g*80)) })
		}
		wg.Wait()
	})
}

// walkAmongOthers does random things with Buffers that write from value on.
func walkAmongOthers(t *testing.T, r *rand.Rand, value byte) {
	fresh := func() (*Buffer, byte, []byte) {
		value = max(value+1, 1)
		return &Buffer{NoHugePages: r.IntN(8) == 0}, value, bytes.Repeat([]byte{value}, 3*miB)
	}
	b, c, p := fresh()
	ok := true
	check := func(seen []byte, op string) {
		own := len(seen) == bytes.Count(seen, []byte{c})+bytes.Count(seen, []byte{0})
		ok = assert.True(t, own, "%s: bytes of another Buffer", op) && ok
	}
	for range byLength(250, 1000, 1000) {
		n := int(float64(len(p)) * r.Float64() * r.Float64())
		switch r.IntN(16) {
		case 0, 1, 2, 3:
			_, _ = b.Write(p[:n])
		case 4:
			view := b.Bytes()
			check(view[:cap(view)], "Bytes")
		case 5:
			view := b.AvailableBuffer()
			check(view[:cap(view)], "AvailableBuffer")
		case 6:
			view := b.Next(n)
			check(view[:cap(view)], "Next")
		case 7, 8:
			left := n
			_, _ = b.ReadFrom(reader(func(q []byte) (int, error) {
				check(q[:cap(q)], "ReadFrom")
				k := copy(q, p[:left])
				if left -= k; k == 0 {
					return 0, io.EOF
				}
				return k, nil
			}))
		case 9:
			_, _ = b.WriteAt(p[:n], int64(b.Len()+r.IntN(miB)))
		case 10:
			_, _ = b.WriteTo(writerFunc(func(q []byte) (int, error) {
				check(q[:cap(q)], "WriteTo")
				return min(n, len(q)), nil
			}))
		case 11:
			_, _ = io.ReadFull(b, p[:min(n, b.Len())])
		case 12:
			b.Truncate(r.IntN(b.Len() + 1))
		case 13:
			b.Shrink()
		case 14:
			b.Reset()
		case 15:
			_ = b.Close()
			b, c, p = fresh()
		}
		b.withContents(func(contents []byte) { check(contents, "contents") })
		if !ok {
			return
		}
		if b.Len() > 12*miB {
			_ = b.Close()
			b, c, p = fresh()
		}
		if r.IntN(100) == 0 {
			mapping.Tick()
		}
	}
	_ = b.Close()
}

// TestIdleMemoryIsNotForAnySize asks for more than there can be, where only idle
// memory is left: the size was rounded to a page.
func TestIdleMemoryIsNotForAnySize(t *testing.T) {
	leaveIdle(t, 8*miB)
	defer mapping.SetBudget(0)()
	var b Buffer
	for _, n := range []int{math.MaxInt, math.MaxInt - vm.Unit(), vm.MaxSize + 1} {
		require.ErrorIs(t, b.Reserve(n), ErrTooLarge, "%d", n)
		require.Zero(t, b.Cap())
	}
	require.NoError(t, b.Reserve(miB))
	require.NotNil(t, b.m)
	require.NoError(t, b.Close())
}

// TestIdleMemoryMakesNoLargeViews: a Buffer of some KiB on idle memory was viewed with
// all of a huge page, and Shrink kept all of it.
func TestIdleMemoryMakesNoLargeViews(t *testing.T) {
	setThreshold(t, miB) // below it idle memory alone makes a mapping
	leaveIdle(t, 10*miB)
	for _, n := range []int{40 * kiB, 100 * kiB, 128 * kiB, 700 * kiB} {
		onIdle := func() *Buffer {
			b := new(Buffer)
			fill(b, 2, n)
			require.NotNil(t, b.m, "no idle memory")
			return b
		}
		view := onIdle().Bytes()
		require.True(t, isFilled(view, 2, 0))
		require.LessOrEqual(t, cap(view), 2*max(n, 128*kiB))

		b := onIdle()
		spare := b.AvailableBuffer()
		require.Equal(t, b.Available(), cap(spare))
		require.LessOrEqual(t, cap(spare), 2*max(n, 128*kiB))

		b = onIdle()
		b.Shrink()
		require.LessOrEqual(t, b.Cap(), 2*n)
		require.True(t, isFilled(b.Bytes(), 2, 0))
	}
}

// TestFailedWriteShowsNothing has the memory that is written from fault.
func TestFailedWriteShowsNothing(t *testing.T) {
	const n = 3 * miB
	at, err := unix.MmapPtr(-1, 0, nil, n, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	defer func() { _ = unix.MunmapPtr(at, n) }()
	p := unsafe.Slice((*byte)(at), n)
	for name, call := range map[string]func(b *Buffer){
		"Write":           func(b *Buffer) { _, _ = b.Write(p) },
		"WriteString":     func(b *Buffer) { _, _ = b.WriteString(unsafe.String(&p[0], n)) },
		"Write, in place": func(b *Buffer) { b.Grow(2 * n); _, _ = b.Write([]byte("abc")); _, _ = b.Write(p[:20*kiB]) },
		"File.Write":      func(b *Buffer) { _, _ = NewFile(b).Write(p) },
		"WriteAt":         func(b *Buffer) { _, _ = b.WriteAt(p, 10) },
	} {
		leaveIdle(t, 8*miB)
		var b Buffer
		require.Error(t, sound(func() { call(&b) }), name)
		got := strings.TrimPrefix(b.String(), "abc")
		require.Equal(t, len(got), strings.Count(got, "\x00"), name)
		require.NoError(t, b.Close())
	}
}

// TestWaitForCollectorHoldsNoLock reads from a Buffer with ReadAt while another
// goroutine, which lengthens it, waits for the collector.
func TestWaitForCollectorHoldsNoLock(t *testing.T) {
	var b Buffer
	_, _ = b.Write(noise())
	release := mapping.HoldCollections(8 * giB) // as if a collection took for ever
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = b.WriteAt(noise(), 20*miB) })
	p := make([]byte, 100)
	for range 100 {
		_, err := b.ReadAt(p, 5)
		require.NoError(t, err)
		runtime.Gosched()
	}
	release()
	wg.Wait()
	require.True(t, bytes.Equal(noise()[5:105], p))
	require.NoError(t, b.Close())
}

// TestPaceOnlyWhereMemoryIsTaken: a write that commits no memory does not look up how
// much there is to collect, which allocates.
func TestPaceOnlyWhereMemoryIsTaken(t *testing.T) {
	noIdle(t)
	beside := filled(t, 6*miB)
	defer beside.Close()
	fill(beside, 1, 64*miB)
	b := &Buffer{MaxLen: giB}
	defer b.Close()
	_, _ = b.Write(noise()[:miB])
	b.Grow(2 * miB)
	f := NewFile(b)
	p, r := noise()[:10], bytes.NewReader(nil)
	_, _ = b.Write(p) // commits what is written below
	var plain io.Reader = struct{ io.Reader }{r}
	for name, call := range map[string]func(){
		"Write":          func() { _, _ = b.Write(p) },
		"WriteByte":      func() { _ = b.WriteByte(1) },
		"WriteRune":      func() { _, _ = b.WriteRune('é') },
		"WriteString":    func() { _, _ = b.WriteString("é") },
		"WriteAt":        func() { _, _ = b.WriteAt(p, int64(b.Len())) },
		"ReadFrom":       func() { r.Reset(p); _, _ = b.ReadFrom(plain) },
		"Reserve":        func() { _ = b.Reserve(10) },
		"Grow":           func() { b.Grow(10) },
		"File.Write":     func() { _, _ = f.Write(p) },
		"File.Truncate":  func() { _ = f.Truncate(f.Size() + 1) },
		"WriteAt inside": func() { _, _ = b.WriteAt(p, 5) },
	} {
		allocs := 0.0
		if name == "ReadFrom" {
			allocs = 1 // the chunk
		}
		assert.Equal(t, allocs, testing.AllocsPerRun(10, call), name)
	}
	if mapThreshold > 2*kiB && !raceEnabled {
		assert.LessOrEqual(t, testing.AllocsPerRun(10, func() {
			var small Buffer
			for range kiB {
				_ = small.WriteByte(1)
			}
		}), 5.0, "slices of 64 bytes to 1 KiB")
	}
}

// TestReadFromPaces: a Reader of small pieces takes memory as well.
func TestReadFromPaces(t *testing.T) {
	needMemory(t, giB)
	noIdle(t)
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	debug.FreeOSMemory()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(int64(ms.Sys-ms.HeapReleased) + 200*miB))
	func() { fill(new(Buffer), 1, 60*miB) }() // garbage
	var b Buffer
	defer b.Close()
	b.Grow(giB)
	was, p := mapping.Counters.Collections.Load(), noise()[:64*kiB]
	_, _ = b.ReadFrom(io.LimitReader(reader(func(q []byte) (int, error) { return copy(q, p), nil }), 180*miB))
	require.Greater(t, mapping.Counters.Collections.Load(), was)
	waitFor(t, func() bool { return ReadStats().Mappings == 1 })
}

// TestFilledHolesCount fills holes by appending to what has become shorter, which is
// garbage like any other then.
func TestFilledHolesCount(t *testing.T) {
	const n = 32 * miB
	for name, shorten := range map[string]func(b *Buffer, f *File){
		"Reset":         func(b *Buffer, f *File) { b.Reset() },
		"Truncate":      func(b *Buffer, f *File) { b.Truncate(5 * miB) },
		"File.Truncate": func(b *Buffer, f *File) { require.NoError(t, f.Truncate(3*miB)) },
		"Read":          func(b *Buffer, f *File) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{b}) },
		"WriteTo":       func(b *Buffer, f *File) { _, _ = b.WriteTo(io.Discard) },
		"sliding": func(b *Buffer, f *File) {
			_, _ = io.CopyN(io.Discard, struct{ io.Reader }{b}, n-3*miB)
			b.Grow(n/2 - 4*miB)
			require.Zero(t, b.off)
		},
	} {
		var b Buffer
		f := NewFile(&b)
		require.NoError(t, f.Truncate(n), name)
		require.True(t, b.m.Sparse(), name)
		stale := b
		shorten(&b, f)
		require.NoError(t, invariants(&b), name)
		require.PanicsWithValue(t, errStale, func() { _ = stale.String() }, "%s: a copy may have what was given back", name)
		for b.Len() < n {
			writeAllOf(t, &b, noise()[:miB])
		}
		require.NoError(t, invariants(&b), name)
		s := b.m.Inspect()
		assert.LessOrEqual(t, len(s.Touched)*vm.Unit()-int(s.Held), 4*miB, name) // what was not shortened
		assert.GreaterOrEqual(t, s.Held, int64(residentAt(t, uintptr(base(s.Mem)), cap(s.Mem))), name)
		require.NoError(t, b.Close())
	}
}

// TestShorterCopyLosesNothing uses a copy by value that has less contents than the
// Buffer. What is beyond its end is not there for it to clear, or to leave behind.
func TestShorterCopyLosesNothing(t *testing.T) {
	for name, use := range map[string]func(c *Buffer){
		"Bytes":           func(c *Buffer) { c.Bytes() },
		"AvailableBuffer": func(c *Buffer) { c.AvailableBuffer() },
		"ReadFrom":        func(c *Buffer) { _, _ = c.ReadFrom(bytes.NewReader(nil)) },
	} {
		for _, n := range []int{2*miB - 1000, 6*miB - 1000} {
			t.Run(fmt.Sprint(name, n), func(t *testing.T) {
				leaveIdle(t, 16*miB)
				var b Buffer
				fill(&b, 1, n)
				c := b
				_, _ = b.WriteString("more")
				use(&c)
				require.True(t, isFilled(contents(&c), 1, 0))
				var got []byte
				err, _ := caught(func() error { got = contents(&b); return nil })
				require.True(t, err == errStale || err == nil && string(got[n:]) == "more", "%v", err)
			})
		}
	}
}
