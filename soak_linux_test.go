//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// TestSoak has all that Buffers are used for happen at once while, now and
// then, the system grants no more memory or refuses calls. -soak says for how
// long; by itself it ends when no time is left and all memory is back.
func TestSoak(t *testing.T) {
	noRace(t)
	s := &soaking{t: t, limit: 512 * miB, largest: 64 * miB}
	if *soak > 0 {
		s.limit, s.largest = giB, giB
	}
	needMemory(t, 5*int64(s.limit)) // garbage, and copies where calls are refused, come on top
	if !inChild(t) {
		return
	}
	proctest.Set(t, &mostAlignment, os.Getpagesize())
	defer debug.SetGCPercent(debug.SetGCPercent(50)) // what has been viewed is heap
	s.run(time.Second/10, 4)                         // the runtime's own tables and threads
	was := settled(t)
	s.run(runFor(2*time.Second), 8)
	require.NoError(t, s.err)
	// A heap that was once large comes in more pieces.
	requireWithin(t, was, footprint{maps: 64, data: 256 * miB, rss: 24 * miB})
	is := footprintNow(t)
	t.Logf("%d jobs, %s written, %d views checked, %d times memory refused and %d calls failed for it",
		s.jobs.Load(), sizeString(int(s.written.Load())), s.views.Load(), s.faults, s.failed.Load())
	t.Logf("resident %s, then %s; mappings %d, then %d; most resident %s",
		sizeString(was.rss), sizeString(is.rss), was.maps, is.maps, sizeString(status(t, "VmHWM")))
	require.Positive(t, s.failed.Load(), "no call has failed")
}

// What the system grants.
type grants int

const (
	everything grants = iota
	noMemory          // not a fraction of what is asked for
	noCalls           // pages do not move to the heap, or mmap(2) is refused, too
)

type soaking struct {
	t *testing.T

	limit, largest int // bytes in use, and bytes of one Buffer

	gate   sync.RWMutex // held alone to change grants
	grants grants

	used, jobs, written, views, failed atomic.Int64

	faults  int
	stop    atomic.Bool
	errOnce sync.Once
	err     error
}

func (s *soaking) run(d time.Duration, workers int) {
	var wg sync.WaitGroup
	s.stop.Store(false)
	time.AfterFunc(d, func() { s.stop.Store(true) })
	users := make([]soaker, workers)
	for i := range users {
		w := &users[i]
		w.soaking, w.rand = s, rand.New(rand.NewPCG(rand.Uint64(), 0))
		wg.Go(func() {
			for !s.stop.Load() {
				s.check(w.turn())
			}
		})
	}
	for s.faults = 0; !s.stop.Load(); s.faults++ {
		s.fault()
		time.Sleep(rand.N(100 * time.Millisecond))
	}
	wg.Wait()
	for i := range users { // not before: it would make memory plentiful
		s.check(users[i].end())
	}
}

func (s *soaking) check(err error) {
	if err != nil {
		s.errOnce.Do(func() { s.err = err })
		s.stop.Store(true)
	}
}

// fault has the system refuse something for a while. A GiB is not to be had then, but
// there is enough for the runtime, which would die.
func (s *soaking) fault() {
	const room = 640 * miB
	var undo func()
	s.gate.Lock()
	failed := s.failed.Load()
	s.grants = noMemory
	switch s.faults % 4 {
	case 0:
		undo = limit(s.t, unix.RLIMIT_AS, "VmSize", room)
	case 2:
		undo = limit(s.t, unix.RLIMIT_DATA, "VmData", room)
	default:
		vm.RefuseMoves(true)
		vm.RefuseMaps(rand.N(2) == 0)
		s.grants = noCalls
		undo = func() { vm.RefuseMoves(false); vm.RefuseMaps(false) }
	}
	s.gate.Unlock()
	time.Sleep(rand.N(60 * time.Millisecond))
	for s.grants == noMemory && s.failed.Load() == failed && !s.stop.Load() {
		time.Sleep(time.Millisecond)
	}
	s.gate.Lock()
	defer s.gate.Unlock()
	s.grants = everything
	undo()
}

// A soaker uses Buffers, one job after the other.
type soaker struct {
	*soaking
	rand *rand.Rand
	seed int

	kept                 Buffer // holds what fill writes, a whole number of pieces, of keptSeed
	keptSeed, keptPieces int
	vast                 Buffer // has a length of a GiB and more, but little in it

	held []heldView
}

type heldView struct {
	ok func() bool
	n  int
}

var soakPool = sync.Pool{New: func() any { return new(Buffer) }}

func (w *soaker) turn() error {
	w.gate.RLock()
	defer w.gate.RUnlock()
	w.seed = w.rand.IntN(1 << 30)
	w.jobs.Add(1)
	jobs := []func(*soaker) error{
		(*soaker).view, (*soaker).view, (*soaker).keep, (*soaker).keep, (*soaker).pool, (*soaker).parallel,
		(*soaker).queue, (*soaker).script, (*soaker).unreachable, (*soaker).garbage, (*soaker).sparse,
	}
	switch w.grants {
	case noMemory:
		return w.ask()
	case noCalls:
		jobs = jobs[:10] // a copy of a sparse Buffer is memory
	case everything:
		if w.vast.Len() == 0 {
			return w.sparse()
		}
	}
	return jobs[w.rand.IntN(len(jobs))](w)
}

