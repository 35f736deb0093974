package mmapbuf

import (
	"runtime"
	"runtime/pprof"
	"sync/atomic"
)

// Stats are figures of all Buffers of the process. Those of the first group
// are of now, the others are totals since the start.
//
// The Go runtime does not see mappings: they are in no heap profile and no
// field of [runtime.MemStats], and a memory limit (GOMEMLIMIT,
// [runtime/debug.SetMemoryLimit]) does not count them. Who sets one should
// leave room for MappedBytes. Contents of up to 1 MiB and what has been published
// are Go heap and are counted there.
//
// Where the live mappings come from is told by the profile of package
// runtime/pprof that is named by the import path,
// github.com/mmapbuf/mmapbuf: a stack for each.
type Stats struct {
	Mappings    int64 // live mappings
	MappedBytes int64 // their length in bytes; only what is written takes up memory

	Maps         int64 // mappings made
	GrowsInPlace int64 // mappings grown without moving
	Moves        int64 // mappings moved to grow

	Publishes      int64 // mappings turned into Go memory, for a view
	PublishedBytes int64 // bytes of Go memory, with spare capacity, that made
	Copies         int64 // times that contents were copied because the kernel refused to move or publish them
}

var stats struct {
	mappings, mappedBytes             atomic.Int64
	maps, growsInPlace, moves         atomic.Int64
	publishes, publishedBytes, copies atomic.Int64

	// vmas is what the package takes of the number of mappings that the
	// system allows a process: one for a mapping, and two for published
	// pages, which part the heap in two.
	vmas atomic.Int64

	// least is the lowest mappedBytes has been since the collector last ran
	// for its sake; see nudgeCollector.
	least      atomic.Int64
	collecting atomic.Bool
}

// ReadStats returns the figures of now. It is cheap, a few loads; figures that
// change meanwhile may disagree by a mapping or two.
func ReadStats() Stats {
	return Stats{
		Mappings:       stats.mappings.Load(),
		MappedBytes:    stats.mappedBytes.Load(),
		Maps:           stats.maps.Load(),
		GrowsInPlace:   stats.growsInPlace.Load(),
		Moves:          stats.moves.Load(),
		Publishes:      stats.publishes.Load(),
		PublishedBytes: stats.publishedBytes.Load(),
		Copies:         stats.copies.Load(),
	}
}

// profile lists the live mappings. It holds on to their *pages, which keep no
// Buffer alive.
var profile = pprof.NewProfile("github.com/mmapbuf/mmapbuf")

// set makes mem the mapping, nil if it is gone, and keeps account of it.
func (p *pages) set(mem []byte) {
	was := p.mem
	p.mem = mem
	now := stats.mappedBytes.Add(int64(len(mem) - len(was)))
	switch {
	case was == nil && mem != nil:
		stats.maps.Add(1)
		stats.mappings.Add(1)
		stats.vmas.Add(1)
		profile.Add(p, 1)
	case was != nil && mem == nil:
		stats.mappings.Add(-1)
		stats.vmas.Add(-1)
		profile.Remove(p)
	}
	for least := stats.least.Load(); now < least; least = stats.least.Load() {
		if stats.least.CompareAndSwap(least, now) {
			break
		}
	}
}

// How much more may be mapped, in bytes, than after the last collection before
// the collector is run for it: as much again, but within these bounds. The
// upper one matters where a large reservation is live, which takes up no
// memory.
const (
	collectMin = 256 * miB
	collectMax = 1 * giB
)

// nudgeCollector starts the collector if much has been mapped since it ran
// last. By itself it would not notice that unreachable Buffers hold memory, for
// that memory is not of its heap.
func nudgeCollector() {
	least := stats.least.Load()
	over := stats.mappedBytes.Load() - least - min(max(least, collectMin), collectMax)
	switch {
	case over > collectMax:
		collect() // it falls behind: wait for it
	case over > 0 && stats.collecting.CompareAndSwap(false, true):
		go func() {
			collect()
			stats.collecting.Store(false)
		}()
	}
}

func collect() {
	runtime.GC()
	stats.least.Store(stats.mappedBytes.Load()) // the cleanups are still to lower it
}
