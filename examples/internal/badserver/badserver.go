// Package badserver is for tests of downloads: a server that does things wrong.
package badserver

import (
	"bytes"
	"compress/gzip"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"

	"github.com/mmapbuf/mmapbuf"
)

// Start runs o and returns its address and a client. In the end no goroutine and
// no mapping may be left.
func Start(t *testing.T, o *Origin) (url string, client *http.Client) {
	t.Helper()
	mapped := mmapbuf.ReadStats().MappedBytes
	server := httptest.NewServer(o)
	before := goleak.IgnoreCurrent()
	transport := http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(func() {
		assert.Equal(t, mapped, mmapbuf.ReadStats().MappedBytes, "memory is not given back")
		// Before the server closes the connections, for that would hide that
		// a client has not.
		transport.CloseIdleConnections()
		goleak.VerifyNone(t, before,
			goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
			goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"))
		server.Close()
	})
	return server.URL, &http.Client{Transport: transport}
}

// An Origin is a server of one object. It does as the standards say, but for
// what damages do to requests and answers.
type Origin struct {
	Versions []Version // for the first request, the second, and so on; the last stays
	Damages  []Damage
	Requests atomic.Int32
}

// A Version of an object.
type Version struct {
	Data []byte
	ETag string
}

func (o *Origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(o.Requests.Add(1))
	for _, d := range o.Damages {
		if w = d(n, w, r); w == nil {
			return
		}
	}
	v := o.Versions[min(n, len(o.Versions))-1]
	w.Header().Set("ETag", v.ETag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(v.Data))
}

// Random returns n bytes that depend on seed.
func Random(seed byte, n int) []byte {
	p := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(p)
	return p
}

// A Damage changes request number n, or what is written in answer to it. The
// first is number 1. It returns nil if it has answered.
type Damage func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter

// Only restricts a Damage to requests first to last.
func Only(first, last int, d Damage) Damage {
	return func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if first <= n && n <= last {
			return d(n, w, r)
		}
		return w
	}
}

// Always is a last request that is not reached.
const Always = 1 << 30

// OnRange restricts a Damage to requests for a range.
func OnRange(rng string, d Damage) Damage {
	return func(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		if r.Header.Get("Range") == rng {
			return d(n, w, r)
		}
		return w
	}
}

func set(h http.Header, key, value string) {
	if h.Set(key, value); value == "" {
		h.Del(key)
	}
}

// Asks puts another value into the header of the request; "" removes it.
func Asks(key, value string) Damage {
	return func(_ int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		set(r.Header, key, value)
		return w
	}
}

// Says puts another value into the header of the answer; "" removes it.
func Says(key, value string) Damage {
	return func(_ int, w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		return &headerWriter{w, key, value}
	}
}

type headerWriter struct {
	http.ResponseWriter
	key, value string
}

func (w *headerWriter) WriteHeader(status int) {
	set(w.Header(), w.key, w.value)
	w.ResponseWriter.WriteHeader(status)
}

// Compresses answers a client that accepts gzip with something compressed.
func Compresses(_ int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if r.Header.Get("Accept-Encoding") != "gzip" {
		return w
	}
	w.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(w)
	_, _ = z.Write([]byte("something"))
	_ = z.Close()
	return nil
}

// Strict refuses what RFC 9110 forbids a client.
func Strict(n int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
	if strings.HasPrefix(r.Header.Get("If-Range"), "W/") {
		return Answers(http.StatusBadRequest)(n, w, r)
	}
	return w
}

// Answers sends that status, and no body.
func Answers(status int) Damage {
	return func(_ int, w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		w.WriteHeader(status)
		return nil
	}
}

// Drops closes the connection after so many bytes of the body.
func Drops(after int) Damage { return cuts(after, func(http.ResponseWriter, *http.Request) {}) }

// Resets resets the connection after some of the body.
func Resets() Damage {
	return cuts(1000, func(w http.ResponseWriter, _ *http.Request) {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	})
}

// Hangs sends some of the body, calls f, and waits for the client to go away.
func Hangs(f func()) Damage {
	return cuts(1000, func(_ http.ResponseWriter, r *http.Request) {
		f()
		<-r.Context().Done()
	})
}

// cuts sends so many bytes of the body, calls f and closes the connection.
func cuts(after int, f func(http.ResponseWriter, *http.Request)) Damage {
	return func(_ int, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		return &cutWriter{w, after, func() { f(w, r) }}
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
	f    func()
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if len(p) <= w.left {
		w.left -= len(p)
		return w.ResponseWriter.Write(p)
	}
	_, _ = w.ResponseWriter.Write(p[:w.left])
	_ = http.NewResponseController(w.ResponseWriter).Flush()
	w.f()
	panic(http.ErrAbortHandler)
}
