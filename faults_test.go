//go:build linux && !nommap && !386 && !arm && !mips && !mipsle && mmapbuf_faults

package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
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

// A fault is a call that fails. One that replaces what is mapped at an address
// does so in two ways, before and after it has unmapped that. After the first
// failure, the calls named then fail, too.
type faulty struct {
	name   string
	unmaps bool
	then   string
}

var faultyCalls = []faulty{
	{name: "mmap"},
	{name: "mremap"},
	{name: "mremap", then: "mmap"},
	{name: "mremap", then: "munmap"},
	{name: "mremap fixed"},
	{name: "mremap fixed", unmaps: true},
	{name: "mremap fixed", then: "mmap"},
	{name: "mremap fixed", unmaps: true, then: "mmap"},
	{name: "mremap fixed", unmaps: true, then: "munmap"},
	{name: "munmap"},
	{name: "madvise"},
	{name: "mincore"},
}

// permanent are the errnos of mmap(2) after which it is not called again.
var permanent = []unix.Errno{unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EINVAL, unix.EFAULT}

var faultyErrnos = []unix.Errno{
	unix.ENOMEM, unix.EAGAIN, unix.EFAULT, unix.EINVAL, unix.EPERM, unix.ENOSYS, unix.EACCES,
}

// A plan has the n-th call of a name fail, and all after it if it is for good.
type plan struct {
	faulty
	n       int
	errno   unix.Errno
	forGood bool

	hits atomic.Int64 // calls that failed
	over atomic.Bool  // none fails any more

	mu    sync.Mutex
	seen  map[string]int // calls, by name
	left  []span         // what they may have left mapped for good
	holes []span         // what they unmapped before they failed
}

func (p *plan) String() string {
	return fmt.Sprintf("%+v, call %d, %v, for good: %t", p.faulty, p.n, p.errno, p.forGood)
}

func (p *plan) decide(call string, target, source []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	at := spanOf(target)
	p.seen[call]++
	k := p.seen[call]
	first := call == p.name && (k == p.n || k > p.n && p.forGood)
	if p.over.Load() || !first && (call != p.then || p.hits.Load() == 0) {
		p.left = minus(p.left, []span{at, spanOf(source)})
		return nil
	}
	p.hits.Add(1)
	switch {
	case p.unmaps && first:
		if err := unix.MunmapPtr(base(target), uintptr(len(target))); err != nil {
			return err
		}
		p.holes = append(p.holes, at)
	case !at.inHeap():
		p.left = append(p.left, at)
	}
	return p.errno
}

// A subject is a Buffer and what is expected of it.
type subject struct {
	t    *testing.T
	plan *plan
	b    Buffer
	want []byte
	seed int
	mb   int // what scenarios take for a MiB

	views []func() error // each tells whether a view is still what it was
}

// try does something that may fail only because of a fault, and panic only if
// bytes.Buffer would. After a success it calls done, then it compares the contents.
func (s *subject) try(name string, mayPanic bool, f func() error, done func()) bool {
	s.t.Helper()
	before := s.plan.hits.Load()
	err, panicked := caught(f)
	if err != nil {
		require.Greater(s.t, s.plan.hits.Load(), before, "%s: an error without a fault: %v", name, err)
		require.ErrorIs(s.t, err, s.plan.errno, name)
		if name != "Close" {
			require.ErrorIs(s.t, err, ErrTooLarge, name)
		}
		require.True(s.t, mayPanic || !panicked, "%s: a panic: %v", name, err)
	} else {
		done()
	}
	s.check(name)
	return err == nil
}

// check compares the contents, where they lie: a view would publish them.
func (s *subject) check(name string) {
	s.t.Helper()
	s.b.withContents(func(got []byte) {
		if !bytes.Equal(got, s.want) {
			require.NoError(s.t, diffBytes(got, s.want), name)
		}
	})
}

// data returns n bytes that were not written before.
func (s *subject) data(n int) []byte {
	s.seed++
	off := s.seed * 4099 % (len(noise()) - n)
	return noise()[off : off+n]
}

func (s *subject) write(n int) {
	s.t.Helper()
	p := s.data(n)
	s.try("Write", true, func() error { _, err := s.b.Write(p); return err },
		func() { s.want = append(s.want, p...) })
}

// writes writes n bytes in small pieces.
func (s *subject) writes(n int) {
	for ; n > 0; n -= s.mb / 2 {
		s.write(min(n, s.mb/2))
	}
}

