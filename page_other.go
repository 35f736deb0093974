//go:build !linux || nommap || !(amd64 || arm64 || loong64 || mips64 || mips64le || ppc64 || ppc64le || riscv64 || s390x)

package mmapbuf

import (
	"errors"
	"os"
	"time"
)

func systemPageUnit() int {
	unit, _ := chooseUnit(os.Getpagesize(), 0)
	return unit
}

// Since canMap reports false, no mapping is made on this platform, and the
// other functions are not called with one.

func canMap() bool { return false }

func mapPages(int, bool) (*pages, error) { return nil, errors.ErrUnsupported }

func (*pages) grow(int) error             { return errors.ErrUnsupported }
func (*pages) moveBehind(int, int) error  { return errors.ErrUnsupported }
func (*pages) unmapFront(int) error       { return errors.ErrUnsupported }
func (*pages) unmapBack(int) error        { return errors.ErrUnsupported }
func (*pages) discard(int, int) error     { return errors.ErrUnsupported }
func (*pages) populate(int, int) error    { return errors.ErrUnsupported }
func (*pages) moveToHeap(int, int) []byte { return nil }
func (p *pages) unmap() error             { p.setMem(nil); return nil }
func (*pages) resident(int) bool          { return false }
func adviseHuge([]byte, bool)             {}
func abandon([]byte) error                { return nil }
func lazyFree([]byte) error               { return errors.ErrUnsupported }
func systemTime() time.Time               { return time.Now() }
func idleMax() int                        { return 0 }
func zero([]byte, int, int)               {}
func heapCopy([]byte, int) []byte         { return nil }
func probeHeap(int) error                 { return nil }
