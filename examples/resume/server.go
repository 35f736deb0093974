package main

import (
	"net/http"
	"strings"
	"time"
)

// serve sends an object of 64 MiB, of which 20 MiB arrive over a connection.
func serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("ETag", `"1"`)
	http.ServeContent(&limited{w, 20 << 20}, r, "", time.Time{}, strings.NewReader(strings.Repeat("mmapbuf\n", 8<<20)))
}

type limited struct {
	http.ResponseWriter
	left int
}

func (w *limited) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(p)
}
