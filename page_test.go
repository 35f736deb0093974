package mmapbuf

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

func TestViewsAlias(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := filled(t, n)
		b.Next(10)
		p := b.Bytes()
		require.True(t, &p[0] == &b.Bytes()[0], "another Bytes")
		q, err := peek(b, 3)
		require.NoError(t, err)
		require.True(t, &p[0] == &q[0], "Peek and Bytes differ")

		copy(p, "bytes")
		c, err := b.ReadByte()
		require.NoError(t, err)
		require.Equal(t, byte('b'), c)
		q, err = peek(b, 4)
		require.NoError(t, err)
		require.Equal(t, "ytes", string(q))
		copy(q, "ou n")
		require.Equal(t, "bou n", string(p[:5]), "a change through Peek")
		require.Equal(t, "ou", string(b.Next(2)))
		p[len(p)-1] = 0
		s := b.String()
		require.Equal(t, byte(0), s[len(s)-1])
		require.Equal(t, " n", s[:2])
	})
}

// TestNextViewLastsUntilWrite: reads leave the view of Next alone.
func TestNextViewLastsUntilWrite(t *testing.T) {
	atSizes(t, func(t *testing.T, n int) {
		b := filled(t, n)
		view := b.Next(20)
		b.Read(make([]byte, n/2))
		b.ReadByte()
		b.ReadRune()
		b.UnreadByte()
		b.ReadBytes(noise()[n-10])
		b.ReadString(noise()[n-9])
		b.WriteTo(io.Discard)
		b.Read(make([]byte, 1))
		require.Equal(t, noise()[:20], view)
	})
}

// closed closes b, or does to a bytes.Buffer what comes nearest.
func closed(b buffer) {
	switch b := b.(type) {
	case *Buffer:
		_ = b.Close()
	case *bytes.Buffer:
		*b = bytes.Buffer{}
	}
}

// shrunk does so with Shrink.
func shrunk(b buffer) {
	switch b := b.(type) {
	case *Buffer:
		b.Shrink()
	case *bytes.Buffer:
		*b = *bytes.NewBuffer(bytes.Clone(b.Bytes()))
	}
}

// TestViewsSurvive: a view may be kept, whatever becomes of its Buffer. It shows what
// that of a bytes.Buffer does. Growth beyond Cap leaves it the old storage.
func TestViewsSurvive(t *testing.T) {
	const more = 20 * miB
	for name, change := range map[string]func(b buffer, n int){
		"unreachable":         func(buffer, int) {},
		"Grow":                func(b buffer, _ int) { b.Grow(more) },
		"Write much":          func(b buffer, _ int) { b.Write(make([]byte, more)) },
		"Grow and refill":     func(b buffer, n int) { b.Grow(more); b.Reset(); b.Write(make([]byte, n)) },
		"Reset":               func(b buffer, _ int) { b.Reset() },
		"Reset and refill":    func(b buffer, n int) { b.Reset(); b.Write(make([]byte, n)) },
		"Truncate and refill": func(b buffer, n int) { b.Truncate(0); b.Write(make([]byte, n/2)) },
		"Truncate":            func(b buffer, n int) { b.Truncate(n / 2); b.WriteString("overwritten") },
		"Read":                func(b buffer, n int) { b.Read(make([]byte, n/2)) },
		"WriteTo":             func(b buffer, n int) { b.WriteTo(io.Discard); b.Write(make([]byte, n)) },
		"Close":               func(b buffer, _ int) { closed(b) },
		"Close and refill":    func(b buffer, n int) { closed(b); b.Write(make([]byte, 2*n)) },
		"Shrink":              func(b buffer, _ int) { b.Grow(more); b.Bytes(); shrunk(b) },
		"Shrink to less":      func(b buffer, n int) { b.Next(n / 2); shrunk(b) },
		"Shrink to nothing":   func(b buffer, n int) { b.Next(n); shrunk(b); b.Write(make([]byte, n)) },
	} {
		t.Run(name, func(t *testing.T) {
			atSizes(t, func(t *testing.T, n int) {
				see := func(b buffer) (views [][]byte) {
					b.Write(noise()[:n])
					views = append(views, b.Bytes(), b.Bytes()[:n/4], b.Next(n/3))
					change(b, n)
					return views
				}
				var got, want [][]byte
				for range 3 {
					got = append(got, see(new(Buffer))...)
					want = append(want, see(new(bytes.Buffer))...)
				}
				for range 3 {
					runtime.GC() // cleanups run after the first
					new(Buffer).Write(make([]byte, n))
				}
				for i := range got {
					require.NoError(t, diffBytes(got[i], want[i]))
				}
			})
		})
	}
}

