package mmapbuf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
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
	{"Write after all is read", "ab", []op{next(2), write([]byte("c")), unreadByte, readByte, unreadByte}},
	{"Write leaves nothing to unread", "ab", []op{readByte, write([]byte("c")), unreadByte, readRune, write(nil), unreadRune, unreadByte}},
	{"WriteString leaves nothing to unread", "ab", []op{readByte, writeString("c"), unreadByte, readRune, writeString(""), unreadRune, unreadByte}},
	{"WriteByte leaves nothing to unread", "ab", []op{readByte, writeByte('c'), unreadByte, readRune, writeByte('d'), unreadRune}},
	{"WriteRune leaves nothing to unread", "ab", []op{readByte, writeRune('c'), unreadByte, readRune, writeRune('é'), unreadRune}},

	{"WriteRune", "", []op{writeRune(0), writeRune('a'), writeRune(0x7f), writeRune(0x80), writeRune('é'), writeRune('€'), writeRune('😀'), writeRune(utf8.MaxRune)}},
	{"WriteRune invalid", "", []op{writeRune(-1), writeRune(utf8.MaxRune + 1), writeRune(0xd800), writeRune(0xdfff), writeRune(math.MinInt32), writeRune(utf8.RuneError)}},

	{"Read nothing", "ab", []op{read(0), unreadByte, readByte, read(0), unreadByte}},
	{"Read part", "abcde", []op{read(1), read(3), unreadByte, read(2)}},
	{"Read more than Len", "abc", []op{read(10), unreadByte, read(10)}},
	{"Read at end", "a", []op{read(1), read(0), read(1), unreadByte}},
	{"Read of nothing at end is no EOF", "", []op{read(0), read(1), read(0)}},
	{"Read at end leaves nothing to unread", "a", []op{readByte, read(1), unreadByte, unreadRune}},
	{"Read of nothing at end leaves nothing to unread", "a", []op{readByte, read(0), unreadByte}},

	{"ReadByte", "a\x00\xff", []op{readByte, readByte, readByte, readByte, unreadByte}},
	{"ReadByte then Write", "a", []op{readByte, readByte, write([]byte("b")), readByte}},

	{"ReadRune", "a\x00é€😀\U0010ffff", []op{readRune, readRune, readRune, readRune, readRune, readRune, readRune, unreadRune}},
	{"ReadRune invalid", "\xff\x80\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80", []op{readRune, unreadRune, readRune, readRune, readRune, readRune, unreadRune, readRune, readRune, readRune, readRune, readRune, readRune, readRune, readRune}},
	{"ReadRune cut short", "\xe2\x82", []op{readRune, unreadRune, writeByte(0xac), readRune, unreadRune, readByte, readRune}},
	{"ReadRune RuneError", "\uFFFD\xff", []op{readRune, unreadRune, readRune, readRune, unreadRune}},

	{"UnreadByte", "abc", []op{unreadByte, readByte, unreadByte, unreadByte, readByte}},
	{"UnreadByte after Read", "abc", []op{read(2), unreadByte, unreadByte}},
	{"UnreadByte after ReadRune", "é€", []op{readRune, unreadByte, unreadRune, readRune}},
	{"UnreadByte after ReadBytes", "abc", []op{readBytes('b'), unreadByte, unreadByte, readBytes('x'), unreadByte}},
	{"UnreadByte after ReadString", "abc", []op{readString('b'), unreadByte, unreadByte, readString('x'), unreadByte}},
	{"UnreadByte after Next", "abc", []op{next(2), unreadByte, unreadByte}},
	{"UnreadByte after Next(0)", "abc", []op{readByte, next(0), unreadByte}},
	{"UnreadByte after Next at end", "a", []op{readByte, next(1), unreadByte}},
	{"UnreadByte after Next(-1)", "abc", []op{readByte, next(-1), unreadByte}},
	{"UnreadByte after all is read", "abc", []op{next(9), unreadByte, readByte, unreadByte}},
	{"UnreadByte after failed UnreadRune", "abc", []op{read(2), unreadRune, unreadByte}},
	{"UnreadByte after UnreadRune", "abc", []op{readRune, unreadRune, unreadByte}},
	{"UnreadByte after ReadBytes found nothing", "", []op{readBytes('x'), unreadByte, unreadByte}},
	{"UnreadByte after ReadBytes at end", "ab", []op{next(2), readBytes('x'), unreadByte, readByte}},
	{"UnreadByte after views", "abc", []op{readByte, getBytes, getString, getLen, getCap, peekN(1), peekN(5), available, unreadByte}},
	{"UnreadByte after Peek(-1)", "abc", []op{readByte, peekN(-1), unreadByte}},
	{"UnreadByte after Grow(-1)", "abc", []op{readByte, growBy(-1), unreadByte}},

	{"UnreadRune", "aé€😀", []op{unreadRune, readRune, unreadRune, unreadRune, readRune, readRune, unreadRune, readRune, readRune, unreadRune, readRune, readRune, unreadRune}},
	{"UnreadRune only after ReadRune", "abcdefgh", []op{readByte, unreadRune, read(1), unreadRune, next(1), unreadRune, readBytes('d'), unreadRune, readString('e'), unreadRune}},
	{"UnreadRune after ReadByte", "aéb", []op{readRune, readByte, unreadRune}},
	{"UnreadRune after views", "é€", []op{readRune, getBytes, peekN(3), available, getString, unreadRune}},

	{"ReadBytes", "ab,c,,d", []op{readBytes(','), readBytes(','), readBytes(','), readBytes(','), readBytes(',')}},
	{"ReadBytes zero", "a\x00b", []op{readBytes(0), readBytes(0)}},
	{"ReadBytes much", string(noise()[:3<<20]), []op{next(1 << 20), readBytes(0), readBytes(0)}},
	{"ReadString", "ab,c,,d", []op{readString(','), readString(','), readString(','), readString(','), readString(',')}},
	{"ReadString much", string(noise()[:3<<20]), []op{next(1 << 20), readString(0), readString(0)}},

	{"Next", "abcdef", []op{next(0), next(1), next(3), next(3), next(3), next(0)}},
	{"Next negative", "abcdef", []op{next(-1), next(2), next(-1), next(-3), next(math.MinInt), next(1)}},
	{"Next negative at end", "", []op{next(-1), write([]byte("a")), next(1), next(-1)}},
	{"Next MaxInt", "abc", []op{next(math.MaxInt), next(math.MaxInt)}},

	{"Peek", "abcdef", []op{peekN(0), peekN(2), peekN(2), peekN(6), peekN(7), readByte, peekN(5), peekN(6), next(5), peekN(0), peekN(1)}},
	{"Peek negative", "abc", []op{peekN(-1), readByte, peekN(-1), peekN(math.MinInt)}},
	{"Peek MaxInt", "abc", []op{peekN(math.MaxInt)}},

	{"Bytes and String see what is unread", "abc", []op{getBytes, getString, readByte, getBytes, getString, read(2), getBytes, getString}},

	{"AvailableBuffer", "", []op{appendAvailable(nil), appendAvailable([]byte("ab")), growBy(10), appendAvailable([]byte("cd")), appendAvailable(noise()[:100]), appendAvailable(noise()[:2<<20])}},
	{"AvailableBuffer after a read", "abc", []op{readByte, available, unreadByte, readByte, appendAvailable([]byte("d")), unreadByte}},

	{"Grow", "abc", []op{growBy(0), growBy(1), growBy(1000), growBy(3 << 20)}},
	{"Grow nothing first", "", []op{growBy(0), write([]byte("a"))}},
	{"Grow after a read", "abc", []op{next(2), growBy(1000), growWrite([]byte("d")), readByte, unreadByte}},
	{"Grow negative", "abc", []op{growBy(-1), growBy(math.MinInt)}},
	{"Grow too large", "abc", []op{growBy(math.MaxInt), write([]byte("d"))}},
	{"Grow forgets what was read once all is", "abc", []op{next(3), growBy(1), readBytes('x'), unreadByte}},
	{"Grow then Write", "abc", []op{growWrite(noise()[:10]), growWrite(noise()[:1000]), growWrite(noise()[:3<<20]), next(1 << 20), growWrite(noise()[:1<<20])}},

	{"Truncate", "abcdef", []op{truncate(6), truncate(4), next(1), truncate(2), truncate(2), truncate(0), truncate(0)}},
	{"Truncate leaves nothing to unread", "abcdef", []op{readByte, truncate(5), unreadByte, readRune, truncate(2), unreadRune, readByte, truncate(0), unreadByte}},
	{"Truncate out of range", "abcdef", []op{truncate(-1), truncate(7), next(2), truncate(5), truncate(4), truncate(math.MinInt), truncate(math.MaxInt)}},
	{"Truncate out of range leaves nothing to unread", "abcdef", []op{readByte, truncate(9), unreadByte, readByte, truncate(-1), unreadByte}},
	{"Truncate then Write", "abcdef", []op{next(1), truncate(2), write([]byte("x")), truncate(1)}},

	{"Reset", "abcdef", []op{next(2), reset, readByte, write([]byte("x")), reset, reset}},
	{"Reset leaves nothing to unread", "abc", []op{readByte, reset, unreadByte, unreadRune}},

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
	{"ReadFrom panic first", "", []op{readPanic, readThenPanic}},
	{"ReadFrom scratch space", "ab", []op{readScratch, readScratch}},
	{"ReadFrom leaves nothing to unread", "abc", []op{readByte, readAll(""), unreadByte, readRune, readAll("d"), unreadRune, readByte, readError, unreadByte}},
	{"ReadFrom after all is read", "ab", []op{next(2), readAll("c"), readByte, unreadByte}},

	{"WriteTo", "abc", []op{readByte, writeAll, unreadByte, writeAll}},
	{"WriteTo nothing", "", []op{writeAll, writeTo(0, 0, errTest)}},
	{"WriteTo much", string(noise()[:3<<20]), []op{next(5), writeTo(1<<20, 0, nil), writeAll}},
	{"WriteTo short", "abcdef", []op{writeTo(2, 0, nil), writeTo(0, 0, nil), writeTo(3, 0, nil), writeAll}},
	{"WriteTo short with error", "abcdef", []op{writeTo(2, 0, errTest), writeTo(3, 0, io.EOF), writeAll}},
	{"WriteTo error first", "abcdef", []op{writeTo(0, 0, errTest), writeAll}},
	{"WriteTo error last", "abcdef", []op{writeTo(6, 0, errTest), unreadByte, readBytes('x'), unreadByte}},
	{"WriteTo count too large", "abcdef", []op{readByte, writeLie, unreadByte, readByte}},
	{"WriteTo panic", "abcdef", []op{readByte, writePanic, unreadByte, readByte}},
	{"WriteTo leaves nothing to unread", "abcdef", []op{readByte, writeTo(2, 0, nil), unreadByte, readRune, writeTo(1, 0, errTest), unreadRune}},
	{"WriteTo all forgets what was read", "abc", []op{readByte, writeAll, readBytes('x'), unreadByte}},
}

