package mapping

import (
	"runtime"
	"sync"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

// CopiedView is the size, in bytes and including spare capacity, up to which
// contents are copied when they are published, and not moved. The memory then
// becomes idle memory. A service with views took a fifth more CPU time with 4 MiB, and
// as much with 1. Only tests change it.
var CopiedView = 2 * vm.MiB

// largeViews is held while at least largeView bytes are published, so that two
// goroutines do not both count on the same free memory.
var largeViews sync.Mutex

const largeView = 32 * vm.MiB

// Publish moves or copies mem[lo:end], and spare bytes of what follows it, to Go
// memory, which Published returns from then on for gen. lo is a multiple of vm.Unit.
// If the generation is another, it does nothing. The error is that of a system call;
// nothing has changed then, except that capacity may have been released if spare is
// 0.
func (m *Mapping) Publish(gen uint32, lo, end, spare int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Generation.Load() != gen {
		return nil
	}
	if end-lo >= largeView {
		largeViews.Lock()
		defer largeViews.Unlock()
	}
	hi := end + min(spare, len(m.mem)-end)
	if hi-lo > CopiedView { // whole units are moved
		hi, _ = vm.Round(hi)
	}

	err := vm.ProbeHeap(hi - lo)
	if err != nil && spare == 0 {
		// Cutting the uncommitted end of the mapping may help.
		if back, _ := vm.Round(m.committed); back < cap(m.mem) && m.cutBack(back) == nil {
			m.capacity.Store(int64(back))
			err = vm.ProbeHeap(hi - lo)
		}
	}
	if err != nil {
		return err
	}

	var p []byte
	if hi-lo > CopiedView {
		if p, err = m.moveToHeap(lo, end, hi); err != nil {
			return err
		}
	}
	if p == nil {
		p = vm.HeapCopy(m.mem[lo:end], hi-lo)
		_ = m.free()
	}
	// A copy of the Buffer with contents beyond end becomes stale, because
	// they may be lost.
	m.pub.Store(&published{p[:end-lo], lo, gen})
	m.Generation.Add(1)
	Counters.Views.Add(1)
	Counters.ViewBytes.Add(int64(hi - lo))
	runtime.KeepAlive(m)
	return nil
}

// moveToHeap moves the pages of mem[lo:hi] to the Go heap, and frees the rest. It
// returns nil, and nothing has changed, if they must be copied, for which it has
// probed the heap.
func (m *Mapping) moveToHeap(lo, end, hi int) ([]byte, error) {
	// If the pages are to come back, what the owner has not used of idle memory
	// goes with them: idle memory in small parts is of little use.
	last := max(hi, min(vm.Ceil(m.dirty), len(m.mem), hi+hi-lo))
	lent := (last == hi || vm.ProbeHeap(last-lo) == nil) && mayLend(last-lo)
	if !lent {
		last = hi
	}
	var h *vm.HeapPages
	if !CopiesViews && len(m.seams) == 0 && vm.HeapSplits() < vmaBudget()/2 {
		h = vm.MoveToHeap(m.mem[lo:last])
	}
	if h == nil {
		if lent {
			idle.lent.Add(int64(lo - last))
		}
		// The object for a move that has failed is not released.
		if err := vm.ProbeHeap(hi - lo); err != nil {
			return nil, err
		}
		CountCopy(end - lo)
		return nil, nil
	}
	from, to := max(end, m.cleared), min(hi, m.dirty) // bytes of earlier owners
	_ = vm.Abandon(m.mem[:lo])
	if !keepIdle(m.pages, last) {
		_ = vm.Abandon(m.mem[last:cap(m.mem)])
	}
	m.setMem(nil)

	var p []byte
	if lent {
		p = lend(h, last-lo, hi-lo, m.huge)
	} else {
		p = h.Bytes(hi - lo)
	}
	if from < to { // not sooner: a copy of the Buffer may have contents there
		vm.ClearHeap(p[from-lo : to-lo])
	}
	return p, nil
}
