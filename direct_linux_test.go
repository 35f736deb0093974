//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package mmapbuf

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha3"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"hash/adler32"
	"hash/crc32"
	"hash/crc64"
	"hash/fnv"
	"hash/maphash"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
)

// TestRequestBody has a server answer before it has read the body, or all of it.
// The client closes the Buffer then, while the transport still reads.
func TestRequestBody(t *testing.T) {
	bodies := map[string]func(b *Buffer) io.Reader{
		"SectionReader":              func(b *Buffer) io.Reader { return io.NewSectionReader(b, 0, int64(b.Len())) },
		"File":                       func(b *Buffer) io.Reader { return struct{ io.Reader }{NewFile(b)} },
		"File, which is closed, too": func(b *Buffer) io.Reader { return NewFile(b) },
		"File, with its WriteTo": func(b *Buffer) io.Reader {
			return struct {
				io.Reader
				io.WriterTo
			}{NewFile(b), NewFile(b)}
		},
	}
	reads := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reads++
		n := int64(reads % 3 * 100_000)
		_, err := io.CopyN(io.Discard, r.Body, n)
		assert.NoError(t, err)
		w.WriteHeader(http.StatusTeapot)
	})
	server := httptest.NewServer(handler)
	defer server.Close()
	for name, body := range bodies {
		for _, chunked := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/chunked=%t", name, chunked), func(t *testing.T) {
				answers := 0
				for seed := range byLength(8, 20, 400) {
					n := 2*miB + rand.N(4*miB)
					b := filledWith(t, seed, n)
					req, err := http.NewRequest("POST", server.URL, body(b))
					require.NoError(t, err)
					req.ContentLength = int64(n)
					if chunked {
						req.ContentLength = -1
					}
					resp, err := server.Client().Do(req)
					_ = b.Close()
					if err == nil { // else the server has closed the connection
						assert.Equal(t, http.StatusTeapot, resp.StatusCode)
						answers++
						_ = resp.Body.Close()
					}
					other := filledWith(t, seed+1000, n)
					require.NoError(t, still(contents(other), seed+1000, n))
					_ = other.Close()
				}
				require.Positive(t, answers)
			})
		}
	}
}

// withRoom leaves the process room more bytes of address space while f runs.
func withRoom(t *testing.T, room int, f func()) {
	t.Helper()
	mapping.Settle()
	_ = make([]byte, 64*miB) // the runtime dies of a lack of memory; let it have some
	manyThreads()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer limit(t, unix.RLIMIT_AS, "VmSize", room)()
	f()
}

// recovered returns what f panics with.
func recovered(f func()) (v any) {
	defer func() { v = recover() }()
	f()
	return nil
}

