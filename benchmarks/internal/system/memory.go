package system

import (
	"bytes"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// A Room is memory that can still be had.
type Room struct {
	Bytes int64
	From  string // who says so
}

// Available returns the memory that can be had without pushing the machine, or
// the control group, into the arms of the OOM killer.
func Available(fsys fs.FS) (free Room, ok bool) {
	if n, ok := Field(fsys, "proc/meminfo", "MemAvailable"); ok {
		free = Room{n, "MemAvailable"}
	} else {
		return free, false
	}
	// A limit of any group above counts as well.
	for group := ownGroup(fsys); ; group = path.Dir(group) {
		if n, ok := groupFree(fsys, path.Join("sys/fs/cgroup", group)); ok && n < free.Bytes {
			free = Room{n, "memory.max of control group " + group}
		}
		if group == "/" {
			return free, true
		}
	}
}

// ownGroup returns the name of the cgroup (version 2) of this process.
func ownGroup(fsys fs.FS) string {
	text, _ := fs.ReadFile(fsys, "proc/self/cgroup")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path.Clean("/" + name)
		}
	}
	return "/"
}

// groupFree returns what the limit of the cgroup at dir leaves, if it has one.
func groupFree(fsys fs.FS, dir string) (int64, bool) {
	limit, ok := number(fsys, path.Join(dir, "memory.max"))
	if !ok {
		return 0, false // no such file, or "max"
	}
	used, ok := number(fsys, path.Join(dir, "memory.current"))
	if !ok {
		return 0, false
	}
	// Files that were read count as used, but make room when it is wanted.
	cache, _ := Field(fsys, path.Join(dir, "memory.stat"), "inactive_file")
	return max(0, limit-max(0, used-cache)), true
}

// number reads a file that holds a single number.
func number(fsys fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(fsys, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64)
	return n, err == nil
}
