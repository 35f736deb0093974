//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A vma is a line of /proc/self/smaps with what follows it, sizes in bytes.
type vma struct {
	lo, hi    uintptr
	rss, huge int
	flags     string // with a space around each
}

// vmas returns the mappings of the process that overlap mem, or all of them if
// mem is nil.
func vmas(t testing.TB, mem []byte) []vma {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	require.NoError(t, err)
	defer f.Close()
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	hi := lo + uintptr(cap(mem))
	var vs []vma
	in := false
	for s := bufio.NewScanner(f); s.Scan(); {
		var v vma
		var kB int
		switch line := s.Text(); {
		case strings.HasPrefix(line, "Rss:"):
			if _, err := fmt.Sscanf(line, "Rss: %d kB", &kB); in && err == nil {
				vs[len(vs)-1].rss = kB << 10
			}
		case strings.HasPrefix(line, "VmFlags:"):
			if in {
				vs[len(vs)-1].flags = strings.TrimPrefix(line, "VmFlags:")
			}
		case strings.HasPrefix(line, "AnonHugePages:"):
			if _, err := fmt.Sscanf(line, "AnonHugePages: %d kB", &kB); in && err == nil {
				vs[len(vs)-1].huge = kB << 10
			}
		default:
			if n, _ := fmt.Sscanf(line, "%x-%x ", &v.lo, &v.hi); n == 2 {
				if in = mem == nil || v.lo < hi && lo < v.hi; in {
					vs = append(vs, v)
				}
			}
		}
	}
	return vs
}

// status returns a figure of /proc/self/status in bytes.
func status(t testing.TB, key string) int {
	t.Helper()
	n := procBytes("self/status", key)
	require.NotZero(t, n, key)
	return int(n)
}

// needHugePages skips a test where a mapping that asks for huge pages gets none.
func needHugePages(t testing.TB) {
	t.Helper()
	p, err := unix.Mmap(-1, 0, 8*miB, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	require.NoError(t, err)
	defer unix.Munmap(p)
	_ = unix.Madvise(p, unix.MADV_HUGEPAGE)
	clear(p)
	for _, v := range vmas(t, p) {
		if v.huge > 0 {
			return
		}
	}
	t.Skip("the kernel gives no transparent huge pages")
}

// inChild runs the test again in a process of its own, where it may use up a
// limit, and reports whether this is that process. In the parent it fails the
// test if the child does.
func inChild(t *testing.T) bool {
	t.Helper()
	out, err := runChild(t)
	if out == nil {
		return true
	}
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "the test did not run")
	return false
}

// runChild is inChild for a child that may die: it returns what the child has
// printed, and nil in the child.
func runChild(t *testing.T) ([]byte, error) {
	t.Helper()
	const key = "MMAPBUF_TEST_CHILD"
	if os.Getenv(key) == t.Name() {
		return nil, nil
	}
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(exe, "-test.run=^"+t.Name()+"$", "-test.v",
		"-test.timeout="+(2*time.Minute+*soak).String(), "-soak="+soak.String())
	cmd.Env = append(os.Environ(), key+"="+t.Name(), "GOTRACEBACK=none")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.ENOEXEC) {
		t.Skip("programs for this machine are run, but not by the kernel")
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("%s", out)
	}
	return append(out, '\n'), err
}

// eventually runs the collector and waits until cond is true; finalizers and
// cleanups run some time after the collection that finds them work, and an
// object with a finalizer takes two.
func eventually(t testing.TB, cond func() bool) {
	t.Helper()
	require.Eventually(t, func() bool { runtime.GC(); return cond() }, 20*time.Second, 5*time.Millisecond)
}

// randomBytes returns n bytes that do not repeat.
func randomBytes(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(p)
	return p
}

// mapped returns a Buffer in the mapping state with n bytes of noise.
func mapped(t testing.TB, n int) (*Buffer, []byte) {
	t.Helper()
	p := randomBytes(uint64(n), n)
	b := new(Buffer)
	t.Cleanup(func() { _ = b.Close() })
	_, err := b.Write(p)
	require.NoError(t, err)
	require.NotNil(t, b.m, "not in the mapping state")
	return b, p
}

