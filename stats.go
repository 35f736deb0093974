package mmapbuf

import (
	"sync/atomic"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
)

// Stats describes all Buffers of the process. Mappings, MappedBytes and
// IdleBytes are current values, PeakMappedBytes is a maximum, and the others
// are totals since the program started. On platforms without mappings, all but
// MaxLenExceeded and LimitExceeded are 0.
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
	LimitExceeded   int64 // operations for which a Limit left too little, if only before garbage was collected

	// Failures counts the refusals of memory that a Buffer could not avoid,
	// and LastFailure describes the last one: the sizes and the system call.
	// The methods that bytes.Buffer has as well panic with ErrTooLarge alone.
	Failures    int64
	LastFailure string
}

// stats are the figures of Buffers. Those of mappings are mapping.Counters.
var stats struct {
	refusals, limitRefusals, failures atomic.Int64
	lastFailure                       atomic.Pointer[memoryError]
}

// ReadStats returns the current figures. It only loads counters and may be
// called often. The counters are not loaded at a single point in time, so they
// may disagree slightly while Buffers are in use.
func ReadStats() Stats {
	c := &mapping.Counters
	s := Stats{
		Mappings:    c.Mappings.Load(),
		MappedBytes: c.MappedBytes.Load(),
		IdleBytes:   mapping.IdleBytes(),

		Created:      c.Created.Load(),
		GrowsInPlace: c.GrowsInPlace.Load(),
		Moves:        c.Moves.Load(),

		Views:       c.Views.Load(),
		ViewBytes:   c.ViewBytes.Load(),
		Copies:      c.Copies.Load(),
		CopiedBytes: c.CopiedBytes.Load(),

		Collections: c.Collections.Load(),
		Collected:   c.Collected.Load(),

		PeakMappedBytes: c.PeakMappedBytes.Load(),
		MaxLenExceeded:  stats.refusals.Load(),
		LimitExceeded:   stats.limitRefusals.Load(),
		Failures:        stats.failures.Load(),
	}
	if e := stats.lastFailure.Load(); e != nil {
		s.LastFailure = e.Error()
	}
	return s
}