func (s *subject) read(n int) {
	s.t.Helper()
	p := make([]byte, min(n, len(s.want)))
	_, err := io.ReadFull(&s.b, p)
	require.NoError(s.t, err)
	require.True(s.t, bytes.Equal(s.want[:len(p)], p), "Read")
	s.want = s.want[len(p):]
	s.check("Read")
}

func (s *subject) writeAt(off, n int) {
	s.t.Helper()
	p := s.data(n)
	s.try("WriteAt", false, func() error { _, err := s.b.WriteAt(p, int64(off)); return err },
		func() { s.put(off, p) })
}

// put has p in want at an offset, after zeros where there was nothing.
func (s *subject) put(off int, p []byte) {
	s.lengthen(off + len(p))
	copy(s.want[off:], p)
}

// lengthen makes want n bytes long, with zeros.
func (s *subject) lengthen(n int) {
	s.want = append(s.want, make([]byte, max(0, n-len(s.want)))...)
}

func (s *subject) reserve(n int) {
	s.t.Helper()
	s.try("Reserve", false, func() error { return s.b.Reserve(n) },
		func() { require.GreaterOrEqual(s.t, s.b.Available(), n, "Reserve") })
}

func (s *subject) readFrom(n int) {
	s.t.Helper()
	p := s.data(n)
	s.try("ReadFrom", true, func() error {
		_, err := s.b.ReadFrom(reader(func(q []byte) (int, error) {
			if len(p) == 0 {
				return 0, io.EOF
			}
			k := copy(q, p[:min(len(p), s.mb/2)])
			s.want, p = append(s.want, p[:k]...), p[k:]
			return k, nil
		}))
		return err
	}, func() {})
}

func (s *subject) writeTo(n int) {
	s.t.Helper()
	w := &writer{max: n, err: errTest}
	k, err := s.b.WriteTo(w)
	require.True(s.t, err == errTest || len(s.want) == 0, "WriteTo: %v", err)
	require.True(s.t, bytes.Equal(s.want[:k], w.took), "WriteTo")
	s.want = s.want[k:]
	s.check("WriteTo")
}

// shrink, like the other methods that report no error, shows none.
func (s *subject) shrink() {
	s.t.Helper()
	s.b.Shrink()
	s.check("Shrink")
}

func (s *subject) truncate(n int) {
	s.t.Helper()
	s.want = s.want[:min(n, len(s.want))]
	s.b.Truncate(len(s.want))
	s.check("Truncate")
}

func (s *subject) close() {
	s.t.Helper()
	s.want = s.want[:0]
	s.try("Close", false, s.b.Close, func() {})
	require.Zero(s.t, s.b.Cap())
}

// view takes a view, by the name of the method, and keeps it.
func (s *subject) view(method string) {
	s.t.Helper()
	before := s.plan.hits.Load()
	var v, want []byte
	n := min(s.mb/10, len(s.want))
	if !s.try(method, true, func() error {
		switch method {
		case "Bytes":
			v, want = s.b.Bytes(), s.want
		case "Peek":
			v, _ = s.b.Peek(n)
			want = s.want[:n]
		case "Next":
			v = s.b.Next(n)
			want, s.want = s.want[:n], s.want[n:]
		case "AvailableBuffer": // nothing was ever written there
			v = s.b.AvailableBuffer()
			v = v[:cap(v)]
			want = make([]byte, len(v))
		}
		return nil
	}, func() {}) {
		return
	}
	if s.b.m != nil && s.b.current() { // a copy, for want of memory for a view
		require.Greater(s.t, s.plan.hits.Load(), before, method)
		require.NotEqual(s.t, "Bytes", method)
	}
	want = bytes.Clone(want)
	require.NoError(s.t, diffBytes(v, want), method)
	if method != "AvailableBuffer" { // which the next write writes to
		s.views = append(s.views, func() error { return diffBytes(v, want) })
	}
}

// collect has the collector find what has been published.
func (s *subject) collect() {
	s.t.Helper()
	for _, unchanged := range s.views {
		require.NoError(s.t, unchanged(), "a view")
	}
	s.views = nil
	runtime.GC()
}

// A scenario is what a Buffer goes through while calls fail.
type scenario struct {
	name string
	run  func(s *subject)
}

