// Package mmapbuf has one type, [Buffer]: a [bytes.Buffer] for large data.
//
// Small contents lie in an ordinary Go slice. Past 1 MiB a Buffer keeps
// them in an anonymous memory mapping of its own, which mremap(2) grows and
// shrinks without copying a byte. Filling gigabytes then costs little more
// than writing them once, and the memory in use is the size of the contents,
// not two or three times that.
//
// Nobody has to know that there is a mapping. No address of it reaches a
// caller: the first method that returns a view ([Buffer.Bytes], [Buffer.Next],
// [Buffer.Peek], [Buffer.AvailableBuffer]) moves the pages into an object of
// the Go heap, again without copying, and from then on the collector looks
// after them as after any slice. A mapping whose Buffer has become
// unreachable is given back by the collector too. Calling [Buffer.Close] gives
// it back sooner; it is not a duty.
//
// Where there is no mremap(2) (other systems than Linux, 32-bit machines,
// builds with the tag nommap) a Buffer does the same on Go slices alone.
package mmapbuf

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// A Buffer is a variable-sized buffer of bytes with all the methods of
// [bytes.Buffer], meant for contents from megabytes up to what the machine
// has. The zero value is an empty Buffer ready to use.
//
// A Buffer must not be copied once it has been written to; go vet reports
// copies, and a copy of a Buffer that owns a mapping panics when it is used.
//
// A Buffer is not safe for concurrent use, with the exception that the
// contracts of [io.ReaderAt] and [io.WriterAt] ask for: see [Buffer.ReadAt]
// and [Buffer.WriteAt].
type Buffer struct {
	// MaxLen bounds Len, in bytes; 0 means no bound. Writes that would
	// exceed it store what fits and return an error that wraps ErrTooLarge.
	// It may be changed at any time between calls; contents that are longer
	// already stay.
	MaxLen int

	// NoHugePages asks for a mapping of ordinary pages (madvise(2),
	// MADV_NOHUGEPAGE) where the default is huge ones. It takes effect
	// with the next mapping that the Buffer makes. Filling then takes
	// several times as long; it is for machines on which the kernel stalls
	// looking for huge pages.
	NoHugePages bool

	lastRead readOp  // what UnreadByte and UnreadRune may take back
	buf      []byte  // contents are buf[off:len(buf)]; storage is Go memory or m.mem
	off      int     // read at &buf[off], write at &buf[len(buf)]
	self     *Buffer // the Buffer's own address while m != nil, else nil; tells a copy
	m        *mapping
	mu       atomic.Pointer[sync.RWMutex] // of ReadAt and WriteAt, made by the first of them
}

// readOp is the last operation on a Buffer, as far as Unread* care. A positive
// value is the size of the rune that ReadRune returned.
type readOp int8

const (
	opRead    readOp = -1 // a read of anything but a rune
	opInvalid readOp = 0  // not a read, or one that returned nothing
)

// MinRead is the least room, in bytes, that [Buffer.ReadFrom] offers a Reader.
// A Buffer with at least MinRead bytes to spare beyond what the Reader
// delivers is not grown by ReadFrom.
const MinRead = bytes.MinRead

// ErrTooLarge is the error, or the value of the panic, when a Buffer cannot
// become as large as is asked. It is [bytes.ErrTooLarge]. Errors that say more
// wrap it.
var ErrTooLarge = bytes.ErrTooLarge

// Programs and their tests match on the words of bytes.Buffer, so a Buffer
// uses the same.
var (
	errNegativeRead = errors.New("bytes.Buffer: reader returned negative count from Read")
	errUnreadByte   = errors.New("bytes.Buffer: UnreadByte: previous operation was not a successful read")
	errUnreadRune   = errors.New("bytes.Buffer: UnreadRune: previous operation was not a successful ReadRune")
)

