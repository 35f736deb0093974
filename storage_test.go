package mmapbuf

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestOnlyStorageTouchesMemory keeps what a Buffer's memory is used for in
// storage.go and publish.go, whose functions keep its mapping reachable:
// elsewhere buf is only measured, and mem only in the page layer.
func TestOnlyStorageTouchesMemory(t *testing.T) {
	for _, name := range []string{"at.go", "buffer.go", "collect.go", "errors.go", "file.go", "grow.go", "stats.go"} {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, 0)
		require.NoError(t, err)
		measured := make(map[ast.Node]bool)
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if fn, ok := n.Fun.(*ast.Ident); ok && (fn.Name == "len" || fn.Name == "cap") {
					measured[n.Args[0]] = true
				}
			case *ast.SelectorExpr:
				if (n.Sel.Name == "buf" || n.Sel.Name == "mem") && !measured[n] && name != "stats.go" {
					t.Errorf("%s uses %s", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}
