// Package spool provides [File], a temporary file whose contents are in memory
// as long as they are small, and in a file without a name on disk once they are
// large. It is intended for data of unknown size that usually fits in memory,
// such as uploads, and corresponds to SpooledTemporaryFile in Python.
//
//	f := spool.New(&mmapbuf.Buffer{MaxLen: 64 << 20}, "/var/tmp")
//	defer f.Close()
//	_, err := io.Copy(f, r)
package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"reflect"
	"sync"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// A File is a temporary file. It reads, writes and seeks as a [mmapbuf.File] and
// an [os.File] do. [New] creates a File; the zero File is closed. A File must
// not be copied.
//
// # Rollover
//
// The contents of a File are in a [mmapbuf.Buffer] at first. When the Buffer
// refuses to become larger, because of its MaxLen or its Limit or because there is
// not enough memory, the File creates a temporary file on disk, writes the contents
// to it in order, closes the Buffer, and continues with the file on disk. This is the
// rollover. It happens at most once, within the Write, WriteAt, Truncate or
// ReadFrom that needs it, or in [File.Rollover]. It takes as long as writing the
// contents to the file system; other calls wait for it. Offsets, contents and
// results of methods are the same before and after it. Afterwards, the File
// uses a file descriptor, each call that reads or writes is a system call, and
// contents may exceed the address space of a 32-bit machine.
//
// If the rollover fails, for example because the disk is full, the call returns
// the error of the file system. The contents remain in memory, and the File
// remains usable. The next call that requires a rollover tries again, and writes
// all of the contents again.
//
// # The file on disk
//
// The file on disk has no name, so nothing is left of it after Close, or after
// the program ends or is killed. On Linux it never has a name, if the file system
// supports that (open(2), O_TMPFILE). Otherwise it is created with a random
// name, which is removed before anything is written; a program that is killed
// between these two steps leaves an empty file. Windows and Plan 9 cannot remove
// an open file; there, the file has a name, and the system removes the file when
// it is closed. Only the user that runs the program may open it.
//
// [New] sets its directory. Some systems keep /tmp, the default on Unix, in
// memory (tmpfs). Rolling over to it does not save memory; /var/tmp is usually on
// disk.
//
// # Concurrency
//
// ReadAt, WriteAt, Truncate, Size, Rollover and Close may run concurrently with
// each other and with one other method, if ReadAt and WriteAt are called for
// ranges that do not overlap, and nothing modifies the contents during WriteTo.
// Methods that use the offset (Read, Write, WriteString, Seek, Len, ReadFrom,
// WriteTo) must not run concurrently with each other. ReadAt and WriteAt run in
// parallel, unless one of them extends the contents of the Buffer or causes the
// rollover. Close waits for calls that read or write, but not for a Reader or
// Writer.
//
// # Errors
//
// Errors are those of a [mmapbuf.File], except that no method returns
// [mmapbuf.ErrTooLarge]: of type [*fs.PathError] except [io.EOF], the errors of
// a Reader or Writer passed to ReadFrom or WriteTo, [io.ErrShortWrite], the error
// for an invalid count from Write, and [os.ErrInvalid] from a nil *File. A
// PathError wraps
//
//   - [os.ErrClosed] after Close,
//   - [os.ErrInvalid] if an offset, a size or a whence is out of range,
//   - otherwise, the error of the file system.
type File struct {
	// mu is held for reading while the contents are read or written, and for
	// writing while they are moved, cut or closed. It is not held during calls
	// of Readers and Writers, which may use the File.
	mu   sync.RWMutex
	b    *mmapbuf.Buffer // contents before the rollover; nil after it and after Close
	mem  *mmapbuf.File   // of b; nil if b is
	disk *os.File        // contents after the rollover; nil before it and after Close

	dir string // for disk; if empty, os.TempDir()
	off int64  // offset of the next Read or Write, not negative; mem has another
	pos int64  // offset of disk, which Write and WriteTo use; -1 if unknown
}

// chunkSize is the number of bytes that ReadFrom copies at a time.
const chunkSize = 64 << 10

var errNegativeOffset = fmt.Errorf("negative offset: %w", os.ErrInvalid)

