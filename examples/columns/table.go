package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/parquet-go/parquet-go"

	"github.com/mmapbuf/mmapbuf/examples/internal/buffers"
)

// A measurement is a row of the file.
type measurement struct {
	ID      int64   `parquet:"id,delta"`
	Station string  `parquet:"station,dict"`
	Value   float64 `parquet:"value"`
	Error   float32 `parquet:"error"`
	Valid   bool    `parquet:"valid"`
}

var columns = reflect.TypeFor[measurement]().NumField()

const (
	rowSize  = 20      // about what a row takes in the file, in bytes
	rowGroup = 1 << 18 // rows that are written, and held in memory for that, at a time
	batch    = 1 << 10 // rows that are handed over at a time
)

// row returns the row with that number, which is always the same.
func row(n int64) measurement {
	x := uint64(n) * 0x9e3779b97f4a7c15 // scatters; the fractional part of the golden ratio
	return measurement{
		ID:      n,
		Station: stations[x>>32%uint64(len(stations))],
		Value:   float64(x>>11) / (1 << 53),
		Error:   float32(x>>40) / (1 << 24),
		Valid:   x>>63 == 1,
	}
}

var stations = func() (names [500]string) {
	for i := range names {
		names[i] = fmt.Sprintf("station %03d", i)
	}
	return names
}()

// write writes a file of that many rows.
func write(w io.Writer, rows int64) error {
	file := parquet.NewGenericWriter[measurement](w, parquet.MaxRowsPerRowGroup(rowGroup))
	chunk := make([]measurement, 0, batch)
	for n := int64(0); n < rows; {
		for chunk = chunk[:0]; len(chunk) < cap(chunk) && n < rows; n++ {
			chunk = append(chunk, row(n))
		}
		if _, err := file.Write(chunk); err != nil {
			return err
		}
	}
	return file.Close()
}

// verify reads the file in b and compares it with what was written.
func verify(b buffers.Buffer, rows int64) error {
	if err := checkFooter(b); err != nil {
		return err
	}
	file, err := parquet.OpenFile(b, int64(b.Len()))
	if err != nil {
		return err
	}
	r := parquet.NewGenericReader[measurement](file)
	if err := verifyRows(r, rows); err != nil {
		return errors.Join(err, r.Close())
	}
	return r.Close()
}

// checkFooter returns an error if the length of the footer, which stands before
// the last four bytes, cannot be. Who opens the file allocates that much.
func checkFooter(b buffers.Buffer) error {
	const ends = 4 + 8 // the first and last bytes, which are no footer
	var p [4]byte
	if b.Len() < ends {
		return fmt.Errorf("%d bytes are no Parquet file", b.Len())
	}
	if _, err := b.ReadAt(p[:], int64(b.Len()-8)); err != nil {
		return err
	}
	if n := binary.LittleEndian.Uint32(p[:]); int64(n) > int64(b.Len()-ends) {
		return fmt.Errorf("a footer of %d bytes in a file of %d", n, b.Len())
	}
	return nil
}

func verifyRows(r *parquet.GenericReader[measurement], rows int64) error {
	var next int64
	for chunk := make([]measurement, batch); ; {
		n, err := r.Read(chunk)
		for _, got := range chunk[:n] {
			if got != row(next) {
				return fmt.Errorf("row %d differs from what was written", next)
			}
			next++
		}
		if err == io.EOF {
			break
		} else if err != nil {
			return fmt.Errorf("row %d: %w", next, err)
		}
	}
	if next != rows {
		return fmt.Errorf("%d rows of %d", next, rows)
	}
	return nil
}
