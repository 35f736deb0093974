package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/parquet-go/parquet-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/mmapbuf/mmapbuf"
)

func TestRoundTrip(t *testing.T) {
	for _, rows := range []int64{1, 1<<10 - 1, 1 << 10, 1<<10 + 1, rowGroup, rowGroup + 5} {
		var b mmapbuf.Buffer
		require.NoError(t, write(&b, rows))
		sum, err := read(&b)
		require.NoError(t, err, rows)
		if rows > 1000 {
			assert.InDelta(t, 0.5, sum/float64(rows), 0.01, rows)
		}
		require.NoError(t, b.Close())
	}
	small := mmapbuf.Buffer{MaxLen: 1 << 20}
	assert.ErrorIs(t, write(&small, 200_000), mmapbuf.ErrTooLarge)
	require.NoError(t, small.Close())
}

// Single rows here and there can be read, which no stream can do, of a file that
// does not begin where the Buffer does.
func TestRandomRows(t *testing.T) {
	const rows = rowGroup + 1000
	var b mmapbuf.Buffer
	defer b.Close()
	b.WriteString("header")
	require.NoError(t, write(&b, rows))
	b.Next(len("header"))
	file, err := open(&b)
	require.NoError(t, err)
	r := parquet.NewGenericReader[measurement](file)
	defer r.Close()
	for _, n := range []int64{rows - 1, 0, rowGroup, rowGroup - 1, 4711, rows / 2} {
		require.NoError(t, r.SeekToRow(n))
		var got [1]measurement
		if _, err := r.Read(got[:]); err != io.EOF {
			require.NoError(t, err)
		}
		assert.Equal(t, row(n), got[0])
	}
}

// A row that is not as it was written is found, whichever column it is.
func TestOtherRows(t *testing.T) {
	for name, change := range map[string]func(*measurement){
		"ID":      func(r *measurement) { r.ID++ },
		"Station": func(r *measurement) { r.Station += "x" },
		"Value":   func(r *measurement) { r.Value++ },
		"Valid":   func(r *measurement) { r.Valid = !r.Valid },
	} {
		var b mmapbuf.Buffer
		file := parquet.NewGenericWriter[measurement](&b)
		for n := range int64(3000) {
			r := row(n)
			if n == 2500 {
				change(&r)
			}
			_, err := file.Write([]measurement{r})
			require.NoError(t, err)
		}
		require.NoError(t, file.Close())
		_, err := read(&b)
		assert.EqualError(t, err, "row 2500 differs from what was written", name)
	}
}

func TestBadFiles(t *testing.T) {
	b := new(mmapbuf.Buffer)
	require.NoError(t, write(b, 250_000))
	whole := b.Bytes()
	require.Greater(t, len(whole), 2<<20, "past where a mapping begins")
	type bad struct {
		name string
		file []byte
		says string
	}
	var files []bad
	for _, n := range []int{0, 1, 11, 12, len(whole) / 2, len(whole) - 1000, len(whole) - 8, len(whole) - 4, len(whole) - 1} {
		files = append(files, bad{fmt.Sprint("cut after ", n), whole[:n], ""})
	}
	end := len(whole) - 8 // length and magic of the footer, which lies before
	for _, d := range []struct {
		name string
		off  int
		with string
		says string
	}{
		{"magic at the start", 0, "JUNK", "magic"},
		{"magic at the end", end + 4, "JUNK", "magic"},
		{"length beyond the file", end, "\xff\xff\xff\x7f", "a footer of 2147483647 bytes in a file of "},
		{"length of nothing", end, "\x00\x00\x00\x00", "metadata"},
		{"negative length", end, "\xff\xff\xff\xff", "a footer of 4294967295 bytes in a file of "},
		{"footer", end - 500, strings.Repeat("\xff", 400), "thrift"},
		{"footer, its start", end - int(binary.LittleEndian.Uint32(whole[end:])), "\xff\xff\xff\xff\xff", "thrift"},
		{"a value, which has a sum", len(whole) / 2, "\x00\x01\x02\x03\x04\x05\x06\x07", "checksum mismatch"},
	} {
		file := bytes.Clone(whole)
		copy(file[d.off:], d.with)
		files = append(files, bad{d.name, file, d.says})
	}
	for _, test := range files {
		_, err := read(mmapbuf.NewBuffer(test.file))
		assert.ErrorContains(t, err, test.says, test.name)
	}
}