const (
	panicGrow     = "bytes.Buffer.Grow: negative count"
	panicTruncate = "bytes.Buffer: truncation out of range"
	panicWriteTo  = "bytes.Buffer.WriteTo: invalid Write count"
	panicCopied   = "mmapbuf: Buffer copied by value"
)

// NewBuffer returns a Buffer whose contents are buf. The Buffer owns buf from
// then on: it reads it, writes into its spare capacity, and leaves it behind
// when it grows. The caller should not use buf any more.
//
// In most cases new(Buffer), or declaring a Buffer, is all that is needed.
func NewBuffer(buf []byte) *Buffer { return &Buffer{buf: buf} }

// NewBufferString returns a Buffer whose contents are a copy of s.
func NewBufferString(s string) *Buffer { return &Buffer{buf: []byte(s)} }

// check panics if b is a copy of a Buffer that owns a mapping: the memory
// under such a copy may have been moved or unmapped by the original. (To keep
// the addresses that were left reserved would do as well and spare the check,
// which takes up to 0.5 ns; but it would take a VMA for each move, and Close
// could not give them back.)
func (b *Buffer) check() {
	if b.self != nil && b.self != b {
		panic(panicCopied)
	}
}

// Bytes returns the contents, a slice of Len bytes. The slice is valid until
// the next method that changes the Buffer, as with [bytes.Buffer]; until then
// changes made through it are changes of the contents. Its memory belongs to
// the Go heap: kept longer, it holds old contents or newer ones, but never
// becomes invalid.
//
// The first call after a large Buffer has grown moves the pages to the Go
// heap. It panics, with an error that wraps ErrTooLarge and with the contents
// intact, if the heap cannot have that much memory.
func (b *Buffer) Bytes() []byte {
	if b.self != nil {
		b.publish(b.Len())
	}
	return b.buf[b.off:]
}

// AvailableBuffer returns an empty slice with a capacity of Available bytes,
// to be appended to and then passed to the next Write. It is valid until that
// write; see [Buffer.Bytes] for its memory and for when it panics.
func (b *Buffer) AvailableBuffer() []byte {
	if b.self != nil {
		b.publish(b.Available())
	}
	return b.buf[len(b.buf):]
}

// Peek returns the next n bytes without consuming them, or with [io.EOF] all
// that there are if they are fewer. The slice is valid until the next read or
// write; see [Buffer.Bytes] for its memory and for when it panics.
func (b *Buffer) Peek(n int) ([]byte, error) {
	if b.self != nil {
		b.publish(b.Len())
	}
	if n > b.Len() {
		return b.buf[b.off:], io.EOF
	}
	return b.buf[b.off : b.off+n], nil
}

// Next consumes the next n bytes, or all that there are if they are fewer, and
// returns them. The slice is valid until the next read or write; see
// [Buffer.Bytes] for its memory and for when it panics.
func (b *Buffer) Next(n int) []byte {
	if b.self != nil {
		b.publish(b.Len())
	}
	b.lastRead = opInvalid // also if n is negative, and this panics
	i := b.off
	n = min(n, len(b.buf)-i)
	p := b.buf[i : i+n]
	b.off = i + n
	if n > 0 {
		b.lastRead = opRead
	}
	return p
}

// String returns a copy of the contents as a string, and "<nil>" if b is nil.
func (b *Buffer) String() string {
	if b == nil {
		return "<nil>"
	}
	b.check()
	s := string(b.buf[b.off:])
	runtime.KeepAlive(b)
	return s
}

// Len returns the number of bytes not yet consumed: the length of the
// contents.
func (b *Buffer) Len() int { return len(b.buf) - b.off }

// Cap returns the number of bytes of the Buffer's storage, consumed bytes
// included. Of a mapping only the part that has been written takes up memory.
func (b *Buffer) Cap() int { return cap(b.buf) }

// Available returns how many bytes can be written before the Buffer grows.
func (b *Buffer) Available() int { return cap(b.buf) - len(b.buf) }

