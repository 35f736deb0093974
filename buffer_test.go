package mmapbuf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// documented has a case for each thing that bytes.Buffer documents or does.
var documented = []struct {
	name  string
	start string
	ops   []op
}{
	{"zero value", "", []op{getLen, getCap, getBytes, getString, available, peekN(0), next(0)}},

	{"Write nothing", "ab", []op{write(nil), write([]byte{}), writeString("")}},
	{"Write nothing first", "", []op{write(nil), writeString(""), write([]byte("a"))}},
	{"Write appends", "ab", []op{write([]byte("c")), write([]byte("def")), writeString("g"), writeByte(0), writeByte(0xff)}},
	{"Write much", "ab", []op{write(noise()[:10_000]), writeString(string(noise()[:2<<20])), write(noise()[:5<<20])}},

	{"WriteRune", "", []op{writeRune(0), writeRune('a'), writeRune(0x7f), writeRune(0x80), writeRune('é'), writeRune('€'), writeRune('😀'), writeRune(utf8.MaxRune)}},
	{"WriteRune invalid", "", []op{writeRune(-1), writeRune(utf8.MaxRune + 1), writeRune(0xd800), writeRune(0xdfff), writeRune(math.MinInt32), writeRune(utf8.RuneError)}},

	{"Read of nothing at end is no EOF", "", []op{read(0), read(1), read(0)}},

	{"ReadByte", "a\x00\xff", []op{readByte, readByte, readByte, readByte, unreadByte}},

	{"ReadRune", "a\x00é€😀\U0010ffff", []op{readRune, readRune, readRune, readRune, readRune, readRune, readRune, unreadRune}},
	{"ReadRune invalid", "\xff\x80\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80", []op{readRune, unreadRune, readRune, readRune, readRune, readRune, unreadRune, readRune, readRune, readRune, readRune, readRune, readRune, readRune, readRune}},
	{"ReadRune cut short", "\xe2\x82", []op{readRune, unreadRune, writeByte(0xac), readRune, unreadRune, readByte, readRune}},
	{"ReadRune RuneError", "\uFFFD\xff", []op{readRune, unreadRune, readRune, readRune, unreadRune}},

	{"UnreadRune", "aé€😀", []op{unreadRune, readRune, unreadRune, unreadRune, readRune, readRune, unreadRune, readRune, readRune, unreadRune, readRune, readRune, unreadRune}},

	{"ReadBytes", "ab,c,,d", []op{readBytes(','), readBytes(','), readBytes(','), readBytes(','), readBytes(',')}},
	{"ReadBytes zero", "a\x00b", []op{readBytes(0), readBytes(0)}},
	{"ReadBytes much", string(noise()[:3<<20]), []op{next(1 << 20), readBytes(0), readBytes(0)}},
	{"ReadString", "ab,c,,d", []op{readString(','), readString(','), readString(','), readString(','), readString(',')}},
	{"ReadString much", string(noise()[:3<<20]), []op{next(1 << 20), readString(0), readString(0)}},

	{"Next MaxInt", "abc", []op{next(math.MaxInt), next(math.MaxInt)}},

	{"Peek MaxInt", "abc", []op{peekN(math.MaxInt)}},

	{"AvailableBuffer", "", []op{appendAvailable(nil), appendAvailable([]byte("ab")), growBy(10), appendAvailable([]byte("cd")), appendAvailable(noise()[:100]), appendAvailable(noise()[:2<<20])}},
	{"AvailableBuffer after a read", "abc", []op{readByte, available, unreadByte, readByte, appendAvailable([]byte("d")), unreadByte}},

	{"Grow", "abc", []op{growBy(0), growBy(1), growBy(1000), growBy(3 << 20)}},
	{"Grow nothing first", "", []op{growBy(0), write([]byte("a"))}},
	{"Grow after a read", "abc", []op{next(2), growBy(1000), growWrite([]byte("d")), readByte, unreadByte}},
	{"Grow too large", "abc", []op{growBy(math.MaxInt), write([]byte("d"))}},
	{"Grow forgets what was read once all is", "abc", []op{next(3), growBy(1), readBytes('x'), unreadByte}},
	{"Grow then Write", "abc", []op{growWrite(noise()[:10]), growWrite(noise()[:1000]), growWrite(noise()[:3<<20]), next(1 << 20), growWrite(noise()[:1<<20])}},

	{"ReadFrom", "ab", []op{readAll(""), readAll("c"), readAll(string(noise()[:1000])), readAll(string(noise()[:3<<20]))}},
	{"ReadFrom one byte at a time", "ab", []op{readFrom("one byte", func() io.Reader { return iotest.OneByteReader(bytes.NewReader(noise()[:3000])) })}},
	{"ReadFrom data with EOF", "ab", []op{readFrom("data with EOF", func() io.Reader { return iotest.DataErrReader(bytes.NewReader(noise()[:3000])) })}},
	{"ReadFrom timeout", "ab", []op{readFrom("timeout", func() io.Reader { return iotest.TimeoutReader(iotest.OneByteReader(bytes.NewReader(noise()[:3000]))) })}},
	{"ReadFrom error", "ab", []op{readError, readDataError, readError}},
	{"ReadFrom error first", "", []op{readError, readDataError}},
	{"ReadFrom takes only io.EOF itself for the end", "ab", []op{readWrappedEOF}},
	{"ReadFrom nothing for a while", "ab", []op{readNothing}},
	{"ReadFrom negative count", "ab", []op{readNegative, readByte, readNegative, next(1), readNegative}},
	{"ReadFrom count beyond p", "ab", []op{readTooMuch, readByte, readTooMuch, next(1), readTooMuch}},
	{"ReadFrom panic", "ab", []op{readPanic, readThenPanic, next(1), readPanic}},
	{"ReadFrom panic first", "", []op{readPanic, readThenPanic, write([]byte("usable"))}},
	{"ReadFrom scratch space", "ab", []op{readScratch, readScratch}},

	{"WriteTo", "abc", []op{readByte, writeAll, unreadByte, writeAll}},
	{"WriteTo nothing", "", []op{writeAll, writeTo(0, 0, errTest)}},
	{"WriteTo much", string(noise()[:3<<20]), []op{next(5), writeTo(1<<20, 0, nil), writeAll}},
	{"WriteTo short", "abcdef", []op{writeTo(2, 0, nil), writeTo(0, 0, nil), writeTo(3, 0, nil), writeAll}},
	{"WriteTo short with error", "abcdef", []op{writeTo(2, 0, errTest), writeTo(3, 0, io.EOF), writeAll}},
	{"WriteTo error first", "abcdef", []op{writeTo(0, 0, errTest), writeAll}},
	{"WriteTo error last", "abcdef", []op{writeTo(6, 0, errTest), unreadByte, readBytes('x'), unreadByte}},
	{"WriteTo count too large", "abcdef", []op{readByte, writeLie, unreadByte, readByte}},
	{"WriteTo panic", "abcdef", []op{readByte, writePanic, unreadByte, readByte}},
}

