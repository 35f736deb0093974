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

// The last use of a Buffer of n bytes is one of these calls: the collector may
// find it unreachable in the middle. Each reports whether the result is right.
var lastCalls = []func(b *Buffer, seed, n int) bool{
	func(b *Buffer, seed, n int) bool {
		m, err := b.Write(noise())
		return m == len(noise()) && err == nil
	},
	func(b *Buffer, seed, n int) bool {
		m, _ := b.WriteString(strings.Repeat("x", 5*miB))
		return m == 5*miB
	},
	func(b *Buffer, seed, n int) bool { return b.WriteByte('x') == nil },
	func(b *Buffer, seed, n int) bool { m, _ := b.WriteRune('€'); return m == 3 },
	func(b *Buffer, seed, n int) bool {
		p := make([]byte, n)
		m, err := b.Read(p)
		return m == n && err == nil && isFilled(p, seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
		p, err := b.ReadBytes(0) // noise has none
		return len(p) == n && err == io.EOF && isFilled(p, seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
		return isFilled([]byte(b.String()), seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
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
	func(b *Buffer, seed, n int) bool {
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
	func(b *Buffer, seed, n int) bool {
		m, err := b.WriteAt(noise(), int64(n/3))
		return m == len(noise()) && err == nil
	},
	func(b *Buffer, seed, n int) bool { v := b.Bytes(); return len(v) == n && isFilled(v, seed, 0) },
	func(b *Buffer, seed, n int) bool { v := b.Next(n - 5); return len(v) == n-5 && isFilled(v, seed, 0) },
	func(b *Buffer, seed, n int) bool {
		v, err := b.Peek(n / 2)
		return err == nil && len(v) == n/2 && isFilled(v, seed, 0)
	},
	func(b *Buffer, seed, n int) bool {
		v := b.AvailableBuffer()
		v = v[:cap(v)]
		clear(v)
		return true
	},
	func(b *Buffer, seed, n int) bool { b.Grow(3 * n); return true },
	func(b *Buffer, seed, n int) bool { b.Shrink(); return true },
	func(b *Buffer, seed, n int) bool { return b.Close() == nil },
	func(_ *Buffer, seed, n int) bool { // on the stack
		var b Buffer
		fill(&b, seed, n)
		p := make([]byte, n)
		m, err := b.Read(p)
		return m == n && err == nil && isFilled(p, seed, 0)
	},
	func(_ *Buffer, seed, n int) bool { // on the stack, the contents moved meanwhile
		var b Buffer
		fill(&b, seed, n)
		b.Shrink()
		b.Grow(8 * miB)
		m, err := b.Write(noise())
		return m == len(noise()) && err == nil
	},
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

func TestUnreachableDuringCall(t *testing.T) {
	useUntilUnreachable(t, runFor(3*time.Second))
}

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

// TestCloseKeepsMappingReachable looks whether a mapping is found unreachable while
// Close is about to unmap it: its cleanup would unmap it as well, and the
// second to come could hit what has been mapped there since.
func TestCloseKeepsMappingReachable(t *testing.T) {
	size := byLength(256*miB, 256*miB, 512*miB)
	needMemory(t, 2*int64(size))
	unmap := map[string]func(b *Buffer){
		"Close": func(b *Buffer) { _ = b.Close() },
		// The Writer closes the Buffer, so the end of the call unmaps.
		"WriteTo": func(b *Buffer) {
			_, _ = b.WriteTo(writerFunc(func(p []byte) (int, error) { _ = b.Close(); return 0, errTest }))
		},
	}
	for name, do := range unmap {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				b := Buffer{NoHugePages: true} // which takes longer to unmap
				b.Grow(size)
				fill(&b, 1, size)
				var closed, early, stop atomic.Bool
				runtime.AddCleanup(b.m, func(int) { early.Store(!closed.Load()) }, 0)
				var wg sync.WaitGroup
				wg.Go(func() {
					for !stop.Load() {
						runtime.GC()
					}
				})
				do(&b)
				closed.Store(true)
				stop.Store(true)
				wg.Wait()
				require.False(t, early.Load(), "the cleanup ran before the call was over")
			}
		})
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
		func() {
			b := new(Buffer)
			fill(b, 1, n)
			runtime.SetFinalizer(b, func(b *Buffer) {
				if isFilled(contents(b), 1, 0) && b.Close() == nil {
					ran.Add(1)
				}
			})
			s := new(inside)
			fill(&s.b, 2, n)
			runtime.SetFinalizer(s, func(s *inside) {
				if isFilled(s.b.Bytes(), 2, 0) {
					ran.Add(1)
				}
			})
			a := new([5]Buffer)
			for i := range a {
				fill(&a[i], i, n)
			}
			runtime.SetFinalizer(a, func(a *[5]Buffer) {
				for i := range a {
					if !isFilled(contents(&a[i]), i, 0) {
						return
					}
				}
				ran.Add(1)
			})
		}()
		eventually(t, func() bool { return ran.Load() == 3 })
	}
}

var globalBuffer Buffer

// TestReachableBuffersKeepTheirMapping keeps Buffers in all sorts of places while the collector
// is at work.
func TestReachableBuffersKeepTheirMapping(t *testing.T) {
	const n = 3 * miB
	array := new([6]Buffer)
	byName := make(map[string]*Buffer)
	var local Buffer
	closure := func() bool { return isFilled(contents(&local), 3, 0) }
	ch := make(chan *Buffer, 1)
	any1 := any(new(Buffer))
	defer globalBuffer.Close()
	underPressure(t, func() {
		fill(&globalBuffer, 1, n)
		fill(&local, 3, n)
		for i := range array {
			fill(&array[i], 10+i, n)
			b := new(Buffer)
			fill(b, 20+i, n)
			byName[fmt.Sprint(i)] = b
		}
		inChan := new(Buffer)
		fill(inChan, 30, n)
		ch <- inChan
		fill(any1.(*Buffer), 31, n)
		for range 5 {
			runtime.GC()
		}
		for i := range array {
			require.True(t, isFilled(contents(&array[i]), 10+i, 0))
			require.True(t, isFilled(contents(byName[fmt.Sprint(i)]), 20+i, 0))
		}
		require.True(t, closure())
		require.True(t, isFilled(contents(&globalBuffer), 1, 0))
		require.True(t, isFilled((<-ch).Bytes(), 30, 0))
		require.True(t, isFilled(contents(any1.(*Buffer)), 31, 0))

		// Neighbours that the kernel may have merged into one mapping:
		// each goes its own way without a trace on the others.
		array[1].Grow(40 * miB)
		_ = array[2].Close()
		v := array[3].Bytes()
		_, _ = array[4].WriteAt(noise(), n+5*miB)
		array[5].Shrink()
		fill(&array[2], 12, n)
		for range 3 {
			runtime.GC()
		}
		require.True(t, isFilled(v, 13, 0))
		for i := range array {
			require.True(t, isFilled(contents(&array[i])[:n], 10+i, 0), i)
		}
	})
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
				return keep, b.m.Inspect().Mem
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

// TestBufferStaysOnTheStack keeps a Buffer on a stack that grows and shrinks under it.
func TestBufferStaysOnTheStack(t *testing.T) {
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
