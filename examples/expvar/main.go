// Expvar publishes what mmapbuf has mapped, next to the memory statistics of
// the Go runtime, which do not count it.
//
//	go -C examples run ./expvar
//
// starts a server on a free port of the loopback address, asks it for its
// variables as a monitoring system would, prints those of mmapbuf and ends. The
// server also has the profiles of net/http/pprof; the one named
// github.com/mmapbuf/mmapbuf tells which code holds the mappings.
package main

import (
	"encoding/json"
	"expvar"
	"fmt"
	"io"
	"log"
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

// report fills a Buffer and prints the variable and the profile as the server
// shows them.
func report(w io.Writer, url string) error {
	var b mmapbuf.Buffer
	defer b.Close()
	if _, err := b.ReadFrom(io.LimitReader(zeros{}, 100<<20)); err != nil {
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

// zeros is a Reader without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
