package main

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

func TestFetch(t *testing.T) {
	const size = 3<<20 + 123
	one, other := version{random(1, size), `"one"`}, version{random(2, size+1000), `"other"`}
	many := func(etags ...string) (v []version) {
		for i, etag := range etags {
			v = append(v, version{random(byte(i), size), etag})
		}
		return v
	}
	for _, test := range []struct {
		name     string
		versions []version
		damages  []damage
		maxLen   int
		requests int
		has      []byte // the contents, where all is well
		says     string // what goes wrong
		is       error
	}{
		{name: "honest", requests: 1, has: one.data},
		{name: "empty", versions: []version{{nil, `"none"`}}, requests: 1, has: []byte{}},
		{name: "a server that compresses", damages: []damage{compresses}, requests: 1, has: one.data},
		{name: "MaxLen fits", maxLen: size, requests: 1, has: one.data},
		{name: "MaxLen does not fit", maxLen: size - 1, requests: 1,
			says: "0 of 3145851 bytes, request 1: mmapbuf: 0 bytes and 3145851 more exceed MaxLen 3145850", is: mmapbuf.ErrTooLarge},
		{name: "dropped once", damages: []damage{only(1, 1, drops(size/2))}, requests: 2, has: one.data},
		{name: "dropped before the last byte", damages: []damage{only(1, 1, drops(size-1))}, requests: 2, has: one.data},
		{name: "dropped after the first byte", damages: []damage{only(1, 1, drops(1))}, requests: 2, has: one.data},
		{name: "dropped nine times", damages: []damage{only(1, 9, drops(1000))}, requests: 10, has: one.data},
		{name: "dropped every time", damages: []damage{drops(1000)}, requests: 10,
			says: "10000 of 3145851 bytes, request 10: connection dropped: unexpected EOF", is: errDropped},
		{name: "dropped with MaxLen", maxLen: size, damages: []damage{only(1, 2, drops(size/3))}, requests: 3, has: one.data},
		{name: "nothing arrives", damages: []damage{drops(0)}, requests: 1,
			says: "0 of 3145851 bytes, request 1: connection dropped", is: errDropped},
		{name: "nothing more arrives", damages: []damage{only(1, 1, drops(1000)), only(2, always, drops(0))}, requests: 2,
			says: "1000 of 3145851 bytes, request 2: connection dropped", is: errDropped},

		{name: "changed", versions: []version{one, other}, damages: []damage{only(1, 1, drops(1<<20))}, requests: 2, has: other.data},
		{name: "changed to a short one", versions: []version{one, {[]byte("x"), `"x"`}}, damages: []damage{only(1, 1, drops(1<<20))},
			requests: 2, has: []byte("x")},
		{name: "changed twice", versions: []version{one, other, one}, damages: []damage{only(1, 2, drops(1<<20))}, requests: 3, has: one.data},
		{name: "changes every time", versions: many(`"0"`, `"1"`, `"2"`, `"3"`, `"4"`, `"5"`, `"6"`, `"7"`, `"8"`, `"9"`, `"10"`),
			damages: []damage{drops(1000)}, requests: 10, says: "1000 of 3145851 bytes, request 10", is: errDropped},
		{name: "changed, and the server ignores If-Range", versions: []version{one, other},
			damages: []damage{only(1, 1, drops(1000)), asks("If-Range", "")}, requests: 2,
			says: "the object has changed", is: errChanged},
		{name: "no ETag", versions: []version{{one.data, ""}}, damages: []damage{only(1, 1, drops(1000))}, requests: 2, has: one.data},
		{name: "weak ETag", versions: []version{{one.data, `W/"one"`}, {other.data, `W/"one"`}},
			damages: []damage{only(1, 1, drops(1000)), strict}, requests: 2, has: other.data},

		{name: "a short part", damages: []damage{only(1, 1, drops(1000)), only(2, 2, asks("Range", "bytes=1000-1999"))}, requests: 2,
			says: `1000 of 3145851 bytes, request 2: asked for bytes=1000-3145850, the server sends Content-Range "bytes 1000-1999/3145851"`},
		{name: "another part", damages: []damage{only(1, 1, drops(1000)), only(2, 2, asks("Range", "bytes=999-3145850"))}, requests: 2,
			says: `the server sends Content-Range "bytes 999-3145850/3145851"`},
		{name: "another size", damages: []damage{only(1, 1, drops(1000)), only(2, 2, says("Content-Range", "bytes 1000-3145850/3145852"))}, requests: 2,
			says: `the server sends Content-Range "bytes 1000-3145850/3145852"`},
		{name: "no Content-Range", damages: []damage{only(1, 1, drops(1000)), only(2, 2, says("Content-Range", ""))}, requests: 2,
			says: `the server sends Content-Range ""`},
		{name: "a short length", damages: []damage{only(1, 1, drops(1000)), only(2, 2, says("Content-Length", "7"))}, requests: 2,
			says: "the server sends 7 bytes"},
		{name: "no length", damages: []damage{says("Content-Length", "")}, requests: 1,
			says: "the server does not say how long the object is"},
		{name: "a part instead of all", damages: []damage{asks("Range", "bytes=0-99")}, requests: 1,
			says: "206 Partial Content"},
		{name: "not there", damages: []damage{answers(http.StatusNotFound)}, requests: 1, says: "404 Not Found"},
		{name: "no longer there", damages: []damage{only(1, 1, drops(1000)), only(2, 2, answers(http.StatusGone))}, requests: 2,
			says: "1000 of 3145851 bytes, request 2: 410 Gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.versions == nil {
				test.versions = []version{one}
			}
			o := &origin{versions: test.versions, damages: test.damages}
			url, transport := serve(t, o)
			b := mmapbuf.Buffer{MaxLen: test.maxLen}
			defer b.Close()
			_, _ = b.WriteString("older contents")
			// Not t.Context, whose end would close connections.
			err := fetch(context.Background(), &http.Client{Transport: transport}, url, &b)
			assert.EqualValues(t, test.requests, o.requests.Load())
			if test.has != nil {
				require.NoError(t, err)
				require.True(t, bytes.Equal(test.has, b.Bytes()))
				return
			}
			require.ErrorContains(t, err, test.says)
			if test.is != nil {
				assert.ErrorIs(t, err, test.is)
			}
		})
	}
}

func TestFetchCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	o := &origin{versions: []version{{random(1, 4<<20), `"one"`}}, damages: []damage{hangs(cancel)}}
	url, transport := serve(t, o)
	var b mmapbuf.Buffer
	defer b.Close()
	err := fetch(ctx, &http.Client{Transport: transport}, url, &b)
	assert.ErrorIs(t, err, context.Canceled)
	assert.EqualValues(t, 1, o.requests.Load())
}

// A server that is gone is asked once.
func TestFetchRefused(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	b := mmapbuf.NewBufferString("older contents")
	err := fetch(t.Context(), http.DefaultClient, server.URL, b)
	assert.ErrorContains(t, err, "0 of 0 bytes, request 1: Get ")
}
