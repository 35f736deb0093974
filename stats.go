package mmapbuf

import (
	"runtime/pprof"
	"sync/atomic"
)

// Stats describes all Buffers of the process. Mappings, MappedBytes and
// IdleBytes are current values, PeakMappedBytes is a maximum, and the others
// are totals since the program started. On platforms without mappings, all but
// MaxLenExceeded are 0.
//
// The package documentation describes how mappings relate to the Go heap and to
// its memory limit. Contents in Go slices are not included.
type Stats struct {
	Mappings    int64 // mappings in use
	MappedBytes int64 // total length of these in bytes; unwritten pages use no memory
	IdleBytes   int64 // released memory kept for other Buffers, in bytes, including what the kernel has reclaimed

	Created      int64 // mappings created, from new or idle memory
	GrowsInPlace int64 // mappings enlarged at their address
	Moves        int64 // mappings moved to another address to be enlarged

	Views       int64 // mappings whose contents were moved or copied to the Go heap for a view
	ViewBytes   int64 // bytes of the Go heap used for these, including spare capacity
	Copies      int64 // copies of contents because their pages could not be moved
	CopiedBytes int64 // bytes copied by these

	Collections int64 // garbage collections that the package started
	Collected   int64 // mappings released because the collector found them unreachable

	PeakMappedBytes int64 // maximum of MappedBytes
	MaxLenExceeded  int64 // operations that failed or were cut short because of MaxLen

	// Failures counts the refusals of memory that a Buffer could not avoid,
	// and LastFailure describes the last one: the sizes and the system call.
	// The methods that bytes.Buffer has as well panic with ErrTooLarge alone.
	Failures    int64
	LastFailure string
}

var stats struct {
	mappings, mappedBytes             atomic.Int64
	maps, growsInPlace, moves         atomic.Int64
	publishes, publishedBytes, copies atomic.Int64
	collections                       atomic.Int64

	copiedBytes, collected, peakMappedBytes, refusals atomic.Int64

	failures    atomic.Int64
	lastFailure atomic.Pointer[memoryError]
}

// ReadStats returns the current figures. It only loads counters and may be
// called often. The counters are not loaded at a single point in time, so they
// may disagree slightly while Buffers are in use.
func ReadStats() Stats {
	s := Stats{
		Mappings:     stats.mappings.Load(),
		MappedBytes:  stats.mappedBytes.Load(),
		IdleBytes:    idle.bytes.Load(),
		Created:      stats.maps.Load(),
		GrowsInPlace: stats.growsInPlace.Load(),
		Moves:        stats.moves.Load(),
		Views:        stats.publishes.Load(),
		ViewBytes:    stats.publishedBytes.Load(),
		Copies:       stats.copies.Load(),
		Collections:  stats.collections.Load(),

		CopiedBytes:     stats.copiedBytes.Load(),
		Collected:       stats.collected.Load(),
		PeakMappedBytes: stats.peakMappedBytes.Load(),
		MaxLenExceeded:  stats.refusals.Load(),
		Failures:        stats.failures.Load(),
	}
	if e := stats.lastFailure.Load(); e != nil {
		s.LastFailure = e.Error()
	}
	return s
}

// countCopy records that contents of n bytes are copied because their pages
// could not be moved.
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

// profile lists the live mappings. It refers to their *pages, which do not keep
// Buffers alive. If a program has two copies of this package, such as a vendored
// one, they share the profile.
var profile = func() *pprof.Profile {
	const name = "github.com/mmapbuf/mmapbuf"
	if p := pprof.Lookup(name); p != nil {
		return p
	}
	return pprof.NewProfile(name)
}()

// setMem makes mem[:cap(mem)] the mapping, or none if mem is nil, and updates
// the statistics.
func (p *pages) setMem(mem []byte) {
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
		untrack(p)
		p.uncommit(0)
	}
}
