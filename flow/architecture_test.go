package flow_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The rules of the house, held for every package of the module. They are about the code that is built; tests may
// import what they like, as long as there is no cycle.
//
//	cmd  ->  ctl, perf  ->  engine  ->  rings, rewrite, sched, flow        rewrite, sched -> flow
//
// perf/lab stands alone, so that tests of every package can use it.

// mayImport lists, by folder, the folders of ours whose packages may be imported. The longest folder counts.
var mayImport = map[string][]string{
	"flow":        {},
	"rewrite":     {"flow"},
	"sched":       {"flow"},
	"rings":       {},
	"engine":      {"rings", "rewrite", "sched", "flow"},
	"ctl":         {"ctl", "engine", "rings", "rewrite", "sched", "flow"},
	"perf":        {"perf", "engine", "rings", "rewrite", "sched", "flow"},
	"perf/lab":    {},
	"perf/lab/vm": {"perf/lab"},
	"cmd":         {"cmd", "ctl", "perf", "engine", "rings", "rewrite", "sched", "flow"},
}

// never lists imports that a folder must not have, with everything below them unless it is excepted.
var never = map[string][]string{
	"flow":    pure,
	"rewrite": pure,
	"sched":   pure,
	"engine":  {"encoding", "log", "net/http"},
	"rings":   {"encoding/json", "log"},
}

// pure packages neither ask the system for anything nor share anything: time is a parameter, there is one owner.
var pure = []string{"net", "os", "time", "sync", "log", "syscall", "golang.org/x/sys", "io", "context", "encoding/json"}

// excepted are allowed although a package above them is not: types, arithmetic, the one store that publishes a record, what instructions there are.
var excepted = []string{"net/netip", "encoding/binary", "sync/atomic", "golang.org/x/sys/cpu"}

// goPackage is what we need of the output of go list -json.
type goPackage struct {
	ImportPath string
	Dir        string
	Imports    []string
	GoFiles    []string
	Module     struct{ Path string }
}

func packages(t *testing.T) (all []goPackage) {
	t.Helper()
	// With a profile, go list gives the packages of its binary names of their own.
	cmd := exec.Command("go", "list", "-pgo=off", "-json=ImportPath,Dir,Imports,GoFiles,Module", "./...")
	cmd.Dir = ".." // the root of the module
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs the go command")
	}
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		// go test notes what a test reads and repeats it when that changes: a new file shows in its folder.
		if _, err := os.ReadDir(p.Dir); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// folder is the package's place in the module.
func (p goPackage) folder() string { return strings.TrimPrefix(p.ImportPath, p.Module.Path+"/") }

// ruleOf finds the entry of rules for a folder or, failing that, for the one above.
func ruleOf[T any](rules map[string]T, folder string) (rule T, ok bool) {
	for ; folder != "."; folder = path.Dir(folder) {
		if rule, ok = rules[folder]; ok {
			return rule, true
		}
	}
	return rule, false
}

func within(name string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return name == f || strings.HasPrefix(name, f+"/") })
}

func TestArchitectureImports(t *testing.T) {
	all := packages(t)
	for _, p := range all {
		allowed, ok := ruleOf(mayImport, p.folder())
		if !ok {
			t.Errorf("%s: the rules do not know this package", p.ImportPath)
			continue
		}
		forbidden, _ := ruleOf(never, p.folder())
		for _, name := range p.Imports {
			if ours, is := strings.CutPrefix(name, p.Module.Path+"/"); is {
				if !within(ours, allowed) {
					t.Errorf("%s imports %s", p.ImportPath, name)
				}
			} else if within(name, forbidden) && !slices.Contains(excepted, name) {
				t.Errorf("%s imports %s", p.ImportPath, name)
			}
		}
	}
	for folder := range mayImport {
		if !slices.ContainsFunc(all, func(p goPackage) bool { return within(p.folder(), []string{folder}) }) {
			t.Errorf("the rules speak of %s, which has no package", folder)
		}
	}
}

