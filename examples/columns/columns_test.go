package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
	"github.com/mmapbuf/mmapbuf/examples/internal/buffers"
	"github.com/mmapbuf/mmapbuf/examples/internal/bufferstest"
	"github.com/mmapbuf/mmapbuf/examples/internal/commandtest"
	"github.com/mmapbuf/mmapbuf/examples/internal/system"
)

func TestMain(m *testing.M) { commandtest.Main(m, main) }

// written returns a file of that many rows.
func written(t *testing.T, rows int64) []byte {
	t.Helper()
	b := new(mmapbuf.Buffer)
	require.NoError(t, write(b, rows))
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	for _, rows := range []int64{1, batch - 1, batch, batch + 1, rowGroup, rowGroup + 5} {
		t.Run(fmt.Sprint(rows), func(t *testing.T) {
			bufferstest.Each(t, func(t *testing.T, b buffers.Buffer) {
				require.NoError(t, write(b, rows))
				assert.NoError(t, verify(b, rows))
				assert.ErrorContains(t, verify(b, rows+1), fmt.Sprintf("%d rows of %d", rows, rows+1))
			})
		})
	}
}

// A row that is not as it was written is found, whichever column it is.
func TestOtherRows(t *testing.T) {
	for name, change := range map[string]func(*measurement){
		"ID":      func(r *measurement) { r.ID++ },
		"Station": func(r *measurement) { r.Station += "x" },
		"Value":   func(r *measurement) { r.Value++ },
		"Error":   func(r *measurement) { r.Error++ },
		"Valid":   func(r *measurement) { r.Valid = !r.Valid },
	} {
		t.Run(name, func(t *testing.T) {
			bufferstest.Each(t, func(t *testing.T, b buffers.Buffer) {
				const rows = 3000
				file := parquet.NewGenericWriter[measurement](b)
				for n := range int64(rows) {
					r := row(n)
					if n == 2500 {
						change(&r)
					}
					_, err := file.Write([]measurement{r})
					require.NoError(t, err)
				}
				require.NoError(t, file.Close())
				assert.EqualError(t, verify(b, rows), "row 2500 differs from what was written")
			})
		})
	}
}

// TestRandomRows reads single rows here and there, which no stream could do, of
// a file that does not begin where the buffer does.
func TestRandomRows(t *testing.T) {
	const rows = rowGroup + 1000
	bufferstest.Each(t, func(t *testing.T, b buffers.Buffer) {
		_, err := b.Write(make([]byte, 100))
		require.NoError(t, err)
		require.NoError(t, write(b, rows))
		_, err = io.CopyN(io.Discard, b, 100)
		require.NoError(t, err)
		file, err := parquet.OpenFile(b, int64(b.Len()))
		require.NoError(t, err)
		r := parquet.NewGenericReader[measurement](file)
		defer r.Close()
		random := rand.New(rand.NewPCG(1, 2))
		for _, n := range []int64{rows - 1, 0, rowGroup, rowGroup - 1, random.Int64N(rows), random.Int64N(rows)} {
			require.NoError(t, r.SeekToRow(n))
			var got [1]measurement
			_, err := r.Read(got[:])
			if err != io.EOF {
				require.NoError(t, err)
			}
			assert.Equal(t, row(n), got[0])
		}
	})
}

// A row is the same every time, and no two are alike.
func TestRow(t *testing.T) {
	seen := make(map[float64]bool)
	stationsSeen := make(map[string]bool)
	for n := range int64(10000) {
		r := row(n)
		assert.Equal(t, r, row(n))
		assert.Equal(t, n, r.ID)
		seen[r.Value], stationsSeen[r.Station] = true, true
	}
	assert.Len(t, seen, 10000)
	assert.Len(t, stationsSeen, len(stations))
}

