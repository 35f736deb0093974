// Package migrate tests what MIGRATING.md of mmapbuf says about moving from
// bytes.Buffer: that the standard library knows that type in no other places
// than those listed there, and that the advice for each of them is right.
package migrate

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
	"go/ast"
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
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

// goRoot returns a directory of the Go toolchain, of a version that the lists
// in MIGRATING.md were made from.
func goRoot(t *testing.T, dir string) string {
	t.Helper()
	if version.Compare(runtime.Version(), "go1.27") >= 0 {
		t.Skip("the lists are of Go 1.26 and have to be made anew for " + runtime.Version())
	}
	out, err := exec.Command("go", "env", "GOROOT").Output()
	require.NoError(t, err)
	path := filepath.Join(strings.TrimSpace(string(out)), dir)
	if _, err := os.Stat(path); err != nil {
		t.Skip(err) // some distributions leave it out
	}
	return path
}

// TestListIsComplete fails when the API of the standard library has a
// bytes.Buffer in a place that MIGRATING.md does not name.
func TestListIsComplete(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(goRoot(t, "api"), "go*.txt"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	var found []string
	for _, name := range files {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, "bytes.Buffer") {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	assert.ElementsMatch(t, []string{
		"pkg encoding/json, func Compact(*bytes.Buffer, []uint8) error",
		"pkg encoding/json, func HTMLEscape(*bytes.Buffer, []uint8)",
		"pkg encoding/json, func Indent(*bytes.Buffer, []uint8, string, string) error",
		"pkg go/types, func WriteExpr(*bytes.Buffer, ast.Expr)",
		"pkg go/types, func WriteSignature(*bytes.Buffer, *Signature, Qualifier)",
		"pkg go/types, func WriteType(*bytes.Buffer, Type, Qualifier)",
		"pkg net/http/httptest, type ResponseRecorder struct, Body *bytes.Buffer",
	}, found)
}

// TestSpecialCases fails when code of the standard library looks for a
// *bytes.Buffer, or for something that can be closed, where it did not.
func TestSpecialCases(t *testing.T) {
	root := goRoot(t, "src")
	for _, test := range []struct {
		name, pattern string
		want          []string
	}{
		{"bytes.Buffer", `case .*\*bytes\.Buffer|\w\.\(\*bytes\.Buffer\)`, []string{
			"encoding/json/jsontext/decode.go", // an experiment; only saves a copy
			"encoding/json/jsontext/encode.go",
			"encoding/json/jsontext/pools.go",
			"encoding/json/v2_stream.go",
			"go/parser/interface.go",
			"net/http/httptest/httptest.go",
			"net/http/request.go",
			"net/http/transfer.go",
		}},
		{"Closer", `\w\.\(io\.(Read|Write|ReadWrite)?Closer\)|\.\(interface ?\{ ?Close\(\)`, []string{
			"crypto/cipher/io.go",
			"database/sql/sql.go", // a driver.Connector
			"net/http/httptest/httptest.go",
			"net/http/httputil/dump.go",         // its own
			"net/http/httputil/reverseproxy.go", // a connection
			"net/http/request.go",
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := grep(t, root, regexp.MustCompile(test.pattern))
			if !slices.Contains(found, "encoding/json/v2_stream.go") {
				// Not in every version of Go.
				test.want = slices.DeleteFunc(test.want, func(name string) bool { return strings.HasPrefix(name, "encoding/json/") })
			}
			assert.ElementsMatch(t, test.want, found)
		})
	}
}

// grep returns the files of the standard library with code that matches.
func grep(t *testing.T, root string, pattern *regexp.Regexp) (names []string) {
	t.Helper()
	fsys := os.DirFS(root)
	require.NoError(t, fs.WalkDir(fsys, ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (slices.Contains([]string{"cmd", "vendor", "testdata", "internal"}, d.Name()) || strings.HasPrefix(d.Name(), "_")):
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

// document returns JSON that is larger than where a mapping begins.
func document(t *testing.T) []byte {
	t.Helper()
	var list []map[string]any
	for i := range 40_000 {
		list = append(list, map[string]any{"number": i, "text": "<a & b>", "list": []int{i, i + 1}})
	}
	p, err := json.Marshal(list)
	require.NoError(t, err)
	require.Greater(t, len(p), 2<<20)
	return p
}

// TestByType: what insists on a *bytes.Buffer writes the same by way of
// AvailableBuffer, and in place where there is room.
func TestByType(t *testing.T) {
	src := document(t)
	expr, err := parser.ParseExpr("f(x)[1:2] + y.z")
	require.NoError(t, err)
	signature := types.NewSignatureType(nil, nil, nil,
		types.NewTuple(types.NewVar(0, nil, "x", types.Typ[types.Int])), nil, false)

	for name, call := range map[string]func(dst *bytes.Buffer) error{
		"json.Indent":          func(dst *bytes.Buffer) error { return json.Indent(dst, src, ">", "\t") },
		"json.Compact":         func(dst *bytes.Buffer) error { return json.Compact(dst, append(src, ' ')) },
		"json.HTMLEscape":      func(dst *bytes.Buffer) error { json.HTMLEscape(dst, src); return nil },
		"types.WriteType":      func(dst *bytes.Buffer) error { types.WriteType(dst, types.NewSlice(signature), nil); return nil },
		"types.WriteSignature": func(dst *bytes.Buffer) error { types.WriteSignature(dst, signature, nil); return nil },
		"types.WriteExpr":      func(dst *bytes.Buffer) error { types.WriteExpr(dst, expr); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			want := bytes.NewBufferString("before ")
			require.NoError(t, call(want))
			for _, room := range []int{0, 2 * want.Len()} {
				b := mmapbuf.NewBufferString("before ")
				b.Grow(room)
				dst := bytes.NewBuffer(b.AvailableBuffer())
				require.NoError(t, call(dst))
				inPlace := dst.Bytes()
				b.Write(inPlace)
				require.True(t, bytes.Equal(want.Bytes(), b.Bytes()), "with %d bytes of room", room)
				if room > 0 {
					assert.Same(t, &inPlace[0], &b.Bytes()[len("before ")])
				}
			}
		})
	}
}

// TestStrings: go/types has strings of the same, for what is small.
func TestStrings(t *testing.T) {
	var dst bytes.Buffer
	types.WriteType(&dst, types.NewSlice(types.Typ[types.Int]), nil)
	assert.Equal(t, dst.String(), types.TypeString(types.NewSlice(types.Typ[types.Int]), nil))
	dst.Reset()
	types.WriteExpr(&dst, ast.NewIdent("x"))
	assert.Equal(t, dst.String(), types.ExprString(ast.NewIdent("x")))
}

// TestRecorder: what a handler answers arrives in a Buffer through a server.
func TestRecorder(t *testing.T) {
	src := document(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = w.Write(src)
	})
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(http.MethodGet, "/", nil))

	server := httptest.NewServer(handler)
	defer server.Close()
	resp, err := http.Get(server.URL)
	require.NoError(t, err)
	defer resp.Body.Close()
	var b mmapbuf.Buffer
	_, err = b.ReadFrom(resp.Body)
	require.NoError(t, err)
	assert.Equal(t, recorder.Code, resp.StatusCode)
	assert.True(t, bytes.Equal(recorder.Body.Bytes(), b.Bytes()))
}

// moved is a server that has moved: it takes what is posted to /new, and
// redirects to there from elsewhere.
func moved(t *testing.T) (url string, got *http.Request, body *mmapbuf.Buffer) {
	t.Helper()
	got, body = new(http.Request), new(mmapbuf.Buffer)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/new" {
			_, _ = io.Copy(io.Discard, r.Body)
			http.Redirect(w, r, "/new", http.StatusPermanentRedirect)
			return
		}
		*got = *r
		_, _ = body.ReadFrom(r.Body)
	}))
	t.Cleanup(server.Close)
	return server.URL, got, body
}

