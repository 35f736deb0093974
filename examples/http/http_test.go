package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/commandtest"
)

func TestMain(m *testing.M) { commandtest.Main(m, main) }

// limit is above keep, so that buffers of the largest uploads are closed.
const limit = keep + 1<<20

// start runs the handler. In the end nothing may be left of it, nor in its pool.
// Uploads that break off are told on the channel.
func start(t *testing.T, open func(max int) buffer) (url string, client *http.Client, broken chan string) {
	t.Helper()
	mapped := mmapbuf.ReadStats().MappedBytes
	t.Cleanup(func() { requireMapped(t, mapped) })
	broken = make(chan string, 100)
	url, transport := commandtest.Serve(t, newUploads(limit, open, func(format string, args ...any) {
		broken <- fmt.Sprintf(format, args...)
	}))
	transport.ExpectContinueTimeout = time.Hour
	return url, &http.Client{Transport: transport}, broken
}

// requireMapped requires that n bytes are mapped once the collector has emptied
// the pools.
func requireMapped(t *testing.T, n int64) {
	t.Helper()
	for i := 0; mmapbuf.ReadStats().MappedBytes != n; i++ {
		require.Less(t, i, 500, "%d bytes mapped", mmapbuf.ReadStats().MappedBytes)
		runtime.GC()
		time.Sleep(10 * time.Millisecond)
	}
}

func TestSizes(t *testing.T) {
	for _, impl := range implementations {
		t.Run(impl.name, func(t *testing.T) {
			url, client, broken := start(t, impl.open)
			for _, chunked := range []bool{false, true} {
				for _, n := range []int64{0, 1, 1000, keep - 1, keep, keep + 1, limit - 1, limit} {
					u := upload{size: n, chunked: chunked}
					require.NoError(t, u.send(t.Context(), client, url), n)
					assert.Equal(t, "200 OK", u.status, n)
				}
				for _, n := range []int64{limit + 1, 4 * limit} {
					u := upload{size: n, chunked: chunked}
					require.NoError(t, u.send(t.Context(), client, url), n)
					assert.Equal(t, "413 Request Entity Too Large", u.status, n)
					if !chunked {
						assert.Zero(t, u.sent.Load(), "it is refused before it is sent")
					}
				}
			}
			assert.Empty(t, broken)
		})
	}
}

// A body that must not be read is not.
func TestRefusedUnread(t *testing.T) {
	handler := newUploads(limit, newMmapbuf, t.Logf)
	r := httptest.NewRequest(http.MethodPost, "/", unreadable{t})
	r.ContentLength = limit + 1
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	assert.Equal(t, "more than 5242880 bytes\n", w.Body.String())
}

type unreadable struct{ t *testing.T }

func (r unreadable) Read([]byte) (int, error) {
	assert.Fail(r.t, "the body is read")
	return 0, io.EOF
}

func TestParallel(t *testing.T) {
	url, client, broken := start(t, newMmapbuf)
	var all []*upload
	for range 8 {
		for _, n := range []int64{100, 1 << 20, keep, limit, limit + 1} {
			all = append(all, &upload{size: n, chunked: len(all)%2 == 0})
		}
	}
	var clients errgroup.Group
	clients.SetLimit(16)
	for _, u := range all {
		clients.Go(func() error { return u.send(t.Context(), client, url) })
	}
	require.NoError(t, clients.Wait())
	for _, u := range all {
		assert.Equal(t, u.size <= limit, u.status == "200 OK", "%d bytes: %s", u.size, u.status)
	}
	assert.Empty(t, broken)
}

// What is larger than keep, or fails, leaves nothing behind that a collection
// would have to find.
func TestNothingBehind(t *testing.T) {
	data := make([]byte, limit+1)
	for _, test := range []struct {
		name string
		body io.Reader
		code int
	}{
		{"large", bytes.NewReader(data[:limit]), http.StatusOK},
		{"too large", bytes.NewReader(data), http.StatusRequestEntityTooLarge},
		{"cut off", io.MultiReader(bytes.NewReader(data[:keep/2]), broken{}), http.StatusBadRequest},
	} {
		t.Run(test.name, func(t *testing.T) {
			was := mmapbuf.ReadStats()
			w := httptest.NewRecorder()
			newUploads(limit, newMmapbuf, t.Logf).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", struct{ io.Reader }{test.body}))
			assert.Equal(t, test.code, w.Code)
			is := mmapbuf.ReadStats()
			assert.Equal(t, was.MappedBytes, is.MappedBytes)
			if runtime.GOOS == "linux" {
				assert.LessOrEqual(t, was.Maps, is.Maps)
			}
		})
	}
}