// New returns a File with the contents of b and offset 0. The fields of b
// determine how much the File keeps in memory: MaxLen is the maximum length in
// bytes, and Limit bounds what a number of Files and Buffers keep together; without
// these, the contents are moved to disk only if memory is refused. Contents of b that
// already exceed MaxLen stay in memory until they are extended.
//
// While one File moves to disk, it uses its share of a Limit, and others that grow at
// the same time move to disk as well.
//
// The File owns b until Close: the caller must not use b while the File is open.
// Both the rollover and Close close b. After Close, once no other method of the
// File is running, b is empty and can be used again.
//
// The file on disk is created in the directory dir, or in [os.TempDir] if dir is
// empty. New itself does not access the file system; if dir does not exist, the
// rollover fails.
func New(b *mmapbuf.Buffer, dir string) *File {
	f := &File{b: b, dir: dir}
	if b != nil {
		f.mem = mmapbuf.NewFile(b)
	}
	return f
}

func pathError(op string, err error) error {
	return &fs.PathError{Op: op, Path: "spool.File", Err: err}
}

// Close closes the File and releases its memory or removes its file on disk. It
// returns an error if the File is already closed. Subsequent operations return
// errors that wrap [os.ErrClosed], except that Size and Len return 0 and, as with
// an os.File, ReadAt and WriteAt check their arguments first, and ReadFrom reads
// first.
func (f *File) Close() error {
	if f == nil {
		return os.ErrInvalid
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	b, disk := f.b, f.disk
	f.b, f.mem, f.disk = nil, nil, nil
	switch {
	case disk != nil:
		return disk.Close()
	case b == nil:
		return pathError("close", os.ErrClosed)
	}
	if err := b.Close(); err != nil {
		return pathError("close", err)
	}
	return nil
}

// Rollover moves the contents to disk, if they are still in memory. It is
// intended for programs that want to find out early whether the disk has room,
// or to release the memory of the Buffer. If Rollover returns an error, the
// contents are unchanged.
func (f *File) Rollover() error {
	if f == nil {
		return os.ErrInvalid
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.rollover()
}

// rollover is Rollover. The caller holds mu for writing.
func (f *File) rollover() error {
	switch {
	case f.disk != nil:
		return nil
	case f.b == nil:
		return pathError("rollover", os.ErrClosed)
	}
	dir := f.dir
	if dir == "" {
		dir = os.TempDir()
	}
	disk, err := createTemp(dir)
	if err != nil {
		return err
	}
	// WriteTo of a File consumes nothing: if it fails, b is as it was.
	if _, err := mmapbuf.NewFile(f.b).WriteTo(disk); err != nil {
		_ = disk.Close()
		return err
	}
	_ = f.b.Close() // it is empty, even if its memory could not be released
	f.b, f.mem, f.disk, f.pos = nil, nil, disk, -1
	return nil
}

// Size returns the length of the contents in bytes. It returns 0 after Close.
func (f *File) Size() int64 {
	if f == nil {
		return 0
	}
	size, _ := f.size("stat")
	return size
}

// size is Size. It returns an error if f is closed.
func (f *File) size(op string) (int64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	switch {
	case f.mem != nil:
		return f.mem.Size(), nil
	case f.disk == nil:
		return 0, pathError(op, os.ErrClosed)
	}
	info, err := f.disk.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Len returns the number of bytes between the offset and the end of the
// contents, as the Len of a [bytes.Reader] does, or the largest int if that is
// less. It returns 0 after Close, and if the offset is at or beyond the end.
func (f *File) Len() int {
	size := f.Size()
	if size == 0 || f.off >= size {
		return 0
	}
	return int(min(size-f.off, math.MaxInt))
}

// Read copies up to len(p) bytes from the offset to p, advances the offset, and
// returns the number of bytes copied. If the offset is at or beyond the end of
// the contents and len(p) is not 0, it returns 0 and [io.EOF].
func (f *File) Read(p []byte) (n int, err error) {
	if f == nil {
		return 0, os.ErrInvalid
	}
	n, err = f.readAt(p, f.off)
	if n > 0 {
		f.off += int64(n)
		err = nil
	}
	return n, err
}

// ReadAt copies contents to p, beginning at off, and returns the number of
// bytes copied, and [io.EOF] if that is less than len(p). It does not use or
// change the offset of the File.
func (f *File) ReadAt(p []byte, off int64) (n int, err error) {
	switch {
	case f == nil:
		return 0, os.ErrInvalid
	case off < 0:
		return 0, pathError("readat", errNegativeOffset)
	case len(p) == 0:
		return 0, nil
	}
	return f.readAt(p, off)
}

// readAt is ReadAt without the checks.
func (f *File) readAt(p []byte, off int64) (n int, err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	switch {
	case f.mem != nil:
		return f.mem.ReadAt(p, off)
	case f.disk == nil:
		return 0, pathError("read", os.ErrClosed)
	}
	n, err = f.disk.ReadAt(p, off)
	if n == 0 && err != nil {
		// The offset may be one that no file can have. That is not an error.
		if info, e := f.disk.Stat(); e == nil && off >= info.Size() {
			err = io.EOF
		}
	}
	return n, err
}

// Write overwrites the contents with p at the offset, extends them if
// necessary, advances the offset by the number of bytes written, and returns
// that number. If it is less than len(p), Write also returns an error: if the
// rollover fails, Write has written as much of p as the Buffer takes, and after
// the rollover, as much as the file on disk takes, as with an os.File.
func (f *File) Write(p []byte) (n int, err error) {
	if f == nil {
		return 0, os.ErrInvalid
	}
	n, err = f.write(p)
	if errors.Is(err, mmapbuf.ErrTooLarge) {
		if err = f.Rollover(); err == nil {
			var more int
			more, err = f.write(p[n:])
			n += more
		}
	}
	return n, err
}

// write is Write to where the contents are. Unlike WriteAt of a mmapbuf.File and
// of an os.File, Write appends quickly, and counts what is written before an
// error occurs.
func (f *File) write(p []byte) (n int, err error) {
	f.mu.Lock() // a Buffer may not be read while Write appends to it
	defer f.mu.Unlock()
	switch {
	case f.mem != nil:
		_, _ = f.mem.Seek(f.off, io.SeekStart)
		n, err = f.mem.Write(p)
	case f.disk == nil:
		return 0, pathError("write", os.ErrClosed)
	case len(p) > 0: // at any offset
		if f.pos != f.off {
			_, err = f.disk.Seek(f.off, io.SeekStart)
		}
		if err == nil {
			n, err = f.disk.Write(p)
			f.pos = f.off + int64(n)
		}
	}
	f.off += int64(n)
	return n, err
}

// WriteString writes the bytes of s as [File.Write] does.
func (f *File) WriteString(s string) (n int, err error) {
	return f.Write(vm.StringBytes(s)) // Write neither modifies nor keeps it
}

// WriteAt overwrites the contents with p, beginning at off, and extends them if
// necessary. Bytes between their old end and off are zero. WriteAt returns
// len(p), or a smaller number and an error. If the rollover fails, the contents are
// unchanged; if a write to the file on disk fails, some of p may be written that
// is not counted, as with an os.File. WriteAt does not use or change the offset of
// the File.
func (f *File) WriteAt(p []byte, off int64) (n int, err error) {
	switch {
	case f == nil:
		return 0, os.ErrInvalid
	case off < 0:
		return 0, pathError("writeat", errNegativeOffset)
	case len(p) == 0:
		return 0, nil
	}
	n, err = f.writeAt(p, off)
	if errors.Is(err, mmapbuf.ErrTooLarge) {
		if err = f.Rollover(); err == nil {
			n, err = f.writeAt(p, off)
		}
	}
	return n, err
}

// writeAt is WriteAt to where the contents are.
func (f *File) writeAt(p []byte, off int64) (n int, err error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	switch {
	case f.mem != nil:
		return f.mem.WriteAt(p, off)
	case f.disk == nil:
		return 0, pathError("write", os.ErrClosed)
	}
	return f.disk.WriteAt(p, off)
}

// Seek sets the offset for the next Read or Write. It is relative to the start
// of the contents ([io.SeekStart]), to the current offset ([io.SeekCurrent]) or
// to the end of the contents ([io.SeekEnd]). Seek returns the new offset
// relative to the start. Seeking beyond the end is allowed: Read then returns
// [io.EOF], and Write leaves a gap, which reads as zero. Seeking before the
// start, or with an unknown whence, returns an error that wraps [os.ErrInvalid]
// and does not change the offset.
func (f *File) Seek(offset int64, whence int) (int64, error) {
	if f == nil {
		return 0, os.ErrInvalid
	}
	size, err := f.size("seek")
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
		from = size
	}
	if from < 0 || from+offset < 0 { // the sum is also negative if it overflows
		return 0, pathError("seek", os.ErrInvalid)
	}
	f.off = from + offset
	return f.off, nil
}

// Truncate sets the length of the contents to size bytes. It does not change
// the offset. Bytes that are added are zero and, on most file systems, use no
// space, unless they are in memory when the File moves to disk. If Truncate returns
// an error, the contents are unchanged.
func (f *File) Truncate(size int64) error {
	if f == nil {
		return os.ErrInvalid
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.mem == nil && f.disk == nil:
		return pathError("truncate", os.ErrClosed)
	case size < 0:
		return pathError("truncate", os.ErrInvalid)
	}
	if f.mem != nil {
		if err := f.mem.Truncate(size); !errors.Is(err, mmapbuf.ErrTooLarge) {
			return err
		}
		if err := f.rollover(); err != nil {
			return err
		}
	}
	return f.disk.Truncate(size)
}

// ReadFrom writes data from r to f, as Write does, until r returns [io.EOF]. It
// returns the number of bytes written and any error of Write, or of r other
// than io.EOF. If r is an [io.WriterTo], ReadFrom uses its WriteTo; otherwise it
// copies the data in chunks of 64 KiB. r may use the File. A chunk that was read
// from r but could not be written is lost.
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

// kernelCopies reports whether w may have the kernel copy from a file, and calls nothing
// of the program, which could use the File meanwhile.
func kernelCopies(w io.Writer) bool {
	if _, ok := w.(io.ReaderFrom); !ok {
		return false
	}
	t := reflect.TypeOf(w)
	return t.Kind() == reflect.Pointer && (t.Elem().PkgPath() == "net" || t == reflect.TypeFor[*os.File]())
}

// An onlyWriter is a File without its ReadFrom.
type onlyWriter struct{ f *File }

func (w onlyWriter) Write(p []byte) (int, error)       { return w.f.Write(p) }
func (w onlyWriter) WriteString(s string) (int, error) { return w.f.WriteString(s) }

// WriteTo writes the contents from the offset to the end to w. It advances the
// offset by the number of bytes that w accepts, and returns that number and any
// error of w. If w accepts fewer bytes without reporting an error, WriteTo
// returns [io.ErrShortWrite]. If w returns a count that is negative or too
// large, WriteTo returns an error. If the File is closed meanwhile, WriteTo
// writes what it has already found, or returns an error.
//
// If the contents are in memory, see [mmapbuf.File.WriteTo] for what w gets and
// for the cost. If they are on disk, the kernel copies them to a w that is a file
// or a TCP connection, on systems that can do that; another w gets them in
// chunks. w may use the File; it gets the contents up to the end that they had
// at the beginning.
func (f *File) WriteTo(w io.Writer) (n int64, err error) {
	if f == nil {
		return 0, os.ErrInvalid
	}
	f.mu.RLock()
	b, disk := f.b, f.disk
	f.mu.RUnlock()
	start := f.off
	size, err := f.size("read")
	if err != nil || start >= size {
		return 0, err
	}
	switch {
	case b != nil:
		mem := mmapbuf.NewFile(b)
		_, _ = mem.Seek(start, io.SeekStart)
		n, err = mem.WriteTo(w)
	case kernelCopies(w):
		f.pos = -1 // the kernel reads at the offset of disk
		if _, err = disk.Seek(start, io.SeekStart); err == nil {
			n, err = io.Copy(w, io.LimitReader(disk, size-start))
		}
	}
	if rest := size - start - n; err == nil && rest > 0 { // also if a rollover or Close has closed b
		var more int64
		more, err = io.Copy(w, io.NewSectionReader(f, start+n, rest))
		n += more
	}
	f.off += n
	return n, err
}
