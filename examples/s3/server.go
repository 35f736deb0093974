package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
)

// newServer starts an S3 server with an empty bucket. It drops the connections of
// the requests from number first to last, after some of the body.
func newServer(first, last int32) *httptest.Server {
	backend := s3mem.New()
	if err := backend.CreateBucket(bucket); err != nil {
		panic(err)
	}
	s3 := gofakes3.New(backend).Server()
	var requests atomic.Int32
	return httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n := requests.Add(1); first <= n && n <= last {
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			if r.Method == http.MethodGet {
				w.Header().Set("Content-Length", "1000000")
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(make([]byte, 100_000))
			}
			panic(http.ErrAbortHandler)
		}
		s3.ServeHTTP(w, r)
	}))
}
