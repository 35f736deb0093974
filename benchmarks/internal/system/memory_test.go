package system

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
)

func TestAvailable(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	_, ok := Available(fstest.MapFS{})
	assert.False(t, ok, "nothing is known without /proc")

	root := fstest.MapFS{"proc/meminfo": file("MemTotal:  2048 kB\nMemAvailable:    1024 kB\n")}
	free, ok := Available(root)
	assert.True(t, ok)
	assert.Equal(t, Room{1 << 20, "MemAvailable"}, free)

	root["proc/self/cgroup"] = file("4:memory:/old\n0::/a/b\n")
	root["sys/fs/cgroup/a/b/memory.max"] = file("max\n")
	root["sys/fs/cgroup/a/memory.max"] = file("600000\n")
	root["sys/fs/cgroup/a/memory.current"] = file("500000\n")
	root["sys/fs/cgroup/a/memory.stat"] = file("anon 1\ninactive_file 100000\n")
	free, _ = Available(root)
	assert.Equal(t, Room{200000, "memory.max of control group /a"}, free)

	root["sys/fs/cgroup/a/memory.max"] = file("9000000\n")
	free, _ = Available(root)
	assert.Equal(t, "MemAvailable", free.From, "the tighter limit counts")
}
