// Package mmapbuf has the type [Buffer], a [bytes.Buffer] for large data, and
// [File], which reads and writes a Buffer at an offset, as an [os.File] does.
//
// Contents of up to 1 MiB are in an ordinary Go slice. Larger ones are in an
// anonymous memory mapping, which mremap(2) grows and shrinks without copying.
// Filling gigabytes costs little more than writing them once, and the memory in
// use is the size of the contents, not two or three times that.
//
// # Lifetime
//
// A Buffer needs no Close. Its mapping is unmapped when the collector finds it
// unreachable; [Buffer.Close] does that sooner. Slices that a Buffer returns
// ([Buffer.Bytes], [Buffer.Next], [Buffer.Peek], [Buffer.AvailableBuffer]) are
// memory of the Go heap, which lives for as long as they are held: the first of
// these calls moves the contents there, by page table if they are large.
//
// # Concurrency
//
// As with bytes.Buffer, methods that change a Buffer must not run at the same
// time as any other. Methods that only look at it may run at once, in any number
// of goroutines: Bytes, Peek, AvailableBuffer, String, Len, Cap, Available and
// ReadAt. They may also be called by the Reader of [Buffer.ReadFrom] and by the
// Writer of [Buffer.WriteTo]. WriteAt may run at the same time as ReadAt and
// WriteAt on other ranges. See [File] for what holds of Files.
//
// # Copies
//
// A Buffer may be moved by value: returned, sent through a channel, kept in
// structs, slices and maps. If both of two copies are used, they share their
// contents, as copies of a bytes.Buffer do, until one of them moves or frees the
// storage; the other then panics when it is used.
//
// # Memory accounting
//
// Mappings are not part of the Go heap. The package starts a collection when as
// much has been written to them since the last one, and not closed, as GOGC or
// the memory limit would allow a program to allocate. See [Stats].
//
// # Platforms
//
// Where there is no mremap(2) (other systems than Linux, 32-bit machines,
// builds with the tag nommap) a Buffer does the same on Go slices alone.
package mmapbuf

import (
	"bytes"
	"errors"
	"io"
)

// A Buffer is a variable-sized buffer of bytes with all the methods of
// [bytes.Buffer], meant for contents from megabytes up to what the machine
// has. The zero value is an empty Buffer ready to use.
//
// A Buffer may be moved by value, and looked at by several goroutines at once;
// the package documentation says what holds. It is otherwise not safe for
// concurrent use.
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

	lastRead readOp   // what UnreadByte and UnreadRune may take back
	gen      uint32   // of m, as far as buf and off are about it; 0 if there is none
	buf      []byte   // contents are buf[off:len(buf)]; storage is Go memory, or m.mem up to where it is in use
	off      int      // read at &buf[off], write at &buf[len(buf)]
	m        *mapping // owns the storage, if it is not Go memory, or did until it was published
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
)

// NewBuffer returns a Buffer whose contents are buf. The Buffer owns buf from
// then on: it reads it, writes into its spare capacity, and leaves it behind
// when it grows. The caller should not use buf any more.
//
// In most cases new(Buffer), or declaring a Buffer, is all that is needed.
func NewBuffer(buf []byte) *Buffer { return &Buffer{buf: buf} }

// NewBufferString returns a Buffer whose contents are a copy of s.
func NewBufferString(s string) *Buffer { return &Buffer{buf: []byte(s)} }

// Bytes returns the contents, a slice of Len bytes. The slice is valid until
// the next method that changes the Buffer, as with [bytes.Buffer]; until then
// changes made through it are changes of the contents. Its memory belongs to
// the Go heap: kept longer, it holds old contents or newer ones, but never
// becomes invalid.
//
// The first call after a large Buffer has grown moves the contents to the Go
// heap: contents of up to 4 MiB are copied, the pages of larger ones are moved
// by mremap(2). Growth after that copies the contents once, as in bytes.Buffer.
// Bytes panics, with an error that wraps ErrTooLarge and with the contents
// intact, if the heap cannot have that much memory.
func (b *Buffer) Bytes() []byte {
	if b.m != nil {
		return b.published()
	}
	return b.unread()
}

// AvailableBuffer returns an empty slice with a capacity of Available bytes,
// to be appended to and then passed to the next Write. It is valid until that
// write; see [Buffer.Bytes] for its memory and for when it panics.
func (b *Buffer) AvailableBuffer() []byte {
	if b.m != nil {
		return b.spare()
	}
	return b.unread()[b.Len():]
}

