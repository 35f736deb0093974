package spool_test

import (
	"fmt"
	"io"
	"log"
	"os"
	"strings"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/spool"
)

// An upload is kept in memory up to 64 MiB, and on disk if it is larger.
func Example() {
	upload := strings.NewReader("hello world!\n")

	f := spool.New(&mmapbuf.Buffer{MaxLen: 64 << 20}, "") // "" stands for os.TempDir()
	defer f.Close()
	if _, err := io.Copy(f, upload); err != nil {
		log.Fatal(err)
	}

	f.WriteAt([]byte("H"), 0)
	f.Seek(0, io.SeekStart)
	io.Copy(os.Stdout, f)
	// Output: Hello world!
}

// Rollover finds out whether the disk has room before more data arrives, and
// changes nothing else.
func ExampleFile_Rollover() {
	f := spool.New(&mmapbuf.Buffer{MaxLen: 64 << 20}, "")
	defer f.Close()
	f.WriteString("small, so far")
	f.Seek(7, io.SeekStart)
	if err := f.Rollover(); err != nil {
		log.Fatal(err)
	}
	p, err := io.ReadAll(f)
	fmt.Printf("%q %v\n", p, err)
	// Output: "so far" <nil>
}