// requireOneVMA fails unless the storage of b is exactly one VMA between
// multiples of the huge page.
func requireOneVMA(t *testing.T, b *Buffer, when string) {
	t.Helper()
	require.NotNil(t, b.m, when)
	vs := vmas(t, b.m.mem)
	require.Len(t, vs, 1, when)
	require.Equal(t, uintptr(base(b.m.mem)), vs[0].lo, when)
	require.Equal(t, vs[0].lo+uintptr(b.Cap()), vs[0].hi, when)
	require.Zero(t, vs[0].lo%uintptr(pageUnit()), when)
	require.Zero(t, vs[0].hi%uintptr(pageUnit()), when)
	runtime.KeepAlive(b)
}

func TestIsOneVMA(t *testing.T) {
	emptyIdle()
	runtime.GC() // mappings that other tests left could lie next to ours and merge with it
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var b Buffer
	chunk := randomBytes(1, 256*kiB)
	c := 0
	for b.Len() < 100*miB {
		_, _ = b.Write(chunk)
		if b.m != nil && b.Cap() != c {
			c = b.Cap()
			requireOneVMA(t, &b, fmt.Sprintf("filled to %d", b.Len()))
		}
	}
	for range 2000 { // 500 MiB through a backlog of 100 MiB
		_, err := io.ReadFull(&b, chunk)
		require.NoError(t, err)
		_, _ = b.Write(chunk)
		if b.Cap() != c || rand.N(50) == 0 {
			c = b.Cap()
			requireOneVMA(t, &b, "as a queue")
		}
	}
	require.LessOrEqual(t, b.Cap(), 256*miB, "consumed bytes are not dropped")
	b.Shrink()
	requireOneVMA(t, &b, "after Shrink")
	require.LessOrEqual(t, b.Cap(), b.Len()+2*pageUnit())
	b.Grow(2 * giB)
	requireOneVMA(t, &b, "after Grow")
	require.Zero(t, uintptr(base(b.m.mem))%giB, "not aligned to 1 GiB")
	b.Truncate(30 * miB)
	b.Shrink()
	emptyIdle() // what was cut off
	requireOneVMA(t, &b, "after Truncate and Shrink")

	mem := b.m.mem
	require.NoError(t, b.Close())
	emptyIdle()
	require.Empty(t, vmas(t, mem), "after Close")
}

func TestHugePages(t *testing.T) {
	needHugePages(t)
	for _, no := range []bool{false, true} {
		b := Buffer{NoHugePages: no}
		for b.Len() < 16*miB {
			_, _ = b.Write(make([]byte, 64*kiB))
		}
		vs := vmas(t, b.m.mem)
		require.Len(t, vs, 1)
		if no {
			assert.Zero(t, vs[0].huge)
		} else {
			assert.NotZero(t, vs[0].huge, "no huge pages, or none left")
		}
		require.NoError(t, b.Close())
	}
}

// TestHugePagesOfNoSensibleSize has huge pages of 512 MiB: they are not asked
// for.
func TestHugePagesOfNoSensibleSize(t *testing.T) {
	old := hugePageSize
	defer func() { hugePageSize = old }()
	hugePageSize = func() int { return 512 * miB }
	p, err := mapPages(4*pageUnit(), true)
	require.NoError(t, err)
	defer p.unmap()
	vs := vmas(t, p.mem)
	require.Len(t, vs, 1)
	assert.NotContains(t, vs[0].flags, " hg ")
	assert.NotContains(t, vs[0].flags, " nh ")
}

// minorFaults returns how many page faults fn causes.
func minorFaults(t *testing.T, fn func()) int {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Rusage
	require.NoError(t, unix.Getrusage(unix.RUSAGE_THREAD, &before))
	fn()
	require.NoError(t, unix.Getrusage(unix.RUSAGE_THREAD, &after))
	return int(after.Minflt - before.Minflt)
}

