//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmapRefused is set once the system has refused mmap(2) permanently, as a
// seccomp filter does.
var mmapRefused atomic.Bool

// canMap reports whether new mappings may be made: mmap(2) was not refused, and
// the package does not use too many mappings already.
func canMap() bool {
	return !mmapRefused.Load() && stats.mappings.Load()+heapSplits.count() < vmaBudget()
}

// copyViews is set once mremap(2) has failed to move pages to the Go heap.
// From then on, contents are copied for a view. A release of Go that moves heap
// objects would require it from the start. Tests set it.
var copyViews atomic.Bool

// vmaBudget returns the maximum number of mappings that the package uses: half
// of what the system allows a process (proc_sys_vm(5), max_map_count), because
// the runtime needs some and fails without them. Only tests replace it.
var vmaBudget = sync.OnceValue(func() int64 {
	s, _ := os.ReadFile("/proc/sys/vm/max_map_count")
	n, err := strconv.ParseInt(strings.TrimSpace(string(s)), 10, 64)
	if err != nil {
		n = 65530 // the default
	}
	return n / 2
})

// permanent reports whether err, of a call with valid arguments, may mean that
// the system call is not available.
func permanent(err error) bool {
	switch err {
	case unix.ENOSYS, unix.EPERM, unix.EACCES, unix.EINVAL, unix.EFAULT:
		return true
	}
	return false
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
		// Some sandboxes have no /sys. Machines with pages of 4 KiB
		// have huge pages of 2 MiB, or of 1 MiB.
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

// hugePagesAlways reports whether memory gets huge pages without requesting
// them.
var hugePagesAlways = sync.OnceValue(func() bool {
	s, _ := os.ReadFile("/sys/kernel/mm/transparent_hugepage/enabled")
	return strings.Contains(string(s), "[always]")
})

// base returns the address of a mapping.
func base(mem []byte) unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(mem)) }

// Each system call on memory has one function. Tests inject failures with
// fault, which is a no-op in other builds. Lengths are multiples of the system
// page.

// mapAnywhere maps n bytes at an address that the kernel chooses, with
// MAP_PRIVATE, MAP_ANONYMOUS and flags. If memory is lacking, it empties idle
// memory and tries again.
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

// mremap makes mem, which is one VMA, n bytes long, and returns the result. On
// failure, mem is unchanged. With MREMAP_MAYMOVE in flags, it may move, and if
// memory is lacking, mremap empties idle memory and tries again.
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
		return try() // ENOMEM can mean that the addresses after mem are used
	}
	return withoutIdle(try)
}

// withoutIdle calls f, and if that fails with ENOMEM, empties idle memory and
// calls f again.
func withoutIdle(f func() ([]byte, error)) ([]byte, error) {
	mem, err := f()
	if err == unix.ENOMEM && emptyIdle() {
		return f()
	}
	return mem, err
}

// moveOnto moves the pages of from, which is one VMA, to the addresses of to,
// which is as long, in place of what is mapped there. from is then no longer
// mapped. On failure, from is unchanged, but to may have been unmapped.
//
// to may be in the Go heap. So moveOnto does not use unix.MremapPtr, which
// would convert the returned integer to a pointer into the heap.
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

func madvise(mem []byte, advice int) error {
	if err := fault("madvise", nil, nil); err != nil {
		return err
	}
	return unix.Madvise(mem, advice)
}

// munmap unmaps mem. It does nothing if mem is empty.
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

// abandon is munmap for memory that is not referenced afterwards. If it fails,
// the memory is still returned to the kernel, and only its addresses leak.
func abandon(mem []byte) error {
	err := munmap(mem)
	if err != nil {
		_ = madvise(mem, unix.MADV_DONTNEED)
	}
	return err
}

// mmap maps n bytes, a multiple of pageUnit, if possible at a multiple of
// align.
//
// It uses MAP_NORESERVE so that spare capacity is not charged until it is
// touched.
func mmap(n, align, prot int) ([]byte, error) {
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
	_ = munmap(mem)
	head := int(-uintptr(base(big)) % uintptr(align))
	_ = munmap(big[:head])
	_ = munmap(big[head+n:])
	return big[head : head+n : head+n], nil
}

// mapPages returns a new mapping of n bytes, a multiple of pageUnit, that reads
// as zero. If huge is set, it requests huge pages, unless chooseUnit rejects
// them; otherwise it disables them. If mmap(2) is refused, it sets mmapRefused.
// The error is an os.SyscallError.
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
	// Before the first access, and for all of the mapping, because
	// mremap(2) cannot grow a range of two VMAs. EINVAL from kernels
	// without huge pages is ignored.
	adviseHuge(mem, huge)
	return newPages(mem, 0, huge), nil
}