// TestDocumented looks in every way at every case, as a view changes the
// kind of storage for all that follows.
func TestDocumented(t *testing.T) {
	eachDocumented(t, func(t *testing.T, p *pair, v view, ops []op) {
		require.NoError(t, p.check(v))
		p.run(t, v, ops...)
		p.close()
	})
}

// eachDocumented runs f with every case, looked at in every way.
func eachDocumented(t *testing.T, f func(t *testing.T, p *pair, v view, ops []op)) {
	t.Helper()
	atBothThresholds(t, func(t *testing.T) {
		for _, test := range documented {
			t.Run(test.name, func(t *testing.T) {
				for v := range views {
					f(t, newPair(test.start), v, test.ops)
				}
			})
		}
	})
}

// TestUnread tries to unread after every operation that follows a read, or none.
func TestUnread(t *testing.T) {
	ops := []op{
		write(nil), write([]byte("x")), writeString(""), writeString("x"), writeByte('x'), writeRune('x'), writeRune('é'),
		read(0), read(2), read(9), readByte, readRune, unreadByte, unreadRune, next(0), next(1), next(9), next(-1),
		readBytes('c'), readBytes('z'), readString('c'), readString('z'), getBytes, getString, getLen, getCap,
		peekN(1), peekN(9), peekN(-1), available, appendAvailable(nil), growBy(-1), growBy(1),
		truncate(2), truncate(0), truncate(9), truncate(-1), reset, readAll(""), readAll("x"), readError, readPanic,
		writeTo(0, 0, nil), writeTo(1, 0, nil), writeTo(1, 0, errTest), writeAll, writeLie, writePanic,
	}
	atBothThresholds(t, func(t *testing.T) {
		for _, start := range []string{"", "a", "é", "aébcd"} {
			for _, before := range []op{getLen, readByte, readRune, read(2), next(2), readBytes('b'), readString('b')} {
				for _, o := range ops {
					for _, last := range []op{unreadByte, unreadRune} {
						p := newPair(start)
						p.run(t, byReadAt, before, o, last, unreadByte, readByte)
						p.close()
					}
				}
			}
		}
	})
}

// TestEveryCount takes each operation that has a count through every
// combination of contents, consumed prefix and count.
func TestEveryCount(t *testing.T) {
	const size = 6
	for _, count := range []func(n int) op{
		func(n int) op { return read(max(n, 0)) },
		func(n int) op { return write(noise()[:max(n, 0)]) },
		func(n int) op { return growWrite(noise()[:max(n, 0)]) },
		func(n int) op { return writeTo(max(n, 0), 0, nil) },
		func(n int) op { return writeTo(max(n, 0), 0, errTest) },
		next, peekN, truncate, growBy, reserveBy,
	} {
		t.Run(count(0).name, func(t *testing.T) {
			atBothThresholds(t, func(t *testing.T) {
				for n := range size + 1 {
					for consumed := range n + 1 {
						for k := -1; k <= size+1; k++ {
							p := newPair(string(noise()[:n]))
							p.run(t, byReadAt, read(consumed), count(k), unreadRune, unreadByte, unreadByte)
							p.run(t, byReadAt, count(k), write([]byte("ab")), readRune)
							p.close()
						}
					}
				}
			})
		})
	}
}

