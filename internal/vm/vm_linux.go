//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package vm

import (
	"errors"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapRefused is set once the system has refused mmap(2) permanently, as a
// seccomp filter does.
var mapRefused atomic.Bool

// moveRefused is set once mremap(2) with MREMAP_FIXED has failed. The kernel may
// have unmapped the target before it failed, and something else may be mapped there
// by now. So the addresses of a target are given up, and no other call is made that
// could cost more of them: what would be moved is copied.
//
// A release of Go that moves heap objects would require it from the start.
var moveRefused atomic.Bool

// MovesRefused reports whether MoveOnto does nothing but fail.
func MovesRefused() bool { return moveRefused.Load() }

// Available reports whether there are mappings: false once the system has refused
// mmap(2) for good.
func Available() bool { return !mapRefused.Load() }

// MaxMappings returns the number of mappings that the system allows a process
// (proc_sys_vm(5), max_map_count).
func MaxMappings() int64 {
	s, _ := os.ReadFile("/proc/sys/vm/max_map_count")
	n, err := strconv.ParseInt(strings.TrimSpace(string(s)), 10, 64)
	if err != nil {
		return 65530 // the default
	}
	return n
}

// Memory returns the size of the machine's memory, in bytes, or a lower limit of
// the process (getrlimit(2)).
func Memory() int {
	n := uint64(math.MaxInt)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n = min(n, info.Totalram*uint64(info.Unit))
	}
	for _, resource := range []int{unix.RLIMIT_AS, unix.RLIMIT_DATA} {
		var limit unix.Rlimit
		if unix.Getrlimit(resource, &limit) == nil {
			n = min(n, limit.Cur)
		}
	}
	return int(n)
}

// Time returns the time of the system, also in a bubble of testing/synctest.
func Time() time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME, &ts) != nil {
		return time.Now()
	}
	return time.Unix(ts.Unix())
}

func systemUnit() int {
	unit, _ := chooseUnit(os.Getpagesize(), hugePageSize())
	return unit
}

// hugePageSize returns the size of the pages that MADV_HUGEPAGE asks for, or 0
// if the kernel has none.
var hugePageSize = sync.OnceValue(func() int {
	const dir = "/sys/kernel/mm/"
	s, err := os.ReadFile(dir + "transparent_hugepage/hpage_pmd_size")
	if err != nil {
		// Some sandboxes have no /sys. Machines with pages of 4 KiB
		// have huge pages of 2 MiB, or of 1 MiB.
		if _, err := os.Stat(dir); err != nil && os.Getpagesize() == 4*KiB {
			return 2 * MiB
		}
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(s)))
	if err != nil || n&(n-1) != 0 {
		return 0
	}
	return n
})

// hugePagesAlways reports whether memory gets huge pages without requesting
// them.
var hugePagesAlways = sync.OnceValue(func() bool {
	s, _ := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	return strings.Contains(string(s), "[always]")
})

// base returns the address of mem.
func base(mem []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(mem)) }

// bytesAt returns the n bytes that begin skip bytes after obj.
func bytesAt(obj *byte, skip, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(obj), skip)), n)
}

// Join returns the n bytes that begin with mem: mem and the mapping after it.
func Join(mem []byte, n int) []byte { return bytesAt(unsafe.SliceData(mem), 0, n) }

// Each system call on memory has one function. Tests inject failures with fault,
// which is a no-op in other builds. Errors are os.SyscallErrors outside of the
// package, and errnos within.

// mapAnywhere maps n bytes at an address that the kernel chooses, with
// MAP_PRIVATE, MAP_ANONYMOUS and flags.
func mapAnywhere(n, prot, flags int) ([]byte, error) {
	return orReclaim(func() ([]byte, error) {
		if err := fault("mmap", nil, nil); err != nil {
			return nil, err
		}
		p, err := unix.MmapPtr(-1, 0, nil, uintptr(n), prot, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|flags)
		if err != nil {
			return nil, err
		}
		return unsafe.Slice((*byte)(p), n), nil
	})
}

