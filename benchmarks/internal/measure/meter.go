package measure

import (
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"time"
)

// Figures are what a piece of work took.
type Figures struct {
	Began   time.Time
	Elapsed time.Duration
	// Base is the resident memory before the work. Peak is the most that was
	// resident, and Final what was resident at the end, less Base.
	Base, Peak, Final int64
	// Collections is how often the garbage collector ran, and Forced how often
	// it ran because of runtime.GC.
	Collections, Forced int
	// Faults is how often the kernel had to provide a page.
	Faults int64
	// CPU is user and system time.
	CPU time.Duration
	// Size is the number of bytes that the work produced. The work sets it.
	Size int64
}

// Known reports whether the system tells memory, faults and CPU. If not, they are 0, which
// they may also be after little work.
func (f Figures) Known() bool { return f.Base > 0 }

// A Meter measures the work since Start.
type Meter struct {
	began Figures
	stats runtime.MemStats
}

// Start returns free memory to the system, resets the peak and returns a Meter.
func Start() (m Meter) {
	debug.FreeOSMemory()
	ResetPeak()
	m.began.Base, m.began.CPU = Resident(), CPU()
	runtime.ReadMemStats(&m.stats)
	m.began.Faults = faults()
	m.began.Began = time.Now()
	return m
}

// Stop returns the figures since Start.
func (m Meter) Stop() Figures {
	f := m.began
	f.Elapsed = time.Since(f.Began)
	f.Faults = faults() - f.Faults
	f.CPU = CPU() - f.CPU
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	f.Collections = int(now.NumGC - m.stats.NumGC)
	f.Forced = int(now.NumForcedGC - m.stats.NumForcedGC)
	f.Final = max(0, Resident()-f.Base)
	f.Peak = max(0, Peak()-f.Base)
	return f
}

// Noise returns n pseudo-random bytes, the same in every call.
func Noise(n int64) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	return p
}