// TestPanicsAreErrTooLarge: programs compare what they recover, also with ==.
// Methods panicked with an error that wraps it.
func TestPanicsAreErrTooLarge(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	const n = 8 * miB
	more, file := pattern(9, n), filepath.Join(t.TempDir(), "data")
	require.NoError(t, os.WriteFile(file, more, 0o600))
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	text := string(more)
	calls := map[string]func(b *Buffer){
		"Write":            func(b *Buffer) { _, _ = b.Write(more) },
		"WriteString":      func(b *Buffer) { _, _ = b.WriteString(text) },
		"WriteByte":        func(b *Buffer) { _ = b.WriteByte('x') },
		"WriteRune":        func(b *Buffer) { _, _ = b.WriteRune('€') },
		"ReadFrom":         func(b *Buffer) { _, _ = b.ReadFrom(loop) },
		"ReadFrom a file":  func(b *Buffer) { _, _ = b.ReadFrom(f) },
		"Grow":             func(b *Buffer) { b.Grow(n) },
		"Grow very far":    func(b *Buffer) { b.Grow(64 * giB) },
		"Bytes":            func(b *Buffer) { b.Bytes() },
		"Peek":             func(b *Buffer) { _, _ = b.Peek(n) },
		"Peek beyond":      func(b *Buffer) { _, _ = b.Peek(2 * n) },
		"Next":             func(b *Buffer) { b.Next(n) },
		"AvailableBuffer":  func(b *Buffer) { b.AvailableBuffer() },
		"a first mapping":  func(b *Buffer) { new(Buffer).Grow(n) },
		"a slice outgrown": func(b *Buffer) { _ = NewBuffer(more).WriteByte('x') },
	}
	bufs := make(map[string]*Buffer)
	for name := range calls {
		bufs[name], _ = mapped(t, n)
		bufs[name].Shrink()
		require.Zero(t, bufs[name].Available())
	}
	panics, stats := make(map[string]any), make(map[string]Stats)
	was := ReadStats()
	require.Zero(t, was.Failures)
	withRoom(t, 0, func() {
		for name, call := range calls {
			panics[name] = recovered(func() { call(bufs[name]) })
			stats[name] = ReadStats()
		}
	})
	for name, b := range bufs {
		assert.True(t, panics[name] == ErrTooLarge, "%s: %v", name, panics[name])
		assert.Regexp(t, `^mmapbuf: .*: (mmap|mremap): cannot allocate memory$`, stats[name].LastFailure, name)
		assert.Positive(t, stats[name].Failures, name)
		assert.NotNil(t, b.m, name)
		assert.NoError(t, invariants(b))
		requireContents(t, b, pattern(n, n), name)
	}
	assert.EqualValues(t, len(calls), ReadStats().Failures)
}

// TestFileWriteAfterView writes at the end of contents that a view has moved to
// where there is less room. It panicked for lack of memory, with the offset
// advanced.
func TestFileWriteAfterView(t *testing.T) {
	noRace(t)
	needMemory(t, giB)
	writes := map[string]func(f *File, p []byte) (int, error){
		"Write":       (*File).Write,
		"WriteString": func(f *File, p []byte) (int, error) { return f.WriteString(string(p)) },
		"ReadFrom": func(f *File, p []byte) (int, error) {
			n, err := f.ReadFrom(struct{ io.Reader }{bytes.NewReader(p)})
			return int(n), err
		},
	}
	for name, write := range writes {
		t.Run(name, func(t *testing.T) {
			if !inChild(t) {
				return
			}
			const n = 102 * miB // whole units, so that the view has no room
			b := new(Buffer)
			b.Grow(300 * miB)
			fill(b, 1, n)
			f := atItsEnd(b)
			var view []byte
			withRoom(t, 192*miB, func() { view = b.Bytes() })
			require.Equal(t, n, cap(view), "there was memory for spare capacity")
			require.False(t, b.current())
			var k int
			var err error
			var panicked any
			withRoom(t, 0, func() {
				panicked = recovered(func() { k, err = write(f, noise()[:1000]) })
			})
			require.Nil(t, panicked)
			require.ErrorIs(t, err, ErrTooLarge)
			require.ErrorIs(t, err, unix.ENOMEM)
			require.ErrorAs(t, err, new(*fs.PathError))
			require.Zero(t, k)
			off, err := f.Seek(0, io.SeekCurrent)
			require.NoError(t, err)
			require.EqualValues(t, n, off)
			require.Equal(t, n, b.Len())
			require.NoError(t, still(view, 1, n))
		})
	}
}