// Only page.go, whose functions keep the mapping reachable, uses the memory of a
// Buffer. Elsewhere it is only measured.
const pageFile = "page.go"

// mayGetMemory are the functions that page.go may pass memory to, and why: "callee",
// or "caller: callee" where it is for one caller only.
var mayGetMemory = map[string]string{
	"len":             "measures",
	"copy":            "keeps nothing",
	"clear":           "keeps nothing",
	"append":          "keeps nothing but its first argument, which the result is taken for",
	"string":          "copies",
	"utf8.DecodeRune": "reads four bytes",
	"utf8.AppendRune": "as append",
	"bytes.IndexByte": "reads",
	"vm.SameStart":    "compares addresses",
	"b.buf.Set":       "is where a Buffer keeps it",

	"withContents: f":         "a function literal, which this test looks into",
	"overwrite: f":            "a function literal, which this test looks into",
	"readSlice: r.Read":       "Go memory: ReadFrom calls it if there is no mapping",
	"readSlice: b.appendRead": "copies; Go memory as well",
	"readFile: f.Read":        "an os.File: read(2) fills it",
	"writeDirect: w.Write":    "a type that direct knows",
}

// mayReturnMemory are the functions that may return memory.
var mayReturnMemory = map[string]string{
	"unread": "Go memory: callers ask for it if there is no mapping",
	"view":   "Go memory: a slice",
}

// literalsGetMemory are the functions that pass memory to the function literal that
// is their last argument, and yieldMemory those that return it.
var (
	literalsGetMemory = []string{"withContents", "overwrite", "appendToMapping", "Append", "Read", "Overwrite"}
	yieldMemory       = []string{".buf.Slice", "m.Window", "m.Append", "m.Extend"}
)

