package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// serve starts a server that has data as an object. It drops the connections of
// the requests from first to last after some of the body.
func serve(t *testing.T, data []byte, first, last int32) (url string) {
	t.Helper()
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("bucket"))
	_, err := backend.PutObject("bucket", "object", nil, bytes.NewReader(data), int64(len(data)), nil)
	require.NoError(t, err)
	s3 := gofakes3.New(backend).Server()
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := requests.Add(1); first <= n && n <= last {
			w.Header().Set("Content-Length", "1000000")
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(make([]byte, 100_000))
			panic(http.ErrAbortHandler)
		}
		s3.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestDownload(t *testing.T) {
	data := make([]byte, 20_000_000) // three parts
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	for _, test := range []struct {
		name        string
		maxLen      int
		first, last int32
		says        string // "": no error
	}{
		{name: "honest"},
		{name: "MaxLen fits", maxLen: len(data)},
		{name: "MaxLen does not fit", maxLen: len(data) - 1, says: "more exceed MaxLen 19999999"},
		{name: "dropped once", first: 2, last: 2},
		{name: "dropped always", first: 2, last: 1000, says: "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := mmapbuf.Buffer{MaxLen: test.maxLen}
			defer b.Close()
			err := download(t.Context(), newClient(serve(t, data, test.first, test.last)), "bucket", "object", &b)
			if test.says != "" {
				require.ErrorContains(t, err, test.says)
				return
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, b.Bytes()))
		})
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, download(ctx, newClient(serve(t, data, 0, 0)), "bucket", "object", new(mmapbuf.Buffer)), context.Canceled)
}
