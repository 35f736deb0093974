// Command fileserve serves the contents of a Buffer with http.ServeContent, which
// answers requests for ranges and requires an io.ReadSeeker. Each request has a
// File, and thereby an offset, of its own. All of them read the same Buffer.
//
//	go -C examples run ./fileserve
//	curl --range 0-20 http://localhost:8080/
package main

import (
	"fmt"
	"log"
	"net/http"
	"time"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	var b mmapbuf.Buffer
	for i := range 1_000_000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	log.Fatal(http.ListenAndServe("localhost:8080", handler(&b, "lines.txt", time.Now())))
}

// handler serves the contents of b, which must not change from now on.
func handler(b *mmapbuf.Buffer, name string, modified time.Time) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, name, modified, mmapbuf.NewFile(b))
	})
}
