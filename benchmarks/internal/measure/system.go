package measure

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/procfs"
)

// On systems without /proc, procfs returns errors and zero values. The errors
// are ignored: 0 means that a figure is not known.

// ResetPeak makes the kernel forget the peak memory of this process. The error
// is ignored: a process that has done little yet has no higher peak to forget.
func ResetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// Resident returns the resident memory of this process.
func Resident() int64 { return int64(status().VmRSS) }

// Peak returns the most memory that was resident since ResetPeak.
func Peak() int64 { return int64(status().VmHWM) }

func status() procfs.ProcStatus {
	proc, _ := procfs.Self()
	s, _ := proc.NewStatus()
	return s
}

// CPU returns the user and system time that this process has taken.
func CPU() time.Duration {
	proc, _ := procfs.Self()
	stat, _ := proc.Stat()
	return time.Duration(stat.CPUTime() * float64(time.Second))
}

func memory() procfs.Meminfo {
	fs, _ := procfs.NewDefaultFS()
	info, _ := fs.Meminfo()
	return info
}

// Available returns how much memory the process can use without being killed.
func Available() int64 {
	info := memory()
	if info.MemAvailableBytes == nil {
		return 0
	}
	free := *info.MemAvailableBytes
	if limit, err := memlimit.FromCgroup(); err == nil {
		free = min(free, limit)
	}
	return int64(free)
}

// Fits returns an error if work needs more memory than is available.
func Fits(work string, need float64) error {
	const slack = 64 << 20 // for the processes themselves
	if free := Available(); free > 0 && need+slack > float64(free) {
		return fmt.Errorf("%s may need %v of memory, and %v is available", work, Size(min(need, MaxSize)), Size(free))
	}
	return nil
}

// PeakFactor is how many times its size a bytes.Buffer may occupy: the old array,
// the new one that it copies to, and garbage that has not been collected yet.
const PeakFactor = 4

// Machine describes the computer under a setting of transparent huge pages.
func Machine(hugePages string) string {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	words := []string{
		strings.TrimSpace(runtime.GOOS + "/" + runtime.GOARCH + " " + string(kernel)),
		fmt.Sprintf("%d cores", runtime.NumCPU()),
	}
	if n := memory().MemTotalBytes; n != nil {
		words = append(words, Size(*n).String()+" memory")
	}
	words = append(words, runtime.Version())
	if hugePages != "" {
		words = append(words, "transparent huge pages: "+hugePages)
	}
	return strings.Join(words, ", ")
}
