package mmapbuf

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestReflection prints and compares structs that have a Buffer as a field, also
// after its memory has gone elsewhere: that read unmapped memory, or that of
// another Buffer.
func TestReflection(t *testing.T) {
	type request struct{ body Buffer }
	for name, use := range map[string]func(b *Buffer){
		"nothing": func(*Buffer) {},
		"viewed":  func(b *Buffer) { b.Bytes() },
		"moved":   func(b *Buffer) { b.Grow(512 << 20) },
		"closed":  func(b *Buffer) { _ = b.Close() },
	} {
		for _, n := range []int{100, 3 << 20, 6 << 20} {
			var x, y request
			writeAllOf(t, &x.body, noise()[:n])
			writeAllOf(t, &y.body, noise()[:n])
			c := x
			use(&x.body)
			for _, v := range []request{x, y, c} {
				s := fmt.Sprintf("%v %+v %#v", v, v, v)
				assert.Less(t, len(s), 4000, "%s: contents are printed", name)
			}
			reflect.DeepEqual(x, y)
			reflect.DeepEqual(&x, &c)
		}
	}
}
