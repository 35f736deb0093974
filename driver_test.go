package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"unicode/utf8"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// buffer is what bytes.Buffer and Buffer have in common.
// Peek is missing: bytes.Buffer has it from Go 1.26 on, see [peek].
type buffer interface {
	Available() int
	AvailableBuffer() []byte
	Bytes() []byte
	Cap() int
	Grow(n int)
	Len() int
	Next(n int) []byte
	Read(p []byte) (int, error)
	ReadByte() (byte, error)
	ReadBytes(delim byte) ([]byte, error)
	ReadFrom(r io.Reader) (int64, error)
	ReadRune() (rune, int, error)
	ReadString(delim byte) (string, error)
	Reset()
	String() string
	Truncate(n int)
	UnreadByte() error
	UnreadRune() error
	Write(p []byte) (int, error)
	WriteByte(c byte) error
	WriteRune(r rune) (int, error)
	WriteString(s string) (int, error)
	WriteTo(w io.Writer) (int64, error)
}

// beyond is what Buffer and its oracle have that bytes.Buffer has not.
type beyond interface {
	buffer
	io.ReaderAt
	io.WriterAt
	io.Closer
	Reserve(n int) error
	Shrink()
}

type peeker interface {
	Peek(n int) ([]byte, error)
}

var (
	_ buffer         = (*bytes.Buffer)(nil)
	_ beyond         = (*Buffer)(nil)
	_ beyond         = (*oracle)(nil)
	_ peeker         = (*Buffer)(nil)
	_ io.ReaderAt    = (*Buffer)(nil)
	_ io.WriterAt    = (*Buffer)(nil)
	_ io.Closer      = (*Buffer)(nil)
	_ io.ByteScanner = (*Buffer)(nil)
	_ io.RuneScanner = (*Buffer)(nil)
)

// peek calls b's Peek, or does without it where bytes.Buffer has none.
func peek(b buffer, n int) ([]byte, error) {
	if p, ok := b.(peeker); ok {
		return p.Peek(n)
	}
	p := b.Bytes()
	if len(p) < n {
		return p, io.EOF
	}
	return p[:n], nil
}

// A result is what an operation returned; which fields it uses is up to it.
type result struct {
	n     int64
	r     rune
	p     []byte // may be a view: compared before the next operation
	view  bool   // p is one, and stays what it is until the contents change
	err   error
	panic any
}

// An op is one step of a test, the same for both buffers.
type op struct {
	name string
	kind kind
	run  func(b buffer) result // must not keep state from call to call
}

// A kind says what an op means for a later UnreadByte or UnreadRune, and for
// views.
type kind int

const (
	other     kind = iota // decides anew whether there is something to unread, and ends views
	take                  // the same, but views stay what they are
	look                  // leaves both alone
	grow                  // ends views; see pair.grown
	overwrite             // ends views
	unread                // unreads, and leaves views alone
)

func (k kind) endsViews() bool { return k == other || k == grow || k == overwrite }

// on runs o on b and catches its panic.
func (o op) on(b buffer) (res result) {
	defer func() {
		if v := recover(); v != nil {
			res = result{panic: v}
		}
	}()
	return o.run(b)
}

// diff says how res differs from what bytes.Buffer gave.
func (res result) diff(want result) error {
	switch {
	case !samePanic(res.panic, want.panic):
		return fmt.Errorf("panic %#v, want %#v", res.panic, want.panic)
	case !sameError(res.err, want.err):
		return fmt.Errorf("error %#v, want %#v", res.err, want.err)
	case res.n != want.n:
		return fmt.Errorf("n = %d, want %d", res.n, want.n)
	case res.r != want.r:
		return fmt.Errorf("rune, byte or calls = %#x, want %#x", res.r, want.r)
	}
	return diffBytes(res.p, want.p)
}

// sameError accepts another error with the same text only in place of
// the errors that package bytes does not export.
func sameError(err, want error) bool {
	if err == nil || want == nil || err == want {
		return err == want
	}
	if want == errFull {
		return errors.Is(err, ErrTooLarge)
	}
	return want != bytes.ErrTooLarge && strings.HasPrefix(want.Error(), "bytes.Buffer: ") && err.Error() == want.Error()
}