// TestRequest: a request whose body is a Buffer is not that of a bytes.Buffer,
// and what MIGRATING.md says to do instead is.
func TestRequest(t *testing.T) {
	src := document(t)
	post := func(body func(b *mmapbuf.Buffer) io.Reader) func(url string, b *mmapbuf.Buffer) (*http.Request, error) {
		return func(url string, b *mmapbuf.Buffer) (*http.Request, error) {
			return http.NewRequest(http.MethodPost, url, body(b))
		}
	}
	for _, test := range []struct {
		name   string
		make   func(url string, b *mmapbuf.Buffer) (*http.Request, error)
		known  bool // the length, and how to read it again
		closed bool
		viewed bool
	}{
		{"bytes.Buffer", post(func(b *mmapbuf.Buffer) io.Reader { return bytes.NewBuffer(bytes.Clone(src)) }), true, false, false},
		{"mmapbuf.Buffer", post(func(b *mmapbuf.Buffer) io.Reader { return b }), false, true, false},
		{"bytes.Reader", post(func(b *mmapbuf.Buffer) io.Reader { return bytes.NewReader(b.Bytes()) }), true, false, true},
		{"GetBody", newRequest, true, false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var b mmapbuf.Buffer
			defer b.Close()
			b.Write(src)
			published := mmapbuf.ReadStats().Views

			url, got, body := moved(t)
			req, err := test.make(url+"/old", &b)
			require.NoError(t, err)
			assert.Equal(t, test.known, req.GetBody != nil)
			if test.known {
				assert.EqualValues(t, len(src), req.ContentLength)
			} else {
				assert.Zero(t, req.ContentLength, "which is to say that it is not known")
			}
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			if now := mmapbuf.ReadStats(); now.Created > 0 {
				assert.Equal(t, test.viewed, now.Views > published, "a view was taken")
			}

			if test.known {
				assert.Equal(t, http.StatusOK, resp.StatusCode)
				assert.EqualValues(t, len(src), got.ContentLength)
				assert.True(t, bytes.Equal(src, body.Bytes()))
			} else {
				assert.Equal(t, http.StatusPermanentRedirect, resp.StatusCode, "the redirect cannot be followed")
			}
			if test.closed {
				assert.Zero(t, b.Cap(), "net/http has closed it")
			} else {
				assert.Equal(t, len(src), b.Len())
			}
		})
	}
}

