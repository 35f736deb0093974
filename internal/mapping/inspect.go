package mapping

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// This file is for tests of the packages above.

// A State is a copy of the fields of a Mapping.
type State struct {
	Mem                       []byte
	Seams                     []int
	Cleared, Committed, Dirty int
	Touched                   []uint32
	Held                      int64
	Sparse                    bool
}

// Inspect returns the fields of m.
func (m *Mapping) Inspect() State {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return State{m.mem, slices.Clone(m.seams), m.cleared, m.committed, m.dirty, slices.Clone(m.touched), m.held.Load(), m.sparse.Load()}
}

// Check says which invariant of m does not hold between calls, for a Buffer that has
// generation gen and a capacity of have bytes in its window. It also fails if a lock
// is held that no call has released.
func (m *Mapping) Check(gen uint32, off, end, have int) error {
	for start := time.Now(); !m.mu.TryRLock(); time.Sleep(time.Millisecond) { // tick holds it for a moment
		if time.Since(start) > 10*time.Second {
			return errors.New("the lock of the mapping is held")
		}
	}
	defer m.mu.RUnlock()
	if m.Generation.Load() != gen { // published, and the Buffer is still to adopt that
		switch p, _ := m.Published(gen, off, end); {
		case p == nil:
			return fmt.Errorf("generation %d of the mapping, the Buffer has %d, and [%d:%d] was not published", m.Generation.Load(), gen, off, end)
		case m.mem != nil:
			return errors.New("published, and still mapped")
		}
		return nil
	}
	if err := m.check(); err != nil {
		return err
	}
	unit, mem := vm.Unit(), m.mem
	switch {
	case len(mem) == 0 || len(mem)%unit != 0 || cap(mem)%unit != 0:
		return fmt.Errorf("a mapping of %d, %d bytes, the unit is %d", len(mem), cap(mem), unit)
	case m.Capacity() != len(mem) && len(mem) != unit || m.Capacity() > len(mem):
		return fmt.Errorf("a mapping of %d bytes, capacity %d", len(mem), m.Capacity())
	case have > m.cleared:
		return fmt.Errorf("a window of %d bytes, of which %d are cleared", have, m.cleared)
	case Counters.Mappings.Load() < 1 || Counters.MappedBytes.Load() < int64(len(mem)) || profile.Count() < 1:
		return errors.New("a mapping that is not counted")
	}
	return nil
}

// FreeExcess and Tick do at once what happens some time later.
func (m *Mapping) FreeExcess() { m.freeExcess() }
func Tick()                    { tick() }

// SetIdleMax replaces idleMax and returns what sets it back.
func SetIdleMax(n int) (restore func()) {
	set := func(f func() int) (old func() int) {
		idle.mu.Lock()
		defer idle.mu.Unlock()
		old, idleMax = idleMax, f
		return old
	}
	old := set(func() int { return n })
	return func() { set(old) }
}

// SetLentMax replaces lentMax and returns what sets it back.
func SetLentMax(n int64) (restore func()) {
	old := lentMax
	lentMax = n
	return func() { lentMax = old }
}

// SetBudget replaces the maximum number of mappings and returns what sets it back.
func SetBudget(n int64) (restore func()) {
	old := vmaBudget
	vmaBudget = func() int64 { return n }
	return func() { vmaBudget = old }
}

// Held returns the bytes that all mappings hold.
func Held() int64 { return heldBytes() }

// Budget returns the maximum number of mappings.
func Budget() int64 { return vmaBudget() }

// All calls f with the memory of all mappings, those in use and idle memory. None is
// unmapped meanwhile, unless f uses them.
func All(f func(mems [][]byte)) {
	idle.freeing.Lock()
	defer idle.freeing.Unlock()
	var mems [][]byte
	pacer.mu.Lock()
	for p := range pacer.live {
		mems = append(mems, p.mem[:cap(p.mem)])
	}
	pacer.mu.Unlock()
	idle.mu.Lock()
	for _, e := range idle.list {
		mems = append(mems, e.mem)
	}
	idle.mu.Unlock()
	f(mems)
}

// MoveAligned moves the memory, as growing does. MoveTo moves it to the addresses of
// to.
func (m *Mapping) MoveAligned(n int) error {
	return m.remap(func() error { return m.moveAligned(n, 0) })
}

func (m *Mapping) MoveTo(to []byte) error {
	return m.remap(func() error {
		to = to[:cap(m.mem):cap(m.mem)]
		err := vm.MoveOnto(to, m.mem[:cap(m.mem)])
		if err == nil {
			m.setMem(to)
		}
		return err
	})
}

// HoldCollections makes n bytes garbage that no collection finds, and has collections
// wait until release is called.
func HoldCollections(n int) (release func()) {
	pacer.collecting.Lock()
	add := func(n int, garbage bool) {
		addHeld(n)
		pacer.mu.Lock()
		pacer.garbage = garbage
		pacer.mu.Unlock()
	}
	add(n, true)
	return func() {
		add(-n, false)
		pacer.collecting.Unlock()
	}
}

// Settle ends all loans and waits for pages that are coming back, and unmaps all idle
// memory.
func Settle() {
	idle.mu.Lock()
	loans := idle.loans
	idle.loans = nil
	idle.mu.Unlock()
	for _, l := range loans {
		l.end()
	}
	for idle.lent.Load() > 0 {
		time.Sleep(100 * time.Microsecond)
	}
	EmptyIdle()
}
