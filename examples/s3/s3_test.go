package main

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// noise returns data that the SDK downloads in three parts.
func noise() []byte {
	data := make([]byte, 20_000_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(data)
	return data
}

func TestUpload(t *testing.T) {
	server := newServer(1, 2)
	defer server.Close()
	client := newClient(server.URL)
	require.Error(t, upload(t.Context(), client, "key", mmapbuf.NewBuffer(noise())), "a Buffer cannot be read again")
	require.NoError(t, upload(t.Context(), client, "key", mmapbuf.NewFile(mmapbuf.NewBuffer(noise()))))
	var b mmapbuf.Buffer
	require.NoError(t, download(t.Context(), client, "key", &b))
	assert.True(t, bytes.Equal(noise(), b.Bytes()))
}

func TestDownload(t *testing.T) {
	data := noise()
	for _, test := range []struct {
		name        string
		maxLen      int
		first, last int32  // requests that fail; the first is the upload
		says        string // "": no error
	}{
		{name: "honest"},
		{name: "MaxLen fits", maxLen: len(data)},
		{name: "MaxLen does not fit", maxLen: len(data) - 1, says: "more exceed MaxLen 19999999"},
		{name: "dropped once", first: 3, last: 3},
		{name: "dropped always", first: 3, last: 1000, says: "unexpected EOF"},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := newServer(test.first, test.last)
			defer server.Close()
			client := newClient(server.URL)
			require.NoError(t, upload(t.Context(), client, "key", bytes.NewReader(data)))
			b := mmapbuf.Buffer{MaxLen: test.maxLen}
			defer b.Close()
			err := download(t.Context(), client, "key", &b)
			if test.says != "" {
				require.ErrorContains(t, err, test.says)
				return
			}
			require.NoError(t, err)
			require.True(t, bytes.Equal(data, b.Bytes()))
		})
	}

	server := newServer(0, 0)
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.ErrorIs(t, download(ctx, newClient(server.URL), "key", new(mmapbuf.Buffer)), context.Canceled)
}
