package command

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/dustin/go-humanize"
)

// A Size is a flag.Value for a number of bytes: 64MiB, 1.5GB, 1000.
type Size int64

// MaxSize fits an int, and several times of it an int64.
const MaxSize = min(math.MaxInt, 1<<60)

// Set implements flag.Value.
func (s *Size) Set(text string) error {
	n, err := humanize.ParseBytes(text)
	switch {
	case err != nil:
		return errors.New("not a number of bytes such as 64MiB, 1.5GB or 1000")
	case n == 0:
		return errors.New("at least one byte is needed")
	case n > MaxSize:
		return fmt.Errorf("more than %v", Size(MaxSize))
	}
	*s = Size(n)
	return nil
}

// String returns s in binary units, with three digits at most.
func (s Size) String() string {
	number, unit, _ := strings.Cut(humanize.IBytesN(uint64(max(s, 0)), 3), " ")
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	return number + " " + unit
}
