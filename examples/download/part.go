package main

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// A part is the bytes from first to last of an object.
type part struct {
	first, last int64
	size        int64  // of the object; 0: not known
	etag        string // of the object; "": any
}

// String returns p as the header Range has it.
func (p part) String() string { return fmt.Sprintf("bytes=%d-%d", p.first, p.last) }

// A partError says that an answer is not the part that was asked for.
type partError struct{ error }

// RetryableError tells the SDK not to ask again.
func (partError) RetryableError() bool { return false }

var errChanged = partError{errors.New("the object has changed")}

// check returns an error if resp, an answer to a request for p, has something
// else.
func (p part) check(resp *http.Response) error {
	got := resp.Header.Get("Content-Range")
	size := p.size
	if size == 0 {
		_, total, _ := strings.Cut(got, "/")
		size, _ = strconv.ParseInt(total, 10, 64)
	}
	last := p.last
	if p.first == 0 { // the size was not known yet
		last = min(last, size-1)
	}
	switch {
	case p.etag != "" && resp.Header.Get("ETag") != p.etag:
		return errChanged
	case resp.StatusCode != http.StatusPartialContent:
		return partError{fmt.Errorf("asked for %v, the server answers %s", p, resp.Status)}
	case got != fmt.Sprintf("bytes %d-%d/%d", p.first, last, size):
		return partError{fmt.Errorf("asked for %v, the server sends Content-Range %q", p, got)}
	case resp.ContentLength != last-p.first+1:
		return partError{fmt.Errorf("asked for %v, the server sends %d bytes", p, resp.ContentLength)}
	}
	return nil
}

// A partTransport does not let pass an answer to a request for a part that is
// not that part. The SDK does not look where the first one begins, takes one
// that is too short for whole, leaves the connection open after one that is
// another, and panics at a Content-Range without a space.
type partTransport struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t partTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		return resp, err
	}
	p := part{etag: req.Header.Get("If-Match")}
	if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &p.first, &p.last); err != nil {
		return resp, nil // not for a part
	}
	if err := p.check(resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}
