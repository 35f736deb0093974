package mmapbuf

import (
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing/iotest"
)

// The operations.

func write(p []byte) op {
	return op{fmt.Sprintf("Write(%d)", len(p)), other, func(b buffer) result {
		n, err := b.Write(p)
		return result{n: int64(n), err: err}
	}}
}

func writeString(s string) op {
	return op{fmt.Sprintf("WriteString(%d)", len(s)), other, func(b buffer) result {
		n, err := b.WriteString(s)
		return result{n: int64(n), err: err}
	}}
}

func writeByte(c byte) op {
	return op{fmt.Sprintf("WriteByte(%#x)", c), other, func(b buffer) result {
		return result{err: b.WriteByte(c)}
	}}
}

func writeRune(r rune) op {
	return op{fmt.Sprintf("WriteRune(%#x)", r), other, func(b buffer) result {
		n, err := b.WriteRune(r)
		return result{n: int64(n), err: err}
	}}
}

// appendAvailable writes p by way of AvailableBuffer.
func appendAvailable(p []byte) op {
	return op{fmt.Sprintf("Write(append(AvailableBuffer(), %d))", len(p)), other, func(b buffer) result {
		a := b.AvailableBuffer()
		if len(a) != 0 || cap(a) != b.Available() {
			return result{err: fmt.Errorf("AvailableBuffer: len %d, cap %d, want 0, %d", len(a), cap(a), b.Available())}
		}
		n, err := b.Write(append(a, p...))
		return result{n: int64(n), err: err}
	}}
}

// readFrom reads from what open returns.
func readFrom(name string, open func() io.Reader) op {
	return op{"ReadFrom(" + name + ")", other, func(b buffer) result {
		r, short := open(), false
		n, err := b.ReadFrom(reader(func(p []byte) (int, error) {
			short = short || len(p) < MinRead
			return r.Read(p)
		}))
		if short && !bounded(b) {
			err = errors.New("ReadFrom: less than MinRead bytes to Read into")
		}
		return result{n: n, err: err}
	}}
}

func readAll(s string) op {
	return readFrom(strconv.Itoa(len(s)), func() io.Reader { return strings.NewReader(s) })
}

func writeTo(max, lie int, err error) op {
	return op{fmt.Sprintf("WriteTo(max %d, lie %d, %v)", max, lie, err), take, func(b buffer) result {
		w := &writer{max: max, lie: lie, err: err}
		n, err := b.WriteTo(w)
		return result{n: n, p: w.took, r: w.calls, err: err}
	}}
}

func read(n int) op {
	return op{fmt.Sprintf("Read(%d)", n), take, func(b buffer) result {
		p := make([]byte, n)
		n, err := b.Read(p)
		return result{n: int64(n), p: p, err: err}
	}}
}

func readBytes(delim byte) op {
	return op{fmt.Sprintf("ReadBytes(%q)", delim), take, func(b buffer) result {
		p, err := b.ReadBytes(delim)
		res := result{p: p, err: err}
		if p == nil { // as opposed to empty
			res.n = -1
		}
		return res
	}}
}

func readString(delim byte) op {
	return op{fmt.Sprintf("ReadString(%q)", delim), take, func(b buffer) result {
		s, err := b.ReadString(delim)
		return result{p: []byte(s), err: err}
	}}
}

func next(n int) op {
	return op{fmt.Sprintf("Next(%d)", n), take, func(b buffer) result {
		return result{p: b.Next(n), view: true}
	}}
}

func peekN(n int) op {
	return op{fmt.Sprintf("Peek(%d)", n), look, func(b buffer) result {
		p, err := peek(b, n)
		return result{p: p, err: err, view: true}
	}}
}

func truncate(n int) op {
	return op{fmt.Sprintf("Truncate(%d)", n), other, func(b buffer) result {
		b.Truncate(n)
		return result{}
	}}
}

// cut truncates by n bytes.
func cut(n int) op {
	return op{fmt.Sprintf("Truncate(Len()%+d)", -n), other, func(b buffer) result {
		b.Truncate(b.Len() - n)
		return result{}
	}}
}

