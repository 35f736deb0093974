package spool

import (
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// createTemp creates a file in dir that the system removes when it is closed.
// FILE_ATTRIBUTE_TEMPORARY asks the system to keep it in its cache if it can.
func createTemp(dir string) (*os.File, error) {
	const (
		access = windows.GENERIC_READ | windows.GENERIC_WRITE | windows.DELETE
		attrs  = windows.FILE_ATTRIBUTE_TEMPORARY | windows.FILE_FLAG_DELETE_ON_CLOSE
	)
	name := tempName(dir)
	path, err := windows.UTF16PtrFromString(name)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	h, err := windows.CreateFile(path, access, windows.FILE_SHARE_DELETE, nil, windows.CREATE_NEW, attrs, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(h), name), nil
}
