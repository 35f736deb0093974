//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package vm

import (
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
	"weak"

	"golang.org/x/sys/unix"
)

// minObject is a size, in bytes, from which on a heap object has a span of its
// own and shares no page with others.
const minObject = 64 * KiB

// MoveToHeap moves the pages of mem, which is one VMA and whole units, to a new
// object of the Go heap; mem is no longer mapped then. If that is not possible, it
// returns nil, and mem is unchanged. The caller must have probed the heap for
// len(mem) bytes.
//
// The object keeps its address, has no pointers, and the runtime does not touch its
// memory until it frees the object: see "Publishing" in docs/DESIGN.md.
func MoveToHeap(mem []byte) *HeapPages {
	if moveRefused.Load() {
		return nil
	}
	obj, skip := heapObject(len(mem))
	to := bytesAt(obj, skip, len(mem))
	if MoveOnto(to, mem) != nil {
		// The kernel may have unmapped the pages of obj before it
		// failed, so the runtime must not use these addresses again.
		lost.Lock()
		lost.objects = append(lost.objects, obj)
		lost.Unlock()
		return nil
	}
	// Withdraw the advice for huge pages, for later objects: the kernel has
	// no other call for that.
	if !hugePagesAlways() {
		_ = madvise(to, unix.MADV_NOHUGEPAGE)
	}
	splits.add(to)
	return &HeapPages{obj, skip, len(mem)}
}

// A HeapPages is an object of the Go heap to which pages were moved.
type HeapPages struct {
	obj     *byte
	skip, n int // the pages are n bytes that begin skip bytes after obj
}

// Bytes returns the first n bytes of the pages.
func (h *HeapPages) Bytes(n int) []byte { return bytesAt(h.obj, h.skip, n)[:n:n] }

// A Loan is an object whose pages may come back.
type Loan struct {
	mu   sync.Mutex
	over bool // the pages have come back, or will not
	obj  weak.Pointer[byte]
	at   uintptr // address of the pages: while the loan is not over, the object is not freed
	n    int
}

// Lend has back called, in a goroutine, when the object has become unreachable, with
// the mapping that its pages are moved to, or with nil if that is not possible. It
// takes a finalizer, for which the object is freed one collection later, or never if
// another finalizer of the program blocks the queue. So the caller must bound the bytes
// that it lends, and end loans after some time. h must not be used afterwards.
func (h *HeapPages) Lend(back func(mem []byte)) *Loan {
	skip, n := h.skip, h.n // without h, which refers to the object
	l := &Loan{obj: weak.Make(h.obj), at: uintptr(unsafe.Pointer(h.obj)) + uintptr(skip), n: n}
	runtime.SetFinalizer(h.obj, func(obj *byte) {
		if l.finish() {
			mem := takeBack(bytesAt(obj, skip, n))
			go back(mem) // other finalizers wait
		}
	})
	return l
}

// finish makes the loan over, and reports whether it was not.
func (l *Loan) finish() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	was := l.over
	l.over = true
	return !was
}

// End makes the loan over. It returns all but the first keep bytes, whole units, to
// the kernel, and these as well if the object is unreachable. It reports false, and
// does nothing, if the loan was over.
func (l *Loan) End(keep int) bool {
	l.mu.Lock()
	defer l.mu.Unlock() // until then the finalizer, and so the object, waits
	if l.over {
		return false
	}
	l.over = true
	obj := l.obj.Value()
	if obj != nil {
		runtime.SetFinalizer(obj, nil)
	} else {
		keep = 0
	}
	if keep < l.n && fault("madvise", nil, nil) == nil {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, l.at+uintptr(keep), uintptr(l.n-keep), unix.MADV_DONTNEED)
	}
	runtime.KeepAlive(obj)
	return true
}

// takeBackRefused is set once pages could not be moved out of the heap. As with
// moveRefused, the addresses of the target are given up then.
var takeBackRefused atomic.Bool

// Lends reports whether pages that are lent may come back.
func Lends() bool { return canTakeBack() && !takeBackRefused.Load() }

// canTakeBack tries it with a mapping: a system that does not know MREMAP_DONTUNMAP,
// and does not say so (as qemu-user), would leave a hole in the heap.
var canTakeBack = sync.OnceValue(func() bool {
	mem, err := Map(Unit(), false)
	if err != nil {
		return false
	}
	mem[0] = 1
	out := takeBack(mem)
	if out == nil {
		_ = Unmap(mem)
		return false
	}
	moved := out[0] == 1
	_ = Unmap(out)
	if _, err := unix.Getrandom(mem[:1], unix.GRND_NONBLOCK); err == unix.EFAULT {
		return false // mem is not mapped
	}
	_ = Unmap(mem)
	return moved
})

