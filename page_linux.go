//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"errors"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What the system refuses for a reason that will not go away (a seccomp filter,
// an emulated kernel) is not asked for again.
var mmapRefused, mremapRefused atomic.Bool

// canMap reports whether mappings can be had. It is also false while the
// process has too many.
func canMap() bool {
	return !mmapRefused.Load() && stats.mappings.Load()+heapSplits.count() < vmaBudget()
}

// publishCopies has views copied where pages would be moved to the Go heap: what
// is left to do should a release of Go move heap objects. Only tests set it.
var publishCopies = false

// canRemap reports whether mappings can be moved and grown, as far as is known.
func canRemap() bool { return !mremapRefused.Load() }

// vmaBudget returns how many mappings the package takes at most: half of what
// the system allows a process (proc_sys_vm(5), max_map_count), for the runtime
// needs some and dies without. Only tests replace it.
var vmaBudget = sync.OnceValue(func() int64 {
	s, _ := os.ReadFile("/proc/sys/vm/max_map_count")
	n, err := strconv.ParseInt(strings.TrimSpace(string(s)), 10, 64)
	if err != nil {
		n = 65530 // the default
	}
	return n / 2
})

// refused reports whether err, of a call with valid arguments, may not be for
// want of memory. Then another mapping is worth a try, for it may be about this
// one: mlock(2), madvise(2) and mprotect(2) of a part make it two VMAs.
func refused(err error) bool {
	var errno unix.Errno
	return errors.As(err, &errno) && (permanent(errno) || errno == unix.EAGAIN)
}

// permanent reports whether an errno may mean that a call is not available.
func permanent(err error) bool {
	switch err {
	case unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EINVAL, unix.EFAULT:
		return true
	}
	return false
}

// probeRemap is called after mremap(2) has failed for a mapping. It finds out
// with a fresh one whether it is refused as such.
func probeRemap(err error) {
	if permanent(err) && !mremapRefused.Load() {
		tryRemap()
	}
}

// remapWorks finds out whether mremap(2) can grow a mapping, for ENOMEM need not
// be for want of memory: the Linux layer of FreeBSD has no other answer. It is
// asked before a Buffer reports that it cannot grow, and not sooner, for what
// it maps may be the last that there is.
func remapWorks() bool {
	if canRemap() {
		tryRemap()
	}
	return canRemap()
}

// tryRemap moves and grows a fresh mapping, and remembers it if that is refused.
func tryRemap() {
	n := pageUnit()
	mem, err := mapAnywhere(n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_NORESERVE)
	if err != nil {
		return
	}
	to, err := mapAnywhere(n, unix.PROT_NONE, unix.MAP_NORESERVE)
	if err == nil {
		if err = moveOnto(to, mem); err == nil {
			mem, to = to, nil
		}
		_ = munmap(to)
	}
	if err == nil {
		var more []byte
		if more, err = mremap(mem, 2*n, unix.MREMAP_MAYMOVE); err == nil {
			mem = more
		}
	}
	_ = munmap(mem)
	if permanent(err) {
		mremapRefused.Store(true)
	}
}

func systemPageUnit() int {
	unit, _ := chooseUnit(os.Getpagesize(), hugePageSize())
	return unit
}

// hugePageSize returns the size of the pages that MADV_HUGEPAGE asks for, or 0
// if the kernel has none.
var hugePageSize = sync.OnceValue(func() int {
	const dir = "/sys/kernel/mm/"
	s, err := os.ReadFile(dir + "transparent_hugepage/hpage_pmd_size")
	if err != nil {
		// Some sandboxes have no /sys, and all machines with pages of this size
		// have huge ones of that, or of 1 MiB.
		if _, err := os.Stat(dir); err != nil && os.Getpagesize() == 4*kiB {
			return 2 * miB
		}
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(s)))
	if err != nil || n&(n-1) != 0 {
		return 0
	}
	return n
})

// hugePagesAlways reports whether all memory gets huge pages, asked for or not.
var hugePagesAlways = sync.OnceValue(func() bool {
	s, _ := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	return strings.Contains(string(s), "[always]")
})

// base returns the address of a mapping.
func base(mem []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(mem)) }

