//go:build linux && !nommap && (amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x) && !mmapbuf_faults

package mmapbuf

// fault lets tests inject errors of system calls in builds with the tag
// mmapbuf_faults. In other builds it is inlined to nothing.
func fault(call string, target, source []byte) error { return nil }
