package measure

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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
	p := bytes.Repeat([]byte{1}, n)
	runtime.GC()
	f := m.Stop()
	runtime.KeepAlive(p)
	f.Size = int64(n)
	return f, nil
}

func TestRun(t *testing.T) {
	const n = 64 << 20
	got, err := Run[Figures](t.Context(), n)
	require.NoError(t, err)
	assert.Positive(t, got.Elapsed)
	assert.EqualValues(t, n, got.Size)
	assert.Equal(t, 1, got.Forced)
	assert.Equal(t, runtime.GOOS == "linux", got.Known())
	if runtime.GOOS == "linux" {
		assert.Greater(t, got.Peak, int64(n/4*3))
		assert.GreaterOrEqual(t, got.Peak, got.Final)
		assert.Positive(t, got.Faults)
	}

	_, err = Run[Figures](t.Context(), -1)
	assert.EqualError(t, err, "exit status 1: less than nothing")
	_, err = Run[Figures](t.Context(), "many")
	assert.ErrorContains(t, err, "exit status 1: json: ")
	_, err = Run[string](t.Context(), 0)
	assert.ErrorContains(t, err, "answer of the child: ")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = Run[Figures](ctx, n)
	assert.ErrorIs(t, err, context.Canceled)
}

func TestInTurn(t *testing.T) {
	var order []int
	work := func(_ context.Context, i int) (int, error) {
		if order = append(order, i); len(order) == 10 {
			return 0, os.ErrClosed
		}
		return 10*i + len(order), nil
	}
	got, err := InTurn(t.Context(), []string{"a", "b", "c"}, 2, work)
	require.NoError(t, err)
	assert.Equal(t, []int{0, 1, 2, 1, 2, 0}, order)
	assert.Equal(t, [][]int{{1, 6}, {12, 14}, {23, 25}}, got)
	_, err = InTurn(t.Context(), []string{"a", "b"}, 3, work)
	assert.EqualError(t, err, "a, run 2: file already closed", "the fourth to run")
}

func TestMedian(t *testing.T) {
	self := func(n int) int { return n }
	runs := []int{5, 1, 4, 2}
	assert.Equal(t, 2, Median(runs, self))
	assert.Equal(t, 4, Median(append(runs, 9), self))
	assert.Equal(t, []int{5, 1, 4, 2}, runs, "the order stays")
}

func TestSpread(t *testing.T) {
	self := func(x float64) float64 { return x }
	s := SpreadOf([]float64{1.2, 0.96, 3}, self)
	assert.Equal(t, Spread{1.2, 0.96, 3}, s)
	assert.Equal(t, "1.20 s (0.960..3.00)", s.Duration())
	assert.Equal(t, "1.2× (0.96..3.0)", s.Format(Short, "×"))
	assert.Equal(t, "1.2×", Spread{1.2, 1.19, 1.21}.Format(Short, "×"))
	assert.Equal(t, "0.00 s", Spread{}.Duration())
	assert.Equal(t, Spread{2, 0.5, 8}, Spread{4, 2, 8}.Over(Spread{2, 1, 4}))
}

// The setting returns to what it was, whatever happens to the work.
func TestHugePages(t *testing.T) {
	real := hugePages
	defer func() { hugePages = real }()
	hugePages = filepath.Join(t.TempDir(), "enabled")
	assert.Empty(t, HugePages())
	assert.ErrorContains(t, WithHugePages("always", nil), "no transparent huge pages")

	for _, wrong := range []error{nil, io.EOF} {
		require.NoError(t, os.WriteFile(hugePages, []byte("always [madvise] never\n"), 0o644))
		assert.Equal(t, "madvise", HugePages())
		err := WithHugePages("always", func() error {
			p, err := os.ReadFile(hugePages)
			require.NoError(t, err)
			assert.Equal(t, "always", string(p))
			if p, err := os.FindProcess(os.Getpid()); err == nil && runtime.GOOS != "windows" {
				assert.NoError(t, p.Signal(os.Interrupt)) // does not end the process
			}
			return wrong
		})
		assert.ErrorIs(t, err, wrong)
		p, err := os.ReadFile(hugePages)
		require.NoError(t, err)
		assert.Equal(t, "madvise", string(p))
	}
}

