package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mmapbuf/mmapbuf"
)

// maxRequests bounds how often fetch asks for an object.
const maxRequests = 10

// errDropped says that a connection has ended before the body.
var errDropped = errors.New("connection dropped")

// fetch makes what url has the contents of b. When the connection drops, it asks
// for the rest, as long as each request brings something. If the object has
// changed meanwhile, or the server cannot tell, it starts again. MaxLen bounds
// what is taken from a server. After an error b holds what had arrived.
func fetch(ctx context.Context, client *http.Client, url string, b *mmapbuf.Buffer) error {
	t := transfer{client: client, url: url, buf: b}
	b.Reset()
	for n := 1; ; n++ {
		got, err := t.request(ctx)
		if err == nil {
			return nil
		}
		if got == 0 || n == maxRequests || !errors.Is(err, errDropped) {
			return fmt.Errorf("%d of %d bytes, request %d: %w", b.Len(), t.size, n, err)
		}
	}
}

// A transfer is an object on its way into buf.
type transfer struct {
	client *http.Client
	url    string
	buf    *mmapbuf.Buffer
	size   int64
	etag   string // "": the server has none that tells one version from another
}

// request asks for what buf lacks and returns how much of that has arrived.
func (t *transfer) request(ctx context.Context) (n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.url, nil)
	if err != nil {
		return 0, err
	}
	// Compressed on its way, it could not be gone on with.
	req.Header.Set("Accept-Encoding", "identity")
	rest := part{int64(t.buf.Len()), t.size - 1, t.size, t.etag}
	if rest.first > 0 && t.etag != "" {
		req.Header.Set("Range", rest.String())
		req.Header.Set("If-Range", t.etag)
	}
	resp, err := t.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()

	switch partial := req.Header.Get("Range") != ""; {
	case resp.StatusCode == http.StatusOK:
		err = t.start(resp)
	case resp.StatusCode == http.StatusPartialContent && partial:
		err = rest.check(resp)
	default:
		err = errors.New(resp.Status)
	}
	if err != nil {
		return 0, err
	}
	n, err = t.buf.ReadFrom(resp.Body)
	if err != nil {
		err = fmt.Errorf("%w: %w", errDropped, err)
	}
	return n, err
}

// start begins with an object from its first byte.
func (t *transfer) start(resp *http.Response) error {
	t.buf.Reset()
	t.size, t.etag = resp.ContentLength, resp.Header.Get("ETag")
	if strings.HasPrefix(t.etag, "W/") {
		t.etag = "" // two versions that mean the same may have it
	}
	if t.size < 0 {
		return errors.New("the server does not say how long the object is")
	}
	if int64(int(t.size)) != t.size {
		return mmapbuf.ErrTooLarge
	}
	// What does not fit is refused before it is sent.
	return t.buf.Reserve(int(t.size))
}
