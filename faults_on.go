//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x) && mmapbuf_faults

package mmapbuf

import "sync/atomic"

// onCall, if a test has set it, decides about each system call: the error that
// it returns is that of the call, which is then not made.
var onCall atomic.Pointer[func(call string, target, source []byte) error]

// fault is called before each system call of the package. The target is what
// munmap(2), or a call with MAP_FIXED or MREMAP_FIXED, is about to unmap: of the
// latter two the kernel may do so and then fail. The source is what mremap(2)
// may move.
func fault(call string, target, source []byte) error {
	if f := onCall.Load(); f != nil {
		return (*f)(call, target, source)
	}
	return nil
}
