//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lastCalls are the last use of a Buffer of n bytes: the collector may find it
// unreachable in the middle. Each reports whether the result is right.
var lastCalls = []func(b *Buffer, seed, n int) bool{
	func(b *Buffer, _, _ int) bool { return all(b.Write(noise())) },
	func(b *Buffer, _, n int) bool { return all(b.WriteAt(noise(), int64(n/3))) },
	func(b *Buffer, _, _ int) bool { m, _ := b.WriteString(strings.Repeat("x", 5*miB)); return m == 5*miB },
	func(b *Buffer, _, _ int) bool { return b.WriteByte('x') == nil },
	func(b *Buffer, _, _ int) bool { m, _ := b.WriteRune('€'); return m == 3 },
	readsAll,
	func(b *Buffer, seed, n int) bool {
		p, err := b.ReadBytes(0) // noise has none
		return len(p) == n && err == io.EOF && isFilled(p, seed, 0)
	},
	func(b *Buffer, seed, _ int) bool { return isFilled([]byte(b.String()), seed, 0) },
	func(b *Buffer, seed, _ int) bool {
		c, err := b.ReadByte()
		return c == pieceOf(seed, 0)[0] && err == nil
	},
	func(b *Buffer, seed, n int) bool {
		ok := false
		m, err := b.WriteTo(writerFunc(func(p []byte) (int, error) {
			runtime.GC()
			ok = isFilled(p, seed, 0)
			runtime.GC()
			return len(p), nil
		}))
		return ok && m == int64(n) && err == nil
	},
	func(b *Buffer, _, _ int) bool {
		calls := 0
		m, err := b.ReadFrom(reader(func(p []byte) (int, error) {
			runtime.GC()
			if calls++; calls == 4 {
				return 0, io.EOF
			}
			return copy(p, noise()), nil
		}))
		return m > 0 && err == nil
	},
	func(b *Buffer, seed, n int) bool {
		p := make([]byte, n/2)
		m, err := b.ReadAt(p, int64(n/3))
		return m == n/2 && err == nil && isFilled(p, seed, n/3)
	},
	func(b *Buffer, seed, n int) bool { v := b.Bytes(); return len(v) == n && isFilled(v, seed, 0) },
	func(b *Buffer, seed, n int) bool { v := b.Next(n - 5); return len(v) == n-5 && isFilled(v, seed, 0) },
	func(b *Buffer, seed, n int) bool {
		v := first(b.Peek(n / 2))
		return len(v) == n/2 && isFilled(v, seed, 0)
	},
	func(b *Buffer, _, _ int) bool { v := b.AvailableBuffer(); clear(v[:cap(v)]); return true },
	func(b *Buffer, _, n int) bool { b.Grow(3 * n); return true },
	func(b *Buffer, _, _ int) bool { b.Shrink(); return true },
	func(b *Buffer, _, _ int) bool { return b.Close() == nil },
	func(_ *Buffer, seed, n int) bool { // on the stack
		var b Buffer
		fill(&b, seed, n)
		return readsAll(&b, seed, n)
	},
	func(_ *Buffer, seed, n int) bool { // on the stack, the contents moved meanwhile
		var b Buffer
		fill(&b, seed, n)
		b.Shrink()
		b.Grow(8 * miB)
		return all(b.Write(noise()))
	},
}

// all reports whether a call has written all of the noise.
func all(n int, err error) bool { return n == len(noise()) && err == nil }

func readsAll(b *Buffer, seed, n int) bool {
	p := make([]byte, n)
	m, err := b.Read(p)
	return m == n && err == nil && isFilled(p, seed, 0)
}

// useUntilUnreachable has Buffers become unreachable in the middle of calls for
// a time, with the collector at work all the while.
func useUntilUnreachable(t *testing.T, d time.Duration) {
	needMemory(t, 2*giB)
	defer debug.SetGCPercent(debug.SetGCPercent(1))
	var stop atomic.Bool
	var wg sync.WaitGroup
	errs := make(chan error, 64)
	for g := range 6 {
		wg.Go(func() {
			var kept [4]func() bool // views, for some time
			for seed := g * 10000; !stop.Load(); seed++ {
				i := rand.N(len(lastCalls))
				n := 2*miB + rand.N(3*miB)
				func() {
					b := new(Buffer)
					fill(b, seed, n)
					if !lastCalls[i](b, seed, n) {
						errs <- fmt.Errorf("call %d on %d bytes: wrong result", i, n)
						stop.Store(true)
					}
				}()
				if k := seed % 32; k < len(kept) {
					if kept[k] != nil && !kept[k]() {
						errs <- fmt.Errorf("a view changed")
						stop.Store(true)
					}
					kept[k] = viewsOf[[]string{"Bytes", "Next", "Peek", "AvailableBuffer"}[k]](seed, n)
				}
			}
		})
	}
	wg.Go(func() { errs <- churnHeap(&stop) })
	wg.Go(func() {
		for !stop.Load() {
			runtime.GC()
			debug.FreeOSMemory()
		}
	})
	time.AfterFunc(d, func() { stop.Store(true) })
	wg.Wait()
	close(errs)
	for err := range errs {
		assert.NoError(t, err)
	}
}

func TestUnreachableDuringCall(t *testing.T) { useUntilUnreachable(t, runFor(3*time.Second)) }

