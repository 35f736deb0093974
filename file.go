package mmapbuf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
)

// A File reads and writes the contents of a [Buffer] at an offset, as an
// [os.File] that is opened with [os.O_RDWR] does. It is for code that goes back
// to patch a header, or that needs an [io.ReadSeeker] or [io.WriteSeeker].
// [NewFile] makes one.
//
// # Files and their Buffer
//
// The contents belong to the Buffer, the offset to the File. Any number of Files
// can be made on a Buffer; each sees what is written through the others and
// through the Buffer. Close of a File leaves the Buffer and its memory alone.
// Close of the Buffer empties it; its Files stay open.
//
// Offset 0 is the first byte of the Buffer that is not yet consumed, as for
// [Buffer.ReadAt]. Reading through a File consumes nothing. Consuming n bytes
// from the Buffer takes the first n bytes away from all its Files, whose offsets
// stay as they are.
//
// A File keeps the address of its Buffer. When the Buffer is moved by value, a
// File made before goes on with the old copy; make a new one.
//
// # Concurrency
//
// ReadAt and WriteAt may run beside each other and beside those of the Buffer
// and of other Files, on other ranges, also when they lengthen the contents.
//
// Several goroutines, each with a File of its own, may read one Buffer at the
// same time (Read, Seek, ReadAt, WriteTo, Size), as long as nobody changes it.
//
// Everything else needs the File and its Buffer for itself.
//
// # Errors
//
// As with an os.File, an error is an [*fs.PathError], except for [io.EOF], for
// errors of the Reader or Writer that is passed to ReadFrom or WriteTo, and for
// [os.ErrInvalid], which the methods of a nil *File return. It wraps
//
//   - [os.ErrClosed] after Close,
//   - [os.ErrInvalid] if an offset, a size or a whence is out of range,
//   - [ErrTooLarge] if the contents would exceed MaxLen of the Buffer, or if
//     there is no memory.
//
// No method panics for lack of memory. No method allocates, except for errors,
// for the storage of the Buffer, and for the 64 KiB of the first ReadFrom.
type File struct {
	b     *Buffer // nil if closed
	off   int64   // of the next Read or Write, not negative
	chunk []byte  // for ReadFrom, if it was called, and not in use
}

// chunkSize is how many bytes ReadFrom moves at a time.
const chunkSize = 64 * kiB

var (
	errNegativeOffset = fmt.Errorf("negative offset: %w", os.ErrInvalid)
	errWriteCount     = errors.New("mmapbuf: WriteTo: invalid count from Write")
)

// NewFile returns a File on the contents of b, with offset 0. It copies
// nothing.
func NewFile(b *Buffer) *File { return &File{b: b} }

// buffer returns the Buffer of a File that is not closed.
func (f *File) buffer(op string) (*Buffer, error) {
	switch {
	case f == nil:
		return nil, os.ErrInvalid
	case f.b == nil:
		return nil, pathError(op, os.ErrClosed)
	}
	return f.b, nil
}

// bufferAt is buffer for ReadAt and WriteAt. It returns nil if there is nothing
// to do. As package os does, it looks at off and p first.
func (f *File) bufferAt(op string, p []byte, off int64) (*Buffer, error) {
	switch {
	case f == nil:
		return nil, os.ErrInvalid
	case off < 0:
		return nil, pathError(op+"at", errNegativeOffset)
	case len(p) == 0:
		return nil, nil
	}
	return f.buffer(op)
}

// pathError returns err, if it is not nil, the way package os does.
func pathError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &fs.PathError{Op: op, Path: "mmapbuf.File", Err: err}
}

// Close closes the File: from then on its methods return errors that wrap
// [os.ErrClosed], and so does a second Close. The Buffer keeps its contents and
// its memory; [Buffer.Close] frees that.
func (f *File) Close() error {
	if _, err := f.buffer("close"); err != nil {
		return err
	}
	f.b, f.chunk = nil, nil
	return nil
}

// Size returns the length of the contents in bytes: Len of the Buffer. It is 0
// after Close.
func (f *File) Size() int64 {
	b, err := f.buffer("stat")
	if err != nil {
		return 0
	}
	return int64(b.Len())
}

// Read copies up to len(p) bytes from the offset on to p, moves the offset by
// as many, and returns their number. It returns [io.EOF] if there are none,
// unless len(p) is 0.
func (f *File) Read(p []byte) (n int, err error) {
	b, err := f.buffer("read")
	if err != nil || len(p) == 0 {
		return 0, err
	}
	n, err = b.readAt(p, f.off)
	if n > 0 {
		f.off += int64(n)
		err = nil
	}
	return n, err
}

// ReadAt copies contents from offset off on to p and returns how many bytes that
// were, with [io.EOF] if they are fewer than len(p). It neither uses nor moves
// the offset of the File. See [Buffer.ReadAt].
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	b, err := f.bufferAt("read", p, off)
	if b == nil {
		return 0, err
	}
	n, err = b.ReadAt(p, off)
	return n, pathError("read", err)
}

// Write copies p over the contents from the offset on, moves the offset by
// len(p), and returns len(p). It lengthens the contents if they end before
// that. Bytes between their end and the offset become zero; if the storage is a
// mapping, whole pages of them (2 MiB, as a rule) take no memory.
//
// An error says why less was written. With MaxLen of the Buffer in the way,
// Write has written the first n bytes, those that fit. For lack of memory n is
// 0, and the contents are as before.
func (f *File) Write(p []byte) (n int, err error) {
	if f.atEnd(len(p)) {
		f.off += int64(len(p))
		return f.b.Write(p)
	}
	i, n, err := f.span(len(p))
	if n > 0 {
		f.b.put(i, p[:n])
	}
	return n, err
}

