package mmapbuf

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"sync/atomic"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// A File is a file in memory: it reads and writes the contents of a [Buffer] at an
// offset, as an [os.File] opened with [os.O_RDWR] does. It is intended for code
// that seeks, for example to update a header, or that requires an [io.ReadSeeker]
// or [io.WriteSeeker]. [NewFile] creates a File; the zero File is closed.
//
// # Files and their Buffer
//
// A File has only an offset; the contents are those of its Buffer. A Buffer can
// have any number of Files. Each sees what is written through the others and
// through the Buffer. Closing a File does not affect the Buffer. Closing the
// Buffer empties it; its Files stay open.
//
// Offset 0 is the first unread byte of the Buffer, as for [Buffer.ReadAt].
// Reading through a File consumes nothing. If n bytes are consumed from the
// Buffer, offset 0 of its Files moves forward by n bytes; the offsets of the
// Files do not change.
//
// A gap that Write, WriteAt or Truncate leaves between the old end of the
// contents and the new reads as zero. Whole pages of it in a mapping use no
// memory until they are written.
//
// A File holds a pointer to its Buffer. If the Buffer is moved by value, the
// File still refers to the old copy.
//
// # Concurrency
//
// ReadAt and WriteAt may run concurrently with ReadAt and WriteAt of the same
// File, of other Files and of the Buffer, on ranges that do not overlap, even
// if they extend the contents.
//
// Goroutines that each have their own File may read the same Buffer
// concurrently (Read, Seek, ReadAt, WriteTo, Size, Len), also together with the
// methods of Buffer that do not modify it, as long as nothing modifies the
// Buffer, except that it may be closed: reading then ends with what was found,
// or with io.EOF. So the body of an HTTP request may be a File of a Buffer that
// is closed when the request returns. All other concurrent use requires
// synchronization.
//
// # Errors
//
// Errors are of type [*fs.PathError], as those of an os.File are, except
// [io.EOF], the errors of a Reader or Writer passed to ReadFrom or WriteTo,
// [io.ErrShortWrite] and the error for an invalid count from WriteTo, and
// [os.ErrInvalid] from a nil *File. A PathError wraps
//
//   - [os.ErrClosed] after Close,
//   - [os.ErrInvalid] if an offset, a size or a whence is out of range,
//   - [ErrTooLarge] if the contents would exceed MaxLen or Limit of the Buffer, or
//     if there is not enough memory.
//
// No method panics with ErrTooLarge. Apart from errors, methods allocate only
// the storage of the Buffer, a buffer of 64 KiB in ReadFrom, and what WriteTo
// needs.
type File struct {
	b   atomic.Pointer[Buffer] // nil if closed; Close may run beside other methods
	off int64                  // offset of the next Read or Write, not negative
}

// chunkSize is the number of bytes that ReadFrom copies at a time.
const chunkSize = 64 * vm.KiB

var (
	errNegativeOffset = fmt.Errorf("negative offset: %w", os.ErrInvalid)
	errWriteCount     = errors.New("mmapbuf: WriteTo: invalid count from Write")
)

// NewFile returns a File for the contents of b, with offset 0. The contents are
// not copied.
func NewFile(b *Buffer) *File {
	f := new(File)
	f.b.Store(b)
	return f
}

// buffer returns the Buffer of f, or an error if f is nil or closed.
func (f *File) buffer(op string) (*Buffer, error) {
	if f == nil {
		return nil, os.ErrInvalid
	}
	b := f.b.Load()
	if b == nil {
		return nil, pathError(op, os.ErrClosed)
	}
	return b, nil
}

// bufferAt is buffer for ReadAt and WriteAt. It returns nil if there is nothing
// to do. Like package os, it checks off and p first.
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

// pathError returns err as an fs.PathError, unless it is nil or io.EOF.
func pathError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &fs.PathError{Op: op, Path: "mmapbuf.File", Err: err}
}

// Close closes the File. It returns an error if the File is already closed. As
// with an os.File, it may run concurrently with other methods.
//
// Subsequent operations return errors that wrap [os.ErrClosed], except that Size
// and Len return 0 and, as with an os.File, ReadAt and WriteAt check their
// arguments first, and ReadFrom reads first. The Buffer keeps its contents and
// its memory, which [Buffer.Close] releases.
func (f *File) Close() error {
	if f == nil {
		return os.ErrInvalid
	}
	if f.b.Swap(nil) == nil {
		return pathError("close", os.ErrClosed)
	}
	return nil
}