var scenarios = []scenario{
	{"fill", func(s *subject) { s.writes(6 * s.mb) }},
	{"from slice to mapping", func(s *subject) {
		s.write(s.mb * 7 / 10)
		s.read(s.mb / 10)
		s.write(s.mb * 7 / 10)
	}},
	{"queue", func(s *subject) {
		s.write(5 * s.mb)
		for range 4 {
			s.read(3 * s.mb / 2)
			s.write(2 * s.mb)
		}
	}},
	{"idle memory", func(s *subject) {
		s.write(5 * s.mb)
		s.close()
		s.write(s.mb) // to what was written before
		twoTicks()
		s.check("the rest of it is gone")
		s.write(3 * s.mb)
		s.view("Bytes")
		s.write(5 * s.mb)
		s.close()
		mapping.Tick()
		s.write(3 * s.mb)
		s.truncate(s.mb)
		s.shrink()
		s.write(3 * s.mb)
		s.close()
		twoTicks()
	}},
	{"shrink", func(s *subject) {
		s.write(5 * s.mb)
		s.reserve(20 * s.mb)
		s.read(5 * s.mb / 2)
		s.shrink()
		s.write(1000)
		s.truncate(s.mb)
		s.shrink()
		s.read(s.mb - 100)
		s.shrink()
		s.write(s.mb)
	}},
	{"WriteAt", func(s *subject) {
		s.write(5 * s.mb)
		s.truncate(100)
		s.writeAt(5*s.mb-100, 100) // over what was there
		s.read(50)
		s.writeAt(9*s.mb, 1000)
		s.writeAt(s.mb, 1000)
	}},
	{"WriteAt, in order, to a hole", func(s *subject) {
		s.write(s.mb)
		s.writeAt(9*s.mb, 100)
		for off := s.mb; off < 9*s.mb; off += s.mb / 2 {
			s.writeAt(off, s.mb/2)
		}
		s.writeAt(20*s.mb, 100)
		s.writes(5 * s.mb)
	}},
	{"WriteAt, parallel", parallelWriteAt},
	{"File", throughFile},
	{"ReadFrom", func(s *subject) { s.readFrom(5 * s.mb) }},
	{"WriteTo", func(s *subject) {
		s.write(3 * s.mb)
		s.writeTo(2 * s.mb)
		s.write(3 * s.mb)
		s.writeTo(4 * s.mb)
	}},
	{"in the middle of a call", func(s *subject) {
		s.write(3 * s.mb)
		_, _ = s.b.WriteTo(writerFunc(func(p []byte) (int, error) {
			was := bytes.Clone(p)
			s.write(3 * s.mb)
			s.shrink()
			s.view("Bytes")
			require.True(s.t, bytes.Equal(was, p))
			return 0, errTest
		}))
		s.check("WriteTo")
	}},
	{"Reset", func(s *subject) {
		for range 2 {
			s.write(3 * s.mb)
			s.b.Reset()
			s.want = s.want[:0]
			s.write(5 * s.mb)
		}
	}},
	{"Reserve", func(s *subject) {
		s.reserve(100 * s.mb)
		s.write(s.mb)
		s.reserve(300 * s.mb)
		s.write(s.mb)
		s.shrink()
	}},
	{"Close", func(s *subject) {
		s.write(3 * s.mb)
		s.close()
		s.write(3 * s.mb)
		s.b.NoHugePages = !s.b.NoHugePages
		s.close()
		s.write(2 * s.mb)
	}},
	{"Bytes", func(s *subject) { s.write(3 * s.mb); s.read(100); s.view("Bytes") }},
	{"Next", func(s *subject) { s.write(5 * s.mb); s.read(3 * s.mb); s.view("Next"); s.view("Next") }},
	{"Peek", func(s *subject) { s.write(3 * s.mb); s.reserve(6 * s.mb); s.view("Peek") }},
	{"AvailableBuffer", func(s *subject) {
		s.reserve(4 * s.mb)
		s.write(s.mb)
		s.view("AvailableBuffer")
		s.write(s.mb)
	}},
	{"write after publishing", func(s *subject) {
		s.write(2 * s.mb)
		s.view("Bytes")
		s.write(3 * s.mb)
		s.view("Bytes")
		s.writeAt(6*s.mb, 100)
		s.view("Peek")
	}},
	{"collection", func(s *subject) {
		s.write(2 * s.mb)
		s.view("Bytes")
		s.write(3 * s.mb)
		s.view("Bytes")
		s.close()
		s.collect()
		s.write(3 * s.mb)
		s.view("Bytes")
	}},
}

