package mmapbuf

import (
	"runtime/pprof"
	"sync/atomic"
)

// Stats are figures of all Buffers of the process. Those of the first group
// are of now, PeakMappedBytes is the most there has been, and the others are
// totals since the start.
//
// The Go runtime does not see mappings: they are in no heap profile and no
// field of [runtime.MemStats]. The package counts them when it decides whether a
// collection is due, by GOGC and by the memory limit (GOMEMLIMIT,
// [runtime/debug.SetMemoryLimit]), but the runtime itself does not, so a limit
// should leave room for MappedBytes. Contents of up to 1 MiB and what has been
// published are Go heap and are counted there.
//
// Where the live mappings come from is told by the profile of package
// runtime/pprof that is named by the import path,
// github.com/mmapbuf/mmapbuf: a stack for each.
type Stats struct {
	Mappings    int64 // live mappings
	MappedBytes int64 // their length in bytes; only what is written takes up memory
	IdleBytes   int64 // memory that was given back and is kept for other Buffers, for a second or two; an upper bound

	Maps         int64 // mappings made
	GrowsInPlace int64 // mappings grown without moving
	Moves        int64 // mappings moved to grow

	Publishes      int64 // mappings turned into Go memory, for a view
	PublishedBytes int64 // bytes of Go memory, with spare capacity, that made
	Copies         int64 // times that contents were copied because the kernel refused to move or publish them
	CopiedBytes    int64 // length of those contents

	Collections int64 // collections that the package has started, for garbage in mappings
	Collected   int64 // mappings that the collector has found, which nobody had closed

	PeakMappedBytes int64 // most that MappedBytes has been
	Refusals        int64 // times that MaxLen was in the way
}

var stats struct {
	mappings, mappedBytes             atomic.Int64
	maps, growsInPlace, moves         atomic.Int64
	publishes, publishedBytes, copies atomic.Int64
	collections                       atomic.Int64

	copiedBytes, collected, peakMappedBytes, refusals atomic.Int64
}

// ReadStats returns the figures of now. It is cheap, a few loads; figures that
// change meanwhile may disagree by a mapping or two.
func ReadStats() Stats {
	return Stats{
		Mappings:       stats.mappings.Load(),
		MappedBytes:    stats.mappedBytes.Load(),
		IdleBytes:      idle.bytes.Load(),
		Maps:           stats.maps.Load(),
		GrowsInPlace:   stats.growsInPlace.Load(),
		Moves:          stats.moves.Load(),
		Publishes:      stats.publishes.Load(),
		PublishedBytes: stats.publishedBytes.Load(),
		Copies:         stats.copies.Load(),
		Collections:    stats.collections.Load(),

		CopiedBytes:     stats.copiedBytes.Load(),
		Collected:       stats.collected.Load(),
		PeakMappedBytes: stats.peakMappedBytes.Load(),
		Refusals:        stats.refusals.Load(),
	}
}

// countCopy takes account of contents of n bytes that are copied because the
// kernel refused to move or publish them.
func countCopy(n int) {
	stats.copies.Add(1)
	stats.copiedBytes.Add(int64(n))
}

// raise makes x at least n.
func raise(x *atomic.Int64, n int64) {
	for {
		if was := x.Load(); was >= n || x.CompareAndSwap(was, n) {
			return
		}
	}
}

// profile lists the live mappings. It holds on to their *pages, which keep no
// Buffer alive.
var profile = pprof.NewProfile("github.com/mmapbuf/mmapbuf")

// set makes mem the mapping, nil if it is gone, and keeps account of it.
func (p *pages) set(mem []byte) {
	was := p.mem
	p.mem = mem
	raise(&stats.peakMappedBytes, stats.mappedBytes.Add(int64(cap(mem)-cap(was))))
	switch {
	case was == nil && mem != nil:
		stats.maps.Add(1)
		stats.mappings.Add(1)
		profile.Add(p, 1)
	case was != nil && mem == nil:
		stats.mappings.Add(-1)
		profile.Remove(p)
		delist(p)
		p.count(int(-p.held.Load()))
	}
}
