//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mapping

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// A walk does to an owner, and to a slice that it is compared with, what the dice
// say.
type walk struct {
	dice  func(n int) int // returns a number from 0 to n-1
	o     owner
	want  []byte
	trace []string
}

// size returns a number of bytes, often at or near a multiple of what counts.
func (w *walk) size() int {
	near := w.dice(3) - 1
	switch w.dice(5) {
	case 0:
		return w.dice(100)
	case 1:
		return max(0, w.dice(8)*clearStep+near)
	case 2:
		return max(0, w.dice(4)*vm.Unit()+near)
	case 3:
		return max(0, w.dice(64)*os.Getpagesize()+near)
	}
	return w.dice(3 * vm.Unit())
}

func (w *walk) data() []byte {
	n := w.size()
	i := w.dice(1000)
	return noise()[i : i+min(n, len(noise())/2)]
}

// inside returns an offset in the contents, or their end.
func (w *walk) inside() int {
	n := w.dice(len(w.want) + 1)
	if w.dice(2) == 0 {
		n -= n % vm.Unit()
	}
	return n
}

// A mapping has at most this many units, or somewhat more, for the tests to be fast.
const walkUnits = 40

func (w *walk) step() error {
	op := w.dice(15)
	if len(w.want) > walkUnits*vm.Unit() {
		op = 8 + w.dice(3)
	}
	w.trace = append(w.trace, fmt.Sprint(op))
	if w.o.m == nil && op > 3 {
		op = 0
	}
	switch op {
	case 0, 1, 2:
		p := w.data()
		w.o.Write(p)
		w.want = append(w.want, p...)
	case 3, 4, 5:
		off, p := w.inside(), w.data()
		if w.dice(2) == 0 {
			off = len(w.want) + w.dice(8)*vm.Unit() + w.size()
		}
		if w.o.m == nil {
			w.o.Grow(0)
		}
		w.o.WriteAt(p, off)
		if more := off + len(p) - len(w.want); more > 0 {
			w.want = append(w.want, make([]byte, more)...)
		}
		copy(w.want[off:], p)
	case 6:
		w.o.Grow(w.size())
	case 7:
		if len(w.o.m.seams) == 0 {
			_ = w.o.m.MoveAligned(cap(w.o.m.mem))
			w.o.moved(0)
		}
	case 8:
		n := w.inside()
		w.o.Shorten(n)
		w.want = w.want[:n]
	case 9:
		n := w.inside()
		w.o.Read(n)
		w.want = w.want[n:]
	case 10:
		if w.dice(3) == 0 {
			w.o.CutFront()
		} else {
			w.o.Recycle()
		}
	case 11:
		w.o.Shrink()
	case 12:
		w.o.m.freeExcess()
	case 13:
		tick()
	case 14:
		if w.dice(4) == 0 {
			return w.publish()
		}
	}
	return nil
}

// publish looks at the bytes that a view shows, and goes on with a part of them.
func (w *walk) publish() error {
	spare := []int{0, w.size(), 1 << 40}[w.dice(3)]
	p, err := w.o.publish(spare)
	switch {
	case err != nil:
		return nil // a failing system call
	case !bytes.Equal(p, w.want):
		return fmt.Errorf("a view that has other contents")
	case hasForeign(p[:cap(p)]):
		return fmt.Errorf("a view that shows bytes of an earlier owner")
	}
	w.want = bytes.Clone(p[:min(len(p), 3*vm.Unit())])
	w.o.Write(w.want)
	return nil
}

func (w *walk) cleared() int {
	if w.o.m == nil {
		return 0
	}
	return w.o.m.cleared
}

func (w *walk) check() error {
	if w.o.m == nil {
		return nil
	}
	if err := w.o.check(); err != nil {
		return err
	}
	if err := w.checkPages(); err != nil {
		return err
	}
	if p := w.o.m.pages; hasForeign(p.mem[:p.cleared]) {
		return fmt.Errorf("I1: bytes of an earlier owner in mem[:%d]", p.cleared)
	}
	if p := w.o.m.pages; p.sparse.Load() != p.hasHoles() {
		return fmt.Errorf("sparse: %t, %v", p.sparse.Load(), p.touched)
	}
	if p := w.o.contents(); !bytes.Equal(p, w.want) {
		return fmt.Errorf("other contents, %d bytes of %d", len(p), len(w.want))
	}
	return nil
}

