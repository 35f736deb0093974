package mmapbuf

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The memory of freed mappings is kept for a while, as net/http keeps idle
// connections: using a page again costs about a tenth of a page that the kernel
// must allocate and clear.
//
// The kernel may take idle memory whenever it needs memory (MADV_FREE,
// madvise(2)), so idle memory does not cause OOM kills. The package unmaps it
// after idleFor, after a collection that the program requested, near the memory
// limit, and when the kernel refuses memory. Its size is at most idleMax.
//
// Idle memory holds bytes of earlier Buffers. They are overwritten, or cleared
// when they are committed.

const (
	// idleFor is the time after which idle memory is unmapped. As tick runs
	// at intervals of half of it, that can take up to half as long again.
	idleFor = time.Second

	// idleMin is the least capacity, in bytes, for which idle memory is
	// used. For less, a slice is faster.
	idleMin = 32 * kiB

	// idleCount is the number of idle mappings at most: a sixteenth of those
	// that Linux allows a process by default.
	idleCount = 4096
)

// idlePages is a mapping of one VMA that is not in use.
type idlePages struct {
	mem   []byte
	dirty int       // mem[dirty:] reads as zero
	huge  bool      // see pages
	since time.Time // when it became idle
}

var idle struct {
	freeing sync.Mutex // held by decay and emptyIdle while they work on mappings taken off the list
	mu      sync.Mutex
	list    []idlePages          // oldest first
	reused  map[*pages]time.Time // when mappings with unused idle memory were made
	ticking bool                 // tick is scheduled

	bytes atomic.Int64 // sum of dirty
}

// takeIdle returns the pages of an idle mapping, with n bytes, rounded up to a
// multiple of pageUnit, in mem and perhaps more in its capacity. It returns nil
// if there is none. huge is as in mapPages. After idleFor, freeExcess frees what
// the new owner has not committed.
func takeIdle(n int, huge bool) *pages {
	if idle.bytes.Load() == 0 {
		return nil
	}
	now := time.Now()
	if fakeTime(now) {
		return nil
	}
	n, ok := pageRound(n)
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
		idle.reused = make(map[*pages]time.Time)
	}
	idle.reused[p] = now
	startTicking()
	idle.mu.Unlock()
	return p
}

// fakeTime reports whether now is the time of a bubble of testing/synctest, and
// not that of the system. A timer that is started there ends with the bubble, and
// its time does not tell how long memory was idle.
func fakeTime(now time.Time) bool {
	return now.Sub(systemTime()).Abs() > time.Second
}

// popIdle removes the most recent mapping of at least n bytes from the list and
// returns it. If there is none among the last maxScan, mem is nil.
func popIdle(n int, huge bool) (e idlePages) {
	idle.mu.Lock()
	defer idle.mu.Unlock()
	const maxScan = 32
	for i := len(idle.list) - 1; i >= max(len(idle.list)-maxScan, 0); i-- {
		if e = idle.list[i]; len(e.mem) >= n && e.huge == huge {
			idle.list = slices.Delete(idle.list, i, i+1)
			idle.bytes.Add(int64(-e.dirty))
			return e
		}
	}
	return idlePages{}
}

// keepIdle makes e, a mapping or the end of one, idle memory, or reports false and
// leaves it to the caller. It may unmap the end of e, and the oldest idle memory.
func keepIdle(e idlePages) bool {
	e.since = time.Now()
	most := pageFloor(idleMax())
	if e.dirty <= 0 || most == 0 || fakeTime(e.since) {
		return false
	}
	if limit := metric("/gc/gomemlimit:bytes"); limit < noLimit &&
		readHeap().total+heldBytes()+idle.bytes.Load()+int64(e.dirty) > limit-limit/8 {
		emptyIdle()
		return false
	}
	written, _ := pageRound(e.dirty)
	if lazyFree(e.mem[:min(written, len(e.mem))]) != nil {
		return false // locked (mlock(2)), or not supported by the kernel
	}
	// Keep some spare addresses for growth.
	enough, _ := pageRound(4 * e.dirty)
	if most = min(most, enough); most < len(e.mem) {
		_ = abandon(e.mem[most:])
		e.mem, e.dirty = e.mem[:most:most], min(e.dirty, most)
	}
	idle.mu.Lock()
	idle.list = append(idle.list, e)
	idle.bytes.Add(int64(e.dirty))
	old := cutExcess()
	startTicking()
	idle.mu.Unlock()
	freeIdle(old)
	watch()
	return true
}

// emptyIdle unmaps all idle memory, and waits for other goroutines that are
// doing so. It reports whether memory may have been freed.
func emptyIdle() bool {
	waited := !idle.freeing.TryLock()
	if waited {
		idle.freeing.Lock()
	}
	defer idle.freeing.Unlock()
	return emptyIdleNow() || waited
}

// emptyIdleNow is emptyIdle for callers that hold idle.freeing.
func emptyIdleNow() bool {
	idle.mu.Lock()
	old := cutIdle(len(idle.list))
	idle.mu.Unlock()
	freeIdle(old)
	return len(old) > 0
}

// cutIdle takes the first k mappings off the list. The caller holds idle.mu.
func cutIdle(k int) []idlePages {
	if k == 0 {
		return nil
	}
	old := slices.Clone(idle.list[:k])
	idle.list = slices.Delete(idle.list, 0, k)
	for _, e := range old {
		idle.bytes.Add(int64(-e.dirty))
	}
	return old
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
func freeIdle(old []idlePages) {
	for _, e := range old {
		_ = abandon(e.mem)
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
	if !idle.ticking && (len(idle.list) > 0 || len(idle.reused) > 0) {
		idle.ticking = true
		time.AfterFunc(idleFor/2, tick)
	}
}

// tick unmaps memory that was idle for idleFor, and frees idle memory that new
// owners have not committed within idleFor.
func tick() {
	decay(time.Now())
	idle.mu.Lock()
	idle.ticking = false
	startTicking()
	idle.mu.Unlock()
}

// decay is tick at a given time.
func decay(now time.Time) {
	idle.freeing.Lock()
	defer idle.freeing.Unlock()
	idle.mu.Lock()
	k := 0
	for k < len(idle.list) && now.Sub(idle.list[k].since) >= idleFor {
		k++
	}
	old := cutIdle(k)
	var reused []*pages
	for p, since := range idle.reused {
		if now.Sub(since) >= idleFor {
			reused = append(reused, p)
		}
	}
	idle.mu.Unlock()
	freeIdle(old)
	for _, p := range reused {
		if p.freeExcess() {
			forgetReused(p)
		}
	}
}
