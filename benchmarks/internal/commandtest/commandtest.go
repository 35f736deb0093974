// Package commandtest tests the examples as commands.
package commandtest

import (
	"bytes"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf/benchmarks/internal/measure"
)

// mainVariable makes the test binary the program itself, which then finds
// itself by os.Executable like the real one.
const mainVariable = "MMAPBUF_EXAMPLE_MAIN"

// Main is for TestMain of a command whose function main this is.
func Main(m *testing.M, main func()) {
	if os.Getenv(mainVariable) != "" || measure.IsChild() {
		main()
		return
	}
	os.Exit(m.Run())
}

// Program returns the program as a command, with a temporary directory of its
// own to leave files in. None may be left in the end.
func Program(t *testing.T, args ...string) (cmd *exec.Cmd, stdout, stderr *bytes.Buffer) {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	stdout, stderr = new(bytes.Buffer), new(bytes.Buffer)
	cmd = exec.Command(exe, args...)
	temp := t.TempDir()
	cmd.Env = append(os.Environ(), mainVariable+"=1", "TMPDIR="+temp, "TEMP="+temp, "TMP="+temp)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	t.Cleanup(func() {
		left, err := os.ReadDir(temp)
		assert.NoError(t, err)
		assert.Empty(t, left, "temporary files are left behind")
	})
	return cmd, stdout, stderr
}

// RequireFails runs cmd, which must end with that status, print nothing, and
// say what went wrong in one line.
func RequireFails(t *testing.T, status int, says, name string, args ...string) {
	t.Helper()
	cmd, stdout, stderr := Program(t, args...)
	assert.Error(t, cmd.Run())
	assert.Equal(t, status, cmd.ProcessState.ExitCode())
	assert.Empty(t, stdout.String())
	assert.Contains(t, stderr.String(), says)
	assert.Regexp(t, `\A`+name+`: [^\n]+\n\z`, stderr.String(), "one line")
}

// RequireHelp checks that -h says how to use the program.
func RequireHelp(t *testing.T, name string) {
	t.Helper()
	cmd, stdout, stderr := Program(t, "-h")
	require.NoError(t, cmd.Run())
	assert.Empty(t, stdout.String())
	assert.Regexp(t, `\Ausage: `+name+` \[flags\]`, stderr.String())
}