// TestDocumented looks in every way at every case, as a view changes the
// kind of storage for all that follows.
func TestDocumented(t *testing.T) {
	atBothThresholds(t, func(t *testing.T) {
		for _, test := range documented {
			t.Run(test.name, func(t *testing.T) {
				for v := range views {
					p := newPair(test.start)
					require.NoError(t, p.check(v))
					for _, o := range test.ops {
						require.NoError(t, p.step(o, v))
					}
					p.close()
				}
			})
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
		func(n int) op { return writeTo(max(n, 0), 0, nil) },
		func(n int) op { return writeTo(max(n, 0), 0, errTest) },
		next, peekN, truncate, growBy,
	} {
		t.Run(count(0).name, func(t *testing.T) {
			for n := range size + 1 {
				for consumed := range n + 1 {
					for k := -1; k <= size+1; k++ {
						p := newPair(string(noise()[:n]))
						for _, o := range []op{read(consumed), count(k), unreadRune, unreadByte, unreadByte, write([]byte("ab")), readRune} {
							require.NoError(t, p.step(o, byReadAt), "%d bytes, %d consumed", n, consumed)
						}
						p.close()
					}
				}
			}
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
		write([]byte("ab")),
		write(noise()[:80]), // more than a first allocation, and more than spare
		readAll("\xc3\xa9z"),
		growBy(70),
		read(2),
		readByte,
		readRune,
		readBytes('l'),
		next(3),
		getBytes,
		unreadByte,
		unreadRune,
		truncate(1),
		writeTo(2, 0, nil),
		// Enough for the longest sequences.
		reset,
		peekN(2),
		writeRune('€'),
		appendAvailable([]byte("cde")),
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
	seq := make([]int, n)
	for i := 0; ; i++ {
		p := newPair(start)
		for j, k := range seq {
			// Not byBytes: publishing is one of the operations.
			if err := p.step(ops[k], view((i+j)%2)); err != nil {
				require.NoError(t, err)
			}
		}
		p.close()
		j := n - 1
		for j >= 0 && seq[j] == len(ops)-1 {
			seq[j] = 0
			j--
		}
		if j < 0 {
			return
		}
		seq[j]++
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

func TestNilString(t *testing.T) {
	var b *Buffer
	assert.NotPanics(t, func() { assert.Equal(t, "<nil>", b.String()) })
}

func TestConstants(t *testing.T) {
	assert.True(t, ErrTooLarge == bytes.ErrTooLarge, "another ErrTooLarge")
	assert.EqualValues(t, bytes.MinRead, MinRead)
}

func TestZeroValue(t *testing.T) {
	var b Buffer
	assert.Zero(t, b.Len())
	assert.Zero(t, b.Cap())
	assert.Zero(t, b.Available())
	assert.Nil(t, b.Bytes())
	assert.Empty(t, b.AvailableBuffer())
	assert.Empty(t, b.String())
	fmt.Fprintf(&b, "%d", 42)
	assert.Equal(t, "42", b.String())
}

func TestNewBuffer(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		p := make([]byte, n, n+100)
		copy(p, noise())
		b := NewBuffer(p)
		requireContents(t, b, noise()[:n])
		require.Equal(t, n+100, b.Cap())
		require.Equal(t, 100, b.Available())

		writeAllOf(t, b, "spare")
		require.Equal(t, "spare", string(p[n:n+5]), "Write does not use the slice's spare capacity")
		require.Equal(t, n+100, b.Cap())
		require.True(t, &p[0] == &b.Bytes()[0], "Bytes does not return the slice")
		p[0] = '!'
		c, err := b.ReadByte()
		require.NoError(t, err)
		require.Equal(t, byte('!'), c)
	})
}

func TestNewBufferUsesSpareCapacity(t *testing.T) {
	p := make([]byte, 0, 10)
	b := NewBuffer(p)
	writeAllOf(t, b, "test")
	assert.Equal(t, 10, b.Cap())
	assert.Equal(t, "test", string(p[:4]))
}

func TestNewBufferNil(t *testing.T) {
	b := NewBuffer(nil)
	assert.Zero(t, b.Cap())
	assert.Nil(t, b.Bytes())
	writeAllOf(t, b, "test")
	assert.Equal(t, "test", b.String())
}

func TestNewBufferString(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		s := string(noise()[:n])
		b := NewBufferString(s)
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
			require.Zero(t, b.Len(), name)
			require.Equal(t, c, b.Cap(), name)
			require.Equal(t, c, b.Available(), name)
			writeAllOf(t, b, noise()[:n])
			require.Equal(t, c, b.Cap(), name)
		}
	})
}

func TestNoAllocsWithCapacity(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		p := noise()[:n/10]
		b := filled(t, n)
		require.Zero(t, testing.AllocsPerRun(10, func() {
			b.Reset()
			for range 10 {
				b.Write(p)
			}
		}), "Write")

		b.Reset()
		b.Grow(n)
		require.Zero(t, testing.AllocsPerRun(10, func() {
			b.Reset()
			for range 10 {
				b.Write(append(b.AvailableBuffer(), p...))
			}
		}), "AvailableBuffer and Write")
		requireContents(t, b, bytes.Repeat(p, 10))
	})
}