// largeScenarios have no smaller scale.
var largeScenarios = []scenario{
	{"Reserve of gigabytes", func(s *subject) {
		s.reserve(3 * giB)
		s.write(s.mb)
		s.reserve(5 * giB)
		s.write(s.mb)
		s.shrink()
	}},
	{"drained queue", func(s *subject) { // past discardStep
		s.writeAt(34*miB, 100)
		s.writeTo(33 * miB)
		s.write(100)
	}},
}

// parallelWriteAt has goroutines lengthen the contents, each by parts of its
// own. What failed was not written.
func parallelWriteAt(s *subject) {
	part := s.mb / 2
	var done [8]bool
	data := s.data(len(done) * part)
	var wg sync.WaitGroup
	for g := range 2 {
		wg.Go(func() {
			for i := g; i < len(done); i += 2 {
				p := data[i*part:][:part]
				_, err := s.b.WriteAt(p, int64(i*part))
				done[i] = err == nil
				if err != nil && !(errors.Is(err, ErrTooLarge) && errors.Is(err, s.plan.errno)) {
					panic(err)
				}
			}
		})
	}
	wg.Wait()
	for i, ok := range done {
		if ok {
			s.put(i*part, data[i*part:][:part])
		}
	}
	s.check("WriteAt")
}

// throughFile does with a File what lengthens and shortens the contents. Nothing
// of it may panic, and what failed has changed neither them nor the offset.
func throughFile(s *subject) {
	f := NewFile(&s.b)
	write := func(offset, n int) {
		p := s.data(n)
		at, err := f.Seek(int64(offset), io.SeekStart)
		require.NoError(s.t, err)
		s.try("File.Write", false, func() error { _, err := f.Write(p); return err }, func() {
			s.put(offset, p)
			at += int64(n)
		})
		now, err := f.Seek(0, io.SeekCurrent)
		require.NoError(s.t, err)
		require.Equal(s.t, at, now)
	}
	truncate := func(size int) {
		s.try("File.Truncate", false, func() error { return f.Truncate(int64(size)) }, func() {
			s.lengthen(size)
			s.want = s.want[:size]
		})
	}
	write(0, s.mb*7/10)
	write(s.mb/2, 3*s.mb)
	s.read(50)
	truncate(100)
	truncate(5 * s.mb) // over what was there
	write(9*s.mb, 1000)
	write(s.mb, 1000)
	_, err := f.Seek(100, io.SeekStart)
	require.NoError(s.t, err)
	k, err := f.WriteTo(writerFunc(func(p []byte) (int, error) {
		want := bytes.Clone(s.want[100:])
		if len(p) < len(want) && s.plan.hits.Load() > 0 { // in parts, without memory for a view
			want = want[:len(p)]
		}
		require.NoError(s.t, diffBytes(p, want))
		s.view("Bytes")
		write(len(s.want), s.mb)
		require.NoError(s.t, diffBytes(p, want))
		return 0, errTest
	}))
	require.True(s.t, k == 0 && err == errTest || len(s.want) <= 100, "%d, %v", k, err)
	truncate(12 * s.mb)
	require.NoError(s.t, f.Close())
}

// A span is a range of addresses.
type span struct{ lo, hi uintptr }

func spanOf(mem []byte) span {
	lo := uintptr(base(mem))
	return span{lo, lo + uintptr(len(mem))}
}

func (a span) len() int { return int(a.hi - a.lo) }

// inHeap reports whether a is near an object of the Go heap, where nothing else
// is mapped.
func (a span) inHeap() bool {
	return a.lo>>40 == uintptr(unsafe.Pointer(onHeap))>>40 && a.lo > 1<<32
}

var onHeap = &make([]byte, 1<<16)[0]

// minus returns what of a is not in b.
func minus(a, b []span) []span {
	for _, cut := range b {
		var rest []span
		for _, s := range a {
			if left := (span{s.lo, min(s.hi, cut.lo)}); left.lo < left.hi {
				rest = append(rest, left)
			}
			if right := (span{max(s.lo, cut.hi), s.hi}); right.lo < right.hi {
				rest = append(rest, right)
			}
		}
		a = rest
	}
	return a
}

