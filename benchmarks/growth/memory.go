package main

import (
	"fmt"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

// slack is memory that goes to the two processes themselves.
const slack = 64 << 20

// largest returns the largest payload that all of impls can hold in free.
func largest(impls []implementation, write int64, free system.Room) int64 {
	return max(0, (free.Bytes-slack-write)/hungriest(impls).peak)
}

// hungriest returns the implementation that needs the most memory.
func hungriest(impls []implementation) implementation {
	most := impls[0]
	for _, impl := range impls[1:] {
		if impl.peak > most.peak {
			most = impl
		}
	}
	return most
}

// fits returns an error if one of impls cannot hold size bytes in free.
func fits(impls []implementation, bytes, write int64, free system.Room) error {
	most := largest(impls, write, free)
	if bytes <= most {
		return nil
	}
	worst := hungriest(impls)
	text := fmt.Sprintf("%v does not fit in memory: %s may need %v and %v can be had (%s)",
		size(bytes), worst.name, size(bytes*worst.peak+slack+write), size(free.Bytes), free.From)
	if most < 1<<20 {
		return fmt.Errorf("%s; no size worth measuring would fit", text)
	}
	text = fmt.Sprintf("%s; the largest that fits is -size %dMiB", text, most>>20)

	// The ones that hold the payload once may still do.
	var lean []implementation
	for _, impl := range impls {
		if impl.peak == 1 {
			lean = append(lean, impl)
		}
	}
	if len(lean) > 0 && worst.peak > 1 {
		text = fmt.Sprintf("%s, or -size %dMiB with -only %s", text, largest(lean, write, free)>>20, keys(lean))
	}
	return fmt.Errorf("%s", text)
}
