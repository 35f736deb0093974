package mmapbuf

import (
	"errors"
	"fmt"
	"math"
	"strconv"
)

// maxLenError counts and returns the error of an operation that would add n
// bytes and exceed MaxLen.
func (b *Buffer) maxLenError(n int) error {
	stats.refusals.Add(1)
	return &maxLenError{len: b.Len(), n: n, max: b.MaxLen}
}

var errNegativeReserve = errors.New("mmapbuf: Reserve: negative count")

// A memoryError reports that an operation failed because the system refused a
// call. It wraps ErrTooLarge and the error of the call.
type memoryError struct {
	what string
	err  error
}

func (e *memoryError) Error() string   { return "mmapbuf: " + e.what + ": " + e.err.Error() }
func (e *memoryError) Unwrap() []error { return []error{ErrTooLarge, e.err} }

// newMemoryError counts and returns the error of an operation, described by
// what, to which the system has refused memory with err.
func newMemoryError(what string, err error) error {
	e := &memoryError{what, err}
	stats.failures.Add(1)
	stats.lastFailure.Store(e)
	return e
}

// panicFor panics for err, of a method that bytes.Buffer has as well: with
// ErrTooLarge itself if err wraps it, because programs compare what they
// recover.
func panicFor(err error) {
	if errors.Is(err, ErrTooLarge) {
		err = ErrTooLarge
	}
	panic(err)
}

// A maxLenError reports that n more bytes would exceed MaxLen. It wraps
// ErrTooLarge.
type maxLenError struct{ len, n, max int }

func (e *maxLenError) Error() string {
	return fmt.Sprintf("mmapbuf: %d bytes and %d more exceed MaxLen %d", e.len, e.n, e.max)
}

func (e *maxLenError) Unwrap() error { return ErrTooLarge }

// sizeString formats n bytes in the largest binary unit that does not exceed n.
func sizeString(n int) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	x, u := float64(n), 0
	for x >= 1024 && u < len(units)-1 {
		x, u = x/1024, u+1
	}
	return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) + " " + units[u]
}