// anonymous returns the anonymous memory of the process, inside and outside of
// the Go heap.
func anonymous(t testing.TB) (heap, others []span) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	require.NoError(t, err)
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if fields[4] != "0" { // a file
			continue
		}
		from, to, _ := strings.Cut(fields[0], "-")
		lo, errLo := strconv.ParseUint(from, 16, 64)
		hi, errHi := strconv.ParseUint(to, 16, 64)
		require.NoError(t, errors.Join(errLo, errHi))
		if s := (span{uintptr(lo), uintptr(hi)}); s.inHeap() {
			heap = append(heap, s)
		} else {
			others = append(others, s)
		}
	}
	return heap, others
}

// mapAt maps n bytes at an address, and returns nil if something is mapped there.
func mapAt(t testing.TB, at uintptr, n int) []byte {
	t.Helper()
	p, err := unix.MmapPtr(-1, 0, unsafe.Add(nil, at), uintptr(n), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_FIXED_NOREPLACE)
	if err == unix.EEXIST {
		return nil
	}
	require.NoError(t, err)
	require.Equal(t, at, uintptr(p))
	return unsafe.Slice((*byte)(p), n)
}

func unmapAt(t testing.TB, at uintptr, n int) {
	t.Helper()
	require.NoError(t, unix.MunmapPtr(unsafe.Add(nil, at), uintptr(n)))
}

// requireMapped compares the figures and the mapping of b with the kernel's.
func requireMapped(t *testing.T, b *Buffer) {
	t.Helper()
	s := ReadStats()
	if b.m == nil || !b.current() {
		require.Zero(t, s.Mappings)
		require.Zero(t, s.MappedBytes)
		return
	}
	require.EqualValues(t, 1, s.Mappings)
	mem := b.m.Inspect().Mem
	require.Len(t, mem, b.Cap())
	mem = mem[:cap(mem)]
	require.EqualValues(t, len(mem), s.MappedBytes)
	_, others := anonymous(t)
	require.Empty(t, minus([]span{spanOf(mem)}, others), "parts of the mapping are not mapped")
}

// leaks compares the memory of the process with what it was and returns what
// has come to it. What faults alone account for it mends: what they had no leave
// to unmap, and holes in objects of the heap that are out of use for that.
func leaks(t *testing.T, p *plan, was []span) []span {
	t.Helper()
	heap, others := anonymous(t)
	found := minus(others, was)
	unexplained := minus(found, p.left)
	for _, s := range minus(found, unexplained) {
		require.Zero(t, residentAt(t, s.lo, s.len()), "left in memory")
		unmapAt(t, s.lo, s.len())
	}

	const arena = 64 * miB // what the runtime maps at a time
	var holes []span
	for _, h := range p.holes {
		if h.inHeap() {
			holes = append(holes, minus([]span{h}, heap)...)
		}
	}
	inHeap := 0
	for _, s := range slices.Concat(heap, holes) {
		inHeap += s.len()
	}
	most := 0 // objects kept
	if p.name == "mremap fixed" {
		most = 1
	}
	require.GreaterOrEqual(t, vm.Lost(), min(len(holes), 1), "a hole in the heap")
	require.Zero(t, inHeap%arena, "a hole in the heap")
	require.LessOrEqual(t, vm.Lost(), most, "objects kept")
	for _, h := range holes {
		require.NotNil(t, mapAt(t, h.lo, h.len()))
	}
	vm.ForgetLost()
	return unexplained
}

// A setting is what scenarios run with.
type setting struct {
	mb, threshold, copied int // copied is mapping.CopiedView
	noHugePages           bool
}

// withFaults runs a scenario with calls that fail by plan, and looks at what is
// left of it.
func withFaults(t *testing.T, p *plan, set setting, run func(s *subject)) {
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("the plan was %s", p)
		}
	}()
	var left []span
	for range 3 { // the runtime maps something now and then; a leak is there each time
		if left = withFaultsOnce(t, p, set, run); len(left) == 0 {
			return
		}
	}
	require.Empty(t, left, "left mapped")
}

