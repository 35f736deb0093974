// Package mapping has what a Buffer stores its contents in beyond a few hundred
// kilobytes: a [Mapping]; the memory of former ones, which is kept for the next
// (idle.go); and the collections that find those that nobody has closed
// (collect.go).
//
// The memory of a Mapping is accessed through its methods, which hold its lock and keep
// it reachable: they pass it to functions that must not keep it. The exception is the
// window, of which the owner alone has a slice.
package mapping

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// A Mapping is memory outside of the Go heap that Buffers own.
//
// Usually one Buffer refers to it; copying the Buffer makes two. The generation
// of a Mapping changes whenever its memory moves, is resized or loses contents, and a
// Buffer remembers the generation that it knows. If the two differ, either the
// memory was published, and the Buffer adopts what was published, or a copy of the
// Buffer has moved it, and the Buffer is stale.
//
// Offsets are in bytes, from the start of the memory. Methods with an argument gen
// do nothing but report false if the generation is another.
type Mapping struct {
	*pages

	// Generation starts at 1. Only this package changes it. It is a field because
	// each byte read compares it, and a method is not inlined into a condition.
	Generation atomic.Uint32

	capacity atomic.Int64              // of the Buffer: len(mem), or less; see GrowCapacity
	pub      atomic.Pointer[published] // replaces mem, once it is published
}

// published is the Go memory to which mem[lo:] of a mapping was moved or copied
// when its generation was gen. It is immutable.
type published struct {
	mem []byte
	lo  int
	gen uint32
}

// Available reports whether new mappings may be made: mmap(2) was not refused, and
// the package does not use too many mappings already.
func Available() bool {
	return vm.Available() && Counters.Mappings.Load()+vm.HeapSplits() < vmaBudget()
}

// vmaBudget returns the maximum number of mappings that the package uses: half
// of what the system allows a process, because the runtime needs some and fails
// without them. Only tests replace it.
var vmaBudget = sync.OnceValue(func() int64 { return vm.MaxMappings() / 2 })

// New returns a mapping of n bytes, a multiple of vm.Unit, from idle memory if
// there is any. huge requests huge pages.
func New(n int, huge bool) (*Mapping, error) {
	if m := FromIdle(n, huge); m != nil {
		return m, nil
	}
	mem, err := vm.Map(n, huge)
	if err != nil {
		return nil, err
	}
	return mappingOf(newPages(mem, 0, huge)), nil
}

// FromIdle returns a mapping of at least n bytes of idle memory, or nil if there is
// none.
func FromIdle(n int, huge bool) *Mapping {
	reap()
	if p := takeIdle(n, huge); p != nil {
		return mappingOf(p)
	}
	return nil
}

func mappingOf(p *pages) *Mapping {
	m := &Mapping{pages: p}
	m.Generation.Store(1)
	m.capacity.Store(int64(len(p.mem)))
	track(p, m)
	return m
}

// Capacity returns the number of bytes that can be written without growing.
func (m *Mapping) Capacity() int { return int(m.capacity.Load()) }

// Sparse reports whether there are holes.
func (m *Mapping) Sparse() bool { return m.sparse.Load() }

// Published returns the Go memory that mem[off:end] of generation gen was moved or
// copied to, and the offset in mem of its first byte. It returns nil if there is
// none.
func (m *Mapping) Published(gen uint32, off, end int) (mem []byte, lo int) {
	p := m.pub.Load()
	if p == nil || p.gen != gen || off < p.lo || end-p.lo > len(p.mem) {
		return nil, 0
	}
	return p.mem, p.lo
}

// Window returns mem[:end:n], for the end of the contents, where n is what the owner
// may write without a call, and the generation. mem must not be accessed beside or
// after a method that changes the generation.
func (m *Mapping) Window(end int) (mem []byte, gen uint32) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.window(end), m.Generation.Load()
}

// window is the first result of Window, for callers that hold mu.
func (m *Mapping) window(end int) []byte { return m.mem[:end:m.cleared] }

// Append calls f to write mem[i:i+n] or less, for which there must be capacity, and
// returns the window to the end of what f has written, which is what it returns.
// Other owners may read meanwhile.
func (m *Mapping) Append(gen uint32, i, n int, f func(mem []byte) int) (mem []byte, ok bool) {
	if m.Committed() < i+n {
		m.makeCommitted(gen, i+n)
	}
	m.mu.RLock()
	defer m.mu.RUnlock() // f may panic
	if m.Generation.Load() != gen {
		return nil, false
	}
	end := i + m.write(i, i+n, f)
	runtime.KeepAlive(m)
	return m.window(end), true
}

func (m *Mapping) makeCommitted(gen uint32, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Generation.Load() == gen {
		m.commit(n)
	}
}

// Committed returns the number of bytes that can be written without taking memory.
func (m *Mapping) Committed() int {
	// Without the lock, the race detector would not see that this happens
	// before the mapping is found unreachable and freed.
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.committed
}

