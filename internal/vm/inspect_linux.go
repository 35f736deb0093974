//go:build linux && !nommap && !386 && !arm && !mips && !mipsle

package vm

// The rest of this file is for tests of the packages above.

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