func samePanic(v, want any) bool {
	if _, ok := want.(runtime.Error); ok {
		_, ok = v.(runtime.Error)
		return ok
	}
	if want, ok := want.(error); ok {
		err, ok := v.(error)
		return ok && sameError(err, want)
	}
	return v == want
}

func diffBytes(p, want []byte) error {
	if bytes.Equal(p, want) {
		return nil
	}
	i := 0
	for i < len(p) && i < len(want) && p[i] == want[i] {
		i++
	}
	around := func(p []byte) []byte { return p[max(0, i-8):min(len(p), i+24)] }
	return fmt.Errorf("%d bytes, want %d; they differ from [%d] on: ...%q, want ...%q", len(p), len(want), i, around(p), around(want))
}

// A view says how a pair looks at the contents.
type view int

const (
	byReadAt view = iota // leaves a mapping alone; only samples large contents
	byString             // leaves a mapping alone
	byBytes              // publishes a mapping
	views
)

// A pair takes an oracle and a Buffer through the same steps.
type pair struct {
	want *oracle
	got  *Buffer
	was  Stats // at the start

	// A Grow came after the last read. Whether bytes.Buffer can still unread
	// then depends on whether Grow moved the data: UnreadByte and UnreadRune
	// return nil and do nothing if it did. Capacity is not compared, so
	// neither can this be, and the pair does not unread.
	grown bool

	live []seen // views of the storage as it is
	left []seen // views of storage that the Buffer has left: nobody changes them any more

	steps   []string
	scratch []byte
}

// newPair returns a pair of zero buffers if start is empty, else of
// buffers that read start.
func newPair(start string) *pair {
	p := &pair{want: new(oracle), got: new(Buffer), was: ReadStats()}
	if start != "" {
		p.want.Buffer = *bytes.NewBuffer([]byte(start))
		p.got = NewBuffer([]byte(start))
	}
	return p
}

// close gives memory back at once: small garbage may own large mappings.
func (p *pair) close() { p.got.Close() }

// finish looks at everything once more and closes.
func (p *pair) finish() error {
	err := errors.Join(p.check(byString), p.check(byBytes))
	p.close()
	return errors.Join(err, invariants(p.got), changed(p.left), leaked(p.was))
}

// step runs o on both buffers and compares results and state.
func (p *pair) step(o op, v view) error {
	switch o.kind {
	case grow:
		p.grown = true
	case unread:
		if p.grown {
			return nil
		}
	case other, take:
		p.grown = false
	}
	p.steps = append(p.steps, o.name)
	if o.name == moveByValue.name {
		moved := *p.got
		p.got = &moved
	}
	res := o.on(p.got)
	err := res.diff(o.on(p.want))
	if o.kind.endsViews() {
		p.endViews()
	}
	if res.view {
		p.live = newest(append(p.live, see(res.p)...))
	}
	if err == nil {
		err = p.check(v)
	}
	if err != nil {
		n := max(0, len(p.steps)-12)
		return fmt.Errorf("step %d of %s: %w", len(p.steps), strings.Join(p.steps[n:], ", "), err)
	}
	return nil
}

// check compares the state.
func (p *pair) check(v view) error {
	want := p.want.Bytes()
	n, c, a := p.got.Len(), p.got.Cap(), p.got.Available()
	switch {
	case n != len(want):
		return fmt.Errorf("Len() = %d, want %d", n, len(want))
	case a < 0 || c < n+a:
		return fmt.Errorf("Len() = %d, Cap() = %d, Available() = %d", n, c, a)
	}
	if err := errors.Join(invariants(p.got), changed(p.live), changed(p.left)); err != nil {
		return err
	}
	switch v {
	case byString:
		if s := p.got.String(); s != string(want) {
			return fmt.Errorf("String(): %w", diffBytes([]byte(s), want))
		}
	case byBytes:
		if err := diffBytes(p.got.Bytes(), want); err != nil {
			return fmt.Errorf("Bytes(): %w", err)
		}
	case byReadAt:
		const sample = 4 << 10
		if n <= sample {
			return p.readAt(want, 0, n+1)
		}
		some := uint64(len(p.steps)) * 0x9e3779b97f4a7c15 % uint64(n)
		return errors.Join(p.readAt(want, 0, sample), p.readAt(want, int(some), sample), p.readAt(want, n-sample, sample+1))
	}
	return nil
}

