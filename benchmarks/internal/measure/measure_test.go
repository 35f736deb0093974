package measure

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/command"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/system"
)

func TestMain(m *testing.M) {
	Serve(allocate)
	os.Exit(m.Run())
}

// allocate is the work of the children of this test.
func allocate(n int) (Figures, error) {
	if n < 0 {
		return Figures{}, errors.New("less than nothing")
	}
	m := Start()
	p := make([]byte, n)
	for i := range p {
		p[i] = 1
	}
	f := m.Stop()
	runtime.KeepAlive(p)
	f.Size = int64(n)
	return f, nil
}

func TestMeter(t *testing.T) {
	m := Start()
	runtime.GC()
	f := m.Stop()
	assert.Equal(t, 1, f.Forced)
	assert.GreaterOrEqual(t, f.Collections, 1)
	if runtime.GOOS == "linux" {
		assert.Positive(t, f.CPU)
	}
}

func TestRun(t *testing.T) {
	const n = 64 << 20
	var got Figures
	readings, err := Run(t.Context(), n, &got)
	require.NoError(t, err)
	assert.Positive(t, got.Elapsed)
	assert.GreaterOrEqual(t, got.Allocated, int64(n))
	assert.Less(t, got.Allocated, int64(n+n/2))
	if system.Resident() > 0 {
		assert.Greater(t, got.Peak, int64(n/4*3))
		assert.Greater(t, got.Final, int64(n/4*3))
		assert.GreaterOrEqual(t, got.Peak, got.Final)
		assert.NotEmpty(t, readings)
	}

	_, err = Run(t.Context(), -1, &got)
	assert.EqualError(t, err, "exit status 1: less than nothing")
	_, err = Run(t.Context(), "many", &got)
	assert.ErrorContains(t, err, "exit status 1: "+jobVariable)
	_, err = Run(t.Context(), 0, new(string))
	assert.ErrorContains(t, err, "its report: ")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Run(ctx, 0, &got)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestFits(t *testing.T) {
	assert.NoError(t, Fits("a byte", 1))
	if _, ok := system.Available(system.Root); ok {
		err := Fits("all", command.MaxSize)
		assert.ErrorContains(t, err, "all may need 1 EiB of memory in a bytes.Buffer, and ")
	}
}

func TestInTurn(t *testing.T) {
	var order []int
	got, err := InTurn(t.Context(), []string{"a", "b", "c"}, 2, func(_ context.Context, i int) (int, error) {
		order = append(order, i)
		return 10*i + len(order), nil
	})
	require.NoError(t, err)
	assert.Equal(t, []int{0, 1, 2, 1, 2, 0}, order)
	assert.Equal(t, [][]int{{1, 6}, {12, 14}, {23, 25}}, got)

	_, err = InTurn(t.Context(), []string{"a", "b"}, 3, func(_ context.Context, i int) (int, error) {
		if order = append(order, i); len(order) == 10 {
			return 0, os.ErrClosed
		}
		return 0, nil
	})
	assert.EqualError(t, err, "a, run 2: file already closed", "the fourth to run")
}

func TestMedian(t *testing.T) {
	self := func(n int) int { return n }
	runs := []int{5, 1, 4, 2}
	assert.Equal(t, 2, Median(runs, self))
	assert.Equal(t, 4, Median(append(runs, 9), self))
	assert.Equal(t, 5, Median(runs[:1], self))
	assert.Equal(t, []int{5, 1, 4, 2}, runs, "the order stays")
}

func TestCompare(t *testing.T) {
	sizes := map[string]int{"small": 1000, "large": 2000}
	rows, err := Compare(t.Context(), []string{"small", "large"}, []string{"one", "other"}, 2,
		func(work, implementation string) any { return sizes[work] + len(implementation) })
	require.NoError(t, err)
	require.Len(t, rows, 4)
	for i, want := range []struct {
		work, implementation string
		size                 int64
	}{{"small", "one", 1003}, {"small", "other", 1005}, {"large", "one", 2003}, {"large", "other", 2005}} {
		assert.Equal(t, want.work, rows[i].Work)
		assert.Equal(t, want.implementation, rows[i].Implementation)
		require.Len(t, rows[i].Runs, 2)
		for _, f := range rows[i].Runs {
			assert.Equal(t, want.size, f.Size)
		}
	}

	_, err = Compare(t.Context(), []string{"small"}, []string{"one"}, 1, func(_, _ string) any { return -1 })
	assert.EqualError(t, err, "small, one, run 1: exit status 1: less than nothing")
}

func TestTable(t *testing.T) {
	figures := func(d time.Duration, peak int64) []Figures {
		return []Figures{{Size: 1 << 10, Elapsed: d, Peak: peak, Allocated: 3 << 20}, {Elapsed: d / 2, Peak: peak}, {Elapsed: 2 * d, Peak: 2 * peak, Allocated: 4 << 20}}
	}
	var out bytes.Buffer
	Table(&out, []Row{
		{"tar", "one", figures(time.Second, 100<<20)},
		{"tar", "other", figures(500*time.Millisecond, 50<<20)},
		{"zip", "one", figures(time.Second, 0)},
		{"zip", "other", figures(time.Second, 0)},
	})
	assert.Regexp(t, `\A\| work +\| implementation \| .*\n\| -.*\n`+
		`\| tar +\| +one \| +1\.00 KiB \| +1\.00 s \| +100 MiB \| +3\.00 MiB \| +1\.0 \| +1\.0 \|\n`+
		`\| tar +\| +other \| +1\.00 KiB \| +500 ms \| +50\.0 MiB \| +3\.00 MiB \| +2\.0 \| +2\.0 \|\n`+
		`\| zip +\| +one \| +1\.00 KiB \| +1\.00 s \| +n/a \| +3\.00 MiB \| +1\.0 \| +n/a \|\n`+
		`\| zip +\| +other \| +1\.00 KiB \| +1\.00 s \| +n/a \| +3\.00 MiB \| +1\.0 \| +n/a \|\n\z`, out.String())
}
