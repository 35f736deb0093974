package spool

import "os"

// createTemp creates a file in dir that the system removes when it is closed.
func createTemp(dir string) (*os.File, error) {
	const orclose = 0x40 // ORCLOSE of open(2), which package os passes on
	return os.OpenFile(tempName(dir), os.O_RDWR|os.O_CREATE|os.O_EXCL|orclose, 0o600)
}
