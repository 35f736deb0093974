// Package migrate checks docs/MIGRATING.md: that the standard library treats a
// *bytes.Buffer specially in no other places than those listed there, and that the
// advice for them gives the results of a bytes.Buffer.
package migrate

import (
	"bytes"
	"encoding/json"
	"go/parser"
	"go/token"
	"go/types"
	"go/version"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// TestListIsComplete fails if the code of the standard library has a place that
// MIGRATING.md does not name.
func TestListIsComplete(t *testing.T) {
	if version.Compare(runtime.Version(), "go1.27") >= 0 {
		t.Skip("MIGRATING.md lists the places of Go 1.26")
	}
	root, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	fsys := os.DirFS(filepath.Join(strings.TrimSpace(string(root)), "src"))
	for _, test := range []struct {
		name, pattern string
		want          []string
	}{
		{"exported API", `(?m)^func (\(\w+ \*?[A-Z]\w*\) )?[A-Z]\w*\(.*\bbytes\.Buffer|^\t[A-Z]\w*(\(.*|\s+\*?)\bbytes\.Buffer`, []string{
			"encoding/json/indent.go",
			"encoding/json/v2_indent.go",
			"go/types/exprstring.go",
			"go/types/typestring.go",
			"net/http/h2_bundle.go", // a method of an unexported interface
			"net/http/httptest/recorder.go",
		}},
		{"type assertions", `case .*\*bytes\.Buffer|\w\.\(\*bytes\.Buffer\)`, []string{
			"encoding/json/jsontext/decode.go", // an experiment; only saves a copy
			"encoding/json/jsontext/encode.go",
			"encoding/json/jsontext/pools.go",
			"encoding/json/v2_stream.go",
			"go/parser/interface.go",
			"net/http/httptest/httptest.go",
			"net/http/request.go",
			"net/http/transfer.go",
		}},
		{"Closers", `\w\.\(io\.(Read|Write|ReadWrite)?Closer\)|\.\(interface ?\{ ?Close\(\)`, []string{
			"crypto/cipher/io.go",
			"database/sql/sql.go", // a driver.Connector
			"net/http/httptest/httptest.go",
			"net/http/httputil/dump.go",         // its own
			"net/http/httputil/reverseproxy.go", // a connection
			"net/http/request.go",
		}},
		{"ReaderAts and WriterAts", `\w\.\((io\.)?(ReaderAt|WriterAt)\)|case .*\bio\.(ReaderAt|WriterAt)|\.\(interface ?\{ ?(ReadAt|WriteAt)\(`, []string{
			"testing/iotest/reader.go", // TestReader tests ReadAt, too
		}},
	} {
		assert.Equal(t, test.want, grep(t, fsys, regexp.MustCompile(test.pattern)), test.name)
	}
}

// grep returns the files of packages that can be imported whose code matches.
func grep(t *testing.T, fsys fs.FS, pattern *regexp.Regexp) (names []string) {
	t.Helper()
	skipped := regexp.MustCompile(`^(cmd|vendor|testdata|internal|_.*)$`)
	require.NoError(t, fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && skipped.MatchString(d.Name()):
			return fs.SkipDir
		case d.IsDir(), !strings.HasSuffix(name, ".go"), strings.HasSuffix(name, "_test.go"):
			return nil
		}
		text, err := fs.ReadFile(fsys, name)
		if err == nil && pattern.Match(text) && !bytes.Contains(text, []byte("//go:build ignore")) {
			names = append(names, name)
		}
		return err
	}))
	return names
}

// document is JSON of more than 2 MiB, which a Buffer keeps in a mapping.
var document = []byte("[" + strings.Repeat(`{"text":"<a & b>","list":[1,2]},`, 70_000) + "null]")

// TestByType checks functions that require a *bytes.Buffer: by way of
// AvailableBuffer they write the same, and in place if there is enough room.
func TestByType(t *testing.T) {
	expr, err := parser.ParseExpr("f(x)[1:2] + y.z")
	require.NoError(t, err)
	signature := types.NewSignatureType(nil, nil, nil,
		types.NewTuple(types.NewVar(0, nil, "x", types.Typ[types.Int])), nil, false)
	for name, call := range map[string]func(dst *bytes.Buffer) error{
		"json.Indent":          func(dst *bytes.Buffer) error { return json.Indent(dst, document, ">", "\t") },
		"json.Compact":         func(dst *bytes.Buffer) error { return json.Compact(dst, document) },
		"json.HTMLEscape":      func(dst *bytes.Buffer) error { json.HTMLEscape(dst, document); return nil },
		"types.WriteType":      func(dst *bytes.Buffer) error { types.WriteType(dst, types.NewSlice(signature), nil); return nil },
		"types.WriteSignature": func(dst *bytes.Buffer) error { types.WriteSignature(dst, signature, nil); return nil },
		"types.WriteExpr":      func(dst *bytes.Buffer) error { types.WriteExpr(dst, expr); return nil },
	} {
		want := bytes.NewBufferString("before ")
		require.NoError(t, call(want))
		for _, room := range []int{0, 2 * want.Len()} {
			b := mmapbuf.NewBufferString("before ")
			b.Grow(room)
			dst := bytes.NewBuffer(b.AvailableBuffer())
			require.NoError(t, call(dst))
			inPlace := dst.Bytes()
			b.Write(inPlace)
			require.True(t, bytes.Equal(want.Bytes(), b.Bytes()), "%s with %d bytes of room", name, room)
			if room > 0 {
				assert.Same(t, &inPlace[0], &b.Bytes()[len("before ")], name)
			}
		}
	}
}