// TestOnlyPagesTouchMemory looks at the syntax tree for uses of memory elsewhere,
// and for memory that leaves page.go.
func TestOnlyPagesTouchMemory(t *testing.T) {
	names, err := filepath.Glob("*.go")
	require.NoError(t, err)
	names = slices.DeleteFunc(names, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	require.Greater(t, len(names), 5)
	used := make(map[string]bool)
	for _, name := range names {
		src, err := os.ReadFile(name)
		require.NoError(t, err)
		assert.Empty(t, memoryLeaks(t, name, string(src), used))
	}
	for rule := range mayGetMemory {
		require.True(t, used[rule], "no longer needed: %s", rule)
	}
	for name := range mayReturnMemory {
		require.True(t, used["return "+name], "no longer needed: %s", name)
	}
}

// TestMemoryLeaksAreFound adds functions with leaks, and without.
func TestMemoryLeaksAreFound(t *testing.T) {
	leaks := map[string]string{
		"a Writer":           `func (b *Buffer) leak(w io.Writer) { w.Write(b.buf.Slice()) }`,
		"a part":             `func (b *Buffer) leak(w io.Writer) { w.Write(b.buf.Slice()[b.off : b.buf.Len-1]) }`,
		"of a mapping":       `func (b *Buffer) leak(w io.Writer) { p, _ := b.m.Window(1); w.Write(p) }`,
		"of Read":            `func (b *Buffer) leak(w io.Writer) { b.m.Read(1, 2, 3, func(p []byte) { w.Write(p) }) }`,
		"a variable":         `func (b *Buffer) leak(w io.Writer) { p := b.buf.Slice()[b.off:]; w.Write(p) }`,
		"variables":          `func (b *Buffer) leak(w io.Writer) { n, p := 1, b.buf.Slice(); var q []byte; q = p[n:]; w.Write(q) }`,
		"a conversion":       `func (b *Buffer) leak(w io.Writer) { w.Write([]byte(b.buf.Slice())) }`,
		"append":             `func (b *Buffer) leak(w io.Writer) { w.Write(append(b.buf.Slice(), 'x')) }`,
		"an address":         `func (b *Buffer) leak(f func(*byte)) { f(&b.buf.Slice()[1]) }`,
		"a slice of slices":  `func (b *Buffer) leak(f func([][]byte)) { f([][]byte{b.buf.Slice()}) }`,
		"a struct":           `func (b *Buffer) leak(f func(any)) { x := struct{ p []byte }{p: b.buf.Slice()}; f(x) }`,
		"a Reader":           `func (b *Buffer) leak(r io.Reader) { r.Read(b.buf.Slice()[:b.buf.Cap]) }`,
		"a goroutine":        `func (b *Buffer) leak(f func([]byte)) { go f(b.buf.Slice()) }`,
		"deferred":           `func (b *Buffer) leak(f func([]byte)) { defer f(b.buf.Slice()) }`,
		"in a literal":       `func (b *Buffer) leak(w io.Writer) { p := b.buf.Slice(); func() { w.Write(p) }() }`,
		"of withContents":    `func (b *Buffer) leak(w io.Writer) { b.withContents(func(p []byte) { w.Write(p[1:]) }) }`,
		"of write":           `func (b *Buffer) leak(w io.Writer) { b.appendToMapping(2, func(p []byte) int { n, _ := w.Write(p); return n }) }`,
		"kept":               `func (b *Buffer) leak() { b.withContents(func(p []byte) { kept = p }) }`,
		"a variable outside": `func (b *Buffer) leak() { kept = b.buf.Slice() }`,
		"a field":            `func (b *Buffer) leak(x *struct{ p []byte }) { x.p = b.buf.Slice() }`,
		"an element":         `func (b *Buffer) leak(x map[int][]byte) { x[1] = b.buf.Slice() }`,
		"a channel":          `func (b *Buffer) leak(c chan []byte) { c <- b.buf.Slice() }`,
		"a result":           `func (b *Buffer) leak() []byte { return b.buf.Slice()[b.off:] }`,
		"a named result":     `func (b *Buffer) leak() (p []byte) { p = b.buf.Slice(); return }`,
		"writeDirect's own":  `func (b *Buffer) writeDirect2(w io.Writer) { w.Write(b.buf.Slice()) }`,
		"another method":     `func (b *Buffer) writeDirect(w io.StringWriter, f *os.File) { f.Write(b.buf.Slice()) }`,
	}
	sound := map[string]string{
		"measuring":       `func (b *Buffer) sound(f func(int)) { f(b.buf.Len); f(b.buf.Cap - b.buf.Len) }`,
		"a byte":          `func (b *Buffer) sound(f func(byte)) { f(b.buf.Slice()[1]) }`,
		"a string":        `func (b *Buffer) sound(f func(string)) { f(string(b.buf.Slice())) }`,
		"a copy":          `func (b *Buffer) sound(w io.Writer) { w.Write(append([]byte(nil), b.buf...)) }`,
		"a comparison":    `func (b *Buffer) sound(f func(bool)) { f(&b.buf.Slice()[0] == nil) }`,
		"withContents":    `func (b *Buffer) sound() (s string) { b.withContents(func(p []byte) { s = string(p) }); return s }`,
		"what it gets":    `func (b *Buffer) sound(p []byte) { b.buf.Set(p) }`,
		"within a Buffer": `func (b *Buffer) sound() { p := b.buf.Slice()[:1]; b.buf.Set(p) }`,
	}
	source, err := os.ReadFile(pageFile)
	require.NoError(t, err)
	for name, f := range leaks {
		require.NotEmpty(t, memoryLeaks(t, pageFile, string(source)+"\n"+f, nil), name)
		require.NotEmpty(t, memoryLeaks(t, "file.go", "package mmapbuf\n"+f, nil), name)
	}
	for name, f := range sound {
		require.Empty(t, memoryLeaks(t, pageFile, string(source)+"\n"+f, nil), name)
	}
	for _, f := range []string{
		`func (b *Buffer) use() { p := b.buf.Slice(); _ = p }`,
		`func (b *Buffer) use() string { return string(b.buf.Slice()) }`,
		`func (b *Buffer) use() { b.buf.Set(nil) }`,
	} {
		require.NotEmpty(t, memoryLeaks(t, "new.go", "package mmapbuf\n"+f, nil), "not in page.go: %s", f)
	}
}

// memoryLeaks returns where a file uses memory without leave. It marks the rules
// that were needed.
func memoryLeaks(t *testing.T, name, src string, used map[string]bool) (leaks []string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, name, src, 0)
	require.NoError(t, err)
	for _, d := range file.Decls {
		f := &memoryUse{decl: d, names: make(map[string]bool), used: used}
		if fn, ok := d.(*ast.FuncDecl); ok {
			f.name, f.results = fn.Name.Name, fn.Type.Results
		}
		f.report = func(n ast.Node, format string, args ...any) {
			leaks = append(leaks, fmt.Sprintf("%s: %s: %s", fset.Position(n.Pos()), f.name, fmt.Sprintf(format, args...)))
		}
		for more := true; more; { // names of memory, until there are no more
			n := len(f.names)
			ast.Inspect(d, f.findNames)
			more = len(f.names) > n
		}
		ast.Inspect(d, f.check)
		if name != pageFile {
			f.checkMeasured()
		}
	}
	return leaks
}

// A memoryUse is what a declaration does with memory.
type memoryUse struct {
	decl    ast.Decl
	name    string          // of the function
	results *ast.FieldList  // of it
	names   map[string]bool // variables that are memory
	used    map[string]bool // rules that were needed
	report  func(n ast.Node, format string, args ...any)
}

