package measure

import (
	"runtime"
	"runtime/debug"
	"time"

	"github.com/mmapbuf/mmapbuf"
)

// Figures are what a piece of work took.
type Figures struct {
	Elapsed time.Duration
	// Peak is the most memory that was resident, and Final what was in the end,
	// less what was before. 0: this system does not tell.
	Peak, Final int64
	// Allocated is how many bytes of the Go heap were allocated, garbage
	// included.
	Allocated int64
	// Collections is how often the collector ran, and Forced how often because
	// runtime.GC asked for it.
	Collections, Forced int
	// CPU is user and system time. 0: this system does not tell.
	CPU time.Duration
	// Size is the number of bytes that the work made, and set by it.
	Size int64
}

// A Meter is made by Start and takes the Figures of all since then.
type Meter struct {
	began    time.Time
	resident int64
	stats    runtime.MemStats
	cpu      time.Duration
}

// Start gives free memory of the process back and starts the peak over.
func Start() Meter {
	debug.FreeOSMemory()
	ResetPeak()
	m := Meter{resident: Resident(), cpu: CPU()}
	runtime.ReadMemStats(&m.stats)
	m.began = time.Now()
	return m
}

// Stop returns the figures.
func (m Meter) Stop() Figures {
	f := Figures{Elapsed: time.Since(m.began), CPU: CPU() - m.cpu}
	var now runtime.MemStats
	runtime.ReadMemStats(&now)
	f.Allocated = int64(now.TotalAlloc - m.stats.TotalAlloc)
	f.Collections = int(now.NumGC - m.stats.NumGC)
	f.Forced = int(now.NumForcedGC - m.stats.NumForcedGC)
	if m.resident > 0 {
		f.Final = max(0, Resident()-m.resident)
		f.Peak = max(0, Peak()-m.resident)
	}
	return f
}

// Warm touches n bytes of memory and gives them back to the system. A virtual
// machine may have given its free memory to the host: then the first touch
// measures how fast the host gives it back, which is not what is asked here.
func Warm(n int64) error {
	var b mmapbuf.Buffer
	defer b.Close()
	if err := b.Reserve(int(n)); err != nil {
		return err
	}
	for zeros := make([]byte, 1<<20); int64(b.Len()) < n; {
		if _, err := b.Write(zeros); err != nil {
			return err
		}
	}
	return nil
}