// end looks at what is left and lets go of it.
func (w *soaker) end() error {
	var errs []error
	for len(w.held) > 0 {
		errs = append(errs, w.drop(0))
	}
	errs = append(errs, w.lookAtKept(), w.kept.Close(), w.vast.Close())
	w.used.Add(int64(-w.keptPieces * piece))
	return errors.Join(errs...)
}

// take draws a size, its logarithm uniform, and returns it with what gives it
// back.
func (w *soaker) take(least, most int) (n int, release func()) {
	n = least
	if most = min(most, w.largest); most > least {
		n = min(least<<w.rand.IntN(32), most)
		n -= w.rand.IntN(n - n/2)
		n = max(n, least)
	}
	for w.used.Add(int64(n)) > int64(w.limit) && n > 64*kiB {
		w.used.Add(int64(-n))
		n /= 2
	}
	w.written.Add(int64(n))
	return n, func() { w.used.Add(int64(-n)) }
}

// view makes a view of a Buffer that is gone, and drops others.
func (w *soaker) view() error {
	n, _ := w.take(kiB, giB/4)
	names := []string{"Bytes", "Next", "Peek", "AvailableBuffer", "bytes.Reader", "the middle"}
	w.held = append(w.held, heldView{viewsOf[names[w.seed%len(names)]](w.seed, n), n})
	var err error
	for len(w.held) > 1 && (len(w.held) > 20 || w.rand.IntN(3) == 0 || w.used.Load() > int64(w.limit)/2) {
		err = errors.Join(err, w.drop(w.rand.IntN(len(w.held))))
	}
	return err
}

func (w *soaker) drop(i int) error {
	v := w.held[i]
	w.held = append(w.held[:i], w.held[i+1:]...)
	w.used.Add(int64(-v.n))
	w.views.Add(1)
	return expect(v.ok(), "a view of %d bytes has changed", v.n)
}

// keep adds to a Buffer that lives on from job to job, or starts it anew.
func (w *soaker) keep() error {
	if err := w.lookAtKept(); err != nil {
		return err
	}
	size := w.keptPieces * piece
	if size >= w.largest/2 || w.used.Load() > int64(w.limit)*3/4 || w.rand.IntN(50) == 0 {
		w.used.Add(int64(-size))
		w.keptSeed, w.keptPieces = w.seed, 0
		if w.rand.IntN(2) == 0 {
			w.kept.Reset()
		} else if err := w.kept.Close(); err != nil {
			return err
		}
		w.kept.NoHugePages = w.rand.IntN(4) == 0
	}
	switch w.rand.IntN(8) {
	case 0:
		w.kept.Shrink()
	case 1:
		w.kept.Bytes()
	}
	return w.add(1 + w.rand.IntN(1+min(w.keptPieces*2, 256)))
}

// add appends pieces.
func (w *soaker) add(pieces int) error {
	w.used.Add(int64(pieces * piece))
	w.written.Add(int64(pieces * piece))
	for range pieces {
		if n, err := w.kept.Write(pieceOf(w.keptSeed, w.keptPieces)); n != piece || err != nil {
			return fmt.Errorf("Write: %d, %w", n, err)
		}
		w.keptPieces++
	}
	return nil
}

// lookAtKept reads the first and the last of what must be there, and some in
// between.
func (w *soaker) lookAtKept() error {
	n := w.keptPieces
	errs := []error{
		invariants(&w.kept),
		expect(w.kept.Len() == n*piece, "%d pieces, and Len() = %d", n, w.kept.Len()),
	}
	p := make([]byte, piece)
	for _, k := range []int{0, n - 1, w.rand.IntN(n + 1), w.rand.IntN(n + 1)} {
		if k < 0 || k >= n {
			continue
		}
		_, err := w.kept.ReadAt(p, int64(k*piece))
		errs = append(errs, err, expect(isFilled(p, w.keptSeed, k*piece), "piece %d of %d has changed", k, n))
	}
	return errors.Join(errs...)
}

func (w *soaker) pool() error {
	n, release := w.take(1, 16*miB)
	defer release()
	b := soakPool.Get().(*Buffer)
	defer soakPool.Put(b)
	b.Reset()
	fill(b, w.seed, n)
	ok := false
	m, err := b.WriteTo(writerFunc(func(p []byte) (int, error) { ok = isFilled(p, w.seed, 0); return len(p), nil }))
	return expect(ok && m == int64(n) && err == nil, "WriteTo from a pool: %d of %d, %v", m, n, err)
}