func TestPublishMovesPages(t *testing.T) {
	needHugePages(t)
	needMoves(t)
	const size = 256 * miB
	needMemory(t, 4*size)
	b, want := mapped(t, size)
	before := vmas(t, b.m.mem)[0]
	require.Greater(t, before.huge, size/2, "the kernel has no huge pages to spare")

	debug.FreeOSMemory()
	rss := status(t, "VmRSS")
	var view []byte
	faults := minorFaults(t, func() { view = b.Bytes() })
	assert.Less(t, faults, 100, "copying %d MiB takes at least 128 faults", size/miB)
	if !raceEnabled { // whose shadow of the heap object is memory
		assert.InDelta(t, rss, status(t, "VmRSS"), 8*miB)
	}
	require.False(t, b.current())
	require.True(t, bytes.Equal(want, view))

	huge := 0
	for _, v := range vmas(t, view) {
		huge += v.huge
	}
	assert.GreaterOrEqual(t, huge, before.huge, "huge pages were split")
}

// raceEnabled reports whether the race detector is built in.
var raceEnabled = func() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}()

// residentAt returns how much of n bytes at an address is in memory, whoever
// has mapped them.
func residentAt(t testing.TB, at uintptr, n int) (sum int) {
	t.Helper()
	vec := make([]byte, n/os.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, at&^uintptr(os.Getpagesize()-1), uintptr(n), uintptr(unsafe.Pointer(&vec[0])))
	if errno == unix.ENOMEM {
		return 0 // not mapped, or not all of it
	}
	require.Zero(t, errno)
	for _, v := range vec {
		sum += int(v&1) * os.Getpagesize()
	}
	return sum
}

func TestPublishedIsCollected(t *testing.T) {
	const size = 64 * miB
	base := len(vmas(t, nil))
	b, want := mapped(t, size)
	view := b.Bytes()
	_ = b.Close()
	require.True(t, bytes.Equal(want, view), "after Close")
	at, n := uintptr(unsafe.Pointer(unsafe.SliceData(view))), len(view)
	view, want = nil, nil
	// It is heap: the collector frees it, and the runtime returns it in time.
	eventually(t, func() bool { debug.FreeOSMemory(); return residentAt(t, at, n) < size/4 })
	assert.LessOrEqual(t, len(vmas(t, nil)), base+8)
}

func TestUnreachableIsUnmapped(t *testing.T) {
	type inside struct {
		Before int
		b      Buffer
		After  string
	}
	makers := map[string]func() (keep any, b *Buffer){
		"heap":    func() (any, *Buffer) { b := new(Buffer); return b, b },
		"struct":  func() (any, *Buffer) { s := new(inside); return s, &s.b },
		"array":   func() (any, *Buffer) { a := new([3]Buffer); return a, &a[1] },
		"closure": func() (any, *Buffer) { var b Buffer; return func() int { return b.Len() }, &b },
	}
	for name, mk := range makers {
		t.Run(name, func(t *testing.T) {
			fill := func() (any, []byte) {
				keep, b := mk()
				_, _ = b.Write(randomBytes(2, 3*miB))
				return keep, b.m.mem
			}
			keep, mem := fill()
			lo, n := uintptr(base(mem)), cap(mem)
			mem = nil
			live := func() int { return residentAt(t, lo, n) }
			runtime.GC()
			runtime.GC()
			require.GreaterOrEqual(t, live(), 3*miB, "unmapped while it was in use")
			runtime.KeepAlive(keep)
			keep = nil
			eventually(t, func() bool { return live() < miB })
		})
	}
}

func TestPeakMemoryIsPayload(t *testing.T) {
	const size = giB
	needMemory(t, 2*size)
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
	assert.LessOrEqual(t, peak, size/100*101+8*miB)
	if mapThreshold >= miB && !raceEnabled { // the slices on the way there; the detector's are twice as large
		garbage := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s allocated on the Go heap", sizeString(int(garbage)))
		assert.LessOrEqual(t, garbage, uint64(3*miB))
	}
	assert.NoError(t, b.Close())
	assert.Eventually(t, func() bool { return status(t, "VmRSS")-base < 16*miB }, 10*time.Second, 20*time.Millisecond, "after Close")
}

// A line that ends beyond a step gives back what lies before it, not itself.
func TestLinesGiveMemoryBack(t *testing.T) {
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
	assert.LessOrEqual(t, residentAt(t, uintptr(base(b.m.mem)), len(b.m.mem)), lines*size-trimStep+size+pageUnit())
}

