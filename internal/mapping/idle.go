package mapping

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// The memory of freed mappings is kept for a while, as net/http keeps idle
// connections: using a page again costs about a tenth of a page that the kernel
// must allocate and clear.
//
// The kernel may take idle memory whenever it needs memory (MADV_FREE,
// madvise(2)), so idle memory does not cause OOM kills. The package unmaps it
// at the second tick, after a collection that the program requested, near the memory
// limit, and when the kernel refuses memory. Its size is at most idleMax.
//
// Idle memory holds bytes of earlier Buffers. They are overwritten, or cleared
// when they are committed.

// period is the time between two ticks. Memory is idle for one or two of them: longer
// than between two jobs of a busy service, and too short to be seen in the memory of
// one that is not. Only tests replace it.
var period = 750 * time.Millisecond

const (
	// IdleMin is the least capacity, in bytes, for which idle memory is
	// used. For less, a slice is faster.
	IdleMin = 32 * vm.KiB

	// idleCount is the number of idle mappings at most: a sixteenth of those
	// that Linux allows a process by default.
	idleCount = 4096
)

// idlePages is a mapping of one VMA that is not in use.
type idlePages struct {
	mem   []byte
	dirty int  // mem[dirty:] reads as zero
	huge  bool // see pages
	since int  // the tick before it became idle
	rest  int  // the tick before what its last owner has not used became idle
}

var idle struct {
	freeing sync.Mutex // held while mappings that were taken off the list are unmapped
	mu      sync.Mutex
	list    []idlePages    // oldest first
	reused  map[*pages]int // mappings with unused idle memory: the tick before it became idle
	loans   []loan         // views whose pages may come back, oldest first
	ticks   int
	ticking bool // tick is scheduled

	bytes atomic.Int64 // sum of dirty
	lent  atomic.Int64 // bytes of loans that are not over
}

func init() { vm.Reclaim = EmptyIdle }

// idleMax returns the maximum of idle memory, in bytes: a sixteenth of what the
// process can have, so that idle memory hardly reduces what a program can use. Only
// tests replace it.
var idleMax = sync.OnceValue(func() int { return vm.Memory() / 16 })

// takeIdle returns the pages of an idle mapping, with n bytes, rounded up to a
// multiple of vm.Unit, in mem and perhaps more in its capacity. It returns nil
// if there is none. huge is as in vm.Map. Some time later, freeExcess frees what
// the new owner has not committed.
func takeIdle(n int, huge bool) *pages {
	if idle.bytes.Load() == 0 || inBubble() {
		return nil
	}
	n, ok := vm.Round(n)
	if !ok {
		return nil
	}
	e := popIdle(n, huge)
	if e.mem == nil {
		return nil
	}
	p := newPages(e.mem[:n], e.dirty, huge)
	idle.mu.Lock()
	if idle.reused == nil {
		idle.reused = make(map[*pages]int)
	}
	idle.reused[p] = e.rest
	startTicking()
	idle.mu.Unlock()
	return p
}

// inBubble reports whether the caller is in a bubble of testing/synctest, whose time
// is not that of the system. A timer that is started there ends with the bubble.
func inBubble() bool { return time.Since(vm.Time()).Abs() > time.Second }

// popIdle removes the largest mapping of at least n bytes among the last maxScan from
// the list and returns it. If there is none, mem is nil.
//
// Nobody knows how large a Buffer will become. With the largest it grows by fewer
// pages that are new, and small ones become old: a service that closes its Buffers took
// 0.9 of the CPU time that it took with the last.
func popIdle(n int, huge bool) (e idlePages) {
	idle.mu.Lock()
	defer idle.mu.Unlock()
	const maxScan = 32 // takes less time than a system call
	best := -1
	for i := len(idle.list) - 1; i >= max(len(idle.list)-maxScan, 0); i-- {
		if x := &idle.list[i]; len(x.mem) >= n && x.huge == huge && (best < 0 || x.dirty > e.dirty) {
			best, e = i, *x
		}
	}
	if best >= 0 {
		idle.list = slices.Delete(idle.list, best, best+1)
		idle.bytes.Add(int64(-e.dirty))
	}
	return e
}

