package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/buffers"
	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// A result is the runs of one kind of buffer.
type result struct {
	buffers.Kind
	runs []outcome
}

func (r result) spread(figure func(outcome) float64) measure.Spread {
	return measure.SpreadOf(r.runs, figure)
}

func seconds(o outcome) float64 { return o.Elapsed.Seconds() }

// writeReport prints what was measured, a table of what depends on the machine
// little, and one of times.
func writeReport(w io.Writer, cfg config, results []result) error {
	hugePages := settings(results)
	fmt.Fprintf(w, "work: %v (%d bytes) in writes of %v; runs of each, in turn: %d\nmachine: %s\n"+
		"figures: median (least..greatest)\n\n",
		cfg.size, int64(cfg.size), cfg.write, cfg.Runs, measure.Machine(strings.Join(hugePages, " and ")))
	if err := measure.Table(w, memoryTable(results, float64(cfg.size))); err != nil {
		return err
	}
	fmt.Fprint(w, "\nPeak memory, and the bytes that growth copied, are multiples of the contents. The longest Write\n"+
		"is a part of the time for all. Apart from page faults, these figures depend little on the machine.\n\n")
	if err := measure.Table(w, timeTable(results)); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nThe time is from before the buffer is created until after its last Write; speed is a multiple of\n"+
		"that of %s. These figures depend on the machine.\n", buffers.Kinds[0].Name)
	if cfg.Runs == 1 {
		fmt.Fprint(w, "A single run has no spread: a difference may be chance, and no speed is given.\n")
	}
	switch {
	case len(hugePages) > 1:
		fmt.Fprint(w, "\nAnother program changed the setting of transparent huge pages during the runs. Page faults and\n"+
			"times cannot be compared: run it again.\n")
	case hugePages[0] != "":
		fmt.Fprintf(w, "\nTransparent huge pages: [%s]. With this setting, %s.\n"+
			"Page faults and times, and thereby ratios of times, depend on it.\n", hugePages[0], meaning(hugePages[0]))
	}
	_, err := fmt.Fprint(w, "\nWhile a collection waits for a long copy, the Go runtime interrupts the copy with signals, which is\n"+
		"slow on some virtual machines. GODEBUG=asyncpreemptoff=1 shows the times without these signals.\n\n")
	return err
}

// memoryTable returns the rows of what depends on the machine little.
func memoryTable(results []result, size float64) [][]string {
	rows := [][]string{{"implementation", "peak memory", "copied", "page faults", "longest Write"}}
	for _, r := range results {
		peak, faults := "n/a", "n/a"
		if r.runs[0].Known() {
			peak = r.spread(func(o outcome) float64 { return float64(o.Peak) / size }).Format(measure.Short, "×")
			faults = r.spread(func(o outcome) float64 { return float64(o.Faults) }).Format(count, "")
		}
		copied := r.spread(func(o outcome) float64 { return float64(o.Copied) / size })
		longest := r.spread(func(o outcome) float64 { return 100 * o.Longest.Seconds() / seconds(o) })
		rows = append(rows, []string{r.Name, peak, copied.Format(measure.Short, "×"), faults, longest.Format(measure.Short, "%")})
	}
	return rows
}

// timeTable returns the rows of times. It compares no times that overlap, and no
// single runs.
func timeTable(results []result) [][]string {
	rows := [][]string{{"implementation", "time", "longest Write", "speed"}}
	std := slices.IndexFunc(results, func(r result) bool { return r.Name == buffers.Kinds[0].Name })
	for i, r := range results {
		speed := "n/a"
		switch {
		case i == std:
			speed = "1×"
		case std >= 0 && len(r.runs) > 1:
			s := results[std].spread(seconds).Over(r.spread(seconds))
			if s.Min > 1 || s.Max < 1 {
				speed = s.Format(measure.Short, "×")
			} else {
				speed = "within the spread"
			}
		}
		longest := r.spread(func(o outcome) float64 { return o.Longest.Seconds() })
		rows = append(rows, []string{r.Name, r.spread(seconds).Duration(), longest.Duration(), speed})
	}
	return rows
}

// settings returns the settings of transparent huge pages under which the runs took
// place.
func settings(results []result) (list []string) {
	for _, r := range results {
		for _, o := range r.runs {
			list = append(list, o.HugePages)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// meaning explains a setting of transparent huge pages.
func meaning(hugePages string) string {
	small := measure.Size(os.Getpagesize())
	switch hugePages {
	case "always":
		return "all may have huge pages"
	case "madvise":
		return fmt.Sprintf("mmapbuf.Buffer and the bare mapping\nhave huge pages, and the others have pages of %v", small)
	}
	return fmt.Sprintf("all have pages of %v", small)
}

// count formats a number with three significant digits at most.
func count(x float64) string {
	if x >= 1000 {
		unit := math.Pow(10, math.Floor(math.Log10(x))-2)
		x = math.Round(x/unit) * unit
	}
	return humanize.Comma(int64(x))
}
