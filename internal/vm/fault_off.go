//go:build linux && !nommap && !386 && !arm && !mips && !mipsle && !mmapbuf_faults

package vm

// fault lets tests inject errors of system calls in builds with the tag
// mmapbuf_faults. In other builds it is inlined to nothing.
func fault(call string, target, source []byte) error { return nil }
