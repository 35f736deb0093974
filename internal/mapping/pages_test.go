package mapping

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/internal/vm"
)

func TestSteps(t *testing.T) {
	for _, tt := range []struct{ n, step, coarse int }{
		{0, 0, 0},
		{1, 32, 128},
		{32 << 10, 32, 128},
		{32<<10 + 1, 64, 128},
		{128 << 10, 128, 128},
		{128<<10 + 1, 160, 256},
		{256 << 10, 256, 256},
		{600 << 10, 608, 1024},
		{2 << 20, 2048, 2048},
		{2<<20 + 1, 2080, 4096},
		{5 << 20, 5120, 8192},
		{8<<20 + 1, 8224, 12288},
	} {
		assert.Equal(t, tt.step<<10, stepCeil(tt.n), "stepCeil(%d)", tt.n)
		assert.Equal(t, tt.coarse<<10, coarse(tt.n), "coarse(%d)", tt.n)
	}
}

// TestCheck breaks each invariant in turn.
func TestCheck(t *testing.T) {
	unit := vm.Unit()
	// whole returns pages of which no invariant is broken. The memory is never used.
	whole := func() *pages {
		p := &pages{cleared: unit, committed: unit + 5, dirty: 2*unit + 5, touched: []uint32{1, 0, 1}, seams: []int{unit, 3 * unit}}
		p.mem = make([]byte, 3*unit, 4*unit)
		p.held.Store(int64(2 * unit))
		return p
	}
	require.NoError(t, whole().check())
	for name, break_ := range map[string]func(p *pages){
		"I3: cleared negative":   func(p *pages) { p.cleared = -1 },
		"I3: cleared":            func(p *pages) { p.cleared = p.committed + 1 },
		"I3: committed":          func(p *pages) { p.committed = p.dirty + 1 },
		"I3: dirty":              func(p *pages) { p.dirty = cap(p.mem) + 1 },
		"I3: len":                func(p *pages) { p.mem = p.mem[:unit] },
		"I4: too few flags":      func(p *pages) { p.touched = p.touched[1:] },
		"I4: too many flags":     func(p *pages) { p.touched = append(p.touched, 0) },
		"I4: held":               func(p *pages) { p.held.Add(1) },
		"I4: a flag more":        func(p *pages) { p.touched[1] = 1 },
		"I5: at the start":       func(p *pages) { p.seams[0] = 0 },
		"I5: at the end":         func(p *pages) { p.seams[1] = 4 * unit },
		"I5: twice":              func(p *pages) { p.seams[1] = p.seams[0] },
		"I5: in the wrong order": func(p *pages) { p.seams[1] = p.seams[0] - 1 },
	} {
		p := whole()
		break_(p)
		require.ErrorContains(t, p.check(), name[:3], name)
	}
}