// keepIdle makes mem[k:cap(mem)] of p idle memory, or reports false and leaves it to
// the caller. It may unmap the end of it, and the oldest idle memory. The caller
// holds the lock of p and adjusts its fields.
func keepIdle(p *pages, k int) bool {
	e := idlePages{mem: p.mem[k:cap(p.mem)], dirty: p.dirty - k, huge: p.huge}
	one := len(p.seams) == 0 || p.seams[len(p.seams)-1] <= k // VMA
	most := vm.Floor(idleMax())
	if e.dirty <= 0 || most == 0 || !one || p.sparse.Load() || inBubble() {
		return false
	}
	if nearLimit() {
		EmptyIdle()
		return false
	}

	// What several owners in turn have not used does not stay because each of
	// them has used a little.
	var old bool
	if e.since, e.rest, old = idleSince(p); old {
		if used := vm.Ceil(max(p.committed-k, 0)); used < e.dirty && vm.Discard(e.mem[used:vm.Ceil(e.dirty)]) == nil {
			if e.dirty = used; used == 0 {
				return false
			}
		}
		e.rest = e.since
	}

	return addIdle(e)
}

// addIdle adds e to the list, or reports false. It may unmap the end of e, and the
// oldest idle memory.
func addIdle(e idlePages) bool {
	if vm.LazyFree(e.mem[:vm.Ceil(e.dirty)]) != nil {
		return false // locked (mlock(2)), or not supported by the kernel
	}
	// Keep some spare addresses for growth.
	enough, _ := vm.Round(4 * e.dirty)
	if most := min(vm.Floor(idleMax()), enough); most < len(e.mem) {
		_ = vm.Abandon(e.mem[most:])
		e.mem, e.dirty = e.mem[:most:most], min(e.dirty, most)
	}
	idle.mu.Lock()
	idle.list = append(idle.list, e)
	idle.bytes.Add(int64(e.dirty))
	excess := cutExcess()
	startTicking()
	idle.mu.Unlock()
	freeIdle(excess)
	watch()
	return true
}

// idleSince returns the tick before now, and that before what the owner of p has not
// used became idle, and whether that was so long ago that it is freed.
func idleSince(p *pages) (now, rest int, old bool) {
	idle.mu.Lock()
	defer idle.mu.Unlock()
	rest, reused := idle.reused[p]
	if !reused {
		rest = idle.ticks
	}
	return idle.ticks, rest, idle.ticks-rest >= 2
}

// EmptyIdle unmaps all idle memory, and waits for other goroutines that are
// doing so. It reports whether memory may have been freed.
func EmptyIdle() bool {
	waited := !idle.freeing.TryLock()
	if waited {
		idle.freeing.Lock()
	}
	defer idle.freeing.Unlock()
	return emptyIdleNow() || waited
}

// emptyIdleNow is EmptyIdle for callers that hold idle.freeing.
func emptyIdleNow() bool {
	idle.mu.Lock()
	all := cutIdle(len(idle.list))
	idle.mu.Unlock()
	freeIdle(all)
	return len(all) > 0
}

// cutIdle takes the first k mappings off the list. The caller holds idle.mu.
func cutIdle(k int) []idlePages {
	if k == 0 {
		return nil
	}
	cut := slices.Clone(idle.list[:k])
	idle.list = slices.Delete(idle.list, 0, k)
	for _, e := range cut {
		idle.bytes.Add(int64(-e.dirty))
	}
	return cut
}

// cutExcess removes the oldest mappings from the list until it is within idleMax
// and idleCount, and returns them. The caller holds idle.mu.
func cutExcess() []idlePages {
	k, over := 0, idle.bytes.Load()-int64(idleMax())
	for ; over > 0 || len(idle.list)-k > idleCount; k++ {
		over -= int64(idle.list[k].dirty)
	}
	return cutIdle(k)
}