func withFaultsOnce(t *testing.T, p *plan, set setting, run func(s *subject)) []span {
	t.Helper()
	p.seen, p.left, p.holes = make(map[string]int), nil, nil
	p.hits.Store(0)
	p.over.Store(false)
	mapping.Settle()
	_, was := anonymous(t)
	s := &subject{t: t, plan: p, want: scratch()[:0], mb: set.mb}
	s.b.NoHugePages = set.noHugePages
	onCall(p.decide, func() {
		run(s)
		p.over.Store(true) // from here on nothing may fail
		s.check("at the end")
		requireMapped(t, &s.b)
		hit := p.hits.Load() > 0
		require.True(t, vm.Available() || hit && slices.Contains(permanent, p.errno), "maps are refused")
		require.True(t, !vm.MovesRefused() || hit && p.name == "mremap fixed", "moves are refused")
		vm.RefuseMaps(false)
		vm.RefuseMoves(false)

		s.write(2 * s.mb)
		s.read(s.mb)
		s.writeAt(len(s.want)+s.mb, 100)
		s.shrink()
		requireMapped(t, &s.b)
		s.close()
		requireMapped(t, &s.b)
		s.collect()
		mapping.Settle()
	})
	return leaks(t, p, was)
}

// scratch has room for the contents of a subject.
var scratch = sync.OnceValue(func() []byte { return make([]byte, 48*miB) })

// TestFaults has each system call of each scenario fail, in turn, once and for
// good, in each way that it can. Sizes are scaled down, or it would take hours.
func TestFaults(t *testing.T) {
	setUnit(t, 64*kiB)
	moved := setting{mb: 32 * kiB, threshold: 8 * kiB}
	faults := allFaults(t, scenarios, faultyErrnos, []bool{false, true}, moved)
	for _, set := range []setting{
		{32 * kiB, 8 * kiB, 0, true},
		{32 * kiB, 1, 0, false},
		{32 * kiB, 1, 0, true},
		{32 * kiB, 1, 128 * kiB, false}, // most views are copied
	} {
		// One errno that may be for good, and one that is not.
		faults += allFaults(t, scenarios, []unix.Errno{unix.ENOMEM, unix.EPERM}, []bool{false, true}, set)
	}
	t.Logf("%d cases", faults)
	assert.GreaterOrEqual(t, faults, 2000)
}

// TestFaultsAtFullSize does so with pages and contents as they are in earnest.
func TestFaultsAtFullSize(t *testing.T) {
	needMemory(t, giB)
	set := setting{miB, miB, mapping.CopiedView, false}
	faults := allFaults(t, append(largeScenarios, scenarios...), []unix.Errno{unix.ENOMEM}, []bool{false}, set)
	t.Logf("%d cases", faults)
	assert.GreaterOrEqual(t, faults, 100)
}

// allFaults returns how many cases there were. Each of faultyCalls must have
// been among them: constants change, and calls are not made any more.
func allFaults(t *testing.T, scenarios []scenario, errnos []unix.Errno, forGood []bool, set setting) (cases int) {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // when it runs is for collect to say
	defer mapping.SetLentMax(0)()                    // pages would come back at any time
	eventually(t, func() bool { return mapping.Counters.Mappings.Load() == 0 })
	manyThreads()
	proctest.Set(t, &mapping.CopiedView, set.copied)
	_ = make([]byte, 256*miB) // so that the runtime's tables of the heap are there
	hits := make(map[faulty]int64)
	for _, sc := range scenarios {
		t.Run(fmt.Sprintf("%s/%+v", sc.name, set), func(t *testing.T) {
			setThreshold(t, set.threshold)
			clean := new(plan)
			withFaults(t, clean, set, sc.run)
			each(clean, errnos, forGood, func(p *plan) {
				for p.n = 1; p.n == 1 || p.hits.Load() > 0; p.n++ {
					withFaults(t, p, set, sc.run)
					cases += int(min(p.hits.Load(), 1))
					hits[p.faulty] += p.hits.Load()
				}
			})
		})
	}
	for _, f := range faultyCalls {
		assert.Positive(t, hits[f], "%+v was not made to fail with %+v", f, set)
	}
	return cases
}

// each calls f with a plan for each way in which calls that a clean run made
// can fail.
func each(clean *plan, errnos []unix.Errno, forGood []bool, f func(p *plan)) {
	for _, c := range faultyCalls {
		if clean.seen[c.name] == 0 {
			continue
		}
		for _, errno := range errnos {
			for _, good := range forGood {
				f(&plan{faulty: c, errno: errno, forGood: good})
			}
		}
	}
}