func TestQueueTakesUpItsBacklog(t *testing.T) {
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
			for i := range 4 * backlog / step {
				_, _ = b.Write(chunk)
				_, err := io.ReadFull(&b, chunk)
				require.NoError(t, err)
				if i%(8*miB/step+1) == 0 {
					most = max(most, vmas(t, b.m.mem)[0].rss)
				}
			}
			assert.LessOrEqual(t, most, backlog*5/4+64*miB)
			// and all of it goes when it is drained
			_, err := io.ReadFull(&b, make([]byte, b.Len()-miB))
			require.NoError(t, err)
			assert.Less(t, vmas(t, b.m.mem)[0].rss, 80*miB)
		})
	}
}

func TestSparseWriteAtTouchesNothing(t *testing.T) {
	var b Buffer
	defer b.Close()
	n, err := b.WriteAt([]byte("end"), 8*giB)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, 8*giB+3, b.Len())
	require.Less(t, vmas(t, b.m.mem)[0].rss, 8*miB)
	p := make([]byte, 5)
	_, err = b.ReadAt(p, 8*giB-2)
	require.NoError(t, err)
	require.Equal(t, "\x00\x00end", string(p))
}

// TestRefused walks the ways without mremap(2) and mmap(2).
func TestRefused(t *testing.T) {
	defer mremapRefused.Store(false)
	mremapRefused.Store(true)
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

	defer mmapRefused.Store(false)
	mmapRefused.Store(true)
	for range 20 {
		step(miB + 54321)
	}
	require.Nil(t, b.m)
	require.ErrorIs(t, b.Reserve(maxSlice), ErrTooLarge)
	require.True(t, bytes.Equal(want.Bytes(), contents(&b)))
}

// TestNoForeignBytes has publishing copy where the heap has old objects of the
// same size: the spare capacity of a view shows nothing of them.
func TestNoForeignBytes(t *testing.T) {
	defer mremapRefused.Store(false)
	b, want := mapped(t, 3*miB)
	b.Grow(5 * miB)
	var old [8][]byte
	for i := range old {
		old[i] = bytes.Repeat([]byte{0xee}, b.Cap()+i%2*pageUnit()) // as large as a slice, or a heapObject
	}
	clear(old[:])
	runtime.GC()
	mremapRefused.Store(true)
	spare := b.AvailableBuffer()
	require.False(t, b.current())
	require.GreaterOrEqual(t, cap(spare), 5*miB)
	require.Zero(t, bytes.Count(spare[:cap(spare)], []byte{0xee}))
	require.True(t, bytes.Equal(want, b.Bytes()))
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
	err := func() (err error) {
		defer func() { err, _ = recover().(error) }()
		for {
			_, _ = b.Write(chunk)
		}
	}()
	viewErr := func() (err error) {
		defer func() { err, _ = recover().(error) }()
		b.Bytes()
		return nil
	}()
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
	require.Regexp(t, `^mmapbuf: grow [0-9.]+ MiB to [0-9.]+ MiB: mremap: cannot allocate memory$`, err.Error())
	require.Regexp(t, `^mmapbuf: publish [0-9.]+ MiB: mmap: cannot allocate memory$`, viewErr.Error())
	require.True(t, usable)
	require.Equal(t, len(chunk), copy(p, b.Bytes()))
	require.True(t, bytes.Equal(chunk, p))
}

