package main

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/badserver"
)

// Three parts as the SDK makes them, the last one shorter.
const (
	partSize = 8 << 20
	size     = 2*partSize + 12345
	first    = "bytes=0-8388607"
	last     = "bytes=16777216-16789560"
)

func TestDownload(t *testing.T) {
	one := badserver.Version{Data: badserver.Random(1, size), ETag: `"one"`}
	other := badserver.Version{Data: badserver.Random(2, size), ETag: `"other"`}
	for _, test := range []struct {
		name     string
		versions []badserver.Version
		damages  []badserver.Damage
		maxLen   int
		says     string // "": all is well
	}{
		{name: "honest"},
		{name: "MaxLen fits", maxLen: size},
		{name: "MaxLen does not fit", maxLen: size - 1, says: "more exceed MaxLen 16789560"},
		{name: "a part is dropped once", damages: []badserver.Damage{badserver.Only(2, 2, badserver.Drops(100000))}},
		{name: "a connection is reset once", damages: []badserver.Damage{badserver.Only(3, 3, badserver.Resets())}},
		{name: "parts are always dropped", damages: []badserver.Damage{badserver.Only(2, badserver.Always, badserver.Drops(100000))},
			says: "failed to read part body: unexpected EOF"},
		{name: "the last byte of the last part never comes", damages: []badserver.Damage{badserver.OnRange(last, badserver.Drops(12344))},
			says: "failed to read part body: unexpected EOF"},
		{name: "a short part", damages: []badserver.Damage{badserver.OnRange(last, badserver.Asks("Range", "bytes=16777216-16777315"))},
			says: `asked for bytes 16777216-16789560, the server answers 206 Partial Content, Content-Range "bytes 16777216-16777315/16789561", 100 bytes`},
		{name: "a short first part", damages: []badserver.Damage{badserver.OnRange(first, badserver.Asks("Range", "bytes=0-99"))},
			says: `Content-Range "bytes 0-99/16789561", 100 bytes`},
		{name: "a short length", damages: []badserver.Damage{badserver.OnRange(last, badserver.Says("Content-Length", "100"))},
			says: `Content-Range "bytes 16777216-16789560/16789561", 100 bytes`},
		{name: "a long length", damages: []badserver.Damage{badserver.OnRange(last, badserver.Says("Content-Length", "99999"))},
			says: `Content-Range "bytes 16777216-16789560/16789561", 99999 bytes`},
		{name: "another part", damages: []badserver.Damage{badserver.OnRange(last, badserver.Asks("Range", "bytes=1-12345"))},
			says: `Content-Range "bytes 1-12345/16789561"`},
		{name: "another first part", damages: []badserver.Damage{badserver.OnRange(first, badserver.Asks("Range", "bytes=1-8388608"))},
			says: `Content-Range "bytes 1-8388608/16789561"`},
		{name: "no Content-Range", damages: []badserver.Damage{badserver.OnRange(last, badserver.Says("Content-Range", ""))},
			says: `206 Partial Content, Content-Range ""`},
		{name: "no such Content-Range", damages: []badserver.Damage{badserver.OnRange(first, badserver.Says("Content-Range", "all"))},
			says: `Content-Range "all"`},
		{name: "another size", damages: []badserver.Damage{badserver.OnRange(first, badserver.Says("Content-Range", "bytes 0-8388607/16789562"))},
			says: `asked for bytes 16777216-16789561, the server answers 206 Partial Content, Content-Range "bytes 16777216-16789560/16789561"`},
		{name: "all instead of a part", damages: []badserver.Damage{badserver.OnRange(last, badserver.Asks("Range", ""))},
			says: "asked for bytes 16777216-16789560, the server answers 200 OK"},
		{name: "all instead of the first part", damages: []badserver.Damage{badserver.OnRange(first, badserver.Asks("Range", ""))},
			says: "asked for bytes 0-8388607, the server answers 200 OK"},
		{name: "changed", versions: []badserver.Version{one, other},
			says: "StatusCode: 412"},
		{name: "changed, and the server ignores If-Match", versions: []badserver.Version{one, other}, damages: []badserver.Damage{badserver.Asks("If-Match", "")},
			says: "the object has changed"},
		{name: "not there", damages: []badserver.Damage{badserver.Answers(http.StatusNotFound)},
			says: "StatusCode: 404"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.versions == nil {
				test.versions = []badserver.Version{one}
			}
			url, client := badserver.Start(t, &badserver.Origin{Versions: test.versions, Damages: test.damages})
			b := mmapbuf.Buffer{MaxLen: test.maxLen}
			defer b.Close()
			// Not t.Context, whose end would close connections.
			err := download(context.Background(), newClient(url, client), "bucket", "object", &b)
			if test.says == "" {
				require.NoError(t, err)
				require.True(t, bytes.Equal(one.Data, b.Bytes()))
				return
			}
			require.ErrorContains(t, err, test.says)
			assert.NotContains(t, err.Error(), "maximum number of attempts", "to ask again is no use")
		})
	}
}

// The workers of a download that is cancelled half way end as well.
func TestDownloadCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	url, client := badserver.Start(t, &badserver.Origin{
		Versions: []badserver.Version{{Data: badserver.Random(1, size), ETag: `"one"`}},
		Damages:  []badserver.Damage{badserver.Only(2, badserver.Always, badserver.Hangs(cancel))},
	})
	var b mmapbuf.Buffer
	defer b.Close()
	err := download(ctx, newClient(url, client), "bucket", "object", &b)
	assert.ErrorIs(t, err, context.Canceled)
	assert.GreaterOrEqual(t, b.Len(), partSize)
}
