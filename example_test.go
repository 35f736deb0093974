package mmapbuf_test

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"

	"github.com/mmapbuf/mmapbuf"
)

func ExampleBuffer() {
	upload := io.LimitReader(rand.NewChaCha8([32]byte{}), 64<<20)

	b := mmapbuf.Buffer{MaxLen: 1 << 30} // the zero value has no limit
	defer b.Close()                      // optional: releases the memory now
	if _, err := b.ReadFrom(upload); err != nil {
		log.Fatal(err) // errors.Is(err, mmapbuf.ErrTooLarge) if there is more
	}
	sum := sha256.New()
	n, err := b.WriteTo(sum)
	fmt.Printf("%d bytes, SHA-256 %x..., %v\n", n, sum.Sum(nil)[:4], err)
	// Output: 67108864 bytes, SHA-256 4291e080..., <nil>
}

// A slice that Bytes has returned remains valid after Close.
func ExampleBuffer_Bytes() {
	b := mmapbuf.NewBufferString("header: ")
	b.Write(make([]byte, 8<<20))
	view := b.Bytes()
	b.Close()
	b.WriteString("something else")
	fmt.Printf("%q and %d bytes more\n", view[:8], len(view)-8)
	// Output: "header: " and 8388608 bytes more
}

func ExampleBuffer_ReadAt() {
	b := mmapbuf.NewBufferString("header: body")
	b.Next(len("header: ")) // offsets count from the first unread byte

	p := make([]byte, 4)
	n, err := b.ReadAt(p, 0)
	fmt.Printf("%q %v\n", p[:n], err)
	n, err = b.ReadAt(p, 2)
	fmt.Printf("%q %v\n", p[:n], err)
	fmt.Println(b.Len(), "bytes still unread")
	// Output:
	// "body" <nil>
	// "dy" EOF
	// 4 bytes still unread
}

// Bytes between the end of the contents and the offset become zero.
func ExampleBuffer_WriteAt() {
	b := mmapbuf.NewBufferString("abc")
	b.WriteAt([]byte("B"), 1)
	b.WriteAt([]byte("xyz"), 5)
	fmt.Printf("%q\n", b.Bytes())
	// Output: "aBc\x00\x00xyz"
}

// MaxLen limits how much untrusted input a program holds.
func ExampleBuffer_maxLen() {
	peer := strings.NewReader("more than we are willing to take")
	b := mmapbuf.Buffer{MaxLen: 9}
	n, err := b.ReadFrom(peer)
	fmt.Printf("%d bytes, %q, too large: %t\n", n, b.String(), errors.Is(err, mmapbuf.ErrTooLarge))

	b.Next(5) // makes room
	n2, err := b.WriteString("!")
	fmt.Printf("%d byte, %q, %v\n", n2, b.String(), err)
	// Output:
	// 9 bytes, "more than", too large: true
	// 1 byte, "than!", <nil>
}

// Reserve returns an error where Grow panics.
func ExampleBuffer_Reserve() {
	var b mmapbuf.Buffer
	if err := b.Reserve(1 << 20); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(b.Len(), b.Available() >= 1<<20)

	b.MaxLen = 100
	err := b.Reserve(101)
	fmt.Println(errors.Is(err, mmapbuf.ErrTooLarge))
	// Output:
	// 0 true
	// true
}

func ExampleBuffer_Shrink() {
	var b mmapbuf.Buffer
	b.Write(make([]byte, 32<<20))
	b.WriteString("the rest")
	b.Next(32 << 20)

	before := b.Cap()
	b.Shrink()
	fmt.Println(b.String(), b.Cap() < before)
	// Output: the rest true
}

// Close is optional. It releases the memory, and the Buffer can be used again.
func ExampleBuffer_Close() {
	var b mmapbuf.Buffer
	defer b.Close()

	b.Write(make([]byte, 8<<20))
	fmt.Println(b.Len())
	b.Close()
	fmt.Println(b.Len(), b.Cap())
	b.WriteString("used again")
	fmt.Println(b.String())
	// Output:
	// 8388608
	// 0 0
	// used again
}

// Reset keeps the storage, so Buffers from a pool do not have to allocate it.
func ExampleBuffer_pool() {
	pool := sync.Pool{New: func() any { return new(mmapbuf.Buffer) }}
	render := func(w io.Writer, name string) {
		b := pool.Get().(*mmapbuf.Buffer)
		defer pool.Put(b)
		b.Reset()
		fmt.Fprintf(b, "Dear %s,\n", name)
		b.WriteTo(w)
	}
	render(os.Stdout, "Ada")
	render(os.Stdout, "Grace")
	// Output:
	// Dear Ada,
	// Dear Grace,
}

// A SectionReader adds Seek, and does not consume what it reads.
func ExampleBuffer_sectionReader() {
	b := mmapbuf.NewBufferString("first\nsecond\nthird\n")
	r := io.NewSectionReader(b, 0, int64(b.Len()))
	for range 2 {
		r.Seek(6, io.SeekStart)
		line, _ := bufio.NewReader(r).ReadString('\n')
		fmt.Print(line)
	}
	fmt.Println(b.Len())
	// Output:
	// second
	// second
	// 19
}

