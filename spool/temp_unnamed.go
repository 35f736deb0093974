//go:build !windows && !plan9

package spool

import "os"

// createAndRemove creates a file in dir and removes its name.
func createAndRemove(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "mmapbuf-spool-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name()) // some systems only remove files that are closed
		return nil, err
	}
	return f, nil
}