// newRequests are the ways to make a request that MIGRATING.md names.
var newRequests = map[string]func(url string, b *mmapbuf.Buffer) (*http.Request, error){
	"bytes.Buffer": func(url string, b *mmapbuf.Buffer) (*http.Request, error) {
		return http.NewRequest(http.MethodPost, url, bytes.NewBufferString(b.String()))
	},
	"bytes.Reader": func(url string, b *mmapbuf.Buffer) (*http.Request, error) {
		return http.NewRequest(http.MethodPost, url, bytes.NewReader(b.Bytes()))
	},
	"GetBody": newRequest,
	"Buffer": func(url string, b *mmapbuf.Buffer) (*http.Request, error) {
		return http.NewRequest(http.MethodPost, url, b)
	},
	"File": func(url string, b *mmapbuf.Buffer) (*http.Request, error) {
		return http.NewRequest(http.MethodPost, url, mmapbuf.NewFile(b))
	},
}

// TestRequest checks that the advice gives a request the length and the redirects
// of one with a bytes.Buffer, and that a Buffer or a File as the body does not.
func TestRequest(t *testing.T) {
	var received []byte
	var length int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		received, _ = io.ReadAll(r.Body)
		length = r.ContentLength
		if r.URL.Path != "/new" {
			http.Redirect(w, r, "/new", http.StatusPermanentRedirect)
		}
	}))
	defer server.Close()
	for name, make := range newRequests {
		for _, contents := range [][]byte{nil, document} {
			b := mmapbuf.NewBuffer(bytes.Clone(contents))
			req, err := make(server.URL, b)
			require.NoError(t, err)
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.True(t, bytes.Equal(contents, received), name)
			if name == "Buffer" {
				assert.Zero(t, b.Cap(), "net/http closes the Buffer")
			} else {
				assert.Equal(t, len(contents), b.Len(), name)
			}
			if name != "Buffer" && name != "File" {
				assert.Equal(t, http.StatusOK, resp.StatusCode, name)
				assert.EqualValues(t, len(contents), length, name)
			} else if contents != nil {
				assert.Equal(t, http.StatusPermanentRedirect, resp.StatusCode, "the redirect is not followed")
				assert.EqualValues(t, -1, length)
			}
		}
	}
}

// TestServerRequest does the same for requests that are passed to a handler.
func TestServerRequest(t *testing.T) {
	b := mmapbuf.NewBufferString("hello")
	for _, test := range []struct {
		body           io.Reader
		length, remain int
	}{
		{bytes.NewBufferString("hello"), 5, 5},
		{bytes.NewReader(b.Bytes()), 5, 5},
		{mmapbuf.NewFile(b), -1, 5},
		{b, -1, 0}, // and Close empties it
	} {
		r := httptest.NewRequest(http.MethodPost, "/", test.body)
		assert.EqualValues(t, test.length, r.ContentLength)
		require.NoError(t, r.Body.Close())
		assert.Equal(t, test.remain, b.Len())
	}
}

// TestParser checks that b.Bytes() gives the results of a bytes.Buffer, and that
// the parser consumes a Buffer.
func TestParser(t *testing.T) {
	for src, parse := range map[string]func(src any) (any, error){
		"package p\n": func(src any) (any, error) { return parser.ParseFile(token.NewFileSet(), "", src, 0) },
		"x + 1":       func(src any) (any, error) { return parser.ParseExprFrom(token.NewFileSet(), "", src, 0) },
	} {
		std := bytes.NewBufferString(src)
		want, err := parse(std)
		require.NoError(t, err)
		assert.Equal(t, src, std.String())

		b := mmapbuf.NewBufferString(src)
		for _, src := range []any{b.Bytes(), b} {
			got, err := parse(src)
			require.NoError(t, err)
			assert.Equal(t, want, got)
		}
		assert.Zero(t, b.Len())
	}
}
