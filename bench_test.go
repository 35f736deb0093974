package mmapbuf

import (
	"bytes"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// The benchmarks run every implementation side by side, so that a ratio comes
// from one run. -short leaves out what takes more than 64 MiB.

// A filler makes n bytes out of writes of chunk, and may use what it made last
// time for nothing.
type filler struct {
	name string
	fill func(n int, chunk []byte)
}

var fillers = []filler{
	{"append", func(n int, chunk []byte) {
		var p []byte
		for len(p) < n {
			p = append(p, chunk...)
		}
		sink = p
	}},
	{"bytes.Buffer", func(n int, chunk []byte) {
		var b bytes.Buffer
		for b.Len() < n {
			b.Write(chunk)
		}
		sink = b.Bytes()
	}},
	{"make", func(n int, chunk []byte) {
		p := make([]byte, 0, n)
		for len(p) < n {
			p = append(p, chunk...)
		}
		sink = p
	}},
	{"mmapbuf.Buffer", func(n int, chunk []byte) { fillBuffer(&Buffer{}, n, chunk) }},
	{"mmapbuf.Buffer,NoHugePages", func(n int, chunk []byte) {
		fillBuffer(&Buffer{NoHugePages: true}, n, chunk)
	}},
	{"mmapbuf.Buffer,reserved", func(n int, chunk []byte) {
		var b Buffer
		b.Grow(n)
		fillBuffer(&b, n, chunk)
	}},
	{"mmapbuf.Buffer,viewed", func(n int, chunk []byte) {
		var b Buffer
		for b.Len() < n {
			_, _ = b.Write(chunk)
		}
		sink = b.Bytes()
	}},
	{"floor", func(n int, chunk []byte) { fillMapping(n, chunk, true) }},
	{"floor,NoHugePages", func(n int, chunk []byte) { fillMapping(n, chunk, false) }},
}

// fillMapping is the least that can be done: a mapping of the right size and
// plain copies into it, where memory for ordinary pages is had for each at once.
func fillMapping(n int, chunk []byte, huge bool) {
	n, _ = vm.Round(n)
	mem, err := vm.Map(n, huge)
	if err != nil {
		return
	}
	for i := 0; i < n; i += len(chunk) {
		if !huge {
			_ = vm.Populate(mem[i:min(i+len(chunk), n)])
		}
		copy(mem[i:], chunk)
	}
	_ = vm.Unmap(mem)
}

func fillBuffer(b *Buffer, n int, chunk []byte) {
	for b.Len() < n {
		_, _ = b.Write(chunk)
	}
	_ = b.Close()
}

var sink []byte

func BenchmarkFill(b *testing.B) {
	for _, size := range []int{64 * kiB, 512 * kiB, 1 * miB, 4 * miB, 64 * miB, 1 * giB} {
		for _, f := range fillers {
			b.Run("size="+sizeName(size)+"/impl="+f.name, func(b *testing.B) {
				needBench(b, size)
				if strings.HasPrefix(f.name, "floor") && (!mapping.Available() || size < 2*miB) {
					b.Skip("no mapping of this size here")
				}
				chunk := bytes.Repeat([]byte("mmapbuf\n"), 64*kiB/8)
				b.SetBytes(int64(size))
				var peak int64
				for b.Loop() {
					if size < 64*miB {
						f.fill(size, chunk)
						continue
					}
					b.StopTimer()
					equalChance(4 * int64(size))
					// 5 resets the peak (proc_pid_clear_refs(5)).
					_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
					base := proctest.Bytes("self/status", "VmRSS")
					b.StartTimer()
					f.fill(size, chunk)
					b.StopTimer()
					peak = max(peak, proctest.Bytes("self/status", "VmHWM")-base)
					b.StartTimer()
				}
				if peak > 0 {
					b.ReportMetric(float64(peak), "peak-bytes")
				}
				sink = nil
			})
		}
	}
}

// sizeName is sizeString for the name of a benchmark.
func sizeName(n int) string { return strings.ReplaceAll(sizeString(n), " ", "") }

// needBench skips a benchmark that takes too much time or memory.
func needBench(b *testing.B, size int) {
	b.Helper()
	if size > 64*miB && testing.Short() {
		b.Skip("-short")
	}
	if size >= 64*miB {
		needMemory(b, 5*int64(size))
	}
}

// maxWarm bounds how much memory equalChance touches.
const maxWarm = 5 << 30

// equalChance makes every implementation start from memory that the system
// has to hand out, and no other: the heap gives back what it keeps, and n bytes
// are touched and given back. (Many virtual machines hand free memory to their
// host; the first touch then takes ten times as long as it does elsewhere.)
func equalChance(n int64) {
	sink = nil
	debug.FreeOSMemory()
	size, _ := vm.Round(int(min(n, maxWarm, math.MaxInt)))
	mem, err := vm.Map(size, true)
	if err != nil {
		return
	}
	for i := 0; i < len(mem); i += 4 * kiB {
		mem[i] = 1
	}
	_ = vm.Unmap(mem)
}

// BenchmarkOp measures single operations on storage that is there already: of
// bytes.Buffer, and of a Buffer on a slice and on a mapping. The three take
// turns, a thousand calls each, so that all feel the same moods of the machine;
// reported are the medians of a call's time and, as what a Buffer takes of that
// of bytes.Buffer in the same turn, of the ratios. The functions of a pair are
// the same but for the type, for an interface would cost more than the
// operations do.
func BenchmarkOp(b *testing.B) {
	for _, op := range ops {
		b.Run("op="+op.name, func(b *testing.B) {
			std := bytes.NewBuffer(bytes.Clone(opData))
			var slice, mapping Buffer
			setThreshold(b, 2*len(opData))
			_, _ = slice.Write(opData)
			setThreshold(b, 1)
			_, _ = mapping.Write(opData)
			defer mapping.Close()

			var ns, onSlice, onMapping []float64
			for b.Loop() {
				t0 := time.Now()
				op.std(std)
				t1 := time.Now()
				op.our(&slice)
				t2 := time.Now()
				op.our(&mapping)
				t3 := time.Now()
				base := float64(t1.Sub(t0))
				ns = append(ns, base/opCount)
				onSlice = append(onSlice, float64(t2.Sub(t1))/base)
				onMapping = append(onMapping, float64(t3.Sub(t2))/base)
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(ns), "bytes.Buffer-ns")
			b.ReportMetric(median(onSlice), "slice-ratio")
			b.ReportMetric(median(onMapping), "mapping-ratio")
		})
	}
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}

const opCount = 1024

var (
	opData = bytes.Repeat([]byte("fifteen bytes..\n"), opCount*kiB/16)
	block  = make([]byte, kiB)
	total  int // of results, so that no call is optimised away
)

// stdRewind and ourRewind make opData the contents again.
func stdRewind(b *bytes.Buffer) { *b = *bytes.NewBuffer(opData) }
func ourRewind(b *Buffer)       { b.off = 0 }

// stdPeek stands for the Peek of bytes.Buffer, which is as small; Go 1.25 has
// none.
func stdPeek(b *bytes.Buffer, n int) ([]byte, error) {
	if n > b.Len() {
		return b.Bytes(), io.EOF
	}
	return b.Bytes()[:n], nil
}

var ops = []struct {
	name string
	std  func(b *bytes.Buffer)
	our  func(b *Buffer)
}{
	{"WriteByte", func(b *bytes.Buffer) {
		b.Reset()
		for range opCount {
			_ = b.WriteByte('x')
		}
	}, func(b *Buffer) {
		b.Reset()
		for range opCount {
			_ = b.WriteByte('x')
		}
	}},
	{"WriteString16", func(b *bytes.Buffer) {
		b.Reset()
		for range opCount {
			_, _ = b.WriteString("0123456789abcdef")
		}
	}, func(b *Buffer) {
		b.Reset()
		for range opCount {
			_, _ = b.WriteString("0123456789abcdef")
		}
	}},
	{"Write1KiB", func(b *bytes.Buffer) {
		b.Reset()
		for range opCount {
			_, _ = b.Write(block)
		}
	}, func(b *Buffer) {
		b.Reset()
		for range opCount {
			_, _ = b.Write(block)
		}
	}},
	{"WriteRune", func(b *bytes.Buffer) {
		b.Reset()
		for range opCount {
			_, _ = b.WriteRune('☺')
		}
	}, func(b *Buffer) {
		b.Reset()
		for range opCount {
			_, _ = b.WriteRune('☺')
		}
	}},
	{"ReadByte", func(b *bytes.Buffer) {
		stdRewind(b)
		for range opCount {
			c, _ := b.ReadByte()
			total += int(c)
		}
	}, func(b *Buffer) {
		ourRewind(b)
		for range opCount {
			c, _ := b.ReadByte()
			total += int(c)
		}
	}},
	{"Read1KiB", func(b *bytes.Buffer) {
		stdRewind(b)
		for range opCount {
			n, _ := b.Read(block)
			total += n
		}
	}, func(b *Buffer) {
		ourRewind(b)
		for range opCount {
			n, _ := b.Read(block)
			total += n
		}
	}},
	{"ReadBytes", func(b *bytes.Buffer) {
		stdRewind(b)
		for range opCount {
			p, _ := b.ReadBytes('\n')
			total += len(p)
		}
	}, func(b *Buffer) {
		ourRewind(b)
		for range opCount {
			p, _ := b.ReadBytes('\n')
			total += len(p)
		}
	}},
	{"Next", func(b *bytes.Buffer) {
		stdRewind(b)
		for range opCount {
			total += int(b.Next(16)[0])
		}
	}, func(b *Buffer) {
		ourRewind(b)
		for range opCount {
			total += int(b.Next(16)[0])
		}
	}},
	{"Peek", func(b *bytes.Buffer) {
		for range opCount {
			p, _ := stdPeek(b, 16)
			total += int(p[0])
		}
	}, func(b *Buffer) {
		for range opCount {
			p, _ := b.Peek(16)
			total += int(p[0])
		}
	}},
	{"Bytes", func(b *bytes.Buffer) {
		for range opCount {
			total += len(b.Bytes())
		}
	}, func(b *Buffer) {
		for range opCount {
			total += len(b.Bytes())
		}
	}},
	{"Len", func(b *bytes.Buffer) {
		for range opCount {
			total += b.Len()
		}
	}, func(b *Buffer) {
		for range opCount {
			total += b.Len()
		}
	}},
}

// BenchmarkViewEveryWrite takes a view after each write, the worst that can be
// done to a mapping.
func BenchmarkViewEveryWrite(b *testing.B) {
	for _, size := range []int{16 * miB, 256 * miB} {
		for _, impl := range []string{"bytes.Buffer", "mmapbuf.Buffer"} {
			b.Run("size="+sizeName(size)+"/impl="+impl, func(b *testing.B) {
				needBench(b, size)
				chunk := make([]byte, 64*kiB)
				b.SetBytes(int64(size))
				for b.Loop() {
					b.StopTimer()
					equalChance(4 * int64(size))
					b.StartTimer()
					var o buffer = new(bytes.Buffer)
					if impl == "mmapbuf.Buffer" {
						o = new(Buffer)
					}
					for o.Len() < size {
						_, _ = o.Write(chunk)
						total += len(o.Bytes())
					}
				}
			})
		}
	}
}

// large is the size of what these benchmarks work on: 1 GiB, with -short less.
func large() int {
	if testing.Short() {
		return 64 * miB
	}
	return giB
}

// turns runs what each implementation does in turn, in one benchmark, and
// reports the median of each in milliseconds. Every call starts with equal
// chances.
func turns(b *testing.B, size int, impls ...impl) {
	b.Helper()
	needMemory(b, 5*int64(size))
	turnsAfter(b, func() { equalChance(4 * int64(size)) }, impls...)
}

// turnsAfter is turns with something else before each call.
func turnsAfter(b *testing.B, before func(), impls ...impl) {
	b.Helper()
	times := make([][]float64, len(impls))
	for b.Loop() {
		for i, im := range impls {
			before()
			if t := im.run(); t > 0 {
				times[i] = append(times[i], float64(t)/1e6)
			}
		}
	}
	b.ReportMetric(0, "ns/op")
	for i, im := range impls {
		if len(times[i]) > 0 {
			b.ReportMetric(median(times[i]), im.name+"-ms")
		}
	}
}

// An impl does the work of a benchmark once and returns how long the part took
// that matters, 0 if it could not.
type impl struct {
	name string
	run  func() time.Duration
}

func timed(f func()) time.Duration {
	start := time.Now()
	f()
	return time.Since(start)
}

// BenchmarkFloor is filling beside the least that can be done, in turn, for the
// two are too close for BenchmarkFill to tell apart.
func BenchmarkFloor(b *testing.B) {
	if !mapping.Available() {
		b.Skip("no mappings here")
	}
	chunk := bytes.Repeat([]byte("mmapbuf\n"), 64*kiB/8)
	var impls []impl
	for _, f := range fillers {
		switch f.name {
		case "mmapbuf.Buffer", "mmapbuf.Buffer,NoHugePages", "floor", "floor,NoHugePages":
			impls = append(impls, impl{f.name, func() time.Duration {
				return timed(func() { f.fill(large(), chunk) })
			}})
		}
	}
	turns(b, large(), impls...)
}

// BenchmarkWorstWrite is the longest of all writes of 64 KiB.
func BenchmarkWorstWrite(b *testing.B) {
	chunk := make([]byte, 64*kiB)
	worst := func(w io.Writer) (most time.Duration) {
		for range large() / len(chunk) {
			most = max(most, timed(func() { _, _ = w.Write(chunk) }))
		}
		return most
	}
	turns(b, large(),
		impl{"bytes.Buffer", func() time.Duration { return worst(new(bytes.Buffer)) }},
		impl{"mmapbuf.Buffer", func() time.Duration {
			var o Buffer
			defer o.Close()
			return worst(&o)
		}})
}

// BenchmarkGrowthCall is the call alone that doubles full storage.
func BenchmarkGrowthCall(b *testing.B) {
	for _, size := range []int64{int64(large()), 4 * int64(large())} {
		if size > math.MaxInt {
			continue
		}
		size := int(size)
		b.Run("size="+sizeName(size), func(b *testing.B) {
			turns(b, size,
				impl{"copy", func() time.Duration {
					p := make([]byte, size)
					for i := 0; i < size; i += 4 * kiB {
						p[i] = 1
					}
					return timed(func() { sink = append(p, 1) })
				}},
				impl{"mmapbuf.Buffer", func() time.Duration {
					var o Buffer
					defer o.Close()
					fillUp(&o, size)
					return timed(func() { o.Grow(size) })
				}})
		})
	}
}

func fillUp(w io.Writer, size int) {
	for chunk := make([]byte, miB); size > 0; size -= len(chunk) {
		_, _ = w.Write(chunk[:min(size, len(chunk))])
	}
}

// BenchmarkBytes is the first view of contents that were never viewed, and a
// copy of them.
func BenchmarkBytes(b *testing.B) {
	size := large()
	turns(b, size,
		impl{"copy", func() time.Duration {
			p := make([]byte, size)
			fillUp(bytes.NewBuffer(p[:0]), size)
			return timed(func() { sink = bytes.Clone(p) })
		}},
		impl{"mmapbuf.Buffer", func() time.Duration {
			var o Buffer
			fillUp(&o, size)
			return timed(func() { sink = o.Bytes() })
		}})
}

// BenchmarkReadFrom reads a file that is in the page cache, and a pipe.
func BenchmarkReadFrom(b *testing.B) {
	size := large()
	name := filepath.Join(b.TempDir(), "data")
	f, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	fillUp(f, size)
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	file := func() *os.File {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		return f
	}
	pipe := func() *os.File {
		r, w, err := os.Pipe()
		if err != nil {
			b.Fatal(err)
		}
		go func() { fillUp(w, size); w.Close() }()
		return r
	}
	for from, open := range map[string]func() *os.File{"file": file, "pipe": pipe} {
		read := func(f func(r io.Reader)) func() time.Duration {
			return func() time.Duration {
				r := open()
				defer r.Close()
				return timed(func() { f(r) })
			}
		}
		impls := []impl{
			{"io.ReadAll", read(func(r io.Reader) { sink, _ = io.ReadAll(r) })},
			{"bytes.Buffer", read(func(r io.Reader) { _, _ = new(bytes.Buffer).ReadFrom(r) })},
			{"mmapbuf.Buffer", read(func(r io.Reader) {
				var o Buffer
				_, _ = o.ReadFrom(r)
				_ = o.Close()
			})},
		}
		if from == "file" {
			impls = append(impls, impl{"os.ReadFile", func() time.Duration {
				return timed(func() { sink, _ = os.ReadFile(name) })
			}})
		}
		b.Run("from="+from, func(b *testing.B) { turns(b, size, impls...) })
	}
}

// BenchmarkWriteTo writes to a file, over what it holds already.
func BenchmarkWriteTo(b *testing.B) {
	size := large()
	f, err := os.Create(filepath.Join(b.TempDir(), "data"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	fillUp(f, size)
	var o Buffer
	defer o.Close()
	p := bytes.Repeat([]byte("x"), size)
	_, _ = o.Write(p)
	turnsAfter(b, func() {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			b.Fatal(err)
		}
		o.setEnd(size) // unread it all
	}, impl{"plain", func() time.Duration {
		return timed(func() { _, _ = f.Write(p) })
	}}, impl{"mmapbuf.Buffer", func() time.Duration {
		return timed(func() { _, _ = o.WriteTo(f) })
	}})
}

// BenchmarkRefill fills what has been filled before.
func BenchmarkRefill(b *testing.B) {
	size := large() / 4
	chunk := make([]byte, 64*kiB)
	warm := make([]byte, size)
	var std bytes.Buffer
	var o Buffer
	defer o.Close()
	fillUp(&std, size)
	fillUp(&o, size)
	turnsAfter(b, func() {}, impl{"copy", func() time.Duration {
		return timed(func() {
			for i := 0; i < size; i += len(chunk) {
				copy(warm[i:], chunk)
			}
		})
	}}, impl{"bytes.Buffer", func() time.Duration {
		return timed(func() {
			std.Reset()
			for std.Len() < size {
				std.Write(chunk)
			}
		})
	}}, impl{"mmapbuf.Buffer", func() time.Duration {
		return timed(func() {
			o.Reset()
			for o.Len() < size {
				_, _ = o.Write(chunk)
			}
		})
	}})
}

// BenchmarkLife is all of a Buffer: made, filled with one write or many, and
// dropped, or closed. From 2 MiB on it also tells what a mapping of the right
// size would take.
func BenchmarkLife(b *testing.B) {
	for _, size := range []int{64, kiB, 16 * kiB, 256 * kiB, 512 * kiB, miB, 2 * miB, 4 * miB, 16 * miB, 64 * miB, 256 * miB} {
		b.Run("size="+sizeName(size), func(b *testing.B) {
			if size > 64*miB && testing.Short() {
				b.Skip("-short")
			}
			chunk := make([]byte, min(size, 64*kiB))
			rounds := max(2, 64*miB/size) // a turn sees its own garbage collected, and little of the others'
			turn := func(f func()) float64 {
				return float64(timed(func() {
					for range rounds {
						f()
					}
				}))
			}
			var std, drop, closed, floor []float64
			for b.Loop() {
				base := turn(func() {
					var o bytes.Buffer
					for o.Len() < size {
						o.Write(chunk)
					}
				})
				std = append(std, base/float64(rounds))
				drop = append(drop, turn(func() {
					var o Buffer
					for o.Len() < size {
						_, _ = o.Write(chunk)
					}
				})/base)
				closed = append(closed, turn(func() { fillBuffer(new(Buffer), size, chunk) })/base)
				if mapping.Available() && size >= 2*miB {
					floor = append(floor, turn(func() { fillMapping(size, chunk, true) })/base)
				}
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(median(std), "bytes.Buffer-ns")
			b.ReportMetric(median(drop), "dropped-ratio")
			b.ReportMetric(median(closed), "closed-ratio")
			if floor != nil {
				b.ReportMetric(median(floor), "floor-ratio")
			}
		})
	}
}

// BenchmarkQueue passes four times the backlog through, 64 KiB in and 64 KiB
// out. A bytes.Buffer takes up eight times the backlog meanwhile.
func BenchmarkQueue(b *testing.B) {
	for _, backlog := range []int64{miB, 64 * miB, 512 * miB, 4 * giB} {
		if backlog > math.MaxInt {
			continue
		}
		backlog := int(backlog)
		run := func(name string, peak int64, open func() io.ReadWriter) {
			b.Run("backlog="+sizeName(backlog)+"/impl="+name, func(b *testing.B) {
				if backlog > 64*miB && testing.Short() {
					b.Skip("-short")
				}
				needMemory(b, peak*int64(backlog))
				var worst time.Duration
				var most int64
				chunk := make([]byte, 64*kiB)
				amount := max(4*backlog, 256*miB)
				b.SetBytes(int64(amount))
				for b.Loop() {
					b.StopTimer()
					equalChance(4 * int64(backlog))
					base := proctest.Bytes("self/status", "VmRSS")
					q := open()
					fillUp(q, backlog)
					b.StartTimer()
					for i := range amount / len(chunk) {
						start := time.Now()
						_, _ = q.Write(chunk)
						worst = max(worst, time.Since(start))
						_, _ = q.Read(chunk)
						if i%1024 == 0 {
							most = max(most, proctest.Bytes("self/status", "VmRSS")-base)
						}
					}
					if c, ok := q.(io.Closer); ok {
						_ = c.Close()
					}
				}
				b.ReportMetric(float64(worst)/1e6, "worst-write-ms")
				b.ReportMetric(float64(most)/float64(backlog), "resident/backlog")
			})
		}
		run("bytes.Buffer", 9, func() io.ReadWriter { return new(bytes.Buffer) })
		run("mmapbuf.Buffer", 2, func() io.ReadWriter { return new(Buffer) })
	}
}

// BenchmarkLargest fills 18 GiB and reads them back.
func BenchmarkLargest(b *testing.B) {
	size := int64(18) << 30
	if size > math.MaxInt || testing.Short() {
		b.Skip("-short")
	}
	needMemory(b, size+2*giB)
	chunk := bytes.Repeat([]byte("mmapbuf\n"), miB/8)
	p := make([]byte, len(chunk))
	b.SetBytes(size)
	for b.Loop() {
		var o Buffer
		for int64(o.Len()) < size {
			_, _ = o.Write(chunk)
		}
		for range size / int64(len(chunk)) {
			if _, err := io.ReadFull(&o, p); err != nil || !bytes.Equal(chunk, p) {
				b.Fatal("read back something else", err)
			}
		}
		_ = o.Close()
	}
}

// BenchmarkGarbage reports what filling leaves on the Go heap.
func BenchmarkGarbage(b *testing.B) {
	chunk := make([]byte, 64*kiB)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		fillBuffer(new(Buffer), large(), chunk)
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N), "heap-B/op")
	b.ReportMetric(float64(after.NumGC-before.NumGC)/float64(b.N), "GCs/op")
}
