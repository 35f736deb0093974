package mmapbuf

import (
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/mmapbuf/mmapbuf/internal/mapping"
	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// A Limit bounds the memory that a number of Buffers use together. Set the field
// Limit of each of them to it. A program can have several, for example one for each
// tenant. All methods may be called concurrently.
//
// A Limit counts the capacity of slices, and of mappings what was written or reserved
// with Grow, in whole pages (of 2 MiB on most machines), including gaps that WriteAt
// leaves. A view counts while it is the storage of its Buffer, and not when only the
// program refers to it. Idle memory, which the kernel may reclaim, does not count.
//
// If a Buffer needs more than the Limit leaves, it first collects garbage, in case that
// other Buffers of the Limit have become unreachable, but not within a second after a
// collection that has found less than a sixteenth of the Limit, or less if that was
// quick. Then the same happens as with MaxLen: Write, WriteString, WriteByte, ReadFrom
// and the same methods of a File store as much as fits; WriteRune, WriteAt, Reserve and
// Truncate of a File change nothing; all of them return an error that wraps
// [ErrTooLarge]. Grow panics with ErrTooLarge.
//
// Close returns the share of a Buffer at once, and Shrink what it releases. Buffers
// that are not closed return it when the collector has found them unreachable. While a
// Buffer copies its contents to larger storage, the old storage does not count.
//
// [NewLimit] creates a Limit; the zero Limit is one of 0 bytes. The first write of a
// Buffer with a Limit takes about 2 µs.
type Limit struct {
	max        int64
	used       atomic.Int64
	collecting sync.Mutex
	begun      atomic.Int64 // collections
	found      atomic.Int64 // bytes of accounts that were ended
	again      time.Time    // not before, because the last has found little; under collecting

	mu     sync.Mutex
	shares map[*account]weak.Pointer[share]
}

// NewLimit returns a Limit of n bytes. If n is negative, it is 0, and Buffers of the
// Limit cannot have contents.
func NewLimit(n int64) *Limit {
	return &Limit{max: max(n, 0)}
}

// Max returns the limit in bytes.
func (l *Limit) Max() int64 { return l.max }

// Used returns how many bytes the Buffers of the Limit use. It is never more than
// Max.
func (l *Limit) Used() int64 { return l.used.Load() }

// take adds n bytes to what is used, or reports false if they are too many.
func (l *Limit) take(n int64) bool {
	for {
		used := l.used.Load()
		if n > l.max-used {
			return false
		}
		if l.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
}

// A share is what a Buffer, with its copies by value, uses of a Limit. When it is
// unreachable, the account goes back to the Limit.
type share struct{ *account }

type account struct {
	limit *Limit
	held  atomic.Int64 // bytes; changed by the Buffer, or if that is unreachable
}

func (l *Limit) newShare() *share {
	s := &share{&account{limit: l}}
	runtime.AddCleanup(s, (*account).end, s.account)
	l.mu.Lock()
	if l.shares == nil {
		l.shares = make(map[*account]weak.Pointer[share])
	}
	l.shares[s.account] = weak.Make(s)
	l.mu.Unlock()
	return s
}

// end returns all of the account.
func (a *account) end() {
	a.limit.found.Add(a.held.Load())
	a.lower(0)
	a.limit.mu.Lock()
	delete(a.limit.shares, a)
	a.limit.mu.Unlock()
}

// raise makes the account at least n bytes, or reports false.
func (a *account) raise(n int64) bool {
	more := n - a.held.Load()
	if more <= 0 {
		return true
	}
	if !a.limit.take(more) {
		return false
	}
	a.held.Add(more)
	return true
}

// lower makes the account at most n bytes.
func (a *account) lower(n int64) {
	for {
		held := a.held.Load()
		if held <= n {
			return
		}
		if a.held.CompareAndSwap(held, n) {
			a.limit.used.Add(n - held)
			return
		}
	}
}

// collect runs the collector and ends the accounts of Buffers that it has found
// unreachable. The caller must not hold locks.
func (l *Limit) collect() {
	before := l.begun.Load()
	l.collecting.Lock()
	defer l.collecting.Unlock()
	if l.begun.Load() > before {
		return // another goroutine, which has waited too, has found all that this one would find
	}
	// The time of the system, not that of a bubble of testing/synctest.
	start, found := vm.Time(), l.found.Load()
	if wait := l.again.Sub(start); 0 < wait && wait <= pauseMax { // more if the clock was set back
		return
	}
	l.begun.Add(1)
	mapping.Collect()
	var dead []*account
	l.mu.Lock()
	for a, s := range l.shares {
		if s.Value() == nil {
			dead = append(dead, a)
		}
	}
	l.mu.Unlock()
	for _, a := range dead {
		a.end()
	}
	if l.found.Load()-found <= l.max/16 {
		// A program whose Buffers are in use shall not spend its time on it.
		now := vm.Time()
		l.again = now.Add(min(20*now.Sub(start), pauseMax))
	}
}

// pauseMax is the longest time without a collection after one that has found little.
const pauseMax = time.Second

// A limitError reports that n more bytes would exceed a Limit. It wraps ErrTooLarge.
type limitError struct {
	limit  *Limit
	used   int64
	len, n int
}

func (e *limitError) Error() string {
	return fmt.Sprintf("mmapbuf: %d bytes and %d more exceed the Limit of %s, of which %s are used",
		e.len, e.n, sizeString(toInt(e.limit.max)), sizeString(toInt(e.used)))
}

func (e *limitError) Unwrap() error { return ErrTooLarge }

func isLimit(err error) bool {
	_, ok := err.(*limitError)
	return ok
}

// hasCollected collects garbage and reports true, if err is a *limitError. The caller
// must not hold locks.
func (b *Buffer) hasCollected(err error) bool {
	if !isLimit(err) {
		return false
	}
	stats.limitRefusals.Add(1)
	b.Limit.collect()
	return true
}

// charge makes the share of b at least total bytes, for n more bytes of contents. The
// error is a *limitError.
func (b *Buffer) charge(total, n int) error {
	if b.share == nil && b.Limit == nil {
		return nil
	}
	return b.chargeLimit(total, n)
}

// chargeLimit is charge for a Buffer that has a Limit, or had one.
func (b *Buffer) chargeLimit(total, n int) error {
	s := b.share
	if s == nil || s.limit != b.Limit { // the field was changed
		s = nil
		if b.Limit != nil {
			s = b.Limit.newShare()
		}
	}
	most := vm.MaxSize
	if s != nil {
		if !s.raise(int64(total)) {
			if s != b.share {
				s.end()
			}
			return &limitError{b.Limit, b.Limit.Used(), b.Len(), n}
		}
		most = toInt(s.held.Load())
	}
	if b.share != nil && b.share != s {
		b.share.lower(0)
	}
	b.share = s
	if b.m != nil {
		b.m.BoundCommit(most)
	}
	return nil
}

// charged returns how many bytes of Limit are the share of b.
func (b *Buffer) charged() int64 {
	if b.share == nil || b.share.limit != b.Limit {
		return 0
	}
	return b.share.held.Load()
}

// settle makes the share at most n bytes, after the storage has become smaller.
func (b *Buffer) settle(n int) {
	if b.share != nil {
		b.share.lower(int64(n))
		if b.m != nil {
			b.m.BoundCommit(toInt(b.share.held.Load()))
		}
	}
}

// toInt returns n, or the largest int.
func toInt(n int64) int { return int(min(n, math.MaxInt)) }

// roomInLimit returns how many more bytes the Limit, which must not be nil, leaves.
func (b *Buffer) roomInLimit() int {
	total := toInt(b.Limit.max - b.Limit.Used() + b.charged())
	if b.m != nil {
		return max(vm.Floor(total)-b.buf.Len, 0)
	}
	return max(total-b.Len(), 0)
}