// TestFitsWhereOthersDie fills 1200 MiB where 1500 MiB of addresses are to be
// had, and reads them back.
func TestFitsWhereOthersDie(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector needs more addresses than the limit leaves")
	}
	const size = 1200 * miB
	needMemory(t, 2*size)
	chunk := randomBytes(7, miB)
	limit := func(t *testing.T) {
		n := uint64(status(t, "VmSize") + 1500*miB)
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

// TestInTheMiddleOfACall changes a Buffer while it is lent to a Reader or a
// Writer: what they were given must stay what it was.
func TestInTheMiddleOfACall(t *testing.T) {
	changes := map[string]func(b *Buffer){
		"Grow":     func(b *Buffer) { b.Grow(64 * miB) },
		"Write":    func(b *Buffer) { _, _ = b.Write(make([]byte, 64*miB)) },
		"WriteAt":  func(b *Buffer) { _, _ = b.WriteAt([]byte("x"), 64*miB) },
		"Bytes":    func(b *Buffer) { b.Bytes() },
		"Shrink":   func(b *Buffer) { b.Shrink() },
		"Close":    func(b *Buffer) { _ = b.Close() },
		"twice":    func(b *Buffer) { b.Grow(64 * miB); b.Grow(256 * miB) },
		"Discard":  func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
		"ReadFull": func(b *Buffer) { _, _ = io.ReadFull(b, make([]byte, 40*miB)) },
	}
	for name, change := range changes {
		t.Run("WriteTo/"+name, func(t *testing.T) {
			b, want := mapped(t, 48*miB)
			_, _ = b.WriteTo(writerFunc(func(p []byte) (int, error) {
				change(b)
				require.True(t, bytes.Equal(want, p))
				return 0, errors.New("enough")
			}))
			_, err := b.Write(want)
			require.NoError(t, err)
		})
		t.Run("ReadFrom/"+name, func(t *testing.T) {
			b, want := mapped(t, 48*miB)
			func() {
				defer func() { _ = recover() }() // as bytes.Buffer, where the contents became shorter
				_, _ = b.ReadFrom(reader(func(p []byte) (int, error) {
					change(b)
					copy(p, want)
					require.True(t, bytes.Equal(want[:len(p)], p))
					return 1, io.EOF
				}))
			}()
			_, err := b.Write(want)
			require.NoError(t, err)
			require.True(t, bytes.HasSuffix(contents(b), want))
		})
	}
	t.Run("to itself", func(t *testing.T) {
		b, want := mapped(t, 3*miB)
		var o bytes.Buffer
		o.Write(want)
		n, err := b.WriteTo(b)
		on, oerr := o.WriteTo(&o)
		require.Equal(t, on, n)
		require.Equal(t, oerr, err)
		require.Equal(t, o.Len(), b.Len())
	})
}

// TestCopyByValue uses copies of a Buffer that owns a mapping.
func TestCopyByValue(t *testing.T) {
	uses := map[string]func(b *Buffer){
		"Write":           func(b *Buffer) { _, _ = b.Write([]byte("x")) },
		"WriteString":     func(b *Buffer) { _, _ = b.WriteString("x") },
		"WriteByte":       func(b *Buffer) { _ = b.WriteByte('x') },
		"WriteRune":       func(b *Buffer) { _, _ = b.WriteRune('€') },
		"ReadFrom":        func(b *Buffer) { _, _ = b.ReadFrom(strings.NewReader("x")) },
		"Grow":            func(b *Buffer) { b.Grow(1) },
		"Reserve":         func(b *Buffer) { _ = b.Reserve(1) },
		"Truncate":        func(b *Buffer) { b.Truncate(1) },
		"Reset":           func(b *Buffer) { b.Reset() },
		"Shrink":          func(b *Buffer) { b.Shrink() },
		"Close":           func(b *Buffer) { _ = b.Close() },
		"Bytes":           func(b *Buffer) { b.Bytes() },
		"Next":            func(b *Buffer) { b.Next(1) },
		"Peek":            func(b *Buffer) { _, _ = b.Peek(1) },
		"AvailableBuffer": func(b *Buffer) { b.AvailableBuffer() },
		"String":          func(b *Buffer) { _ = b.String() },
		"Read":            func(b *Buffer) { _, _ = b.Read(make([]byte, 1)) },
		"ReadByte":        func(b *Buffer) { _, _ = b.ReadByte() },
		"ReadRune":        func(b *Buffer) { _, _, _ = b.ReadRune() },
		"ReadBytes":       func(b *Buffer) { _, _ = b.ReadBytes(0) },
		"ReadString":      func(b *Buffer) { _, _ = b.ReadString(0) },
		"WriteTo":         func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
		"ReadAt":          func(b *Buffer) { _, _ = b.ReadAt(make([]byte, 1), 0) },
		"WriteAt":         func(b *Buffer) { _, _ = b.WriteAt([]byte("x"), 0) },
	}
	// What the original does meanwhile, and whether the copy then still has its
	// storage.
	meanwhile := map[string]struct {
		do   func(b *Buffer)
		live bool
	}{
		"":         {func(b *Buffer) {}, true},
		"viewed":   {func(b *Buffer) { b.Bytes() }, true},
		"appended": {func(b *Buffer) { _ = b.WriteByte('x'); b.Truncate(b.Len() - 1) }, true},
		"moved":    {func(b *Buffer) { b.Grow(512 * miB) }, false},
		"closed":   {func(b *Buffer) { _ = b.Close() }, false},
		"shrunk":   {func(b *Buffer) { b.Grow(64 * miB); b.Shrink() }, false},
		"drained":  {func(b *Buffer) { _, _ = io.CopyN(io.Discard, b, 40*miB) }, false},
	}
	methods := reflect.TypeFor[*Buffer]()
	for i := range methods.NumMethod() {
		switch name := methods.Method(i).Name; name {
		case "Len", "Cap", "Available", "UnreadByte", "UnreadRune": // look at no storage
		default:
			require.Contains(t, uses, name, "a method without a test")
		}
	}
	for name, use := range uses {
		for when, m := range meanwhile {
			t.Run(name+when, func(t *testing.T) {
				n := 3 * miB
				if when == "drained" {
					n = 41 * miB
				}
				b, want := mapped(t, n)
				c := *b
				m.do(b)
				switch {
				case m.live || name == "Close":
					// What a copy of a bytes.Buffer does.
					if name != "Close" {
						require.NoError(t, diffBytes(contents(&c), want))
					}
					if m.live && !slices.Contains([]string{"Close", "Grow", "Shrink", "Reserve"}, name) {
						var o bytes.Buffer
						o.Write(want)
						require.NotPanics(t, func() { use(&c) })
					}
					return
				default:
					require.PanicsWithValue(t, panicStale, func() { use(&c) })
				}
				if when == "closed" {
					require.Zero(t, b.Len())
					_, _ = b.Write(want)
				}
				require.True(t, bytes.HasSuffix(want, contents(b)))
			})
		}
	}
}

// TestStaysOnTheStack keeps a Buffer on a stack that grows and shrinks under it.
func TestStaysOnTheStack(t *testing.T) {
	done := make(chan bool)
	go func() { // a new stack, and small
		defer close(done)
		var b Buffer
		_, _ = b.Write(make([]byte, 3*miB))
		for depth := 1; depth < 1<<12; depth *= 2 {
			deep(depth)
			_ = b.WriteByte('x')
			runtime.GC() // may shrink the stack
			_ = b.WriteByte('y')
		}
		_ = b.Close()
	}()
	<-done
	if !raceEnabled {
		n := testing.AllocsPerRun(100, func() {
			var b Buffer
			_ = b.WriteByte('x')
		})
		want := 1.0 // the contents
		if mapThreshold < smallSize {
			t.Skip("all storage is mapped")
		}
		assert.Equal(t, want, n)
	}
}

func deep(n int) byte {
	var p [512]byte
	p[n%512] = 1
	if n > 0 {
		return deep(n-1) + p[1]
	}
	return p[0]
}

func TestPrefault(t *testing.T) {
	page := os.Getpagesize()
	p, err := mapPages(4*pageUnit(), false)
	require.NoError(t, err)
	defer func() { _ = p.unmap() }()
	resident := func() int { return residentAt(t, uintptr(base(p.mem)), len(p.mem)) / page }

	last := p.mem[len(p.mem)-page:]
	if err := madvise(last, unix.MADV_POPULATE_WRITE); err != nil || residentAt(t, uintptr(base(last)), page) == 0 {
		t.Skip("the kernel does not do MADV_POPULATE_WRITE", err)
	}
	require.NoError(t, madvise(last, unix.MADV_DONTNEED))

	p.prefault(page/2, 3*page-1) // the first page is being written already
	require.Equal(t, 2, resident())
	p.prefault(3*page-1, 9*page)
	require.Equal(t, 8, resident())
	require.NoError(t, p.discard(0, pageUnit()))
	p.prefault(0, 9*page)
	require.Zero(t, resident(), "populated again")

	require.NoError(t, p.dropFront(pageUnit()))
	p.prefault(0, 2*page)
	require.Equal(t, 2, resident(), "after dropFront")
	p.prefault(2*page, len(p.mem))
	require.Equal(t, len(p.mem)/page, resident(), "to the end")

	huge, err := mapPages(pageUnit(), true)
	require.NoError(t, err)
	defer func() { _ = huge.unmap() }()
	huge.prefault(0, len(huge.mem))
	require.Zero(t, residentAt(t, uintptr(base(huge.mem)), len(huge.mem)), "of huge pages")
}