// checkPages checks I2 and I4, as far as resident pages tell.
func (w *walk) checkPages() error {
	p, page := w.o.m.pages, os.Getpagesize()
	mem := w.o.all()
	for i, v := range pagesIn(mem) {
		at := i * page
		switch rest := mem[max(at, min(p.dirty, at+page)) : at+page]; {
		case v&1 == 0:
		case at >= vm.Ceil(p.dirty):
			return fmt.Errorf("I2: %#x is resident, dirty is %#x", at, p.dirty)
		case bytes.Count(rest, []byte{0}) < len(rest):
			return fmt.Errorf("I2: %#x is not zero, dirty is %#x", at, p.dirty)
		case p.touched[at/vm.Unit()] == 0:
			return fmt.Errorf("I4: %#x is resident, and its unit is not touched", at)
		}
	}
	return nil
}

// run takes at most n steps, or until the dice have no more.
func (w *walk) run(n int, more func() bool) error {
	if w.o.noHuge = vm.Unit() < 2*miB || w.dice(4) == 0; w.dice(3) > 0 {
		leaveForeign(1+w.dice(20*vm.Unit()), w.dice(walkUnits*vm.Unit()), w.o.noHuge)
	}
	for range n {
		if !more() {
			break
		}
		m, gen, cleared := w.o.m, w.o.gen, w.cleared()
		err := w.step()
		if err == nil {
			err = w.check()
		}
		if err == nil && m == w.o.m && gen == w.o.gen && w.cleared() < cleared {
			err = fmt.Errorf("%d bytes are cleared, of %d that a copy may have written", w.cleared(), cleared)
		}
		if err != nil {
			return fmt.Errorf("%w, after %v", err, w.trace)
		}
	}
	w.o.Close()
	return nil
}

// walks calls run with walks of up to n steps, in two units.
func walks(t *testing.T, run func(w *walk, n int, more func() bool) error) {
	t.Helper()
	for _, unit := range []int{64 * kiB, vm.Unit()} {
		t.Run(fmt.Sprint("unit=", unit), func(t *testing.T) {
			setUnit(t, unit)
			seed := uint64(time.Now().UnixNano())
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 0))
			end := time.Now().Add(walkFor())
			for more := func() bool { return time.Now().Before(end) }; more(); {
				require.NoError(t, run(&walk{dice: r.IntN}, r.IntN(40), more))
			}
		})
	}
}

// TestWalk checks contents, fields and what is resident while an owner does all
// that moves, cuts, punches and fills pages, on memory of earlier owners.
func TestWalk(t *testing.T) { walks(t, (*walk).run) }

func walkFor() time.Duration {
	if testing.Short() {
		return 300 * time.Millisecond
	}
	return 900 * time.Millisecond
}

// FuzzMapping has the walk take what the bytes say.
func FuzzMapping(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 12 {
		p := make([]byte, 50*n)
		for i := range p {
			p[i] = byte(r.Uint32())
		}
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		setUnit(t, 64*kiB)
		w := walk{dice: func(n int) (k int) {
			for m := n - 1; m > 0 && len(p) > 0; m >>= 8 { // as many bytes as n-1 has
				k, p = k<<8|int(p[0]), p[1:]
			}
			return k % n
		}}
		require.NoError(t, w.run(100, func() bool { return len(p) > 0 }))
	})
}

// TestHoles has gaps of several units, in the middle and at the end, and fills them.
func TestHoles(t *testing.T) {
	noIdle(t)
	unit := vm.Unit()
	o := filled(1, unit/2)
	defer o.Close()
	o.WriteAt([]byte("end"), 10*unit+5) // 9 units are a hole
	require.True(t, o.m.Sparse())
	require.EqualValues(t, 2*unit, o.m.held.Load())
	require.LessOrEqual(t, resident(o.all()), 2*unit)
	o.WriteAt(noise()[:unit+2], 3*unit-1) // all of one unit, and a byte of each beside
	require.EqualValues(t, 5*unit, o.m.held.Load())
	o.WriteAt(noise()[:unit], 4*unit) // nothing new
	require.EqualValues(t, 5*unit, o.m.held.Load())
	for at := range 10 {
		require.True(t, o.m.Sparse())
		o.WriteAt([]byte("x"), at*unit)
	}
	require.False(t, o.m.Sparse())
	require.EqualValues(t, 11*unit, o.m.held.Load())
	require.NoError(t, o.check())
}

