package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
)

// An upload is what a client sends, and what came of it.
type upload struct {
	size    int64
	chunked bool  // without saying how long it is
	cut     int64 // 0: send it all; else break off after so many bytes

	sent   atomic.Int64
	status string
}

// newClient returns a client that gives servers a second to refuse an upload
// before it is sent.
func newClient() *http.Client {
	return &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
}

// send sends u. If the server has taken it, it has received what was sent.
func (u *upload) send(ctx context.Context, client *http.Client, url string) error {
	sum := sha256.New()
	body := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), u.size), sum)
	if u.cut > 0 {
		body = io.MultiReader(io.LimitReader(body, u.cut), broken{})
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, counter{body, &u.sent})
	if err != nil {
		return err
	}
	if req.ContentLength = u.size; u.chunked {
		req.ContentLength = -1
	} else {
		// Ask before sending: an upload that is too large is refused at once.
		req.Header.Set("Expect", "100-continue")
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	u.status = resp.Status
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return err // the body may still be read for another moment
	}
	if want := fmt.Sprintf("%d %x\n", u.size, sum.Sum(nil)); string(answer) != want {
		return fmt.Errorf("the server has received %s instead of %s", answer, want)
	}
	return nil
}

// A counter counts what is read.
type counter struct {
	io.Reader
	n *atomic.Int64
}

// Read implements io.Reader.
func (c counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// broken is a Reader that fails.
type broken struct{}

// Read implements io.Reader.
func (broken) Read([]byte) (int, error) { return 0, io.ErrClosedPipe }
