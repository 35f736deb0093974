package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/mmapbuf/mmapbuf"
)

// TestHandler has many clients at once, each with ranges of its own.
func TestHandler(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	var b mmapbuf.Buffer
	b.Write(data)
	server := httptest.NewServer(handler(&b, "data.txt", time.Now()))
	defer server.Close()

	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for _, test := range []struct {
				part string
				want []byte
			}{
				{"bytes=0-0", data[:1]},
				{fmt.Sprintf("bytes=%d-", i*1000), data[i*1000:]},
				{fmt.Sprintf("bytes=%d-%d", i, 2_000_000+i), data[i : 2_000_001+i]},
				{"bytes=-5", data[len(data)-5:]},
			} {
				status, got, err := get(server.URL, test.part)
				assert.NoError(t, err)
				assert.Equal(t, http.StatusPartialContent, status, test.part)
				assert.True(t, bytes.Equal(test.want, got), "%s: %d bytes", test.part, len(got))
			}
			status, _, err := get(server.URL, fmt.Sprintf("bytes=%d-", len(data)))
			assert.NoError(t, err)
			assert.Equal(t, http.StatusRequestedRangeNotSatisfiable, status)
		})
	}
	wg.Wait()
}

func get(url, part string) (status int, data []byte, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Range", part)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	data, err = io.ReadAll(resp.Body)
	return resp.StatusCode, data, err
}
