//go:build linux && !nommap && !386 && !arm && !mips && !mipsle && mmapbuf_faults

package vm

import "sync/atomic"

// OnCall, if a test has set it, is called before each system call. If it
// returns an error, the call is not made and fails with that error.
var OnCall atomic.Pointer[func(call string, target, source []byte) error]

// fault is called before each system call that can affect mappings, and returns
// the error that a test injects, if any. target is the range that munmap(2), or
// mremap(2) with MREMAP_FIXED, operates on; MREMAP_FIXED may unmap it even if the
// call fails. source is the range that mremap(2) may move.
func fault(call string, target, source []byte) error {
	if f := OnCall.Load(); f != nil {
		return (*f)(call, target, source)
	}
	return nil
}
