package migrate

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/mmapbuf/mmapbuf"
)

// A function that requires a *bytes.Buffer gets one that uses the spare room of b.
// If there is enough room, nothing is copied.
func Example_byType() {
	src := []byte(`{"a":[1,2]}`)
	b := mmapbuf.NewBufferString("indented: ")
	b.Grow(10 * len(src))

	dst := bytes.NewBuffer(b.AvailableBuffer())
	if err := json.Indent(dst, src, "", " "); err != nil {
		log.Fatal(err)
	}
	b.Write(dst.Bytes())
	fmt.Println(b)
	// Output:
	// indented: {
	//  "a": [
	//   1,
	//   2
	//  ]
	// }
}

// A request with GetBody has a length and can follow redirects. The body stays in
// its mapping.
func Example_request() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d of %d bytes", n, r.ContentLength)
	}))
	defer server.Close()

	var b mmapbuf.Buffer
	defer b.Close()
	b.Write(make([]byte, 8<<20))
	req, err := newRequest(server.URL, &b)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	var answer mmapbuf.Buffer
	_, err = answer.ReadFrom(resp.Body)
	fmt.Println(&answer, err)
	// Output:
	// 8388608 of 8388608 bytes <nil>
}

// newRequest returns a request with the contents of b, which must not change
// before the body of the request is closed. b may be closed as soon as the
// request returns.
func newRequest(url string, b *mmapbuf.Buffer) (*http.Request, error) {
	body := func() (io.ReadCloser, error) { return mmapbuf.NewFile(b), nil }
	req, err := http.NewRequest(http.MethodPost, url, nil)
	if err != nil || b.Len() == 0 {
		return req, err
	}
	req.ContentLength = int64(b.Len())
	req.GetBody = body
	req.Body, err = body()
	return req, err
}

// Code that closes its Writer empties a Buffer, unless it cannot see the Close
// method.
func Example_closer() {
	block, err := aes.NewCipher(make([]byte, 16))
	if err != nil {
		log.Fatal(err)
	}
	encrypt := func(w io.Writer) {
		s := cipher.StreamWriter{S: cipher.NewCTR(block, make([]byte, 16)), W: w}
		io.WriteString(s, "secret")
		s.Close()
	}

	var b mmapbuf.Buffer
	encrypt(&b)
	fmt.Println(b.Len())
	encrypt(struct{ io.Writer }{&b})
	fmt.Println(b.Len())
	// Output:
	// 0
	// 6
}