// The size in a header is known, and written, after the data.
func ExampleFile() {
	var b mmapbuf.Buffer
	f := mmapbuf.NewFile(&b)
	io.WriteString(f, "size=???? ")
	for _, part := range []string{"one, ", "two, ", "three"} {
		io.WriteString(f, part)
	}
	size := f.Size() - 10
	f.Seek(5, io.SeekStart)
	fmt.Fprintf(f, "%04d", size)
	b.WriteTo(os.Stdout)
	// Output: size=0015 one, two, three
}

// Files of the same Buffer have an offset each, and consume nothing.
func ExampleNewFile() {
	b := mmapbuf.NewBufferString("first\nsecond\n")
	one, other := mmapbuf.NewFile(b), mmapbuf.NewFile(b)
	other.Seek(6, io.SeekStart)
	line, _ := bufio.NewReader(one).ReadString('\n')
	fmt.Print(line)
	line, _ = bufio.NewReader(other).ReadString('\n')
	fmt.Print(line)
	fmt.Println(b.Len(), "bytes in b")
	// Output:
	// first
	// second
	// 13 bytes in b
}

// A gap reads as zero. Whole pages of it in a mapping use no memory.
func ExampleFile_Seek() {
	var b mmapbuf.Buffer
	f := mmapbuf.NewFile(&b)
	f.WriteString("abc")
	f.Seek(2, io.SeekEnd)
	f.WriteString("xyz")
	fmt.Printf("%q\n", b.String())

	_, err := f.Seek(-1, io.SeekStart)
	fmt.Println(err)
	// Output:
	// "abc\x00\x00xyz"
	// seek mmapbuf.File: invalid argument
}

// Truncate can also extend the contents.
func ExampleFile_Truncate() {
	var b mmapbuf.Buffer
	f := mmapbuf.NewFile(&b)
	f.WriteString("abc")
	f.Truncate(5)
	fmt.Printf("%q\n", b.String())
	f.Truncate(1)
	fmt.Printf("%q\n", b.String())
	// Output:
	// "abc\x00\x00"
	// "a"
}

// A Write that MaxLen limits returns how much it has written.
func ExampleFile_Write_maxLen() {
	b := mmapbuf.Buffer{MaxLen: 5}
	n, err := mmapbuf.NewFile(&b).WriteString("more than that")
	fmt.Println(n, errors.Is(err, mmapbuf.ErrTooLarge))
	fmt.Printf("%q\n", b.String())
	// Output:
	// 5 true
	// "more "
}

// Closing a File does not affect its Buffer.
func ExampleFile_Close() {
	b := mmapbuf.NewBufferString("still there")
	f := mmapbuf.NewFile(b)
	f.Close()
	_, err := f.Read(make([]byte, 1))
	fmt.Println(errors.Is(err, os.ErrClosed), b.String())
	// Output: true still there
}

// A request that may be sent more than once has a new File as its body each time.
// The Buffer may be closed as soon as the request returns, even if the server has
// not read all of the body.
func ExampleFile_httpBody() {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Printf("%s: %d of %d bytes\n", r.URL.Path, n, r.ContentLength)
		if r.URL.Path == "/old" {
			http.Redirect(w, r, "/new", http.StatusTemporaryRedirect)
		}
	}))
	defer server.Close()

	var b mmapbuf.Buffer
	b.Write(make([]byte, 8<<20))
	f := mmapbuf.NewFile(&b)
	req, err := http.NewRequest(http.MethodPut, server.URL+"/old", f)
	if err != nil {
		log.Fatal(err)
	}
	req.ContentLength = int64(f.Len())
	req.GetBody = func() (io.ReadCloser, error) { return mmapbuf.NewFile(&b), nil }
	resp, err := http.DefaultClient.Do(req)
	b.Close()
	if err != nil {
		log.Fatal(err)
	}
	resp.Body.Close()
	fmt.Println(resp.Status)
	// Output:
	// /old: 8388608 of 8388608 bytes
	// /new: 8388608 of 8388608 bytes
	// 200 OK
}

// Buffers of a Limit share it. What one of them releases is there for the others.
func ExampleLimit() {
	limit := mmapbuf.NewLimit(16 << 20)
	upload := mmapbuf.Buffer{Limit: limit}
	report := mmapbuf.Buffer{Limit: limit}

	upload.Write(make([]byte, 16<<20))
	n, err := report.WriteString("summary")
	fmt.Println(n, errors.Is(err, mmapbuf.ErrTooLarge), limit.Used() == limit.Max())

	upload.Close()
	n, err = report.WriteString("summary")
	fmt.Println(n, err, limit.Used() < limit.Max())

	report.Close()
	fmt.Println(limit.Used())
	// Output:
	// 0 true true
	// 7 <nil> true
	// 0
}

// With a Limit for each tenant, one cannot take the memory of another.
func ExampleNewLimit() {
	tenants := map[string]*mmapbuf.Limit{
		"Ada":   mmapbuf.NewLimit(1000),
		"Grace": mmapbuf.NewLimit(1000),
	}
	receive := func(tenant string, size int) {
		b := &mmapbuf.Buffer{Limit: tenants[tenant]}
		defer b.Close()
		n, err := b.ReadFrom(strings.NewReader(strings.Repeat("x", size)))
		fmt.Printf("%s: %d bytes, too large: %t\n", tenant, n, errors.Is(err, mmapbuf.ErrTooLarge))
	}
	receive("Ada", 5000)
	receive("Grace", 500)
	fmt.Println(tenants["Ada"].Used(), tenants["Grace"].Used())
	// Output:
	// Ada: 1000 bytes, too large: true
	// Grace: 500 bytes, too large: false
	// 0 0
}