// orReclaim calls f, and if that fails for lack of memory, Reclaim, and f again.
func orReclaim(f func() ([]byte, error)) ([]byte, error) {
	mem, err := f()
	if err == unix.ENOMEM && Reclaim() {
		return f()
	}
	return mem, err
}

// Resize makes mem, which is one VMA, n bytes long, and returns the result. With
// mayMove, it may be elsewhere then (MREMAP_MAYMOVE). New bytes read as zero. On
// failure, nothing has changed.
func Resize(mem []byte, n int, mayMove bool) ([]byte, error) {
	mem, err := resize(mem, n, mayMove)
	return mem, os.NewSyscallError("mremap", err)
}

// NoRoom reports whether err is that there is no memory, or, from Resize in place,
// that the addresses after the mapping are used.
func NoRoom(err error) bool { return errors.Is(err, unix.ENOMEM) }

func resize(mem []byte, n int, mayMove bool) ([]byte, error) {
	if n > MaxSize {
		return nil, unix.ENOMEM
	}
	try := func(flags int) ([]byte, error) {
		if err := fault("mremap", nil, mem); err != nil {
			return nil, err
		}
		p, err := unix.MremapPtr(base(mem), uintptr(len(mem)), nil, uintptr(n), flags)
		if err != nil {
			return nil, err
		}
		return unsafe.Slice((*byte)(p), n), nil
	}
	if !mayMove {
		return try(0) // ENOMEM can mean that the addresses after mem are used
	}
	return orReclaim(func() ([]byte, error) { return try(unix.MREMAP_MAYMOVE) })
}

// MoveOnto moves the pages of from, which is one VMA, to the addresses of to,
// which is as long, in place of what is mapped there. from is then no longer
// mapped. On failure, from is unchanged, but to may have been unmapped: the caller
// must not use it again. After the first failure, MoveOnto does nothing but fail.
func MoveOnto(to, from []byte) error {
	if moveRefused.Load() {
		return os.NewSyscallError("mremap", unix.ENOSYS)
	}
	err := fault("mremap fixed", to, from)
	if err == nil {
		err = moveOnto(to, from, 0)
	}
	if err != nil {
		moveRefused.Store(true)
	}
	return os.NewSyscallError("mremap", err)
}

// moveOnto moves pages with MREMAP_FIXED and flags. As to may be in the Go heap, it
// does not use unix.MremapPtr, which would convert the returned integer to a pointer
// into the heap.
func moveOnto(to, from []byte, flags uintptr) error {
	n := uintptr(len(from))
	at, _, errno := unix.Syscall6(unix.SYS_MREMAP, uintptr(base(from)), n, n,
		unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED|flags, uintptr(base(to)), 0)
	switch {
	case errno != 0:
		return errno
	case at != uintptr(base(to)): // the Linux layer of FreeBSD: nothing was moved
		return unix.ENOSYS
	}
	return nil
}

func madvise(mem []byte, advice int) error {
	err := fault("madvise", nil, nil)
	if err == nil {
		err = unix.Madvise(mem, advice)
	}
	return os.NewSyscallError("madvise", err)
}

// Discard returns the memory of mem, whole system pages, to the kernel
// (MADV_DONTNEED). They stay mapped and read as zero. On failure, some of them may
// do so already.
func Discard(mem []byte) error { return madvise(mem, unix.MADV_DONTNEED) }

// LazyFree allows the kernel to take each page of mem when it needs memory, until
// the page is written again (MADV_FREE). A page that was taken reads as zero. It
// fails for locked memory (mlock(2)).
func LazyFree(mem []byte) error { return madvise(mem, unix.MADV_FREE) }

// Populate makes mem, whole system pages, resident. Their contents do not change.
// It is not supported before Linux 5.14 (MADV_POPULATE_WRITE).
func Populate(mem []byte) error { return madvise(mem, unix.MADV_POPULATE_WRITE) }

