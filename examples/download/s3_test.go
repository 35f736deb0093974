package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// Three parts as the SDK makes them, the last one shorter.
const (
	partSize = 8 << 20
	size     = 2*partSize + 12345
)

var first, last = part{last: partSize - 1}.String(), part{first: 2 * partSize, last: size - 1}.String()

func TestDownload(t *testing.T) {
	one, other := version{random(1, size), `"one"`}, version{random(2, size), `"other"`}
	for _, test := range []struct {
		name     string
		versions []version
		damages  []damage
		maxLen   int
		says     string // "": all is well
		is       error
	}{
		{name: "honest"},
		{name: "MaxLen fits", maxLen: size},
		{name: "MaxLen does not fit", maxLen: size - 1, says: "more exceed MaxLen 16789560"},
		{name: "a part is dropped once", damages: []damage{only(2, 2, drops(100000))}},
		{name: "a connection is reset once", damages: []damage{only(3, 3, resets)}},
		{name: "parts are always dropped", damages: []damage{only(2, always, drops(100000))},
			says: "failed to read part body: unexpected EOF"},
		{name: "the last byte of the last part never comes", damages: []damage{onRange(last, drops(12344))},
			says: "failed to read part body: unexpected EOF"},
		{name: "a short part", damages: []damage{onRange(last, asks("Range", part{first: 2 * partSize, last: 2*partSize + 99}.String()))},
			says: "asked for " + last + `, the server sends Content-Range "bytes 16777216-16777315/16789561"`},
		{name: "a short first part", damages: []damage{onRange(first, asks("Range", "bytes=0-99"))},
			says: "asked for " + first + `, the server sends Content-Range "bytes 0-99/16789561"`},
		{name: "a short length", damages: []damage{onRange(last, says("Content-Length", "100"))},
			says: "asked for " + last + ", the server sends 100 bytes"},
		{name: "a long length", damages: []damage{onRange(last, says("Content-Length", "99999"))},
			says: "asked for " + last + ", the server sends 99999 bytes"},
		{name: "another part", damages: []damage{onRange(last, asks("Range", "bytes=1-12345"))},
			says: "asked for " + last + `, the server sends Content-Range "bytes 1-12345/16789561"`},
		{name: "another first part", damages: []damage{onRange(first, asks("Range", "bytes=1-8388608"))},
			says: "asked for " + first + `, the server sends Content-Range "bytes 1-8388608/16789561"`},
		{name: "no Content-Range", damages: []damage{onRange(last, says("Content-Range", ""))},
			says: `the server sends Content-Range ""`},
		{name: "no such Content-Range", damages: []damage{onRange(first, says("Content-Range", "all"))},
			says: `the server sends Content-Range "all"`},
		{name: "another size", damages: []damage{onRange(first, says("Content-Range", "bytes 0-8388607/16789562"))},
			says: `asked for bytes=16777216-16789561, the server sends Content-Range "bytes 16777216-16789560/16789561"`},
		{name: "all instead of a part", damages: []damage{onRange(last, asks("Range", ""))},
			says: "asked for " + last + ", the server answers 200 OK"},
		{name: "all instead of the first part", damages: []damage{onRange(first, asks("Range", ""))},
			says: "asked for " + first + ", the server answers 200 OK"},
		{name: "changed", versions: []version{one, other},
			says: "StatusCode: 412"},
		{name: "changed, and the server ignores If-Match", versions: []version{one, other}, damages: []damage{asks("If-Match", "")},
			says: "the object has changed", is: errChanged},
		{name: "not there", damages: []damage{answers(http.StatusNotFound)},
			says: "StatusCode: 404"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.versions == nil {
				test.versions = []version{one}
			}
			url, transport := serve(t, &origin{versions: test.versions, damages: test.damages})
			b := mmapbuf.Buffer{MaxLen: test.maxLen}
			defer b.Close()
			// Not t.Context, whose end would close connections.
			err := download(context.Background(), newClient(url, transport), &b)
			if test.says == "" {
				require.NoError(t, err)
				require.NoError(t, verify(b.Bytes(), sha256.Sum256(one.data)))
				return
			}
			require.ErrorContains(t, err, test.says)
			assert.NotContains(t, err.Error(), "maximum number of attempts", "to ask again is no use")
			if test.is != nil {
				assert.ErrorIs(t, err, test.is)
			}
		})
	}
}

// The workers of a download that is cancelled half way end as well.
func TestDownloadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	url, transport := serve(t, &origin{
		versions: []version{{random(1, size), `"one"`}},
		damages:  []damage{only(2, always, hangs(cancel))},
	})
	var b mmapbuf.Buffer
	defer b.Close()
	err := download(ctx, newClient(url, transport), &b)
	assert.ErrorIs(t, err, context.Canceled)
	assert.GreaterOrEqual(t, b.Len(), partSize)
}

func TestVerify(t *testing.T) {
	p := random(1, 1000)
	sum := sha256.Sum256(p)
	assert.NoError(t, verify(p, sum))
	p[999] ^= 1
	assert.EqualError(t, verify(p, sum), fmt.Sprintf("the %d bytes that have arrived are not those of the object", len(p)))
}