// TestEmptyRequest: nothing to send is no body, not one of unknown length.
func TestEmptyRequest(t *testing.T) {
	var b mmapbuf.Buffer
	url, got, _ := moved(t)
	for name, make := range map[string]func() (*http.Request, error){
		"bytes.Buffer": func() (*http.Request, error) {
			return http.NewRequest(http.MethodPost, url+"/new", new(bytes.Buffer))
		},
		"bytes.Reader": func() (*http.Request, error) {
			return http.NewRequest(http.MethodPost, url+"/new", bytes.NewReader(b.Bytes()))
		},
		"GetBody": func() (*http.Request, error) { return newRequest(url+"/new", &b) },
	} {
		req, err := make()
		require.NoError(t, err, name)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err, name)
		require.NoError(t, resp.Body.Close())
		assert.Zero(t, got.ContentLength, name)
		assert.Empty(t, got.TransferEncoding, name)
	}
}

// TestServerRequest is the same for requests that are made for a handler.
func TestServerRequest(t *testing.T) {
	b := mmapbuf.NewBufferString("hello")
	want := httptest.NewRequest(http.MethodPost, "/", bytes.NewBufferString("hello"))
	assert.EqualValues(t, 5, want.ContentLength)

	advised := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(b.Bytes()))
	assert.EqualValues(t, 5, advised.ContentLength)
	require.NoError(t, advised.Body.Close())
	assert.Equal(t, 5, b.Len())

	direct := httptest.NewRequest(http.MethodPost, "/", b)
	assert.EqualValues(t, -1, direct.ContentLength)
	require.NoError(t, direct.Body.Close())
	assert.Zero(t, b.Len(), "it was the Buffer that was closed")
}