// AdviseHuge requests huge pages for mem, unless chooseUnit rejects them, or
// disables them. The kernel applies that to pages that are not resident yet, and
// to VMAs: apply it to all of a mapping, so that it remains one.
func AdviseHuge(mem []byte, huge bool) {
	switch _, sensible := chooseUnit(os.Getpagesize(), hugePageSize()); {
	case !huge:
		_ = madvise(mem, unix.MADV_NOHUGEPAGE)
	case sensible:
		_ = madvise(mem, unix.MADV_HUGEPAGE)
	}
}

// Resident reports whether the page of mem[i] is resident (mincore(2)).
func Resident(mem []byte, i int) bool {
	if fault("mincore", nil, nil) != nil {
		return false
	}
	var in byte
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[PageFloor(i)])), uintptr(os.Getpagesize()), uintptr(unsafe.Pointer(&in)))
	return errno == 0 && in&1 != 0
}

// Unmap unmaps mem. It does nothing if mem is empty. On failure, mem is still
// mapped.
func Unmap(mem []byte) error {
	if len(mem) == 0 {
		return nil
	}
	err := fault("munmap", mem, nil)
	if err == nil {
		err = unix.MunmapPtr(base(mem), uintptr(len(mem)))
	}
	return os.NewSyscallError("munmap", err)
}

// Abandon is Unmap for memory that is not used afterwards. If it fails, the memory
// is still returned to the kernel, and only its addresses leak.
func Abandon(mem []byte) error {
	err := Unmap(mem)
	if err != nil {
		_ = Discard(mem)
	}
	return err
}

// mapAligned maps n bytes, a multiple of Unit, if possible at a multiple of
// alignment(size).
//
// It uses MAP_NORESERVE so that spare capacity is not charged until it is
// touched.
func mapAligned(n, size, prot int) ([]byte, error) {
	align := alignment(size)
	mem, err := mapAnywhere(n, prot, unix.MAP_NORESERVE)
	if err != nil || uintptr(base(mem))%uintptr(align) == 0 {
		return mem, err
	}
	// Linux does not align to 1 GiB, and before 6.7 not to huge pages
	// either. Map more and cut it.
	big, err := mapAnywhere(n+align, prot, unix.MAP_NORESERVE)
	if err != nil {
		return mem, nil
	}
	_ = Unmap(mem)
	head := int(-uintptr(base(big)) % uintptr(align))
	_ = Unmap(big[:head])
	_ = Unmap(big[head+n:])
	return big[head : head+n : head+n], nil
}

// Map returns a new mapping of n bytes, a multiple of Unit, that reads as zero and
// is one VMA. It requests huge pages if huge is set, and disables them otherwise.
// If mmap(2) is refused for good, Available reports false afterwards.
func Map(n int, huge bool) ([]byte, error) {
	if n > MaxSize {
		return nil, os.NewSyscallError("mmap", unix.ENOMEM)
	}
	mem, err := mapAligned(n, n, unix.PROT_READ|unix.PROT_WRITE)
	switch err {
	case nil:
		AdviseHuge(mem, huge) // before the first access; EINVAL of kernels without huge pages is ignored
	case unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EINVAL, unix.EFAULT:
		mapRefused.Store(true) // the arguments are valid
	}
	return mem, os.NewSyscallError("mmap", err)
}

// MoveAligned moves mem, which is one VMA, to an address that is aligned for n
// bytes and followed by free addresses, for n+room bytes in total, and returns it.
// At other addresses the kernel would split huge pages and move page by page. On
// failure, mem is unchanged.
//
// Growing is left to a second call: if a combined call fails, as it can for lack of
// memory, it is unknown whether the kernel has unmapped the reservation, and so
// what is mapped there. A move charges no memory. If it fails anyway, the addresses
// of its target stay reserved, once: see moveRefused.
func MoveAligned(mem []byte, n, room int) ([]byte, error) {
	if moveRefused.Load() {
		return nil, os.NewSyscallError("mremap", unix.ENOSYS)
	}
	to, err := mapAligned(n+room, n, unix.PROT_NONE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	size := len(mem)
	err = MoveOnto(to[:size], mem)
	_ = Unmap(to[size:])
	return to[:size:size], err
}
