package mmapbuf

import (
	"bytes"
	"io"
	"math"
	"os"
	"strconv"
	"testing"
	"testing/iotest"
	"unicode/utf8"
)

// A script decodes operations from bytes: those of the fuzzer, or random ones.
type script struct {
	src  io.ByteReader
	done bool // src has no more

	writeBits, readBits int  // log2 of the largest sizes
	limit               int  // of Len
	noViews             bool // a mapping stays one
}

// storage draws for the length of a test from what size on storage is mapped,
// whether it is published, and how fine mappings are: with small ones the edges
// are close.
func (s *script) storage(t testing.TB) {
	t.Helper()
	c := s.byte()
	setThreshold(t, []int{mapThreshold, 1, 4096}[c%3])
	s.noViews = c/3%2 == 1
	if c/6%2 == 1 {
		setUnit(t, os.Getpagesize())
	}
}

func (s *script) byte() byte {
	c, err := s.src.ReadByte()
	s.done = s.done || err != nil
	return c
}

func (s *script) uint16() int { return int(s.byte())<<8 | int(s.byte()) }

// size draws a number below 1<<bits, its logarithm uniform.
func (s *script) size(bits int) int {
	e := int(s.byte()) % (bits + 1)
	return min(1<<e-1+s.uint16()<<max(0, e-16)&(1<<e-1), 1<<bits-1)
}

// data draws what to write next to n bytes.
func (s *script) data(n int) []byte {
	k := min(s.size(s.writeBits), max(0, s.limit-n))
	off := s.uint16()
	return noise()[off : off+k]
}

// offset draws an offset up to n.
func (s *script) offset(n int) int { return int(uint64(s.uint16()) * uint64(n+1) >> 16) }

// op draws an operation for a buffer of n bytes.
func (s *script) op(n int) op {
	c := s.byte() % 40
	if c >= 32 {
		return s.opBeyond(c, n)
	}
	if s.noViews && c >= 24 {
		c -= 24
	}
	switch c {
	case 0, 1:
		return write(s.data(n))
	case 2:
		return writeString(string(s.data(n)))
	case 3:
		return writeByte(s.byte())
	case 4:
		runes := []rune{'a', 'é', '€', '😀', -1, 0xd800, utf8.MaxRune, utf8.MaxRune + 1}
		return writeRune(runes[int(s.byte())%len(runes)])
	case 5, 6:
		return s.readFrom(n)
	case 7, 8:
		return read(s.size(s.readBits))
	case 9:
		return readByte
	case 10, 11:
		return readRune
	case 12, 13:
		return unreadByte
	case 14, 15:
		return unreadRune
	case 16:
		return readBytes(s.byte())
	case 17:
		return readString(s.byte())
	case 18:
		return growBy(s.size(s.writeBits))
	case 19:
		return growWrite(s.data(n))
	case 20:
		return cut(s.size(s.readBits))
	case 21:
		return writeTo(s.size(s.readBits), 0, []error{nil, errTest}[s.byte()%2])
	case 22:
		if s.byte()%64 != 0 { // rare, or contents never get large
			return readByte
		}
		return []op{reset, truncate(0), writeAll}[s.byte()%3]
	case 23:
		misuse := []op{growBy(-1), truncate(-1), cut(-1), writeLie, writePanic, growBy(math.MaxInt)}
		if math.MaxInt == math.MaxInt32 {
			misuse = misuse[:5] // so much is to be had on 32 bits, now and then
		}
		return misuse[int(s.byte())%len(misuse)]
	case 24, 25:
		return appendAvailable(s.data(n))
	case 26, 27:
		return next(s.size(s.readBits))
	case 28, 29:
		return peekN(s.size(s.readBits))
	case 30:
		return getBytes
	default:
		switch s.byte() % 6 {
		case 0:
			return next(-1)
		case 1:
			return peekN(-1)
		case 2:
			return available
		case 3:
			p := s.data(n)
			return readFromLooking(p[:min(len(p), 5000)]) // slow
		case 4:
			return writeToLooking(s.size(s.readBits), []error{nil, errTest}[s.byte()%2])
		}
		return lookAtOnce
	}
}

// opBeyond draws an operation that bytes.Buffer has not.
func (s *script) opBeyond(c byte, n int) op {
	switch c {
	case 32:
		return writeAt(s.data(n), int64(s.offset(n)))
	case 33:
		end := min(n+s.size(s.writeBits), max(n, s.limit))
		return writeAt(s.data(end), int64(end))
	case 34:
		return readAt(s.size(s.readBits), int64(s.offset(n+1)))
	case 35:
		return reserveBy(s.size(s.writeBits))
	case 36:
		bounds := []int{0, 0, 0, 0, n, n + s.size(8), n / 2, math.MaxInt}
		return setMaxLen(bounds[s.byte()%8])
	case 37:
		return shrink
	case 38:
		if s.byte()%16 != 0 { // rare: it is slow, or empties the contents
			return noHugePages
		}
		return []op{closeIt, collectNow, moveByValue, moveByValue}[s.byte()%4]
	}
	misuse := []op{
		writeAt([]byte("x"), -1), writeAt(nil, -1), writeAt([]byte("x"), math.MaxInt64), writeAt([]byte("x"), math.MaxInt64-1),
		readAt(1, -1), readAt(0, -1), readAt(1, math.MaxInt64), reserveBy(-1), reserveBy(math.MinInt),
	}
	return misuse[int(s.byte())%len(misuse)]
}

func (s *script) readFrom(n int) op {
	p := s.data(n)
	name := strconv.Itoa(len(p))
	switch s.byte() % 16 {
	case 0:
		p = p[:min(len(p), 2000)] // slow
		return readFrom(name+" one byte at a time", func() io.Reader { return iotest.OneByteReader(bytes.NewReader(p)) })
	case 1:
		return readFrom(name+" with EOF", func() io.Reader { return iotest.DataErrReader(bytes.NewReader(p)) })
	case 2:
		return readFrom(name+" by halves", func() io.Reader { return iotest.HalfReader(bytes.NewReader(p)) })
	case 3:
		return readFrom(name+", error", func() io.Reader { return io.MultiReader(bytes.NewReader(p), iotest.ErrReader(errTest)) })
	case 4:
		misuse := []op{readNegative, readTooMuch, readPanic, readThenPanic, readScratch, readNothing, readError, readDataError}
		return misuse[int(s.byte())%len(misuse)]
	}
	return readAll(string(p))
}

// view draws how to look at n bytes. Large contents are rarely worth the time.
func (s *script) view(n int) view {
	c := s.byte()
	v := view(c%4) % views
	if n > 1<<20 && c > 4 || s.noViews && v == byBytes {
		v = byReadAt
	}
	return v
}

func (s *script) step(p *pair) error {
	n := p.got.Len()
	o, v := s.op(n), s.view(n)
	if s.done {
		return nil
	}
	return p.step(o, v)
}
