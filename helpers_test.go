package mmapbuf

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/filetest"
	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/proctest"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

const (
	kiB = vm.KiB
	miB = vm.MiB
	giB = vm.GiB
)

// TestMain lets CI run all tests a second time with all storage mapped:
// MMAPBUF_TEST_THRESHOLD, a number of bytes, replaces mapThreshold.
// With 1 a Buffer maps whatever storage it does not get through NewBuffer.
func TestMain(m *testing.M) {
	if s := os.Getenv("MMAPBUF_TEST_THRESHOLD"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			fmt.Fprintln(os.Stderr, "MMAPBUF_TEST_THRESHOLD:", err)
			os.Exit(2)
		}
		mapThreshold = n
	}
	os.Exit(m.Run())
}

// long is set where MMAPBUF_TEST_LONG is.
var long = os.Getenv("MMAPBUF_TEST_LONG") != ""

// byLength returns how much a test does: the least with -short, the most with
// MMAPBUF_TEST_LONG.
func byLength[T any](short, normal, most T) T {
	switch {
	case testing.Short():
		return short
	case long:
		return most
	}
	return normal
}

// testSeed returns what MMAPBUF_TEST_SEED says, or a seed of now, and logs it.
func testSeed(t *testing.T) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if env := os.Getenv("MMAPBUF_TEST_SEED"); env != "" {
		n, err := strconv.ParseUint(env, 10, 64)
		require.NoError(t, err, "MMAPBUF_TEST_SEED")
		seed = n
	}
	t.Logf("MMAPBUF_TEST_SEED=%d", seed)
	return seed
}

func setThreshold(t testing.TB, n int) {
	t.Helper()
	old := mapThreshold
	mapThreshold = n
	t.Cleanup(func() { mapThreshold = old })
}

// atBothThresholds runs f with the storage that the size asks for and with
// all of it mapped. As mapThreshold is global, no test runs beside this one.
func atBothThresholds(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for _, n := range []int{mapThreshold, 1} {
		t.Run(fmt.Sprintf("threshold=%d", n), func(t *testing.T) {
			setThreshold(t, n)
			f(t)
		})
	}
}

// atSizes runs f with a size below the default threshold and one above.
func atSizes(t *testing.T, f func(t *testing.T, n int)) {
	t.Helper()
	for _, n := range []int{100, 3 << 20} {
		t.Run(fmt.Sprintf("size=%d", n), func(t *testing.T) { f(t, n) })
	}
}

// setUnit replaces vm.Unit for the length of a test. There are no mappings then, nor
// pages that could come back, of units of another size.
func setUnit(t testing.TB, n int) {
	t.Helper()
	old := vm.Unit
	none := func() {
		for range 1000 {
			if mapping.Counters.Mappings.Load() == 0 {
				break
			}
			runtime.GC()
			time.Sleep(time.Millisecond)
		}
		require.Zero(t, mapping.Counters.Mappings.Load())
		mapping.Settle()
	}
	t.Cleanup(func() {
		none()
		vm.Unit = old
	})
	none()
	vm.Unit = func() int { return n }
}

func needMemory(t testing.TB, n int64) {
	t.Helper()
	proctest.NeedMemory(t, n)
}

// The helpers that the tests of package spool have, too.
var (
	noise     = filetest.Noise
	diffBytes = filetest.Diff
	errTest   = filetest.ErrTest
)

type (
	reader     = filetest.ReaderFunc
	writerFunc = filetest.WriterFunc
)

const piece = 64 * kiB

// pieceOf returns the k-th piece of what fill writes.
func pieceOf(seed, k int) []byte {
	p := noise()
	i := (seed*7919 + k*4099) % (len(p) - piece)
	return p[i : i+piece]
}

// fill appends n bytes, in pieces, that depend on seed. It takes no interface,
// for which b would escape.
func fill(b *Buffer, seed, n int) {
	for k := 0; n > 0; k++ {
		p := pieceOf(seed, k)
		p = p[:min(n, len(p))]
		_, _ = b.Write(p)
		n -= len(p)
	}
}

// isFilled reports whether p is what fill wrote from offset off on.
func isFilled(p []byte, seed, off int) bool {
	for len(p) > 0 {
		q := pieceOf(seed, off/piece)[off%piece:]
		q = q[:min(len(p), len(q))]
		if !bytes.Equal(q, p[:len(q)]) {
			return false
		}
		p, off = p[len(q):], off+len(q)
	}
	return true
}

// pattern returns n bytes as fill writes them.
func pattern(seed, n int) []byte {
	p := make([]byte, 0, n)
	for k := 0; len(p) < n; k++ {
		p = append(p, pieceOf(seed, k)[:min(piece, n-len(p))]...)
	}
	return p
}

// filled returns a zero Buffer with n bytes of noise written to it.
func filled(t testing.TB, n int) *Buffer {
	t.Helper()
	b := new(Buffer)
	writeAllOf(t, b, noise()[:n])
	return b
}

// writeAllOf writes s to b, which must take all of it.
func writeAllOf[T ~string | ~[]byte](t testing.TB, b *Buffer, s T) {
	t.Helper()
	n, err := b.Write([]byte(s))
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

// contents returns a copy: Bytes would publish a mapping.
func contents(b *Buffer) []byte {
	s := b.String()
	return []byte(s)
}

// requireContents compares without a diff of megabytes and without a view.
func requireContents(t testing.TB, b *Buffer, want []byte, msg ...any) {
	t.Helper()
	require.Equal(t, len(want), b.Len(), msg...)
	require.NoError(t, diffBytes(contents(b), want), msg...)
}

// caught runs f. A panic is as good as an error. If it is with ErrTooLarge, which
// must not be wrapped, caught returns the details, if there are any.
func caught(f func() error) (err error, panicked bool) {
	failures := stats.failures.Load()
	defer func() {
		switch v := recover().(type) {
		case nil:
		case error:
			err, panicked = v, true
			if v == ErrTooLarge && stats.failures.Load() > failures {
				err = stats.lastFailure.Load()
			} else if v != ErrTooLarge && errors.Is(v, ErrTooLarge) {
				err = fmt.Errorf("a panic with a wrapped error: %v", v)
			}
		default:
			err, panicked = fmt.Errorf("%v", v), true
		}
	}()
	return f(), false
}

// bits returns 1<<n, or the largest int where that is not one.
func bits(n uint) int {
	if n >= strconv.IntSize-1 {
		return math.MaxInt
	}
	return 1 << n
}

func expect(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// dirty makes p what must not show through.
func dirty(p []byte) {
	for i := range min(len(p), 64) {
		p[i] = 0xff
	}
	for n := 64; n < len(p); n *= 2 { // faster, above all with the race detector
		copy(p[n:], p[:n])
	}
}

// loop is a reader without an end; a limit keeps its defects affordable.
var loop = reader(func(p []byte) (int, error) { return copy(p, noise()), nil })

// A writer is an io.Writer that takes no more than max bytes of a Write
// and reports lie bytes more than it took.
type writer struct {
	max, lie int
	err      error
	took     []byte
	calls    rune
}

func (w *writer) Write(p []byte) (int, error) {
	p = p[:min(len(p), w.max)]
	w.took = append(w.took, p...)
	w.calls++
	return len(p) + w.lie, w.err
}
