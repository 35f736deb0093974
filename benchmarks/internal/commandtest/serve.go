package commandtest

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
)

// Serve runs a server, and returns its address and a way to it. In the end all
// goroutines must be gone.
func Serve(t *testing.T, h http.Handler) (url string, transport *http.Transport) {
	t.Helper()
	server := httptest.NewServer(h)
	before := goleak.IgnoreCurrent()
	transport = http.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(func() {
		// Before the server closes the connections, for that would hide that
		// a client has not.
		transport.CloseIdleConnections()
		goleak.VerifyNone(t, before,
			goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
			goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"))
		server.Close()
	})
	return server.URL, transport
}
