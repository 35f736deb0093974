package mmapbuf

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// The memory of mappings that were given back stays idle here for a while, as
// net/http keeps idle connections: a page that is used again costs a tenth of
// one that the kernel has to find and clear.
//
// The kernel may take idle memory whenever it needs some (MADV_FREE, madvise(2)),
// so it gets nobody killed at the limit of a cgroup. The package unmaps it after
// idleFor, when the collector has run, when the memory limit is near, and when
// the kernel refuses memory. Never is it more than idleMax.
//
// Idle memory holds bytes of earlier Buffers. A Buffer that gets it overwrites
// them, or clears them before anybody can see them: see scrub.

const (
	// idleFor is how long memory stays idle, and up to half of that again.
	idleFor = time.Second

	// idleMin is the least capacity, in bytes, for which idle memory is used.
	// For less a slice is faster.
	idleMin = 32 * kiB
)

// idlePages are a mapping that nobody uses.
type idlePages struct {
	mem       []byte
	dirty     int       // mem[dirty:] reads as zero
	freedFrom int       // mem[freedFrom:] the kernel may take
	huge      bool      // see pages
	since     time.Time // when it was given back
}

var idle struct {
	freeing sync.Mutex // held while idle memory is unmapped that is not on the list any more
	mu      sync.Mutex
	list    []idlePages          // in the order in which they were given back
	reused  map[*pages]time.Time // mappings made of idle memory, and when
	ticking bool                 // tick will run

	bytes atomic.Int64 // sum of dirty
}

// takeIdle returns an idle mapping of at least n bytes, or nil if there is none.
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
	p := newPages(e.mem[:n], huge)
	p.dirty, p.freedFrom = e.dirty, e.freedFrom
	p.addHeld(e.dirty)
	idle.mu.Lock()
	if idle.reused == nil {
		idle.reused = make(map[*pages]time.Time)
	}
	idle.reused[p] = now
	startTicking()
	idle.mu.Unlock()
	return p
}

// started is when the process began, or soon after.
var started = time.Now()

// fakeTime reports whether now is the time of a bubble of testing/synctest, which
// begins in the year 2000. A timer that is set there ends with the bubble, and the
// time that it is in there says nothing of how long memory was idle.
func fakeTime(now time.Time) bool { return now.Before(started) }

// popIdle takes the mapping off the list that was given back last and has at
// least n bytes.
func popIdle(n int, huge bool) (e idlePages) {
	idle.mu.Lock()
	defer idle.mu.Unlock()
	const most = 32 // to look at
	for i := len(idle.list) - 1; i >= max(len(idle.list)-most, 0); i-- {
		if e = idle.list[i]; len(e.mem) >= n && e.huge == huge {
			idle.list = slices.Delete(idle.list, i, i+1)
			idle.bytes.Add(int64(-e.dirty))
			return e
		}
	}
	return idlePages{}
}

// keepIdle makes mem idle memory. It reports false if it has not, and mem stays
// the caller's.
//
// The kernel may take mem[used:], and nobody has written anything after
// mem[:dirty]. With lazy the kernel learns only later that it may take mem.
func keepIdle(mem []byte, used, dirty int, huge, lazy bool) bool {
	most := pageFloor(idleMax())
	if dirty == 0 || most == 0 || fakeTime(time.Now()) {
		return false
	}
	if limit := metric("/gc/gomemlimit:bytes"); limit < noLimit &&
		readHeap().total+heldBytes()+idle.bytes.Load()+int64(dirty) > limit-limit/8 {
		emptyIdle()
		return false
	}
	fresh, _ := pageRound(used)
	fresh = min(fresh, len(mem))
	if !lazy {
		if lazyFree(mem[:fresh]) != nil {
			return false // locked (mlock(2)), or the kernel does not know how
		}
		fresh = 0
	}
	// Addresses are worth keeping, for growth, but not any number of them.
	enough, _ := pageRound(4 * dirty)
	if most = min(most, enough); most < len(mem) {
		_ = abandon(mem[most:])
		mem, dirty, fresh = mem[:most:most], min(dirty, most), min(fresh, most)
	}
	idle.mu.Lock()
	idle.list = append(idle.list, idlePages{mem, dirty, fresh, huge, time.Now()})
	k, over := 0, idle.bytes.Add(int64(dirty))-int64(idleMax())
	for ; over > 0; k++ {
		over -= int64(idle.list[k].dirty)
	}
	old := cutIdle(k)
	startTicking()
	idle.mu.Unlock()
	freeIdle(old)
	watch()
	return true
}

// emptyIdle unmaps all idle memory, or waits for who does. It reports whether
// there was any.
func emptyIdle() bool {
	waited := !idle.freeing.TryLock()
	if waited {
		idle.freeing.Lock()
	}
	defer idle.freeing.Unlock()
	return emptyIdleNow() || waited
}

// emptyIdleNow is emptyIdle for a caller that holds idle.freeing.
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

// freeIdle unmaps mappings that are not on the list any more. The caller does
// not hold idle.mu: this takes time.
func freeIdle(old []idlePages) {
	for _, e := range old {
		_ = abandon(e.mem)
	}
}

// forgetReused is called when p has no memory any more that it does not use.
func forgetReused(p *pages) {
	idle.mu.Lock()
	delete(idle.reused, p)
	idle.mu.Unlock()
}

// startTicking has tick run, if there is something to do for it. The caller
// holds idle.mu.
func startTicking() {
	if !idle.ticking && (len(idle.list) > 0 || len(idle.reused) > 0) {
		idle.ticking = true
		time.AfterFunc(idleFor/2, tick)
	}
}

// tick unmaps memory that was idle for idleFor, lets the kernel take what was
// for half of that, and frees what mappings made of idle memory have not used.
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
	for k < len(idle.list) && now.Sub(idle.list[k].since) >= idleFor/2 {
		k++
	}
	old := cutIdle(k)
	var lent []*pages
	for p, since := range idle.reused {
		if now.Sub(since) >= idleFor {
			lent = append(lent, p)
		}
	}
	idle.mu.Unlock()
	kept := old[:0]
	for _, e := range old {
		if now.Sub(e.since) >= idleFor || e.freedFrom > 0 && lazyFree(e.mem[:e.freedFrom]) != nil {
			_ = abandon(e.mem)
			continue
		}
		e.freedFrom = 0
		kept = append(kept, e)
	}
	for _, p := range lent {
		if p.freeExcess() {
			forgetReused(p)
		}
	}
	idle.mu.Lock()
	idle.list = append(kept, idle.list...)
	for _, e := range kept {
		idle.bytes.Add(int64(e.dirty))
	}
	idle.mu.Unlock()
}