// TestStale uses a Buffer whose storage was released, or moved, by way of a copy. A
// File of it found no contents to write or to cut, and no error.
func TestStale(t *testing.T) {
	require.Contains(t, errStale.Error(), "another goroutine")
	require.Contains(t, errStale.Error(), "a copy of the Buffer")
	one := []byte("x")
	panics := map[string]func(b *Buffer){
		"String":          func(b *Buffer) { _ = b.String() },
		"Bytes":           func(b *Buffer) { b.Bytes() },
		"Peek":            func(b *Buffer) { _, _ = b.Peek(10) },
		"Peek all":        func(b *Buffer) { _, _ = b.Peek(3 * miB) },
		"Next":            func(b *Buffer) { b.Next(10) },
		"AvailableBuffer": func(b *Buffer) { b.AvailableBuffer() },
		"Write":           func(b *Buffer) { _, _ = b.Write(one) },
		"Read":            func(b *Buffer) { _, _ = b.Read(make([]byte, 1)) },
		"ReadByte":        func(b *Buffer) { _, _ = b.ReadByte() },
		"ReadFrom":        func(b *Buffer) { _, _ = b.ReadFrom(loop) },
		"WriteTo":         func(b *Buffer) { _, _ = b.WriteTo(io.Discard) },
		"Truncate":        func(b *Buffer) { b.Truncate(1) },
	}
	fails := map[string]func(b *Buffer) error{
		"ReadAt":                func(b *Buffer) error { _, err := b.ReadAt(make([]byte, 1), 0); return err },
		"WriteAt":               func(b *Buffer) error { _, err := b.WriteAt(one, 0); return err },
		"WriteAt, far":          func(b *Buffer) error { _, err := b.WriteAt(one, 9*miB); return err },
		"File.Read":             func(b *Buffer) error { _, err := NewFile(b).Read(make([]byte, 1)); return err },
		"File.ReadAt":           func(b *Buffer) error { _, err := NewFile(b).ReadAt(make([]byte, 1), 5); return err },
		"File.WriteAt":          func(b *Buffer) error { _, err := NewFile(b).WriteAt(one, 5); return err },
		"File.Write":            func(b *Buffer) error { _, err := NewFile(b).Write(one); return err },
		"File.Write at end":     func(b *Buffer) error { _, err := atItsEnd(b).Write(one); return err },
		"File.WriteString":      func(b *Buffer) error { _, err := atItsEnd(b).WriteString("x"); return err },
		"File.ReadFrom":         func(b *Buffer) error { _, err := atItsEnd(b).ReadFrom(loop); return err },
		"File.WriteTo":          func(b *Buffer) error { _, err := NewFile(b).WriteTo(&writer{max: 9 * miB}); return err },
		"File.WriteTo directly": func(b *Buffer) error { _, err := NewFile(b).WriteTo(io.Discard); return err },
		"File.Truncate":         func(b *Buffer) error { return NewFile(b).Truncate(9 * miB) },
		"File.Truncate to less": func(b *Buffer) error { return NewFile(b).Truncate(1) },
		"File.Truncate to 0":    func(b *Buffer) error { return NewFile(b).Truncate(0) },
	}
	for how, lose := range map[string]func(b *Buffer){
		"released": func(b *Buffer) { _ = b.Close() },
		"moved":    func(b *Buffer) { b.Grow(512 * miB) },
	} {
		stale := func(t *testing.T) *Buffer {
			b, _ := mapped(t, 3*miB)
			c := *b
			lose(b)
			require.False(t, c.current())
			return &c
		}
		for name, call := range panics {
			t.Run(how+"/"+name, func(t *testing.T) {
				require.Equal(t, errStale, recovered(func() { call(stale(t)) }))
			})
		}
		for name, call := range fails {
			t.Run(how+"/"+name, func(t *testing.T) {
				var err error
				require.Nil(t, recovered(func() { err = call(stale(t)) }))
				require.ErrorIs(t, err, errStale)
			})
		}
	}
}

// TestWriterReadsWithoutMemory has a Writer, which gets copies because there is not
// enough memory for a view, also read from the Buffer. The rest was lost.
func TestWriterReadsWithoutMemory(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	const n, reads = 64 * miB, 40 * miB
	b, want := mapped(t, n)
	var k int64
	var err error
	took, calls := 0, 0
	withRoom(t, 96*miB, func() { // an arena of the heap, and not enough for a view
		k, err = b.WriteTo(writerFunc(func(p []byte) (int, error) {
			if calls++; calls == 1 {
				_, _ = io.CopyN(io.Discard, struct{ io.Reader }{b}, reads)
			}
			took += len(p)
			return len(p), nil
		}))
	})
	require.Greater(t, calls, 0)
	require.EqualValues(t, took, k)
	if took < n {
		require.True(t, err != nil || b.Len() > 0, "%d bytes were written, %d were read, %d were left, and are gone", took, reads, n-took-reads)
		requireContents(t, b, want[took+reads:])
	}
}

