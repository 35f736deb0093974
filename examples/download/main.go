// Command download reads an object of an S3 server into a Buffer, in parallel parts,
// with the AWS SDK: a Buffer is the io.WriterAt that the SDK requires.
//
//	go -C examples run ./download
//
// The server is part of the program.
package main

import (
	"context"
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
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

	b := mmapbuf.Buffer{MaxLen: 1 << 30} // for an untrusted server
	defer b.Close()
	if err := download(context.Background(), newClient(server.URL), "bucket", "object", &b); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("sent     %x\nreceived %x, %d bytes\n", sum.Sum(nil), sha256.Sum256(b.Bytes()), b.Len())
}

// download writes an object to b, in parallel parts. After an error b may hold
// some of them. The SDK does not check that a part is the one that it has asked
// for; for a server that is not trusted, compare a checksum of the whole.
func download(ctx context.Context, client *s3.Client, bucket, key string, b *mmapbuf.Buffer) error {
	manager := transfermanager.New(client, func(o *transfermanager.Options) {
		o.GetObjectType = types.GetObjectRanges // for all objects, however they were uploaded
		o.DisableChecksumValidation = true      // S3 has no checksums of ranges
	})
	_, err := manager.DownloadObject(ctx, &transfermanager.DownloadObjectInput{Bucket: &bucket, Key: &key, WriterAt: b})
	return err
}

// newClient returns a client of the S3 server at url.
func newClient(url string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &url,
		UsePathStyle: true,
		Region:       "us-east-1",
		Credentials:  aws.AnonymousCredentials{},
	})
}