// Size returns the length of the contents in bytes, the Len of the Buffer. It
// returns 0 after Close.
func (f *File) Size() int64 {
	b, err := f.buffer("stat")
	if err != nil {
		return 0
	}
	return int64(b.lenBesideClose())
}

// Len returns the number of bytes between the offset and the end of the
// contents, as the Len of a [bytes.Reader] does. It returns 0 after Close, and
// if the offset is at or beyond the end. HTTP clients use it to determine the
// length of a request body.
func (f *File) Len() int {
	size := f.Size()
	if size <= 0 || f.off >= size {
		return 0
	}
	return int(size - f.off)
}

// Read copies up to len(p) bytes from the offset to p, advances the offset, and
// returns the number of bytes copied. If the offset is at or beyond the end of
// the contents and len(p) is not 0, it returns 0 and [io.EOF].
func (f *File) Read(p []byte) (n int, err error) {
	b, err := f.buffer("read")
	if err != nil || len(p) == 0 {
		return 0, err
	}
	n, err = b.ReadAt(p, f.off)
	if n > 0 {
		f.off += int64(n)
		err = nil
	}
	return n, pathError("read", err)
}

// ReadAt copies contents to p, beginning at off, and returns the number of
// bytes copied, and [io.EOF] if that is less than len(p). It does not use or
// change the offset of the File. See [Buffer.ReadAt].
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	b, err := f.bufferAt("read", p, off)
	if b == nil {
		return 0, err
	}
	n, err = b.ReadAt(p, off)
	return n, pathError("read", err)
}

// Write overwrites the contents with p at the offset, extends them if
// necessary, advances the offset by len(p), and returns len(p).
//
// If p does not fit within MaxLen or Limit of the Buffer, Write writes as much as
// fits, and returns how much that is and an error. If there is not enough memory,
// Write returns 0 and an error, and the contents are unchanged.
func (f *File) Write(p []byte) (n int, err error) {
	if b := f.appendable(len(p)); b != nil {
		n, err = b.Write(p)
		f.off += int64(n)
		return n, err
	}
	return writeAtOffset(f, p)
}

// WriteString writes the bytes of s as [File.Write] does.
func (f *File) WriteString(s string) (n int, err error) {
	if b := f.appendable(len(s)); b != nil {
		n, err = b.WriteString(s)
		f.off += int64(n)
		return n, err
	}
	return writeAtOffset(f, s)
}

// appendable returns the Buffer if the offset is at the end of its contents and it
// has room for n more bytes, so that Buffer.Write can append them and cannot
// fail; otherwise it returns nil.
func (f *File) appendable(n int) *Buffer {
	if f == nil {
		return nil
	}
	b := f.b.Load()
	if b == nil || f.off != int64(b.Len()) || n > min(b.buf.Cap-b.buf.Len, b.roomToMax()) || !b.current() {
		return nil
	}
	return b
}

// writeAtOffset writes p, or as much of it as MaxLen allows, at the offset, and
// advances the offset. It returns the number of bytes written, and an error if
// they are fewer than len(p).
func writeAtOffset[T []byte | string](f *File, p T) (n int, err error) {
	b, err := f.buffer("write")
	switch {
	case err != nil || len(p) == 0:
		return 0, err
	case f.off > int64(math.MaxInt-len(p)):
		return 0, pathError("write", ErrTooLarge)
	}
	old, off := b.Len(), int(f.off)
	end := off + len(p)
	if most := max(b.MaxLen, old); b.MaxLen > 0 && end > most {
		err = b.maxLenError(end - old)
		end = max(most, off)
	}
	if n = end - off; n > 0 {
		p = p[:n]
		b.paceFor(end - old)
		written, full := extendLocked(b, off, end, p)
		if full != nil {
			n = 0
			if isLimit(full) {
				if room := old + b.roomInLimit() - off; 0 < room && room < len(p) {
					n, _ = writeAtOffset(f, p[:room])
				}
			}
			return n, pathError("write", full)
		}
		if !written {
			put(b, off, p)
		}
		f.off = int64(end)
	}
	return n, pathError("write", err)
}