// TestEveryRune writes and reads every rune there is.
func TestEveryRune(t *testing.T) {
	p := newPair("")
	defer p.close()
	for r := rune(-1); r <= utf8.MaxRune+1; r++ {
		n, err := p.got.WriteRune(r)
		want, wantErr := p.want.WriteRune(r)
		if n != want || err != wantErr {
			require.Failf(t, "WriteRune", "%#x: %d, %v, want %d, %v", r, n, err, want, wantErr)
		}
	}
	require.NoError(t, p.check(byString))
	for range utf8.MaxRune + 3 {
		r, n, err := p.got.ReadRune()
		want, wantN, wantErr := p.want.ReadRune()
		if r != want || n != wantN || err != wantErr {
			require.Failf(t, "ReadRune", "%#x, %d, %v, want %#x, %d, %v", r, n, err, want, wantN, wantErr)
		}
		if err := p.got.UnreadRune(); err != nil {
			require.NoError(t, err, "UnreadRune of %#x", r)
		}
		if again, _, _ := p.got.ReadRune(); again != r {
			require.Equal(t, r, again, "ReadRune after UnreadRune")
		}
	}
	require.NoError(t, p.step(readRune, byString), "at the end")
}

// TestEverySequence runs every sequence of a few operations, from scratch.
func TestEverySequence(t *testing.T) {
	ops := []op{
		// Of the longest sequences. 80 bytes are more than a first allocation, and than spare.
		write([]byte("ab")), write(noise()[:80]), readAll("\xc3\xa9z"), growBy(70), read(2), readByte, readRune,
		readBytes('l'), next(3), getBytes, unreadByte, unreadRune, truncate(1), writeTo(2, 0, nil),
		// Of the others.
		reset, peekN(2), writeRune('€'), appendAvailable([]byte("cde")),
	}
	most, longest := byLength(3, 4, 4), byLength(4, 4, 5)
	if mapThreshold < 1<<10 { // a mapping for each sequence
		most, longest = most-1, longest-1
	}
	for _, start := range []string{"", "héllo, wörld\xff"} {
		t.Run(strconv.Quote(start), func(t *testing.T) {
			t.Parallel() // mapThreshold stays
			sequences(t, start, ops, most)
			if longest > most {
				sequences(t, start, ops[:14], longest)
			}
		})
	}
}

// sequences runs all sequences of n ops, and so all shorter ones.
func sequences(t *testing.T, start string, ops []op, n int) {
	t.Helper()
	count := 1
	for range n {
		count *= len(ops)
	}
	for i := range count {
		p := newPair(start)
		for j, rest := 0, i; j < n; j, rest = j+1, rest/len(ops) {
			// Not byBytes: publishing is one of the operations.
			if err := p.step(ops[rest%len(ops)], view((i+j)%2)); err != nil {
				require.NoError(t, err)
			}
		}
		p.close()
	}
}

// TestRandomWalk fills a buffer to tens of MiB and drains it again.
// MMAPBUF_TEST_SEED, logged on failure, repeats a run.
func TestRandomWalk(t *testing.T) {
	seed := testSeed(t)
	walks, limit := byLength(2, 2, 3), byLength(16, 16, 48)*miB
	for i := range walks {
		var key [32]byte
		binary.LittleEndian.PutUint64(key[:], seed+uint64(i))
		s := &script{src: bufio.NewReader(rand.NewChaCha8(key)), writeBits: 22, readBits: 14, limit: limit}
		s.noViews = i == 0 // with views, a mapping is published before it is remapped much
		p := newPair("")
		most := 0
		for step := range 2000 {
			if step == 1200 { // drain from here on
				s.writeBits, s.readBits = s.readBits, s.writeBits
			}
			require.NoError(t, s.step(p), "walk %d", i)
			most = max(most, p.got.Len())
		}
		t.Logf("walk %d: up to %d bytes, %d at the end", i, most, p.got.Len())
		require.NoError(t, p.finish())
	}
}

// FuzzBuffer reads the kind of storage and a script from its input.
func FuzzBuffer(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x00mmapbuf"))
	f.Add([]byte("\x01mmapbuf, and then some more"))
	f.Add(noise()[:300])
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &script{src: bytes.NewReader(data), writeBits: 21, readBits: 21, limit: 8 << 20}
		s.storage(t)
		p := newPair("")
		defer p.close()
		for range 200 {
			if s.done {
				break
			}
			require.NoError(t, s.step(p))
		}
		require.NoError(t, p.finish())
	})
}

// What follows cannot be seen by comparing with a bytes.Buffer alone.

func TestConstants(t *testing.T) {
	assert.True(t, ErrTooLarge == bytes.ErrTooLarge, "another ErrTooLarge")
	assert.EqualValues(t, bytes.MinRead, MinRead)
}

