//go:build !windows && !plan9

package spool

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoName: nothing shows in the directory.
func TestNoName(t *testing.T) {
	for name, create := range map[string]func(dir string) (*os.File, error){
		"createTemp": createTemp, "createAndRemove": createAndRemove,
	} {
		dir := t.TempDir()
		f, err := create(dir)
		require.NoError(t, err, name)
		requireEmpty(t, dir)
		_, err = f.WriteString("abc")
		require.NoError(t, err, name)
		p := make([]byte, 3)
		_, err = f.ReadAt(p, 0)
		require.NoError(t, err, name)
		require.Equal(t, "abc", string(p), name)
		info, err := f.Stat()
		require.NoError(t, err)
		if runtime.GOOS != "wasip1" { // which has no modes
			require.Equal(t, fs.FileMode(0o600), info.Mode(), name)
		}
		require.NoError(t, f.Close())
		requireEmpty(t, dir)
		_, err = create(filepath.Join(dir, "missing"))
		require.ErrorIs(t, err, fs.ErrNotExist, name)
	}
}
