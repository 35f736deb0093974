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
	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// residentOf returns how much of the mapping of b is in memory.
func residentOf(t testing.TB, b *Buffer) int {
	t.Helper()
	mem := b.m.Inspect().Mem
	return residentAt(t, uintptr(base(mem)), cap(mem))
}

// vmaOf returns the mapping of b, which must be one VMA.
func vmaOf(t testing.TB, b *Buffer) proctest.VMA {
	t.Helper()
	vs := vmas(t, b.m.Inspect().Mem)
	require.Len(t, vs, 1)
	return vs[0]
}

// inLimitedChild is inChild for a test that leaves the process little memory. The
// runtime dies if it gets none, so it has some before.
func inLimitedChild(t *testing.T) bool {
	t.Helper()
	noRace(t)
	if !inChild(t) {
		return false
	}
	manyThreads() // each takes 72 MiB of addresses if there is C code
	_ = make([]byte, 32*miB)
	return true
}

// TestPeakMemory: a Buffer takes the memory of its contents, and little more.
func TestPeakMemory(t *testing.T) {
	size := byLength(256*miB, 256*miB, giB)
	needMemory(t, 2*int64(size))
	if !inChild(t) {
		return
	}
	noise()
	debug.FreeOSMemory()
	start := status(t, "VmRSS")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var b Buffer
	fill(&b, 1, size)
	runtime.ReadMemStats(&after)
	slack := 8 * miB
	if raceEnabled { // the detector's shadow of the slices
		slack = 32 * miB
	}
	assert.LessOrEqual(t, status(t, "VmHWM")-start, size/100*101+slack)
	if mapThreshold >= miB && !raceEnabled { // the slices on the way there; the detector's are twice as large
		assert.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(3*miB))
	}
	assert.NoError(t, b.Close())
	time.Sleep(2 * idleFor) // rather than to ask again and again, which takes memory as well
	assert.Less(t, status(t, "VmRSS")-start, 8*miB+slack, "after Close")
}

// TestQueueMemory: what is consumed does not stay.
func TestQueueMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("there is one goroutine, and the race detector takes its time")
	}
	const backlog = 128 * miB
	needMemory(t, 4*backlog)
	for _, step := range []int{64 * kiB, 3 * miB} {
		t.Run(sizeString(step), func(t *testing.T) {
			var b Buffer
			defer b.Close()
			fill(&b, 1, backlog)
			p, most := make([]byte, step), 0
			for i := range byLength(2, 2, 4) * backlog / step {
				_, _ = b.Write(noise()[:step])
				_, err := io.ReadFull(&b, p)
				require.NoError(t, err)
				if i%(8*miB/step+1) == 0 {
					most = max(most, residentOf(t, &b))
				}
			}
			assert.LessOrEqual(t, most, backlog*5/4+64*miB)
			_, err := io.ReadFull(&b, make([]byte, b.Len()-miB))
			require.NoError(t, err)
			assert.Less(t, residentOf(t, &b), 80*miB, "drained")
		})
	}
}

// TestReadBytesGivesBack: a line that ends beyond a step gives back what lies before
// it, not itself.
func TestReadBytesGivesBack(t *testing.T) {
	const lines = 12
	needMemory(t, giB/2)
	line := append(bytes.ReplaceAll(noise()[:5*miB], []byte("\n"), []byte(" ")), "x\n"...)
	var b Buffer
	defer b.Close()
	for i := range lines {
		line[0] = 'A' + byte(i)
		_, _ = b.Write(line)
	}
	for i := range lines {
		line[0] = 'A' + byte(i)
		got, err := b.ReadBytes('\n')
		require.NoError(t, err)
		require.NoError(t, diffBytes(got, line), "line %d", i)
	}
	require.Zero(t, b.Len())
	assert.LessOrEqual(t, residentOf(t, &b), 3*discardStep)
}