// Peek returns the next n bytes without consuming them, or with [io.EOF] all
// that there are if they are fewer. The slice is valid until the next read or
// write; see [Buffer.Bytes] for its memory and for when it panics. Where there
// is no memory for a view of everything, the slice is a copy.
func (b *Buffer) Peek(n int) ([]byte, error) {
	if b.m != nil {
		return b.peek(n)
	}
	p := b.unread()
	if n > len(p) {
		return p, io.EOF
	}
	return p[:n], nil
}

// Next consumes the next n bytes, or all that there are if they are fewer, and
// returns them. The slice is valid until the next read or write; see
// [Buffer.Peek] for its memory and [Buffer.Bytes] for when it panics.
func (b *Buffer) Next(n int) []byte {
	b.lastRead = opInvalid // also if n is negative, and this panics
	n = min(n, b.Len())
	var p []byte
	if b.m != nil {
		p = b.viewOf(n)
		b.settle()
	} else {
		p = b.unread()[:n]
	}
	b.off += n
	if n > 0 {
		b.lastRead = opRead
	}
	return p
}

// String returns a copy of the contents as a string, and "<nil>" if b is nil.
func (b *Buffer) String() (s string) {
	if b == nil {
		return "<nil>"
	}
	b.look(func(contents []byte) { s = string(contents) })
	return s
}

// Len returns the number of bytes not yet consumed: the length of the
// contents.
func (b *Buffer) Len() int { return len(b.buf) - b.off }

// Cap returns the number of bytes of the Buffer's storage, consumed bytes
// included. Of a mapping only the part that has been written takes memory.
func (b *Buffer) Cap() int {
	if b.m != nil {
		return int(b.m.size.Load())
	}
	return cap(b.buf)
}

// Available returns how many bytes can be written before the Buffer grows.
func (b *Buffer) Available() int { return b.Cap() - len(b.buf) }

// Truncate keeps the first n bytes of the contents and drops the rest. The
// storage stays. It panics if n is negative or greater than Len.
func (b *Buffer) Truncate(n int) {
	b.settle()
	if n == 0 {
		b.rewind()
		return
	}
	b.lastRead = opInvalid
	if n < 0 || n > b.Len() {
		panic(panicTruncate)
	}
	b.setEnd(b.off + n)
}

