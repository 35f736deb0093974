// Package filetest compares the Files of this module with an [os.File]: it takes
// both through the same steps. Only tests import it.
package filetest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// A File is what an os.File and the Files that are compared with it have in common.
type File interface {
	io.ReadWriteSeeker
	io.ReaderAt
	io.WriterAt
	io.StringWriter
	io.ReaderFrom
	io.WriterTo
	io.Closer
	Truncate(size int64) error
}

// A Sized is a File to be compared.
type Sized interface {
	File
	Size() int64
	Len() int
}

// Contents are what is compared with what an os.File has on disk.
type Contents interface {
	io.ReaderAt
	Size() int64
}

// A Subject has what differs between the kinds of Files.
type Subject interface {
	// Open returns new Files of the same contents, start, each with offset 0.
	// Those that it returned before are no longer used. The number of Files is
	// always the same. If contents is nil, Close ends the contents.
	Open(start string) (files []Sized, contents Contents, err error)

	// Check says what is wrong with the Subject after a step, other than what
	// an os.File shows. The step has changed the size from was to is, or the
	// first of the Files is closed.
	Check(was, is int64, closed bool) error
}

// A Pair takes the Files of a Subject, and as many os.Files of one name, through
// the same steps.
type Pair struct {
	subject  Subject
	got      []Sized
	contents Contents

	path string
	want []*os.File
	look *os.File // to look at want without its offset, also after Close
	size int64    // of want

	at    int // which of the Files the steps are for
	steps []string
}

// New returns a Pair with empty contents.
func New(t testing.TB, x Subject) *Pair {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("os.File accepts other offsets there, and reports other errors")
	}
	p := &Pair{subject: x, path: filepath.Join(t.TempDir(), "want")}
	t.Cleanup(func() {
		_ = p.look.Close()
		for i, f := range p.want {
			_ = f.Close()
			_ = p.got[i].Close()
		}
	})
	require.NoError(t, p.Reset(""))
	return p
}

// Reset makes start the contents and all offsets 0. It reuses the os.Files, since
// to open a file takes as long as many steps do.
func (p *Pair) Reset(start string) (err error) {
	for _, f := range p.got {
		_ = f.Close()
	}
	if p.got, p.contents, err = p.subject.Open(start); err != nil {
		return err
	}
	if p.want == nil {
		p.want = make([]*os.File, len(p.got))
	}
	for i, f := range p.want {
		if f == nil || isClosed(f) {
			if p.want[i], err = os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
				return err
			}
		}
		if _, err = p.want[i].Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	if p.look == nil {
		if p.look, err = os.Open(p.path); err != nil {
			return err
		}
	}
	p.at, p.steps, p.size = 0, p.steps[:0], int64(len(start))
	_, err = p.want[0].WriteAt([]byte(start), 0)
	return errors.Join(err, p.want[0].Truncate(p.size))
}

// Closed reports whether one of the Files is closed.
func (p *Pair) Closed() bool {
	for _, f := range p.want {
		if isClosed(f) {
			return true
		}
	}
	return false
}

func isClosed(f *os.File) bool {
	_, err := f.Stat()
	return errors.Is(err, os.ErrClosed)
}

// Step does o with both Files, and compares results and state.
func (p *Pair) Step(o Op) error {
	p.steps = append(p.steps, o.Name)
	if err := p.step(o); err != nil {
		n := max(0, len(p.steps)-12)
		return fmt.Errorf("step %d of %s: %w", len(p.steps), strings.Join(p.steps[n:], ", "), err)
	}
	return nil
}

func (p *Pair) step(o Op) error {
	if o.Run == nil {
		p.at = (p.at + 1) % len(p.got)
		return nil
	}
	want, got := p.want[p.at], p.got[p.at]
	start, _ := got.Seek(0, io.SeekCurrent)
	res, wantRes := o.Run(got), o.Run(want)
	err := diffError(res.Err, wantRes.Err)
	switch {
	case err != nil:
		return err
	case res.N != wantRes.N:
		return fmt.Errorf("n = %d, want %d", res.N, wantRes.N)
	}
	if err := Diff(res.P, wantRes.P); err != nil {
		return err
	}
	if o.moves && !isClosed(want) {
		if _, err := want.Seek(start+wantRes.N, io.SeekStart); err != nil {
			return err
		}
	}
	return p.check()
}