// TestSparse writes a few bytes here and there: each time takes a page.
func TestSparse(t *testing.T) {
	var b Buffer
	defer b.Close()
	for i := range int64(40) {
		_, err := b.WriteAt([]byte{1}, i*65*miB)
		require.NoError(t, err)
	}
	_, err := b.WriteAt([]byte("end"), 8*giB)
	require.NoError(t, err)
	require.Equal(t, 8*giB+3, b.Len())
	assert.LessOrEqual(t, residentOf(t, &b), 3*miB) // the first one gets a huge page
	p := make([]byte, 5)
	_, err = b.ReadAt(p, 8*giB-2)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00end", string(p))
}

func TestMemoryIsGivenBack(t *testing.T) {
	const size, gone = 64 * miB, -1
	needMemory(t, giB)
	ways := map[string]struct {
		do   func(b *Buffer)
		from int // of this offset on, the contents are kept
	}{
		"Close": {func(b *Buffer) { _ = b.Close() }, gone},
		"Shrink": {func(b *Buffer) {
			_, _ = io.CopyN(io.Discard, b, size-miB)
			b.Shrink()
			require.LessOrEqual(t, b.Cap(), 2*vm.Unit())
		}, size - miB},
		"Shrink of spare":    {func(b *Buffer) { b.Truncate(100); b.Shrink() }, 0},
		"unreachable":        {func(*Buffer) {}, gone},
		"view":               {func(b *Buffer) { b.Bytes() }, gone},
		"view, Close":        {func(b *Buffer) { b.Bytes(); _ = b.Close() }, gone},
		"view, growth, view": {func(b *Buffer) { b.Bytes(); fill(b, 1, size); b.Bytes() }, gone},
		"view that is copied": {func(b *Buffer) {
			defer vm.RefuseMoves(vm.MovesRefused())
			vm.RefuseMoves(true)
			_, _ = b.Read(make([]byte, 7*miB+1))
			require.True(t, isFilled(b.Bytes(), 1, 7*miB+1))
			fill(b, 2, miB)
			require.True(t, isFilled(b.Bytes()[size-7*miB-1:], 2, 0))
		}, gone},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			was := settled(t)
			var kept []*Buffer
			for range 4 { // 256 MiB, if it stayed
				b := new(Buffer)
				fill(b, 1, size)
				require.NotNil(t, b.m)
				way.do(b)
				if way.from != gone {
					kept = append(kept, b)
				}
			}
			requireBackTo(t, was)
			for _, b := range kept {
				require.True(t, isFilled(b.Bytes(), 1, way.from))
			}
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

// TestUnclosedAreCollected leaves many Buffers to the collector. Writing by small
// steps leaves slices of up to mapThreshold behind, which call for it; one Write
// leaves nothing, and nobody does.
func TestUnclosedAreCollected(t *testing.T) {
	const size = 2 * miB
	n, limit := byLength(200, 600, 600), 2*giB
	if *soak > 0 {
		n, limit = 10_000, 4*giB
	}
	needMemory(t, 2*int64(limit))
	for name, use := range map[string]func(b *Buffer, seed int){
		"half of them viewed": func(b *Buffer, seed int) {
			fill(b, seed, size)
			require.True(t, seed%2 == 0 || isFilled(b.Bytes()[size-100:], seed, size-100))
		},
		"nothing else allocates": func(b *Buffer, _ int) { _, _ = b.Write(noise()[:size]) },
	} {
		t.Run(name, func(t *testing.T) {
			was := settled(t)
			for i := range n {
				use(new(Buffer), i)
				if i%50 == 0 {
					require.LessOrEqual(t, status(t, "VmRSS")-was.rss, limit, "after %d Buffers", i)
				}
			}
			requireBackTo(t, was)
		})
	}
}

// TestBlockedFinalizer: a finalizer of the program that never returns keeps no memory
// of Buffers.
func TestBlockedFinalizer(t *testing.T) {
	if !inChild(t) {
		return
	}
	needMemory(t, 4*giB)
	block, running := make(chan int), make(chan int)
	runtime.SetFinalizer(new([32]int), func(*[32]int) { close(running); <-block })
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

// TestReservationStays writes little after Grow.
func TestReservationStays(t *testing.T) {
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
// huge page resident.
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
	v := vmaOf(t, &b)
	require.Contains(t, v.Flags, " nh ", "huge pages are enabled")
	assert.LessOrEqual(t, v.RSS, blocks*block*3/2)
	require.GreaterOrEqual(t, b.m.Inspect().Held, int64(v.RSS))
}

// TestHugePagesInOrder: while there are holes, what is written in order gets huge
// pages, in whatever way, and all does when they are filled, or were cut off.
func TestHugePagesInOrder(t *testing.T) {
	needHugePages(t)
	const n = 32 * miB
	block := noise()[:16*kiB]
	seek := func(f *File, off int) { _, _ = f.Seek(int64(off), io.SeekStart) }
	ways := map[string]struct {
		inside bool
		write  func(b *Buffer, f *File, off int)
	}{
		"File.WriteAt, inside": {true, func(b *Buffer, f *File, off int) { _, _ = f.WriteAt(block, int64(off)) }},
		"File.Write, inside":   {true, func(b *Buffer, f *File, off int) { seek(f, off); _, _ = f.Write(block) }},
		"File.Write":           {false, func(b *Buffer, f *File, off int) { seek(f, off); _, _ = f.Write(block) }},
		"Write":                {false, func(b *Buffer, _ *File, _ int) { _, _ = b.Write(block) }},
		"WriteAt":              {false, func(b *Buffer, _ *File, off int) { _, _ = b.WriteAt(block, int64(off)) }},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			noIdle(t)
			var b Buffer
			defer b.Close()
			b.Grow(100 * miB)
			f := NewFile(&b)
			require.NoError(t, f.Truncate(60*miB))
			if vm.Populate(b.m.Inspect().Mem[:vm.Unit()]) != nil {
				t.Skip("before Linux 5.14, there is no way")
			}
			from, was := b.Len(), vmaOf(t, &b).Huge
			if way.inside {
				from = miB
			}
			for off := from; off < from+n; off += len(block) {
				way.write(&b, f, off)
			}
			v := vmaOf(t, &b)
			assert.GreaterOrEqual(t, v.Huge-was, n-8*miB)
			require.Contains(t, v.Flags, " nh ", "huge pages are still enabled")
			require.NoError(t, invariants(&b))

			for off := 0; off < b.Len(); off += len(block) {
				_, _ = b.WriteAt([]byte{1}, int64(off))
			}
			require.Contains(t, vmaOf(t, &b).Flags, " hg ", "without holes, all is as before")
		})
	}
	t.Run("holes are cut off", func(t *testing.T) {
		noIdle(t)
		leaveIdle(t, 16*miB)
		var b Buffer
		defer b.Close()
		b.Grow(16 * miB)
		_, err := b.WriteAt([]byte("x"), 12*miB)
		require.NoError(t, err)
		require.True(t, b.m.Sparse())
		b.Reset()
		twoTicks()
		fill(&b, 1, 16*miB)
		require.NoError(t, invariants(&b))
		assert.GreaterOrEqual(t, vmaOf(t, &b).Huge, 12*miB)
	})
}

// TestLockedMemoryLimit has all mappings locked in memory, within RLIMIT_MEMLOCK.
func TestLockedMemoryLimit(t *testing.T) {
	if !inLimitedChild(t) {
		return
	}
	_ = make([]byte, 64*miB)
	runtime.GC()
	chunk, p := noise()[:miB], make([]byte, miB)
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
	var err error
	panicked := false
	for err == nil && b.Len() < giB {
		err, panicked = caught(write)
	}
	errs := []error{err}
	_, err = b.WriteAt(chunk, giB)
	errs = append(errs, err, b.Reserve(giB))
	mapped := b.m != nil // unless the runtime has taken up the limit all the same
	if err, _ = caught(func() error { b.Bytes(); return nil }); mapped {
		errs = append(errs, err)
	}
	right := true
	for range b.Len() / miB {
		_, err := io.ReadFull(&b, p)
		right = right && err == nil && bytes.Equal(chunk, p)
	}
	usableErr, _ := caught(write)
	require.NoError(t, unix.Munlockall())

	require.True(t, panicked)
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
	if !inLimitedChild(t) {
		return
	}
	const spare, buffers = 60, 80 // published, a Buffer takes two mappings
	needMemory(t, giB)
	_ = make([]byte, (buffers+20)*8*miB)
	runtime.GC()
	data := noise()[:5*miB] // what is shorter is copied
	page := os.Getpagesize()
	mem, err := unix.Mmap(-1, 0, 200_000*page, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	require.NoError(t, err)
	i := page
	for i < len(mem) && unix.Mprotect(mem[i:][:page], unix.PROT_READ) == nil {
		i += 2 * page
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
	want := append(bytes.Clone(data), "usable"...)
	for i := range bufs {
		if errs[i] != nil {
			require.ErrorIs(t, errs[i], ErrTooLarge)
			require.ErrorIs(t, errs[i], unix.ENOMEM)
		}
		_, _ = bufs[i].WriteString("usable")
		require.True(t, bytes.Equal(want, bufs[i].Bytes()))
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
	requireContents(t, b, append(want, want...))
	require.NoError(t, b.Close())
}

// resourceLimits are limits that a process sets itself. RLIMIT_DATA counts what can be
// written to: a mapping can still be moved then, but not grown.
var resourceLimits = map[string]struct {
	resource int
	counted  string
}{
	"RLIMIT_AS":   {unix.RLIMIT_AS, "VmSize"},
	"RLIMIT_DATA": {unix.RLIMIT_DATA, "VmData"},
}

// TestResourceLimit fills a Buffer until a limit is in the way of growing, and of a
// view. Little needs memory for little.
func TestResourceLimit(t *testing.T) {
	needMemory(t, giB)
	for name, l := range resourceLimits {
		t.Run(name, func(t *testing.T) {
			if !inLimitedChild(t) {
				return
			}
			chunk, p := noise()[:miB], make([]byte, miB)
			var b Buffer
			for b.Len() < 64*miB {
				_, _ = b.Write(chunk)
			}
			restore := limit(t, l.resource, l.counted, 400*miB)
			err, _ := caught(func() error {
				for {
					_, _ = b.Write(chunk)
				}
			})
			viewErr, _ := caught(func() error { b.Bytes(); return nil })
			nextErr, _ := caught(func() error { b.Next(400 * miB); return nil })
			reserveErr := b.Reserve(giB)
			n := b.Len()
			_, writeAtErr := b.WriteAt(chunk, int64(n+giB))
			right := true
			for i := range n / miB {
				_, err := b.ReadAt(p, int64(i*miB))
				right = right && err == nil && bytes.Equal(chunk, p)
			}
			little, _ := b.Peek(100)
			right = right && bytes.Equal(chunk[:100], little) && bytes.Equal(chunk[:100], b.Next(100))
			c, err1 := b.ReadByte()
			right = right && c == chunk[100] && err1 == nil && b.UnreadByte() == nil
			for range 300 {
				_, _ = b.Read(p)
			}
			left := b.Len()
			_, _ = b.Write(chunk) // what was consumed is room again
			usable := b.Len() == left+miB
			restore()

			// 64 MiB and 400 more, and no more than them: a move charges the
			// difference alone.
			require.Greater(t, n, 440*miB, "gave up early")
			for _, err := range []error{err, viewErr, nextErr, reserveErr, writeAtErr} {
				require.ErrorIs(t, err, ErrTooLarge)
				require.ErrorIs(t, err, unix.ENOMEM)
			}
			require.Regexp(t, `^mmapbuf: grow [0-9.]+ MiB to [0-9.]+ MiB: mmap: cannot allocate memory$`, err.Error())
			require.Regexp(t, `^mmapbuf: publish [0-9.]+ MiB: mmap: cannot allocate memory$`, viewErr.Error())
			require.True(t, right)
			require.True(t, usable)
			require.True(t, bytes.Equal(chunk[100:], b.Bytes()[:miB-100]))
		})
	}
}

// TestFillNeedsNoSpaceForACopy fills four fifths of the addresses that are to be
// had, and reads them back. append and bytes.Buffer die of that.
func TestFillNeedsNoSpaceForACopy(t *testing.T) {
	noRace(t)
	size := byLength(400, 400, 1200) * miB
	needMemory(t, 2*int64(size))
	chunk, p := noise()[:miB], make([]byte, miB)
	for name, tt := range map[string]struct {
		fill func()
		dies bool
	}{
		"append": {func() {
			var p []byte
			for len(p) < size {
				p = append(p, chunk...)
			}
			runtime.KeepAlive(p)
		}, true},
		"bytes.Buffer": {func() {
			var b bytes.Buffer
			for b.Len() < size {
				b.Write(chunk)
			}
		}, true},
		"mmapbuf.Buffer": {func() {
			var b Buffer
			for b.Len() < size {
				_, _ = b.Write(chunk)
			}
			for b.Len() > 0 {
				_, err := io.ReadFull(&b, p)
				require.NoError(t, err)
				require.True(t, bytes.Equal(chunk, p))
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := runChild(t)
			switch {
			case out == nil:
				limit(t, unix.RLIMIT_AS, "VmSize", size/4*5)
				tt.fill()
			case tt.dies:
				require.Error(t, err)
				require.Contains(t, string(out), "out of memory")
			default:
				require.NoError(t, err, "%s", out)
				require.Contains(t, string(out), "--- PASS: "+t.Name())
			}
		})
	}
}

// TestViewWithLittleAddressSpace views contents where there is no room for them and as much
// spare capacity, and where only the mapping's own unused end leaves any.
func TestViewWithLittleAddressSpace(t *testing.T) {
	needMemory(t, 4*giB)
	for name, tt := range map[string]struct{ reserve, room int }{
		"without spare":          {0, 480 * miB},
		"the unused end is cut":  {2 * giB, 100 * miB},
		"spare that is not used": {2 * giB, 480 * miB},
	} {
		t.Run(name, func(t *testing.T) {
			if !inLimitedChild(t) {
				return
			}
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

// TestRoomForHeapTables has a little more memory than a view takes. The runtime needs
// some for its tables as well, and dies if there is none.
func TestRoomForHeapTables(t *testing.T) {
	if !inLimitedChild(t) {
		return
	}
	const size, arenas = 4 * giB, 4*giB + 64*miB // what the object takes, of whole arenas
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
	case limit > 70_000:
		t.Skipf("vm.max_map_count is %d: out of reach", limit)
	case testing.Short():
		t.Skip("slow")
	}
	noRace(t)
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

// TestBudget lives with few mappings.
func TestBudget(t *testing.T) {
	eventually(t, func() bool { return ReadStats().Mappings == 0 })
	defer mapping.SetBudget(vm.HeapSplits() + 3)()

	p := noise()[:5*miB] // what is shorter is copied
	bufs := make([]Buffer, 5)
	for i := range bufs {
		_, _ = bufs[i].Write(p)
		assert.Equal(t, i < 3, bufs[i].m != nil)
	}
	_ = bufs[1].Close()
	was := vm.HeapSplits()
	mapping.SetBudget(was)
	for _, n := range []int{math.MaxInt, math.MaxInt - vm.Unit(), vm.MaxSize + 1} { // nor is there idle memory for it
		require.ErrorIs(t, new(Buffer).Reserve(n), ErrTooLarge)
	}
	assert.True(t, bytes.Equal(p, bufs[2].Bytes()), "published by copying")
	assert.Equal(t, was, vm.HeapSplits())
	m := bufs[0].m
	bufs[0].Shrink()
	assert.Same(t, m, bufs[0].m, "cut, not copied to a slice")
	assert.Equal(t, 6*miB, bufs[0].Cap())
	for _, i := range []int{0, 2, 3, 4} {
		requireContents(t, &bufs[i], p)
		_ = bufs[i].Close()
	}
}

// needGroup has the child of a test run in a control group of n bytes of memory.
func needGroup(t *testing.T, n int) {
	t.Helper()
	noRace(t)
	const key = "MMAPBUF_TEST_GROUP"
	if dir := os.Getenv(key); dir != "" {
		require.NoError(t, writeSetting(dir+"/cgroup.procs", "0"))
		return
	}
	for root, file := range map[string]string{
		"/sys/fs/cgroup":        "memory.max",            // version 2
		"/sys/fs/cgroup/memory": "memory.limit_in_bytes", // version 1
	} {
		dir, err := os.MkdirTemp(root, "mmapbuf-test-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.Remove(dir) })
		if writeSetting(dir+"/"+file, strconv.Itoa(n)) == nil {
			t.Setenv(key, dir)
			return
		}
	}
	t.Skip("no control group with a limit of memory is to be had")
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

// hugePagesAlways enables huge pages for all memory for the length of a test.
func hugePagesAlways(t *testing.T) {
	t.Helper()
	const path = "/sys/kernel/mm/transparent_hugepage/enabled"
	s, err := os.ReadFile(path)
	if err != nil {
		t.Skip("the kernel has no transparent huge pages")
	}
	_, now, _ := strings.Cut(string(s), "[")
	now, _, _ = strings.Cut(now, "]")
	setSystem(t, path, "always", now)
}

// TestGroupMemoryFollows looks at what a control group is charged for, which is
// not always what is resident: a huge page of which a part is unmapped counts
// as a whole until memory is short.
func TestGroupMemoryFollows(t *testing.T) {
	for _, mode := range []string{"as it is", "always"} {
		t.Run(mode, func(t *testing.T) {
			if mode == "always" && os.Getenv(proctest.Child) == "" {
				hugePagesAlways(t)
			}
			needGroup(t, giB)
			if inChild(t) {
				groupMemoryFollows(t)
			}
		})
	}
}

func groupMemoryFollows(t *testing.T) {
	const size = 128 * miB
	const slack = 32 * miB // slices that are not collected yet, page tables, stacks, what each processor has in stock
	var b Buffer
	fill(&b, 1, 8*miB)
	b.Bytes()
	require.NoError(t, b.Close())
	debug.FreeOSMemory()
	was := groupMemory(t)
	wait := func() { time.Sleep(50 * time.Millisecond) }
	// atMost waits until the group is charged for at most n bytes. A package that
	// keeps memory for the next Buffer may do so for a while.
	atMost := func(n int, when string) {
		t.Helper()
		is := groupMemory(t) - was
		for tries := 0; is > n+slack; tries++ {
			require.Less(t, tries, 200, "%s: %s instead of %s", when, sizeString(is), sizeString(n))
			wait()
			is = groupMemory(t) - was
		}
	}

	fill(&b, 1, size)
	require.Greater(t, groupMemory(t)-was, size-slack, "it is memory of this group")
	_, _ = io.CopyN(io.Discard, &b, size/2)
	atMost(size/2+size/8+2*discardStep, "half is consumed")
	b.Shrink()
	atMost(size/2, "Shrink")
	require.NoError(t, b.Close())
	atMost(0, "Close")

	// In pages of which each has contents, but which are not full.
	bufs := make([]Buffer, 20)
	for i := range bufs {
		fill(&bufs[i], i, 5*miB)
		_, _ = io.CopyN(io.Discard, &bufs[i], 3*miB)
		bufs[i].Shrink()
	}
	atMost(len(bufs)*(2*miB+2*max(vm.Unit(), mapThreshold)), "Shrink of many")
	for i := range bufs {
		require.NoError(t, bufs[i].Close())
	}
	atMost(0, "Close of many")

	for k := range 64 {
		fill(&b, k, 8*miB)
		if k > 1 {
			_, _ = io.CopyN(io.Discard, &b, 8*miB)
		}
		atMost(24*miB+2*discardStep, "a queue")
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
		require.True(t, isFilled(p, 4*k, miB+2*k*miB), "a view")
	}
	parts = nil
	wait = func() { debug.FreeOSMemory(); time.Sleep(50 * time.Millisecond) }
	wait()
	atMost(0, "views are collected")

	// And mappings that nobody has closed.
	for k := range 16 {
		fill(new(Buffer), k, 6*miB)
	}
	wait()
	atMost(0, "mappings are collected")
}

// TestGroupWithMemoryLimit forgets Buffers, four times as many as fit, in a
// control group with a limit of memory. The collector comes only near the
// limit that Go was given, as is usual in containers.
func TestGroupWithMemoryLimit(t *testing.T) {
	for name, views := range map[string]bool{"mappings": false, "views": true} {
		t.Run(name, func(t *testing.T) {
			const size = 256 * miB
			needGroup(t, size)
			if !inChild(t) {
				return
			}
			debug.SetGCPercent(-1)
			debug.SetMemoryLimit(size / 8 * 6)
			for k := range 4 * size / (10 * miB) {
				b := new(Buffer)
				fill(b, k, 10*miB)
				require.True(t, !views || isFilled(b.Bytes(), k, 0))
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
			needGroup(t, size)
			if !inChild(t) {
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
	fill(b, seed, total)
	if b.Len() != min(total, b.MaxLen) {
		return fmt.Errorf("%d of %d bytes", b.Len(), total)
	}
	p, off := make([]byte, piece), 0
	for b.Len() > 0 {
		n, err := b.Read(p)
		if err != nil || !isFilled(p[:n], seed, off) {
			return fmt.Errorf("other bytes at %d, or %v", off, err)
		}
		off += n
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
	const limit = 400 * miB
	needGroup(t, limit)
	if !inChild(t) {
		return
	}
	setIdleMax(t, giB)
	leaveIdle(t, limit/2)
	require.GreaterOrEqual(t, ReadStats().IdleBytes, int64(limit/2))
	p := make([]byte, limit*9/16)
	for i := 0; i < len(p); i += 4096 {
		p[i] = 1 // the kernel would kill us if it could not take the idle memory
	}
	var b Buffer
	fill(&b, 2, limit/16) // of idle memory of which some is gone
	require.True(t, isFilled(contents(&b), 2, 0))
	runtime.KeepAlive(p)
}

// TestMaxLenAgainstTheOOMKiller fills Buffers in a control group with less
// memory than they want: the one without MaxLen is the end of its process.
func TestMaxLenAgainstTheOOMKiller(t *testing.T) {
	for name, maxLen := range map[string]int{"with": 128 * miB, "without": 0} {
		t.Run(name, func(t *testing.T) {
			if maxLen > 0 {
				needMoves(t) // two times 128 MiB do not fit
			}
			needGroup(t, 256*miB)
			out, err := runChild(t)
			switch {
			case out == nil:
				b := Buffer{MaxLen: maxLen}
				fill(&b, 12, 400*miB)
				require.Equal(t, maxLen, b.Len())
				for off := 0; off < maxLen; off += miB {
					require.True(t, isFilled(b.Next(miB), 12, off))
				}
			case maxLen > 0:
				require.NoError(t, err, "%s", out)
				require.Contains(t, string(out), "--- PASS")
			default:
				var exit *exec.ExitError
				require.ErrorAs(t, err, &exit, "%s", out)
				require.Equal(t, unix.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
			}
		})
	}
}

// TestWithoutSys runs in a sandbox that has no /sys. What the kernel has of huge
// pages cannot be read there, but they are to be had.
func TestWithoutSys(t *testing.T) {
	needHugePages(t)
	if os.Getpagesize() != 4*kiB {
		t.Skip("the size of huge pages is anybody's guess")
	}
	if os.Getenv(proctest.Child) == "" {
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
	require.NotZero(t, vmaOf(t, b).Huge)
	require.NoError(t, b.Close())
	useAll(t)
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
	local, remote := []unix.Iovec{{Base: &p[0], Len: uint64(n)}}, []unix.RemoteIovec{{Base: at, Len: n}}
	k, err := unix.ProcessVMReadv(pid, local, remote, 0)
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
			const flags = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | unix.MAP_NORESERVE
			to, err := unix.MmapPtr(-1, 0, nil, uintptr(n+2*page), unix.PROT_NONE, flags)
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
				requireContents(t, b, mine)
			}
			change(1)
			move(t, b)
			requireContents(t, b, mine)
			change(0)
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

// TestViewsOnIdleMemory: a Buffer of some KiB on idle memory was viewed with all of a
// huge page, and Shrink kept all of it.
func TestViewsOnIdleMemory(t *testing.T) {
	setThreshold(t, miB) // below it idle memory alone makes a mapping
	leaveIdle(t, 10*miB)
	for _, n := range []int{40 * kiB, 100 * kiB, 128 * kiB, 700 * kiB} {
		for name, size := range map[string]func(b *Buffer) int{
			"Bytes":           func(b *Buffer) int { return cap(b.Bytes()) },
			"AvailableBuffer": func(b *Buffer) int { return cap(b.AvailableBuffer()) },
			"Shrink":          func(b *Buffer) int { b.Shrink(); return b.Cap() },
		} {
			var b Buffer
			fill(&b, 2, n)
			require.NotNil(t, b.m, "no idle memory")
			require.LessOrEqual(t, size(&b), 2*max(n, 128*kiB), name)
			require.True(t, isFilled(b.Bytes(), 2, 0), name)
		}
	}
}

// TestFailedWrite has the memory that is written from fault: nothing of what the
// storage was before shows through.
func TestFailedWrite(t *testing.T) {
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

// TestNoLockWhileWaiting reads from a Buffer with ReadAt while another goroutine,
// which lengthens it, waits for the collector.
func TestNoLockWhileWaiting(t *testing.T) {
	var b Buffer
	defer b.Close()
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
	require.Equal(t, noise()[5:105], p)
}

// TestPaceAllocs: a write that commits no memory does not look up how much there is to
// collect, which allocates.
func TestPaceAllocs(t *testing.T) {
	noIdle(t)
	var beside Buffer
	defer beside.Close()
	fill(&beside, 1, 70*miB)
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
	fill(new(Buffer), 1, 60*miB) // garbage
	var b Buffer
	defer b.Close()
	b.Grow(giB)
	was := mapping.Counters.Collections.Load()
	pieces := reader(func(q []byte) (int, error) { return copy(q, noise()[:64*kiB]), nil })
	_, _ = b.ReadFrom(io.LimitReader(pieces, 180*miB))
	require.Greater(t, mapping.Counters.Collections.Load(), was)
	waitFor(t, func() bool { return ReadStats().Mappings == 1 })
}

// TestFilledHolesCount fills holes by appending to what has become shorter, which is
// garbage like any other then.
func TestFilledHolesCount(t *testing.T) {
	const n = 32 * miB
	for name, shorten := range map[string]func(b *Buffer, f *File){
		"Reset":         func(b *Buffer, _ *File) { b.Reset() },
		"Truncate":      func(b *Buffer, _ *File) { b.Truncate(5 * miB) },
		"File.Truncate": func(_ *Buffer, f *File) { _ = f.Truncate(3 * miB) },
		"Read":          func(b *Buffer, _ *File) { _, _ = io.Copy(io.Discard, struct{ io.Reader }{b}) },
		"WriteTo":       func(b *Buffer, _ *File) { _, _ = b.WriteTo(io.Discard) },
		"sliding": func(b *Buffer, _ *File) {
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
		require.PanicsWithValue(t, errStale, func() { _ = stale.String() },
			"%s: a copy may have what was given back", name)
		fill(&b, 1, n-b.Len())
		require.NoError(t, invariants(&b), name)
		s := b.m.Inspect()
		assert.LessOrEqual(t, len(s.Touched)*vm.Unit()-int(s.Held), 4*miB, name) // what was not shortened
		assert.GreaterOrEqual(t, s.Held, int64(residentOf(t, &b)), name)
		require.NoError(t, b.Close())
	}
}

// TestShorterCopy uses a copy by value that has less contents than the Buffer. What is
// beyond its end is not there for it to clear, or to leave behind.
func TestShorterCopy(t *testing.T) {
	for name, use := range map[string]func(c *Buffer){
		"Bytes":           func(c *Buffer) { c.Bytes() },
		"AvailableBuffer": func(c *Buffer) { c.AvailableBuffer() },
		"ReadFrom":        func(c *Buffer) { _, _ = c.ReadFrom(bytes.NewReader(nil)) },
	} {
		for _, n := range []int{2*miB - 1000, 6*miB - 1000} {
			leaveIdle(t, 16*miB)
			var b Buffer
			fill(&b, 1, n)
			c := b
			_, _ = b.WriteString("more")
			use(&c)
			require.True(t, isFilled(contents(&c), 1, 0), name)
			var got []byte
			err, _ := caught(func() error { got = contents(&b); return nil })
			require.True(t, err == errStale || err == nil && string(got[n:]) == "more", "%s: %v", name, err)
		}
	}
}
