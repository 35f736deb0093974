package main

import (
	"bytes"
	"compress/gzip"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/commandtest"
)

// serve is commandtest.Serve, and in the end the memory of all Buffers must be
// given back.
func serve(t *testing.T, h http.Handler) (url string, transport *http.Transport) {
	t.Helper()
	mapped := mmapbuf.ReadStats().MappedBytes
	t.Cleanup(func() {
		assert.Equal(t, mapped, mmapbuf.ReadStats().MappedBytes, "memory is not given back")
	})
	return commandtest.Serve(t, h)
}

// An origin is a server of one object. It does as the standards say, but for
// what damages do to requests and answers.
type origin struct {
	versions []version // for the first request, the second, and so on; the last stays
	damages  []damage
	requests atomic.Int32
}

// A version of an object.
type version struct {
	data []byte
	etag string
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(o.requests.Add(1))
	for _, d := range o.damages {
		if w = d(n, w, r); w == nil {
			return
		}
	}
	v := o.versions[min(n, len(o.versions))-1]
	w.Header().Set("ETag", v.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(v.data))
}

// random returns n bytes that depend on seed.
func random(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// A damage changes request number n, or what is written in answer to it. The
// first is number 1. It returns nil if it has answered.
type damage func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter

// only restricts a damage to requests first to last.
func only(first, last int, d damage) damage {
	return func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if first <= n && n <= last {
			return d(n, w, r)
		}
		return w
	}
}

// always is a last request that is not reached.
const always = 1 << 30

// onRange restricts a damage to requests for a range.
func onRange(rng string, d damage) damage {
	return func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if r.Header.Get("Range") == rng {
			return d(n, w, r)
		}
		return w
	}
}

// asks puts another value into the header of the request; "" removes it.
func asks(key, value string) damage {
	return func(_ int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if r.Header.Set(key, value); value == "" {
			r.Header.Del(key)
		}
		return w
	}
}

// says puts another value into the header of the answer; "" removes it.
func says(key, value string) damage {
	return func(_ int, w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &headerWriter{w, key, value}
	}
}

type headerWriter struct {
	http.ResponseWriter
	key, value string
}

func (w *headerWriter) WriteHeader(status int) {
	if w.Header().Set(w.key, w.value); w.value == "" {
		w.Header().Del(w.key)
	}
	w.ResponseWriter.WriteHeader(status)
}

// compresses answers who takes it with something compressed.
func compresses(_ int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if r.Header.Get("Accept-Encoding") != "gzip" {
		return w
	}
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write([]byte("something"))
	_ = z.Close()
	return nil
}

// strict refuses what RFC 9110 forbids a client.
func strict(_ int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if strings.HasPrefix(r.Header.Get("If-Range"), "W/") {
		w.WriteHeader(http.StatusBadRequest)
		return nil
	}
	return w
}

// answers sends that status, and no body.
func answers(status int) damage {
	return func(_ int, w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		w.WriteHeader(status)
		return nil
	}
}

// drops closes the connection after so many bytes of the body.
func drops(after int64) damage {
	return func(_ int, w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &droppingWriter{w, after}
	}
}

// resets sends the header and some of the body, and resets the connection.
func resets(_ int, w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
	return resettingWriter{w}
}

type resettingWriter struct{ http.ResponseWriter }

func (w resettingWriter) Write(p []byte) (int, error) {
	_, _ = w.ResponseWriter.Write(p)
	rc := http.NewResponseController(w.ResponseWriter)
	_ = rc.Flush()
	if conn, _, err := rc.Hijack(); err == nil {
		_ = conn.(*net.TCPConn).SetLinger(0)
		conn.Close()
	}
	panic(http.ErrAbortHandler)
}

// hangs sends some of the body, calls f, and waits for the client to go away.
func hangs(f func()) damage {
	return func(_ int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		return &hangingWriter{w, r, f}
	}
}

type hangingWriter struct {
	http.ResponseWriter
	r *http.Request
	f func()
}

func (w *hangingWriter) Write(p []byte) (int, error) {
	_, _ = w.ResponseWriter.Write(p)
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	w.f()
	<-w.r.Context().Done()
	panic(http.ErrAbortHandler)
}