// parallel has several goroutines write pieces in any order.
func (w *soaker) parallel() error {
	n, release := w.take(1, giB/8)
	defer release()
	order := w.rand.Perm((n + piece - 1) / piece)
	var b Buffer
	defer b.Close()
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() {
			for j := i; j < len(order); j += len(errs) {
				off := order[j] * piece
				p := pieceOf(w.seed, order[j])[:min(piece, n-off)]
				if m, err := b.WriteAt(p, int64(off)); m != len(p) || err != nil {
					errs[i] = fmt.Errorf("WriteAt in parallel: %d, %w", m, err)
				}
			}
		})
	}
	wg.Wait()
	same := b.Len() == n && isFilled(b.Bytes(), w.seed, 0)
	return errors.Join(errors.Join(errs...), invariants(&b), expect(same, "not what was written in parallel"))
}

// queue takes pieces through a Buffer and reads them by other sizes.
func (w *soaker) queue() error {
	n, release := w.take(4*piece, giB/16)
	defer release()
	var b Buffer
	defer b.Close()
	p := make([]byte, 1+w.rand.IntN(4*piece))
	in, out := 0, 0
	for end := 2 * n / piece; in < end || b.Len() > 0; {
		if in < end && (b.Len() < n/2 || w.rand.IntN(2) == 0) {
			_, _ = b.Write(pieceOf(w.seed, in))
			in++
			continue
		}
		m, err := b.Read(p)
		if err != nil || !isFilled(p[:m], w.seed, out) {
			return fmt.Errorf("a queue: other bytes at %d, %v", out, err)
		}
		out += m
	}
	return errors.Join(invariants(&b), expect(out == in*piece, "a queue: %d bytes in, %d out", in*piece, out))
}

// script runs all methods against the oracle.
func (w *soaker) script() error {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], uint64(w.seed))
	s := &script{src: bufio.NewReader(rand.NewChaCha8(key)), writeBits: 20, readBits: 16, limit: 4 * miB}
	p := newPair("")
	defer p.close()
	for range 100 {
		if err := s.step(p); err != nil {
			return err
		}
	}
	return errors.Join(p.check(byString), p.check(byBytes))
}

// unreachable leaves a Buffer to the collector in the middle of a call.
func (w *soaker) unreachable() error {
	n, release := w.take(2*miB, 8*miB)
	defer release()
	b, i := new(Buffer), w.rand.IntN(len(lastCalls))
	fill(b, w.seed, n)
	return expect(lastCalls[i](b, w.seed, n), "call %d on %d bytes: wrong result", i, n)
}

func (w *soaker) garbage() error {
	n, release := w.take(1, 16*miB)
	defer release()
	p := bytes.Repeat([]byte{0xee}, n)
	switch w.rand.IntN(16) {
	case 0:
		debug.FreeOSMemory()
	case 1, 2:
		runtime.GC()
	}
	return expect(bytes.Count(p, []byte{0xee}) == n, "memory of the heap has changed")
}

// sparse writes pieces here and there, and finds zeros in between.
func (w *soaker) sparse() error {
	b := &w.vast
	var err error
	if w.rand.IntN(4) == 0 {
		err = b.Close()
	}
	b.NoHugePages = true
	const least, most = 4 * giB, 6 * giB // more than garbage that goes meanwhile leaves room for
	if b.Len() > most {
		b.Truncate(least)
	}
	old := b.Len()
	off := max(old, least) + w.rand.IntN(giB)
	if n, err := b.WriteAt(pieceOf(w.seed, 0), int64(off)); n != piece || err != nil {
		return fmt.Errorf("WriteAt far away: %d, %w", n, err)
	}
	p := make([]byte, 2*piece)
	_, errRead := b.ReadAt(p, int64(off-piece))
	gap := p[max(0, piece-(off-old)):piece]
	return errors.Join(err, errRead, invariants(b), expect(isFilled(p[piece:], w.seed, 0), "other bytes far away"),
		expect(bytes.Count(gap, []byte{0}) == len(gap), "a gap is not zero"))
}

// ask asks for more than there is: all that asks must hear so, and nothing else
// change.
func (w *soaker) ask() error {
	const much = 1024 * giB // more than all vast Buffers leave room for when they are closed meanwhile
	var errs []error
	for _, call := range []func() error{
		func() error { return w.kept.Reserve(much) },
		func() error { w.kept.Grow(much); return nil },
		func() error { _, err := w.kept.WriteAt([]byte("x"), much); return err },
	} {
		err, _ := caught(call)
		errs = append(errs, noMemoryError(err))
		w.failed.Add(1)
	}
	// A view needs less than there is only if the mapping's own unused end is cut.
	if err, _ := caught(func() error { w.vast.Bytes(); return nil }); err == nil {
		errs = append(errs, w.vast.Close()) // what is in the heap would be copied to grow
	} else {
		errs = append(errs, noMemoryError(err))
	}
	errs = append(errs, w.lookAtKept(), invariants(&w.vast))
	if room := w.kept.Available() / piece; room > 0 && w.used.Load() < int64(w.limit) {
		errs = append(errs, w.add(min(room, 16)))
	}
	for _, v := range w.held {
		w.views.Add(1)
		errs = append(errs, expect(v.ok(), "a view of %d bytes has changed, without memory", v.n))
	}
	return errors.Join(errs...)
}

func noMemoryError(err error) error {
	return expect(errors.Is(err, ErrTooLarge) && errors.Is(err, unix.ENOMEM), "no memory, and %v", err)
}