func TestCutOff(t *testing.T) {
	const rows = 200_000
	whole := written(t, rows)
	require.Greater(t, len(whole), 2<<20, "past where a mapping begins")
	bufferstest.Each(t, func(t *testing.T, b buffers.Buffer) {
		for _, n := range []int{0, 1, 4, 8, 11, 12, len(whole) / 2, len(whole) - 1000, len(whole) - 8, len(whole) - 4, len(whole) - 1} {
			bufferstest.Refill(t, b, whole[:n])
			err := verify(b, rows)
			require.Error(t, err, "%d of %d bytes", n, len(whole))
			assert.Regexp(t, `no Parquet file|a footer of|magic footer`, err.Error())
		}
	})
}

func TestDamaged(t *testing.T) {
	const rows = 200_000
	whole := written(t, rows)
	footer := len(whole) - 8 // length and magic of the footer, which lies before
	for name, at := range map[string]struct {
		off  int
		with string
		says string
	}{
		"magic at the start":       {0, "JUNK", "magic"},
		"magic at the end":         {footer + 4, "JUNK", "magic"},
		"length beyond the file":   {footer, "\xff\xff\xff\x7f", "a footer of 2147483647 bytes in a file of "},
		"length of nothing":        {footer, "\x00\x00\x00\x00", "metadata"},
		"negative length":          {footer, "\xff\xff\xff\xff", "a footer of 4294967295 bytes in a file of "},
		"footer":                   {footer - 500, strings.Repeat("\xff", 400), "thrift"},
		"footer, its start":        {footer - int(binary.LittleEndian.Uint32(whole[footer:])), "\xff\xff\xff\xff\xff", "thrift"},
		"a value, which has a sum": {len(whole) / 2, "\x00\x01\x02\x03\x04\x05\x06\x07", "checksum mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			bufferstest.Each(t, func(t *testing.T, b buffers.Buffer) {
				damaged := bytes.Clone(whole)
				copy(damaged[at.off:], at.with)
				bufferstest.Refill(t, b, damaged)
				err := verify(b, rows)
				require.Error(t, err)
				assert.Contains(t, err.Error(), at.says)
				assert.NotContains(t, err.Error(), "\n")
			})
		})
	}
}

// A writer that fails is an error of write, and no other.
func TestWriteFails(t *testing.T) {
	full := errors.New("no room")
	b := mmapbuf.Buffer{MaxLen: 1 << 20}
	defer b.Close()
	assert.ErrorIs(t, write(&b, 200_000), mmapbuf.ErrTooLarge)
	assert.ErrorIs(t, write(failing{full}, 10), full)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestProgram(t *testing.T) {
	cmd, stdout, stderr := commandtest.Program(t, "-rows", "20000", "-runs", "1")
	require.NoError(t, cmd.Run(), stderr)
	assert.Empty(t, stderr.String(), "no bar where there is no terminal")
	assert.Contains(t, stdout.String(), "work: 20000 rows of 5 columns to a Parquet file and back; runs of each, in turn: 1\n")
	for _, buffer := range buffers.Names {
		assert.Regexp(t, fmt.Sprintf(`\n\| 20000 rows +\| +%s \|(.*\|){6}\n`, buffer), stdout.String())
	}
}

func TestMistakes(t *testing.T) {
	commandtest.RequireHelp(t, "columns")
	for _, test := range []struct {
		args   string
		status int
		says   string
	}{
		{"-rows 0", 2, "-rows 0: a number from 1"},
		{"-rows -5", 2, "a number from 1"},
		{"-rows 99999999999999999", 2, "a number from 1 to 1125899906842624"},
		{"-rows many", 2, "-rows"},
		{"-runs 0", 2, "at least one run"},
		{"-colour", 2, "-colour"},
		{"file", 2, "no arguments but flags"},
		{"-rows 1000000000000", 1, "may need 72.8 TiB of memory in a bytes.Buffer"},
	} {
		t.Run(test.args, func(t *testing.T) {
			if _, ok := system.Available(system.Root); !ok && test.status == 1 {
				t.Skip("memory is not known on this system")
			}
			commandtest.RequireFails(t, test.status, test.says, "columns", strings.Fields(test.args)...)
		})
	}
}
