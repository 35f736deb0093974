package migrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/hashicorp/go-retryablehttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// clients send the contents of a Buffer, as MIGRATING.md says. They send it again
// if the server answers with the status again.
var clients = map[string]struct {
	again int
	send  func(server *httptest.Server, b *mmapbuf.Buffer) error
}{
	"net/http": {http.StatusTemporaryRedirect, func(server *httptest.Server, b *mmapbuf.Buffer) error {
		req, err := newRequest(server.URL, b)
		if err != nil {
			return err
		}
		return done(server.Client().Do(req))
	}},
	"retryablehttp": {http.StatusInternalServerError, func(server *httptest.Server, b *mmapbuf.Buffer) error {
		body := func() (io.Reader, error) { return mmapbuf.NewFile(b), nil }
		return done(retrying(server).Post(server.URL, "", body))
	}},
	"S3": {http.StatusInternalServerError, func(server *httptest.Server, b *mmapbuf.Buffer) error {
		_, err := s3Client(server).PutObject(context.Background(), &s3.PutObjectInput{
			Bucket: aws.String("bucket"), Key: aws.String("key"), Body: mmapbuf.NewFile(b),
		})
		return err
	}},
}

func retrying(server *httptest.Server) *retryablehttp.Client {
	c := retryablehttp.NewClient()
	c.HTTPClient, c.Logger = server.Client(), nil
	c.RetryWaitMin, c.RetryWaitMax = time.Millisecond, time.Millisecond
	return c
}

func s3Client(server *httptest.Server) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &server.URL,
		UsePathStyle: true,
		Region:       "us-east-1",
		HTTPClient:   server.Client(),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"}, nil
		}),
		// Otherwise the SDK adds a checksum to what it sends by TLS.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		Retryer:                    retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond }),
	})
}

// done reads the response. It returns an error if the status is not 200.
func done(resp *http.Response, err error) error {
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return errors.Join(err, resp.Body.Close())
}

// each calls f for each client and each version of HTTP.
func each(t *testing.T, f func(t *testing.T, client string, serve func(http.HandlerFunc) *httptest.Server)) {
	for client := range clients {
		for proto := 1; proto <= 2; proto++ {
			t.Run(fmt.Sprintf("%s/HTTP%d", client, proto), func(t *testing.T) {
				f(t, client, func(h http.HandlerFunc) *httptest.Server { return serve(t, proto, h) })
			})
		}
	}
}

// serve starts a server of a version of HTTP.
func serve(t *testing.T, proto int, handler http.HandlerFunc) *httptest.Server {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		assert.Equal(t, proto, r.ProtoMajor)
		handler(w, r)
	}))
	if proto == 2 {
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server
}

// TestClients checks that the server is told the length of the body, that the body
// is sent again as a whole, and that the Buffer keeps its contents.
func TestClients(t *testing.T) {
	each(t, func(t *testing.T, client string, serve func(http.HandlerFunc) *httptest.Server) {
		var requests atomic.Int32
		server := serve(func(w http.ResponseWriter, r *http.Request) {
			assert.EqualValues(t, len(document), r.ContentLength)
			assert.Empty(t, r.TransferEncoding)
			body, err := io.ReadAll(r.Body)
			assert.NoError(t, err)
			assert.True(t, bytes.Equal(document, body))
			if requests.Add(1) == 1 {
				w.Header().Set("Location", r.URL.Path)
				w.WriteHeader(clients[client].again)
			}
		})
		var b mmapbuf.Buffer
		defer b.Close()
		b.Write(document)
		require.NoError(t, clients[client].send(server, &b))
		assert.EqualValues(t, 2, requests.Load())
		assert.True(t, bytes.Equal(document, b.Bytes()))
	})
}

