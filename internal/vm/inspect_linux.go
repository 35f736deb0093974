//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package vm

// The rest of this file is for tests of the packages above.

// RefuseMoves has pages neither moved onto others nor out of the heap, or that tried
// again.
func RefuseMoves(refuse bool) {
	moveRefused.Store(refuse)
	takeBackRefused.Store(refuse)
}

// RefuseMaps sets what Available reports.
func RefuseMaps(refuse bool) { mapRefused.Store(refuse) }

// Lost returns how many heap objects are kept because their addresses may be in use
// by something else.
func Lost() int {
	lost.Lock()
	defer lost.Unlock()
	return len(lost.objects)
}

// ForgetLost has the runtime use them again.
func ForgetLost() {
	lost.Lock()
	lost.objects = nil
	lost.Unlock()
}