func TestZeroValue(t *testing.T) {
	grown := new(Buffer)
	grown.Grow(0)
	require.NoError(t, grown.Reserve(0))
	for _, b := range []*Buffer{new(Buffer), NewBuffer(nil), grown} {
		assert.Zero(t, b.Cap())
		assert.Nil(t, b.Bytes())
	}
	assert.Equal(t, "<nil>", (*Buffer)(nil).String())
}

func TestNewBuffer(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		p := append(make([]byte, 0, n+100), noise()[:n]...)
		b := NewBuffer(p)
		requireContents(t, b, noise()[:n])
		require.Equal(t, n+100, b.Cap())
		writeAllOf(t, b, "spare")
		require.Equal(t, "spare", string(p[n:n+5]), "Write does not use the slice's spare capacity")
		require.Equal(t, n+100, b.Cap())
		require.Same(t, &p[0], &b.Bytes()[0], "Bytes does not return the slice")

		s := string(noise()[:n])
		b = NewBufferString(s)
		requireContents(t, b, noise()[:n])
		b.Bytes()[0]++
		require.Equal(t, noise()[0], s[0], "the string changed")
	})
}

func TestResetKeepsStorage(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for name, reset := range map[string]func(b *Buffer){
			"Reset":       (*Buffer).Reset,
			"Truncate(0)": func(b *Buffer) { b.Truncate(0) },
		} {
			b := filled(t, n)
			b.Next(n / 2)
			c := b.Cap()
			reset(b)
			require.Equal(t, c, b.Available(), name)
			writeAllOf(t, b, noise()[:n])
			require.Equal(t, c, b.Cap(), name)
		}
	})
}

// TestNoAllocs writes where there is room.
func TestNoAllocs(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for name, write := range map[string]func(b *Buffer, p []byte){
			"Write":           func(b *Buffer, p []byte) { b.Write(p) },
			"AvailableBuffer": func(b *Buffer, p []byte) { b.Write(append(b.AvailableBuffer(), p...)) },
		} {
			for _, start := range []int{0, n} {
				p := noise()[:n/10]
				b := filled(t, start)
				b.Read(make([]byte, 72))
				want := append(contents(b), bytes.Repeat(p, 11)...) // AllocsPerRun runs once more
				b.Grow(11 * len(p))
				c := b.Cap()
				require.Zero(t, testing.AllocsPerRun(10, func() { write(b, p) }), name)
				require.Equal(t, c, b.Cap(), name)
				requireContents(t, b, want)
				require.NoError(t, b.Close())
			}
		}
	})
}

// TestQueueCapacity: steady writes and reads do not let the storage grow on and on.
func TestQueueCapacity(t *testing.T) {
	for _, n := range []int{1, 100, 1 << 10, 100 << 10} {
		b := filled(t, 1)
		p := make([]byte, n)
		first := 0
		for i := range 5 << 10 {
			b.Write(p)
			b.Read(p)
			if i == 0 {
				first = b.Cap()
			}
		}
		require.Equal(t, 1, b.Len())
		require.LessOrEqual(t, b.Cap(), 3*first, "%d bytes at a time", n)
	}
}

func TestReadFromUsesSpareCapacity(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := NewBuffer(make([]byte, 0, n+MinRead))
		m, err := b.ReadFrom(bytes.NewReader(noise()[:n]))
		require.NoError(t, err)
		require.EqualValues(t, n, m)
		require.Equal(t, n+MinRead, b.Cap(), "ReadFrom grows with MinRead to spare")
		requireContents(t, b, noise()[:n])
	})
}

func TestReaderContract(t *testing.T) {
	for _, n := range []int{0, 1, 100, 5000} {
		want := noise()[:n]
		b := filled(t, n)
		// Only Read: ReadAt counts from what is unread, not from the start.
		require.NoError(t, iotest.TestReader(struct{ io.Reader }{b}, want))

		b = filled(t, n+10)
		b.Next(10)
		want = noise()[10 : n+10]
		require.NoError(t, iotest.TestReader(io.NewSectionReader(b, 0, int64(b.Len())), want))
		requireContents(t, b, want, "SectionReader consumes")
	}
}

// TestStandardPackages takes data through packages that people use buffers with.
func TestStandardPackages(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		t.Run("fmt", func(t *testing.T) {
			b := new(Buffer)
			for i := range n / 10 {
				fmt.Fprintln(b, i, "é", 1.5)
			}
			for i := range n / 10 {
				var k int
				var s string
				var f float64
				if _, err := fmt.Fscanln(b, &k, &s, &f); err != nil || k != i || s != "é" || f != 1.5 {
					require.Failf(t, "Fscanln", "%d: %d %q %g, %v", i, k, s, f, err)
				}
			}
			require.Zero(t, b.Len())
		})
		t.Run("json, gzip, io.Copy", func(t *testing.T) {
			var text, packed, copied, unpacked Buffer
			in := strings.Fields(strings.Repeat("one line of text ", n/10))
			require.NoError(t, json.NewEncoder(&text).Encode(in))
			w := gzip.NewWriter(&packed)
			_, err := io.Copy(w, io.TeeReader(&text, &copied))
			require.NoError(t, err)
			require.NoError(t, w.Close())
			r, err := gzip.NewReader(&packed)
			require.NoError(t, err)
			_, err = io.Copy(&unpacked, r)
			require.NoError(t, err)
			requireContents(t, &unpacked, contents(&copied))
			var out []string
			require.NoError(t, json.Unmarshal(copied.Bytes(), &out))
			require.True(t, slices.Equal(in, out))
			require.NoError(t, json.NewDecoder(&unpacked).Decode(&out))
			require.True(t, slices.Equal(in, out))
		})
	})
}

