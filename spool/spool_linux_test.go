package spool

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf"

	ft "github.com/mmapbuf/mmapbuf/internal/filetest"
	"github.com/mmapbuf/mmapbuf/internal/proctest"
)

// smallDisk returns a directory of a file system that has room for 1 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("no permission to mount a file system: ", err)
	}
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// limitFileSize lowers RLIMIT_FSIZE for the length of a test.
func limitFileSize(t *testing.T, n uint64) {
	t.Helper()
	var old unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_FSIZE, &old))
	t.Cleanup(func() { assert.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &old)) })
	require.NoError(t, unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: n, Max: old.Max}))
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(files)
}

// TestDiskFull: the rollover fails with what the file system says, at each step of
// the way, until there is room.
func TestDiskFull(t *testing.T) {
	const n = 2 << 20 // twice what there is room for
	for _, test := range []struct {
		name  string
		err   error
		setup func(t *testing.T) (dir string, room func())
	}{
		{"ENOSPC", unix.ENOSPC, func(t *testing.T) (string, func()) {
			dir := smallDisk(t)
			return dir, func() { require.NoError(t, unix.Mount("", dir, "", unix.MS_REMOUNT, "size=16m")) }
		}},
		{"RLIMIT_FSIZE", unix.EFBIG, func(t *testing.T) (string, func()) {
			limitFileSize(t, 1<<20)
			return t.TempDir(), func() { limitFileSize(t, 16<<20) }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, room := test.setup(t)
			b := &mmapbuf.Buffer{MaxLen: n}
			f := New(b, dir)
			defer f.Close()
			require.NoError(t, ft.Err(f.Write(noise()[:n])))
			require.NoError(t, ft.Err(f.Seek(-100, io.SeekEnd)))
			fds := openFiles(t)
			more := noise()[n-100 : n+100]

			k, err := f.Write(more)
			require.ErrorIs(t, err, test.err)
			require.Equal(t, 100, k, "what fits in memory")
			k, err = f.Write(more[k:])
			require.ErrorIs(t, err, test.err)
			require.Zero(t, k)
			k, err = f.WriteAt(more, n-100)
			require.ErrorIs(t, err, test.err)
			require.Zero(t, k)
			m, err := f.ReadFrom(bytes.NewReader(more))
			require.ErrorIs(t, err, test.err)
			require.Zero(t, m)
			require.ErrorIs(t, f.Truncate(n+1), test.err)
			require.ErrorIs(t, f.Rollover(), test.err)
			require.True(t, inMemory(f))
			require.Equal(t, n, b.Len())
			requireContents(t, f, noise()[:n])
			require.Equal(t, fds, openFiles(t), "files of the attempts are closed")
			requireEmpty(t, dir)

			at, err := f.Seek(0, io.SeekCurrent)
			require.NoError(t, err)
			require.EqualValues(t, n, at)
			require.NoError(t, ft.Err(f.WriteAt([]byte("in memory"), 5)))
			require.NoError(t, f.Truncate(n-1))
			require.NoError(t, f.Truncate(n))
			require.True(t, inMemory(f))

			room()
			k, err = f.Write(more[100:])
			require.NoError(t, err)
			require.Equal(t, 100, k)
			require.True(t, onDisk(f))
			want := bytes.Clone(noise()[:n+100])
			copy(want[5:], "in memory")
			want[n-1] = 0
			requireContents(t, f, want)
			requireEmpty(t, dir)
		})
	}
}

// TestDiskFullLater: after the rollover, a write that is cut short returns what an
// os.File returns, and is continued when there is room.
func TestDiskFullLater(t *testing.T) {
	const room = 1 << 20
	limitFileSize(t, room)
	f := newFile(t, 1000)
	want, err := createTemp(t.TempDir())
	require.NoError(t, err)
	defer want.Close()
	for _, o := range []ft.Op{
		ft.Write(noise()[:room-100]), ft.Write(noise()[room-100 : room+100]), ft.Write("x"),
		ft.WriteAt("xyz", room-1), ft.Seek(-50, io.SeekEnd), ft.ReadAll(noise()[room-50 : room+50]),
		ft.Truncate(room + 1), ft.Seek(room-3, io.SeekStart), ft.Read(5),
	} {
		got, want := o.Run(f), o.Run(want)
		require.Equal(t, want.N, got.N, o.Name)
		require.NoError(t, diffBytes(got.P, want.P), o.Name)
		if want.Err == nil || want.Err == io.EOF {
			require.Equal(t, want.Err, got.Err, o.Name)
		} else {
			require.ErrorIs(t, want.Err, unix.EFBIG, o.Name)
			require.ErrorIs(t, got.Err, unix.EFBIG, o.Name)
		}
		require.True(t, onDisk(f), o.Name)
	}
	limitFileSize(t, 2*room)
	require.NoError(t, ft.Err(f.WriteAt(noise()[room:room+100], room)))
	all := bytes.Clone(noise()[:room+100])
	all[room-1] = 'x'
	copy(all[room-50:], noise()[room-50:room])
	requireContents(t, f, all)
}

