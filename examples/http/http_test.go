package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"

	"github.com/mmapbuf/mmapbuf"
)

// limit is more than keep, so that Buffers of the largest uploads are closed.
const limit = keep + 1<<20

var data = bytes.Repeat([]byte("0123456789abcdef"), limit/16+1)

// post sends body. The server is told its length if it is a bytes.Reader.
func post(u *uploads, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	u.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", body))
	return w
}

func TestUploads(t *testing.T) {
	u := newUploads(limit)
	for _, n := range []int{0, 1, 1000, keep - 1, keep, keep + 1, limit - 1, limit, limit + 1} {
		for _, body := range []io.Reader{bytes.NewReader(data[:n]), iotest.HalfReader(bytes.NewReader(data[:n]))} {
			w := post(u, body)
			if n > limit {
				assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
				assert.Equal(t, "more than 5242880 bytes\n", w.Body.String())
				continue
			}
			assert.Equal(t, fmt.Sprintf("%d %x\n", n, sha256.Sum256(data[:n])), w.Body.String())
		}
	}
}

// Large and failed uploads leave no mapping behind.
func TestBadUploads(t *testing.T) {
	for name, test := range map[string]struct {
		body io.Reader
		code int
		says string
	}{
		"large":     {bytes.NewReader(data[:limit]), 200, "5242880 "},
		"too large": {iotest.DataErrReader(bytes.NewReader(data)), 413, "more than 5242880 bytes"},
		"cut off":   {io.MultiReader(bytes.NewReader(data[:3<<20]), iotest.ErrReader(io.ErrUnexpectedEOF)), 400, "upload broke off after 3145728 bytes: unexpected EOF"},
		"no data":   {iotest.ErrReader(context.Canceled), 400, "upload broke off after 0 bytes: context canceled"},
	} {
		was := mmapbuf.ReadStats().MappedBytes
		w := post(newUploads(limit), test.body)
		assert.Equal(t, test.code, w.Code, name)
		assert.Contains(t, w.Body.String(), test.says, name)
		assert.Equal(t, was, mmapbuf.ReadStats().MappedBytes, name)
	}

	// An upload that is known to be too large is not read.
	r := httptest.NewRequest(http.MethodPost, "/", iotest.ErrReader(io.ErrClosedPipe))
	r.ContentLength = limit + 1
	w := httptest.NewRecorder()
	newUploads(limit).ServeHTTP(w, r)
	assert.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
}

func TestParallelUploads(t *testing.T) {
	server := httptest.NewServer(newUploads(limit))
	defer server.Close()
	var clients sync.WaitGroup
	for n := range 16 {
		clients.Go(func() {
			resp, err := http.Post(server.URL, "", bytes.NewReader(data[:limit/16*n]))
			if assert.NoError(t, err) {
				assert.Equal(t, 200, resp.StatusCode)
				assert.NoError(t, resp.Body.Close())
			}
		})
	}
	clients.Wait()
}
