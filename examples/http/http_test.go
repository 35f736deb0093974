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
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// limit is above keep, so that Buffers of the largest uploads are closed.
const limit = keep + 1<<20

var data = bytes.Repeat([]byte("0123456789abcdef"), limit/16+1)

// post sends body, whose length the server is told if it is a bytes.Reader.
func post(t *testing.T, u *uploads, body io.Reader) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	u.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", body))
	return w
}

func TestUploads(t *testing.T) {
	u := newUploads(limit)
	for _, n := range []int{0, 1, 1000, keep - 1, keep, keep + 1, limit - 1, limit, limit + 1} {
		for _, body := range []io.Reader{bytes.NewReader(data[:n]), iotest.HalfReader(bytes.NewReader(data[:n]))} {
			w := post(t, u, body)
			if n > limit {
				assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
				assert.Equal(t, "more than 5242880 bytes\n", w.Body.String())
				continue
			}
			assert.Equal(t, fmt.Sprintf("%d %x\n", n, sha256.Sum256(data[:n])), w.Body.String())
		}
	}
}

// A large or failed upload leaves no memory behind for the collector.
func TestBadUploads(t *testing.T) {
	for name, test := range map[string]struct {
		body io.Reader
		code int
		says string
	}{
		"large":      {bytes.NewReader(data[:limit]), 200, "5242880 "},
		"too large":  {iotest.DataErrReader(bytes.NewReader(data)), 413, "more than 5242880 bytes"},
		"cut off":    {io.MultiReader(bytes.NewReader(data[:3<<20]), iotest.ErrReader(io.ErrUnexpectedEOF)), 400, "upload broke off after 3145728 bytes: unexpected EOF"},
		"no data":    {iotest.ErrReader(context.Canceled), 400, "upload broke off after 0 bytes: context canceled"},
		"not at all": {iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("xy"))), 400, "upload broke off after 1 bytes: timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			was := mmapbuf.ReadStats().MappedBytes
			w := post(t, newUploads(limit), test.body)
			assert.Equal(t, test.code, w.Code)
			assert.Contains(t, w.Body.String(), test.says)
			assert.Equal(t, was, mmapbuf.ReadStats().MappedBytes)
		})
	}

	// What is known to be too large is not read.
	r := httptest.NewRequest(http.MethodPost, "/", iotest.ErrReader(io.ErrClosedPipe))
	r.ContentLength = limit + 1
	w := httptest.NewRecorder()
	newUploads(limit).ServeHTTP(w, r)
	assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
}

func TestServe(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	r, w := io.Pipe()
	done := make(chan error)
	go func() { done <- serve(ctx, w, "localhost:0", limit) }()
	var url string
	_, err := fmt.Fscanf(r, "listening at %s\n", &url)
	require.NoError(t, err)

	var clients sync.WaitGroup
	for n := range 16 {
		clients.Go(func() {
			resp, err := http.Post(url, "", bytes.NewReader(data[:limit/16*n]))
			if assert.NoError(t, err) {
				assert.Equal(t, 200, resp.StatusCode)
				assert.NoError(t, resp.Body.Close())
			}
		})
	}
	clients.Wait()

	// A connection that ends within the body gets an answer.
	for request, says := range map[string]string{
		"Content-Length: 5000\r\n\r\n" + strings.Repeat("x", 300):                  "upload broke off after 300 bytes: unexpected EOF",
		"Transfer-Encoding: chunked\r\n\r\n2710\r\n" + strings.Repeat("x", 300):    "upload broke off after 300 bytes: unexpected EOF",
		"Transfer-Encoding: chunked\r\n\r\nnumber\r\n":                             "upload broke off after 0 bytes: invalid byte in chunk length",
		fmt.Sprintf("Content-Length: %d\r\nExpect: 100-continue\r\n\r\n", limit+1): "413 Request Entity Too Large",
	} {
		conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/"))
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(10*time.Second)))
		_, err = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: here\r\n"+request)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		answer, err := io.ReadAll(conn)
		require.NoError(t, err)
		assert.Contains(t, string(answer), says)
		require.NoError(t, conn.Close())
	}
	stop()
	assert.NoError(t, <-done)
	assert.ErrorContains(t, serve(t.Context(), io.Discard, "localhost:99999", limit), "listen")
}
