//go:build !linux || nommap || !(amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"errors"
	"os"
)

func systemPageUnit() int {
	unit, _ := chooseUnit(os.Getpagesize(), 0)
	return unit
}

// There are no mappings here, and grow.go asks for none.

func canMap() bool   { return false }
func canRemap() bool { return false }

func mapPages(int, bool) (*pages, error) { return nil, errors.ErrUnsupported }

func (*pages) grow(int) error                        { return errors.ErrUnsupported }
func (*pages) dropFront(int) error                   { return errors.ErrUnsupported }
func (*pages) dropBack(int) error                    { return errors.ErrUnsupported }
func (*pages) clear(int, int) error                  { return errors.ErrUnsupported }
func (*pages) touch(int, int) error                  { return errors.ErrUnsupported }
func (p *pages) unmap() error                        { p.set(nil); return nil }
func (*pages) publish(int, int, int) ([]byte, error) { return nil, errors.ErrUnsupported }
func probeHeap(int) error                            { return nil }
func noescape(*Buffer) *Buffer                       { panic("mmapbuf: no mapping to own") }
