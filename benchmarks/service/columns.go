package main

import (
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/parquet-go/parquet-go"
)

// A row of a Parquet file takes about rowSize bytes there.
type row struct {
	ID      int64   `parquet:"id,delta"`
	Station string  `parquet:"station,dict"`
	Value   float64 `parquet:"value"`
	Error   float32 `parquet:"error"`
	Valid   bool    `parquet:"valid"`
}

const rowSize = 20

// openColumns returns a worker that writes a Parquet file into a buffer and reads
// it back.
func openColumns(j job) ([]worker, error) {
	rows := max(1, int64(j.Max)/rowSize)
	batch := make([]row, 1<<10)
	return []worker{{round: func() (int64, error) {
		b := newFullBuffer(j.Implementation)
		defer b.Close()
		if err := writeRows(b, rows, batch); err != nil {
			return 0, err
		}
		return int64(b.Len()), readRows(b, rows, batch)
	}}}, nil
}

func writeRows(b fullBuffer, rows int64, batch []row) error {
	w := parquet.NewGenericWriter[row](b, parquet.MaxRowsPerRowGroup(1<<18))
	random := rand.New(rand.NewPCG(1, 2))
	for id := int64(0); id < rows; {
		n := min(int64(len(batch)), rows-id)
		for i := range batch[:n] {
			batch[i] = row{id, fmt.Sprint("station ", id%500), random.Float64(), random.Float32(), id%3 == 0}
			id++
		}
		if _, err := w.Write(batch[:n]); err != nil {
			return err
		}
	}
	return w.Close()
}

func readRows(b fullBuffer, rows int64, batch []row) error {
	file, err := parquet.OpenFile(b, int64(b.Len()))
	if err != nil {
		return err
	}
	r := parquet.NewGenericReader[row](file)
	defer r.Close()
	for read := int64(0); read < rows; {
		n, err := r.Read(batch)
		read += int64(n)
		if err != nil && (err != io.EOF || read < rows) {
			return err
		}
		if n > 0 && batch[n-1].ID != read-1 {
			return fmt.Errorf("row %d is not what was written", read-1)
		}
	}
	return nil
}
