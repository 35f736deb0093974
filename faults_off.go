//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x) && !mmapbuf_faults

package mmapbuf

// fault is called before each system call. With the build tag mmapbuf_faults
// tests make it fail; here it comes to nothing, not even a call.
func fault(call string, target, source []byte) error { return nil }
