package spool

import (
	"os"

	"golang.org/x/sys/unix"
)

// createTemp creates a file without a name in dir. O_EXCL keeps it from ever
// getting one (linkat(2)).
func createTemp(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE|os.O_EXCL, 0o600)
	if err != nil { // of a file system that cannot do that, or of any other kind
		return createAndRemove(dir)
	}
	return f, nil
}
