//go:build !linux && !windows && !plan9

package spool

import "os"

// createTemp creates a file without a name in dir.
func createTemp(dir string) (*os.File, error) { return createAndRemove(dir) }
