// Command s3 uploads a Buffer to an S3 server with the AWS SDK, and downloads the
// object into another Buffer.
//
// The SDK reads the body of an upload for a checksum, to send it, and again for each
// retry, so it requires an io.Seeker. A File is one; a bytes.Buffer and a Buffer are
// not. For a download in parallel parts it requires an io.WriterAt, which a Buffer is.
//
//	go -C examples run ./s3
//
// The server is part of the program, and fails the first attempt of the upload.
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager"
	"github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	size := flag.Int64("size", 64<<20, "`bytes` of the object")
	flag.Parse()
	server := newServer(1, 1)
	defer server.Close()
	client := newClient(server.URL)
	ctx := context.Background()

	var up mmapbuf.Buffer
	defer up.Close()
	if _, err := io.CopyN(&up, rand.NewChaCha8([32]byte{}), *size); err != nil {
		log.Fatal(err)
	}
	if err := upload(ctx, client, "object", mmapbuf.NewFile(&up)); err != nil {
		log.Fatal(err)
	}
	down := mmapbuf.Buffer{MaxLen: 1 << 30} // for an untrusted server
	defer down.Close()
	if err := download(ctx, client, "object", &down); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d bytes up, %d bytes down, equal: %t\n", up.Len(), down.Len(), bytes.Equal(up.Bytes(), down.Bytes()))
}

const bucket = "bucket"

func upload(ctx context.Context, client *s3.Client, key string, body io.Reader) error {
	_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: aws.String(bucket), Key: &key, Body: body})
	return err
}

// download writes an object to b, in parallel parts. After an error b may hold
// some of them. The SDK does not check that a part is the one that it has asked
// for. If the server is not trusted, compare a checksum of the whole object.
func download(ctx context.Context, client *s3.Client, key string, b *mmapbuf.Buffer) error {
	manager := transfermanager.New(client, func(o *transfermanager.Options) {
		o.GetObjectType = types.GetObjectRanges // for all objects, however they were uploaded
		o.DisableChecksumValidation = true      // S3 has no checksums of ranges
	})
	_, err := manager.DownloadObject(ctx, &transfermanager.DownloadObjectInput{Bucket: aws.String(bucket), Key: &key, WriterAt: b})
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
