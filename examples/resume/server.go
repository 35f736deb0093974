package main

import (
	"net/http"
	"strings"
	"time"
)

// serve sends an object of 64 MiB, but drops each connection after 20 MiB.
func serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"1"`)
	http.ServeContent(&limited{w, 20 << 20}, r, "", time.Time{}, strings.NewReader(strings.Repeat("mmapbuf\n", 8<<20)))
}

type limited struct {
	http.ResponseWriter
	left int
}

func (w *limited) Write(p []byte) (int, error) {
	n, err := w.ResponseWriter.Write(p[:min(len(p), w.left)])
	if w.left -= n; n < len(p) {
		_ = http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}
