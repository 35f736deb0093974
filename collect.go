package mmapbuf

import (
	"math"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"weak"
)

// The collector does not account for the memory of mappings. This file starts
// collections as often as if that memory were part of the heap: when mappings
// have taken more memory since the last collection, without freeing it, than
// GOGC or the memory limit allows the heap to grow by.
//
// A program that closes its Buffers does not need these collections. So an
// increase that the program has had before, and then freed by itself, starts
// none, until garbage is found.

const (
	// collectMin is the least increase, in bytes, that starts a collection.
	collectMin = 16 * miB

	// dueMin and dueMinGarbage are the least thresholds, in bytes, that
	// follow from GOGC; the latter applies after garbage was found.
	dueMinGarbage = 128 * miB
	dueMin        = 192 * miB
)

// pacer decides when to collect. It counts the resident bytes of mappings.
var pacer struct {
	mu        sync.Mutex
	held      int64 // sum of pages.held
	least     int64 // minimum of held since the last collection: what survived it, or less
	before    int64 // what survived the collection before, or less
	peak      int64 // maximum of held since it last fell nearly to least
	proven    int64 // largest increase that the program has then freed by itself
	falling   bool  // the last change of held was a decrease
	found     bool  // garbage was found since the last peak
	garbage   bool  // the program was last seen to leave garbage, not to free a peak by itself
	live      map[*pages]weak.Pointer[mapping]
	armed     bool                   // next is set
	next      weak.Pointer[sentinel] // nil after the next collection
	forced    int64                  // collections that the program has requested
	sinceLast atomic.Int64           // held - least, readable without mu

	collecting sync.Mutex // held during a collection of the package, and while unreachable mappings are freed
}

// addHeld adds n, which may be negative, to the bytes held.
func addHeld(n int) {
	p := &pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	if n > 0 && p.falling && p.held-p.least <= (p.peak-p.least)/8 {
		if !p.found {
			p.proven = max(p.proven, p.peak-p.held)
			p.garbage = false
		}
		p.peak, p.found = p.held, false
	}
	p.falling = n < 0
	p.held += int64(n)
	p.least, p.peak = min(p.least, p.held), max(p.peak, p.held)
	p.sinceLast.Store(p.held - p.least)
}

// track registers m, whose memory is p, to be freed by reap when it becomes
// unreachable.
func track(p *pages, m *mapping) {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	if pacer.live == nil {
		pacer.live = make(map[*pages]weak.Pointer[mapping])
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

// foundGarbage is called when a mapping was freed that had become unreachable.
func foundGarbage() {
	pacer.mu.Lock()
	pacer.proven, pacer.found, pacer.garbage = 0, true, true
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
	forced := metric("/gc/cycles/forced:gc-cycles") - stats.collections.Load()
	asked := forced > pacer.forced
	pacer.forced = max(pacer.forced, forced)
	pacer.mu.Unlock()
	if asked && idle.freeing.TryLock() { // the program wants memory to be freed
		emptyIdleNow()
		idle.freeing.Unlock()
	}
}

// reap frees the mappings that a collection has found unreachable, if there was
// one since the last call. Their cleanups would do it as well, but those run in
// goroutines of the runtime, which fall behind when all processors are busy.
func reap() {
	pacer.mu.Lock()
	ran := pacer.armed && pacer.next.Value() == nil
	pacer.mu.Unlock()
	if ran && pacer.collecting.TryLock() {
		reapNow()
		pacer.collecting.Unlock()
	}
}

// reapNow is reap after a collection. The caller holds pacer.collecting,
// because reading a weak pointer during a collection would keep its object
// alive.
func reapNow() {
	p := &pacer
	p.mu.Lock()
	p.armed = p.armed && p.next.Value() != nil
	var dead []*pages
	for q, m := range p.live {
		if m.Value() == nil {
			dead = append(dead, q)
		}
	}
	if len(p.live) > 0 || idle.bytes.Load() > 0 {
		arm()
	}
	p.mu.Unlock()
	for _, q := range dead {
		q.freeUnreachable()
	}
	p.mu.Lock()
	p.before, p.least = p.least, p.held // the survivors
	p.sinceLast.Store(0)
	p.mu.Unlock()
}

// pace starts a collection if one is due. If the increase exceeds twice the
// threshold and is taken for garbage, it waits for the collection, so the
// caller must not hold locks. m is the mapping of the caller, or nil; its
// memory is not counted.
func pace(m *mapping) {
	if pacer.sinceLast.Load() > collectMin {
		collectIfDue(m)
	}
}

// collectIfDue is pace for an increase of more than collectMin.
func collectIfDue(m *mapping) {
	reap()
	over, due, garbage := overdue(m)
	switch {
	case over <= due:
	case garbage && over/2 > due:
		pacer.collecting.Lock()
		defer pacer.collecting.Unlock()
		if over, due, _ := overdue(m); over/2 > due { // not collected by another goroutine
			collect()
		}
	case pacer.collecting.TryLock():
		go func() {
			defer pacer.collecting.Unlock()
			collect()
		}()
	}
}

// overdue returns the number of bytes that may be garbage, the threshold beyond
// which a collection is due, and whether to assume that they are garbage. The
// memory of m, which may be nil, is not counted.
func overdue(m *mapping) (over, due int64, garbage bool) {
	var own int64
	if m != nil {
		own = m.held.Load()
	}
	p := &pacer
	p.mu.Lock()
	over = p.held - own - p.least
	// What was created during the last collection has survived it, garbage
	// or not. So use the smaller of the last two results.
	held, base, proven := p.held, min(p.least, p.before), p.proven
	garbage = p.garbage
	p.mu.Unlock()
	if over <= collectMin {
		return over, collectMin, garbage
	}
	heap := readHeap()
	due = math.MaxInt64
	if heap.percent >= 0 {
		least := int64(dueMin)
		if garbage {
			least = dueMinGarbage
		}
		due = max((heap.live+base)/100*heap.percent, least, proven)
	}
	if heap.limit < noLimit && heap.total+held > heap.limit-heap.limit/16 {
		due = min(due, max(heap.limit/16, collectMin))
		garbage = true // not known, but near the limit the program must wait
	}
	return over, due, garbage
}

// heldBytes returns the estimated resident bytes of all mappings.
func heldBytes() int64 {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	return pacer.held
}

// collect runs the collector. The caller holds pacer.collecting.
func collect() {
	stats.collections.Add(1)
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
