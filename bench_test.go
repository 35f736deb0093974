package mmapbuf

import (
	"bytes"
	"io"
	"math"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
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
					base := procBytes("self/status", "VmRSS")
					b.StartTimer()
					f.fill(size, chunk)
					b.StopTimer()
					peak = max(peak, procBytes("self/status", "VmHWM")-base)
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
		run := func(impl string, fill func(chunk []byte)) {
			b.Run("size="+sizeName(size)+"/impl="+impl, func(b *testing.B) {
				needBench(b, size)
				chunk := make([]byte, 64*kiB)
				b.SetBytes(int64(size))
				for b.Loop() {
					b.StopTimer()
					equalChance(4 * int64(size))
					b.StartTimer()
					fill(chunk)
				}
			})
		}
		run("bytes.Buffer", func(chunk []byte) {
			var o bytes.Buffer
			for o.Len() < size {
				o.Write(chunk)
				total += len(o.Bytes())
			}
		})
		run("mmapbuf.Buffer", func(chunk []byte) {
			var o Buffer
			for o.Len() < size {
				_, _ = o.Write(chunk)
				total += len(o.Bytes())
			}
		})
	}
}
