package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/badserver"
)

type (
	versions = []badserver.Version
	damages  = []badserver.Damage
)

func TestFetch(t *testing.T) {
	const size = 3<<20 + 123
	one := badserver.Version{Data: badserver.Random(1, size), ETag: `"one"`}
	other := badserver.Version{Data: badserver.Random(2, size+1000), ETag: `"other"`}
	var many versions
	for i := range 11 {
		many = append(many, badserver.Version{Data: badserver.Random(byte(i), size), ETag: fmt.Sprintf(`"%d"`, i)})
	}
	for _, test := range []struct {
		name     string
		versions versions
		damages  damages
		maxLen   int
		requests int
		has      []byte // the contents, where all is well
		says     string // what goes wrong
		is       error
	}{
		{name: "honest", requests: 1, has: one.Data},
		{name: "empty", versions: versions{{Data: nil, ETag: `"none"`}}, requests: 1, has: []byte{}},
		{name: "a server that compresses", damages: damages{badserver.Compresses}, requests: 1, has: one.Data},
		{name: "MaxLen fits", maxLen: size, requests: 1, has: one.Data},
		{name: "MaxLen does not fit", maxLen: size - 1, requests: 1,
			says: "0 of 3145851 bytes, request 1: mmapbuf: 0 bytes and 3145851 more exceed MaxLen 3145850", is: mmapbuf.ErrTooLarge},
		{name: "dropped once", damages: damages{badserver.Only(1, 1, badserver.Drops(size/2))}, requests: 2, has: one.Data},
		{name: "dropped before the last byte", damages: damages{badserver.Only(1, 1, badserver.Drops(size-1))}, requests: 2, has: one.Data},
		{name: "dropped after the first byte", damages: damages{badserver.Only(1, 1, badserver.Drops(1))}, requests: 2, has: one.Data},
		{name: "dropped nine times", damages: damages{badserver.Only(1, 9, badserver.Drops(1000))}, requests: 10, has: one.Data},
		{name: "dropped every time", damages: damages{badserver.Drops(1000)}, requests: 10,
			says: "10000 of 3145851 bytes, request 10: connection dropped: unexpected EOF", is: errDropped},
		{name: "dropped with MaxLen", maxLen: size, damages: damages{badserver.Only(1, 2, badserver.Drops(size/3))}, requests: 3, has: one.Data},
		{name: "nothing arrives", damages: damages{badserver.Drops(0)}, requests: 1,
			says: "0 of 3145851 bytes, request 1: connection dropped", is: errDropped},
		{name: "nothing more arrives", damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Only(2, badserver.Always, badserver.Drops(0))}, requests: 2,
			says: "1000 of 3145851 bytes, request 2: connection dropped", is: errDropped},

		{name: "changed", versions: versions{one, other}, damages: damages{badserver.Only(1, 1, badserver.Drops(1<<20))}, requests: 2, has: other.Data},
		{name: "changed to a short one", versions: versions{one, {Data: []byte("x"), ETag: `"x"`}}, damages: damages{badserver.Only(1, 1, badserver.Drops(1<<20))},
			requests: 2, has: []byte("x")},
		{name: "changed twice", versions: versions{one, other, one}, damages: damages{badserver.Only(1, 2, badserver.Drops(1<<20))}, requests: 3, has: one.Data},
		{name: "changes every time", versions: many,
			damages: damages{badserver.Drops(1000)}, requests: 10, says: "1000 of 3145851 bytes, request 10", is: errDropped},
		{name: "changed, and the server ignores If-Range", versions: versions{one, other},
			damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Asks("If-Range", "")}, requests: 2,
			says: "the object has changed"},
		{name: "no ETag", versions: versions{{Data: one.Data, ETag: ""}}, damages: damages{badserver.Only(1, 1, badserver.Drops(1000))}, requests: 2, has: one.Data},
		{name: "weak ETag", versions: versions{{Data: one.Data, ETag: `W/"one"`}, {Data: other.Data, ETag: `W/"one"`}},
			damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Strict}, requests: 2, has: other.Data},

		{name: "a short part", damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Only(2, 2, badserver.Asks("Range", "bytes=1000-1999"))}, requests: 2,
			says: `1000 of 3145851 bytes, request 2: asked for bytes 1000-3145850/3145851, the server sends "bytes 1000-1999/3145851"`},
		{name: "another part", damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Only(2, 2, badserver.Asks("Range", "bytes=999-3145850"))}, requests: 2,
			says: `the server sends "bytes 999-3145850/3145851"`},
		{name: "another size", damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Only(2, 2, badserver.Says("Content-Range", "bytes 1000-3145850/3145852"))}, requests: 2,
			says: `the server sends "bytes 1000-3145850/3145852"`},
		{name: "no Content-Range", damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Only(2, 2, badserver.Says("Content-Range", ""))}, requests: 2,
			says: `the server sends ""`},
		{name: "a short length", damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Only(2, 2, badserver.Says("Content-Length", "7"))}, requests: 2,
			says: `"bytes 1000-3145850/3145851", 7 bytes`},
		{name: "no length", damages: damages{badserver.Says("Content-Length", "")}, requests: 1,
			says: "the server answers a length of -1"},
		{name: "a part instead of all", damages: damages{badserver.Asks("Range", "bytes=0-99")}, requests: 1,
			says: "206 Partial Content"},
		{name: "not there", damages: damages{badserver.Answers(http.StatusNotFound)}, requests: 1, says: "404 Not Found"},
		{name: "no longer there", damages: damages{badserver.Only(1, 1, badserver.Drops(1000)), badserver.Only(2, 2, badserver.Answers(http.StatusGone))}, requests: 2,
			says: "1000 of 3145851 bytes, request 2: 410 Gone"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.versions == nil {
				test.versions = versions{one}
			}
			url, client := badserver.Start(t, &badserver.Origin{Versions: test.versions, Damages: test.damages})
			b := mmapbuf.Buffer{MaxLen: test.maxLen}
			defer b.Close()
			_, _ = b.WriteString("older contents")
			// Not t.Context, whose end would close connections.
			requests, err := fetch(context.Background(), client, url, &b)
			assert.Equal(t, test.requests, requests)
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
	url, client := badserver.Start(t, &badserver.Origin{
		Versions: versions{{Data: badserver.Random(1, 4<<20), ETag: `"one"`}},
		Damages:  damages{badserver.Hangs(cancel)},
	})
	var b mmapbuf.Buffer
	defer b.Close()
	requests, err := fetch(ctx, client, url, &b)
	assert.ErrorIs(t, err, context.Canceled)
	assert.Equal(t, 1, requests)
}

// A server that is gone is asked once.
func TestFetchRefused(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	b := mmapbuf.NewBufferString("older contents")
	_, err := fetch(t.Context(), http.DefaultClient, server.URL, b)
	assert.ErrorContains(t, err, "0 of -1 bytes, request 1: Get ")
}