// TestRetryable checks what MIGRATING.md says of other bodies for retryablehttp.
func TestRetryable(t *testing.T) {
	bodies := make(chan []byte, 10)
	var requests atomic.Int32
	server := serve(t, 1, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if len(body) == int(r.ContentLength) {
			bodies <- body
		}
		if requests.Add(1)%2 == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	post := func(body any) error { return done(retrying(server).Post(server.URL, "", body)) }
	b := mmapbuf.NewBuffer(bytes.Clone(document))
	for _, body := range []any{
		bytes.NewBuffer(document),
		func() (io.Reader, error) { return mmapbuf.NewFile(b), nil },
		mmapbuf.NewFile(b),
		b,
	} {
		require.NoError(t, post(body))
		for range 2 {
			require.True(t, bytes.Equal(document, <-bodies), "%T", body)
		}
	}
	assert.Zero(t, b.Len(), "retryablehttp reads all of a Buffer first")

	f := mmapbuf.NewFile(mmapbuf.NewBufferString("header: contents"))
	_, err := f.Seek(8, io.SeekStart)
	require.NoError(t, err)
	_ = post(f) // it may get an answer, or find that the length is wrong
	assert.Equal(t, "header: ", string(<-bodies), "retryablehttp sends a File from its start")
}

// TestS3 checks that the SDK requires a Seeker, and that it sends the contents from
// the offset on, also again.
func TestS3(t *testing.T) {
	var requests atomic.Int32
	server := serve(t, 1, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		assert.Equal(t, "contents", string(body))
		assert.EqualValues(t, 8, r.ContentLength)
		if requests.Add(1) == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	b := mmapbuf.NewBufferString("header: contents")
	put := func(body io.Reader) error {
		_, err := s3Client(server).PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String("bucket"), Key: aws.String("key"), Body: body})
		return err
	}
	assert.ErrorContains(t, put(mmapbuf.NewBufferString("contents")), "seek")
	f := mmapbuf.NewFile(b)
	_, err := f.Seek(8, io.SeekStart)
	require.NoError(t, err)
	require.NoError(t, put(f))
	assert.EqualValues(t, 2, requests.Load())
	assert.Equal(t, 16, b.Len())
}

const large = 64 << 20 // more than is buffered on the way to a server

// fill writes large bytes c to b.
func fill(b *mmapbuf.Buffer, c byte) {
	p := bytes.Repeat([]byte{c}, 1<<20)
	for b.Len() < large {
		b.Write(p)
	}
}

// TestServerAnswersEarly closes Buffers while net/http may still read them, because
// the server has answered all attempts without reading the body.
func TestServerAnswersEarly(t *testing.T) {
	each(t, func(t *testing.T, client string, serve func(http.HandlerFunc) *httptest.Server) {
		var requests atomic.Int32
		server := serve(func(w http.ResponseWriter, r *http.Request) {
			if requests.Add(1)%2 == 1 {
				w.Header().Set("Location", r.URL.Path)
				w.WriteHeader(clients[client].again)
			}
		})
		answered := 0
		for i := range 50 {
			var b mmapbuf.Buffer
			fill(&b, byte(i))
			if err := clients[client].send(server, &b); err != nil {
				t.Log(err) // the connection may break before the answer is read
			} else {
				answered++
			}
			require.Equal(t, large, b.Len())
			require.NoError(t, b.Close())
		}
		assert.NotZero(t, answered)
	})
}

// TestCloseBesideBody closes Buffers while their contents are sent: a server reads
// the body only after that. It gets nothing but contents of the Buffer, although
// others reuse the memory.
func TestCloseBesideBody(t *testing.T) {
	for proto := 1; proto <= 2; proto++ {
		t.Run(fmt.Sprintf("HTTP%d", proto), func(t *testing.T) {
			closed := make(chan bool)
			defer close(closed)
			got := make(chan int64, 1)
			server := serve(t, proto, func(w http.ResponseWriter, r *http.Request) {
				if proto == 1 {
					assert.NoError(t, http.NewResponseController(w).EnableFullDuplex())
				}
				assert.NoError(t, http.NewResponseController(w).Flush())
				<-closed
				c, err := strconv.Atoi(r.URL.Query().Get("c"))
				assert.NoError(t, err)
				want := bytes.Repeat([]byte{byte(c)}, 1<<20)
				p := make([]byte, len(want))
				n := int64(0)
				for err == nil {
					var m int
					m, err = r.Body.Read(p)
					n += int64(m)
					if !bytes.Equal(want[:m], p[:m]) {
						t.Errorf("not only bytes %d: %d", c, slices.Compact(p[:m]))
					}
				}
				got <- n
			})
			for i := range 50 {
				var b mmapbuf.Buffer
				fill(&b, byte(i))
				req, err := newRequest(server.URL+"?c="+strconv.Itoa(i), &b)
				require.NoError(t, err)
				resp, err := server.Client().Do(req)
				require.NoError(t, err)
				require.NoError(t, b.Close())
				var next mmapbuf.Buffer
				fill(&next, ^byte(i))
				closed <- true
				assert.Less(t, <-got, int64(large), "the contents end when the Buffer is closed")
				require.NoError(t, next.Close())
				require.NoError(t, resp.Body.Close())
			}
		})
	}
}
