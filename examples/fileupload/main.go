// Command fileupload puts an object into S3 from a Buffer. The AWS SDK reads the body
// for a checksum, to send it, and again for each retry, so it requires an io.Seeker.
// A bytes.Buffer and a Buffer are none; a File is.
//
//	go -C examples run ./fileupload
//
// The server is part of the program and fails the first attempts.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	backend := s3mem.New()
	if err := backend.CreateBucket("bucket"); err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(flaky(gofakes3.New(backend).Server(), 2))
	defer server.Close()

	var b mmapbuf.Buffer
	for i := range 5_000_000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	if err := upload(newClient(server.URL), "lines.txt", mmapbuf.NewFile(&b)); err != nil {
		log.Fatal(err)
	}
	obj, err := backend.HeadObject("bucket", "lines.txt")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d of %d bytes have arrived\n", obj.Size, b.Len())
}

func upload(client *s3.Client, key string, body io.Reader) error {
	_, err := client.PutObject(context.Background(), &s3.PutObjectInput{
		Bucket: aws.String("bucket"),
		Key:    &key,
		Body:   body,
	})
	return err
}

func newClient(url string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &url,
		UsePathStyle: true,
		Region:       "us-east-1",
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"}, nil
		}),
		Retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = time.Millisecond }),
	})
}

// flaky fails the first requests after some of the body.
func flaky(h http.Handler, failures int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if failures > 0 {
			failures--
			_, _ = io.CopyN(io.Discard, r.Body, 1<<20)
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	})
}