func TestWarm(t *testing.T) {
	require.NoError(t, Warm(0))
	before := faults()
	require.NoError(t, Warm(16<<20))
	if runtime.GOOS == "linux" {
		assert.Greater(t, faults(), before)
	}
}

func TestTable(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, Table(&out, [][]string{{"implementation", "time"}, {"one", "1.0 µs"}, {"mmapbuf.Buffer", "n/a"}}))
	assert.Equal(t, "| implementation |   time |\n|:---------------|-------:|\n| one            | 1.0 µs |\n| mmapbuf.Buffer |    n/a |\n", out.String())
}

func TestFormat(t *testing.T) {
	for x, want := range map[float64]string{
		123: "123×", 12.4: "12×", 9.96: "10×", 9.94: "9.9×", 1: "1.0×", 0.996: "1.0×", 0.994: "0.99×", 0.0994: "0.099×", 0: "0.0×",
	} {
		assert.Equal(t, want, Ratio(x))
	}
	for d, want := range map[time.Duration]string{1234: "1.23 µs", 1.5e6: "1.50 ms", 15e6: "15.0 ms", 1500e6: "1.50 s", 72e9: "72.0 s"} {
		assert.Equal(t, want, Duration(d))
	}
	assert.Equal(t, "1.5 GiB", Size(3<<29).String())
	assert.Equal(t, "0 B", Size(0).String())
}

func TestFlags(t *testing.T) {
	for text, want := range map[string]Size{"1000": 1000, "64MiB": 64 << 20, "1.5GB": 15e8, "1 k": 1000} {
		var s Size
		require.NoError(t, s.Set(text), text)
		assert.Equal(t, want, s)
	}
	for text, says := range map[string]string{"lots": "not a number", "-1": "not a number", "0": "not between", "2EiB": "not between 1 B and 1 EiB"} {
		assert.ErrorContains(t, new(Size).Set(text), says, text)
	}
	for list, want := range map[string][]string{"c,a": {"a", "c"}, "": {"a", "b", "c"}} {
		names, err := Choose(list, []string{"a", "b", "c"})
		require.NoError(t, err)
		assert.Equal(t, want, names)
	}
	_, err := Choose("a,", []string{"a"})
	assert.EqualError(t, err, `"" is none of a`)
}

func TestOptions(t *testing.T) {
	parse := func(args ...string) (o Options, err error) {
		o.Runs = 4
		return o, o.Parse(flag.NewFlagSet("x", flag.ContinueOnError), args, "Does something.", func() []string { return []string{"a", "b"} })
	}
	o, err := parse()
	require.NoError(t, err)
	assert.Equal(t, Options{4, []string{"a", "b"}}, o)
	o, err = parse("-runs", "7", "-implementations", "b")
	require.NoError(t, err)
	assert.Equal(t, Options{7, []string{"b"}}, o)
	_, err = parse("-h")
	assert.ErrorIs(t, err, flag.ErrHelp)
	for says, args := range map[string][]string{
		"-runs 0: at least one run":            {"-runs", "0"},
		"invalid value \"few\" for flag -runs": {"-runs", "few"},
		"unexpected argument \"file\"":         {"file", "-runs", "3"},
		`-implementations: "c" is none of a,b`: {"-implementations", "a,c"},
		"flag provided but not defined":        {"-colour"},
	} {
		_, err := parse(args...)
		assert.ErrorContains(t, err, says)
	}
}

func TestMachine(t *testing.T) {
	assert.Regexp(t, runtime.GOOS+"/.* cores, .*go1.*, transparent huge pages: never$", Machine("never"))
	assert.NotContains(t, Machine(""), "huge pages")
	if runtime.GOOS == "linux" {
		assert.Positive(t, Available())
		assert.ErrorContains(t, Fits("the sea", 1e18), "the sea may need 888 PiB of memory, and ")
		assert.Positive(t, CPU()+time.Duration(Peak()))
	}
	assert.NoError(t, Fits("nothing", 0))
}