// growBy grows. A negative count is a panic that changes nothing.
func growBy(n int) op {
	k := grow
	if n < 0 {
		k = look
	}
	return op{fmt.Sprintf("Grow(%d)", n), k, func(b buffer) result {
		b.Grow(n)
		if a := b.Available(); a < n {
			return result{err: fmt.Errorf("Available() = %d after Grow(%d)", a, n)}
		}
		return result{}
	}}
}

// growWrite grows and writes as much, which must not move the storage.
func growWrite(p []byte) op {
	return op{fmt.Sprintf("Grow(%d), Write", len(p)), other, func(b buffer) result {
		b.Grow(len(p))
		c := b.Cap()
		n, err := b.Write(p)
		if b.Cap() != c {
			err = fmt.Errorf("Cap() went from %d to %d in Write(%d) after Grow", c, b.Cap(), len(p))
		}
		return result{n: int64(n), err: err}
	}}
}

var (
	readByte = op{"ReadByte", take, func(b buffer) result {
		c, err := b.ReadByte()
		return result{r: rune(c), err: err}
	}}
	readRune = op{"ReadRune", take, func(b buffer) result {
		r, n, err := b.ReadRune()
		return result{r: r, n: int64(n), err: err}
	}}
	unreadByte = op{"UnreadByte", unread, func(b buffer) result { return result{err: b.UnreadByte()} }}
	unreadRune = op{"UnreadRune", unread, func(b buffer) result { return result{err: b.UnreadRune()} }}
	reset      = op{"Reset", other, func(b buffer) result { b.Reset(); return result{} }}
	getBytes   = op{"Bytes", look, func(b buffer) result { return result{p: b.Bytes(), view: true} }}
	getString  = op{"String", look, func(b buffer) result { return result{p: []byte(b.String())} }}
	getLen     = op{"Len", look, func(b buffer) result { return result{n: int64(b.Len())} }}
	getCap     = op{"Cap", look, func(b buffer) result { b.Cap(); return result{} }}
	available  = op{"AvailableBuffer", look, func(b buffer) result { return result{p: b.AvailableBuffer()} }}
)

// The operations beyond those of bytes.Buffer.

func writeAt(p []byte, off int64) op {
	k := overwrite
	if off > math.MaxInt32 {
		k = grow // it drops what has been consumed before it fails
	}
	return op{fmt.Sprintf("WriteAt(%d bytes, %d)", len(p), off), k, func(b buffer) result {
		n, err := b.(beyond).WriteAt(p, off)
		return result{n: int64(n), err: err}
	}}
}

func readAt(n int, off int64) op {
	return op{fmt.Sprintf("ReadAt(%d bytes, %d)", n, off), look, func(b buffer) result {
		p := make([]byte, n)
		n, err := b.(beyond).ReadAt(p, off)
		return result{n: int64(n), p: p, err: err}
	}}
}

func reserveBy(n int) op {
	return op{fmt.Sprintf("Reserve(%d)", n), grow, func(b buffer) result {
		err := b.(beyond).Reserve(n)
		if a := b.Available(); err == nil && a < n {
			err = fmt.Errorf("Available() = %d after Reserve(%d)", a, n)
		}
		return result{err: err}
	}}
}

func setMaxLen(n int) op {
	return op{fmt.Sprintf("MaxLen = %d", n), look, func(b buffer) result {
		switch b := b.(type) {
		case *Buffer:
			b.MaxLen = n
		case *oracle:
			b.maxLen = n
		}
		return result{}
	}}
}

// bounded reports whether b has a MaxLen.
func bounded(b buffer) bool {
	switch b := b.(type) {
	case *Buffer:
		return b.MaxLen > 0
	case *oracle:
		return b.maxLen > 0
	}
	return false
}

var (
	shrink      = op{"Shrink", other, func(b buffer) result { b.(beyond).Shrink(); return result{} }}
	closeIt     = op{"Close", other, func(b buffer) result { return result{err: b.(beyond).Close()} }}
	collectNow  = op{"GC", look, func(buffer) result { runtime.GC(); return result{} }}
	noHugePages = op{"NoHugePages", look, func(b buffer) result {
		if b, ok := b.(*Buffer); ok {
			b.NoHugePages = !b.NoHugePages
		}
		return result{}
	}}
)

// moveByValue is done by pair.step.
var moveByValue = op{"move by value", look, func(buffer) result { return result{} }}