// TestParser: a bytes.Buffer is looked at, any other Reader is consumed.
func TestParser(t *testing.T) {
	for name, test := range map[string]struct {
		src   string
		parse func(src any) (ast.Node, error)
	}{
		"ParseFile": {"package p\n", func(src any) (ast.Node, error) {
			return parser.ParseFile(token.NewFileSet(), "", src, 0)
		}},
		"ParseExprFrom": {"x + 1", func(src any) (ast.Node, error) {
			return parser.ParseExprFrom(token.NewFileSet(), "", src, 0)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			o := bytes.NewBufferString(test.src)
			want, err := test.parse(o)
			require.NoError(t, err)
			assert.Equal(t, len(test.src), o.Len())

			b := mmapbuf.NewBufferString(test.src)
			for _, src := range []any{b.Bytes(), b} {
				require.Equal(t, test.src, b.String())
				got, err := test.parse(src)
				require.NoError(t, err)
				assert.Equal(t, want, got)
			}
			assert.Zero(t, b.Len(), "consumed by the second")
		})
	}
}

// TestCloser: what closes the Writer that it is given empties a Buffer.
func TestCloser(t *testing.T) {
	encrypted := func(w io.Writer) {
		t.Helper()
		block, err := aes.NewCipher(make([]byte, 16))
		require.NoError(t, err)
		s := cipher.StreamWriter{S: cipher.NewCTR(block, make([]byte, 16)), W: w}
		_, err = io.WriteString(s, strings.Repeat("secret", 1<<19))
		require.NoError(t, err)
		require.NoError(t, s.Close())
	}
	var want bytes.Buffer
	encrypted(&want)

	var b mmapbuf.Buffer
	encrypted(struct{ io.Writer }{&b})
	assert.True(t, bytes.Equal(want.Bytes(), b.Bytes()))
	encrypted(&b)
	assert.Zero(t, b.Len())
}

// TestInterfaces: what asks for an interface, and not for the type, works with
// a Buffer as it is.
func TestInterfaces(t *testing.T) {
	src := document(t)
	var list any
	for name, use := range map[string]func(b *mmapbuf.Buffer) error{
		"json.Decoder": func(b *mmapbuf.Buffer) error { return json.NewDecoder(b).Decode(&list) },
		"bufio.Scanner": func(b *mmapbuf.Buffer) error {
			s := bufio.NewScanner(b)
			s.Buffer(nil, 2*len(src))
			s.Scan()
			return s.Err()
		},
		"fmt.Fscan": func(b *mmapbuf.Buffer) error {
			var c rune
			if n, err := fmt.Fscanf(b, "%c", &c); n != 1 || c != '[' {
				return fmt.Errorf("%d, %q, %w", n, c, err)
			}
			if b.Len() != len(src)-1 {
				return fmt.Errorf("%d bytes of %d are left: fmt read ahead", b.Len(), len(src))
			}
			return nil
		},
		"json.Unmarshal": func(b *mmapbuf.Buffer) error { return json.Unmarshal(b.Bytes(), &list) },
		"http.Client, an io.Reader": func(b *mmapbuf.Buffer) error {
			url, _, body := moved(t)
			resp, err := http.Post(url+"/new", "application/json", b)
			if err != nil {
				return err
			}
			assert.True(t, bytes.Equal(src, body.Bytes()))
			return resp.Body.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			var b mmapbuf.Buffer
			defer b.Close()
			b.Write(src)
			assert.NoError(t, use(&b))
		})
	}
}
