package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

func TestUpload(t *testing.T) {
	backend := s3mem.New()
	require.NoError(t, backend.CreateBucket("bucket"))
	attempts := 0
	next := flaky(gofakes3.New(backend).Server(), 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		attempts++
		next.ServeHTTP(w, r)
	}))
	defer server.Close()
	client := newClient(server.URL)

	require.Error(t, upload(client, "key", mmapbuf.NewBufferString("cannot be read again")))

	data := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	var b mmapbuf.Buffer
	b.Write(data)
	require.NoError(t, upload(client, "key", mmapbuf.NewFile(&b)))
	assert.Equal(t, 3, attempts)

	obj, err := backend.GetObject("bucket", "key", nil)
	require.NoError(t, err)
	defer obj.Contents.Close()
	got, err := io.ReadAll(obj.Contents)
	require.NoError(t, err)
	assert.True(t, bytes.Equal(data, got), "%d bytes", len(got))
}
