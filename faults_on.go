//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x) && mmapbuf_faults

package mmapbuf

import "sync/atomic"

// onCall, if a test has set it, is called before each system call. If it
// returns an error, the call is not made and fails with that error.
var onCall atomic.Pointer[func(call string, target, source []byte) error]

// fault is called before each system call that can affect mappings, and returns
// the error that a test injects, if any. target is the range that munmap(2), or
// a call with MREMAP_FIXED or MAP_FIXED_NOREPLACE, operates on; MREMAP_FIXED
// may unmap it even if the call fails. source is the range that mremap(2) may
// move.
func fault(call string, target, source []byte) error {
	if f := onCall.Load(); f != nil {
		return (*f)(call, target, source)
	}
	return nil
}
