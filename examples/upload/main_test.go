package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

const miB = 1 << 20

// contents returns a Reader of n random bytes, which are not in memory.
func contents(seed byte, n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{seed}), n)
}

// send uploads n bytes, compares the answer, and returns an error if it is not the
// right one. Before the last byte it calls last, which may be nil.
func send(url string, seed byte, n int64, last func()) error {
	hash := sha256.New()
	all := io.TeeReader(contents(seed, n), hash)
	body := io.MultiReader(io.LimitReader(all, n-1), readerFunc(func(p []byte) (int, error) {
		if last != nil {
			last()
			last = nil
		}
		return all.Read(p)
	}))
	req, err := http.NewRequest(http.MethodPost, url, body)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if want := fmt.Sprintf("%d %x\n", n, hash.Sum(nil)); err == nil && string(answer) != want {
		err = fmt.Errorf("%s: %q instead of %q", resp.Status, answer, want)
	}
	return err
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// sendAll makes that many uploads of n bytes each. When the server has all of each but
// the last byte, sendAll calls full, and then sends these.
func sendAll(url string, uploads int, n int64, full func()) error {
	var clients, arrived sync.WaitGroup
	arrived.Add(uploads)
	proceed := make(chan struct{})
	errs := make([]error, uploads)
	for i := range errs {
		clients.Go(func() {
			arrive := sync.OnceFunc(arrived.Done)
			defer arrive() // if it fails
			errs[i] = send(url, byte(i), n, func() { arrive(); <-proceed })
		})
	}
	arrived.Wait()
	full()
	close(proceed)
	clients.Wait()
	return errors.Join(errs...)
}

// breakOff begins an upload of n bytes at the server at url, and closes the connection
// after half of them.
func breakOff(url string, n int64) error {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", n); err != nil {
		return err
	}
	_, err = io.Copy(conn, contents(0, n/2))
	return err
}

// start serves u until the end of the test, at which u must have nothing in memory.
func start(t *testing.T, u *uploads) (url string) {
	t.Helper()
	server := httptest.NewServer(u)
	t.Cleanup(func() {
		server.Close()
		assert.Zero(t, u.limit.Used())
		assert.Zero(t, filesIn(u.dir))
	})
	return server.URL
}

// filesIn returns how many open files are in dir and have no name. It returns 0 on
// systems on which it cannot find out.
func filesIn(dir string) (n int) {
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil && strings.HasPrefix(name, dir+"/") {
			n++
		}
	}
	return n
}

// The Limit is less than half of the uploads.
func TestUploads(t *testing.T) {
	const size, limit = 20 * miB, 30 * miB
	u := &uploads{limit: mmapbuf.NewLimit(limit), dir: t.TempDir(), max: size}
	url := start(t, u)
	for _, n := range []int64{1, 1000, miB, 3*miB + 1} {
		require.NoError(t, send(url, 1, n, nil))
	}
	require.NoError(t, sendAll(url, 4, size, func() {
		t.Logf("of %d MiB, %d are in memory, the rest in %d files", 4*size/miB, u.limit.Used()/miB, filesIn(u.dir))
		assert.LessOrEqual(t, u.limit.Used(), u.limit.Max())
		if runtime.GOOS == "linux" {
			assert.Positive(t, filesIn(u.dir))
		}
	}))
}

// Whether an upload is in memory or on disk, nothing is left of it if it breaks off.
func TestClientsBreakOff(t *testing.T) {
	u := &uploads{limit: mmapbuf.NewLimit(8 * miB), dir: t.TempDir(), max: 1 << 30}
	url := start(t, u)
	for _, n := range []int64{100, 6 * miB, 40 * miB} {
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() { assert.NoError(t, breakOff(url, n)) })
		}
		clients.Go(func() { assert.NoError(t, send(url, 1, 5*miB, nil)) })
		clients.Wait()
		assert.Eventually(t, func() bool { return u.limit.Used() == 0 && filesIn(u.dir) == 0 },
			20*time.Second, time.Millisecond)
	}
}

func TestErrors(t *testing.T) {
	for name, test := range map[string]struct {
		body io.Reader
		dir  string
		code int
		says string
	}{
		"as large as it may be": {contents(0, 20*miB), t.TempDir(), 200, "20971520 "},
		"too large":             {contents(0, 20*miB+1), t.TempDir(), 413, "more than 20971520 bytes\n"},
		"cut off": {io.MultiReader(contents(0, 10*miB), iotest.ErrReader(io.ErrUnexpectedEOF)), t.TempDir(),
			400, "upload broke off after 10485760 bytes: unexpected EOF\n"},
		"no data":      {iotest.ErrReader(context.Canceled), t.TempDir(), 400, "upload broke off after 0 bytes: context canceled\n"},
		"in memory":    {contents(0, 3*miB), "/no/such/directory", 200, "3145728 "},
		"no directory": {contents(0, 20*miB), "/no/such/directory", 507, "no room for the upload\n"},
	} {
		u := &uploads{limit: mmapbuf.NewLimit(4 * miB), dir: test.dir, max: 20 * miB}
		w := httptest.NewRecorder()
		u.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", test.body))
		assert.Equal(t, test.code, w.Code, name)
		assert.Contains(t, w.Body.String(), test.says, name)
		assert.Zero(t, u.limit.Used(), name)
		assert.Zero(t, filesIn(test.dir), name)
	}
}
