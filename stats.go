package mmapbuf

import (
	"runtime/pprof"
	"sync/atomic"
)

// Stats are figures of all Buffers of the process. Those of the first group
// are of now, the others are totals since the start.
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

	Collections int64 // collections that the package has started, for garbage in mappings
}

var stats struct {
	mappings, mappedBytes             atomic.Int64
	maps, growsInPlace, moves         atomic.Int64
	publishes, publishedBytes, copies atomic.Int64
	collections                       atomic.Int64
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
	}
}

// profile lists the live mappings. It holds on to their *pages, which keep no
// Buffer alive.
var profile = pprof.NewProfile("github.com/mmapbuf/mmapbuf")

// set makes mem the mapping, nil if it is gone, and keeps account of it.
func (p *pages) set(mem []byte) {
	was := p.mem
	p.mem = mem
	stats.mappedBytes.Add(int64(cap(mem) - cap(was)))
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
