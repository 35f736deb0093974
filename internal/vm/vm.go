// Package vm is the memory of the system: mappings outside of the Go heap, and how
// their pages are moved, enlarged, given back and made part of the Go heap. It has
// all system calls and all uses of package unsafe, and knows nothing of what the
// memory is for.
//
// A mapping is a []byte. Its length and, where possible, its address are multiples
// of Unit. Functions that take a part of a mapping take whole pages: multiples of
// Unit or of the page of the system, as they say.
//
// Where there is no mremap(2), Available reports false; then there are no mappings,
// and the functions that take one are not called.
package vm

import (
	"math"
	"os"
	"sync"
	"unsafe"
)

const (
	KiB = 1 << 10
	MiB = 1 << 20
	GiB = 1 << 30
)

// MaxSize bounds the length of mappings and heap objects, in bytes. No process has
// a larger address space, and a larger allocation is fatal in Go.
const MaxSize = min(math.MaxInt/2+1, 1<<46)

// Unit returns the unit of mappings, in bytes: the size of a huge page, so that the
// kernel can fill, move and unmap whole huge pages, unless chooseUnit rejects that.
// Only tests replace it.
var Unit = sync.OnceValue(systemUnit)

// Reclaim is called when the kernel refuses memory for lack of it. If it reports
// that memory may have been freed, the call is tried again.
var Reclaim = func() bool { return false }

// chooseUnit returns the unit for a system with pages of page bytes and huge
// pages of huge bytes, 0 if it has none, and whether to request huge pages.
// Huge pages of more than 4 MiB (32 MiB or 512 MiB on arm64 with larger pages)
// could waste more memory than the contents use.
func chooseUnit(page, huge int) (unit int, advise bool) {
	if page <= huge && huge <= 4*MiB {
		return huge, true
	}
	return max(page, 2*MiB), false
}

// alignment returns the preferred alignment of a mapping of n bytes. mremap(2)
// can move page tables in units of 1 GiB if addresses are aligned to that.
func alignment(n int) int {
	if n >= GiB {
		return GiB
	}
	return Unit()
}

// Floor returns n rounded down to a multiple of Unit.
func Floor(n int) int { return n &^ (Unit() - 1) }

// Ceil returns n, an offset in a mapping, rounded up to a multiple of Unit.
func Ceil(n int) int { return Floor(n + Unit() - 1) }

// Round returns n, any number, rounded up to a multiple of Unit, but at least one
// unit. It reports false if n is negative or the result overflows.
func Round(n int) (int, bool) {
	u := Unit()
	r := max(n+u-1, u) &^ (u - 1)
	return r, n >= 0 && r >= n
}

// PageFloor and PageCeil round to multiples of the system's page, which is smaller
// than Unit.
func PageFloor(n int) int { return n &^ (os.Getpagesize() - 1) }
func PageCeil(n int) int  { return PageFloor(n + os.Getpagesize() - 1) }

// A Region is a []byte that package reflect does not follow. Programs print structs
// that have a Buffer as a field, or compare them with reflect.DeepEqual; if a Buffer
// had a slice, that would read its memory, which may be a mapping that was moved or
// released since.
//
// Its memory layout is that of a slice, as TestRegionIsASlice checks.
type Region struct {
	start    unsafe.Pointer
	Len, Cap int
}

// Slice returns the region as a slice.
func (r *Region) Slice() []byte { return *(*[]byte)(unsafe.Pointer(r)) }

// Set makes p the region.
func (r *Region) Set(p []byte) { *(*[]byte)(unsafe.Pointer(r)) = p }

// StringBytes returns the bytes of s, which must not be changed.
func StringBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// Address returns the address of x as a number, by which nothing is accessed. x does
// not escape to the heap.
func Address[T any](x *T) uintptr { return uintptr(unsafe.Pointer(x)) }

// SameStart reports whether p and q, of which neither is nil, begin at the same
// address.
func SameStart(p, q []byte) bool { return unsafe.SliceData(p) == unsafe.SliceData(q) }
