// Package mmapbuf provides [Buffer], a replacement for [bytes.Buffer] for large
// data, and [File], which reads and writes the contents of a Buffer at an
// offset, as an [os.File] does.
//
// Small contents are stored in an ordinary Go slice. A Buffer that needs a
// capacity of more than 1 MiB uses an anonymous memory mapping, which mremap(2)
// enlarges without copying the contents. Filling a Buffer therefore takes about
// as long as writing each byte once, and uses about as much memory as the
// contents, rounded up to whole pages (of 2 MiB on most machines). A
// bytes.Buffer copies the contents each time it grows, and holds both the old
// and the new array while it does. If idle memory (see below) is available, a
// Buffer without a [Limit] uses mappings for capacities of 32 KiB and more.
//
// Package spool, in the directory spool, has a temporary file that is in a Buffer
// while it is small, and on disk once it is large.
//
// # Lifetime
//
// A Buffer does not have to be closed. Its memory is released after the garbage
// collector has found it unreachable. [Buffer.Close] releases the memory
// without waiting for a collection.
//
// The slices that [Buffer.Bytes], [Buffer.Next], [Buffer.Peek] and
// [Buffer.AvailableBuffer] return are called views. They point to memory on the
// Go heap and stay valid for as long as they are referenced, even after Close.
// As with bytes.Buffer, a view shows the contents only until the Buffer is next
// modified. Do not set a finalizer on a byte of a view, which may be zero when it
// runs; set it on what holds the view. [Buffer.WriteTo] and [File.WriteTo] pass a
// view to their Writer, except to some types of the standard library. The other
// methods that read, including Read, ReadAt, ReadBytes and String, leave the
// contents where they are.
//
// The first view of a mapping moves the contents to the Go heap. Up to 2 MiB,
// including spare capacity, are copied. The pages of larger contents are moved by
// mremap(2), to the addresses of a new object without pointers, which takes a few
// milliseconds per gigabyte. This relies on properties of the Go runtime that it
// does not promise; the tests of package internal/vm check that its heap objects
// do not move. In builds with the tag mmapbuf_copyviews, and after the kernel has
// refused a move, all views are copied.
//
// If the Buffer later outgrows its memory on the heap, the contents are copied to
// a new mapping. A Buffer that is viewed again after that stays on the heap and
// grows as a bytes.Buffer does, until it is closed.
//
// Only this package and the kernel access the memory of a mapping. A Reader or
// Writer that retains the slice that it was passed, although [io.Reader] and
// [io.Writer] forbid that, retains Go memory, as with bytes.Buffer.
//
// # Copying
//
// Do not use both copies of a Buffer after c := b. A Buffer may be moved by
// value: it can be returned from a function, sent through a channel, and stored
// in structs, slices and maps. If both copies are used, they share their
// contents, as copies of a bytes.Buffer do, until the storage or a part of it is
// moved, enlarged or released. Methods that modify the Buffer can do that, and so
// can the first view. After that, methods of the other copy that use the storage may
// panic; its ReadAt and WriteAt, and those of its Files, return an error. They
// never access memory that was given to another Buffer.
//
// # Concurrency
//
// As with bytes.Buffer, a method that modifies a Buffer must not run at the
// same time as any other method. Bytes, Peek, AvailableBuffer, String, Len,
// Cap, Available and ReadAt do not modify it and may run concurrently with each
// other; all other methods, including Read and Next, modify it. WriteAt may run
// concurrently with ReadAt and WriteAt on ranges that do not overlap. Close may
// run concurrently with ReadAt, WriteAt, and reading through a [File]: code that
// reads in goroutines of its own, such as an HTTP client, then finds the rest of
// the contents or io.EOF.
//
// The Reader passed to ReadFrom and the Writer passed to WriteTo may call
// methods of the Buffer during the call. If they modify it, see these two
// methods for the result.
//
// # Memory accounting
//
// Mappings are outside the Go heap. Heap profiles, [runtime.MemStats] and the
// memory limit of the runtime (GOMEMLIMIT) do not include them. [ReadStats]
// reports them, and the runtime/pprof profile named
// github.com/mmapbuf/mmapbuf records the stack trace that created each mapping.
// Mappings use at most the sum of Stats.MappedBytes and Stats.IdleBytes. Contents in
// Go slices, and contents that were moved for a view, are part of the Go heap.
//
// The package compares the memory limit with what the runtime and mappings use
// together. Near the limit, it starts more collections and keeps no idle memory. So
// set the limit to what the program may use in all, and bound its Buffers with a
// [Limit]. With GOGC=off, the runtime lets the heap alone grow to the memory limit, so
// subtract what Buffers may hold then.
//
// The package starts a garbage collection when the memory used by mappings has
// increased by more than a threshold since the last collection:
//
//   - Usually, it is GOGC percent of the live heap plus a quarter of what mappings
//     held after that collection, but at least 64 MiB.
//   - If the program closes Buffers, it is at least twice the amount of memory that
//     the program has released by itself between two collections, until a
//     collection finds a quarter of the increase unreachable.
//   - When the memory of the Go runtime and the mappings together exceed 15/16 of
//     the memory limit, it is at most a sixteenth of the limit, or 16 MiB if that
//     is more.
//   - With GOGC=off, only the memory limit starts collections.
//
// A call that adds data may wait for the collection if the memory limit is near,
// or if unreachable Buffers accumulate faster than they are collected. A Buffer
// that exceeds its Limit collects garbage as well.
//
// Once the mappings of Buffers, and those that views have added to the Go heap, are
// half as many as Linux allows a process (vm.max_map_count), new storage is a Go
// slice.
//
// # Idle memory
//
// Memory that a Buffer releases is kept for other Buffers for up to about 1.5
// seconds, because the kernel does not have to allocate and clear pages that are
// reused. It comes, for example, from Close, from Shrink, from contents that
// were copied for a view, and from Buffers that the collector found unreachable.
// Views become idle memory if they become unreachable within that time; up to
// 128 MiB of them at a time have a finalizer (runtime.SetFinalizer) for that.
//
// The kernel may reclaim idle memory whenever it needs memory (madvise(2),
// MADV_FREE). Until then, the resident memory of the process and the memory of its
// control group include it. The kernel counts it as inactive_file there, so the
// working set that Kubernetes reports does not include it.
//
// Idle memory is at most a sixteenth of the memory of the machine, or of
// RLIMIT_AS or RLIMIT_DATA if that is lower. It is unmapped early
//
//   - after a collection that the program has requested (runtime.GC,
//     debug.FreeOSMemory);
//   - when a Buffer releases memory while the program is within an eighth of its
//     memory limit;
//   - when the kernel refuses memory to a Buffer.
//
// No memory is kept in a bubble of testing/synctest. Stats.IdleBytes reports
// idle memory. A Buffer never exposes bytes of an earlier one.
//
// # Errors
//
// The methods that Buffer shares with bytes.Buffer panic with [ErrTooLarge] if
// the system refuses memory, because callers of bytes.Buffer rarely check for
// errors. Stats.LastFailure then has the sizes and the system call. The program
// can recover from the panic: the Buffer remains usable and its contents are
// unchanged, except that ReadFrom keeps what it has appended so far. Reserve,
// WriteAt and the methods of a File return an error instead, which wraps
// ErrTooLarge and the error of the system call.
//
// This applies to mappings and views. Ordinary Go allocations (small contents,
// contents of any size on platforms without mappings, and the results of String,
// ReadBytes and ReadString) end the program if they fail, as in any Go program.
// The package cannot prevent the kernel from killing a process when the machine
// or the control group runs out of memory. Use MaxLen to bound the size of a
// Buffer, and a Limit to bound that of many together.
//
// Methods that would exceed MaxLen or the Limit return an error that wraps
// ErrTooLarge, except Grow, which panics with ErrTooLarge.
//
// # Platforms
//
// Mappings are used on Linux on 64-bit machines (amd64, arm64, loong64, mips64,
// mips64le, ppc64, ppc64le, riscv64, s390x). On other platforms, and in builds
// with the tag nommap, a Buffer stores its contents in Go slices: its methods
// return the same results and cost as much as those of bytes.Buffer. Where
// mmap(2) is not permitted, as in some sandboxes, it also uses Go slices. When
// mremap(2) is refused, the Buffer copies its contents to a new mapping.
package mmapbuf

