//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

var soak = flag.Duration("soak", 0, "run the tests of lifetimes for `duration` and with more memory")

// runFor returns how long a test that has no end runs: d with MMAPBUF_TEST_LONG,
// else less, or what -soak says.
func runFor(d time.Duration) time.Duration {
	return max(d/byLength[time.Duration](3, 3, 1), *soak)
}

// The helpers that internal/mapping and internal/vm have, too.
var (
	raceEnabled = proctest.Race
	noRace      = proctest.NoRace
	eventually  = proctest.Eventually
	waitFor     = proctest.WaitFor
	limit       = proctest.Limit
	mapCount    = proctest.MapCount
	residentAt  = proctest.Resident
	vmas        = proctest.VMAs
)

// needMoves skips a test of what comes of it that views are moved.
func needMoves(t *testing.T) {
	t.Helper()
	if vm.MovesRefused() || mapping.CopiesViews {
		t.Skip("views are copied")
	}
}

// inChild is proctest.InChild with -soak.
func inChild(t *testing.T) bool {
	t.Helper()
	return proctest.InChild(t, childArgs()...)
}

// runChild is proctest.RunChild with -soak.
func runChild(t *testing.T) ([]byte, error) {
	t.Helper()
	return proctest.RunChild(t, childArgs()...)
}

func childArgs() []string {
	return []string{"-test.timeout=" + (2*time.Minute + *soak).String(), "-soak=" + soak.String()}
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
	p := pattern(n, n)
	b := new(Buffer)
	t.Cleanup(func() { _ = b.Close() })
	_, err := b.Write(p)
	require.NoError(t, err)
	require.NotNil(t, b.m, "not in the mapping state")
	return b, p
}

// split makes the mapping of b several VMAs, which mremap(2) refuses to grow.
func split(t *testing.T, b *Buffer) {
	t.Helper()
	require.NoError(t, unix.Madvise(b.m.Inspect().Mem[vm.Unit():2*vm.Unit()], unix.MADV_DONTFORK))
}

// underPressure runs f while other Buffers grow, are closed and forgotten, and
// the ordinary heap turns over.
func underPressure(t *testing.T, f func()) {
	t.Helper()
	var stop atomic.Bool
	var wg sync.WaitGroup
	wg.Go(func() {
		for seed := 1000; !stop.Load(); seed++ {
			var b Buffer
			fill(&b, seed, 2*miB+seed*99991%(8*miB))
			if seed%2 == 0 {
				b.Bytes()
			}
			if seed%3 == 0 {
				_ = b.Close()
			}
		}
	})
	wg.Go(func() {
		var ring [8][]byte
		for i := 0; !stop.Load(); i++ {
			ring[i%8] = bytes.Repeat([]byte{0xee}, i*77773%(4*miB))
		}
	})
	defer wg.Wait()
	defer stop.Store(true)
	f()
}

// churnHeap allocates ordinary memory of all sizes and reports an error if it
// is not zero when it is new, or changes while it is held.
func churnHeap(stop *atomic.Bool) error {
	var held [24][]byte
	is := func(p []byte, c byte) bool { return bytes.Count(p, []byte{c}) == len(p) }
	for i := 0; !stop.Load(); i++ {
		n := 16 << rand.N(22) // 16 B to 32 MiB
		n -= rand.N(n / 2)
		p := make([]byte, n)
		if !is(p, 0) {
			return fmt.Errorf("%d new bytes are not zero", n)
		}
		slot := i % len(held)
		if q := held[slot]; len(q) > 0 && !is(q, q[0]) {
			return fmt.Errorf("%d bytes of the heap changed", len(q))
		}
		p[0] = byte(i) | 1
		for k := 1; k < n; k *= 2 {
			copy(p[k:], p[:k])
		}
		held[slot] = p
	}
	return nil
}

