// Command clients runs the tests of modules that use bytes.Buffer, with
// mmapbuf.Buffer in its place:
//
//	go run ./testdata/platforms/clients [-threshold n] [-timeout d] [module[@version]...]
//
// from the root of this repository. Each module is copied to a temporary folder
// together with a copy of ours, in which all storage is mapped (-threshold 1).
// Its tests run as they are, then with the swap, and a table says what failed.
// The swap is one of syntax: bytes.Buffer, bytes.NewBuffer and
// bytes.NewBufferString, in every Go file. If a package does not compile then,
// because something else requires a *bytes.Buffer, the files that the compiler
// names are put back, and those that depend on them, until it does.
package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"go/ast"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const ours = "github.com/mmapbuf/mmapbuf"

var (
	threshold = flag.Int("threshold", 1, "capacity in bytes above which a Buffer is a mapping")
	timeout   = flag.Duration("timeout", 4*time.Minute, "for the tests of a module")
	keep      = flag.Bool("keep", false, "leave the temporary folder")
	verbose   = flag.Bool("v", false, "print what failed")
)

// The modules if none is named. A path that ends in a folder of a module, after
// a colon, restricts it to the packages there.
var clients = []string{
	"github.com/pierrec/lz4/v4@v4.1.22",
	"github.com/ulikunitz/xz@v0.5.15",
	"github.com/vmihailenco/msgpack/v5@v5.4.1",
	"github.com/gorilla/websocket@v1.5.3",
	"github.com/golang/snappy@v1.0.0",
	"github.com/fxamacker/cbor/v2@v2.9.0",
	"github.com/andybalholm/brotli@v1.2.0",
	"github.com/yuin/goldmark@v1.7.13",
	"github.com/parquet-go/parquet-go@v0.25.1",
	"github.com/klauspost/compress@v1.18.0:./flate ./gzip ./huff0 ./s2 ./snappy ./zip ./zlib ./zstd",
}