// The system calls, each kind of them in one function. fault is where tests
// make them fail; in other builds it is nothing.

// mapAnywhere maps n bytes at an address of the kernel's choice.
func mapAnywhere(n, prot, flags int) ([]byte, error) {
	return withoutIdle(func() ([]byte, error) {
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

// mremap makes the mapping mem n bytes long and returns where it is then.
func mremap(mem []byte, n, flags int) ([]byte, error) {
	try := func() ([]byte, error) {
		if err := fault("mremap", nil, mem); err != nil {
			return nil, err
		}
		p, err := unix.MremapPtr(base(mem), uintptr(len(mem)), nil, uintptr(n), flags)
		if err != nil {
			return nil, err
		}
		return unsafe.Slice((*byte)(p), n), nil
	}
	if flags&unix.MREMAP_MAYMOVE == 0 {
		return try() // what is lacking may be the room to grow in place
	}
	return withoutIdle(try)
}

// withoutIdle calls f, and if memory is lacking once more, without idle memory.
func withoutIdle(f func() ([]byte, error)) ([]byte, error) {
	mem, err := f()
	if err == unix.ENOMEM && emptyIdle() {
		return f()
	}
	return mem, err
}

// moveOnto moves the pages of from, a mapping, to the addresses of to, which
// may be of the Go heap. That is why it is not unix.MremapPtr: no pointer to
// the heap may be made of the integer that the system call returns.
func moveOnto(to, from []byte) error {
	if err := fault("mremap fixed", to, from); err != nil {
		return err
	}
	n := uintptr(len(from))
	at, _, errno := unix.Syscall6(unix.SYS_MREMAP, uintptr(base(from)), n, n,
		unix.MREMAP_MAYMOVE|unix.MREMAP_FIXED, uintptr(base(to)), 0)
	switch {
	case errno != 0:
		return errno
	case at != uintptr(base(to)): // the Linux layer of FreeBSD: nothing was moved
		return unix.ENOSYS
	}
	return nil
}

// mapOnto maps pages such as the runtime does at the addresses of to, which are
// of the Go heap; see moveOnto. How says what may be there.
func mapOnto(to []byte, how uintptr) error {
	if err := fault("mmap fixed", to, nil); err != nil {
		return err
	}
	args := [6]uintptr{
		uintptr(base(to)), uintptr(len(to)), unix.PROT_READ | unix.PROT_WRITE,
		unix.MAP_PRIVATE | unix.MAP_ANONYMOUS | how, ^uintptr(0), 0,
	}
	var at uintptr
	var errno unix.Errno
	if runtime.GOARCH == "s390x" { // has the arguments in memory
		at, _, errno = unix.Syscall(unix.SYS_MMAP, uintptr(unsafe.Pointer(&args)), 0, 0)
	} else {
		at, _, errno = unix.Syscall6(unix.SYS_MMAP, args[0], args[1], args[2], args[3], args[4], args[5])
	}
	switch {
	case errno != 0:
		return errno
	case at != args[0]: // a kernel before 4.17, which takes MAP_FIXED_NOREPLACE for a wish
		_, _, _ = unix.Syscall(unix.SYS_MUNMAP, at, args[1], 0)
		return unix.EEXIST
	}
	// The kernel merges VMAs only if they have the same name, where it knows names.
	if fault("prctl", nil, nil) == nil {
		_ = unix.Prctl(unix.PR_SET_VMA, unix.PR_SET_VMA_ANON_NAME, args[0], args[1], uintptr(unsafe.Pointer(&heapName)))
	}
	runtime.KeepAlive(to)
	return nil
}

// heapName is what the runtime names its heap (PR_SET_VMA(2const)).
var heapName = [...]byte{' ', 'G', 'o', ':', ' ', 'h', 'e', 'a', 'p', 0}

func madvise(mem []byte, advice int) error {
	if err := fault("madvise", nil, nil); err != nil {
		return err
	}
	return unix.Madvise(mem, advice)
}

func munmap(mem []byte) error {
	if len(mem) == 0 {
		return nil
	}
	err := fault("munmap", mem, nil)
	if err == nil {
		err = unix.MunmapPtr(base(mem), uintptr(len(mem)))
	}
	return os.NewSyscallError("munmap", err)
}

// abandon is munmap for memory that nobody uses or knows of afterwards. If it
// fails, the memory is returned to the kernel all the same, and only addresses
// stay in use.
func abandon(mem []byte) error {
	err := munmap(mem)
	if err != nil {
		_ = madvise(mem, unix.MADV_DONTNEED)
	}
	return err
}

// mmap maps n bytes somewhere, at a multiple of align if that can be had.
//
// MAP_NORESERVE: memory counts when it is touched, and spare capacity is not.
func mmap(n, align, prot int) ([]byte, error) {
	mem, err := mapAnywhere(n, prot, unix.MAP_NORESERVE)
	if err != nil || uintptr(base(mem))%uintptr(align) == 0 {
		return mem, err
	}
	// Kernels before 6.7 do not align, and none does to 1 GiB: take more and
	// discardConsumed.
	big, err := mapAnywhere(n+align, prot, unix.MAP_NORESERVE)
	if err != nil {
		return mem, nil
	}
	_ = munmap(mem)
	head := int(-uintptr(base(big)) % uintptr(align))
	_ = munmap(big[:head])
	_ = munmap(big[head+n:])
	return big[head : head+n : head+n], nil
}

// mapPages maps n bytes that read as zero, with huge pages, if they are of a
// sensible size, or without.
func mapPages(n int, huge bool) (*pages, error) {
	if n > maxSlice {
		return nil, os.NewSyscallError("mmap", unix.ENOMEM)
	}
	mem, err := mmap(n, alignment(n), unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		if permanent(err) {
			mmapRefused.Store(true)
		}
		return nil, os.NewSyscallError("mmap", err)
	}
	// Before the first touch, and over the whole: the mapping must stay one
	// VMA, for mremap(2) grows no range of two. A kernel that does not do
	// huge pages says EINVAL, and that is all right.
	switch _, sensible := chooseUnit(os.Getpagesize(), hugePageSize()); {
	case !huge:
		_ = madvise(mem, unix.MADV_NOHUGEPAGE)
	case sensible:
		_ = madvise(mem, unix.MADV_HUGEPAGE)
	}
	return newPages(mem, huge), nil
}

// grow makes the mapping n bytes long; the new ones read as zero. It may move
// it, even if it fails.
func (p *pages) grow(n int) error {
	if n > maxSlice {
		// Newer kernels say EINVAL, which is not to be taken for a refusal.
		return os.NewSyscallError("mremap", unix.ENOMEM)
	}
	if n <= cap(p.mem) {
		p.mem = p.mem[:n]
		return nil
	}
	was := base(p.mem)
	err := p.extend(n)
	switch {
	case err != nil:
		p.noRemap = refused(err)
		probeRemap(err)
	case base(p.mem) == was:
		stats.growsInPlace.Add(1)
	default:
		stats.moves.Add(1)
	}
	return os.NewSyscallError("mremap", err)
}

// extend grows the mapping in place, or else at an aligned place, or else at
// any.
func (p *pages) extend(n int) error {
	err := p.resize(n, 0)
	if err != nil && len(p.seams) > 0 {
		return unix.EAGAIN // it takes another mapping
	}
	if err != nil && !refused(err) && p.moveAligned(n, 0) == nil {
		err = p.resize(n, 0)
	}
	if err != nil && !refused(err) {
		err = p.resize(n, unix.MREMAP_MAYMOVE)
	}
	return err
}

// resize makes the mapping n bytes long. With MREMAP_MAYMOVE it must be one VMA.
func (p *pages) resize(n, flags int) error {
	last := 0
	if k := len(p.seams); k > 0 {
		last = p.seams[k-1]
	}
	mem, err := mremap(p.mem[last:cap(p.mem)], n-last, flags)
	if err != nil {
		return err
	}
	if last > 0 {
		mem = bytesAt(&p.mem[0], 0, n)
	}
	p.setMem(mem)
	return nil
}

// moveAligned moves the mapping to where it can grow to n bytes in place, and
// perhaps by room more later, at an address of the right alignment: at any other
// the kernel would split huge pages and move page by page.
//
// It moves and leaves the growing to a second call, because a growth that
// fails for some limit would leave it unknown whether the kernel has unmapped
// the reservation, and so whose those addresses are. A mere move charges
// nothing. Should it fail all the same, its target is not touched again.
func (p *pages) moveAligned(n, room int) error {
	to, err := mmap(n+room, alignment(n), unix.PROT_NONE)
	if err != nil {
		return err
	}
	size := cap(p.mem)
	err = moveOnto(to[:size], p.mem[:size])
	if err == nil {
		p.setMem(to[:size:size])
	}
	_ = munmap(to[size:])
	return err
}

// moveBehind moves mem[:k], of one VMA, to mem[end:end+k], where nothing was
// written, and takes it off the front. If it fails, mem is cut at end at most.
func (p *pages) moveBehind(k, end int) error {
	size, need := len(p.mem), end+k
	if len(p.seams) == 0 && need > cap(p.mem)/2 {
		// From now on the mapping goes upwards with each call, and cannot be
		// moved. So it starts below a gap, of which the kernel gives the upper
		// end to others first.
		if p.moveAligned(cap(p.mem), 1<<40) != nil {
			_ = p.moveAligned(cap(p.mem), 16*need)
		}
	}
	if need > cap(p.mem) {
		if err := p.resize(need, 0); err != nil {
			p.mem = p.mem[:size]
			return err
		}
	}
	mem := p.mem[:cap(p.mem)]
	if err := moveOnto(mem[end:end+k], mem[:k]); err != nil {
		// It is not known whether the target is still mapped. It is not
		// touched again.
		_ = munmap(mem[end+k:])
		p.setMem(mem[:end:end])
		p.cutSeams()
		p.noRemap = true
		return err
	}
	p.seams = append(p.seams, end, end+k)
	slices.Sort(p.seams)
	p.seams = slices.Compact(p.seams)
	p.setMem(mem[k:max(size, end+k)])
	return nil
}

// unmapFront unmaps mem[:k].
func (p *pages) unmapFront(k int) error {
	err := munmap(p.mem[:k])
	if err == nil {
		p.setMem(p.mem[k:])
	}
	return err
}

// unmapBack unmaps mem[k:].
func (p *pages) unmapBack(k int) error {
	err := munmap(p.mem[k:cap(p.mem)])
	if err == nil {
		p.setMem(p.mem[:k:k])
	}
	return err
}

// discard returns the memory of mem[lo:hi] to the kernel. Its addresses stay,
// and read as zero.
func (p *pages) discard(lo, hi int) error {
	return os.NewSyscallError("madvise", madvise(p.mem[lo:hi], unix.MADV_DONTNEED))
}

// populate gets memory for mem[lo:hi], whole pages, at once. The kernel may not
// know how.
func (p *pages) populate(lo, hi int) error {
	return os.NewSyscallError("madvise", madvise(p.mem[lo:hi], unix.MADV_POPULATE_WRITE))
}

// unmap unmaps all of mem. It does nothing the second time.
func (p *pages) unmap() error {
	mem := p.mem[:cap(p.mem)]
	p.setMem(nil)
	return abandon(mem)
}

// lazyFree lets the kernel take the memory of mem when it needs some, unless it
// is written again before. Until then it reads as before, afterwards as zero.
func lazyFree(mem []byte) error {
	return os.NewSyscallError("madvise", madvise(mem, unix.MADV_FREE))
}

// idleMax returns how many bytes of idle memory there may be: a sixteenth of
// what the machine has, and of what limits (getrlimit(2)) leave the process, so
// that it makes no difference to what a program can do. Only tests replace it.
var idleMax = sync.OnceValue(func() int {
	n := uint64(math.MaxInt)
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		n = info.Totalram * uint64(info.Unit)
	}
	for _, resource := range []int{unix.RLIMIT_AS, unix.RLIMIT_DATA} {
		var limit unix.Rlimit
		if unix.Getrlimit(resource, &limit) == nil {
			n = min(n, limit.Cur)
		}
	}
	return int(n / 16)
})

// minObject is a size, in bytes, above which a heap object has a span of its
// own and is not next to others in a page.
const minObject = 64 * kiB

// moveToHeap makes mem[lo:hi] part of the Go heap, and returns it as a slice of
// that. The mapping is then gone. Where that cannot be, it returns nil and
// leaves the mapping as it was.
func (p *pages) moveToHeap(lo, hi int) []byte {
	n := hi - lo
	if publishCopies || !canRemap() || len(p.seams) > 0 || heapSplits.count() >= vmaBudget()/2 {
		return nil
	}
	obj, skip := heapObject(n)
	to := bytesAt(obj, skip, n)
	if err := moveOnto(to, p.mem[lo:hi]); err != nil {
		// Nobody has a use for obj now, but the kernel may have unmapped its
		// pages before it failed, and the collector will use the place again.
		// If the place is not free, it is not known whose pages are there.
		if mapOnto(to, unix.MAP_FIXED_NOREPLACE) != nil {
			leak(obj)
		}
		probeRemap(err)
		return nil
	}
	// The heap gets huge pages where all memory does, and the place is to be
	// like the rest of it when it is used again.
	if !hugePagesAlways() {
		_ = madvise(to, unix.MADV_NOHUGEPAGE)
	}
	heapSplits.add(to)
	_ = abandon(p.mem[:lo])
	// Others may use the rest from now on. Had the move failed, the owner would.
	if p.cutBack(hi) != nil {
		_ = abandon(p.mem[hi:cap(p.mem)])
	}
	p.setMem(nil)
	return to
}

// bytesAt returns n bytes of obj, skip bytes from its start.
func bytesAt(obj *byte, skip, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(obj), skip)), n)
}