// TestShortGap leaves a gap that has no whole unit. It is zero; where nobody has
// written before, it takes no memory.
func TestShortGap(t *testing.T) {
	unit := vm.Unit()
	for _, warm := range []bool{false, true} {
		noIdle(t)
		if warm {
			leaveForeign(4*unit, 0, true)
		}
		o := owner{noHuge: true}
		fill(&o, 1, 1000)
		o.WriteAt([]byte("x"), 2*unit-1)
		require.False(t, o.m.Sparse())
		if !warm {
			require.LessOrEqual(t, resident(o.all()), 128*kiB+2*clearStep)
		}
		p := o.contents()
		require.Equal(t, 2*unit-1001, bytes.Count(p, []byte{0}))
		require.True(t, isFilled(p[:1000], 1, 0))
		o.Close()
	}
}

// TestEndInHole has the contents end in a hole, at no multiple of pages. To append no
// bytes there made its page resident, and did not count.
func TestEndInHole(t *testing.T) {
	noIdle(t)
	o := owner{noHuge: true}
	defer o.Close()
	o.Grow(16 * miB)
	o.WriteAt(nil, 12*miB)
	o.Shorten(5*miB + 100)
	o.Write(nil)
	require.Zero(t, resident(o.all()))
	require.Zero(t, o.m.held.Load())
	o.WriteAt([]byte("x"), 12*miB)
	o.Shorten(5*miB + 100)
	o.m.freeExcess()
	require.Equal(t, 5*miB+64*kiB, o.m.dirty)
	require.Zero(t, o.m.held.Load())
	require.NoError(t, o.check())
}

// TestGapInHole makes the contents end in a hole, and then leaves a gap:
// clearing the rest of the unit made it resident.
func TestGapInHole(t *testing.T) {
	unit := vm.Unit()
	o := filled(1, unit)
	defer o.Close()
	o.WriteAt([]byte("x"), 20*unit)
	for k := 15; k > 2; k-- {
		o.Shorten(k*unit + 100)
		o.WriteAt([]byte("x"), k*unit+2*unit+50)
		w := walk{o: *o}
		require.NoError(t, w.checkPages())
	}
}

// TestFilledHolesCount fills holes by appending to what has become shorter.
func TestFilledHolesCount(t *testing.T) {
	const n = 32 * miB
	for _, short := range []int{0, 3 * miB, 5*miB + 1} {
		o := new(owner)
		o.Grow(n)
		o.WriteAt(nil, n)
		require.Zero(t, o.m.held.Load())
		gen := o.gen
		copied := *o
		o.Shorten(short)
		require.NotEqual(t, gen, o.gen)
		require.False(t, copied.m.Read(copied.gen, 0, 1, nil), "the copy may have contents in what was a hole")
		fill(o, 1, n-short)
		require.NoError(t, o.check())
		require.GreaterOrEqual(t, o.m.held.Load(), int64(n-short))
		require.GreaterOrEqual(t, o.m.held.Load(), int64(resident(o.all())))
		o.Close()
	}
}

// TestHolesBeforeEnd shortens contents that have holes elsewhere only, which
// changes nothing, so that what is written next is warm.
func TestHolesBeforeEnd(t *testing.T) {
	noIdle(t)
	o := new(owner)
	defer o.Close()
	o.Grow(8 * miB)
	o.WriteAt(nil, 8*miB)
	o.Write(noise()[:4*miB])
	gen, committed, held := o.gen, o.m.committed, o.m.held.Load()
	o.Shorten(10 * miB)
	assert.Equal(t, gen, o.gen)
	assert.Equal(t, committed, o.m.committed)
	assert.Equal(t, held, o.m.held.Load())
	o.Shorten(miB)
	assert.Equal(t, miB, o.m.committed, "the hole there is committed")
	require.NoError(t, o.check())
}

// TestConsumedHole consumes a half of a hole, as a queue would, and then all of it.
func TestConsumedHole(t *testing.T) {
	const n, read = 60 * miB, 30 * miB
	for name, cut := range map[string]func(o *owner){
		"Recycle":  (*owner).Recycle,
		"CutFront": (*owner).CutFront,
		"Shrink":   (*owner).Shrink,
	} {
		o := new(owner)
		o.Grow(n)
		o.WriteAt(nil, n)
		o.Write([]byte("end"))
		o.Read(read)
		cut(o)
		require.Zero(t, o.off, name)
		require.Empty(t, o.m.seams, name)
		require.NoError(t, o.check(), name)
		require.LessOrEqual(t, o.m.held.Load(), int64(4*miB), name)
		fill(o, 1, 5*miB)
		got := o.contents()
		require.Equal(t, n-read, bytes.Count(got[:n-read], []byte{0}), name)
		require.Equal(t, "end", string(got[n-read:n-read+3]), name)
		require.True(t, isFilled(got[n-read+3:], 1, 0), name)
		require.True(t, o.m.Sparse(), name)
		o.Read(n - read)
		o.CutFront()
		require.False(t, o.m.Sparse(), name)
		require.Equal(t, got[n-read:], o.contents(), name)
		o.Close()
	}
}

