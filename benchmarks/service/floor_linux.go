package main

import (
	"errors"
	"syscall"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/chart"
)

// floors do the least work possible: they copy into a mapping of the right size.
var floors = []filler{
	{"floor", chart.Ink, func(n int, data []byte) error { return fillMapping(n, data, true) }},
	{"floor/NoHugePages", nil, func(n int, data []byte) error { return fillMapping(n, data, false) }},
}

func fillMapping(n int, data []byte, huge bool) error {
	p, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	if err != nil {
		return err
	}
	if huge {
		_ = syscall.Madvise(p, syscall.MADV_HUGEPAGE)
	}
	s := slice(p[:0])
	return errors.Join(write(&s, n, data), syscall.Munmap(p))
}