func TestNoAllocsAfterGrow(t *testing.T) {
	const runs = 10
	for _, growLen := range []int{0, 100, 10_000, 200_000} {
		for _, startLen := range []int{0, 100, 10_000, 2 << 20} {
			b := NewBuffer(slices.Clone(noise()[:startLen]))
			consumed, _ := b.Read(make([]byte, 72))
			p := noise()[:growLen]
			b.Grow((runs + 1) * growLen) // AllocsPerRun runs once more
			c := b.Cap()
			allocs := testing.AllocsPerRun(runs, func() { b.Write(p) })
			require.Zero(t, allocs, "%d bytes to start with, Grow(%d)", startLen, growLen)
			require.Equal(t, c, b.Cap())
			want := append(slices.Clone(noise()[consumed:startLen]), bytes.Repeat(p, runs+1)...)
			requireContents(t, b, want)
			b.Close()
		}
	}
}

// TestQueueStorageStaysBounded: steady writes and reads do not let the storage grow on and on.
func TestQueueStorageStaysBounded(t *testing.T) {
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

func TestReadFromPanic(t *testing.T) {
	var b Buffer
	require.PanicsWithValue(t, "oops", func() {
		b.ReadFrom(reader(func([]byte) (int, error) { panic("oops") }))
	})
	assert.Zero(t, b.Len())
	assert.Empty(t, b.String())
	assert.Empty(t, b.Bytes())
	writeAllOf(t, &b, "usable")
	assert.Equal(t, "usable", b.String())
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

// TestStandardPackages takes data through the packages that people use buffers with.
func TestStandardPackages(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		want := bytes.Repeat([]byte("one line of text\n"), n/10)

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
			require.Equal(t, "text", fmt.Sprint(NewBufferString("text")))
		})

		t.Run("io.Copy", func(t *testing.T) {
			var a, b Buffer
			m, err := io.Copy(&a, struct{ io.Reader }{bytes.NewReader(want)})
			require.NoError(t, err)
			require.EqualValues(t, len(want), m)
			m, err = io.Copy(&b, &a)
			require.NoError(t, err)
			require.EqualValues(t, len(want), m)
			requireContents(t, &a, nil)
			requireContents(t, &b, want)
			p, err := io.ReadAll(io.TeeReader(&b, &a))
			require.NoError(t, err)
			require.NoError(t, diffBytes(p, want))
			requireContents(t, &a, want)
		})

		t.Run("bufio", func(t *testing.T) {
			b := new(Buffer)
			w := bufio.NewWriter(b)
			for range n / 10 {
				w.WriteString("one line of text\n")
			}
			require.NoError(t, w.Flush())
			requireContents(t, b, want)
			lines := 0
			for s := bufio.NewScanner(b); s.Scan(); lines++ {
				if s.Text() != "one line of text" {
					require.Equal(t, "one line of text", s.Text())
				}
			}
			require.Equal(t, n/10, lines)
		})

		t.Run("json", func(t *testing.T) {
			b := new(Buffer)
			in := make([]string, n/10)
			for i := range in {
				in[i] = strconv.Itoa(i)
			}
			require.NoError(t, json.NewEncoder(b).Encode(in))
			var out []string
			require.NoError(t, json.Unmarshal(b.Bytes(), &out))
			require.True(t, slices.Equal(in, out))
			require.NoError(t, json.NewDecoder(b).Decode(&out))
			require.True(t, slices.Equal(in, out))
		})

		t.Run("binary", func(t *testing.T) {
			b := new(Buffer)
			in, out := make([]uint32, n/4), make([]uint32, n/4)
			for i := range in {
				in[i] = uint32(i) * 0x9e3779b9
			}
			require.NoError(t, binary.Write(b, binary.BigEndian, in))
			require.Equal(t, n/4*4, b.Len())
			require.NoError(t, binary.Read(b, binary.BigEndian, out))
			require.True(t, slices.Equal(in, out))
			require.ErrorIs(t, binary.Read(b, binary.BigEndian, out), io.EOF)
		})

		t.Run("gzip", func(t *testing.T) {
			var b, out Buffer
			w := gzip.NewWriter(&b)
			w.Write(want)
			require.NoError(t, w.Close())
			r, err := gzip.NewReader(&b)
			require.NoError(t, err)
			_, err = out.ReadFrom(r)
			require.NoError(t, err)
			requireContents(t, &out, want)
		})
	})
}