// TestFaultCollections has the collector run before each system call of the last
// use of a Buffer, and maps something else wherever the Buffer's memory has
// gone: a method that does not keep its mapping to the end would write to that,
// or unmap it.
func TestFaultCollections(t *testing.T) {
	const n = 40 * miB
	needMemory(t, giB)
	last := append([]func(b *Buffer, seed, n int) bool{
		func(b *Buffer, seed, n int) bool { // past discardStep, and with an error
			m, err := b.WriteTo(writerFunc(func(p []byte) (int, error) { return n - 5, errTest }))
			return m == int64(n-5) && err == errTest
		},
		func(b *Buffer, seed, n int) bool { // past discardStep
			p := make([]byte, n-5)
			m, err := b.Read(p)
			return m == n-5 && err == nil && isFilled(p, seed, 0)
		},
		func(b *Buffer, seed, n int) bool { // gaps
			m, err := b.WriteAt([]byte("x"), int64(n+20*miB))
			return m == 1 && err == nil
		},
		func(b *Buffer, seed, n int) bool { // the same through a File
			f := NewFile(b)
			at, _ := f.Seek(int64(n+20*miB), io.SeekStart)
			m, err := f.Write([]byte("x"))
			return at == int64(n+20*miB) && m == 1 && err == nil
		},
		func(b *Buffer, seed, n int) bool { b.Truncate(n / 2); b.Shrink(); return true },
		func(b *Buffer, seed, n int) bool { c := *b; _ = c.WriteByte('x'); c.Shrink(); return true },
	}, lastCalls...)
	for i, call := range last {
		var other []byte
		var busy sync.Mutex
		var lo uintptr
		hook := func(string, []byte, []byte) error {
			if !busy.TryLock() { // a call of the cleanup itself
				return nil
			}
			defer busy.Unlock()
			for range 2 {
				runtime.GC()
				time.Sleep(2 * time.Millisecond)
			}
			if mem := mapAt(t, lo, n); mem != nil {
				dirty(mem)
				other = mem
			}
			return nil
		}
		func() {
			b := new(Buffer)
			fill(b, i, n)
			lo = uintptr(base(b.m.Inspect().Mem))
			onCall(hook, func() { require.True(t, call(b, i, n), "call %d", i) })
		}()
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
		if other != nil {
			require.Equal(t, n, residentAt(t, lo, n), "call %d has unmapped what is not its own", i)
			require.Equal(t, n, bytes.Count(other, []byte{0xff}), "call %d has written to what is not its own", i)
			unmapAt(t, lo, n)
		}
	}
}

// onCall calls hook before each system call that f makes.
func onCall(hook func(call string, target, source []byte) error, f func()) {
	defer vm.RefuseMoves(vm.MovesRefused())
	vm.OnCall.Store(&hook)
	defer vm.OnCall.Store(nil)
	f()
}

// failing has the calls fail, while f runs, for which fails is true.
func failing(fails func(call string) bool, f func()) {
	onCall(func(call string, target, source []byte) error {
		if fails(call) {
			return unix.ENOMEM
		}
		return nil
	}, f)
}

// TestPagesAtRandomFault is TestPagesAtRandom with calls that fail at random, but
// for mmap(2), without which operations may fail.
func TestPagesAtRandomFault(t *testing.T) {
	proctest.Set(t, &mostAlignment, os.Getpagesize())
	defer vm.RefuseMoves(vm.MovesRefused())
	pagesAtRandom(t, func(r *rand.Rand) func() {
		vm.RefuseMoves(false)
		if r.IntN(2) == 0 {
			return func() {}
		}
		rate := 1 + r.IntN(10)
		hook := func(call string, target, source []byte) error {
			if call != "mmap" && r.IntN(rate) == 0 {
				return unix.ENOMEM
			}
			return nil
		}
		vm.OnCall.Store(&hook)
		return func() { vm.OnCall.Store(nil) }
	})
}

// queued returns a Buffer with room behind n bytes, of which 31 MiB are read.
func queued(t *testing.T, n int) *Buffer {
	t.Helper()
	noIdle(t)
	b := new(Buffer)
	t.Cleanup(func() { b.Close() })
	b.Grow(100 * miB)
	fill(b, 1, n)
	_, _ = b.Read(make([]byte, 31*miB))
	return b
}

// TestFaultOfRecycling has the consumed prefix neither moved nor unmapped: the
// capacity was taken for what it had been before.
func TestFaultOfRecycling(t *testing.T) {
	b := queued(t, 60*miB)
	n := b.m.Inspect().Dirty - b.buf.Len + 1
	require.True(t, b.canRecycle(n))
	failing(func(call string) bool { return call == "munmap" || strings.HasPrefix(call, "mremap") }, func() {
		_, _ = b.Write(noise()[:n])
	})
	require.True(t, isFilled(contents(b)[:29*miB], 1, 31*miB))
	require.NoError(t, diffBytes(contents(b)[29*miB:], noise()[:n]))
}

