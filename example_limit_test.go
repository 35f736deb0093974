package mmapbuf_test

import (
	"errors"
	"fmt"
	"strings"

	"github.com/mmapbuf/mmapbuf"
)

// Buffers of a Limit share it. What one of them releases is there for the others.
func ExampleLimit() {
	limit := mmapbuf.NewLimit(16 << 20)
	upload := mmapbuf.Buffer{Limit: limit}
	report := mmapbuf.Buffer{Limit: limit}

	upload.Write(make([]byte, 16<<20))
	n, err := report.WriteString("summary")
	fmt.Println(n, errors.Is(err, mmapbuf.ErrTooLarge), limit.Used() == limit.Max())

	upload.Close()
	n, err = report.WriteString("summary")
	fmt.Println(n, err, limit.Used() < limit.Max())

	report.Close()
	fmt.Println(limit.Used())
	// Output:
	// 0 true true
	// 7 <nil> true
	// 0
}

// With a Limit for each tenant, one cannot take the memory of another.
func ExampleNewLimit() {
	tenants := map[string]*mmapbuf.Limit{
		"Ada":   mmapbuf.NewLimit(1000),
		"Grace": mmapbuf.NewLimit(1000),
	}
	receive := func(tenant string, size int) {
		b := &mmapbuf.Buffer{Limit: tenants[tenant]}
		defer b.Close()
		n, err := b.ReadFrom(strings.NewReader(strings.Repeat("x", size)))
		fmt.Printf("%s: %d bytes, too large: %t\n", tenant, n, errors.Is(err, mmapbuf.ErrTooLarge))
	}
	receive("Ada", 5000)
	receive("Grace", 500)
	fmt.Println(tenants["Ada"].Used(), tenants["Grace"].Used())
	// Output:
	// Ada: 1000 bytes, too large: true
	// Grace: 500 bytes, too large: false
	// 0 0
}
