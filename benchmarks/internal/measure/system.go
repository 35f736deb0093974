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

// ResetPeak makes the kernel forget the peak of this process until now. Where
// that is refused, little is lost in a process that has done little yet.
func ResetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// Resident returns the memory of this process that is resident; 0 where the
// system does not tell.
func Resident() int64 { return int64(status().VmRSS) }

// Peak returns the most memory of this process that was resident since ResetPeak;
// 0 where the system does not tell.
func Peak() int64 { return int64(status().VmHWM) }

func status() procfs.ProcStatus {
	proc, err := procfs.Self()
	if err != nil {
		return procfs.ProcStatus{}
	}
	s, _ := proc.NewStatus()
	return s
}

// CPU returns the user and system time that this process has taken; 0 where the
// system does not tell.
func CPU() time.Duration {
	proc, err := procfs.Self()
	if err != nil {
		return 0
	}
	stat, _ := proc.Stat()
	return time.Duration(stat.CPUTime() * float64(time.Second))
}

// Available returns the memory that can be had without the out-of-memory killer;
// 0 where the system does not tell.
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

func memory() procfs.Meminfo {
	fs, err := procfs.NewDefaultFS()
	if err != nil {
		return procfs.Meminfo{}
	}
	info, _ := fs.Meminfo()
	return info
}

// slack is memory that goes to the processes themselves.
const slack = 64 << 20

// Fits returns an error if what is to be done needs more memory than can be had.
func Fits(what string, need float64) error {
	if free := Available(); free > 0 && need+slack > float64(free) {
		return fmt.Errorf("%s may need %v of memory, and %v can be had", what, Size(min(need, MaxSize)), Size(free))
	}
	return nil
}

// PeakFactor is how many times its size a bytes.Buffer may occupy: the old array
// and the new one while it copies, and garbage not yet collected.
const PeakFactor = 4

// Machine describes the computer, as far as it tells.
func Machine() string {
	read := func(name string) string {
		text, _ := os.ReadFile(name)
		return strings.TrimSpace(string(text))
	}
	words := []string{strings.TrimSpace(runtime.GOOS + "/" + runtime.GOARCH + " " + read("/proc/sys/kernel/osrelease"))}
	words = append(words, fmt.Sprintf("%d cores", runtime.NumCPU()))
	if n := memory().MemTotalBytes; n != nil {
		words = append(words, Size(*n).String()+" memory")
	}
	words = append(words, runtime.Version())
	// The setting in force stands in brackets: always [madvise] never.
	_, rest, _ := strings.Cut(read("/sys/kernel/mm/transparent_hugepage/enabled"), "[")
	if setting, _, ok := strings.Cut(rest, "]"); ok {
		words = append(words, "transparent huge pages: "+setting)
	}
	return strings.Join(words, ", ")
}
