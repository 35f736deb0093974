package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"unicode/utf8"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// An oracle is a bytes.Buffer with what Buffer has beyond it.
type oracle struct {
	bytes.Buffer
	maxLen int
}

// addressBits is more than any address space has: there may be 1<<47 bytes elsewhere.
var addressBits = map[bool]uint{true: 47, false: 56}[runtime.GOARCH == "amd64"]

// tooMuch is less than what no process gets.
var tooMuch = min(bits(addressBits-1), math.MaxInt-2)

// errFull stands for every error that says more than ErrTooLarge.
var errFull = fmt.Errorf("oracle: %w", ErrTooLarge)

func (o *oracle) room() int {
	if o.maxLen <= 0 {
		return math.MaxInt
	}
	return max(o.maxLen-o.Len(), 0)
}

// forget leaves nothing to unread.
func (o *oracle) forget() { o.Buffer.Write(nil) }

func (o *oracle) Write(p []byte) (int, error) {
	if o.maxLen > 0 && o.Len() == 0 {
		o.Reset() // what has been consumed is gone even if p is empty
	}
	if room := o.room(); len(p) > room {
		o.Buffer.Write(p[:room])
		return room, errFull
	}
	return o.Buffer.Write(p)
}

func (o *oracle) WriteString(s string) (int, error) { return o.Write([]byte(s)) }

func (o *oracle) WriteByte(c byte) error {
	_, err := o.Write([]byte{c})
	return err
}

func (o *oracle) WriteRune(r rune) (int, error) {
	p := utf8.AppendRune(nil, r)
	if len(p) > o.room() {
		o.forget()
		return 0, errFull
	}
	return o.Write(p)
}

func (o *oracle) ReadFrom(r io.Reader) (int64, error) {
	if o.maxLen <= 0 {
		return o.Buffer.ReadFrom(r)
	}
	ended, room := false, int64(o.room())
	n, err := o.Buffer.ReadFrom(io.LimitReader(reader(func(p []byte) (int, error) {
		n, err := r.Read(p)
		_ = p[:len(p):len(p)][:max(n, 0)] // panics where LimitReader does not
		ended = err != nil
		return n, err
	}), room))
	if ended || n < room {
		return n, err
	}
	switch m, err := io.ReadFull(r, make([]byte, 1)); {
	case m < 0:
		panic(errNegativeRead)
	case m > 0:
		return n, errFull
	case err != io.EOF:
		return n, err
	}
	return n, nil
}

func (o *oracle) Grow(n int) {
	switch {
	case n > o.room():
		panic(ErrTooLarge)
	case n > tooMuch:
		if o.Len() == 0 { // as Grow of bytes.Buffer begins
			o.Buffer.Reset()
		}
		panic(ErrTooLarge)
	}
	o.Buffer.Grow(n)
}

func (o *oracle) Reserve(n int) error {
	if n < 0 {
		return errNegativeReserve
	}
	err, _ := caught(func() error {
		o.Grow(n)
		return nil
	})
	if err != nil {
		return errFull
	}
	return nil
}

func (o *oracle) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errReadAtNegative
	}
	return bytes.NewReader(o.Bytes()).ReadAt(p, off)
}

func (o *oracle) WriteAt(p []byte, off int64) (int, error) {
	switch {
	case off < 0:
		return 0, errWriteAtNegative
	case len(p) == 0:
		return 0, nil
	case off > int64(math.MaxInt-len(p)):
		return 0, ErrTooLarge
	}
	switch more := int(off) + len(p) - o.Len(); {
	case more > o.room():
		return 0, errFull
	case more > tooMuch:
		if o.Len() == 0 {
			o.Reset() // as growth does, before it fails
		}
		return 0, errFull
	case more > 0:
		o.Buffer.Write(make([]byte, more))
	}
	return copy(o.Bytes()[off:], p), nil
}

func (o *oracle) Shrink() { o.Buffer = *bytes.NewBuffer(bytes.Clone(o.Bytes())) }

func (o *oracle) Close() error {
	o.Buffer = bytes.Buffer{}
	return nil
}