// TestAvailableBufferOfAReservation: if there is not enough memory for all of a
// reservation on the heap, it stays what it was.
func TestAvailableBufferOfAReservation(t *testing.T) {
	noRace(t)
	if !inChild(t) {
		return
	}
	b, want := mapped(t, 3*miB)
	require.NoError(t, b.Reserve(64*giB))
	c := b.Cap()
	require.GreaterOrEqual(t, c, 64*giB)
	var panicked any
	withRoom(t, 2*giB, func() { panicked = recovered(func() { b.AvailableBuffer() }) })
	require.True(t, panicked == ErrTooLarge, "%v", panicked)
	require.Contains(t, ReadStats().LastFailure, "64 GiB: mmap: cannot allocate memory")
	require.Equal(t, c, b.Cap())
	require.NotNil(t, b.m)
	require.True(t, b.current(), "still a mapping")
	requireContents(t, b, want)
	require.NoError(t, invariants(b))
}

// TestForeignSweepOfClobberedMemory has the runtime overwrite what it frees.
func TestForeignSweepOfClobberedMemory(t *testing.T) {
	t.Setenv("GODEBUG", "clobberfree=1")
	if inChild(t) {
		foreignSweep(t, 1)
	}
}

// sealed runs foreign code while no mapping can be accessed, neither those in use
// nor idle memory. It fails if the code does, or panics.
func sealed(t *testing.T, code func()) {
	t.Helper()
	mapping.All(func(mems [][]byte) {
		protect := func(prot int) {
			for _, mem := range mems {
				require.NoError(t, unix.Mprotect(mem, prot))
			}
		}
		require.NotEmpty(t, mems)
		protect(unix.PROT_NONE)
		err := sound(code)
		protect(unix.PROT_READ | unix.PROT_WRITE)
		require.NoError(t, err, "foreign code has a slice of a mapping")
	})
}

// TestForeignCodeHasNoMapping makes mappings inaccessible while a Reader or Writer
// runs, which reads and writes all of the slice that it has.
func TestForeignCodeHasNoMapping(t *testing.T) {
	noIdle(t) // nothing that a collection would free meanwhile
	witness, _ := mapped(t, 3*miB)
	atBothThresholds(t, func(t *testing.T) {
		for _, warm := range []bool{false, true} {
			for _, n := range []int{100 * kiB, 3 * miB, 6 * miB} {
				// of returns a Buffer with n bytes, from idle memory if warm is set.
				of := func(t *testing.T, seed int) *Buffer {
					mapping.Settle()
					if warm {
						var other Buffer
						fill(&other, 9, 16*miB)
						require.NoError(t, other.Close())
						require.Positive(t, ReadStats().IdleBytes)
					}
					b := filledWith(t, seed, n)
					t.Cleanup(func() { _ = b.Close() })
					require.False(t, warm && b.m == nil, "not in a mapping")
					return b
				}
				for name, write := range writesTo {
					t.Run(fmt.Sprintf("%s/warm=%t/%d", name, warm, n), func(t *testing.T) {
						b := of(t, 1)
						var got []byte
						k, err := write(b, writerFunc(func(p []byte) (int, error) {
							sealed(t, func() {
								got = append(got, p...)
								copy(p, got[len(got)-len(p):])
							})
							return len(p), nil
						}))
						require.NoError(t, err)
						require.EqualValues(t, n, k)
						require.NoError(t, still(got, 1, n))
					})
				}
				for name, read := range readsFrom {
					t.Run(fmt.Sprintf("%s/warm=%t/%d", name, warm, n), func(t *testing.T) {
						b, off, want := of(t, 1), 0, pattern(2, n)
						k, err := read(b, reader(func(p []byte) (k int, err error) {
							sealed(t, func() {
								_ = bytes.Clone(p)
								dirty(p)
								k = copy(p, want[off:])
							})
							if off += k; k == 0 {
								err = io.EOF
							}
							return k, err
						}))
						require.NoError(t, err)
						require.EqualValues(t, n, k)
						got := contents(b)
						require.NoError(t, still(got[:n], 1, n))
						require.NoError(t, still(got[n:], 2, n))
						require.NoError(t, invariants(b))
					})
				}
			}
		}
	})
	require.NoError(t, invariants(witness))
}