import (
	"bytes"
	"errors"
	"io"
	"math"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// A Buffer is a variable-sized buffer of bytes with all methods of
// [bytes.Buffer]. It is intended for contents of a megabyte or more. The zero
// value is an empty Buffer ready to use.
//
// A Buffer may be moved by value. It is not safe for concurrent use, except for
// methods that do not modify it, and for ReadAt and WriteAt; see the package
// documentation.
type Buffer struct {
	// MaxLen is the maximum of Len, in bytes. If it is zero or negative,
	// there is no maximum. Write, WriteString, WriteByte, ReadFrom and the
	// same methods of a File store as much as fits; WriteRune, WriteAt,
	// Reserve and Truncate of a File change nothing. All of them return an
	// error that wraps ErrTooLarge. MaxLen may be changed between calls;
	// contents that already exceed it are kept.
	MaxLen int

	// Limit bounds the memory of several Buffers together; nil means no bound.
	// Methods that would exceed it behave as if they would exceed MaxLen.
	// If it is changed, it applies from the next time on that the Buffer takes
	// memory.
	Limit *Limit

	// NoHugePages requests ordinary pages (madvise(2), MADV_NOHUGEPAGE)
	// instead of huge ones for mappings created after it is set. Filling the
	// Buffer then takes several times as long. It is intended for machines
	// on which allocating huge pages is slow. Gaps that WriteAt leaves get
	// ordinary pages in any case, unless they are later written in order.
	NoHugePages bool

	lastRead readOp           // last read operation, for UnreadByte and UnreadRune
	adopted  uint8            // how often a mapping was published and adopted since Close
	gen      uint32           // generation of m that buf and off belong to; 0 if m is nil
	buf      vm.Region        // contents are buf[off:len(buf)]; Go memory, or the window of m
	off      int              // read at &buf[off], write at &buf[len(buf)]
	m        *mapping.Mapping // nil for Go memory; if it was published, kept until adopt, and its generation is not gen
	share    *share           // of Limit, or of what that was before; may be nil
}

// readOp is the last operation on a Buffer, as needed by UnreadByte and
// UnreadRune. A positive value is the size of the rune that ReadRune returned.
type readOp int8

const (
	opRead    readOp = -1 // a read of anything but a rune
	opInvalid readOp = 0  // not a read, or one that returned nothing
)

// MinRead is the minimum length, in bytes, of the slice that [Buffer.ReadFrom]
// passes to a Reader, unless MaxLen or Limit leaves less. ReadFrom does not enlarge a
// Buffer that has MinRead bytes of spare capacity when the Reader returns
// [io.EOF].
const MinRead = bytes.MinRead

// ErrTooLarge is [bytes.ErrTooLarge]. Methods panic with it, or return it,
// possibly wrapped in an error with details, if a Buffer cannot become as large
// as requested.
var ErrTooLarge = bytes.ErrTooLarge

// Programs and their tests compare the error texts of bytes.Buffer, so Buffer
// uses the same texts.
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

// NewBuffer returns a Buffer whose initial contents are buf. The Buffer takes
// ownership of buf and may overwrite it, including its spare capacity; the
// caller should not use buf after this call. When the Buffer outgrows buf, the
// contents are copied.
//
// In most cases, new(Buffer), or just declaring a Buffer variable, is
// sufficient.
func NewBuffer(buf []byte) *Buffer {
	b := new(Buffer)
	b.setSlice(buf, 0)
	return b
}

// NewBufferString returns a Buffer whose initial contents are a copy of s.
func NewBufferString(s string) *Buffer { return NewBuffer([]byte(s)) }

// Bytes returns the unread contents as a slice of length Len. The slice is
// valid until the Buffer is next modified; until then, changes made to it
// change the contents. A slice that is kept longer remains valid memory, but
// its bytes are unspecified.
//
// If the contents are in a mapping, Bytes moves them to the Go heap; the package
// documentation says how, and at what cost. The slice has the spare capacity of the
// Buffer, but no more of it than 64 MiB or Len, whichever is larger; the rest of
// a larger reservation, made with Grow, is released. If there is not enough
// memory for it, the slice has less or none. Later writes that need more
// capacity copy the contents: to a new mapping, or from the second time on, to a
// larger slice. Read and ReadAt do not have these costs.
//
// Bytes panics with ErrTooLarge if the Go heap cannot be extended; the contents
// are then unchanged.
func (b *Buffer) Bytes() []byte {
	if b.m != nil {
		return b.mustView()
	}
	return b.unread()
}

// AvailableBuffer returns an empty slice with a capacity of Available bytes, or of what
// a Limit leaves of them. It is meant to be appended to and passed to the Write that
// follows, and is valid until then.
//
// As with [Buffer.Bytes], contents in a mapping are moved to the Go heap, here
// together with all of the spare capacity. If an earlier view had less capacity,
// or if there is not enough memory, AvailableBuffer allocates a separate slice,
// from which Write copies. It panics as Bytes does if there is not enough memory
// for that either; the reservation is then unchanged. Avoid calling it after
// Grow has reserved much more than will be appended: all of the reservation
// becomes part of the Go heap.
func (b *Buffer) AvailableBuffer() []byte {
	if b.m != nil {
		return b.spare()
	}
	return b.unread()[b.Len():]
}

// Peek returns the next n bytes without consuming them. If fewer than n bytes
// are available, it returns them and [io.EOF]. The slice is valid until the
// Buffer is next modified.
//
// Peek has the cost of [Buffer.Bytes]: it moves all of the contents to the Go
// heap, not only n bytes. If there is not enough memory for that, the slice is
// a copy, and if there is not enough for a copy either, Peek panics with
// ErrTooLarge.
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

// Next consumes and returns the next n bytes, or all of the contents if they
// are fewer. The slice is valid until the Buffer is next modified. Next has the
// cost of [Buffer.Peek] and panics where Peek does. [Buffer.Read] consumes
// bytes without that cost.
func (b *Buffer) Next(n int) []byte {
	b.lastRead = opInvalid // also before the panic for a negative n
	n = min(n, b.Len())
	var p []byte
	if b.m != nil {
		p = b.viewOf(n)
		b.refresh()
	} else {
		p = b.unread()[:n]
	}
	b.off += n
	if n > 0 {
		b.lastRead = opRead
	}
	return p
}

// String returns a copy of the unread contents as a string. It returns "<nil>"
// if b is nil.
func (b *Buffer) String() (s string) {
	if b == nil {
		return "<nil>"
	}
	b.withContents(func(contents []byte) { s = string(contents) })
	return s
}

// Len returns the number of unread bytes.
func (b *Buffer) Len() int { return b.buf.Len - b.off }

// Cap returns the capacity of the storage in bytes, including consumed bytes.
// Pages of a mapping that have not been written use address space but no
// memory.
//
// After Bytes, Peek, AvailableBuffer or WriteTo of a File has moved the contents
// to the Go heap, Cap and [Buffer.Available] report the capacity of the former
// mapping until the Buffer is next modified.
func (b *Buffer) Cap() int {
	if b.m != nil {
		return b.m.Capacity()
	}
	return b.buf.Cap
}

// Available returns the number of bytes that can be written without enlarging
// the storage. See [Buffer.Cap] for an exception.
func (b *Buffer) Available() int { return b.Cap() - b.buf.Len }

// Truncate discards all but the first n unread bytes. It keeps the storage;
// [Buffer.Shrink] releases what is not needed. Truncate panics if n is negative
// or greater than Len.
func (b *Buffer) Truncate(n int) {
	b.refresh()
	if n == 0 {
		b.rewind()
		return
	}
	b.lastRead = opInvalid
	if n < 0 || n > b.Len() {
		panic(panicTruncate)
	}
	b.shorten(b.off + n)
}

// Reset empties the Buffer and keeps the storage for later writes.
// [Buffer.Close] releases it.
func (b *Buffer) Reset() {
	b.refresh()
	b.rewind()
}

// Grow makes room for n more bytes, so that they can be written without copying
// the contents. In a mapping, room that is not written uses address space but no
// memory, so it is cheap to reserve much more than may be needed; a slice is
// allocated immediately. Close and Shrink release a reservation, and Bytes, Peek
// and Next a part of one that is much larger than the contents; see
// [Buffer.Bytes].
//
// Grow panics if n is negative. It panics with ErrTooLarge if there is not enough
// memory, if Len+n exceeds MaxLen, or if the Limit is exceeded; the contents are
// then unchanged. [Buffer.Reserve] returns an error instead.
func (b *Buffer) Grow(n int) {
	if n < 0 {
		panic(panicGrow)
	}
	if err := b.Reserve(n); err != nil {
		panicFor(err)
	}
}

// Reserve makes room for n more bytes, as [Buffer.Grow] does, and returns an
// error instead of panicking. The error wraps ErrTooLarge if Len+n exceeds
// MaxLen, if the Limit is exceeded, or if there is not enough memory. If n is
// negative, Reserve returns another error. The contents are unchanged in any
// case.
func (b *Buffer) Reserve(n int) error {
	b.refresh()
	b.paceFor(n)
	err := b.reserveLocked(n)
	if b.hasCollected(err) {
		err = b.reserveLocked(n)
	}
	return err
}

func (b *Buffer) reserveLocked(n int) error {
	mu := b.atLock()
	mu.Lock()
	defer mu.Unlock()
	return b.reserve(n)
}

// Shrink releases the consumed prefix and the spare capacity and keeps the
// contents. A mapping is cut to whole pages (of 2 MiB on most machines).
// Contents in a slice, and contents of at most 1 MiB in a mapping, are copied to
// new storage of the right size. Storage that cannot be reduced stays as it is.
// If the Buffer is empty, Shrink is equivalent to [Buffer.Close]. After Shrink,
// UnreadByte and UnreadRune return errors.
func (b *Buffer) Shrink() {
	b.refresh()
	b.lastRead = opInvalid
	live := b.Len()
	if live == 0 {
		_ = b.Close()
		return
	}
	mu := b.atLock()
	mu.Lock()
	defer mu.Unlock()
	switch mapped := live > mapThreshold && (b.m != nil || mapping.Available()); {
	case !mapped && (b.m != nil || live < b.buf.Cap):
		b.copyToSlice(make([]byte, live))
	case mapped && b.m == nil:
		if c, ok := vm.Round(live); ok && c < b.buf.Cap {
			_ = b.copyToNew(c, live) // if it fails, the storage stays
		}
	case mapped:
		b.shrinkMapping()
	}
}

// Close empties the Buffer and releases its memory. The Buffer can be used
// again; MaxLen, Limit and NoHugePages are kept. Close is optional and may be called
// more than once. Views that were taken before stay valid. Close may run
// concurrently with ReadAt and WriteAt, and with reading through a [File].
//
// The memory of a mapping is kept for other Buffers for a short time or
// unmapped; see the package documentation on idle memory. A slice is left to
// the garbage collector. The error, if any, is that of munmap(2); the Buffer is
// empty even so.
//
// Because of Close, a Buffer is an [io.Closer], and some functions close their
// argument if it is one. For example, net/http closes the body of a request. To
// prevent that, pass struct{ io.Reader }{b}, or a [File], whose Close does not
// affect the Buffer.
func (b *Buffer) Close() error {
	m, gen := b.detach()
	if m == nil {
		return nil
	}
	return m.Release(gen) // without the lock of ReadAt, which others share: it may wait
}

// fits reports whether n more bytes fit into buf and no other work is needed. It
// is small enough to be inlined.
func (b *Buffer) fits(n int) bool {
	return n <= b.buf.Cap-b.buf.Len && b.MaxLen <= 0
}

// paceFor calls pace if n more bytes may take memory: if more of a mapping will be
// committed, or if a slice may become one. Other writes, which come here if MaxLen
// is set, and small Buffers do not need it.
func (b *Buffer) paceFor(n int) {
	used := b.buf.Len
	if b.m != nil && n > b.m.Committed()-used || b.m == nil && n > b.buf.Cap-used && n > min(mapping.IdleMin, mapThreshold)-used {
		mapping.Pace(b.m)
	}
}

// roomFor makes room for n more bytes, or for as many as MaxLen and Limit leave, and
// returns how many that are; err is not nil if they are fewer than n. It panics
// if there is not enough memory. buf must be current.
func (b *Buffer) roomFor(n int) (got int, err error) {
	b.paceFor(n)
	if room := b.roomToMax(); n > room {
		n, err = room, b.maxLenError(n)
	}
	got, full := b.makeSomeRoom(n)
	if full != nil {
		err = full
	}
	return got, err
}

// appendRead appends p, regardless of MaxLen, or as much of it as Limit leaves. It
// panics if there is not enough memory. buf must be current.
func (b *Buffer) appendRead(p []byte) (n int, err error) {
	b.paceFor(len(p))
	n, err = b.makeSomeRoom(len(p))
	appendSlow(b, p[:n])
	return n, err
}

// Write appends p to the contents. It returns len(p) and a nil error, unless p
// does not fit within MaxLen or Limit: then Write appends as much as fits, and
// returns how much that is and an error that wraps ErrTooLarge. It panics with
// ErrTooLarge if there is not enough memory; the contents are then unchanged.
func (b *Buffer) Write(p []byte) (n int, err error) {
	if !b.current() {
		return b.adopt().Write(p)
	}
	b.lastRead = opInvalid
	if b.fits(len(p)) {
		b.append(p)
		return len(p), nil
	}
	n, err = b.roomFor(len(p))
	appendSlow(b, p[:n])
	return n, err
}

// WriteString appends s to the contents. It returns and panics as
// [Buffer.Write] does.
func (b *Buffer) WriteString(s string) (n int, err error) {
	if !b.current() {
		return b.adopt().WriteString(s)
	}
	b.lastRead = opInvalid
	if b.fits(len(s)) {
		b.appendString(s)
		return len(s), nil
	}
	n, err = b.roomFor(len(s))
	appendSlow(b, s[:n])
	return n, err
}

// WriteByte appends the byte c to the contents. It returns an error and panics
// in the same cases as [Buffer.Write].
func (b *Buffer) WriteByte(c byte) error {
	if !b.current() {
		return b.adopt().WriteByte(c)
	}
	b.lastRead = opInvalid
	if b.fits(1) {
		b.appendByte(c)
		return nil
	}
	return b.writeByte(c)
}

// writeByte is WriteByte if fits(1) is false. buf must be current.
func (b *Buffer) writeByte(c byte) error {
	n, err := b.roomFor(1)
	if n == 1 {
		appendSlow(b, []byte{c})
	}
	return err
}

// ReadFrom appends data from r until r returns [io.EOF]. It returns the number
// of bytes appended and any error of r other than io.EOF. It panics if r
// returns a negative count, and, as [Buffer.Write] does, if there is not enough
// memory.
//
// r.Read is passed Go memory: the spare capacity of a slice, or, if the contents
// are in a mapping, a chunk of 16 to 256 KiB that is allocated for the call and
// copied. It is passed the mapping itself if r is an [os.File] that is a regular
// file, also by io.Copy. If r itself modifies the Buffer, the data that it
// returns may replace what it has appended.
//
// If MaxLen or Limit is set, ReadFrom appends as much as fits. To find out whether
// r has more data, it then reads one more byte from r. If there is one, that byte is
// lost, and ReadFrom returns an error that wraps ErrTooLarge.
func (b *Buffer) ReadFrom(r io.Reader) (n int64, err error) {
	b.refresh()
	b.lastRead = opInvalid
	file := directFile(r)
	var c chunk
	for {
		room := b.roomToMax()
		b.paceFor(MinRead)
		// Before r is read, so that nothing is lost if it fails.
		got, full := b.makeSomeRoom(min(MinRead, room))
		if full != nil {
			room = got
		}
		if room == 0 {
			return n, b.readEnd(r, full)
		}
		var m int
		switch {
		case b.m == nil:
			m, err = b.readSlice(r, room)
		case file != nil:
			m, err = b.readFile(file, min(b.available(), room, maxRead))
		default:
			m, err = b.readChunk(r, c.upTo(min(room, b.available())))
			c.filled(m)
		}
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// maxRead is the number of bytes, at most, that ReadFrom reads from a file in
// one call. As much memory counts as held then.
const maxRead = 1 << 20

// A chunk is Go memory for a Reader. It is small enough to be in the cache when
// it is copied. A Reader may keep it, so it is used for one ReadFrom only.
type chunk []byte

const (
	chunkMin = 16 << 10  // for Readers of little
	chunkMax = 256 << 10 // for those of much, and in the second-level cache
)

// upTo returns the chunk, but at most n bytes of it.
func (c *chunk) upTo(n int) []byte {
	if *c == nil {
		*c = make([]byte, chunkMin)
	}
	n = min(n, len(*c))
	return (*c)[:n:n] // so that a Reader cannot claim to have read more
}

// filled makes the chunk larger for a Reader that has filled it with n bytes.
func (c *chunk) filled(n int) {
	if n == len(*c) && n < chunkMax {
		*c = make([]byte, 2*n)
	}
}

// readChunk calls r.Read with p and appends the bytes read. r may use the
// Buffer.
func (b *Buffer) readChunk(r io.Reader, p []byte) (n int, err error) {
	n, err = r.Read(p)
	if n < 0 {
		panic(errNegativeRead)
	}
	p = p[:n] // a count beyond len(p) panics as any slice would
	b.refresh()
	n, full := b.appendRead(p)
	if full != nil {
		err = full // r has modified the Buffer
	}
	return n, err
}

// readEnd reads from r to find out whether r is at its end, for a Buffer that is
// full: to MaxLen, or to a Limit, which is what the error full says. If it is, readEnd
// returns nil.
func (b *Buffer) readEnd(r io.Reader, full error) error {
	var p [1]byte
	for {
		n, err := r.Read(p[:])
		switch {
		case n < 0:
			panic(errNegativeRead)
		case n > 0 && full != nil:
			return full
		case n > 0:
			return b.maxLenError(n)
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

// WriteTo writes the contents to w and consumes what w accepts. It returns
// the number of bytes written and any error of w. If w accepts fewer bytes
// without reporting an error, WriteTo returns [io.ErrShortWrite]. It panics if
// w returns a count that is negative or too large.
//
// w gets the contents in a single call. If they are in a mapping, they are
// first moved or copied to the Go heap, as by [Buffer.Bytes], but without spare
// capacity. If there is not enough memory for that, w gets copies of them in
// several calls, as another Buffer or File does. Writers that are known neither
// to keep a slice nor to call the program get the mapping itself: [os.File],
// net.TCPConn, net.UnixConn, [io.Discard], [bytes.Buffer], [strings.Builder],
// and the hashes of the standard library other than HMAC.
//
// w should not modify the Buffer. If it does, the number of bytes that it
// returns is consumed in addition to what w has read, and if it accepts all of
// the contents, the Buffer is empty afterwards, as with bytes.Buffer.
func (b *Buffer) WriteTo(w io.Writer) (n int64, err error) {
	b.refresh()
	b.lastRead = opInvalid
	if b.Len() > 0 {
		was := *b // w may change b
		most := 0
		if was.m != nil && direct(w) {
			most = math.MaxInt // one call, between which and the next others might write to w
		}
		total, m, err := was.writeOut(w, 0, most)
		if m < 0 || m > total {
			panic(panicWriteTo)
		}
		if err == nil && m < total || err == errStale { // w has modified b between two calls
			err = io.ErrShortWrite
		}
		b.refresh()
		n = int64(m)
		if err != nil {
			b.consume(min(m, b.Len())) // w may have consumed contents, or closed the Buffer
			return n, err
		}
	}
	b.rewind()
	return n, nil
}

// Read copies up to len(p) bytes to p and consumes them. It returns the number
// of bytes copied. If the Buffer is empty and len(p) is not 0, it returns
// [io.EOF].
//
// The consumed prefix of a mapping is unmapped in steps of 32 MiB, which makes
// Cap smaller, except for 32 MiB and a quarter of Len, which a Buffer that is
// written as well, such as a queue, reuses for subsequent writes.
func (b *Buffer) Read(p []byte) (n int, err error) {
	if !b.current() {
		return b.adopt().Read(p)
	}
	b.lastRead = opInvalid
	if b.off >= b.buf.Len {
		b.rewind() // the consumed bytes are room again
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	n = b.get(p)
	if n > 0 {
		b.lastRead = opRead
	}
	b.consume(n)
	return n, nil
}

// consume consumes n bytes. It unmaps a part of the consumed prefix if that passes
// a multiple of discardStep, a power of two.
func (b *Buffer) consume(n int) {
	start := b.off
	b.off += n
	if start^(start+n) >= discardStep {
		b.unmapConsumed()
	}
}

// ReadByte consumes and returns the next byte. It returns [io.EOF] if the
// Buffer is empty.
func (b *Buffer) ReadByte() (byte, error) {
	if !b.current() {
		return b.adopt().ReadByte()
	}
	i := b.off
	if uint(i) >= uint(b.buf.Len) {
		return 0, b.eof()
	}
	c := b.at(i)
	b.off = i + 1
	b.lastRead = opRead
	return c, nil
}

// eof makes the consumed bytes of an empty Buffer room again, and returns io.EOF.
//
//go:noinline
func (b *Buffer) eof() error {
	b.rewind()
	return io.EOF
}

// ReadRune consumes the next rune and returns it with its size in bytes. It
// returns [io.EOF] if the Buffer is empty. If the next byte does not begin a
// valid UTF-8 encoding, ReadRune consumes that byte and returns U+FFFD with
// size 1.
func (b *Buffer) ReadRune() (r rune, size int, err error) {
	b.refresh()
	if b.off >= b.buf.Len {
		b.rewind()
		return 0, 0, io.EOF
	}
	r, size = b.rune()
	b.off += size
	b.lastRead = readOp(size)
	return r, size, nil
}

// UnreadRune unreads the rune returned by ReadRune. It returns an error if the
// most recent read or write was not a ReadRune that returned a rune.
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

// UnreadByte unreads the last byte returned by the most recent read. It returns
// an error if Read or Next returned no byte, or if something was written since.
// A WriteAt that does not extend the contents does not count as a write.
func (b *Buffer) UnreadByte() error {
	if b.lastRead == opInvalid {
		return errUnreadByte
	}
	b.off = max(b.off-1, 0)
	b.lastRead = opInvalid
	return nil
}

// ReadBytes consumes the contents up to and including the first delim and
// returns a copy of them. If the contents have no delim, it returns a copy of
// all of them and [io.EOF].
func (b *Buffer) ReadBytes(delim byte) (line []byte, err error) {
	n, err := b.find(delim)
	line = b.clone(n)
	b.lastRead = opRead
	b.consume(n)
	return line, err
}

// ReadString is like [Buffer.ReadBytes] but returns a string.
func (b *Buffer) ReadString(delim byte) (line string, err error) {
	n, err := b.find(delim)
	line = b.cloneString(n)
	b.lastRead = opRead
	b.consume(n)
	return line, err
}
