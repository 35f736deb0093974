package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"github.com/mmapbuf/mmapbuf/examples/internal/system"
)

// slack is memory that goes to the two processes themselves.
const slack = 64 << 20

// A room is memory that can still be had.
type room struct {
	bytes int64
	from  string // who says so
}

// available returns the memory that can be had without pushing the machine, or
// the control group, into the arms of the OOM killer.
func available(fsys fs.FS) (free room, ok bool) {
	if n, ok := system.Field(fsys, "proc/meminfo", "MemAvailable"); ok {
		free = room{n, "MemAvailable"}
	} else {
		return free, false
	}
	// A limit of any group above counts as well.
	for group := ownGroup(fsys); ; group = path.Dir(group) {
		if n, ok := groupFree(fsys, path.Join("sys/fs/cgroup", group)); ok && n < free.bytes {
			free = room{n, "memory.max of control group " + group}
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
	cache, _ := system.Field(fsys, path.Join(dir, "memory.stat"), "inactive_file")
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

// largest returns the largest payload that all of impls can hold in free.
func largest(impls []implementation, write int64, free room) int64 {
	return max(0, (free.bytes-slack-write)/hungriest(impls).peak)
}

// hungriest returns the implementation that needs the most memory.
func hungriest(impls []implementation) implementation {
	most := impls[0]
	for _, impl := range impls[1:] {
		if impl.peak > most.peak {
			most = impl
		}
	}
	return most
}

// fits returns an error if one of impls cannot hold size bytes in free.
func fits(impls []implementation, bytes, write int64, free room) error {
	most := largest(impls, write, free)
	if bytes <= most {
		return nil
	}
	worst := hungriest(impls)
	text := fmt.Sprintf("%v does not fit in memory: %s may need %v and %v can be had (%s)",
		size(bytes), worst.name, size(bytes*worst.peak+slack+write), size(free.bytes), free.from)
	if most < 1<<20 {
		return fmt.Errorf("%s; no size worth measuring would fit", text)
	}
	text = fmt.Sprintf("%s; the largest that fits is -size %dMiB", text, most>>20)

	// The ones that hold the payload once may still do.
	var lean []implementation
	for _, impl := range impls {
		if impl.peak == 1 {
			lean = append(lean, impl)
		}
	}
	if len(lean) > 0 && worst.peak > 1 {
		text = fmt.Sprintf("%s, or -size %dMiB with -only %s", text, largest(lean, write, free)>>20, keys(lean))
	}
	return fmt.Errorf("%s", text)
}