// WriteAt overwrites the contents with p, beginning at off, and extends them if
// necessary, as [Buffer.WriteAt] does. It returns len(p), or 0 and an error
// with the contents unchanged. It does not use or change the offset of the
// File.
func (f *File) WriteAt(p []byte, off int64) (n int, err error) {
	b, err := f.bufferAt("write", p, off)
	if b == nil {
		return 0, err
	}
	n, err = b.WriteAt(p, off)
	return n, pathError("write", err)
}

// Seek sets the offset for the next Read or Write. It is relative to the start
// of the contents ([io.SeekStart]), to the current offset ([io.SeekCurrent]) or
// to the end of the contents ([io.SeekEnd]). Seek returns the new offset
// relative to the start. Seeking beyond the end is allowed: Read then returns
// [io.EOF], and Write leaves a gap. Seeking before the start, or with an unknown
// whence, returns an error that wraps [os.ErrInvalid] and does not change the
// offset.
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
		from = int64(b.lenBesideClose())
	}
	if from < 0 || from+offset < 0 { // the sum is also negative if it overflows
		return 0, pathError("seek", os.ErrInvalid)
	}
	f.off = from + offset
	return f.off, nil
}

// Truncate sets the length of the contents to size bytes. It does not change
// the offset. If the contents become shorter, the storage is kept, as by
// [Buffer.Truncate]; [Buffer.Shrink] releases it. Truncate returns an error, and
// the contents are unchanged, if size is negative, exceeds MaxLen or Limit of the
// Buffer, or requires more memory than there is.
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
		if err := b.tryRefresh(); err != nil {
			return pathError("truncate", err)
		}
		b.Truncate(int(size))
		return nil
	}
	b.paceFor(int(size) - b.Len())
	_, err = extendLocked(b, int(size), int(size), "")
	return pathError("truncate", err)
}

// ReadFrom writes data from r to f, as Write does, until r returns [io.EOF]. It
// returns the number of bytes written and any error of Write, or of r other
// than io.EOF. If r is an [io.WriterTo], ReadFrom uses its WriteTo; otherwise it
// copies the data in chunks of 64 KiB. r may use the Buffer.
func (f *File) ReadFrom(r io.Reader) (n int64, err error) {
	if f == nil {
		return 0, os.ErrInvalid
	}
	var p []byte
	if _, ok := r.(io.WriterTo); !ok {
		p = make([]byte, chunkSize) // for this call: r may keep it
	}
	return io.CopyBuffer(onlyWriter{f}, r, p)
}

// directMax is the number of bytes, at most, that WriteTo gives to w while it holds
// the lock of the mapping, for which Close and the first view wait.
const directMax = 4 * vm.MiB

// An onlyWriter is a File without its ReadFrom.
type onlyWriter struct{ f *File }

func (w onlyWriter) Write(p []byte) (int, error)       { return w.f.Write(p) }
func (w onlyWriter) WriteString(s string) (int, error) { return w.f.WriteString(s) }

// WriteTo writes the contents from the offset to the end to w. It advances the
// offset by the number of bytes that w accepts, and returns that number and any
// error of w. If w accepts fewer bytes without reporting an error, WriteTo
// returns [io.ErrShortWrite]. If w returns a count that is negative or too
// large, WriteTo returns an error.
//
// w gets what a Writer gets from [Buffer.WriteTo], at the same cost, except that
// the memory of a mapping is written in parts of 4 MiB, and that network
// connections, pipes and terminals get a view: others may want to use the Buffer
// while a call of Write waits. w should not modify the Buffer. If the
// Buffer is closed meanwhile, WriteTo returns the number of bytes that it has
// written before.
func (f *File) WriteTo(w io.Writer) (n int64, err error) {
	b, err := f.buffer("read")
	if err != nil {
		return 0, err
	}
	now := b.snapshot()
	if f.off >= int64(now.Len()) {
		return 0, nil
	}
	most := 0
	if now.m != nil && direct(w) && !mayWait(w) {
		most = directMax
	}
	total, m, err := now.writeOut(w, int(f.off), most)
	if err == errStale {
		if b.snapshot().m != now.m { // closed meanwhile
			f.off += int64(m)
			return int64(m), nil
		}
		err = pathError("read", errStale)
	}
	switch {
	case m < 0 || m > total:
		m = 0
		if err == nil {
			err = errWriteCount
		}
	case m < total && err == nil:
		err = io.ErrShortWrite
	}
	f.off += int64(m)
	return int64(m), err
}