// WriteString is [File.Write] of the bytes of s.
func (f *File) WriteString(s string) (n int, err error) {
	if f.atEnd(len(s)) {
		f.off += int64(len(s))
		return f.b.WriteString(s)
	}
	i, n, err := f.span(len(s))
	if n > 0 {
		f.b.putString(i, s[:n])
	}
	return n, err
}

// atEnd reports whether the offset is at the end of the contents, and the Buffer
// has room for n bytes more: a write of the Buffer does it then, and cannot
// fail. It is small enough to be inlined.
func (f *File) atEnd(n int) bool {
	return f != nil && f.b != nil && f.off == int64(f.b.Len()) && f.b.fits(n)
}

// span makes n bytes from the offset on part of the contents, or as many as
// MaxLen allows, and moves the offset behind them. It returns where in the storage
// they begin and how many they are; err is not nil if they are fewer. They are
// the caller's to write.
func (f *File) span(n int) (i, got int, err error) {
	b, err := f.buffer("write")
	switch {
	case err != nil || n == 0:
		return 0, 0, err
	case f.off > int64(math.MaxInt-n):
		return 0, 0, pathError("write", ErrTooLarge)
	}
	pace(b.m)
	old, off := b.Len(), int(f.off)
	end := off + n
	if most := max(b.MaxLen, old); b.MaxLen > 0 && end > most {
		err = b.maxLenError(end - old)
		end = max(most, off)
	}
	got = end - off
	if got > 0 {
		if err := b.extendTo(off, end); err != nil {
			return 0, 0, pathError("write", err)
		}
		if end > old {
			b.prefault(b.off + max(off, old))
		}
		b.fill(got)
		f.off = int64(end)
	}
	return b.off + off, got, pathError("write", err)
}

// WriteAt copies p over the contents from offset off on, and lengthens them, as
// [Buffer.WriteAt] does: it returns len(p), or an error and 0, and has then
// changed nothing. It neither uses nor moves the offset of the File.
func (f *File) WriteAt(p []byte, off int64) (n int, err error) {
	b, err := f.bufferAt("write", p, off)
	if b == nil {
		return 0, err
	}
	n, err = b.WriteAt(p, off)
	return n, pathError("write", err)
}

// Seek sets the offset of the next Read or Write to offset, counted from the
// start ([io.SeekStart]), from the present offset ([io.SeekCurrent]) or from the
// end of the contents ([io.SeekEnd]), and returns it, counted from the start. It
// may be beyond the end: a Read there returns [io.EOF], and a Write leaves a gap.
// An offset before the start, and an unknown whence, are errors that wrap
// [os.ErrInvalid]; the offset stays then.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	b, err := f.buffer("seek")
	if err != nil {
		return 0, err
	}
	from := int64(-1)
	switch whence {
	case io.SeekStart:
		from = 0
	case io.SeekCurrent:
		from = f.off
	case io.SeekEnd:
		from = int64(b.Len())
	}
	if from < 0 || from+offset < 0 { // the sum is also negative if it overflows
		return 0, pathError("seek", os.ErrInvalid)
	}
	f.off = from + offset
	return f.off, nil
}

// Truncate makes the contents size bytes long. It lengthens them by zeros, of
// which whole pages of a mapping take no memory until they are written. It
// shortens them as [Buffer.Truncate] does: the storage stays, for later writes,
// and [Buffer.Shrink] frees it. The offset stays as well. An error, for a negative
// size, for MaxLen of the Buffer or for lack of memory, leaves the contents as
// they were.
func (f *File) Truncate(size int64) error {
	b, err := f.buffer("truncate")
	switch {
	case err != nil:
		return err
	case size < 0:
		return pathError("truncate", os.ErrInvalid)
	case size > math.MaxInt:
		return pathError("truncate", ErrTooLarge)
	case size <= int64(b.Len()):
		b.Truncate(int(size))
		return nil
	}
	pace(b.m)
	return pathError("truncate", b.extendTo(int(size), int(size)))
}

// ReadFrom writes what r delivers until it returns [io.EOF], as Write does, and
// returns the number of bytes written, with any other error of r or of a Write.
// r may use the Buffer. Data passes through a chunk of 64 KiB, which f keeps for
// the next time; if r is an [io.WriterTo], that is used instead.
func (f *File) ReadFrom(r io.Reader) (n int64, err error) {
	if _, err := f.buffer("write"); err != nil {
		return 0, err
	}
	p := f.chunk
	f.chunk = nil // r may call ReadFrom, too
	if p == nil {
		p = make([]byte, chunkSize)
	}
	defer func() { f.chunk = p }()
	return io.CopyBuffer(onlyWriter{f}, r, p)
}

// An onlyWriter is a File without its ReadFrom.
type onlyWriter struct{ f *File }

func (w onlyWriter) Write(p []byte) (int, error)       { return w.f.Write(p) }
func (w onlyWriter) WriteString(s string) (int, error) { return w.f.WriteString(s) }

// WriteTo writes the contents from the offset on to w, moves the offset by what
// w accepted, and returns how much that was, with any error of w. If w accepts
// less and reports no error, that is [io.ErrShortWrite].
//
// The contents are passed to w in one call, and not copied; as for every
// [io.Writer], w must not keep the slice. w may use the Buffer.
func (f *File) WriteTo(w io.Writer) (n int64, err error) {
	b, err := f.buffer("read")
	if err != nil || f.off >= int64(b.Len()) {
		return 0, err
	}
	of, m, err := b.lend(w, int(f.off))
	switch {
	case m < 0 || m > of:
		m = 0
		if err == nil {
			err = errWriteCount
		}
	case m < of && err == nil:
		err = io.ErrShortWrite
	}
	f.off += int64(m)
	return int64(m), err
}
