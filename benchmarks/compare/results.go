package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/perf/benchfmt"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

const (
	// base is what all others are compared with, and subject what the comparison
	// is about.
	base    = "bytes.Buffer"
	subject = "mmapbuf.Buffer"

	// machineKey is the line of a saved run that describes the machine.
	machineKey = "machine"
)

// Results are medians of all runs.
type results struct {
	machine string // "": the runs do not tell
	sizes   []measure.Size
	impls   []string // from fast to slow, for the largest size
	figures map[point]figure
}

type point struct {
	impl string
	size measure.Size
}

// A figure is what one implementation takes for one size.
type figure struct {
	runs int
	time time.Duration // median
	// ratio compares time with that of base in the same package: how often the
	// collector runs depends on what else its process holds.
	ratio float64
	peak  float64 // median of the bytes that were resident at most; 0: not known
}

// A source is a point as measured by the benchmarks of one package.
type source struct {
	pkg string
	point
}

// Samples are what the runs say of a source.
type samples struct{ times, peaks []float64 }

// readAll reads runs from files, or from stdin for -.
func readAll(files []string, stdin io.Reader) (*results, error) {
	machines, all := make(map[string]bool), make(map[source]*samples)
	for _, name := range files {
		r := stdin
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			r = f
		}
		if err := read(r, name, machines, all); err != nil {
			return nil, err
		}
	}
	names := slices.Sorted(maps.Keys(machines))
	switch len(names) {
	case 0:
		return nil, fmt.Errorf("%s: no results of BenchmarkFill", strings.Join(files, ", "))
	case 1:
		return summarise(names[0], all)
	}
	return nil, fmt.Errorf("the runs are not of one machine: %q", names)
}

// read adds the results of BenchmarkFill in r to all.
func read(r io.Reader, name string, machines map[string]bool, all map[source]*samples) error {
	reader := benchfmt.NewReader(r, name)
	for reader.Scan() {
		var result *benchfmt.Result
		switch record := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return record
		case *benchfmt.Result:
			result = record
		}
		if result == nil || string(result.Name.Base()) != "Fill" {
			continue
		}
		at, err := pointOf(result)
		seconds, ok := result.Value("sec/op")
		if err == nil && (!ok || seconds <= 0) {
			err = errors.New("there is no time")
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", name, result.Name, err)
		}
		from := source{result.GetConfig("pkg"), at}
		if all[from] == nil {
			all[from] = new(samples)
		}
		all[from].times = append(all[from].times, seconds)
		if peak, ok := result.Value("peak-bytes"); ok {
			all[from].peaks = append(all[from].peaks, peak)
		}
		machine := cmp.Or(result.GetConfig(machineKey), strings.Trim(result.GetConfig("goos")+"/"+result.GetConfig("goarch"), "/"))
		machines[strings.Trim(machine+", "+result.GetConfig("cpu"), ", ")] = true
	}
	return reader.Err()
}

// pointOf returns what r is a result of.
func pointOf(r *benchfmt.Result) (at point, err error) {
	_, parts := r.Name.Parts()
	for _, part := range parts {
		switch key, value, _ := strings.Cut(string(part), "="); key {
		case "/size":
			if err := at.size.Set(value); err != nil {
				return at, fmt.Errorf("size %q: %w", value, err)
			}
		case "/impl":
			at.impl = value
		}
	}
	if at.size == 0 || at.impl == "" {
		return at, errors.New("the name has no size= and impl=")
	}
	return at, nil
}

// summarise reduces samples to medians.
func summarise(machine string, all map[source]*samples) (*results, error) {
	res := &results{machine: machine, figures: make(map[point]figure)}
	// What two packages measured counts as the first has it: that of mmapbuf, by
	// the alphabet.
	byPackage := func(a, b source) int { return cmp.Compare(a.pkg, b.pkg) }
	for _, from := range slices.SortedFunc(maps.Keys(all), byPackage) {
		for _, impl := range []string{base, subject} {
			if all[source{from.pkg, point{impl, from.size}}] == nil {
				return nil, fmt.Errorf("%s for %v cannot be compared: there is no result of %s in the same run", from.impl, from.size, impl)
			}
		}
		s, at := all[from], from.point
		f := res.figures[at]
		if f.runs == 0 {
			seconds := median(s.times)
			than := median(all[source{from.pkg, point{base, from.size}}].times)
			f = figure{runs: len(s.times), time: time.Duration(seconds * float64(time.Second)), ratio: seconds / than}
		}
		// A peak that some runs lack would be the median of something else.
		if f.peak == 0 && len(s.peaks) == len(s.times) {
			f.peak = median(s.peaks)
		}
		res.figures[at] = f
		if !slices.Contains(res.sizes, at.size) {
			res.sizes = append(res.sizes, at.size)
		}
		if !slices.Contains(res.impls, at.impl) {
			res.impls = append(res.impls, at.impl)
		}
	}
	slices.Sort(res.sizes)
	rank := func(impl string) float64 {
		if f, ok := res.figures[point{impl, res.largest()}]; ok {
			return f.ratio
		}
		return math.Inf(1) // what does not get that far goes last
	}
	slices.SortFunc(res.impls, func(a, b string) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a, b)) })
	return res, nil
}

func (r *results) largest() measure.Size { return r.sizes[len(r.sizes)-1] }

// median returns the value in the middle, or between the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// writeReport prints where the runs were made, and the table.
func writeReport(w io.Writer, data *results) error {
	byRuns := func(a, b figure) int { return a.runs - b.runs }
	figures := slices.Collect(maps.Values(data.figures))
	fmt.Fprintf(w, "machine: %s; medians of runs: %d to %d\n", cmp.Or(data.machine, "not known"),
		slices.MinFunc(figures, byRuns).runs, slices.MaxFunc(figures, byRuns).runs)
	fmt.Fprintf(w, "Time to fill a buffer, as a multiple of what %s takes in the same process (and itself).\n"+
		"Peak memory is the most that was resident, as a multiple of the data (and itself).\n\n", base)

	header := []string{"implementation"}
	for _, size := range data.sizes {
		header = append(header, size.String())
	}
	rows := [][]string{append(header, "peak memory, "+data.largest().String())}
	for _, impl := range data.impls {
		row := []string{impl}
		for _, size := range data.sizes {
			cell := "–"
			if f, ok := data.figures[point{impl, size}]; ok {
				cell = fmt.Sprintf("%s (%s)", measure.Ratio(f.ratio), measure.Duration(f.time))
			}
			row = append(row, cell)
		}
		cell := "–"
		if f := data.figures[point{impl, data.largest()}]; f.peak > 0 {
			cell = fmt.Sprintf("%s (%v)", measure.Ratio(f.peak/float64(data.largest())), measure.Size(f.peak))
		}
		rows = append(rows, append(row, cell))
	}
	return measure.Table(w, rows)
}
