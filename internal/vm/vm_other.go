//go:build !linux || nommap || 386 || arm || mips || mipsle

package vm

import (
	"errors"
	"os"
	"time"
)

func systemUnit() int {
	unit, _ := chooseUnit(os.Getpagesize(), 0)
	return unit
}

// MovesRefused reports true.
func MovesRefused() bool { return true }

// Available reports false: there are no mappings. The functions below have the doc
// comments of those for Linux, and are not called with a mapping.
func Available() bool { return false }

func Map(int, bool) ([]byte, error)                { return nil, errors.ErrUnsupported }
func Resize([]byte, int, bool) ([]byte, error)     { return nil, errors.ErrUnsupported }
func NoRoom(error) bool                            { return false }
func MoveAligned([]byte, int, int) ([]byte, error) { return nil, errors.ErrUnsupported }
func MoveOnto([]byte, []byte) error                { return errors.ErrUnsupported }
func Unmap([]byte) error                           { return errors.ErrUnsupported }
func Abandon([]byte) error                         { return errors.ErrUnsupported }
func Discard([]byte) error                         { return errors.ErrUnsupported }
func LazyFree([]byte) error                        { return errors.ErrUnsupported }
func Populate([]byte) error                        { return errors.ErrUnsupported }
func AdviseHuge([]byte, bool)                      {}
func Resident([]byte, int) bool                    { return false }
func Join(mem []byte, _ int) []byte                { return mem }
func MoveToHeap([]byte) *HeapPages                 { return nil }
func Lends() bool                                  { return false }
func HeapSplits() int64                            { return 0 }
func HeapCopy([]byte, int) []byte                  { return nil }
func ClearHeap([]byte)                             {}
func ProbeHeap(int) error                          { return nil }
func MaxMappings() int64                           { return 0 }
func Memory() int                                  { return 0 }
func Time() time.Time                              { return time.Now() }

type HeapPages struct{}

func (*HeapPages) Bytes(int) []byte        { return nil }
func (*HeapPages) Lend(func([]byte)) *Loan { return nil }

type Loan struct{}

func (*Loan) End(int) bool { return false }