// Truncate keeps the first n bytes of the contents and drops the rest. The
// storage stays. It panics if n is negative or greater than Len.
func (b *Buffer) Truncate(n int) {
	b.check()
	if n == 0 {
		b.rewind()
		return
	}
	b.lastRead = opInvalid
	if n < 0 || n > b.Len() {
		panic(panicTruncate)
	}
	b.buf = b.buf[:b.off+n]
}

// Reset empties the Buffer. The storage stays, for later writes; [Buffer.Close]
// gives it back.
func (b *Buffer) Reset() {
	b.check()
	b.rewind()
}

// rewind is Reset after check.
func (b *Buffer) rewind() {
	b.buf, b.off, b.lastRead = b.buf[:0], 0, opInvalid
}

// Grow makes room for n more bytes, so that writing them does not move the
// contents. It panics if n is negative, and with ErrTooLarge or an error that
// wraps it if the room cannot be had; the contents are then intact.
//
// Room that is not written to costs addresses, not memory.
func (b *Buffer) Grow(n int) {
	if n < 0 {
		panic(panicGrow)
	}
	if err := b.Reserve(n); err != nil {
		panic(err)
	}
}

// fits reports whether n more bytes take no more than a reslice of buf. It is
// small enough to be inlined.
func (b *Buffer) fits(n int) bool {
	return n <= cap(b.buf)-len(b.buf) && b.MaxLen <= 0 && (b.self == nil || b.self == b)
}

// extend lengthens buf by n bytes, or by as many as MaxLen leaves, growing the
// storage if it must. It returns where they begin and how many they are; err
// is not nil if they are fewer than n. It panics where memory is lacking.
func (b *Buffer) extend(n int) (i, got int, err error) {
	b.check()
	got = n
	if room := b.roomToMax(); n > room {
		got, err = room, b.maxLenError(n)
	}
	if e := b.grow(got); e != nil {
		panic(e)
	}
	i = len(b.buf)
	b.buf = b.buf[:i+got]
	return i, got, err
}

// announce tells the page layer that buf[i:] is about to be written, if that is
// worth its while.
func (b *Buffer) announce(i int) {
	if len(b.buf)-i >= populateMin && b.m != nil {
		b.m.populate(i, len(b.buf))
	}
}

// Write appends p to the contents. It returns len(p) and nil unless MaxLen is
// in the way, and panics with ErrTooLarge or an error that wraps it if there
// is no memory; the contents are then as before.
func (b *Buffer) Write(p []byte) (n int, err error) {
	b.lastRead = opInvalid
	if b.fits(len(p)) {
		i := len(b.buf)
		b.buf = b.buf[:i+len(p)]
		b.announce(i)
		copy(b.buf[i:], p)
		runtime.KeepAlive(b)
		return len(p), nil
	}
	i, n, err := b.extend(len(p))
	b.announce(i)
	copy(b.buf[i:], p[:n])
	runtime.KeepAlive(b)
	return n, err
}

// WriteString appends s to the contents; see [Buffer.Write].
func (b *Buffer) WriteString(s string) (n int, err error) {
	b.lastRead = opInvalid
	if b.fits(len(s)) {
		i := len(b.buf)
		b.buf = b.buf[:i+len(s)]
		copy(b.buf[i:], s)
		runtime.KeepAlive(b)
		return len(s), nil
	}
	i, n, err := b.extend(len(s))
	copy(b.buf[i:], s[:n])
	runtime.KeepAlive(b)
	return n, err
}

// WriteByte appends c to the contents; see [Buffer.Write].
func (b *Buffer) WriteByte(c byte) error {
	b.lastRead = opInvalid
	if i := len(b.buf); i < cap(b.buf) && b.MaxLen <= 0 && (b.self == nil || b.self == b) { // fits(1), with fewer bounds checks
		b.buf = b.buf[:i+1]
		b.buf[i] = c
		runtime.KeepAlive(b)
		return nil
	}
	i, n, err := b.extend(1)
	if n == 1 {
		b.buf[i] = c
		runtime.KeepAlive(b)
	}
	return err
}

