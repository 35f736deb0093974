// Command columns writes a Parquet file into a Buffer and reads it back. A Buffer is
// the io.Writer and the io.ReaderAt that the library requires.
//
//	go -C examples run ./columns
//	go -C examples run ./columns -rows 5000000
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"

	"github.com/parquet-go/parquet-go"

	"github.com/mmapbuf/mmapbuf"
)

func main() {
	rows := flag.Int64("rows", 500_000, "`number` of rows")
	flag.Parse()
	var b mmapbuf.Buffer
	defer b.Close()
	if err := write(&b, *rows); err != nil {
		log.Fatal(err)
	}
	sum, err := read(&b)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%d rows in %d bytes, mean value %.4f\n", *rows, b.Len(), sum/float64(*rows))
}

// A measurement is a row of the file.
type measurement struct {
	ID      int64   `parquet:"id,delta"`
	Station string  `parquet:"station,dict"`
	Value   float64 `parquet:"value"`
	Valid   bool    `parquet:"valid"`
}

// row returns row n, which is always the same.
func row(n int64) measurement {
	x := uint64(n) * 0x9e3779b97f4a7c15 // a pseudo-random number
	return measurement{
		ID:      n,
		Station: fmt.Sprintf("station %03d", x>>32%500),
		Value:   float64(x>>11) / (1 << 53),
		Valid:   x>>63 == 1,
	}
}

// rowGroup is how many rows the library collects before it writes them.
const rowGroup = 1 << 18

// write writes a file with that many rows.
func write(b *mmapbuf.Buffer, rows int64) error {
	file := parquet.NewGenericWriter[measurement](b, parquet.MaxRowsPerRowGroup(rowGroup))
	for n := range rows {
		if _, err := file.Write([]measurement{row(n)}); err != nil {
			return err
		}
	}
	return file.Close()
}

// read compares each row with what was written, and returns the sum of the values.
func read(b *mmapbuf.Buffer) (sum float64, err error) {
	file, err := parquet.OpenFile(b, int64(b.Len()))
	if err != nil {
		return 0, err
	}
	r := parquet.NewGenericReader[measurement](file)
	defer func() { err = errors.Join(err, r.Close()) }()
	var next int64
	for chunk := make([]measurement, 1<<10); ; {
		n, err := r.Read(chunk)
		for _, got := range chunk[:n] {
			if got != row(next) {
				return 0, fmt.Errorf("row %d differs from what was written", next)
			}
			sum += got.Value
			next++
		}
		if err == io.EOF {
			return sum, nil
		} else if err != nil {
			return 0, fmt.Errorf("row %d: %w", next, err)
		}
	}
}