// The operations.

func write(p []byte) op {
	return op{fmt.Sprintf("Write(%d)", len(p)), other, func(b buffer) result { return counted(b.Write(p)) }}
}

func writeString(s string) op {
	return op{fmt.Sprintf("WriteString(%d)", len(s)), other, func(b buffer) result { return counted(b.WriteString(s)) }}
}

func writeByte(c byte) op {
	return op{fmt.Sprintf("WriteByte(%#x)", c), other, func(b buffer) result { return result{err: b.WriteByte(c)} }}
}

func writeRune(r rune) op {
	return op{fmt.Sprintf("WriteRune(%#x)", r), other, func(b buffer) result { return counted(b.WriteRune(r)) }}
}

// appendAvailable writes p by way of AvailableBuffer.
func appendAvailable(p []byte) op {
	return op{fmt.Sprintf("Write(append(AvailableBuffer(), %d))", len(p)), other, func(b buffer) result {
		a := b.AvailableBuffer()
		if len(a) != 0 || cap(a) != b.Available() {
			return result{err: fmt.Errorf("AvailableBuffer: len %d, cap %d, want 0, %d", len(a), cap(a), b.Available())}
		}
		return counted(b.Write(append(a, p...)))
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
		if short && *maxLen(b) <= 0 {
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
	return op{fmt.Sprintf("Next(%d)", n), take, func(b buffer) result { return result{p: b.Next(n), view: true} }}
}

func peekN(n int) op {
	return op{fmt.Sprintf("Peek(%d)", n), look, func(b buffer) result {
		p, err := peek(b, n)
		return result{p: p, err: err, view: true}
	}}
}

func truncate(n int) op {
	return op{fmt.Sprintf("Truncate(%d)", n), other, func(b buffer) result { b.Truncate(n); return result{} }}
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
	return op{fmt.Sprintf("WriteAt(%d bytes, %d)", len(p), off), k, func(b buffer) result { return counted(b.(beyond).WriteAt(p, off)) }}
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

// maxLen returns the bound of b.
func maxLen(b buffer) *int {
	if b, ok := b.(*Buffer); ok {
		return &b.MaxLen
	}
	return &b.(*oracle).maxLen
}

func setMaxLen(n int) op {
	return op{fmt.Sprintf("MaxLen = %d", n), look, func(b buffer) result { *maxLen(b) = n; return result{} }}
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
		var seen []byte
		left := bytes.NewReader(p)
		n, err := b.ReadFrom(reader(func(q []byte) (int, error) {
			seen = append(seen, glance(b)...)
			n, err := left.Read(q[:min(len(q), 400)])
			seen = append(seen, glance(b)...)
			return n, err
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

// readWith reads from r, which keeps no state.
func readWith(name string, r reader) op { return readFrom(name, func() io.Reader { return r }) }

func panics([]byte) (int, error) { panic("a panic of a Reader or Writer") }

// Readers and writers that break their contracts or break off.
var (
	readNegative  = readWith("negative count", func([]byte) (int, error) { return -1, io.EOF })
	readTooMuch   = readWith("count beyond p", func(p []byte) (int, error) { return len(p) + 1, io.EOF })
	readPanic     = readWith("panic", panics)
	readThenPanic = readFrom("data, panic", func() io.Reader {
		return io.MultiReader(strings.NewReader("ab"), reader(panics))
	})
	// readScratch uses all of p as scratch space, as io.Reader allows.
	readScratch = readWith("scratch", func(p []byte) (int, error) {
		dirty(p)
		return copy(p, "ab"), io.EOF
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
	readError      = readWith("error", func([]byte) (int, error) { return 0, errTest })
	readDataError  = readWith("data with error", func(p []byte) (int, error) { return copy(p, "ab"), errTest })
	readWrappedEOF = readWith("wrapped EOF", func([]byte) (int, error) { return 0, errWrappedEOF })
	writePanic     = op{"WriteTo(panic)", take, func(b buffer) result {
		_, err := b.WriteTo(writerFunc(panics))
		return result{err: err}
	}}
	writeAll = writeTo(math.MaxInt, 0, nil)
	writeLie = writeTo(math.MaxInt, 1, nil)
)

var errWrappedEOF = fmt.Errorf("wrapped: %w", io.EOF)

// looks are the operations that may run at once, and inside of a Reader or
// Writer that is being used. Each returns what it saw.
var looks = map[string]func(b buffer) []byte{
	"Bytes":  func(b buffer) []byte { return b.Bytes() },
	"String": func(b buffer) []byte { return []byte(b.String()) },
	"Peek":   func(b buffer) []byte { p, _ := peek(b, b.Len()/2); return p },
	"Peek, more than there is": func(b buffer) []byte {
		p, err := peek(b, b.Len()+1)
		if err != io.EOF {
			return nil
		}
		return p
	},
	"Len, Cap, Available": func(b buffer) []byte {
		if c, n := b.Cap(), b.Len(); c < n || b.Available() > c {
			return []byte(fmt.Sprint(c, n))
		}
		return nil
	},
	"AvailableBuffer": func(b buffer) []byte {
		n := b.Available()
		return bytes.Repeat([]byte{1}, len(b.AvailableBuffer())+cap(b.AvailableBuffer()[:0:n])-n)
	},
	"ReadAt": func(b buffer) []byte {
		p := make([]byte, b.Len()/3)
		_, _ = b.(beyond).ReadAt(p, int64(len(p)))
		return p
	},
}

// lookSame compares what a look sees with what it should.
func lookSame(name string, got *Buffer, want []byte) error {
	look := looks[name]
	if err := diffBytes(look(got), look(&oracle{Buffer: *bytes.NewBuffer(want)})); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// atOnce has goroutines look at b, and at copies of it.
func atOnce(b *Buffer, want []byte, names ...string) error {
	errs := make(chan error, 6*len(names))
	var wg sync.WaitGroup
	for range 3 {
		for _, name := range names {
			moved := *b // a struct in the slice of another goroutine
			wg.Go(func() { errs <- lookSame(name, b, want) })
			wg.Go(func() { errs <- lookSame(name, &moved, want) })
		}
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// TestLookInsideReader has a Reader look at the Buffer that reads from it, as a
// decoder with back references does, or one that shows progress. What it
// delivers must not get lost.
func TestLookInsideReader(t *testing.T) {
	often := byLength(397, 397, 97)
	data := noise()[:byLength(3, 6, 6)<<20]
	atBothThresholds(t, func(t *testing.T) {
		for name := range looks {
			for _, piece := range []int{512, 64 << 10, 3 << 20} {
				t.Run(fmt.Sprintf("%s/%d", name, piece), func(t *testing.T) {
					var got Buffer
					writeAllOf(t, &got, data[:5])
					k, calls := 5, 0 // read
					n, err := got.ReadFrom(reader(func(p []byte) (int, error) {
						if calls++; calls < 8 || calls%often == 0 || len(data)-k < piece {
							require.NoError(t, lookSame(name, &got, data[:k]))
						}
						if k == len(data) {
							return 0, io.EOF
						}
						n := copy(p, data[k:min(k+piece, len(data))])
						if calls%often == 1 { // also after p has been written
							require.NoError(t, lookSame(name, &got, data[:k]))
						}
						k += n
						return n, nil
					}))
					require.NoError(t, err)
					require.EqualValues(t, len(data)-5, n)
					requireContents(t, &got, data)
					require.NoError(t, invariants(&got))
					require.NoError(t, got.Close())
				})
			}
		}
	})
}

// TestLookInsideWriter has a Writer, and goroutines that it starts, look at the
// Buffer that writes to it.
func TestLookInsideWriter(t *testing.T) {
	const n = 3 << 20 // written
	atBothThresholds(t, func(t *testing.T) {
		for name := range looks {
			for _, err := range []error{nil, errTest} {
				t.Run(fmt.Sprintf("%s/%v", name, err), func(t *testing.T) {
					got := filled(t, len(noise()))
					_, _ = got.Read(make([]byte, 1000))
					want := noise()[1000:]
					m, gotErr := got.WriteTo(writerFunc(func(p []byte) (int, error) {
						require.NoError(t, atOnce(got, want, name))
						require.NoError(t, diffBytes(p, want), "what was lent has changed")
						return n, err
					}))
					require.EqualValues(t, n, m)
					require.Error(t, gotErr)
					requireContents(t, got, want[n:])
					require.NoError(t, invariants(got))
					require.NoError(t, got.Close())
				})
			}
		}
	})
}

// TestLookConcurrently has goroutines look at a Buffer that nobody changes, and at
// copies of it.
func TestLookConcurrently(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, n := range []int{100, 5<<20 + 7} {
			for range byLength(5, 8, 20) {
				got := filled(t, n)
				require.NoError(t, atOnce(got, noise()[:n], slices.Collect(maps.Keys(looks))...))
				require.NoError(t, invariants(got))
				writeAllOf(t, got, noise()[n:n+1])
				requireContents(t, got, noise()[:n+1])
				require.NoError(t, got.Close())
			}
		}
	})
}

// changes are the methods that change a Buffer.
var changes = map[string]func(b *Buffer){
	"Write":        func(b *Buffer) { _, _ = b.Write([]byte("abc")) },
	"Write much":   func(b *Buffer) { _, _ = b.Write(noise()) },
	"WriteString":  func(b *Buffer) { _, _ = b.WriteString("abc") },
	"WriteByte":    func(b *Buffer) { _ = b.WriteByte('x') },
	"WriteRune":    func(b *Buffer) { _, _ = b.WriteRune('€') },
	"ReadFrom":     func(b *Buffer) { _, _ = b.ReadFrom(strings.NewReader("abc")) },
	"Grow":         func(b *Buffer) { b.Grow(64 << 20) },
	"Reserve":      func(b *Buffer) { _ = b.Reserve(64 << 20) },
	"Read":         func(b *Buffer) { _, _ = b.Read(make([]byte, 100)) },
	"ReadByte":     func(b *Buffer) { _, _ = b.ReadByte(); _ = b.UnreadByte() },
	"ReadRune":     func(b *Buffer) { _, _, _ = b.ReadRune(); _ = b.UnreadRune() },
	"ReadBytes":    func(b *Buffer) { _, _ = b.ReadBytes(noise()[50]) },
	"ReadString":   func(b *Buffer) { _, _ = b.ReadString(noise()[50]) },
	"Next":         func(b *Buffer) { b.Next(100) },
	"WriteTo":      func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
	"WriteAt":      func(b *Buffer) { _, _ = b.WriteAt([]byte("abc"), int64(b.Len())) },
	"Truncate":     func(b *Buffer) { b.Truncate(b.Len() / 2) },
	"Reset":        func(b *Buffer) { b.Reset() },
	"Shrink":       func(b *Buffer) { b.Shrink() },
	"Close":        func(b *Buffer) { _ = b.Close() },
	"Bytes, Write": func(b *Buffer) { b.Bytes(); _, _ = b.Write(noise()) },
}

// TestChangeInsideReader has a Reader call each method that changes the Buffer.
// bytes.Buffer gives no useful contents then, so only what it promises is
// asked: nothing that was delivered afterwards is lost, and the Buffer goes on
// working.
func TestChangeInsideReader(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for name, change := range changes {
			if testing.Short() && (name == "Write much" || name == "Bytes, Write") {
				continue
			}
			for _, size := range []int{10, 1000, 3 << 20} {
				// goesOn checks that b can be used after the call.
				goesOn := func(t *testing.T, b *Buffer) {
					require.NoError(t, invariants(b))
					writeAllOf(t, b, noise()[:2<<20])
					require.True(t, bytes.HasSuffix(contents(b), noise()[:2<<20]))
					require.NoError(t, b.Close())
				}
				t.Run(fmt.Sprintf("%s/%d", name, size), func(t *testing.T) {
					b := filled(t, size-10)
					calls := 0
					n, err := b.ReadFrom(reader(func(p []byte) (int, error) {
						change(b)
						runtime.GC()
						if calls++; calls == 3 {
							return 0, io.EOF
						}
						return copy(p, "delivered"), nil
					}))
					require.NoError(t, err)
					require.EqualValues(t, 18, n)
					goesOn(t, b)
				})
				t.Run(fmt.Sprintf("Writer/%s/%d", name, size), func(t *testing.T) {
					b := filled(t, size)
					n, err := b.WriteTo(writerFunc(func(p []byte) (int, error) {
						change(b)
						runtime.GC()
						require.NoError(t, diffBytes(p, noise()[:size]))
						return 10, errTest
					}))
					require.Equal(t, errTest, err)
					require.EqualValues(t, 10, n)
					goesOn(t, b)
				})
			}
		}
	})
}

// TestReadBeyondInsideReader reads more, within a Reader, than there was when
// ReadFrom began, which leaves a bytes.Buffer with a negative length.
func TestReadBeyondInsideReader(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := filled(t, n)
		b.Grow(4 * n)
		left := 0
		if b.m != nil { // nothing that the Reader has written is replaced
			left = n/2 - n/3
		}
		_, err := b.ReadFrom(reader(func(p []byte) (int, error) {
			writeAllOf(t, b, noise()[:n/2])
			_, err := io.CopyN(io.Discard, struct{ io.Reader }{b}, int64(n+n/3))
			require.NoError(t, err)
			return 0, io.EOF
		}))
		require.NoError(t, err)
		require.NoError(t, invariants(b))
		require.Equal(t, left, b.Len())
		for range 3 {
			b.Grow(b.buf.Cap/2 + n)
			writeAllOf(t, b, noise()[:n])
		}
		require.NoError(t, invariants(b))
		require.Equal(t, left+3*n, b.Len())
	})
}

// TestMoveByValue moves a Buffer between all operations. Only the newest place is used.
func TestMoveByValue(t *testing.T) {
	eachDocumented(t, func(t *testing.T, p *pair, v view, ops []op) {
		for _, o := range ops {
			p.run(t, v, moveByValue, o)
		}
		p.run(t, v, moveByValue, collectNow)
		require.NoError(t, p.finish())
	})
}

// TestMoveByValueFromStack returns Buffers from a stack that changes, to a slice that is copied.
func TestMoveByValueFromStack(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, n := range []int{100, 2 << 20, 5 << 20} {
			for name, use := range map[string]func(b *Buffer){
				"filled": func(b *Buffer) {},
				"viewed": func(b *Buffer) { b.Bytes() },
				"lent":   func(b *Buffer) { _, _ = b.WriteTo(&writer{err: errTest}) },
			} {
				t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
					made := make(chan Buffer)
					for range 5 {
						go func() { // a small stack
							var b Buffer
							fill(&b, 1, n)
							use(&b)
							made <- b
						}()
					}
					var all []Buffer
					for range 5 {
						all = append(all, <-made)
					}
					runtime.GC()
					for i := range all {
						b := &all[i]
						require.True(t, isFilled(contents(b), 1, 0))
						writeAllOf(t, b, noise()[:4<<20])
						require.NoError(t, diffBytes(b.Bytes()[n:], noise()[:4<<20]))
						require.NoError(t, invariants(b))
						require.NoError(t, b.Close())
					}
				})
			}
		}
	})
}

// TestCopyAfterViewSharesContents behaves as a copy of a bytes.Buffer: both share contents.
func TestCopyAfterViewSharesContents(t *testing.T) {
	var got Buffer
	var want bytes.Buffer
	_, _ = got.Write(noise())
	want.Write(noise())
	got.Bytes()[0] = 'x'
	want.Bytes()[0] = 'x'
	gotCopy, wantCopy := got, want
	gotCopy.Bytes()[1] = 'y'
	wantCopy.Bytes()[1] = 'y'
	_, _ = got.Read(make([]byte, 1))
	want.Next(1)
	requireContents(t, &got, want.Bytes())
	requireContents(t, &gotCopy, wantCopy.Bytes())
}

// TestMaxLen adds, in all ways, less and more than fits.
func TestMaxLen(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		for _, room := range []int{-50, 0, 1, 3, 4, 2000, 1 << 20}[:byLength(6, 7, 7)] {
			var ops []op
			for _, r := range "aé€😀\xff" {
				ops = append(ops, writeRune(r))
			}
			for _, k := range []int{0, 1, 2, room - 1, room, room + 1, room + 1<<20} {
				if k < 0 {
					continue
				}
				p := noise()[50:][:k]
				ops = append(ops, write(p), writeString(string(p)), growBy(k), reserveBy(k), readAll(string(p)))
				ops = append(ops, readFrom("all, EOF", func() io.Reader { return iotest.DataErrReader(bytes.NewReader(p)) }))
				ops = append(ops, readFrom("error", func() io.Reader {
					return io.MultiReader(bytes.NewReader(p), iotest.ErrReader(errTest))
				}))
				if k < 3000 {
					ops = append(ops, readFrom("bytes", func() io.Reader { return iotest.OneByteReader(bytes.NewReader(p)) }))
				}
				for _, off := range []int{0, n - 1, n, n + room - k, n + room, n + 5000} {
					ops = append(ops, writeAt(p, int64(off)))
				}
			}
			ops = append(ops, readNegative, readTooMuch, readNothing, readPanic, readScratch)
			ops = append(ops, writeByte('a'), setMaxLen(0), write([]byte("no bound again")))
			for _, spare := range []int{0, 8 << 20} { // MaxLen bounds Len, not Cap
				p := newPair("")
				p.run(t, byString, write(noise()[:n]), growBy(spare))
				for _, o := range ops {
					if spare == 0 {
						p.run(t, byReadAt, shrink)
					}
					p.run(t, byReadAt, setMaxLen(n+room), o, o, setMaxLen(0), truncate(n))
				}
				require.NoError(t, p.finish())
			}
		}
	})
}

// TestMaxLenOfMaxInt: what has been read and the bound together are more than
// an int holds. Write took that for too large.
func TestMaxLenOfMaxInt(t *testing.T) {
	for _, most := range []int{math.MaxInt, math.MaxInt - 1, math.MaxInt/2 + 1} {
		atSizes(t, func(t *testing.T, n int) {
			b := &Buffer{MaxLen: most}
			writeAllOf(t, b, noise()[:n])
			b.Read(make([]byte, 10))
			c := b.Cap()
			for b.Cap() == c {
				writeAllOf(t, b, noise()[:n])
			}
			require.GreaterOrEqual(t, b.Cap(), 2*(c-10), "not doubled")
			require.NoError(t, b.Close())
		})
	}
}

// TestMaxLenQueue: the bound is on what is unread, so a queue runs on.
func TestMaxLenQueue(t *testing.T) {
	for _, n := range []int{1, 10, 3000, 1 << 20} {
		p := newPair("")
		p.run(t, byString, setMaxLen(n))
		for i, empty := range []op{read(n), read(n), read(n), reset, truncate(0), next(n), writeAll, read(n)} {
			p.run(t, byString, write(noise()[i:i+n]), writeByte('x'), empty)
		}
		require.NoError(t, p.finish())
	}
}