// TestHugePagesAndHoles: while there are holes, only what is written in order gets
// huge pages; without them, all does.
func TestHugePagesAndHoles(t *testing.T) {
	noIdle(t)
	probe := filled(1, 8*miB)
	none := proctest.VMAs(t, probe.all())[0].Huge == 0
	probe.Close()
	if none || vm.Populate(filled(1, 1).all()[:os.Getpagesize()]) != nil {
		t.Skip("no huge pages, or a kernel before Linux 5.14")
	}
	huge := func(o *owner) int {
		vs := proctest.VMAs(t, o.all())
		require.Len(t, vs, 1)
		advice := map[bool]string{true: " nh ", false: " hg "}[o.m.Sparse()]
		require.Contains(t, vs[0].Flags, advice)
		return vs[0].Huge
	}
	EmptyIdle()
	o := new(owner)
	o.Grow(80 * miB)
	o.WriteAt(nil, 40*miB)
	require.Zero(t, huge(o))
	block := noise()[:16*kiB]
	for at := 3 * miB; at < 40*miB; at += 4 * miB {
		o.WriteAt(block, at) // here and there
	}
	o.WriteAt(block, 32*miB-8*kiB) // in two units, of which nothing else is written
	require.Zero(t, huge(o))
	require.LessOrEqual(t, resident(o.all()), 12*max(len(block), os.Getpagesize()))
	for range 8 * miB / len(block) {
		o.Write(block) // at the end
	}
	require.GreaterOrEqual(t, huge(o), 6*miB)
	was := huge(o)
	for at := 10 * miB; at < 20*miB; at += len(block) {
		o.WriteAt(block, at) // in order, in what were holes
	}
	require.GreaterOrEqual(t, huge(o)-was, 4*miB)
	for at := 0; at < 40*miB; at += 2 * miB {
		o.WriteAt(block, at)
	}
	require.False(t, o.m.Sparse())
	huge(o)

	// Holes go as well because they are cut off.
	o.WriteAt(block, 60*miB)
	require.True(t, o.m.Sparse())
	huge(o)
	o.Shorten(40 * miB)
	o.m.freeExcess()
	require.False(t, o.m.Sparse())
	huge(o)
	o.Close()
}

// TestRecycle moves the pages of what is consumed behind the others again and again:
// no more memory is taken, until there are too many seams.
func TestRecycle(t *testing.T) {
	unit := vm.Unit()
	for _, more := range []int{0, 20 * unit} { // capacity behind what was written
		noIdle(t)
		o := new(owner)
		o.Grow(4*unit + more)
		fill(o, 1, 4*unit)
		held := o.m.held.Load()
		most, cut := 0, false
		for k := range 60 {
			size := len(o.m.mem)
			o.Read(unit)
			o.Recycle()
			require.Zero(t, o.off)
			require.GreaterOrEqual(t, len(o.m.mem), size-unit)
			for i, v := range proctest.VMAs(t, o.all()) {
				if i > 0 {
					require.Contains(t, o.m.seams, int(v.Lo-address(o.m.mem)))
				}
			}
			most = max(most, len(o.m.seams))
			if cut = cut || o.m.held.Load() < held; !cut {
				require.Equal(t, held, o.m.held.Load())
			}
			fill(o, k+2, unit)
			require.NoError(t, o.check())
		}
		if !vm.MovesRefused() {
			require.Positive(t, most, "nothing was moved")
		}
		require.LessOrEqual(t, most, maxSeams+1)
		p := o.contents()
		for k := range 4 {
			require.True(t, isFilled(p[k*unit:(k+1)*unit], 58+k, 0), k)
		}
		o.Close()
		require.Zero(t, heldBytes())
	}
}

// queue returns an owner whose consumed prefix, of k units, was recycled when there
// were n. The mapping is several VMAs.
func queue(t *testing.T, n, k int) *owner {
	t.Helper()
	noIdle(t)
	if vm.MovesRefused() {
		t.Skip("moves are refused")
	}
	o := filled(1, n*vm.Unit())
	o.Read(k * vm.Unit())
	o.Recycle()
	require.NotEmpty(t, o.m.seams)
	return o
}

