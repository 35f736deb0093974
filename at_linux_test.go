//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ends reports whether f returns soon.
func ends(f func()) bool {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
		return true
	case <-time.After(10 * time.Second): // never, unless it waits for the other end
		return false
	}
}

// blockedWrite has a File of b write to a pipe that nobody reads. The returned
// function reads it.
func blockedWrite(t *testing.T, b *Buffer) (read func()) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		n, err := NewFile(b).WriteTo(w)
		_ = w.Close()
		done <- expect(err == nil && int(n) == b.Len(), "%d, %v", n, err)
	}()
	_, err = r.Read(make([]byte, 1)) // it has begun
	require.NoError(t, err)
	return func() {
		_, err := io.Copy(io.Discard, r)
		assert.NoError(t, err)
		assert.NoError(t, <-done)
		_ = r.Close()
	}
}

// TestViewBesideWriteTo takes a view while a File writes to a pipe, as a program
// does that compares what the other end gets with Bytes. Whoever reads the pipe
// after that waits for ever.
func TestViewBesideWriteTo(t *testing.T) {
	for name, view := range map[string]func(b *Buffer){
		"Bytes":           func(b *Buffer) { b.Bytes() },
		"Peek":            func(b *Buffer) { _, _ = b.Peek(1) },
		"AvailableBuffer": func(b *Buffer) { b.AvailableBuffer() },
		"WriteTo": func(b *Buffer) {
			_, _ = NewFile(b).WriteTo(writerFunc(func(p []byte) (int, error) { return len(p), nil }))
		},
		"String": func(b *Buffer) { _ = b.String() },
		"ReadAt": func(b *Buffer) { _, _ = b.ReadAt(make([]byte, 1), 0) },
	} {
		t.Run(name, func(t *testing.T) {
			b, want := mapped(t, 5*miB)
			read := blockedWrite(t, b)
			assert.True(t, ends(func() { view(b) }), "waits for the pipe")
			read()
			requireContents(t, b, want)
		})
	}
}

// TestOthersBesideWriteTo does so while a view and a ReadAt wait. ReadAt waits with
// a lock that is also that of others, which then do not grow, and are not closed.
func TestOthersBesideWriteTo(t *testing.T) {
	b, _ := mapped(t, 5*miB)
	other := new(Buffer)
	for other.atLock() != b.atLock() {
		other = new(Buffer)
	}
	fill(other, 1, 3*miB)
	read := blockedWrite(t, b)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { b.Bytes() })
	time.Sleep(50 * time.Millisecond)
	wg.Go(func() { _, _ = b.ReadAt(make([]byte, 1), 0) })
	time.Sleep(50 * time.Millisecond)
	assert.True(t, ends(func() { other.Grow(10 * miB) }), "another Buffer waits for the pipe")
	read()
	require.True(t, ends(func() { _ = other.Close() }))
}

// TestWriteToABufferBesideViews writes to a Buffer that has the same lock of ReadAt
// as the source. WriteTo waits for that lock with the lock of the mapping, ReadAt
// for that of the mapping with this one, because of a view that waits as well.
func TestWriteToABufferBesideViews(t *testing.T) {
	b, _ := mapped(t, 5*miB)
	w := new(Buffer)
	for w.atLock() != b.atLock() {
		w = new(Buffer)
	}
	mu := b.atLock()
	mu.RLock() // as ReadAt begins
	written := make(chan error)
	go func() {
		n, err := NewFile(b).WriteTo(w)
		written <- expect(err == nil && int(n) == 5*miB, "%d, %v", n, err)
	}()
	time.Sleep(50 * time.Millisecond)
	viewed := make(chan bool)
	go func() { b.Bytes(); close(viewed) }()
	time.Sleep(50 * time.Millisecond)
	// ReadAt goes on. If it cannot, nothing will ever end: no locks, then.
	ended := ends(func() { _, _ = b.copyAt(make([]byte, 1), 0) })
	mu.RUnlock()
	assert.NoError(t, <-written)
	<-viewed
	require.True(t, ended, "deadlock of ReadAt, WriteTo and Bytes")
}

// TestRequestBodyOfHTTP2: the transport closes the body in one goroutine while it
// reads in another one, as it may with an os.File. For the race detector.
func TestRequestBodyOfHTTP2(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.CopyN(io.Discard, r.Body, 200_000)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	answers := 0
	for seed := range byLength(20, 40, 400) {
		b := new(Buffer)
		fill(b, seed, 3*miB)
		req, err := http.NewRequest("POST", server.URL, NewFile(b))
		require.NoError(t, err)
		req.ContentLength = int64(b.Len())
		resp, err := server.Client().Do(req)
		_ = b.Close()
		if err == nil {
			require.Equal(t, 2, resp.ProtoMajor)
			answers++
			_ = resp.Body.Close()
		}
	}
	require.Positive(t, answers)
}