// glance looks at b in all ways, and returns what it saw.
func glance(b buffer) []byte {
	p, s := b.Bytes(), b.String()
	q, _ := peek(b, len(s)/2)
	_ = b.AvailableBuffer()
	if string(p) != s || string(q) != s[:len(s)/2] || b.Len() != len(s) || b.Cap() < len(s) {
		return []byte("Bytes, String and Peek differ")
	}
	return append(fmt.Appendf(nil, "%d ", len(s)), s[max(0, len(s)-100):]...)
}

// readFromLooking has the Reader look at the Buffer in each call.
func readFromLooking(p []byte) op {
	return op{fmt.Sprintf("ReadFrom(%d, looking)", len(p)), other, func(b buffer) result {
		left := p
		var seen []byte
		n, err := b.ReadFrom(reader(func(q []byte) (int, error) {
			seen = append(seen, glance(b)...)
			if len(left) == 0 {
				return 0, io.EOF
			}
			n := copy(q[:min(len(q), 400)], left)
			left = left[n:]
			seen = append(seen, glance(b)...)
			return n, nil
		}))
		return result{n: n, err: err, p: seen}
	}}
}

// writeToLooking has the Writer, and goroutines of its, look at the Buffer.
func writeToLooking(max int, err error) op {
	return op{fmt.Sprintf("WriteTo(max %d, %v, looking)", max, err), take, func(b buffer) result {
		var seen []byte
		n, err := b.WriteTo(writerFunc(func(p []byte) (int, error) {
			seen = append(seen, lookAtOnce.run(b).p...)
			p = p[:min(len(p), max)]
			seen = append(seen, p...)
			return len(p), err
		}))
		return result{n: n, err: err, p: seen}
	}}
}

var lookAtOnce = op{"look at once", look, func(b buffer) result {
	var seen [3][]byte
	var wg sync.WaitGroup
	for i := range seen {
		wg.Go(func() { seen[i] = glance(b) })
	}
	wg.Wait()
	return result{p: slices.Concat(seen[:]...)}
}}

// Readers and writers that break their contracts or break off.
var (
	readNegative = readFrom("negative count", func() io.Reader {
		return reader(func([]byte) (int, error) { return -1, io.EOF })
	})
	readTooMuch = readFrom("count beyond p", func() io.Reader {
		return reader(func(p []byte) (int, error) { return len(p) + 1, io.EOF })
	})
	readPanic = readFrom("panic", func() io.Reader {
		return reader(func([]byte) (int, error) { panic("reader's panic") })
	})
	readThenPanic = readFrom("data, panic", func() io.Reader {
		return io.MultiReader(strings.NewReader("ab"), reader(func([]byte) (int, error) { panic("reader's panic") }))
	})
	// readScratch uses all of p as scratch space, as io.Reader allows.
	readScratch = readFrom("scratch", func() io.Reader {
		return reader(func(p []byte) (int, error) {
			for i := range p {
				p[i] = 0xaa
			}
			return copy(p, "ab"), io.EOF
		})
	})
	readNothing = readFrom("0 and nil, then data", func() io.Reader {
		calls := 0
		return reader(func(p []byte) (int, error) {
			switch calls++; {
			case calls < 3:
				return 0, nil
			case calls == 3:
				return copy(p, "ab"), nil
			}
			return 0, io.EOF
		})
	})
	readError     = readFrom("error", func() io.Reader { return iotest.ErrReader(errTest) })
	readDataError = readFrom("data with error", func() io.Reader {
		return reader(func(p []byte) (int, error) { return copy(p, "ab"), errTest })
	})
	readWrappedEOF = readFrom("wrapped EOF", func() io.Reader {
		return iotest.ErrReader(errWrappedEOF)
	})
	writePanic = op{"WriteTo(panic)", take, func(b buffer) result {
		_, err := b.WriteTo(writerFunc(func([]byte) (int, error) { panic("writer's panic") }))
		return result{err: err}
	}}
	writeAll = writeTo(math.MaxInt, 0, nil)
	writeLie = writeTo(math.MaxInt, 1, nil)
)

var errWrappedEOF = fmt.Errorf("wrapped: %w", io.EOF)