// Read calls f with mem[off:end], or as much of it as there is. If it was published,
// f gets the Go memory.
func (m *Mapping) Read(gen uint32, off, end int, f func(contents []byte)) (ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	mem, lo := m.mem[:m.committed], 0
	if m.Generation.Load() != gen {
		if mem, lo = m.Published(gen, off, end); mem == nil {
			return false
		}
	}
	end = min(end-lo, len(mem)) // less if another goroutine breaks the rules
	off = min(off-lo, end)
	f(mem[off:end:end])
	runtime.KeepAlive(m)
	return true
}

// Overwrite calls f to write mem[i:i+n], and reports whether it did, and whether
// that has filled holes. It does nothing if the contents, which end at end, or what
// is committed, end before.
func (m *Mapping) Overwrite(gen uint32, i, n, end int, f func(mem []byte)) (filled, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.Generation.Load() != gen || min(end, m.committed) < i+n {
		return false, false
	}
	filled = m.willWrite(i, i+n)
	f(m.mem[i : i+n : i+n])
	runtime.KeepAlive(m)
	return filled, true
}

// Extend makes mem[:end] writable and zeroes mem[lo:hi], a gap after contents that
// end at lo. The caller will write mem[hi:end]. Whole pages of the gap use no memory
// until they are written. Extend returns the window to end.
func (m *Mapping) Extend(lo, hi, end int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.commitGap(lo, hi, end)
	runtime.KeepAlive(m)
	return m.window(end)
}

// Shorten is called for a sparse mapping when the contents end at n and will be
// appended to. It uncommits holes there, so that they count as soon as they are
// filled. Then the generation is new, because a copy of the Buffer may have contents
// there.
func (m *Mapping) Shorten(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shorten(n) {
		m.Generation.Add(1)
	}
	runtime.KeepAlive(m)
}

// Release frees the memory, if gen is the generation still. The error is that of
// munmap(2).
func (m *Mapping) Release(gen uint32) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Generation.Load() != gen {
		return nil
	}
	m.Generation.Add(1)
	err := m.free()
	runtime.KeepAlive(m)
	return err
}

// GrowCapacity makes the capacity at least n bytes, and at least doubles it, up
// to len(mem). It reports false, and does nothing, if mem is shorter than n.
//
// The capacity is less than len(mem) if a Buffer asked for less than a unit and
// got idle memory. It is limited then because AvailableBuffer allocates Go
// memory for all of the capacity.
func (m *Mapping) GrowCapacity(n int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if n > len(m.mem) {
		return false
	}
	m.setCapacity(max(2*m.Capacity(), n))
	return true
}

// BoundCapacity makes the capacity n bytes, rounded up.
func (m *Mapping) BoundCapacity(n int) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	m.setCapacity(n)
}

func (m *Mapping) setCapacity(n int) { m.capacity.Store(int64(min(coarse(n), len(m.mem)))) }

// BoundCommit has no more than n bytes committed, unless they are asked for.
func (m *Mapping) BoundCommit(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.most = n
}

// NeedsMemory reports whether writing mem[:n] takes memory that neither this nor an
// earlier owner has written.
func (m *Mapping) NeedsMemory(n int) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return n > m.dirty
}

// The following methods move or cut the memory. Offsets are multiples of vm.Unit. A
// result cut is the number of bytes by which mem begins later. If the memory has
// changed, the generation is new, and the capacity is all of it, even if the method
// fails.

// remap calls f, which moves or cuts the memory.
func (m *Mapping) remap(f func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, moves := len(m.mem), m.moves
	err := f()
	if m.moves != moves || len(m.mem) != n {
		m.Generation.Add(1)
		m.capacity.Store(int64(len(m.mem)))
	}
	runtime.KeepAlive(m)
	return err
}

// Grow makes mem want bytes long or, if that fails, need bytes, with mremap(2),
// after it has unmapped mem[:front]; want and need are without these. If it cannot
// unmap them, they stay, and come on top.
func (m *Mapping) Grow(front, want, need int) (cut int, err error) {
	err = m.remap(func() error {
		cut = m.tryCutFront(front)
		err := error(nil)
		if want += front - cut; want > need+front-cut {
			if err = m.grow(want); err == nil {
				return nil
			}
		}
		return m.grow(need + front - cut)
	})
	return cut, err
}

// CutFront unmaps mem[:k], or nothing if that fails.
func (m *Mapping) CutFront(k int) (cut int) {
	_ = m.remap(func() error {
		cut = m.tryCutFront(k)
		return nil
	})
	return cut
}

// Shrink cuts mem to mem[front:back]. It ignores failures, after which the rest
// stays mapped.
func (m *Mapping) Shrink(front, back int) (cut int) {
	_ = m.remap(func() error {
		cut = m.tryCutFront(front)
		if back -= cut; back < cap(m.mem) {
			return m.cutBack(back)
		}
		return nil
	})
	return cut
}

// Recycle moves the pages of mem[:k], or fewer, behind the others, for what is
// written next, or unmaps them. A queue of constant length uses the same memory
// again and again.
func (m *Mapping) Recycle(k int) (cut int) {
	_ = m.remap(func() error {
		cut = m.recycle(k)
		return nil
	})
	return cut
}