// diffError says how err is of another kind than that of an os.File.
func diffError(err, want error) error {
	var is, as *fs.PathError
	same := err == want
	switch {
	case !errors.As(want, &as) || same:
	case !errors.As(err, &is) || is.Op != as.Op:
		same = false
	case errors.Is(want, os.ErrClosed):
		same = errors.Is(err, os.ErrClosed) && !errors.Is(err, os.ErrInvalid)
	default: // EINVAL, or a text of package os alone
		same = errors.Is(err, os.ErrInvalid) && !errors.Is(err, os.ErrClosed)
	}
	if !same {
		return fmt.Errorf("error %#v, want %#v", err, want)
	}
	return nil
}

// check compares offsets, sizes and samples of the contents.
func (p *Pair) check() error {
	info, err := p.look.Stat()
	if err != nil {
		return err
	}
	was := p.size
	p.size = info.Size()
	for i, want := range p.want {
		got := p.got[i]
		n, err := got.Seek(0, io.SeekCurrent)
		wantN, wantErr := want.Seek(0, io.SeekCurrent)
		if n != wantN || diffError(err, wantErr) != nil {
			return fmt.Errorf("offset %d, %v, want %d, %v", n, err, wantN, wantErr)
		}
		size := p.size
		if wantErr != nil {
			size = 0
		}
		if got.Size() != size {
			return fmt.Errorf("Size() = %d, want %d", got.Size(), size)
		}
		if left := int(min(max(size-n, 0), math.MaxInt)); got.Len() != left {
			return fmt.Errorf("Len() = %d, want %d", got.Len(), left)
		}
	}
	if err := p.subject.Check(was, p.size, isClosed(p.want[0])); err != nil {
		return err
	}
	const sample = 4 << 10
	some := int64(uint64(len(p.steps)) * 0x9e3779b97f4a7c15 % uint64(p.size+1))
	for _, off := range []int64{0, some, p.size - sample} {
		if err := p.compare(max(off, 0), sample); err != nil {
			return err
		}
		if p.size < sample {
			break
		}
	}
	return nil
}

// compare compares n bytes at off, and the sizes.
func (p *Pair) compare(off int64, n int) error {
	c := p.contents
	if c == nil {
		if c = p.got[0]; isClosed(p.want[0]) {
			return nil
		}
	}
	if c.Size() != p.size {
		return fmt.Errorf("%d bytes, want %d", c.Size(), p.size)
	}
	got, want := make([]byte, n), make([]byte, n)
	m, err := c.ReadAt(got, off)
	wantM, wantErr := p.look.ReadAt(want, off)
	if err != wantErr {
		return fmt.Errorf("ReadAt(%d bytes, %d): %v, want %v", n, off, err, wantErr)
	}
	return Diff(got[:m], want[:wantM])
}

// Compare compares all of the contents.
func (p *Pair) Compare() error { return p.compare(0, int(p.size)+1) }

// Sequences runs every sequence of n of the ops, each with the contents start.
func (p *Pair) Sequences(t *testing.T, start string, ops []Op, n int) {
	t.Helper()
	all := 1
	for range n {
		all *= len(ops)
	}
	for i := range all {
		require.NoError(t, p.Reset(start))
		for k, left := 0, i; k < n; k, left = k+1, left/len(ops) {
			if err := p.Step(ops[left%len(ops)]); err != nil { // require takes time, too
				require.NoError(t, err)
			}
		}
	}
}

// Noise is data that shows every misplaced byte. It has no zeros.
var Noise = sync.OnceValue(func() []byte {
	p := make([]byte, 6<<20)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	for i, c := range p {
		p[i] = max(c, 1)
	}
	return p
})

// Diff says from where on p is not what it should be.
func Diff(p, want []byte) error {
	if bytes.Equal(p, want) {
		return nil
	}
	i := 0
	for i < len(p) && i < len(want) && p[i] == want[i] {
		i++
	}
	around := func(p []byte) []byte { return p[max(0, i-8):min(len(p), i+24)] }
	return fmt.Errorf("%d bytes, want %d; they differ from [%d] on: ...%q, want ...%q",
		len(p), len(want), i, around(p), around(want))
}
