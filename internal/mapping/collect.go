package mapping

import (
	"math"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"weak"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// The collector does not account for the memory of mappings. This file starts
// collections when mappings have taken more memory since the last one, without freeing
// it, than GOGC or the memory limit allows the heap to grow by. A collection costs as
// much as the heap is large, not the mappings; so what mappings hold counts for a
// quarter only, for a program that holds more and more of it.
//
// A program that closes its Buffers does not need these collections. So none is due
// before the increase is twice of what the program has last released by itself, until
// one has found enough.

const (
	// collectMin is the least increase, in bytes, that starts a collection: of
	// less, what could be found is not worth reading the figures of the runtime.
	collectMin = 16 * vm.MiB

	// stepMin is the least increase, in bytes, that starts a collection unless
	// the memory limit is near. A service that drops Buffers of 1 to 16 MiB took
	// 340 MiB, and 530 with twice as many; with half as many, more time.
	stepMin = 64 * vm.MiB
)

// pacer decides when to collect. It counts the resident bytes of mappings.
var pacer struct {
	mu        sync.Mutex
	held      int64        // sum of pages.held
	least     int64        // minimum of held since the last collection: what survived it, or less
	survived  int64        // held after the last collection
	step      int64        // twice of what the program has released by itself, since garbage was found
	garbage   bool         // the last collection has found at least a quarter of the increase
	sinceLast atomic.Int64 // held - least, readable without mu

	live  map[*pages]weak.Pointer[Mapping]
	armed bool                   // next is set
	cycle int64                  // the last collection after which next was read
	next  weak.Pointer[sentinel] // nil after the next collection
	asked int64                  // collections that the program has requested

	collecting sync.Mutex // held during a collection of the package, and while unreachable mappings are freed
}

// addHeld adds n, which may be negative, to the bytes held.
func addHeld(n int) {
	p := &pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held += int64(n)
	p.least = min(p.least, p.held)
	p.sinceLast.Store(p.held - p.least)
}

// track registers m, whose memory is p, to be freed by reap when it becomes
// unreachable. No slice of its memory is in use then: views are slices of published
// memory.
func track(p *pages, m *Mapping) {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	if pacer.live == nil {
		pacer.live = make(map[*pages]weak.Pointer[Mapping])
	}
	pacer.live[p] = weak.Make(m)
	arm()
}

// untrack undoes track. It is called when p has no mapping any more.
func untrack(p *pages) {
	pacer.mu.Lock()
	delete(pacer.live, p)
	pacer.mu.Unlock()
}

// watch ensures that reap notices the next collection and is called after it.
func watch() {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	arm()
}

// arm is watch for callers that hold pacer.mu.
func arm() {
	if pacer.armed {
		return
	}
	pacer.armed = true
	obj := new(sentinel)
	runtime.AddCleanup(obj, afterCollection, struct{}{})
	pacer.next = weak.Make(obj)
}

// A sentinel is an object whose collection shows that a collection has run. It
// has a pointer, so that it does not share its memory with other small objects.
type sentinel struct{ _ *sentinel }

// afterCollection is the cleanup of a sentinel.
func afterCollection(struct{}) {
	reap()
	// Collections of the package are counted before they run, so that they
	// are never taken for those of the program.
	pacer.mu.Lock()
	forced := metric("/gc/cycles/forced:gc-cycles") - Counters.Collections.Load()
	more := forced > pacer.asked
	pacer.asked = max(pacer.asked, forced)
	pacer.mu.Unlock()
	if more && idle.freeing.TryLock() { // the program wants memory to be freed
		emptyIdleNow()
		idle.freeing.Unlock()
	}
}

// reap frees the mappings that a collection has found unreachable, if there was
// one since the last call. Cleanups call it, but they run in goroutines of the
// runtime, which fall behind when all processors are busy; so new mappings call it
// as well.
func reap() {
	// Whoever holds the lock looks again after it.
	for collected() && pacer.collecting.TryLock() {
		reapNow()
		pacer.collecting.Unlock()
	}
}

// collected reports whether there was a collection since the last call of reapNow.
func collected() bool {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	// Reading next while a collection marks keeps it alive for that one. So
	// that the next sees it, it is read once after each.
	cycle := metric("/gc/cycles/total:gc-cycles")
	if !pacer.armed || cycle == pacer.cycle {
		return false
	}
	if pacer.next.Value() == nil {
		return true
	}
	pacer.cycle = cycle
	return false
}

// reapNow is reap after a collection. The caller holds pacer.collecting. If another
// collection is marking, weak pointers that are read stay alive for that one, and the
// sentinel, which is set before, tells of the next.
func reapNow() {
	p := &pacer
	p.mu.Lock()
	p.armed = p.armed && p.next.Value() != nil
	if len(p.live) > 0 || idle.bytes.Load() > 0 {
		arm() // before looking: the next collection may end meanwhile
	}
	increase := p.held - p.least
	var dead []*pages
	for q, m := range p.live {
		if m.Value() == nil {
			dead = append(dead, q)
		}
	}
	p.mu.Unlock()

	var freed int64
	for _, q := range dead {
		freed += q.freeUnreachable()
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	if increase > collectMin {
		if p.garbage = freed >= increase/4; p.garbage {
			p.step = stepMin
		} else {
			p.step = max(p.step, 2*(p.survived-p.least))
		}
	}
	p.survived, p.least = p.held, p.held
	p.sinceLast.Store(0)
}

// Pace starts a collection if one is due. If the increase exceeds twice the
// threshold and is taken for garbage, or four times the threshold, because processors
// are scarce, it waits for the collection, so the caller must not hold locks. m is the
// mapping of the caller, or nil; its memory is not counted.
func Pace(m *Mapping) {
	if pacer.sinceLast.Load() > collectMin {
		collectIfDue(m)
	}
}

// collectIfDue is Pace for an increase of more than collectMin.
func collectIfDue(m *Mapping) {
	reap()
	over, due, garbage := overdue(m)
	switch {
	case over <= due:
	case garbage && over/2 > due, over/4 > due:
		pacer.collecting.Lock()
		if over, due, _ := overdue(m); over/2 > due { // not collected by another goroutine
			collect()
		}
		pacer.collecting.Unlock()
		reap()
	case pacer.collecting.TryLock():
		go func() {
			collect()
			pacer.collecting.Unlock()
			reap()
		}()
	}
}

// overdue returns the number of bytes that may be garbage, the threshold beyond
// which a collection is due, and whether to assume that they are garbage. The
// memory of m, which may be nil, is not counted.
func overdue(m *Mapping) (over, due int64, garbage bool) {
	var own int64
	if m != nil {
		own = m.held.Load()
	}
	p := &pacer
	p.mu.Lock()
	held, base, step := p.held, p.least, max(p.step, 2*(p.survived-p.least))
	over, garbage = held-own-base, p.garbage
	p.mu.Unlock()
	if over <= collectMin {
		return over, collectMin, garbage
	}
	heap := readHeap()
	due = math.MaxInt64
	if heap.percent >= 0 {
		due = max((heap.live+base/4)/100*heap.percent, step, stepMin)
	}
	// A sixteenth is what a collection should not cost the program in memory,
	// nor, at a collection for each, in time.
	if heap.limit < noLimit && heap.total+held > heap.limit-heap.limit/16 {
		due = min(due, max(heap.limit/16, collectMin))
		garbage = true // not known, but near the limit the program must wait
	}
	return over, due, garbage
}

// nearLimit reports whether the memory of the process exceeds seven eighths of the
// memory limit.
func nearLimit() bool {
	limit := metric("/gc/gomemlimit:bytes")
	return limit < noLimit && readHeap().total+heldBytes()+idle.bytes.Load() > limit-limit/8
}

// heldBytes returns the estimated resident bytes of all mappings.
func heldBytes() int64 {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	return pacer.held
}

// collect runs the collector. The caller holds pacer.collecting.
func collect() {
	Counters.Collections.Add(1)
	runtime.GC()
	reapNow()
}

// heapFigures holds metrics of the runtime, in bytes.
type heapFigures struct {
	live    int64 // heap that survived the last collection
	total   int64 // memory of the runtime that was not returned to the kernel
	limit   int64 // GOMEMLIMIT; noLimit if there is none
	percent int64 // GOGC; negative if it is off
}

const noLimit = math.MaxInt64

func readHeap() heapFigures {
	samples := [...]metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/gc/gomemlimit:bytes"},
		{Name: "/gc/gogc:percent"},
	}
	metrics.Read(samples[:])
	value := func(i int) int64 { return number(samples[i]) }
	return heapFigures{value(0), value(1) - value(2), value(3), int64(int32(value(4)))}
}

// metric returns the metric of the runtime with that name, or 0 if there is
// none.
func metric(name string) int64 {
	sample := [...]metrics.Sample{{Name: name}}
	metrics.Read(sample[:])
	return number(sample[0])
}

func number(s metrics.Sample) int64 {
	if s.Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return int64(s.Value.Uint64())
}

// Collect runs the collector, and frees mappings that it has found unreachable. The
// caller must not hold locks.
func Collect() {
	pacer.collecting.Lock()
	collect()
	pacer.collecting.Unlock()
	reap()
}
