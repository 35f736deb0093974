//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

const foreign = 0xee // what earlier owners of idle memory have written; noise has no run of it

// leaveForeign makes n bytes of an earlier owner idle memory.
func leaveForeign(n int, noHugePages bool) {
	a := Buffer{NoHugePages: noHugePages}
	_, _ = a.Write(bytes.Repeat([]byte{foreign}, n))
	_ = a.Close()
}

// untouchedResident returns the offset of a page that is resident in a unit that is
// not touched, or -1. Pages that were only read are those of the kernel's zero
// page, which mincore(2) takes for resident as well: such a unit is all zero.
func untouchedResident(m *mapping.Mapping) int {
	page := os.Getpagesize()
	p := m.Inspect()
	mem := p.Mem[:cap(p.Mem)]
	vec := make([]byte, len(mem)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(base(mem)), uintptr(len(mem)), uintptr(unsafe.Pointer(unsafe.SliceData(vec))))
	if errno != 0 {
		return -1
	}
	for i, v := range vec {
		off := i * page
		u := off / vm.Unit()
		if v&1 != 0 && (u >= len(p.Touched) || p.Touched[u] == 0) && bytes.Count(mem[off:off+page], []byte{0}) < page {
			return off
		}
	}
	return -1
}

// TestPagesAtRandom does to Buffers on memory of earlier owners what moves, cuts,
// punches and fills pages, and compares contents, the fields of the page layer,
// and what is resident. It also runs with failing system calls: see
// TestPagesAtRandomWithFaults.
func TestPagesAtRandom(t *testing.T) { pagesAtRandom(t, func(*rand.Rand) func() { return func() {} }) }

// pagesAtRandom calls before before each step, and what that returns after it.
func pagesAtRandom(t *testing.T, before func(r *rand.Rand) (after func())) {
	setThreshold(t, 1)
	name := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(name, noise()[:3*miB], 0o600))
	for _, unit := range []int{64 * kiB, 2 * miB} {
		t.Run(fmt.Sprint("unit=", unit), func(t *testing.T) {
			if unit != vm.Unit() {
				setUnit(t, unit)
			}
			r := rand.New(rand.NewPCG(testSeed(t), 0))
			walks := 0
			for end := time.Now().Add(runFor(2 * time.Second)); time.Now().Before(end); walks++ {
				w := pageWalk{r: r, unit: unit, file: name}
				w.b.NoHugePages = unit < 2*miB || r.IntN(4) == 0
				if r.IntN(2) == 0 {
					leaveForeign(1+r.IntN(20*unit), w.b.NoHugePages)
				}
				for range r.IntN(40) {
					after := before(r)
					w.step()
					after()
					require.NoError(t, w.check(), "%v", w.trace)
				}
				require.NoError(t, diffBytes(contents(&w.b), w.want), "%v", w.trace)
				require.NoError(t, w.b.Close())
			}
			require.Positive(t, walks)
		})
	}
}

// A pageWalk is a Buffer, and what its contents are expected to be.
type pageWalk struct {
	r     *rand.Rand
	unit  int
	file  string
	b     Buffer
	want  []byte
	seen  []byte // what a view has shown
	trace []string
}

func (w *pageWalk) size() int {
	switch w.r.IntN(4) {
	case 0:
		return w.r.IntN(100)
	case 1:
		return w.r.IntN(w.unit / 8)
	case 2: // at the end of a unit, or near it
		return w.r.IntN(3)*w.unit + w.r.IntN(2)*w.r.IntN(5)
	}
	return w.r.IntN(3 * w.unit)
}

func (w *pageWalk) data() []byte {
	n := min(w.size(), len(noise())/2)
	i := w.r.IntN(len(noise()) - n)
	return noise()[i : i+n]
}

func (w *pageWalk) lengthen(n int) {
	if more := n - len(w.want); more > 0 {
		w.want = append(w.want, make([]byte, more)...)
	}
}

func (w *pageWalk) step() {
	f := NewFile(&w.b)
	n, p := w.size(), w.data()
	op := w.r.IntN(12)
	if len(w.want) > 40*w.unit {
		op = w.r.IntN(4)
	}
	w.trace = append(w.trace, fmt.Sprintf("%d(%d, %d)", op, n, len(p)))
	switch op {
	case 0:
		n := w.r.IntN(len(w.want) + 1)
		if n >= w.unit && w.r.IntN(2) == 0 {
			n -= n % w.unit
		}
		w.b.Truncate(n)
		w.want = w.want[:n]
	case 1:
		if w.r.IntN(2) == 0 {
			n = w.r.IntN(len(w.want) + 1)
		}
		k, _ := io.ReadFull(&w.b, make([]byte, n))
		w.want = w.want[k:]
	case 2:
		w.b.Shrink()
	case 3:
		if w.r.IntN(3) == 0 {
			w.b.Reset()
			w.want = nil
		} else if w.b.m != nil {
			w.b.m.FreeExcess()
		}
	case 4:
		_, _ = w.b.Write(p)
		w.want = append(w.want, p...)
	case 5, 6:
		off := w.r.IntN(len(w.want) + 1)
		if w.r.IntN(2) == 0 {
			off = len(w.want) + w.r.IntN(8)*w.unit + w.r.IntN(2)*w.r.IntN(w.unit)
		}
		if op == 5 {
			_, _ = w.b.WriteAt(p, int64(off))
		} else {
			_, _ = f.Seek(int64(off), io.SeekStart)
			_, _ = f.Write(p)
		}
		if len(p) > 0 {
			w.lengthen(off + len(p))
			copy(w.want[off:], p)
		}
	case 7:
		file, _ := os.Open(w.file)
		from, _ := file.Seek(-int64(min(n, 3*miB)), io.SeekEnd)
		_, _ = w.b.ReadFrom(file)
		_ = file.Close()
		w.want = append(w.want, noise()[from:3*miB]...)
	case 8:
		_, _ = w.b.ReadFrom(bytes.NewReader(p))
		w.want = append(w.want, p...)
	case 9:
		w.b.Grow(n)
	case 10:
		_ = f.Truncate(int64(len(w.want) + n))
		w.lengthen(len(w.want) + n)
	case 11:
		if w.r.IntN(4) > 0 {
			return
		}
		_, _ = caught(func() error { // a view may fail
			v := w.b.AvailableBuffer()
			w.seen = v[:cap(v)]
			if w.r.IntN(2) == 0 {
				v = w.b.Bytes()
				w.seen = v[len(v):cap(v)]
			}
			return nil
		})
	}
}

