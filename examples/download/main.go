// Download reads an object of an S3 server into a Buffer, in parallel parts, with
// the SDK of AWS: a Buffer is the io.WriterAt that the SDK asks for.
//
//	go -C examples run ./download
//
// The server is a fake one in the program itself.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	size := flag.Int64("size", 64<<20, "`bytes` of the object")
	flag.Parse()
	backend := s3mem.New()
	server := httptest.NewServer(gofakes3.New(backend).Server())
	defer server.Close()
	sum := sha256.New()
	object := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), *size), sum)
	if err := backend.CreateBucket("bucket"); err != nil {
		log.Fatal(err)
	}
	if _, err := backend.PutObject("bucket", "object", nil, object, *size, nil); err != nil {
		log.Fatal(err)
	}

	b := mmapbuf.Buffer{MaxLen: 1 << 30} // whatever the server sends
	defer b.Close()
	if err := download(context.Background(), newClient(server.URL, server.Client()), "bucket", "object", &b); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("sent     %x\nreceived %x, %d bytes\n", sum.Sum(nil), sha256.Sum256(b.Bytes()), b.Len())
}

// download writes an object to b, in parallel parts. After an error b may hold
// some of them.
func download(ctx context.Context, client *s3.Client, bucket, key string, b *mmapbuf.Buffer) error {
	manager := transfermanager.New(client, func(o *transfermanager.Options) {
		o.GetObjectType = types.GetObjectRanges // however it was uploaded
		o.DisableChecksumValidation = true      // S3 has none of ranges
	})
	_, err := manager.DownloadObject(ctx, &transfermanager.DownloadObjectInput{Bucket: &bucket, Key: &key, WriterAt: b})
	return err
}

// newClient returns a client of the S3 server at url.
func newClient(url string, client *http.Client) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &url,
		UsePathStyle: true,
		Region:       "us-east-1",
		Credentials:  aws.AnonymousCredentials{},
		HTTPClient:   &http.Client{Transport: rangeTransport{client.Transport}},
	})
}

// A rangeTransport checks that the answer to a request for a range is that range,
// of the same version of the object. The SDK does not: it takes a short part for
// a whole one, and a part for another.
type rangeTransport struct{ http.RoundTripper }

func (t rangeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.RoundTripper.RoundTrip(req)
	var first, last, size int64
	asked, _ := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &first, &last)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices || asked != 2 {
		return resp, err
	}
	got := resp.Header.Get("Content-Range")
	var from, to int64
	n, _ := fmt.Sscanf(got, "bytes %d-%d/%d", &from, &to, &size)
	end := last
	if first == 0 { // the SDK does not know the size yet
		end = min(last, size-1)
	}
	etag := req.Header.Get("If-Match")
	switch {
	case etag != "" && resp.Header.Get("ETag") != etag:
		err = errChanged
	case n != 3 || from != first || to != end || resp.ContentLength != to-from+1:
		err = badRange{fmt.Errorf("asked for bytes %d-%d, the server answers %s, Content-Range %q, %d bytes",
			first, last, resp.Status, got, resp.ContentLength)}
	default:
		return resp, nil
	}
	resp.Body.Close()
	return nil, err
}

// A badRange tells the SDK that it is no use to ask again.
type badRange struct{ error }

// RetryableError implements the interface that the SDK looks for.
func (badRange) RetryableError() bool { return false }

var errChanged = badRange{errors.New("the object has changed")}
