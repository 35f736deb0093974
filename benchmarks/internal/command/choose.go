package command

import (
	"fmt"
	"slices"
	"strings"
)

// Choose returns those of names that a list, separated by commas, has, in the
// order of names.
func Choose(list string, names []string) ([]string, error) {
	wanted := strings.Split(list, ",")
	for i, name := range wanted {
		wanted[i] = strings.TrimSpace(name)
		if !slices.Contains(names, wanted[i]) {
			return nil, fmt.Errorf("%q is none of %s", wanted[i], strings.Join(names, ","))
		}
	}
	var chosen []string
	for _, name := range names {
		if slices.Contains(wanted, name) {
			chosen = append(chosen, name)
		}
	}
	return chosen, nil
}