// leak keeps obj for good, so that nobody comes to use a place in the heap that
// may have no pages.
func leak(obj *byte) {
	lost.Lock()
	lost.objects = append(lost.objects, obj)
	lost.Unlock()
}

var lost struct {
	sync.Mutex
	objects []*byte
}

// heapObject returns a pointer-free object of the Go heap that nobody has
// written to, and where in it n bytes begin that are aligned to pageUnit.
func heapObject(n int) (obj *byte, skip int) {
	// Of all ways to get memory from Go, this alone does not clear it.
	var s strings.Builder
	s.Grow(max(n+pageUnit(), minObject))
	s.WriteByte(0) // the data of an empty string is unspecified
	obj = unsafe.StringData(s.String())
	return obj, int(-uintptr(unsafe.Pointer(obj)) % uintptr(pageUnit()))
}

// heapCopy returns n bytes of Go heap that begin with a copy of src, and are zero
// after it.
func heapCopy(src []byte, n int) []byte {
	if len(src) < n/2 {
		// The rest may never be used. Memory that is fresh, as that of large
		// objects mostly is, make does not touch; but make with a copy at once,
		// which compiles to a call of its own, does.
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

// probeHeap reports whether n bytes more of Go heap can be had, for if not, the
// runtime dies of it. It maps and unmaps as much as the runtime would at most,
// to make an object for n bytes to be published to: whole arenas, and a table
// of 68 KiB for each, with a little for its allocator.
func probeHeap(n int) error {
	const arena = 64 * miB
	n = (n + pageUnit() + arena - 1) &^ (arena - 1)
	mem, err := mapAnywhere(n+n/512+4*miB, unix.PROT_READ|unix.PROT_WRITE, 0)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	return munmap(mem)
}

// heapSplits are the addresses at which publishing has parted the VMAs of the Go
// heap: at most one VMA more for each.
var heapSplits vmaSplits

type vmaSplits struct {
	mu sync.Mutex
	at map[uintptr]struct{}
	n  atomic.Int64 // len(at)
}

func (s *vmaSplits) count() int64 { return s.n.Load() }

// add takes account of pages that were moved to mem. What was there has gone.
func (s *vmaSplits) add(mem []byte) {
	lo := uintptr(base(mem))
	hi := lo + uintptr(len(mem))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at == nil {
		s.at = make(map[uintptr]struct{})
	}
	unit := uintptr(pageUnit())
	for x := lo + unit; x < hi; x += unit {
		delete(s.at, x)
	}
	s.at[lo] = struct{}{}
	s.at[hi] = struct{}{}
	s.n.Store(int64(len(s.at)))
}