// adviseHuge requests huge pages for mem, unless chooseUnit rejects them, or
// disables them. The kernel applies that to pages that are not resident yet.
func adviseHuge(mem []byte, huge bool) {
	switch _, sensible := chooseUnit(os.Getpagesize(), hugePageSize()); {
	case !huge:
		_ = madvise(mem, unix.MADV_NOHUGEPAGE)
	case sensible:
		_ = madvise(mem, unix.MADV_HUGEPAGE)
	}
}

// resident reports whether the page of mem[i] is resident (mincore(2)).
func (p *pages) resident(i int) bool {
	if fault("mincore", nil, nil) != nil {
		return false
	}
	page := os.Getpagesize()
	var in byte
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&p.mem[i&^(page-1)])), uintptr(page), uintptr(unsafe.Pointer(&in)))
	return errno == 0 && in&1 != 0
}

// grow makes mem n bytes long, which is not less than before. Bytes beyond
// cap(mem) are new and read as zero. The mapping may move, even if grow fails.
func (p *pages) grow(n int) error {
	if n > maxSlice {
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
	case base(p.mem) == was:
		stats.growsInPlace.Add(1)
	default:
		stats.moves.Add(1)
	}
	return os.NewSyscallError("mremap", err)
}

// extend makes the mapping n bytes long, more than before: in place, or else at
// an aligned address, or else at any address. The error is an errno.
func (p *pages) extend(n int) error {
	err := p.resize(n, 0)
	if err == nil || len(p.seams) > 0 { // several VMAs cannot be moved
		return err
	}
	if err == unix.ENOMEM && p.moveAligned(n, 0) == nil {
		if err = p.resize(n, 0); err == nil {
			return nil
		}
	}
	return p.resize(n, unix.MREMAP_MAYMOVE)
}

// resize makes the mapping and mem n bytes long, more than before, by growing
// its last VMA. With MREMAP_MAYMOVE, the mapping must be one VMA. On failure,
// nothing has changed.
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

// moveAligned moves the mapping, which is one VMA, to an address that is
// aligned for n bytes and followed by free addresses, for n+room bytes in
// total. At other addresses the kernel would split huge pages and move page by
// page. On success, mem is all of the mapping. On failure, nothing has changed,
// except that some addresses may stay reserved.
//
// Growing is left to a second call: if a combined call fails, as it can for
// lack of memory, it is unknown whether the kernel has unmapped the
// reservation, and so what is mapped there. A move charges no memory. If it
// fails anyway, the addresses of its target are not used again.
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

// moveBehind moves the pages of mem[:k], which are one VMA, to mem[end:end+k],
// where nothing was written, and grows the mapping for that if necessary. On
// success, mem begins k bytes later; the caller adjusts the offsets. On
// failure, mem may have been moved, or cut to mem[:end].
func (p *pages) moveBehind(k, end int) error {
	size, need := len(p.mem), end+k
	if len(p.seams) == 0 && need > cap(p.mem)/2 {
		// From now on, the mapping advances to higher addresses with
		// each call, and cannot be moved. So move it below a large gap,
		// which the kernel fills from its upper end.
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
		// It is unknown whether the target is still mapped. Do not use
		// it again.
		_ = munmap(mem[end+k:])
		p.setMem(mem[:end:end])
		p.cutSeams()
		return err
	}
	p.seams = append(p.seams, end, end+k)
	slices.Sort(p.seams)
	p.seams = slices.Compact(p.seams)
	p.setMem(mem[k:max(size, end+k)])
	return nil
}

// unmapFront unmaps mem[:k]. The caller adjusts the offsets.
func (p *pages) unmapFront(k int) error {
	err := munmap(p.mem[:k])
	if err == nil {
		p.setMem(p.mem[k:])
	}
	return err
}

// unmapBack unmaps mem[k:cap(mem)]. The caller adjusts the offsets.
func (p *pages) unmapBack(k int) error {
	err := munmap(p.mem[k:cap(p.mem)])
	if err == nil {
		p.setMem(p.mem[:k:k])
	}
	return err
}

// discard returns the memory of mem[lo:hi], whole system pages, to the kernel.
// They stay mapped and read as zero. On failure, some of them may do so
// already.
func (p *pages) discard(lo, hi int) error {
	return os.NewSyscallError("madvise", madvise(p.mem[lo:hi], unix.MADV_DONTNEED))
}

// populate makes mem[lo:hi], whole system pages, resident. Their contents do
// not change. It is not supported before Linux 5.14. The caller need not hold
// mu.
func (p *pages) populate(lo, hi int) error {
	return os.NewSyscallError("madvise", madvise(p.mem[lo:hi], unix.MADV_POPULATE_WRITE))
}

// unmap unmaps the mapping, if there is one. mem is nil afterwards, even if
// that fails.
func (p *pages) unmap() error {
	mem := p.mem[:cap(p.mem)]
	p.setMem(nil)
	return abandon(mem)
}

// lazyFree allows the kernel to take each page of mem when it needs memory,
// until the page is written again. A page that was taken reads as zero.
func lazyFree(mem []byte) error {
	return os.NewSyscallError("madvise", madvise(mem, unix.MADV_FREE))
}

