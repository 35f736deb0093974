package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"unsafe"
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
