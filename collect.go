package mmapbuf

import (
	"math"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"weak"
)

// The collector does not know that unreachable Buffers hold memory, for that
// memory is not of its heap. This file has it run as often as it would if it
// were: when as much has been written to mappings since the last collection,
// and not been given back, as GOGC or the memory limit allows to be allocated.
//
// A program that closes its Buffers has no use for those collections. So how
// much it has had in use at once and then given back all by itself is no reason
// for one, until garbage is found.

const (
	// Less than this is never a reason for a collection.
	collectMin = 16 * miB

	// GOGC is not applied to less than this: a collection is not for little,
	// and for even less where no garbage has been found yet.
	dueMinGarbage = 128 * miB
	dueMin        = 192 * miB
)

// pacer counts bytes that were written to mappings.
var pacer struct {
	mu        sync.Mutex
	held      int64 // not given back
	least     int64 // least held since the last collection: what has survived it, or less
	before    int64 // the same of the collection before
	peak      int64 // most held since the program last gave back nearly all above least
	proven    int64 // most that the program has had above least and then given back
	falling   bool  // held has become less since it became more
	found     bool  // garbage was found since the last peak
	garbage   bool  // the last news is that the program leaves garbage
	live      map[*pages]weak.Pointer[mapping]
	armed     bool                   // next is set
	next      weak.Pointer[sentinel] // gone after the next collection
	forced    int64                  // collections that the program itself has asked for
	sinceLast atomic.Int64           // held - least, for who has no time for the lock

	collecting sync.Mutex // held while a collection runs, and while it is found out what it has left
}

// addHeld takes account of n bytes more that are held, or less if n is negative.
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

// track has reap know of m, whose memory is p, until p has none.
func track(p *pages, m *mapping) {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	if pacer.live == nil {
		pacer.live = make(map[*pages]weak.Pointer[mapping])
	}
	pacer.live[p] = weak.Make(m)
	arm()
}

func untrack(p *pages) {
	pacer.mu.Lock()
	delete(pacer.live, p)
	pacer.mu.Unlock()
}

// foundGarbage is called when a mapping was collected that nobody had closed.
func foundGarbage() {
	pacer.mu.Lock()
	pacer.proven, pacer.found, pacer.garbage = 0, true, true
	pacer.mu.Unlock()
}

// watch sees to it that reap finds out about the next collection, and that it
// is called afterwards.
func watch() {
	pacer.mu.Lock()
	defer pacer.mu.Unlock()
	arm()
}

// arm is watch for a caller that holds pacer.mu.
func arm() {
	if pacer.armed {
		return
	}
	pacer.armed = true
	obj := new(sentinel)
	runtime.AddCleanup(obj, afterCollection, struct{}{})
	pacer.next = weak.Make(obj)
}

// An object is for the collector to find. It has a pointer, or it could share its
// memory with others.
type sentinel struct{ _ *sentinel }

func afterCollection(struct{}) {
	reap()
	// A collection of the package is counted before it runs, so that the
	// difference never takes one for the program's.
	pacer.mu.Lock()
	forced := metric("/gc/cycles/forced:gc-cycles") - stats.collections.Load()
	asked := forced > pacer.forced
	pacer.forced = max(pacer.forced, forced)
	pacer.mu.Unlock()
	if asked && idle.freeing.TryLock() { // the program wants memory back
		emptyIdleNow()
		idle.freeing.Unlock()
	}
}

// reap gives back the memory of mappings that a collection has found
// unreachable, if there was one since the last time. Their cleanups would do it
// as well, but they run in a goroutine of the runtime, which falls behind where
// all processors are busy.
func reap() {
	pacer.mu.Lock()
	ran := pacer.armed && pacer.next.Value() == nil
	pacer.mu.Unlock()
	if ran && pacer.collecting.TryLock() {
		reapNow()
		pacer.collecting.Unlock()
	}
}

// reapNow is reap after a collection. The caller holds pacer.collecting: to look
// at a weak pointer while a collection runs would keep what it points to.
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
	p.before, p.least = p.least, p.held // what has survived
	p.sinceLast.Store(0)
	p.mu.Unlock()
}

// pace starts the collector if it is time. It waits for it if it falls behind
// with real garbage, so the caller holds no lock. m is a mapping in use, or nil.
func pace(m *mapping) {
	if pacer.sinceLast.Load() > collectMin {
		collectIfDue(m)
	}
}

// collectIfDue is pace where there is enough to look closer.
func collectIfDue(m *mapping) {
	reap()
	over, due, garbage := overdue(m)
	switch {
	case over <= due:
	case garbage && over/2 > due:
		pacer.collecting.Lock()
		defer pacer.collecting.Unlock()
		if over, due, _ := overdue(m); over/2 > due { // else somebody else has done it
			collect()
		}
	case pacer.collecting.TryLock():
		go func() {
			defer pacer.collecting.Unlock()
			collect()
		}()
	}
}

// overdue returns how many bytes may be garbage, beyond how many a collection
// is due, and whether to take them for garbage. m is none.
func overdue(m *mapping) (over, due int64, garbage bool) {
	var own int64
	if m != nil {
		own = m.held.Load()
	}
	p := &pacer
	p.mu.Lock()
	over = p.held - own - p.least
	// What was made while the last collection ran has survived it, garbage or
	// not.
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
		garbage = true // near a limit there is no time to find out
	}
	return over, due, garbage
}

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

// heapFigures are what the runtime knows, in bytes.
type heapFigures struct {
	live    int64 // that survived the last collection
	total   int64 // that the runtime holds, of which the kernel knows
	limit   int64 // GOMEMLIMIT, noLimit if there is none
	percent int64 // GOGC, negative if it is off
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

// metric returns a number that the runtime knows by name, and 0 if it does not.
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
