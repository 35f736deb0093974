// Command resume downloads a URL into a Buffer. When the connection drops, it asks
// for the rest: the length of the Buffer is the offset at which to go on.
//
//	go -C examples run ./resume
//	go -C examples run ./resume https://example.com/file
//
// Without an argument it downloads from a server of its own that drops connections.
package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	flag.Parse()
	url := cmp.Or(flag.Arg(0), httptest.NewServer(http.HandlerFunc(serve)).URL)
	b := mmapbuf.Buffer{MaxLen: 1 << 30} // for an untrusted server
	defer b.Close()
	requests, err := fetch(context.Background(), http.DefaultClient, url, &b)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%x  %s, %d bytes, requests: %d\n", sha256.Sum256(b.Bytes()), url, b.Len(), requests)
}

var errDropped = errors.New("connection dropped")

// fetch replaces the contents of b with the object at url. When the connection
// drops, it asks for the rest, with at most 10 requests and only if the last one
// brought something. If the object has changed in between, it starts again. After
// an error b holds what has arrived.
func fetch(ctx context.Context, client *http.Client, url string, b *mmapbuf.Buffer) (requests int, err error) {
	b.Reset()
	v := version{size: -1}
	for n := 1; ; n++ {
		got, err := request(ctx, client, url, b, &v)
		if err == nil {
			return n, nil
		} else if got == 0 || n == 10 || ctx.Err() != nil || !errors.Is(err, errDropped) {
			return n, fmt.Errorf("%d of %d bytes, request %d: %w", b.Len(), v.size, n, err)
		}
	}
}

// A version of an object has an ETag that other versions do not have.
type version struct {
	size int64
	etag string
}

// request asks for what b lacks, and returns how much of that has arrived.
func request(ctx context.Context, client *http.Client, url string, b *mmapbuf.Buffer, v *version) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept-Encoding", "identity") // a compressed stream cannot be resumed
	partial := b.Len() > 0 && v.etag != ""
	if partial {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", b.Len()))
		req.Header.Set("If-Range", v.etag) // with another version, the server sends all of it
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()

	want := fmt.Sprintf("bytes %d-%d/%d", b.Len(), v.size-1, v.size)
	switch got := resp.Header.Get("Content-Range"); {
	case resp.StatusCode == http.StatusOK:
		b.Reset()
		v.size, v.etag = resp.ContentLength, resp.Header.Get("ETag")
		if strings.HasPrefix(v.etag, "W/") {
			v.etag = "" // weak: similar versions may share it
		}
		if int64(int(v.size)) != v.size || v.size < 0 {
			return 0, fmt.Errorf("the server answers a length of %d", v.size)
		}
		err = b.Reserve(int(v.size)) // fails before the body is sent if MaxLen is less
	case !partial || resp.StatusCode != http.StatusPartialContent:
		err = errors.New(resp.Status)
	case resp.Header.Get("ETag") != v.etag:
		err = errors.New("the object has changed")
	case got != want || resp.ContentLength != v.size-int64(b.Len()):
		err = fmt.Errorf("asked for %s, the server sends %q, %d bytes", want, got, resp.ContentLength)
	}
	if err != nil {
		return 0, err
	}
	n, err := b.ReadFrom(resp.Body)
	if err != nil {
		return n, fmt.Errorf("%w: %w", errDropped, err)
	}
	return n, nil
}