// TestRecycleOneVMA: before Linux 6.17, more than one is not moved by one call.
func TestRecycleOneVMA(t *testing.T) {
	unit := vm.Unit()
	o := queue(t, 10, 4)
	defer o.Close()
	first := o.m.seams[0]
	require.LessOrEqual(t, first, 6*unit)
	fill(o, 2, 4*unit)
	o.Read(9 * unit)
	o.Recycle()
	require.Equal(t, 9*unit-first, o.off)
	require.True(t, isFilled(o.contents(), 2, 3*unit))
}

// TestRoomBehindAQueue: a mapping of several VMAs is not moved to grow. So it has free
// addresses behind it from the start.
func TestRoomBehindAQueue(t *testing.T) {
	if vm.MovesRefused() {
		t.Skip("moves are refused")
	}
	noIdle(t)
	unit := vm.Unit()
	o := new(owner)
	o.Grow(16 * unit)
	fill(o, 1, 8*unit)
	block(t, o, cap(o.m.mem))
	o.Read(4 * unit)
	o.Recycle()
	size := len(o.m.mem) + 50*unit
	_, err := o.m.Grow(0, size, size)
	require.NoError(t, err)
	o.moved(0)
	require.True(t, isFilled(o.contents(), 1, 4*unit))
	o.Close()
}

// TestRecycledIsNotClean: a queue on idle memory had committed all that
// earlier owners had written, but had not written as much itself. When its consumed
// prefix was recycled, all of the memory counted as its own.
func TestRecycledIsNotClean(t *testing.T) {
	noIdle(t)
	leaveForeign(44*miB, 100*miB, false)
	o := new(owner)
	o.Grow(60 * miB)
	fill(o, 1, 41*miB)
	require.Equal(t, 44*miB, o.m.dirty, "as far as the other has written")
	o.Read(30 * miB)
	o.Recycle()
	require.NotEmpty(t, o.m.seams, "nothing was recycled")
	o.WriteAt([]byte{1}, 23*miB)
	require.False(t, hasForeign(o.contents()))
	require.False(t, hasForeign(o.window[:cap(o.window)]))
	o.Close()
}

// TestTickBesideOwner frees idle memory that an owner has not used, while it is
// written. For the race detector.
func TestTickBesideOwner(t *testing.T) {
	for name, use := range map[string]func(o *owner){
		"appended": func(o *owner) { fill(o, 1, 6*miB) },
		"a gap":    func(o *owner) { o.WriteAt([]byte("x"), 12*miB); fill(o, 1, miB) },
		"shortened": func(o *owner) {
			o.WriteAt([]byte("x"), 12*miB)
			for range 500 {
				o.Shorten(0)
				o.Write([]byte("x"))
			}
		},
		"a queue": func(o *owner) {
			fill(o, 1, 7*miB)
			o.Read(7 * miB)
			o.Recycle()
			fill(o, 1, 5*miB)
		},
	} {
		reached := 0
		for i := range 8 {
			noIdle(t)
			leaveForeign(16*miB, 0, false)
			o := filled(i, miB)
			if o.m.dirty > 8*miB {
				reached++
			}
			done := make(chan bool)
			go func() {
				time.Sleep(time.Duration(rand.N(500)) * time.Microsecond)
				tick()
				tick()
				close(done)
			}()
			use(o)
			<-done
			require.NoError(t, o.check(), name)
			require.False(t, hasForeign(o.contents()), name)
			o.Close()
		}
		require.Positive(t, reached, "no idle memory was used")
	}
}

// TestTickWhileCopied: a large copy takes longer than tick
// waits before it frees what the owner has not committed. The contents became zero.
func TestTickWhileCopied(t *testing.T) {
	const n = 8 * miB
	for i := range 5 {
		noIdle(t)
		use(2 * n)
		src := filled(i, n).contents()
		o := new(owner)
		o.Grow(n)
		var stop atomic.Bool
		done := make(chan bool)
		go func() {
			for !stop.Load() {
				o.m.freeExcess()
				runtime.Gosched()
			}
			close(done)
		}()
		o.append(n, func(mem []byte) int { return copy(mem, src) })
		stop.Store(true)
		<-done
		require.True(t, isFilled(o.contents(), i, 0))
		o.Close()
	}
}

// TestFreeExcess: what an owner writes may make all of a unit resident, of
// which only a part is dirty. All of it is freed.
func TestFreeExcess(t *testing.T) {
	noIdle(t)
	use(100)
	m := FromIdle(vm.Unit(), true)
	require.NotNil(t, m)
	require.EqualValues(t, vm.Unit(), m.held.Load())
	m.freeExcess()
	require.Zero(t, m.held.Load())
	require.Zero(t, resident(m.mem))
	require.NoError(t, m.Release(1))
}