// invariants says what is wrong with the fields of b, between calls of its
// methods.
func invariants(b *Buffer) error {
	switch {
	case b.off < 0 || b.off > b.buf.Len:
		return fmt.Errorf("off = %d, len(buf) = %d", b.off, b.buf.Len)
	case b.lastRead < opRead || b.lastRead > utf8.UTFMax:
		return fmt.Errorf("lastRead = %d", b.lastRead)
	case (b.m == nil) != (b.gen == 0):
		return fmt.Errorf("gen = %d, m = %p", b.gen, b.m)
	}
	mu := b.atLock()
	mu.Lock() // waits for ever if a method has not unlocked it
	defer mu.Unlock()
	if b.m == nil {
		return nil
	}
	if err := b.m.Check(b.gen, b.off, b.buf.Len, b.buf.Cap); err != nil || !b.current() {
		return err
	}
	mem := b.m.Inspect().Mem
	at := uintptr(unsafe.Pointer(unsafe.SliceData(mem)))
	switch {
	case at%uintptr(min(vm.Unit(), mostAlignment)) != 0:
		return fmt.Errorf("the mapping is at %#x, the unit is %d", at, vm.Unit())
	case !vm.SameStart(b.buf.Slice(), mem):
		return fmt.Errorf("buf is not the mapping")
	}
	return nil
}

// mostAlignment bounds what invariants asks of addresses. A test that makes
// memory scarce lowers it to the page.
var mostAlignment = math.MaxInt

// leaked says what is mapped that was not. Garbage may still go, but no new
// mapping may stay when the Buffers that were made since are closed.
func leaked(was Stats) error {
	if is := ReadStats(); is.Mappings > was.Mappings || is.MappedBytes > was.MappedBytes {
		return fmt.Errorf("%d mappings of %d bytes, there were %d of %d", is.Mappings, is.MappedBytes, was.Mappings, was.MappedBytes)
	}
	return nil
}

