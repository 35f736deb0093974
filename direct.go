package mmapbuf

import (
	"io"
	"os"
	"reflect"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
)

// Only this package and the kernel access the memory of a mapping: a Reader
// fills Go memory, which is then appended, and a Writer gets a view. This file
// has the exceptions. They are concrete types of which it is known that they
// neither keep a slice beyond the call nor call anything that the program has
// supplied. Types that pass a slice on are not among them: bufio.Writer,
// io.MultiWriter, compressors, tls.Conn, hmac. Nor are the ResponseWriters of
// net/http: both pass a large slice on, to a net.Conn that the program's
// net.Listener may have made, or to the goroutine that writes the frames of a
// connection and outlives the call.

// directWriters are the types of Writers that WriteTo gives the memory of a
// mapping. They are pointers, unless "value" is set. The import path of a
// package of the standard library identifies it, and a type that is missing
// here, or was renamed, costs a view.
var directWriters = map[typeName]struct{ value bool }{
	// write(2), in a loop.
	{"os", "File"}:      {},
	{"net", "TCPConn"}:  {},
	{"net", "UnixConn"}: {},

	// Do nothing, or copy.
	{"io", "discard"}:      {value: true},
	{"bytes", "Buffer"}:    {},
	{"strings", "Builder"}: {},

	// Hashes have a state and at most a block of the data.
	{"crypto/md5", "digest"}:                     {},
	{"crypto/sha1", "digest"}:                    {},
	{"crypto/internal/fips140/sha256", "Digest"}: {},
	{"crypto/internal/fips140/sha512", "Digest"}: {},
	{"crypto/sha3", "SHA3"}:                      {},
	{"hash/adler32", "digest"}:                   {},
	{"hash/crc32", "digest"}:                     {},
	{"hash/crc64", "digest"}:                     {},
	{"hash/fnv", "sum32"}:                        {},
	{"hash/fnv", "sum32a"}:                       {},
	{"hash/fnv", "sum64"}:                        {},
	{"hash/fnv", "sum64a"}:                       {},
	{"hash/fnv", "sum128"}:                       {},
	{"hash/fnv", "sum128a"}:                      {},
	{"hash/maphash", "Hash"}:                     {},
}

type typeName struct{ pkg, name string }

// direct reports whether w may be given the memory of a mapping during a call of
// Write, which holds the lock of the mapping.
func direct(w io.Writer) bool {
	if w == nil {
		return false
	}
	t := reflect.TypeOf(w)
	value := t.Kind() != reflect.Pointer
	if !value {
		t = t.Elem()
	}
	d, ok := directWriters[typeName{t.PkgPath(), t.Name()}]
	return ok && d.value == value
}

// fromCopies reports whether w is better given copies of parts of the contents of m
// than a view: if it copies them, but takes locks that come before that of m.
func fromCopies(w io.Writer, m *mapping.Mapping) bool {
	var b *Buffer
	switch w := w.(type) {
	case *Buffer:
		b = w
	case *File:
		if w != nil {
			b = w.b.Load()
		}
	case onlyWriter:
		b = w.f.b.Load()
	}
	return b != nil && b.m != m // else, it would write to what it is given parts of
}

// mayWait reports whether a call of Write, of a Writer that direct accepts, may
// take as long as somebody else likes. It holds the lock of the mapping, for which
// Close and the first view would have to wait.
func mayWait(w io.Writer) bool {
	if f, ok := w.(*os.File); ok {
		return directFile(f) == nil
	}
	t := reflect.TypeOf(w)
	return t.Kind() == reflect.Pointer && t.Elem().PkgPath() == "net"
}

// directFile returns r if it is a regular file, which the kernel may read to the
// memory of a mapping. It returns nil for pipes and terminals, too: a call of
// Read holds the lock of the mapping and should not wait for long.
func directFile(r io.Reader) *os.File {
	f, ok := r.(*os.File)
	if !ok {
		f = copiedFile(r)
	}
	if f == nil {
		return nil
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil
	}
	return f
}

// copiedFile returns the file that io.Copy reads if r is what it passes to
// ReadFrom then: a struct of package os that hides WriteTo of the file.
func copiedFile(r io.Reader) *os.File {
	v := reflect.ValueOf(r)
	if v.Kind() != reflect.Struct || v.Type().PkgPath() != "os" {
		return nil
	}
	v = v.FieldByName("File")
	if !v.IsValid() || !v.CanInterface() {
		return nil
	}
	f, _ := v.Interface().(*os.File)
	return f
}
