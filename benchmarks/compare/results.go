package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/perf/benchfmt"
)

const (
	// base is what all others are compared with, and subject what the comparison
	// is about.
	base    = "bytes.Buffer"
	subject = "mmapbuf.Buffer"

	// machineKey is the line of a saved run that describes the machine.
	machineKey = "machine"
)

// A figure is what one implementation takes for one size.
type figure struct {
	runs int
	time time.Duration // median
	// ratio compares time with that of base in the same package: how often the
	// collector runs depends on what else its process holds.
	ratio float64
	peak  float64 // median of the bytes that were resident at most; 0: not known
}

// Results are medians of all runs.
type results struct {
	machine string // "": the runs do not tell
	sizes   []int64
	impls   []string // from fast to slow, for the largest size
	figures map[point]figure
}

type point struct {
	impl string
	size int64
}

// A source is a point as measured by the benchmarks of one package.
type source struct {
	pkg string
	point
}

// samples are what the runs say of a source.
type samples struct {
	times, peaks []float64
}

// readAll reads runs from files, or from stdin for -.
func readAll(files []string, stdin io.Reader) (*results, error) {
	var machines []string
	all := make(map[source]*samples)
	for _, name := range files {
		r, title := stdin, "standard input"
		if name != "-" {
			f, err := os.Open(name)
			if err != nil {
				return nil, err
			}
			defer f.Close()
			r, title = f, name
		}
		machine, err := read(r, title, all)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(machines, machine) {
			machines = append(machines, machine)
		}
	}
	if len(machines) > 1 {
		return nil, fmt.Errorf("the runs are not of one machine: %q", machines)
	}
	return summarise(machines[0], all)
}

// read adds the results of BenchmarkFill in r to all and returns what the run
// says of the machine.
func read(r io.Reader, name string, all map[source]*samples) (machine string, err error) {
	var machines []string
	reader := benchfmt.NewReader(r, name)
	for reader.Scan() {
		var result *benchfmt.Result
		switch record := reader.Result().(type) {
		case *benchfmt.SyntaxError:
			return "", record
		case *benchfmt.Result:
			result = record
		default:
			continue
		}
		at, ok, err := pointOf(result)
		if err != nil {
			return "", fmt.Errorf("%s: %s: %w", name, result.Name, err)
		} else if !ok {
			continue
		}
		seconds, ok := result.Value("sec/op")
		if !ok || seconds <= 0 {
			return "", fmt.Errorf("%s: %s has no time", name, result.Name)
		}
		from := source{result.GetConfig("pkg"), at}
		s := all[from]
		if s == nil {
			s = new(samples)
			all[from] = s
		}
		s.times = append(s.times, seconds)
		if peak, ok := result.Value("peak-bytes"); ok {
			s.peaks = append(s.peaks, peak)
		}
		if m := describe(result); !slices.Contains(machines, m) {
			machines = append(machines, m)
		}
	}
	if err := reader.Err(); err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	switch len(machines) {
	case 0:
		return "", fmt.Errorf("%s has no results of BenchmarkFill", name)
	case 1:
		return machines[0], nil
	}
	return "", fmt.Errorf("%s has runs of more than one machine: %q", name, machines)
}

// pointOf returns what r is a result of, if that is a point of BenchmarkFill.
func pointOf(r *benchfmt.Result) (at point, ok bool, err error) {
	base, parts := r.Name.Parts()
	if string(base) != "Fill" {
		return at, false, nil
	}
	for _, part := range parts {
		key, value, _ := strings.Cut(string(part), "=")
		switch key {
		case "/size":
			n, err := humanize.ParseBytes(value)
			if err != nil || n == 0 || n > 1<<62 {
				return at, false, fmt.Errorf("the size %q is not a number of bytes", value)
			}
			at.size = int64(n)
		case "/impl":
			at.impl = value
		}
	}
	if at.size == 0 || at.impl == "" {
		return at, false, errors.New("the name has no size= and impl=")
	}
	return at, true, nil
}

// describe returns what r says of its machine.
func describe(r *benchfmt.Result) string {
	words := []string{r.GetConfig(machineKey)}
	if words[0] == "" {
		words[0] = strings.Trim(r.GetConfig("goos")+"/"+r.GetConfig("goarch"), "/")
	}
	words = append(words, r.GetConfig("cpu"))
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return s == "" }), ", ")
}

// summarise reduces samples to medians.
func summarise(machine string, all map[source]*samples) (*results, error) {
	res := &results{machine: machine, figures: make(map[point]figure)}
	// What two packages measured counts as the first has it: that of mmapbuf, by
	// the alphabet.
	byPackage := func(a, b source) int { return cmp.Compare(a.pkg, b.pkg) }
	for _, from := range slices.SortedStableFunc(maps.Keys(all), byPackage) {
		than := all[source{from.pkg, point{base, from.size}}]
		if than == nil {
			return nil, missing(base, from)
		}
		s, at := all[from], from.point
		f := res.figures[at]
		if f.runs == 0 {
			seconds := median(s.times)
			f.runs = len(s.times)
			f.time = time.Duration(seconds * float64(time.Second))
			f.ratio = seconds / median(than.times)
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
	for from := range all {
		if _, ok := res.figures[point{subject, from.size}]; !ok {
			return nil, missing(subject, from)
		}
	}

	largest := res.sizes[len(res.sizes)-1]
	slices.SortFunc(res.impls, func(a, b string) int {
		fa, inA := res.figures[point{a, largest}]
		fb, inB := res.figures[point{b, largest}]
		if inA != inB { // what does not get that far goes last
			if inA {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(fa.ratio, fb.ratio), cmp.Compare(a, b))
	})
	return res, nil
}

// missing returns the error that impl has no result where another one has.
func missing(impl string, from source) error {
	return fmt.Errorf("%s for %s cannot be compared: there is no result of %s in the same run", from.impl, sizeName(from.size), impl)
}

// median returns the value in the middle, or between the two in the middle.
func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// sizeName returns size in binary units, as in the names of benchmarks.
func sizeName(size int64) string {
	number, unit, _ := strings.Cut(humanize.IBytesN(uint64(size), 3), " ")
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	return number + " " + unit
}