// A seen is a part of a view, and what it showed.
type seen struct{ view, want []byte }

// see remembers both ends of a view.
func see(p []byte) []seen {
	const sample = 1 << 10
	if len(p) <= sample {
		return []seen{{p, bytes.Clone(p)}}
	}
	end := p[len(p)-sample:]
	return []seen{{p[:sample], bytes.Clone(p[:sample])}, {end, bytes.Clone(end)}}
}

// newest returns the last views, of which a test does not hold too many.
func newest(views []seen) []seen { return views[max(0, len(views)-16):] }

func changed(views []seen) error {
	for _, s := range views {
		if err := diffBytes(s.view, s.want); err != nil {
			return fmt.Errorf("a view has changed: %w", err)
		}
	}
	return nil
}

// endViews is called after the contents may have changed. A view of storage
// that the Buffer still has, or adopts with its next change, shows what it likes.
func (p *pair) endViews() {
	buf := p.got.buf
	if m := p.got.m; m != nil && !p.got.current() {
		buf = m.publishedFor(p.got).mem
	}
	for _, s := range p.live {
		if !overlap(s.view, buf) {
			p.left = append(p.left, seen{s.view, bytes.Clone(s.view)})
		}
	}
	p.live, p.left = nil, newest(p.left)
}

// overlap reports whether two slices share memory up to their capacity.
func overlap(p, q []byte) bool {
	start := func(p []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(p))) }
	return start(p) < start(q)+uintptr(cap(q)) && start(q) < start(p)+uintptr(cap(p))
}

// readAt compares n bytes at off with want's.
func (p *pair) readAt(want []byte, off, n int) error {
	p.scratch = slices.Grow(p.scratch[:0], n)[:n]
	want = want[off:]
	var wantErr error
	if len(want) < n {
		wantErr = io.EOF
	}
	m, err := p.got.ReadAt(p.scratch, int64(off))
	if err != wantErr {
		return fmt.Errorf("ReadAt(%d bytes, %d): error %v, want %v", n, off, err, wantErr)
	}
	if err := diffBytes(p.scratch[:m], want[:min(n, len(want))]); err != nil {
		return fmt.Errorf("ReadAt(%d bytes, %d): %w", n, off, err)
	}
	return nil
}

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

// A reader is an io.Reader.
type reader func(p []byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

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

// A writer is an io.Writer that takes no more than max bytes of a Write
// and reports lie bytes more than it took.
type writer struct {
	max, lie int
	err      error
	took     []byte
	calls    rune
}

func (w *writer) Write(p []byte) (int, error) {
	p = p[:min(len(p), w.max)]
	w.took = append(w.took, p...)
	w.calls++
	return len(p) + w.lie, w.err
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

var errTest = errors.New("test error")

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

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// noise is data that tells every misplaced byte. It has no zeros.
var noise = sync.OnceValue(func() []byte {
	p := make([]byte, 6<<20)
	rand.NewChaCha8([32]byte{}).Read(p)
	for i, c := range p {
		p[i] = max(c, 1)
	}
	return p
})

// atBothThresholds runs f with the storage that the size asks for and with
// all of it mapped. As mapThreshold is global, no test runs beside this one.
func atBothThresholds(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for _, n := range []int{mapThreshold, 1} {
		t.Run(fmt.Sprintf("threshold=%d", n), func(t *testing.T) {
			setThreshold(t, n)
			f(t)
		})
	}
}

func setThreshold(t testing.TB, n int) {
	t.Helper()
	old := mapThreshold
	mapThreshold = n
	t.Cleanup(func() { mapThreshold = old })
}

// atSizes runs f with a size below the default threshold and one above.
func atSizes(t *testing.T, f func(t *testing.T, n int)) {
	t.Helper()
	for _, n := range []int{100, 3 << 20} {
		t.Run(fmt.Sprintf("size=%d", n), func(t *testing.T) { f(t, n) })
	}
}

// contents returns a copy: Bytes would publish a mapping.
func contents(b *Buffer) []byte {
	s := b.String()
	return []byte(s)
}

// requireContents compares without a diff of megabytes and without a view.
func requireContents(t testing.TB, b *Buffer, want []byte, msg ...any) {
	t.Helper()
	require.Equal(t, len(want), b.Len(), msg...)
	require.NoError(t, diffBytes(contents(b), want), msg...)
}

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