// takeBack moves the pages of mem, a part of the Go heap that is not used any more,
// to new addresses (MREMAP_DONTUNMAP, since Linux 5.7). mem reads as zero then, and
// stays mapped, so that nothing else is mapped there. It returns nil if that is not
// possible.
func takeBack(mem []byte) []byte {
	if takeBackRefused.Load() {
		return nil
	}
	if LazyFree(mem) != nil {
		return nil // locked (mlock(2)): the heap would not be, afterwards
	}
	to, err := mapAligned(len(mem), len(mem), unix.PROT_NONE)
	if err != nil {
		return nil
	}
	err = fault("mremap out", to, nil)
	if err == nil {
		err = moveOnto(to, mem, unix.MREMAP_DONTUNMAP)
	}
	if err != nil {
		takeBackRefused.Store(true)
		return nil
	}
	return to
}

// lost are objects that must stay reachable for ever.
var lost struct {
	sync.Mutex
	objects []*byte
}

// ClearHeap clears mem, a part of what MoveToHeap has returned, and returns whole
// units of it to the kernel.
func ClearHeap(mem []byte) {
	first := int(-uintptr(base(mem)) % uintptr(Unit()))
	if last := first + Floor(len(mem)-first); first < last && Discard(mem[first:last]) == nil {
		clear(mem[last:])
		mem = mem[:first]
	}
	clear(mem)
}

// heapObject returns a new pointer-free heap object, of which only the first
// byte has been written, and the offset in it of n bytes that are aligned to
// Unit. The caller must have probed the heap for n bytes.
func heapObject(n int) (obj *byte, skip int) {
	// Unlike make, Grow of a strings.Builder does not clear memory.
	var s strings.Builder
	s.Grow(max(n+Unit(), minObject))
	s.WriteByte(0) // the data of an empty string is unspecified
	obj = unsafe.StringData(s.String())
	// Not 0: a program that sets a finalizer on the first byte of a view must not
	// replace that of a loan.
	return obj, Unit() - int(uintptr(unsafe.Pointer(obj))%uintptr(Unit()))
}

// HeapCopy returns n bytes of Go heap, a copy of src followed by zeros. The
// caller must have probed the heap for n bytes.
func HeapCopy(src []byte, n int) []byte {
	if len(src) < n/4 {
		// The rest may never be used, and make does not touch memory
		// that is fresh from the kernel. append is used, because the
		// compiler turns make followed by copy into one call that
		// clears the rest.
		return append(make([]byte, 0, n), src...)[:n]
	}
	var s strings.Builder // see heapObject: make would clear all of it
	s.Grow(max(n, 1))
	s.Write(src)
	if len(src) == 0 {
		s.WriteByte(0)
	}
	p := bytesAt(unsafe.StringData(s.String()), 0, n)
	clear(p[len(src):])
	return p
}

// ProbeHeap returns an error if the Go heap cannot grow by an object of n bytes
// plus alignment, because the runtime ends the program if that fails. It maps
// and unmaps as much as the runtime may need: whole arenas, a table of 68 KiB
// for each, and some for its allocator.
func ProbeHeap(n int) error {
	const arena = 64 * MiB
	n = (n + Unit() + arena - 1) &^ (arena - 1)
	mem, err := mapAnywhere(n+n/512+4*MiB, unix.PROT_READ|unix.PROT_WRITE, 0)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	return Unmap(mem)
}

// HeapSplits returns how many VMAs, at most, MoveToHeap has added to those of the
// Go heap.
func HeapSplits() int64 { return splits.n.Load() }

// splits is the set of addresses at which MoveToHeap may have split VMAs. Each adds
// at most one VMA.
var splits vmaSplits

type vmaSplits struct {
	mu sync.Mutex
	at map[uintptr]struct{}
	n  atomic.Int64 // len(at)
}

// add records that pages were moved to mem, which removes splits inside of it.
func (s *vmaSplits) add(mem []byte) {
	lo := uintptr(base(mem))
	hi := lo + uintptr(len(mem))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = make(map[uintptr]struct{})
	}
	unit := uintptr(Unit())
	for x := lo + unit; x < hi; x += unit {
		delete(s.at, x)
	}
	s.at[lo] = struct{}{}
	s.at[hi] = struct{}{}
	s.n.Store(int64(len(s.at)))
}