// useAll takes a Buffer through all that makes system calls, next to a
// bytes.Buffer.
func useAll(t *testing.T) {
	t.Helper()
	var b Buffer
	var want bytes.Buffer
	chunk := randomBytes(8, 3*miB/2)
	var views [][]byte
	was := mapping.Counters.Mappings.Load()
	for i := range byLength(16, 16, 24) {
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
	eventually(t, func() bool { return mapping.Counters.Mappings.Load() <= was })
}

// requireOneVMA fails unless the storage of b is exactly one VMA between
// multiples of the huge page.
func requireOneVMA(t *testing.T, b *Buffer, when string) {
	t.Helper()
	require.NotNil(t, b.m, when)
	mem := b.m.Inspect().Mem
	vs := vmas(t, mem)
	require.Len(t, vs, 1, when)
	require.Equal(t, uintptr(base(mem)), vs[0].Lo, when)
	require.Equal(t, vs[0].Lo+uintptr(b.Cap()), vs[0].Hi, when)
	require.Zero(t, vs[0].Lo%uintptr(vm.Unit()), when)
	require.Zero(t, vs[0].Hi%uintptr(vm.Unit()), when)
	runtime.KeepAlive(b)
}

// status returns a figure of /proc/self/status in bytes.
func status(t testing.TB, key string) int {
	t.Helper()
	n := proctest.Bytes("self/status", key)
	require.NotZero(t, n, key)
	return int(n)
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

// footprint is what the process takes of the system.
type footprint struct {
	maps int // mappings
	data int // bytes of private, writable memory beside Go's own, resident or not
	rss  int // bytes resident beside the runtime's tables, which grow with the largest heap
}

func footprintNow(t testing.TB) footprint {
	t.Helper()
	debug.FreeOSMemory()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return footprint{mapCount(t), status(t, "VmData") - int(ms.Sys), status(t, "VmRSS") - int(ms.GCSys)}
}

// settled returns the footprint when finalizers and cleanups have had time.
func settled(t testing.TB) footprint {
	t.Helper()
	for range 3 {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
	}
	return footprintNow(t)
}

// requireBackTo collects garbage until the process takes no more than it did,
// or a little more: other threads come with stacks, the heap with its tables.
// The race detector keeps its shadow of the heap.
func requireBackTo(t *testing.T, was footprint) {
	t.Helper()
	requireWithin(t, was, footprint{maps: 16, data: 200 * miB, rss: 24 * miB})
}

// requireWithin is requireBackTo with more for a little more.
func requireWithin(t *testing.T, was, more footprint) {
	t.Helper()
	var is footprint
	ok := func() bool {
		is = footprintNow(t)
		// Pages that were published part the heap for good.
		return is.maps <= was.maps+more.maps+int(vm.HeapSplits()) &&
			(raceEnabled || is.data <= was.data+more.data && is.rss <= was.rss+more.rss)
	}
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Failf(t, "memory is not given back", "was %+v, is %+v", was, is)
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
		if v.Huge > 0 {
			return
		}
	}
	t.Skip("the kernel gives no transparent huge pages")
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

// setSystem writes a setting of the whole system for the length of a test, and
// skips the test where that is not to be had.
func setSystem(t *testing.T, path, value, restore string) {
	t.Helper()
	if err := writeSetting(path, value); err != nil {
		t.Skipf("not for us to change: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, writeSetting(path, restore)) })
}

// writeSetting writes a file that the kernel must have: os.WriteFile would create it.
func writeSetting(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// base returns the address of mem.
func base(mem []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(mem)) }

// noIdle has no idle memory, and no garbage of other tests that could become it.
func noIdle(t testing.TB) {
	t.Helper()
	eventually(t, func() bool { return ReadStats().Mappings == 0 })
	mapping.Settle()
}

// setIdleMax sets the maximum of idle memory for the length of a test.
func setIdleMax(t testing.TB, n int) {
	t.Helper()
	t.Cleanup(mapping.SetIdleMax(n))
}

// twoTicks has idle memory become old.
func twoTicks() {
	mapping.Tick()
	mapping.Tick()
}

// idleFor is how long memory is idle at most.
const idleFor = 1500 * time.Millisecond