// TestFaultInReadFromAFile has the mapping become a slice in the middle of ReadFrom
// from a file.
func TestFaultInReadFromAFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, noise()[:3*miB], 0o600))
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	b := queued(t, 60*miB-kiB)
	defer mapping.SetBudget(0)()
	failing(func(call string) bool { return strings.HasPrefix(call, "mremap") }, func() {
		n, err := b.ReadFrom(f)
		require.NoError(t, err)
		require.EqualValues(t, 3*miB, n)
	})
	require.NoError(t, diffBytes(contents(b)[29*miB-kiB:], noise()[:3*miB]))
}

// TestFaultlessAdvice: after the pages of a view had been moved, advice was given to
// their old addresses, where something else may be mapped by then.
func TestFaultlessAdvice(t *testing.T) {
	needMoves(t)
	noIdle(t)
	var b Buffer
	defer b.Close()
	b.Grow(62 * miB)
	_, _ = b.Write(noise())
	_, err := b.WriteAt([]byte("x"), 40*miB)
	require.NoError(t, err)
	b.Truncate(len(noise()))
	require.True(t, b.m.Sparse())
	const n = 6 * miB
	var other []byte
	at, moved := uintptr(base(b.m.Inspect().Mem)), false
	onCall(func(call string, target, source []byte) error {
		moved = moved || call == "mremap fixed"
		if moved && call == "munmap" && other == nil { // by now, something else is mapped there
			other = mapAt(t, at, n)
			require.NoError(t, unix.Madvise(other, unix.MADV_NOHUGEPAGE))
		}
		return nil
	}, func() {
		v, err := b.view(false)
		require.NoError(t, err)
		require.NoError(t, diffBytes(v, noise()))
	})
	require.True(t, moved && other != nil)
	for _, v := range vmas(t, other) {
		require.Contains(t, v.Flags, " nh ", "advice for what is not ours")
	}
	unmapAt(t, at, n)
}

// failView has the view of b fail: pages do not move, and there is no memory for a
// copy, but for a first probe.
func failView(t *testing.T, b *Buffer) {
	t.Helper()
	calls := make(map[string]int)
	failing(func(call string) bool {
		calls[call]++
		return call == "mremap fixed" || call == "mmap" && calls[call] > 1
	}, func() {
		err, panicked := caught(func() error { b.Bytes(); return nil })
		require.True(t, panicked)
		require.ErrorIs(t, err, ErrTooLarge)
	})
	require.Positive(t, calls["mremap fixed"])
}

// TestFaultOfView: the part of the mapping that the view did not need was idle memory
// by then. The Buffer went on writing to it, and so did the next owner.
func TestFaultOfView(t *testing.T) {
	needMemory(t, giB)
	var b, other Buffer
	defer b.Close()
	defer other.Close()
	fill(&b, 1, 48*miB)
	b.Truncate(8 * miB)
	failView(t, &b)
	size := b.Cap() // without what was not committed
	require.True(t, isFilled(contents(&b), 1, 0))

	fill(&other, 2, 30*miB)
	require.Equal(t, size, b.Cap())
	_, _ = b.Write(make([]byte, 40*miB))
	require.True(t, isFilled(contents(&other), 2, 0), "what another Buffer has written is overwritten")
	require.True(t, isFilled(contents(&b)[:8*miB], 1, 0))
	require.NoError(t, invariants(&b))
}

// TestFaultOfShorterView views a copy of a Buffer that has fewer contents: nothing has
// happened then to what the other has beyond them.
func TestFaultOfShorterView(t *testing.T) {
	noIdle(t)
	var other, b Buffer
	defer b.Close()
	fill(&other, 9, 16*miB)
	require.NoError(t, other.Close())
	fill(&b, 1, 5*miB)
	short := b
	fill(&b, 2, miB)
	require.True(t, short.current())
	failView(t, &short)
	got := contents(&b)
	require.Equal(t, 6*miB, len(got))
	require.True(t, isFilled(got[:5*miB], 1, 0))
	require.True(t, isFilled(got[5*miB:], 2, 0))
}