// TestNoMemory: without MaxLen, the contents are moved when memory is refused,
// here for a size for which there are no addresses.
func TestNoMemory(t *testing.T) {
	const far int64 = 1 << 50
	dir := smallDisk(t)
	b := new(mmapbuf.Buffer)
	f := New(b, dir)
	defer f.Close()
	require.NoError(t, ft.Err(f.WriteString("abc")))
	require.NoError(t, ft.Err(f.WriteAt([]byte("x"), far)))
	require.True(t, onDisk(f))
	requireReleased(t, b)
	require.Equal(t, far+1, f.Size())
	p := make([]byte, 5)
	require.NoError(t, ft.Err(f.ReadAt(p, 0)))
	require.Equal(t, "abc\x00\x00", string(p))
	require.NoError(t, ft.Err(f.Seek(far, io.SeekStart)))
	require.NoError(t, ft.Err(f.WriteString("yz")))
	require.Equal(t, far+2, f.Size())
	n, err := f.ReadAt(p, far)
	require.Equal(t, io.EOF, err)
	require.Equal(t, "yz", string(p[:n]))
}

func TestNoAllocs(t *testing.T) {
	if proctest.Race {
		t.Skip("the race detector allocates")
	}
	atBothPlaces(t, noise()[:1<<20], func(t *testing.T, f *File) {
		p := noise()[:1000]
		s := string(p)
		q := make([]byte, 1000)
		for name, call := range map[string]func(){
			"Write":       func() { f.Write(p) },
			"WriteString": func() { f.WriteString(s) },
			"WriteAt":     func() { f.WriteAt(p, 500) },
			"Read":        func() { f.Read(q) },
			"ReadAt":      func() { f.ReadAt(q, 100) },
			"Truncate":    func() { f.Truncate(10_000); f.Truncate(900_000) },
		} {
			f.off = 0
			assert.Zero(t, testing.AllocsPerRun(50, call), name)
		}
	})
}

// TestOneCopy: the rollover is one ft.Write(2) of the contents.
func TestOneCopy(t *testing.T) {
	count := func() (calls, n int) {
		s, err := os.ReadFile("/proc/self/io")
		if err != nil {
			t.Skip(err)
		}
		for line := range strings.Lines(string(s)) {
			_, _ = fmt.Sscanf(line, "wchar: %d", &n)
			_, _ = fmt.Sscanf(line, "syscw: %d", &calls)
		}
		return calls, n
	}
	for _, n := range []int{100_000, 6 << 20} {
		f := newFile(t, n)
		require.NoError(t, ft.Err(f.Write(noise()[:n])))
		calls, bytes := count()
		require.NoError(t, ft.Err(f.WriteAt([]byte("x"), 0)))
		c, k := count()
		require.Equal(t, calls, c)
		require.Equal(t, bytes, k)
		require.NoError(t, ft.Err(f.WriteAt([]byte("xyz"), int64(n))))
		require.True(t, onDisk(f))
		c, k = count()
		assert.InDelta(t, n+3, k-bytes, 64) // the runtime may wake a thread up
		assert.InDelta(t, 2, c-calls, 4)
	}
}

// TestCollected: a File that is not closed is, after it has become unreachable.
func TestCollected(t *testing.T) {
	dir := t.TempDir()
	fds := openFiles(t)
	func() {
		f := New(mmapbuf.NewBuffer(make([]byte, 1000)), dir)
		require.NoError(t, f.Rollover())
		require.Equal(t, fds+1, openFiles(t))
	}()
	require.Eventually(t, func() bool { runtime.GC(); return openFiles(t) == fds }, 5*time.Second, 10*time.Millisecond)
}

// TestNeverNamed: nobody can give the file a name.
func TestNeverNamed(t *testing.T) {
	dir := t.TempDir()
	link := func(f *os.File) error {
		old, name := fmt.Sprintf("/proc/self/fd/%d", f.Fd()), filepath.Join(dir, "name")
		return unix.Linkat(unix.AT_FDCWD, old, unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	}
	other, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		t.Skip("no O_TMPFILE here: ", err)
	}
	defer other.Close()
	require.NoError(t, link(other), "this is how it would be done")
	require.NoError(t, os.Remove(filepath.Join(dir, "name")))
	f := New(new(mmapbuf.Buffer), dir)
	defer f.Close()
	require.NoError(t, f.Rollover())
	require.Error(t, link(f.disk))
}

// TestWithoutTmpfile: a file system that has no O_TMPFILE, which overlays of some
// kinds and /proc are.
func TestWithoutTmpfile(t *testing.T) {
	_, err := os.OpenFile("/proc/self", os.O_RDWR|unix.O_TMPFILE, 0o600)
	require.Error(t, err)
	f, err := createTemp("/proc/self")
	require.Nil(t, f)
	require.ErrorContains(t, err, filepath.Join("/proc/self", "mmapbuf-spool-"), "it has tried the other way")
}
