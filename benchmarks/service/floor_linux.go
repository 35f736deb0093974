package main

import "syscall"

// floors are the least that can be done: a mapping of the right size and plain
// copies into it.
var floors = []filler{
	{"floor", func(n int, chunk []byte) error { return fillMapping(n, chunk, true) }},
	{"floor/NoHugePages", func(n int, chunk []byte) error { return fillMapping(n, chunk, false) }},
}

func fillMapping(n int, chunk []byte, huge bool) error {
	p, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return err
	}
	if huge {
		_ = syscall.Madvise(p, syscall.MADV_HUGEPAGE)
	}
	fillSlice(p[:0], n, chunk)
	return syscall.Munmap(p)
}