// exits are what only a command does: end the process, and write to the terminal.
var exits = map[string][]string{
	"os":  {"Exit", "Stdout", "Stderr"},
	"log": {"Fatal", "Fatalf", "Fatalln", "Panic", "Panicf", "Panicln", "Print", "Printf", "Println"},
	"fmt": {"Print", "Printf", "Println"},
	"":    {"print", "println"},
}

// TestArchitectureFiles: unsafe only in files that say so, and only commands print and exit.
func TestArchitectureFiles(t *testing.T) {
	for _, p := range packages(t) {
		for _, name := range p.GoFiles {
			fset := token.NewFileSet()
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			imported := importNames(file)
			if imported["unsafe"] != "" && !strings.HasSuffix(name, "_unsafe.go") {
				t.Errorf("%s/%s imports unsafe: that is for files named *_unsafe.go", p.folder(), name)
			}
			if within(p.folder(), []string{"cmd"}) {
				continue
			}
			for _, use := range usesOf(file, imported) {
				t.Errorf("%s: %s is for commands", fset.Position(use.Pos()), use.Sel.Name)
			}
		}
	}
}

// importNames are the names by which a file knows its imports, by path.
func importNames(file *ast.File) map[string]string {
	names := map[string]string{}
	for _, i := range file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			continue // the parser has seen to that
		}
		names[p] = path.Base(p)
		if i.Name != nil {
			names[p] = i.Name.Name
		}
	}
	return names
}

// usesOf finds the uses of exits; those of builtins come as selectors of nothing.
func usesOf(file *ast.File, imported map[string]string) (uses []*ast.SelectorExpr) {
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.SelectorExpr:
			x, ok := n.X.(*ast.Ident)
			for pkg, names := range exits {
				if ok && pkg != "" && imported[pkg] == x.Name && slices.Contains(names, n.Sel.Name) {
					uses = append(uses, n)
				}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && slices.Contains(exits[""], f.Name) {
				uses = append(uses, &ast.SelectorExpr{X: f, Sel: f})
			}
		}
		return true
	})
	return uses
}

// TestArchitectureRules breaks each rule once, so that a rule that finds nothing is known to look.
func TestArchitectureRules(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "x.go", `package x
import ("os"; l "log"; "fmt"; "unsafe")
func f() { os.Exit(1); l.Fatal(); fmt.Println(); println(); fmt.Fprintln(os.Stderr); fmt.Sprint(); l.New(nil, "", 0); os.Getpid() }
`, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	imported := importNames(file)
	var got []string
	for _, use := range usesOf(file, imported) {
		got = append(got, use.Sel.Name)
	}
	slices.Sort(got)
	if want := []string{"Exit", "Fatal", "Println", "Stderr", "println"}; !slices.Equal(got, want) || imported["unsafe"] == "" {
		t.Errorf("found %q, not %q", got, want)
	}
	for _, c := range []struct {
		folder, name string
		ok           bool
	}{
		{"flow", "net/netip", true}, {"flow", "net", false}, {"flow", "sync/atomic", true}, {"flow", "sync", false}, {"sched", "golang.org/x/sys/unix", false},
		{"rewrite", "encoding/binary", true}, {"rewrite", "time", false}, {"engine", "log/slog", false}, {"engine", "network", true},
		{"perf/scenario", "encoding/json", true}, {"flow/deeper", "os/exec", false},
	} {
		forbidden, _ := ruleOf(never, c.folder)
		if ok := !within(c.name, forbidden) || slices.Contains(excepted, c.name); ok != c.ok {
			t.Errorf("%s may import %s: %v", c.folder, c.name, ok)
		}
	}
	if allowed, _ := ruleOf(mayImport, "perf/lab"); within("rings", allowed) {
		t.Error("perf/lab may import rings")
	}
	if allowed, _ := ruleOf(mayImport, "perf/other"); !within("perf/lab", allowed) || within("ctl", allowed) {
		t.Error("the rest of perf may import perf/lab and not ctl")
	}
}