// TestRuntimeChecks has the runtime look for what must not be: freed memory in
// use, marks that do not hold, pointers to nowhere.
func TestRuntimeChecks(t *testing.T) {
	for _, check := range []string{"clobberfree=1", "gccheckmark=1", "invalidptr=1"} {
		t.Run(check, func(t *testing.T) {
			if testing.Short() && check != "clobberfree=1" {
				t.Skip("slow")
			}
			t.Setenv("GODEBUG", check)
			if inChild(t) {
				useUntilUnreachable(t, runFor(time.Second))
			}
		})
	}
}

// TestReachableInClose looks whether a mapping is found unreachable while Close is
// about to unmap it: its cleanup would unmap it as well, and the second to come could
// hit what has been mapped there since.
func TestReachableInClose(t *testing.T) {
	size := byLength(256*miB, 256*miB, 512*miB)
	needMemory(t, 2*int64(size))
	for name, unmap := range map[string]func(b *Buffer){
		"Close": func(b *Buffer) { _ = b.Close() },
		// The Writer closes the Buffer, so the end of the call unmaps.
		"WriteTo": func(b *Buffer) {
			_, _ = b.WriteTo(writerFunc(func(p []byte) (int, error) { _ = b.Close(); return 0, errTest }))
		},
	} {
		for range 2 {
			b := Buffer{NoHugePages: true} // which takes longer to unmap
			b.Grow(size)
			fill(&b, 1, size)
			var closed, early atomic.Bool
			runtime.AddCleanup(b.m, func(int) { early.Store(!closed.Load()) }, 0)
			var wg sync.WaitGroup
			wg.Go(func() {
				for !closed.Load() {
					runtime.GC()
				}
			})
			unmap(&b)
			closed.Store(true)
			wg.Wait()
			require.False(t, early.Load(), "%s: the cleanup ran before the call was over", name)
		}
	}
}

// TestFinalizerOfBufferRuns has one on the Buffer itself, or on what it is part
// of: that it knows its own address must not keep it.
func TestFinalizerOfBufferRuns(t *testing.T) {
	type inside struct {
		Before [3]int
		b      Buffer
		After  [1000]int
	}
	for _, n := range []int{100, 3 * miB} {
		var ran atomic.Int32
		see := func(bs ...*Buffer) {
			for _, b := range bs {
				if !isFilled(b.Bytes(), 1, 0) || b.Close() != nil {
					return
				}
			}
			ran.Add(1)
		}
		func() {
			b, s, a := new(Buffer), new(inside), new([2]Buffer)
			for _, b := range []*Buffer{b, &s.b, &a[0], &a[1]} {
				fill(b, 1, n)
			}
			runtime.SetFinalizer(b, func(b *Buffer) { see(b) })
			runtime.SetFinalizer(s, func(s *inside) { see(&s.b) })
			runtime.SetFinalizer(a, func(a *[2]Buffer) { see(&a[0], &a[1]) })
		}()
		eventually(t, func() bool { return ran.Load() == 3 })
	}
}

var globalBuffer Buffer

// TestReachable keeps Buffers in all sorts of places while the collector is at work.
func TestReachable(t *testing.T) {
	const n = 3 * miB
	array := new([6]Buffer)
	byName := map[string]*Buffer{"x": new(Buffer)}
	var local Buffer
	closure := func() *Buffer { return &local }
	ch := make(chan *Buffer, 1)
	any1 := any(new(Buffer))
	defer globalBuffer.Close()
	right := func(b *Buffer, seed int) {
		t.Helper()
		require.True(t, isFilled(contents(b)[:n], seed, 0), seed)
	}
	underPressure(t, func() {
		for i := range array {
			fill(&array[i], i, n)
		}
		inChan := new(Buffer)
		ch <- inChan
		for i, b := range []*Buffer{byName["x"], closure(), inChan, any1.(*Buffer), &globalBuffer} {
			fill(b, 10+i, n)
		}
		for range 5 {
			runtime.GC()
		}
		for i := range array {
			right(&array[i], i)
		}
		for i, b := range []*Buffer{byName["x"], closure(), <-ch, any1.(*Buffer), &globalBuffer} {
			right(b, 10+i)
		}

		// Neighbours that the kernel may have merged into one mapping:
		// each goes its own way without a trace on the others.
		array[1].Grow(40 * miB)
		_ = array[2].Close()
		v := array[3].Bytes()
		_, _ = array[4].WriteAt(noise(), n+5*miB)
		array[5].Shrink()
		fill(&array[2], 2, n)
		for range 3 {
			runtime.GC()
		}
		require.True(t, isFilled(v, 3, 0))
		for i := range array {
			right(&array[i], i)
		}
	})
}

// TestOnTheStack keeps a Buffer on a stack that grows and shrinks under it.
func TestOnTheStack(t *testing.T) {
	done := make(chan bool)
	go func() { // a new stack, and small
		defer close(done)
		var b Buffer
		defer b.Close()
		fill(&b, 1, 3*miB)
		for depth := 1; depth < 1<<12; depth *= 2 {
			deep(depth)
			_ = b.WriteByte('x')
			runtime.GC() // may shrink the stack
			_ = b.WriteByte('y')
		}
	}()
	<-done
	if raceEnabled || mapThreshold < smallSize {
		return
	}
	assert.EqualValues(t, 1, testing.AllocsPerRun(100, func() {
		var b Buffer
		_ = b.WriteByte('x') // the contents
	}))
}

func deep(n int) byte {
	var p [512]byte
	p[n%512] = 1
	if n > 0 {
		return deep(n-1) + p[1]
	}
	return p[0]
}