// freeIdle unmaps mappings that were taken off the list. As this takes time,
// the caller must not hold idle.mu.
func freeIdle(cut []idlePages) {
	for _, e := range cut {
		_ = vm.Abandon(e.mem)
	}
}

// forgetReused is called when p has no unused idle memory any more.
func forgetReused(p *pages) {
	idle.mu.Lock()
	delete(idle.reused, p)
	idle.mu.Unlock()
}

// startTicking schedules tick, if that is not done and there is something to
// do. The caller holds idle.mu.
func startTicking() {
	if !idle.ticking && (len(idle.list) > 0 || len(idle.reused) > 0 || len(idle.loans) > 0) {
		idle.ticking = true
		time.AfterFunc(period, func() {
			tick()
			idle.mu.Lock()
			idle.ticking = false
			startTicking()
			idle.mu.Unlock()
		})
	}
}

// tick unmaps memory that was idle at the last tick already, and frees idle memory
// that new owners have not committed by then.
func tick() {
	idle.freeing.Lock()
	defer idle.freeing.Unlock()
	idle.mu.Lock()
	idle.ticks++
	k := 0
	for k < len(idle.list) && idle.ticks-idle.list[k].since >= 2 {
		k++
	}
	old := cutIdle(k)
	var reused []*pages
	for p, rest := range idle.reused {
		if idle.ticks-rest >= 2 {
			reused = append(reused, p)
		}
	}
	loans := cutLoans()
	idle.mu.Unlock()
	freeIdle(old)
	for _, l := range loans {
		l.end()
	}
	for _, p := range reused {
		if p.freeExcess() {
			forgetReused(p)
		}
	}
}

// The pages of a view come back as idle memory if it becomes unreachable soon. That
// needs a finalizer, which delays that the object is freed, and which other finalizers
// may block. So it is done for few views, and not for those that live longer.

// lentMax is the number of bytes, at most, that are lent at a time. With twice as
// many, a service that drops views took more memory and no less time. Only tests
// change it.
var lentMax = int64(128 * vm.MiB)

// A loan is a view of which the pages may come back.
type loan struct {
	*vm.Loan
	since   int // the tick before it was made
	n, used int // bytes, and how many of them are the view
}

// lend returns the first used bytes of h, which has n bytes that are lent if there are
// not too many.
func lend(h *vm.HeapPages, n, used int, huge bool) []byte {
	p := h.Bytes(used)
	l := loan{n: n, used: used}
	l.Loan = h.Lend(func(mem []byte) {
		defer idle.lent.Add(int64(-n))
		if mem == nil {
			return
		}
		vm.AdviseHuge(mem, huge) // which MoveToHeap has withdrawn
		idle.mu.Lock()
		now := idle.ticks
		idle.mu.Unlock()
		if inBubble() || nearLimit() || !addIdle(idlePages{mem: mem, dirty: n, huge: huge, since: now, rest: now}) {
			_ = vm.Abandon(mem)
		}
	})
	idle.mu.Lock()
	defer idle.mu.Unlock()
	l.since = idle.ticks
	idle.loans = append(idle.loans, l)
	startTicking()
	return p
}

// mayLend reports whether n more bytes may be lent, and counts them if so.
func mayLend(n int) bool {
	if idleMax() < n || !vm.Lends() || inBubble() || nearLimit() {
		return false
	}
	if idle.lent.Add(int64(n)) <= lentMax {
		return true
	}
	idle.lent.Add(int64(-n))
	return false
}

// cutLoans takes those off the list that are old. The caller holds idle.mu.
func cutLoans() []loan {
	k := 0
	for k < len(idle.loans) && idle.ticks-idle.loans[k].since >= 2 {
		k++
	}
	old := slices.Clone(idle.loans[:k])
	idle.loans = slices.Delete(idle.loans, 0, k)
	return old
}

// end keeps the view and frees what is beyond it.
func (l loan) end() {
	if l.End(l.used) {
		idle.lent.Add(int64(-l.n))
	}
}