// idleMax returns the maximum of idle memory, in bytes: a sixteenth of the
// memory of the machine or of a lower limit of the process (getrlimit(2)), so
// that idle memory hardly reduces what a program can use. Only tests replace
// it.
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

// systemTime returns the time of the system, also in a bubble of
// testing/synctest.
func systemTime() time.Time {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_REALTIME, &ts) != nil {
		return time.Now()
	}
	return time.Unix(ts.Unix())
}

// minObject is a size, in bytes, from which on a heap object has a span of its
// own and shares no page with others.
const minObject = 64 * kiB

// moveToHeap moves the pages of mem[lo:hi] to the Go heap and returns them as a
// slice, with capacity hi-lo. The rest of the mapping is unmapped or becomes
// idle memory, and mem is nil. On failure, it returns nil, and the mapping is
// unchanged. The caller must have cleared bytes of earlier owners and probed the
// heap for hi-lo bytes.
func (p *pages) moveToHeap(lo, hi int) []byte {
	n := hi - lo
	if copyViews.Load() || len(p.seams) > 0 || heapSplits.count() >= vmaBudget()/2 {
		return nil
	}
	obj, skip := heapObject(n)
	to := bytesAt(obj, skip, n)
	if moveOnto(to, p.mem[lo:hi]) != nil {
		// The kernel may have unmapped the pages of obj before it
		// failed, so the runtime must not use these addresses again.
		leak(obj)
		copyViews.Store(true)
		return nil
	}
	// Withdraw the advice for huge pages, for later objects: the kernel has
	// no other call for that.
	if !hugePagesAlways() {
		_ = madvise(to, unix.MADV_NOHUGEPAGE)
	}
	heapSplits.add(to)
	_ = abandon(p.mem[:lo])
	// Not before the move, because it makes the rest available to others.
	rest := idlePages{mem: p.mem[hi:cap(p.mem)], dirty: p.dirty - hi, huge: p.huge}
	if p.sparse.Load() || !keepIdle(rest) {
		_ = abandon(rest.mem)
	}
	p.setMem(nil)
	return to
}

// bytesAt returns the n bytes that begin skip bytes after obj.
func bytesAt(obj *byte, skip, n int) []byte {
	return unsafe.Slice((*byte)(unsafe.Add(unsafe.Pointer(obj), skip)), n)
}

// leak keeps obj reachable forever, so that the runtime does not reuse
// addresses that may be unmapped.
func leak(obj *byte) {
	lost.Lock()
	lost.objects = append(lost.objects, obj)
	lost.Unlock()
}

var lost struct {
	sync.Mutex
	objects []*byte
}

// zero clears mem[lo:hi], any range, and returns whole units of it to the kernel.
// The address of mem is a multiple of pageUnit.
func zero(mem []byte, lo, hi int) {
	if first, last := pageCeil(lo), pageFloor(hi); first < last && madvise(mem[first:last], unix.MADV_DONTNEED) == nil {
		clear(mem[last:hi])
		hi = first
	}
	clear(mem[lo:hi])
}

// heapObject returns a new pointer-free heap object, of which only the first
// byte has been written, and the offset in it of n bytes that are aligned to
// pageUnit. The caller must have probed the heap for n bytes.
func heapObject(n int) (obj *byte, skip int) {
	// Unlike make, Grow of a strings.Builder does not clear memory.
	var s strings.Builder
	s.Grow(max(n+pageUnit(), minObject))
	s.WriteByte(0) // the data of an empty string is unspecified
	obj = unsafe.StringData(s.String())
	return obj, int(-uintptr(unsafe.Pointer(obj)) % uintptr(pageUnit()))
}

// heapCopy returns n bytes of Go heap, a copy of src followed by zeros. The
// caller must have probed the heap for n bytes.
func heapCopy(src []byte, n int) []byte {
	if len(src) < n/2 {
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

// probeHeap returns an error if the Go heap cannot grow by an object of n bytes
// plus alignment, because the runtime ends the program if that fails. It maps
// and unmaps as much as the runtime may need: whole arenas, a table of 68 KiB
// for each, and some for its allocator.
func probeHeap(n int) error {
	const arena = 64 * miB
	n = (n + pageUnit() + arena - 1) &^ (arena - 1)
	mem, err := mapAnywhere(n+n/512+4*miB, unix.PROT_READ|unix.PROT_WRITE, 0)
	if err != nil {
		return os.NewSyscallError("mmap", err)
	}
	return munmap(mem)
}

// heapSplits is the set of addresses at which publishing may have split VMAs of
// the Go heap. Each adds at most one VMA.
var heapSplits vmaSplits

type vmaSplits struct {
	mu sync.Mutex
	at map[uintptr]struct{}
	n  atomic.Int64 // len(at)
}

func (s *vmaSplits) count() int64 { return s.n.Load() }

// add records that pages were moved to mem, which removes splits inside of it.
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