// WriteRune appends r in UTF-8 and returns the number of bytes that takes. A
// rune for which MaxLen leaves too little room is not written at all; see
// [Buffer.Write] otherwise.
func (b *Buffer) WriteRune(r rune) (n int, err error) {
	if uint32(r) < utf8.RuneSelf { // uint32: negative runes are no ASCII
		if err := b.WriteByte(byte(r)); err != nil {
			return 0, err
		}
		return 1, nil
	}
	b.lastRead = opInvalid
	if b.fits(utf8.UTFMax) {
		i := len(b.buf)
		b.buf = utf8.AppendRune(b.buf, r)
		runtime.KeepAlive(b)
		return len(b.buf) - i, nil
	}
	if n = utf8.RuneLen(r); n < 0 {
		n = utf8.RuneLen(utf8.RuneError)
	}
	if n > b.roomToMax() {
		b.check()
		return 0, b.maxLenError(n)
	}
	i, _, _ := b.extend(n)
	utf8.AppendRune(b.buf[:i], r)
	runtime.KeepAlive(b)
	return n, nil
}

// ReadFrom appends what r delivers until it returns [io.EOF], and returns the
// number of bytes appended, with any other error of r. It panics if r returns
// a negative count, and where Write would for want of memory.
//
// With MaxLen set, ReadFrom stores what fits. A Reader that has more is an
// error that wraps ErrTooLarge; to tell, ReadFrom takes one byte more from it.
func (b *Buffer) ReadFrom(r io.Reader) (n int64, err error) {
	b.check()
	b.lastRead = opInvalid
	for {
		room := b.roomToMax()
		if room == 0 {
			return n, b.readEnd(r)
		}
		if err := b.grow(min(MinRead, room)); err != nil {
			panic(err)
		}
		i := len(b.buf)
		j := i + min(cap(b.buf)-i, room, maxRead)
		m, err := b.readInto(r, b.buf[i:j:j])
		b.buf = b.buf[:i+m]
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// maxRead bounds the slice that ReadFrom hands to a Reader, in bytes: a Reader
// may use all of it as scratch space, and what it touches becomes memory.
const maxRead = 8 << 20

// readInto reads from r into p, a part of the storage.
func (b *Buffer) readInto(r io.Reader, p []byte) (int, error) {
	if b.m != nil {
		defer b.lend().takeBack()
	}
	n, err := r.Read(p)
	if n < 0 {
		panic(errNegativeRead)
	}
	_ = p[:n] // a count beyond len(p) panics as any slice would
	return n, err
}

// readEnd tells whether r is at its end, for a Buffer that is full to MaxLen.
func (b *Buffer) readEnd(r io.Reader) error {
	var p [1]byte
	for {
		n, err := r.Read(p[:])
		switch {
		case n < 0:
			panic(errNegativeRead)
		case n > 0:
			return b.maxLenError(n)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// WriteTo writes the contents to w, consumes what w accepted, and returns how
// much that was, with any error of w. If w accepts less and reports no error,
// that is [io.ErrShortWrite]. It panics if w reports more than it was given.
//
// Large contents are handed to w where they lie, in one call; as for every
// [io.Writer], w must not keep the slice.
func (b *Buffer) WriteTo(w io.Writer) (n int64, err error) {
	b.check()
	b.lastRead = opInvalid
	if b.Len() > 0 {
		p := b.buf[b.off:]
		m, err := b.writeOut(w, p)
		if m < 0 || m > len(p) {
			panic(panicWriteTo)
		}
		b.off += m
		n = int64(m)
		if err == nil && m < len(p) {
			err = io.ErrShortWrite
		}
		if err != nil {
			if passesStep(b.off-m, b.off) {
				b.trim(b.off)
			}
			return n, err
		}
	}
	b.rewind()
	return n, nil
}

// writeOut writes p, a part of the storage, to w.
func (b *Buffer) writeOut(w io.Writer, p []byte) (int, error) {
	if b.m != nil {
		defer b.lend().takeBack()
	}
	return w.Write(p)
}

// Read consumes up to len(p) bytes, copying them to p, and returns their
// number. It returns [io.EOF] if the Buffer is empty, unless len(p) is 0.
func (b *Buffer) Read(p []byte) (n int, err error) {
	b.check()
	b.lastRead = opInvalid
	start := b.off
	if start >= len(b.buf) {
		b.rewind() // the consumed bytes are room again
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n = copy(p, b.buf[start:])
	end := start + n
	b.off = end
	if n > 0 {
		b.lastRead = opRead
	}
	if passesStep(start, end) {
		b.trim(end)
	}
	runtime.KeepAlive(b)
	return n, nil
}

// passesStep reports whether there is a multiple of trimStep, a power of two,
// between start and end: a consumed prefix that has grown so is to be trimmed.
func passesStep(start, end int) bool { return start^end >= trimStep }

// ReadByte consumes and returns the next byte, or returns [io.EOF] if there is
// none.
func (b *Buffer) ReadByte() (byte, error) {
	b.check()
	i := b.off
	if uint(i) >= uint(len(b.buf)) {
		b.rewind()
		return 0, io.EOF
	}
	c := b.buf[i]
	b.off = i + 1
	b.lastRead = opRead
	runtime.KeepAlive(b)
	return c, nil
}

// ReadRune consumes the next rune and returns it with its size in bytes, or
// returns [io.EOF] if there is none. A byte that is not valid UTF-8 is
// consumed alone and returned as U+FFFD with size 1.
func (b *Buffer) ReadRune() (r rune, size int, err error) {
	b.check()
	if b.off >= len(b.buf) {
		b.rewind()
		return 0, 0, io.EOF
	}
	r, size = rune(b.buf[b.off]), 1
	if r >= utf8.RuneSelf {
		r, size = utf8.DecodeRune(b.buf[b.off:])
	}
	b.off += size
	b.lastRead = readOp(size)
	runtime.KeepAlive(b)
	return r, size, nil
}

// UnreadRune takes back the rune that ReadRune returned. It is an error if the
// last operation was not a ReadRune that returned one.
func (b *Buffer) UnreadRune() error {
	if b.lastRead <= opInvalid {
		return errUnreadRune
	}
	b.off = max(b.off-int(b.lastRead), 0) // 0: Grow may have dropped what was read
	b.lastRead = opInvalid
	return nil
}

// UnreadByte takes back the last byte that was read. It is an error if the
// last operation was not a read that returned at least one byte.
func (b *Buffer) UnreadByte() error {
	if b.lastRead == opInvalid {
		return errUnreadByte
	}
	b.off = max(b.off-1, 0)
	b.lastRead = opInvalid
	return nil
}

// ReadBytes consumes the contents up to and including the first delim and
// returns a copy of them. If there is no delim, it returns all the contents
// and [io.EOF].
func (b *Buffer) ReadBytes(delim byte) (line []byte, err error) {
	p, err := b.readTo(delim)
	line = append(line, p...)
	runtime.KeepAlive(b)
	return line, err
}

// ReadString is [Buffer.ReadBytes] that returns a string.
func (b *Buffer) ReadString(delim byte) (line string, err error) {
	p, err := b.readTo(delim)
	line = string(p)
	runtime.KeepAlive(b)
	return line, err
}

// readTo consumes up to and including delim, or all. What it returns is part
// of the storage and must not reach a caller.
func (b *Buffer) readTo(delim byte) ([]byte, error) {
	b.check()
	p, err := b.buf[b.off:], io.EOF
	if i := bytes.IndexByte(p, delim); i >= 0 {
		p, err = p[:i+1], nil
	}
	start := b.off
	b.off += len(p)
	b.lastRead = opRead
	if passesStep(start, b.off) {
		b.trim(start) // p is still to be copied
	}
	return p, err
}