func (w *pageWalk) check() error {
	seen := w.seen
	w.seen = nil
	if bytes.Contains(seen, bytes.Repeat([]byte{foreign}, 16)) {
		return fmt.Errorf("a view shows bytes of an earlier owner")
	}
	if err := invariants(&w.b); err != nil || w.b.m == nil || !w.b.current() {
		return err
	}
	p := w.b.m.Inspect()
	if bytes.Contains(p.Mem[:p.Cleared], bytes.Repeat([]byte{foreign}, 16)) {
		return fmt.Errorf("bytes of an earlier owner in what is cleared")
	}
	if off := untouchedResident(w.b.m); off >= 0 {
		return fmt.Errorf("%#x is resident, and its unit is not touched", off)
	}
	return nil
}

// TestGapFromWithinAHole makes the contents end in a hole, and then leaves a gap:
// clearing the rest of the unit made it resident.
func TestGapFromWithinAHole(t *testing.T) {
	var b Buffer
	defer b.Close()
	_, _ = b.Write(noise()[:2*miB])
	_, err := b.WriteAt([]byte("x"), 40*miB)
	require.NoError(t, err)
	for unit := 19; unit > 2; unit-- {
		b.Truncate(unit*2*miB + 100)
		_, err := b.WriteAt([]byte("x"), int64(unit*2*miB+4*miB+50))
		require.NoError(t, err)
		require.Equal(t, -1, untouchedResident(b.m))
	}
}

// TestHugePagesAgain: huge pages are requested again when holes have gone because
// idle memory was freed, and appending in order gets them, in whatever way.
func TestHugePagesAgain(t *testing.T) {
	needHugePages(t)
	noIdle(t)
	var a, b Buffer
	fill(&a, 1, 16*miB)
	require.NoError(t, a.Close())
	b.Grow(16 * miB)
	_ = b.WriteByte('x')
	_, err := b.WriteAt([]byte("x"), 12*miB)
	require.NoError(t, err)
	require.True(t, b.m.Sparse())
	b.Reset()
	twoTicks()
	fill(&b, 1, 16*miB)
	require.NoError(t, invariants(&b))
	assert.GreaterOrEqual(t, vmas(t, b.m.Inspect().Mem)[0].huge, 12*miB)
	require.NoError(t, b.Close())

	const n = 40 * miB
	block := noise()[:8*kiB]
	for name, write := range map[string]func(b *Buffer, f *File){
		"Write":      func(b *Buffer, f *File) { _, _ = b.Write(block) },
		"File.Write": func(b *Buffer, f *File) { _, _ = f.Write(block) },
		"WriteAt":    func(b *Buffer, f *File) { _, _ = b.WriteAt(block, int64(b.Len())) },
	} {
		mapping.EmptyIdle()
		var b Buffer
		b.Grow(100 * miB)
		_ = b.WriteByte('x')
		_, err := b.WriteAt([]byte("x"), 20*miB)
		require.NoError(t, err)
		if vm.Populate(b.m.Inspect().Mem[:os.Getpagesize()]) != nil {
			t.Skip("before Linux 5.14, there is no way")
		}
		for f := atItsEnd(&b); b.Len() < 20*miB+n; {
			write(&b, f)
		}
		assert.GreaterOrEqual(t, vmas(t, b.m.Inspect().Mem)[0].huge, n-4*miB, name)
		require.NoError(t, b.Close())
	}
}

// TestTickBesideOwner frees idle memory that an owner has not used, while it is
// writing, or starts again. For the race detector.
func TestTickBesideOwner(t *testing.T) {
	setThreshold(t, 1)
	for _, use := range []func(b *Buffer){
		func(b *Buffer) { fill(b, 1, 8*miB) },
		func(b *Buffer) {
			for range 2000 {
				b.Reset()
				_, _ = b.WriteString("x")
			}
		},
		func(b *Buffer) { _, _ = b.WriteAt([]byte("x"), 12*miB); fill(b, 1, miB) },
	} {
		reached := 0
		for i := range byLength(10, 10, 50) {
			leaveForeign(16*miB, false)
			var b Buffer
			fill(&b, i, miB)
			if b.m.Inspect().Dirty > 8*miB {
				reached++
			}
			done := make(chan bool)
			go func() {
				time.Sleep(time.Duration(rand.N(500)) * time.Microsecond)
				twoTicks()
				close(done)
			}()
			use(&b)
			<-done
			require.NoError(t, invariants(&b))
			require.False(t, bytes.Contains(contents(&b), bytes.Repeat([]byte{foreign}, 16)))
			require.NoError(t, b.Close())
		}
		require.Positive(t, reached, "no idle memory was used")
	}
}
