package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// An origin serves one object. Each request gets the next version and the next
// damage; after the last one, the last one again.
type origin struct {
	versions []object
	damages  []damage
	requests atomic.Int32
}

type object struct {
	data []byte
	etag string
}

// A damage changes a request, or returns a ResponseWriter that changes the
// response. It returns nil if it has answered.
type damage func(w http.ResponseWriter, r *http.Request) http.ResponseWriter

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(o.requests.Add(1)) - 1
	if len(o.damages) > 0 {
		if w = o.damages[min(n, len(o.damages)-1)](w, r); w == nil {
			return
		}
	}
	// A compressed body cannot be resumed. RFC 9110 forbids a weak ETag in If-Range.
	if r.Header.Get("Accept-Encoding") != "identity" || strings.HasPrefix(r.Header.Get("If-Range"), "W/") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	v := o.versions[min(n, len(o.versions)-1)]
	w.Header().Set("ETag", v.etag)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(v.data))
}

func honest(w http.ResponseWriter, _ *http.Request) http.ResponseWriter { return w }

// drops closes the connection after that many bytes of the body.
func drops(after int) damage {
	return func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter { return &limited{w, after} }
}

// asks sets a header of the request.
func asks(key, value string) damage {
	return func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
		r.Header.Set(key, value)
		return w
	}
}

// says sets a header of the response, or removes it.
func says(key, value string) damage {
	return func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter { return &editor{w, key, value} }
}

type editor struct {
	http.ResponseWriter
	key, value string
}

func (w *editor) WriteHeader(status int) {
	if w.Header().Set(w.key, w.value); w.value == "" {
		w.Header().Del(w.key)
	}
	w.ResponseWriter.WriteHeader(status)
}

// answers sends a status without a body.
func answers(status int) damage {
	return func(w http.ResponseWriter, _ *http.Request) http.ResponseWriter {
		w.WriteHeader(status)
		return nil
	}
}

func TestFetch(t *testing.T) {
	const size = 3<<20 + 123
	noise := make([]byte, size+1000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
	one, other := object{noise[:size], `"one"`}, object{noise[1:], `"other"`}
	first := func(d damage) []damage { return []damage{d, honest} }
	second := func(d damage) []damage { return []damage{drops(1000), d} }
	for _, test := range []struct {
		name     string
		versions []object // nil: one
		damages  []damage
		maxLen   int
		requests int
		has      []byte // nil: an error
		says     string
	}{
		{name: "honest", requests: 1, has: one.data},
		{name: "empty", versions: []object{{nil, `"none"`}}, requests: 1, has: []byte{}},
		{name: "MaxLen fits", maxLen: size, requests: 1, has: one.data},
		{name: "MaxLen does not fit", maxLen: size - 1, requests: 1, says: "0 of 3145851 bytes, request 1: mmapbuf: 0 bytes and 3145851 more exceed MaxLen 3145850"},

		{name: "dropped once", damages: first(drops(size / 2)), requests: 2, has: one.data},
		{name: "dropped before the last byte", damages: first(drops(size - 1)), requests: 2, has: one.data},
		{name: "dropped after the first byte", damages: first(drops(1)), requests: 2, has: one.data},
		{name: "dropped nine times", damages: append(slices.Repeat([]damage{drops(1000)}, 9), honest), requests: 10, has: one.data},
		{name: "dropped every time", damages: []damage{drops(1000)}, requests: 10, says: "10000 of 3145851 bytes, request 10: connection dropped: unexpected EOF"},
		{name: "nothing arrives", damages: []damage{drops(0)}, requests: 1, says: "0 of 3145851 bytes, request 1: connection dropped"},
		{name: "nothing more arrives", damages: second(drops(0)), requests: 2, says: "1000 of 3145851 bytes, request 2: connection dropped"},

		{name: "changed", versions: []object{one, other}, damages: first(drops(1 << 20)), requests: 2, has: other.data},
		{name: "changed to a short one", versions: []object{one, {[]byte("x"), `"x"`}}, damages: first(drops(1 << 20)), requests: 2, has: []byte("x")},
		{name: "changed, and the server ignores If-Range", versions: []object{one, other}, damages: second(asks("If-Range", "")), requests: 2, says: "the object has changed"},
		{name: "no ETag", versions: []object{{one.data, ""}}, damages: first(drops(1000)), requests: 2, has: one.data},
		{name: "weak ETag", versions: []object{{one.data, `W/"one"`}, {other.data, `W/"one"`}}, damages: first(drops(1000)), requests: 2, has: other.data},

		{name: "a short part", damages: second(asks("Range", "bytes=1000-1999")), requests: 2,
			says: `1000 of 3145851 bytes, request 2: asked for bytes 1000-3145850/3145851, the server sends "bytes 1000-1999/3145851"`},
		{name: "another part", damages: second(asks("Range", "bytes=999-3145850")), requests: 2, says: `the server sends "bytes 999-3145850/3145851"`},
		{name: "another size", damages: second(says("Content-Range", "bytes 1000-3145850/3145852")), requests: 2, says: `the server sends "bytes 1000-3145850/3145852"`},
		{name: "no Content-Range", damages: second(says("Content-Range", "")), requests: 2, says: `the server sends ""`},
		{name: "a short length", damages: second(says("Content-Length", "7")), requests: 2, says: `"bytes 1000-3145850/3145851", 7 bytes`},
		{name: "no length", damages: []damage{says("Content-Length", "")}, requests: 1, says: "the server answers a length of -1"},
		{name: "a part instead of all", damages: []damage{asks("Range", "bytes=0-99")}, requests: 1, says: "206 Partial Content"},
		{name: "not there", damages: []damage{answers(http.StatusNotFound)}, requests: 1, says: "404 Not Found"},
		{name: "no longer there", damages: second(answers(http.StatusGone)), requests: 2, says: "1000 of 3145851 bytes, request 2: 410 Gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.versions == nil {
				test.versions = []object{one}
			}
			server := httptest.NewServer(&origin{versions: test.versions, damages: test.damages})
			defer server.Close()
			b := mmapbuf.Buffer{MaxLen: test.maxLen}
			defer b.Close()
			_, _ = b.WriteString("older contents")
			requests, err := fetch(t.Context(), server.Client(), server.URL, &b)
			assert.Equal(t, test.requests, requests)
			if test.has == nil {
				require.ErrorContains(t, err, test.says)
				return
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal(test.has, b.Bytes()))
		})
	}
}

func TestFetchCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_ = http.NewResponseController(w).Flush()
		cancel()
		<-r.Context().Done()
	}))
	defer server.Close()
	var b mmapbuf.Buffer
	requests, err := fetch(ctx, server.Client(), server.URL, &b)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 1, requests)
}

// A connection that is refused is not tried again.
func TestFetchRefused(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	b := mmapbuf.NewBufferString("older contents")
	_, err := fetch(t.Context(), http.DefaultClient, server.URL, b)
	assert.ErrorContains(t, err, "0 of -1 bytes, request 1: Get ")
}
