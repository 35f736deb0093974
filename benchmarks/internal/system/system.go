// Package system asks Linux about the machine and about this process. On other
// systems little is known.
package system

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Root is where Linux tells about itself. Nothing is found there on other
// systems.
var Root = os.DirFS("/")

// Field reads one figure, in bytes, of a file such as proc/meminfo.
func Field(fsys fs.FS, name, key string) (int64, bool) {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || strings.TrimSuffix(words[0], ":") != key {
			continue
		}
		n, err := strconv.ParseInt(words[1], 10, 64)
		if len(words) > 2 && words[2] == "kB" {
			n <<= 10
		}
		return n, err == nil
	}
	return 0, false
}

// ResetPeak makes the kernel forget the peak of this process until now. Where
// that is refused, little is lost in a process that has done little yet.
func ResetPeak() { _ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0) }

// Resident returns the memory of this process that is resident; 0 where the
// system does not tell.
func Resident() int64 { return status("VmRSS") }

// Peak returns the most memory of this process that ever was resident, or since
// ResetPeak; 0 where the system does not tell.
func Peak() int64 { return status("VmHWM") }

// CPU returns the user and system time that this process has taken; 0 where the
// system does not tell.
func CPU() time.Duration { return cpu() }

func status(key string) int64 {
	n, _ := Field(Root, "proc/self/status", key)
	return n
}

// Machine describes the computer, as far as it tells.
func Machine(fsys fs.FS) string {
	read := func(name string) string {
		text, _ := fs.ReadFile(fsys, name)
		return strings.TrimSpace(string(text))
	}
	words := []string{strings.TrimSpace(runtime.GOOS + "/" + runtime.GOARCH + " " + read("proc/sys/kernel/osrelease"))}
	words = append(words, fmt.Sprintf("%d cores", runtime.NumCPU()))
	if n, ok := Field(fsys, "proc/meminfo", "MemTotal"); ok {
		words = append(words, humanize.IBytesN(uint64(n), 3)+" memory")
	}
	words = append(words, runtime.Version())
	// The setting in force stands in brackets: always [madvise] never.
	_, rest, _ := strings.Cut(read("sys/kernel/mm/transparent_hugepage/enabled"), "[")
	if setting, _, ok := strings.Cut(rest, "]"); ok {
		words = append(words, "transparent huge pages: "+setting)
	}
	return strings.Join(words, ", ")
}