// Reset empties the Buffer. The storage stays, for later writes; [Buffer.Close]
// gives it back.
func (b *Buffer) Reset() {
	b.settle()
	b.rewind()
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

// fits reports whether n more bytes take no more than to move the end of the
// contents. It is small enough to be inlined.
func (b *Buffer) fits(n int) bool {
	return n <= cap(b.buf)-len(b.buf) && b.MaxLen <= 0 && b.current()
}

// extend lengthens the contents by n bytes, or by as many as MaxLen leaves,
// growing the storage if it must. It returns where they begin and how many they
// are; err is not nil if they are fewer than n. It panics where memory is
// lacking.
func (b *Buffer) extend(n int) (i, got int, err error) {
	pace(b.m)
	b.settle()
	got = n
	if room := b.roomToMax(); n > room {
		got, err = room, b.maxLenError(n)
	}
	if e := b.grow(got); e != nil {
		panic(e)
	}
	b.open(got)
	i = len(b.buf)
	b.setEnd(i + got)
	return i, got, err
}

// Write appends p to the contents. It returns len(p) and nil unless MaxLen is
// in the way, and panics with ErrTooLarge or an error that wraps it if there
// is no memory; the contents are then as before.
func (b *Buffer) Write(p []byte) (n int, err error) {
	b.lastRead = opInvalid
	if b.fits(len(p)) {
		i := len(b.buf)
		b.setEnd(i + len(p))
		b.prefault(i)
		b.put(i, p)
		return len(p), nil
	}
	i, n, err := b.extend(len(p))
	b.prefault(i)
	b.put(i, p[:n])
	return n, err
}

// WriteString appends s to the contents; see [Buffer.Write].
func (b *Buffer) WriteString(s string) (n int, err error) {
	b.lastRead = opInvalid
	if b.fits(len(s)) {
		i := len(b.buf)
		b.setEnd(i + len(s))
		b.putString(i, s)
		return len(s), nil
	}
	i, n, err := b.extend(len(s))
	b.putString(i, s[:n])
	return n, err
}

// WriteByte appends c to the contents; see [Buffer.Write].
func (b *Buffer) WriteByte(c byte) error {
	b.lastRead = opInvalid
	if b.appendByte(c) {
		return nil
	}
	i, n, err := b.extend(1)
	if n == 1 {
		b.put(i, []byte{c})
	}
	return err
}

// ReadFrom appends what r delivers until it returns [io.EOF], and returns the
// number of bytes appended, with any other error of r. It panics if r returns
// a negative count, and where Write would for want of memory.
//
// With MaxLen set, ReadFrom stores what fits. A Reader that has more is an
// error that wraps ErrTooLarge; to tell, ReadFrom takes one byte more from it.
func (b *Buffer) ReadFrom(r io.Reader) (n int64, err error) {
	b.settle()
	b.lastRead = opInvalid
	for {
		pace(b.m)
		room := b.roomToMax()
		if room == 0 {
			return n, b.readEnd(r)
		}
		if err := b.room(min(MinRead, room)); err != nil {
			panic(err)
		}
		b.open(min(b.Available(), room, maxRead))
		i := len(b.buf)
		m, err := b.readInto(r, i, i+min(cap(b.buf)-i, room, maxRead))
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
// may use all of it as scratch space, and what it writes to becomes memory.
const maxRead = 8 << 20

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
// The contents are handed to w in one call, and not copied; as for every
// [io.Writer], w must not keep the slice. If w itself consumes contents, or
// closes the Buffer, what it has consumed is not consumed again.
func (b *Buffer) WriteTo(w io.Writer) (n int64, err error) {
	b.settle()
	b.lastRead = opInvalid
	if b.Len() > 0 {
		start := b.off
		m, err := b.writeOut(w)
		if err != nil {
			b.trimFrom(start)
			return int64(m), err
		}
		n = int64(m)
	}
	b.rewind()
	return n, nil
}

// Read consumes up to len(p) bytes, copying them to p, and returns their
// number. It returns [io.EOF] if the Buffer is empty, unless len(p) is 0.
func (b *Buffer) Read(p []byte) (n int, err error) {
	b.settle()
	b.lastRead = opInvalid
	start := b.off
	if start >= len(b.buf) {
		b.rewind() // the consumed bytes are room again
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n = b.get(p)
	b.off = start + n
	if n > 0 {
		b.lastRead = opRead
	}
	b.trimFrom(start)
	return n, nil
}

// trimFrom is called after bytes from offset start on have been consumed: when
// there is a multiple of trimStep, a power of two, between it and off, the
// consumed prefix is to be trimmed.
func (b *Buffer) trimFrom(start int) {
	if start^b.off >= trimStep {
		b.trim()
	}
}

// ReadByte consumes and returns the next byte, or returns [io.EOF] if there is
// none.
func (b *Buffer) ReadByte() (byte, error) {
	b.settle()
	i := b.off
	if uint(i) >= uint(len(b.buf)) {
		b.rewind()
		return 0, io.EOF
	}
	c := b.at(i)
	b.off = i + 1
	b.lastRead = opRead
	return c, nil
}

// ReadRune consumes the next rune and returns it with its size in bytes, or
// returns [io.EOF] if there is none. A byte that is not valid UTF-8 is
// consumed alone and returned as U+FFFD with size 1.
func (b *Buffer) ReadRune() (r rune, size int, err error) {
	b.settle()
	if b.off >= len(b.buf) {
		b.rewind()
		return 0, 0, io.EOF
	}
	r, size = b.rune()
	b.off += size
	b.lastRead = readOp(size)
	return r, size, nil
}

// UnreadRune takes back the rune that ReadRune returned. It is an error if the
// last operation was not a ReadRune that returned one.
func (b *Buffer) UnreadRune() error {
	if b.lastRead <= opInvalid {
		return errUnreadRune
	}
	if n := int(b.lastRead); b.off >= n { // else growth has dropped what was read
		b.off -= n
	}
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
	n, err := b.find(delim)
	line = b.clone(n)
	start := b.off
	b.off = start + n
	b.lastRead = opRead
	b.trimFrom(start)
	return line, err
}

// ReadString is [Buffer.ReadBytes] that returns a string.
func (b *Buffer) ReadString(delim byte) (line string, err error) {
	n, err := b.find(delim)
	line = b.cloneString(n)
	start := b.off
	b.off = start + n
	b.lastRead = opRead
	b.trimFrom(start)
	return line, err
}