// buffer is what bytes.Buffer and Buffer have in common.
// Peek is missing: bytes.Buffer has it from Go 1.26 on, see [peek].
type buffer interface {
	io.ReadWriter
	io.ReaderFrom
	io.WriterTo
	io.ByteScanner
	io.RuneScanner
	io.ByteWriter
	io.StringWriter
	fmt.Stringer
	Available() int
	AvailableBuffer() []byte
	Bytes() []byte
	Cap() int
	Grow(n int)
	Len() int
	Next(n int) []byte
	ReadBytes(delim byte) ([]byte, error)
	ReadString(delim byte) (string, error)
	Reset()
	Truncate(n int)
	WriteRune(r rune) (int, error)
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
	_ buffer = (*bytes.Buffer)(nil)
	_ beyond = (*oracle)(nil)
	_ beyond = (*Buffer)(nil)
	_ peeker = (*Buffer)(nil)
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

func counted(n int, err error) result { return result{n: int64(n), err: err} }

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

// run takes steps that must not differ.
func (p *pair) run(t testing.TB, v view, ops ...op) {
	t.Helper()
	for _, o := range ops {
		if err := p.step(o, v); err != nil {
			require.NoError(t, err)
		}
	}
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
	buf := p.got.buf.Slice()
	if m := p.got.m; m != nil && !p.got.current() {
		buf, _ = m.Published(p.got.gen, p.got.off, p.got.buf.Len)
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

// oneOf draws one of ops.
func (s *script) oneOf(ops ...op) op { return ops[int(s.byte())%len(ops)] }

// rarely draws one of ops, which are slow or empty the contents, once in odds times.
func (s *script) rarely(odds byte, usual op, ops ...op) op {
	if s.byte()%odds != 0 {
		return usual
	}
	return s.oneOf(ops...)
}

func (s *script) maybeError() error { return []error{nil, errTest}[s.byte()%2] }

// op draws an operation for a buffer of n bytes.
func (s *script) op(n int) op {
	c := s.byte() % 40
	if s.noViews && c >= 24 && c < 32 {
		c -= 24
	}
	for _, draw := range []struct {
		times byte
		op    func() op
	}{
		{2, func() op { return write(s.data(n)) }},
		{1, func() op { return writeString(string(s.data(n))) }},
		{1, func() op { return writeByte(s.byte()) }},
		{1, func() op {
			runes := []rune{'a', 'é', '€', '😀', -1, 0xd800, utf8.MaxRune, utf8.MaxRune + 1}
			return writeRune(runes[int(s.byte())%len(runes)])
		}},
		{2, func() op { return s.readFrom(n) }},
		{2, func() op { return read(s.size(s.readBits)) }},
		{1, func() op { return readByte }},
		{2, func() op { return readRune }},
		{2, func() op { return unreadByte }},
		{2, func() op { return unreadRune }},
		{1, func() op { return readBytes(s.byte()) }},
		{1, func() op { return readString(s.byte()) }},
		{1, func() op { return growBy(s.size(s.writeBits)) }},
		{1, func() op { return growWrite(s.data(n)) }},
		{1, func() op { return cut(s.size(s.readBits)) }},
		{1, func() op { return writeTo(s.size(s.readBits), 0, s.maybeError()) }},
		{1, func() op { return s.rarely(64, readByte, reset, truncate(0), writeAll) }},
		{1, func() op {
			return s.oneOf(growBy(-1), truncate(-1), cut(-1), writeLie, writePanic, growBy(math.MaxInt))
		}},
		// Views.
		{2, func() op { return appendAvailable(s.data(n)) }},
		{2, func() op { return next(s.size(s.readBits)) }},
		{2, func() op { return peekN(s.size(s.readBits)) }},
		{1, func() op { return getBytes }},
		{1, func() op { return s.look(n) }},
		// What bytes.Buffer has not.
		{1, func() op { return writeAt(s.data(n), int64(s.offset(n))) }},
		{1, func() op {
			end := min(n+s.size(s.writeBits), max(n, s.limit))
			return writeAt(s.data(end), int64(end))
		}},
		{1, func() op { return readAt(s.size(s.readBits), int64(s.offset(n+1))) }},
		{1, func() op { return reserveBy(s.size(s.writeBits)) }},
		{1, func() op {
			bounds := []int{0, 0, 0, 0, n, n + s.size(8), n / 2, math.MaxInt}
			return setMaxLen(bounds[s.byte()%8])
		}},
		{1, func() op { return shrink }},
		{1, func() op { return s.rarely(16, noHugePages, closeIt, collectNow, moveByValue, moveByValue) }},
		{1, func() op {
			one := []byte("x")
			return s.oneOf(writeAt(one, -1), writeAt(nil, -1), writeAt(one, math.MaxInt64), writeAt(one, math.MaxInt64-1),
				readAt(1, -1), readAt(0, -1), readAt(1, math.MaxInt64), reserveBy(-1), reserveBy(math.MinInt))
		}},
	} {
		if c < draw.times {
			return draw.op()
		}
		c -= draw.times
	}
	panic("too few operations")
}

// look draws an operation that looks while others do.
func (s *script) look(n int) op {
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
		return writeToLooking(s.size(s.readBits), s.maybeError())
	}
	return lookAtOnce
}

func (s *script) readFrom(n int) op {
	p := s.data(n)
	from := func(how string, r func(r io.Reader) io.Reader) op {
		return readFrom(fmt.Sprint(len(p), how), func() io.Reader { return r(bytes.NewReader(p)) })
	}
	switch s.byte() % 16 {
	case 0:
		p = p[:min(len(p), 2000)] // slow
		return from(" one byte at a time", iotest.OneByteReader)
	case 1:
		return from(" with EOF", iotest.DataErrReader)
	case 2:
		return from(" by halves", iotest.HalfReader)
	case 3:
		return from(", error", func(r io.Reader) io.Reader { return io.MultiReader(r, iotest.ErrReader(errTest)) })
	case 4:
		return s.oneOf(readNegative, readTooMuch, readPanic, readThenPanic, readScratch, readNothing, readError, readDataError)
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