func main() {
	flag.Parse()
	if flag.NArg() > 0 {
		clients = flag.Args()
	}
	tmp, err := os.MkdirTemp("", "mmapbuf-clients-")
	check(err)
	check(os.Setenv("TMPDIR", tmp)) // their tests leave files behind
	if *keep {
		fmt.Println(tmp)
	} else {
		defer os.RemoveAll(tmp)
	}
	lib := filepath.Join(tmp, "mmapbuf")
	check(copyOurs(lib))
	fmt.Println("| module | version | packages | uses | swapped | tests | failed without | failed with | seconds without | with |")
	fmt.Println("| --- | --- | ---: | ---: | ---: | ---: | --- | --- | ---: | ---: |")
	for _, c := range clients {
		name, packages, _ := strings.Cut(c, ":")
		if err := client(tmp, lib, name, strings.Fields(packages)); err != nil {
			fmt.Printf("| %s | %v |\n", name, err)
		}
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// copyOurs copies the package to dir, with another threshold. Without its tests,
// no module is needed but x/sys.
func copyOurs(dir string) error {
	files, err := filepath.Glob("*.go")
	if err != nil {
		return err
	}
	found := false
	for _, f := range append(files, "go.mod", "go.sum") {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		s, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		const decl = "\nvar mapThreshold = "
		if i := bytes.Index(s, []byte(decl)); i >= 0 {
			end := i + 1 + bytes.IndexByte(s[i+1:], '\n')
			s = slices.Concat(s[:i], []byte(decl+strconv.Itoa(*threshold)), s[end:])
			found = true
		}
		if err := write(filepath.Join(dir, f), s); err != nil {
			return err
		}
	}
	if !found {
		return fmt.Errorf("no mapThreshold here: start this from the root of %s", ours)
	}
	return nil
}

func write(name string, s []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, s, 0o644)
}

func environ() []string { return append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off") }

func goTool(dir string, args ...string) ([]byte, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = dir
	cmd.Env = environ()
	return cmd.CombinedOutput()
}

func client(tmp, lib, name string, packages []string) error {
	if len(packages) == 0 {
		packages = []string{"./..."}
	}
	module, version, found := strings.Cut(name, "@")
	if !found {
		version = "latest"
	}
	cmd := exec.Command("go", "mod", "download", "-json", module+"@"+version)
	cmd.Dir = lib
	out, err := cmd.Output()
	var m struct{ Version, Dir, Error string }
	if jerr := json.Unmarshal(out, &m); jerr != nil || m.Error != "" || err != nil {
		return fmt.Errorf("go mod download: %v %s", err, m.Error)
	}
	dir := filepath.Join(tmp, strings.ReplaceAll(module, "/", "_"))
	err = filepath.WalkDir(m.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		s, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(m.Dir, path)
		return write(filepath.Join(dir, rel), s)
	})
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		if out, err := goTool(dir, "mod", "init", module); err != nil {
			return fmt.Errorf("go mod init: %s", out)
		}
	}
	// Our module needs a newer language than theirs, in which some of the standard
	// library does other things, rand.Seed nothing. That is turned off, and both
	// runs have it.
	var mod struct{ Go string }
	out, err = goTool(dir, "mod", "edit", "-json")
	if err == nil {
		err = json.Unmarshal(out, &mod)
	}
	if err != nil {
		return fmt.Errorf("go mod edit: %v %s", err, out)
	}
	parts := strings.Split(cmp.Or(mod.Go, "1.20"), ".")
	godebug := "-godebug=default=go" + strings.Join(parts[:min(2, len(parts))], ".")
	for _, args := range [][]string{{"mod", "edit", "-go=1.25", godebug}, {"mod", "tidy", "-e"}} {
		if out, err := goTool(dir, args...); err != nil {
			return fmt.Errorf("go %s: %s", strings.Join(args, " "), out)
		}
	}
	without := test(dir, packages)

	dirs, err := list(dir, packages)
	if err != nil {
		return err
	}
	var files []*file
	total := 0
	for _, d := range dirs {
		names, _ := filepath.Glob(filepath.Join(d, "*.go"))
		for _, n := range names {
			f, err := swap(n)
			if err != nil {
				return err
			}
			if f.uses > 0 {
				files = append(files, f)
				total += f.uses
			}
		}
	}
	for _, args := range [][]string{
		{"mod", "edit", "-require=" + ours + "@v0.0.0", "-replace=" + ours + "=" + lib},
		{"mod", "tidy", "-e"},
	} {
		if out, err := goTool(dir, args...); err != nil {
			return fmt.Errorf("go %s: %s", strings.Join(args, " "), out)
		}
	}
	swapped, err := settle(dir, packages, files)
	if err != nil {
		return err
	}
	if out, err := goTool(dir, "mod", "tidy", "-e"); err != nil {
		return fmt.Errorf("go mod tidy: %s", out)
	}
	with := test(dir, packages)
	fmt.Printf("| %s | %s | %d | %d | %d | %d | %s | %s | %.0f | %.0f |\n", module, m.Version, len(dirs), total, swapped,
		with.passed+len(with.failed), without, with, without.took.Seconds(), with.took.Seconds())
	if *verbose && len(with.failed) > 0 {
		fmt.Printf("%s\n", with.out)
	}
	return nil
}

// list returns the folders of the packages, tests included.
func list(dir string, packages []string) ([]string, error) {
	out, err := goTool(dir, append([]string{"list", "-e", "-f", "{{.Dir}}"}, packages...)...)
	if err != nil {
		return nil, fmt.Errorf("go list: %s", out)
	}
	var dirs []string
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimSpace(line); filepath.IsAbs(line) {
			dirs = append(dirs, line)
		}
	}
	return dirs, nil
}

type file struct {
	name string
	was  []byte
	uses int
	back bool
}

