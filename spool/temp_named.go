//go:build windows || plan9

package spool

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
)

// tempName returns a name in dir that no file has, except by an accident that
// is reported as an error.
func tempName(dir string) string {
	return filepath.Join(dir, fmt.Sprintf("mmapbuf-spool-%016x", rand.Uint64()))
}
