package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/measure"
)

// Where the object is.
const (
	bucket = "bucket"
	key    = "object"
)

// An implementation is one way to hold an object that arrives in parts, several
// at a time.
type implementation struct {
	name string
	open func(size int64) buffer
}

var implementations = []implementation{
	{"WriteAtBuffer", func(int64) buffer { return types.NewWriteAtBuffer(nil) }},
	{"WriteAtBuffer, GrowthCoeff 2", func(int64) buffer { return &types.WriteAtBuffer{GrowthCoeff: 2} }},
	{"WriteAtBuffer, size known", func(n int64) buffer { return types.NewWriteAtBuffer(make([]byte, 0, n)) }},
	// With MaxLen a server cannot make it larger than what was agreed on.
	{"mmapbuf.Buffer", func(n int64) buffer { return &mmapbuf.Buffer{MaxLen: int(n)} }},
}

// A buffer is what the SDK downloads into.
type buffer interface {
	io.WriterAt
	Bytes() []byte
}

// A job tells a child what to do.
type job struct {
	Implementation string
	URL            string // of the server
	Size           int64
	Sum            [sha256.Size]byte
}

// work is the child: it does j.
func work(j job) (f measure.Figures, err error) {
	client := newClient(j.URL, awshttp.NewBuildableClient().GetTransport())
	for _, impl := range implementations {
		if impl.name != j.Implementation {
			continue
		}
		if err := measure.Warm(2 * j.Size); err != nil {
			return f, err
		}
		m := measure.Start()
		b := impl.open(j.Size)
		if err := download(context.Background(), client, b); err != nil {
			return f, err
		}
		f = m.Stop()
		f.Size = j.Size
		return f, verify(b.Bytes(), j.Sum)
	}
	return f, fmt.Errorf("no implementation is called %q", j.Implementation)
}

// verify compares what has arrived with what was sent.
func verify(p []byte, sum [sha256.Size]byte) error {
	if sha256.Sum256(p) != sum {
		return fmt.Errorf("the %d bytes that have arrived are not those of the object", len(p))
	}
	return nil
}

// newClient returns a client of the S3 server at url.
func newClient(url string, transport http.RoundTripper) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &url,
		UsePathStyle: true,
		Region:       "us-east-1",
		Credentials:  aws.AnonymousCredentials{},
		HTTPClient:   &http.Client{Transport: partTransport{transport}},
	})
}

// download writes the object to w, in parallel parts. If they do not all come, or
// not all of the same object, it fails, and w may hold some of them.
func download(ctx context.Context, client *s3.Client, w io.WriterAt) error {
	manager := transfermanager.New(client, func(o *transfermanager.Options) {
		o.GetObjectType = types.GetObjectRanges // however it was uploaded
		o.DisableChecksumValidation = true      // S3 has none of ranges
	})
	_, err := manager.DownloadObject(ctx, &transfermanager.DownloadObjectInput{
		Bucket:   aws.String(bucket),
		Key:      aws.String(key),
		WriterAt: w,
	})
	return err
}