// swap rewrites a file.
func swap(name string) (*file, error) {
	s, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	f := &file{name: name, was: s}
	set := token.NewFileSet()
	tree, err := parser.ParseFile(set, name, s, parser.ParseComments)
	if err != nil {
		return f, nil // the compiler has no use for it either
	}
	as, importSpec := "", (*ast.ImportSpec)(nil)
	for _, i := range tree.Imports {
		if i.Path.Value == `"bytes"` {
			as, importSpec = "bytes", i
			if i.Name != nil {
				as = i.Name.Name
			}
		}
	}
	if as == "" || as == "." || as == "_" {
		return f, nil
	}
	others := 0
	ast.Inspect(tree, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		x, ok := sel.X.(*ast.Ident)
		if !ok || x.Name != as || x.Obj != nil { // Obj: a variable of that name
			return true
		}
		switch sel.Sel.Name {
		case "Buffer", "NewBuffer", "NewBufferString":
			x.Name = "mmapbuf"
			f.uses++
		default:
			others++
		}
		return true
	})
	if f.uses == 0 {
		return f, nil
	}
	if others == 0 {
		importSpec.Name = ast.NewIdent("_")
	}
	var out bytes.Buffer
	if err := format.Node(&out, set, tree); err != nil {
		return nil, err
	}
	// After the package clause, wherever other imports are.
	set = token.NewFileSet()
	head, err := parser.ParseFile(set, name, out.Bytes(), parser.PackageClauseOnly)
	if err != nil {
		return nil, err
	}
	at := set.Position(head.Name.End()).Offset
	now := slices.Concat(out.Bytes()[:at], []byte("\n\nimport \""+ours+"\"\n"), out.Bytes()[at:])
	return f, os.WriteFile(name, now, 0o644)
}

func (f *file) putBack() error {
	f.back = true
	return os.WriteFile(f.name, f.was, 0o644)
}

var position = regexp.MustCompile(`(?m)^(?:vet: )?(\S+\.go):\d+:\d+: `)

// settle puts back what does not compile and returns how many uses are left.
func settle(dir string, packages []string, files []*file) (int, error) {
	for range 40 {
		out, _ := goTool(dir, append([]string{"test", "-run=^$", "-vet=off", "-gcflags=-e"}, packages...)...)
		hit := false
		for _, p := range position.FindAllSubmatch(out, -1) {
			name := string(p[1])
			if !filepath.IsAbs(name) {
				name = filepath.Join(dir, name)
			}
			for _, f := range files {
				if f.name == name && !f.back {
					hit = true
					if err := f.putBack(); err != nil {
						return 0, err
					}
				}
			}
			// The file named may only use what another declares.
			if !hit {
				for _, f := range files {
					if filepath.Dir(f.name) == filepath.Dir(name) && !f.back {
						hit = true
						if err := f.putBack(); err != nil {
							return 0, err
						}
					}
				}
			}
		}
		if !hit {
			n := 0
			for _, f := range files {
				if !f.back {
					n += f.uses
				} else if *verbose {
					rel, _ := filepath.Rel(dir, f.name)
					fmt.Println("put back:", rel, f.uses)
				}
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("it does not come to compile")
}

type result struct {
	passed int
	failed []string
	took   time.Duration
	out    string
}

func (r result) String() string {
	if len(r.failed) == 0 {
		return "0"
	}
	s := fmt.Sprint(len(r.failed), ": ", strings.Join(r.failed, ", "))
	if len(s) > 200 {
		s = s[:200] + "..."
	}
	return s
}

// test runs the tests of a module, one package at a time: memory is bounded.
func test(dir string, packages []string) (r result) {
	start := time.Now()
	cmd := exec.Command("go", append([]string{"test", "-json", "-short", "-count=1", "-vet=off", "-p=1",
		"-timeout=" + timeout.String()}, packages...)...)
	cmd.Dir = dir
	cmd.Env = environ()
	out, _ := cmd.Output()
	r.took = time.Since(start)
	last := map[string]string{}
	for line := range bytes.Lines(out) {
		var e struct{ Action, Package, Test, Output string }
		if json.Unmarshal(line, &e) != nil {
			continue
		}
		key := e.Package + "." + e.Test
		switch e.Action {
		case "output":
			last[key] += e.Output
		case "pass":
			if e.Test != "" && !strings.Contains(e.Test, "/") {
				r.passed++
			}
			delete(last, key)
		case "fail", "build-fail":
			if !strings.Contains(e.Test, "/") {
				name := e.Test
				if name == "" {
					if slices.ContainsFunc(r.failed, func(f string) bool { return strings.HasPrefix(f, e.Package+".") }) {
						continue // its tests have been named
					}
					name = "(package)"
				}
				r.failed = append(r.failed, e.Package+"."+name)
			}
			r.out += last[key]
		case "skip":
			delete(last, key)
		}
	}
	slices.Sort(r.failed)
	for i, f := range r.failed {
		r.failed[i] = f[strings.LastIndex(f, "/")+1:]
	}
	return r
}