// isMemory reports whether the value of e is, or has, memory of a Buffer or a
// mapping: not a byte or a copy of it.
func (f *memoryUse) isMemory(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return f.names[e.Name]
	case *ast.SliceExpr:
		return f.isMemory(e.X)
	case *ast.ParenExpr:
		return f.isMemory(e.X)
	case *ast.UnaryExpr:
		if i, ok := e.X.(*ast.IndexExpr); ok && e.Op == token.AND {
			return f.isMemory(i.X)
		}
		return e.Op == token.AND && f.isMemory(e.X)
	case *ast.KeyValueExpr:
		return f.isMemory(e.Value)
	case *ast.CompositeLit:
		return slices.ContainsFunc(e.Elts, f.isMemory)
	case *ast.CallExpr:
		if _, ok := e.Fun.(*ast.ArrayType); ok { // a conversion
			return f.isMemory(e.Args[0])
		}
		switch callee := types.ExprString(e.Fun); {
		case callee == "append", callee == "utf8.AppendRune":
			return f.isMemory(e.Args[0])
		default:
			return slices.ContainsFunc(yieldMemory, func(f string) bool { return strings.HasSuffix(callee, f) })
		}
	}
	return false
}

// findNames finds variables that are memory.
func (f *memoryUse) findNames(n ast.Node) bool {
	name := func(to, from []ast.Expr) {
		for i, e := range from {
			if id, ok := to[min(i, len(to)-1)].(*ast.Ident); ok && f.isMemory(e) {
				f.names[id.Name] = true
			}
		}
	}
	switch n := n.(type) {
	case *ast.AssignStmt:
		name(n.Lhs, n.Rhs)
	case *ast.ValueSpec:
		for i, e := range n.Values {
			name([]ast.Expr{n.Names[i]}, []ast.Expr{e})
		}
	case *ast.CallExpr:
		if s, ok := n.Fun.(*ast.SelectorExpr); ok && slices.Contains(literalsGetMemory, s.Sel.Name) && len(n.Args) > 0 {
			if lit, ok := n.Args[len(n.Args)-1].(*ast.FuncLit); ok {
				f.names[lit.Type.Params.List[0].Names[0].Name] = true
			}
		}
	}
	return true
}

// check reports memory that leaves the function.
func (f *memoryUse) check(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.CallExpr:
		callee := types.ExprString(n.Fun)
		if _, ok := n.Fun.(*ast.ArrayType); !ok && slices.ContainsFunc(n.Args, f.isMemory) && !f.allowed(mayGetMemory, "", callee, f.name+": "+callee) {
			f.report(n, "passes memory to %s", callee)
		}
	case *ast.AssignStmt:
		for i, e := range n.Rhs {
			if to := n.Lhs[min(i, len(n.Lhs)-1)]; f.isMemory(e) && !f.mayKeep(to) {
				f.report(n, "keeps memory in %s", types.ExprString(to))
			}
		}
	case *ast.SendStmt:
		if f.isMemory(n.Value) {
			f.report(n, "sends memory")
		}
	case *ast.ReturnStmt:
		if slices.ContainsFunc(n.Results, f.isMemory) && !f.allowed(mayReturnMemory, "return ", f.name) {
			f.report(n, "returns memory")
		}
	}
	return true
}

// allowed reports whether one of the rules is there.
func (f *memoryUse) allowed(rules map[string]string, mark string, names ...string) bool {
	for _, name := range names {
		if _, ok := rules[name]; ok {
			if f.used != nil {
				f.used[mark+name] = true
			}
			return true
		}
	}
	return false
}

// mayKeep reports whether memory may be assigned to e: to a Buffer or mapping, or
// to a variable of the function that it does not return.
func (f *memoryUse) mayKeep(e ast.Expr) bool {
	id, ok := e.(*ast.Ident)
	if !ok || id.Obj == nil {
		return ok && id.Name == "_"
	}
	in := func(n ast.Node) bool { return n.Pos() <= id.Obj.Pos() && id.Obj.Pos() < n.End() }
	return in(f.decl) && (f.results == nil || !in(f.results) || f.allowed(mayReturnMemory, "return ", f.name))
}

// checkMeasured reports all uses of memory but for its length and capacity, which
// are fields of a region.
func (f *memoryUse) checkMeasured() {
	measured := make(map[ast.Node]bool)
	ast.Inspect(f.decl, func(n ast.Node) bool {
		s, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if s.Sel.Name == "Len" || s.Sel.Name == "Cap" {
			measured[s.X] = true
		}
		if s.Sel.Name == "buf" && !measured[s] {
			f.report(s, "uses buf")
		}
		return true
	})
}