// A connection that ends within the body gets an answer, if it can have one.
func TestCutOff(t *testing.T) {
	url, _, broken := start(t, newMmapbuf)
	for _, test := range []struct{ request, says string }{
		{"Content-Length: 5000000\r\n\r\n" + strings.Repeat("x", 3000000), "upload broke off after 3000000 bytes: unexpected EOF"},
		{"Transfer-Encoding: chunked\r\n\r\n2dc6c0\r\n" + strings.Repeat("x", 3000000) + "\r\n", "upload broke off after 3000000 bytes: unexpected EOF"},
		{"Transfer-Encoding: chunked\r\n\r\nnumber\r\n", "upload broke off after 0 bytes: invalid byte in chunk length"},
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		require.NoError(t, err)
		_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: here\r\n"+test.request)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		assert.True(t, strings.HasPrefix(string(answer), "HTTP/1.1 400 Bad Request\r\n"), "%s", answer)
		assert.Contains(t, string(answer), test.says)
		assert.Equal(t, test.says, <-broken)
		require.NoError(t, conn.Close())
	}
}

// A client that gives up half way leaves nothing but a line in the log.
func TestCancelled(t *testing.T) {
	url, client, broken := start(t, newMmapbuf)
	ctx, cancel := context.WithCancel(t.Context())
	body := io.MultiReader(bytes.NewReader(make([]byte, 3<<20)), &cancelling{ctx, cancel})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, body)
	require.NoError(t, err)
	_, err = client.Do(req)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Regexp(t, `\Aupload broke off after \d+ bytes: `, <-broken)
}

// A cancelling Reader cancels instead of delivering anything.
type cancelling struct {
	ctx    context.Context
	cancel func()
}

func (c *cancelling) Read([]byte) (int, error) {
	c.cancel()
	return 0, c.ctx.Err()
}

// The client notices when the server has received something else.
func TestClientCompares(t *testing.T) {
	url, transport := commandtest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "10 %x\n", sha256.Sum256(nil))
	}))
	u := upload{size: 10, chunked: true}
	assert.ErrorContains(t, u.send(t.Context(), &http.Client{Transport: transport}, url), "the server has received 10 e3b0c4")
}

func TestProgram(t *testing.T) {
	cmd, stdout, stderr := commandtest.Program(t, "-max", "8MiB", "-runs", "2")
	require.NoError(t, cmd.Run(), stderr)
	assert.Empty(t, stderr.String())
	out := stdout.String()
	assert.Equal(t, 5, strings.Count(out, " 200 OK "))
	assert.Regexp(t, `\| 8388609 +\| +known \| +0 \| 413 Request Entity Too Large \|`, out)
	assert.Regexp(t, `\| 8388609 +\| +not known \| +8388609 \| 413 Request Entity Too Large \|`, out)
	assert.Contains(t, out, "upload broke off after 4194304 bytes: unexpected EOF")
	assert.Contains(t, out, "20 uploads of up to 8 MiB, 4 at a time; runs of each, in turn: 2")
	assert.Equal(t, 2, strings.Count(out, " mmapbuf.Buffer |"))
}

func TestListen(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no interrupt can be sent")
	}
	cmd, _, stderr := commandtest.Program(t, "-listen", "127.0.0.1:0")
	cmd.Stdout = nil
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var url string
	_, err = fmt.Fscanf(out, "listening at %s\n", &url)
	assert.NoError(t, err)
	u := upload{size: 3 << 20}
	client := newClient()
	defer client.CloseIdleConnections()
	assert.NoError(t, u.send(t.Context(), client, url))
	assert.Equal(t, "200 OK", u.status)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	assert.Error(t, cmd.Wait())
	assert.Equal(t, "http: interrupted\n", stderr.String())
}

func TestMistakes(t *testing.T) {
	commandtest.RequireHelp(t, "http")
	for args, says := range map[string]string{
		"-max 0":  "at least one byte",
		"-runs 0": "at least one run",
		"-colour": "-colour",
		"there":   "no arguments are taken",
	} {
		commandtest.RequireFails(t, 2, says, "http", strings.Fields(args)...)
	}
	commandtest.RequireFails(t, 1, "listen", "http", "-listen", "127.0.0.1:99999")
}
