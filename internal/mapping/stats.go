package mapping

import (
	"runtime/pprof"
	"sync/atomic"
)

// Counters describe all mappings of the process. Mappings and MappedBytes are
// current values, PeakMappedBytes is a maximum, and the others are totals.
var Counters struct {
	Mappings, MappedBytes, PeakMappedBytes atomic.Int64
	Created, GrowsInPlace, Moves           atomic.Int64
	Views, ViewBytes, Copies, CopiedBytes  atomic.Int64
	Collections, Collected                 atomic.Int64
}

// CountCopy records that contents of n bytes are copied because their pages
// could not be moved.
func CountCopy(n int) {
	Counters.Copies.Add(1)
	Counters.CopiedBytes.Add(int64(n))
}

// IdleBytes returns the size of idle memory, in bytes.
func IdleBytes() int64 { return idle.bytes.Load() }

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