// connected returns two ends of a connection.
func connected(t *testing.T, network, address string) (client, server net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	defer l.Close()
	client, err = net.Dial(network, l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	server, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { server.Close() })
	return client, server
}

// A receiver is a Writer, and what it has got.
type receiver struct {
	w   io.Writer
	got func() []byte
}

// of makes a constructor of hashes return a hash.Hash.
func of[H hash.Hash](h func() H) func() hash.Hash { return func() hash.Hash { return h() } }

// TestDirectTypes: these Writers get the mapping, and these a view. A release of
// Go that renames a type costs views.
func TestDirectTypes(t *testing.T) {
	setThreshold(t, miB)
	const n = miB + miB/2
	type makes map[string]func(t *testing.T) receiver
	hashed := func(h func() hash.Hash) func(t *testing.T) receiver {
		return func(t *testing.T) receiver {
			x := h()
			return receiver{x, func() []byte { return x.Sum(nil) }}
		}
	}
	file := func(wrap func(f *os.File) io.Writer) func(t *testing.T) receiver {
		return func(t *testing.T) receiver {
			f, err := os.Create(filepath.Join(t.TempDir(), "file"))
			require.NoError(t, err)
			t.Cleanup(func() { f.Close() })
			return receiver{wrap(f), func() []byte { p, _ := os.ReadFile(f.Name()); return p }}
		}
	}
	buffered := func(wrap func(b *bytes.Buffer) io.Writer) func(t *testing.T) receiver {
		return func(t *testing.T) receiver {
			b := new(bytes.Buffer)
			return receiver{wrap(b), b.Bytes}
		}
	}
	ours := func(wrap func(b *Buffer) io.Writer) func(t *testing.T) receiver {
		return func(t *testing.T) receiver {
			b := new(Buffer)
			return receiver{wrap(b), func() []byte { return contents(b) }}
		}
	}
	// through is w, and what comes out of r.
	through := func(w io.Writer, r io.Reader) receiver {
		got := make(chan []byte)
		go func() {
			p := make([]byte, n)
			_, err := io.ReadFull(r, p)
			assert.NoError(t, err)
			got <- p
		}()
		return receiver{w, func() []byte { return <-got }}
	}
	conn := func(network string, wrap func(c net.Conn) io.Writer) func(t *testing.T) receiver {
		return func(t *testing.T) receiver {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "socket")
			}
			client, server := connected(t, network, address)
			return through(wrap(client), server)
		}
	}
	seed := maphash.MakeSeed()
	mapHash := func() hash.Hash {
		h := new(maphash.Hash)
		h.SetSeed(seed)
		return h
	}
	directly := makes{
		"os.File":      file(func(f *os.File) io.Writer { return f }),
		"TCPConn":      conn("tcp", func(c net.Conn) io.Writer { return c }),
		"UnixConn":     conn("unix", func(c net.Conn) io.Writer { return c }),
		"Discard":      func(t *testing.T) receiver { return receiver{io.Discard, func() []byte { return nil }} },
		"bytes.Buffer": buffered(func(b *bytes.Buffer) io.Writer { return b }),
		"strings.Builder": func(t *testing.T) receiver {
			w := new(strings.Builder)
			return receiver{w, func() []byte { return []byte(w.String()) }}
		},
		"Buffer": ours(func(b *Buffer) io.Writer { return b }),
		"File":   ours(func(b *Buffer) io.Writer { return NewFile(b) }),
	}
	for _, h := range []func() hash.Hash{
		md5.New, sha1.New, sha256.New224, sha256.New, sha512.New384, sha512.New, sha512.New512_224, sha512.New512_256,
		of(sha3.New224), of(sha3.New256), of(sha3.New384), of(sha3.New512), of(adler32.New), of(crc32.NewIEEE), mapHash,
		of(fnv.New32), of(fnv.New32a), of(fnv.New64), of(fnv.New64a), fnv.New128, fnv.New128a,
		func() hash.Hash { return crc64.New(crc64.MakeTable(crc64.ISO)) },
	} {
		directly[fmt.Sprintf("%T of %d", h(), h().Size())] = hashed(h)
	}
	type file2 struct{ *os.File }
	type file3 struct{ os.File }
	byView := makes{
		"bufio.Writer": func(t *testing.T) receiver {
			var o bytes.Buffer
			w := bufio.NewWriter(&o)
			return receiver{w, func() []byte { _ = w.Flush(); return o.Bytes() }}
		},
		"bufio.ReadWriter": buffered(func(b *bytes.Buffer) io.Writer {
			return bufio.NewReadWriter(nil, bufio.NewWriterSize(b, 16))
		}),
		"MultiWriter":  buffered(func(b *bytes.Buffer) io.Writer { return io.MultiWriter(b, sha256.New()) }),
		"one Writer":   buffered(func(b *bytes.Buffer) io.Writer { return io.MultiWriter(b) }),
		"one's own":    buffered(func(b *bytes.Buffer) io.Writer { return writerFunc(b.Write) }),
		"OffsetWriter": file(func(f *os.File) io.Writer { return io.NewOffsetWriter(f, 0) }),
		"hmac":         hashed(func() hash.Hash { return hmac.New(sha256.New, []byte("key")) }),
		"shake": func(t *testing.T) receiver {
			h := sha3.NewSHAKE128()
			return receiver{h, func() []byte { p := make([]byte, 32); _, _ = h.Read(p); return p }}
		},
		"gzip": func(t *testing.T) receiver {
			var o bytes.Buffer
			w := gzip.NewWriter(&o)
			return receiver{w, func() []byte { _ = w.Close(); return o.Bytes() }}
		},
		"struct of *os.File":  file(func(f *os.File) io.Writer { return file2{f} }),
		"pointer to a struct": file(func(f *os.File) io.Writer { return &file2{f} }),
		"struct of os.File":   file(func(f *os.File) io.Writer { return &file3{*f} }), // shares the descriptor
		"struct of a conn":    conn("tcp", func(c net.Conn) io.Writer { return struct{ net.Conn }{c} }),
		"struct of a hash": func(t *testing.T) receiver {
			s := hashed(sha256.New)(t)
			return receiver{struct{ io.Writer }{s.w}, s.got}
		},
		"PipeWriter": func(t *testing.T) receiver { r, w := io.Pipe(); return through(w, r) },
		"ResponseWriter": func(t *testing.T) receiver {
			w := httptest.NewRecorder()
			return receiver{w, func() []byte { return w.Body.Bytes() }}
		},
	}
	want := pattern(n, n)
	check := func(t *testing.T, mk func(t *testing.T) receiver, direct bool) {
		same := mk(t) // which gets Go memory
		_, err := same.w.Write(want)
		require.NoError(t, err)
		right := same.got()
		for name, write := range writesTo {
			if strings.HasPrefix(name, "io.Copy") && testing.Short() {
				continue
			}
			b, _ := mapped(t, n)
			mem, was := &b.m.Inspect().Mem[0], ReadStats()
			s := mk(t)
			k, err := write(b, s.w)
			require.NoError(t, err, name)
			require.EqualValues(t, n, k, name)
			require.NoError(t, diffBytes(s.got(), right), name)
			_, waits := s.w.(net.Conn)
			if direct && !(waits && strings.Contains(name, "File")) {
				require.Equal(t, was.Views, ReadStats().Views, name)
				require.NotNil(t, b.m, name)
				require.True(t, b.current(), name)
				require.Same(t, mem, &b.m.Inspect().Mem[0], name)
			} else {
				require.Equal(t, was.Views+1, ReadStats().Views, name)
				require.True(t, b.m == nil || !b.current(), name)
			}
			require.NoError(t, b.Close())
		}
	}
	for direct, all := range map[bool]makes{true: directly, false: byView} {
		for name, mk := range all {
			t.Run(fmt.Sprintf("%s/direct=%t", name, direct), func(t *testing.T) { check(t, mk, direct) })
		}
	}
	require.Len(t, directWriters, 6+15, "a type without a test")
}

