// Command expvar publishes the figures of mmapbuf.ReadStats as a variable, next to
// the memory statistics of the Go runtime, which do not include mappings.
//
//	go -C examples run ./expvar
//
// It starts a server, asks it for the variables as a monitoring system would, and
// prints those of mmapbuf. The server also has the profiles of net/http/pprof; the
// profile github.com/mmapbuf/mmapbuf shows which code holds mappings.
package main

import (
	"encoding/json"
	"expvar"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	_ "net/http/pprof"
	"os"

	"github.com/mmapbuf/mmapbuf"
)

// expvar and net/http/pprof register with http.DefaultServeMux.
func init() {
	expvar.Publish("mmapbuf", expvar.Func(func() any { return mmapbuf.ReadStats() }))
}

func main() {
	server := httptest.NewServer(http.DefaultServeMux)
	defer server.Close()
	if err := report(os.Stdout, server.URL); err != nil {
		log.Fatal(err)
	}
}

// report fills a Buffer, and prints the variable and the profile that the server
// at url then has.
func report(w io.Writer, url string) error {
	var b mmapbuf.Buffer
	defer b.Close()
	if _, err := b.ReadFrom(io.LimitReader(rand.NewChaCha8([32]byte{}), 100<<20)); err != nil {
		return err
	}
	vars, err := get(url + "/debug/vars")
	if err != nil {
		return err
	}
	var all struct{ Mmapbuf mmapbuf.Stats }
	if err := json.Unmarshal(vars, &all); err != nil {
		return err
	}
	stacks, err := get(url + "/debug/pprof/github.com/mmapbuf/mmapbuf?debug=1")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%+v\n\n%s", all.Mmapbuf, stacks)
	return err
}

func get(url string) ([]byte, error) {
	resp, err := http.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return body, err
}
