package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"slices"

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

// writeReport prints what was measured under which setting of transparent huge
// pages, a table of what depends on the machine little, and one of times.
func writeReport(w io.Writer, cfg config, hugePages string, results []result) error {
	fmt.Fprintf(w, "work: %v (%d bytes) in writes of %v; runs of each, in turn: %d\nmachine: %s\n"+
		"figures: median (least..greatest)\n\n",
		cfg.size, int64(cfg.size), cfg.write, cfg.Runs, measure.Machine(hugePages))
	if err := measure.Table(w, memoryTable(results, float64(cfg.size))); err != nil {
		return err
	}
	fmt.Fprint(w, "\nPeak memory, and the bytes that growth copied, are multiples of the contents. The longest Write\n"+
		"is a part of the time for all. These figures depend little on the machine.\n\n")
	if err := measure.Table(w, timeTable(results)); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nThe time is from before the buffer is created until after its last Write; speed is a multiple of\n"+
		"that of %s. These figures depend on the machine.\n", buffers.Kinds[0].Name)
	if cfg.Runs == 1 {
		fmt.Fprint(w, "A single run has no spread: any difference may be chance.\n")
	}
	if hugePages != "" {
		fmt.Fprintf(w, "\nTransparent huge pages: [%s]. With this setting, %s.\n"+
			"Page faults and times, and thereby ratios of times, depend on it.\n", hugePages, meaning(hugePages))
	}
	_, err := fmt.Fprint(w, "\nThe collector interrupts a long copy with signals until the copy ends. Some virtual machines make\n"+
		"that slow; with GODEBUG=asyncpreemptoff=1 in the environment, there are no such signals.\n\n")
	return err
}

// memoryTable returns the rows of what depends on the machine little.
func memoryTable(results []result, size float64) [][]string {
	rows := [][]string{{"memory", "peak memory", "copied", "page faults", "longest Write"}}
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

// timeTable returns the rows of times. It compares no times that overlap.
func timeTable(results []result) [][]string {
	rows := [][]string{{"time", "time", "longest Write", "speed"}}
	std := slices.IndexFunc(results, func(r result) bool { return r.Name == buffers.Kinds[0].Name })
	for i, r := range results {
		speed := "n/a"
		switch {
		case i == std:
			speed = "1×"
		case std >= 0:
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