// TestDirectToTheSameMapping writes a Buffer to itself, to a File of it, and to a
// copy of it: what is written would change or move what is read.
func TestDirectToTheSameMapping(t *testing.T) {
	b, want := mapped(t, 5*miB)
	c := *b
	for name, w := range map[string]io.Writer{
		"itself":         b,
		"a File":         atItsEnd(b),
		"a copy":         &c,
		"File of a copy": NewFile(&c),
		"nil Buffer":     (*Buffer)(nil),
		"nil File":       (*File)(nil),
		"closed File":    new(File),
	} {
		require.False(t, direct(w) || fromCopies(w, b.m), name)
	}
	was := ReadStats().Views
	n, err := NewFile(b).WriteTo(atItsEnd(b))
	require.NoError(t, err)
	require.EqualValues(t, len(want), n)
	require.Equal(t, was+1, ReadStats().Views)
	requireContents(t, b, append(want, want...))
	_, err = b.WriteTo((*File)(nil))
	require.True(t, errors.Is(err, os.ErrInvalid))
}

// TestDirectFiles: the kernel reads regular files to the mapping, also for io.Copy,
// which hides their type, and nothing else.
func TestDirectFiles(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(noise())
	require.NoError(t, err)
	var passed io.Reader
	_, err = io.Copy(struct {
		io.Writer
		readerFrom
	}{nil, func(r io.Reader) (int64, error) { passed = r; return 0, nil }}, f)
	require.NoError(t, err)
	require.Same(t, f, directFile(passed), "what io.Copy passes: %T", passed)
	for name, read := range map[string]func(b *Buffer) (int64, error){
		"ReadFrom": func(b *Buffer) (int64, error) { return b.ReadFrom(f) },
		"io.Copy":  func(b *Buffer) (int64, error) { return io.Copy(b, f) },
	} {
		_, err := f.Seek(0, io.SeekStart)
		require.NoError(t, err)
		var b Buffer
		n, err := read(&b)
		require.NoError(t, err, name)
		require.EqualValues(t, len(noise()), n)
		requireContents(t, &b, noise())
		require.NoError(t, b.Close())
	}
	for name, r := range map[string]io.Reader{
		"struct":   struct{ *os.File }{f},
		"LimitedR": io.LimitReader(f, 10),
		"nil":      (*os.File)(nil),
		"bytes":    bytes.NewReader(nil),
		"not a file": struct {
			File int
			io.Reader
		}{},
	} {
		require.Nil(t, directFile(r), name)
	}
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	require.Nil(t, directFile(r), "a pipe")
}

type readerFrom func(r io.Reader) (int64, error)

func (f readerFrom) ReadFrom(r io.Reader) (int64, error) { return f(r) }

// Others may write to a file as well, so the contents are written in one call.
func TestWriteToFileIsOneCall(t *testing.T) {
	calls := func() (n int) {
		s, _ := os.ReadFile("/proc/self/io")
		_, after, ok := strings.Cut(string(s), "syscw: ")
		if !ok {
			t.Skip("the kernel does not count calls")
		}
		_, err := fmt.Sscan(after, &n)
		require.NoError(t, err)
		return n
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	require.NoError(t, err)
	defer f.Close()
	var b Buffer
	defer b.Close()
	fill(&b, 1, 6*directMax)
	require.NotNil(t, b.m)
	before := calls()
	_, err = b.WriteTo(f)
	require.NoError(t, err)
	require.Less(t, calls(), before+6) // the runtime may call write(2) as well
}
