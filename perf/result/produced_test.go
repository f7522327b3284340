package result_test

import (
	"go/ast"
	"go/constant"
	"go/types"
	"slices"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"

	"sluice/perf/link"
	"sluice/perf/result"
)

// made are the functions that make names of metrics at run time, with the test that holds these names to the list.
var made = map[string]string{
	"link.http":        "perf/link: TestRatiosAreKnown",
	"link.linkCase":    "perf/link: TestRatiosAreKnown",
	"link.latencyCase": "perf/link: TestRatiosAreKnown",
	"link.Connections": "perf/link: TestRatiosAreKnown",
	"pipeline.shares":  "perf/pipeline: TestMetricsAreKnown",
	"pipeline.Scale":   "perf/pipeline: TestMetricsAreKnown",
}

// Every metric that any scenario can produce is in the list, and nothing else is. Scenarios give figures to the Recorder as
// result.Metrics, so the names are the keys of these in the source: those of literals, and those that are assigned to.
func TestEveryMetricIsKnown(t *testing.T) {
	loaded, err := packages.Load(&packages.Config{Mode: packages.LoadSyntax, BuildFlags: []string{"-pgo=off"}}, "sluice/perf/...", "sluice/cmd/sluice")
	if err != nil {
		t.Fatal(err)
	}
	s := scan{t: t, known: map[string]bool{}, produced: map[string]bool{}, made: map[string]bool{}, words: map[string]bool{}}
	for _, m := range result.Known() {
		s.known[m.Stored()] = true
	}
	for _, p := range loaded {
		for _, e := range p.Errors {
			t.Errorf("%s: %v", p.PkgPath, e)
		}
		if p.PkgPath == "sluice/perf/result" || p.Imports["sluice/perf/result"] == nil {
			continue
		}
		s.pkg = p
		for _, f := range p.Syntax {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					s.in = p.Name + "." + fn.Name.Name
				}
				ast.Inspect(d, s.node)
			}
		}
	}
	if len(s.produced) < 20 {
		t.Errorf("only %d names were found: %v", len(s.produced), s.produced)
	}
	for name, test := range made {
		if !s.made[name] {
			t.Errorf("%s makes no names any more, which %s is about", name, test)
		}
	}
	for _, name := range link.CarrierNames() {
		for _, kind := range []string{"", "loss_free", "p50", "p99"} {
			s.produced[result.Ratio(kind, name)] = true
		}
	}
	for _, m := range result.Known() {
		if !s.produced[m.Stored()] && !s.words[m.Stored()] {
			t.Errorf("no scenario produces %s", m.Name)
		}
	}
}

// scan looks for names of metrics in a package.
type scan struct {
	t   *testing.T
	pkg *packages.Package
	in  string // the function, with its package
	// known are those of the list; produced those that were found; made the functions that make some at run time; words all strings
	// of the source, among which are those that are made.
	known, produced, made, words map[string]bool
}

func (s *scan) node(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BasicLit:
		if v := s.pkg.TypesInfo.Types[n].Value; v != nil && v.Kind() == constant.String {
			s.words[constant.StringVal(v)] = true
		}
	case *ast.CompositeLit:
		if s.metrics(n) {
			for _, e := range n.Elts {
				s.name(e.(*ast.KeyValueExpr).Key)
			}
		}
	case *ast.AssignStmt:
		for i, l := range n.Lhs {
			if at, ok := l.(*ast.IndexExpr); ok && s.metrics(at.X) {
				s.name(at.Index)
			}
			if len(n.Lhs) == len(n.Rhs) && s.metrics(l) {
				s.whole(n.Rhs[i])
			}
		}
	case *ast.CallExpr:
		if sig, ok := s.pkg.TypesInfo.TypeOf(n.Fun).(*types.Signature); ok {
			for i, a := range n.Args {
				if p := sig.Params(); i < p.Len() && isMetrics(p.At(i).Type()) {
					s.whole(a)
				}
			}
		} else if len(n.Args) == 1 && s.metrics(n) {
			s.whole(n.Args[0]) // a conversion, or make
		}
	}
	return true
}

// metrics reports whether an expression is of type result.Metrics.
func (s *scan) metrics(e ast.Expr) bool { return isMetrics(s.pkg.TypesInfo.TypeOf(e)) }

func isMetrics(t types.Type) bool {
	n, ok := t.(*types.Named)
	return ok && n.Obj().Name() == "Metrics" && n.Obj().Pkg().Path() == "sluice/perf/result"
}

// name is a name that a metric gets.
func (s *scan) name(key ast.Expr) {
	v := s.pkg.TypesInfo.Types[key].Value
	if v == nil {
		s.made[s.in] = true
		if made[s.in] == "" {
			s.t.Errorf("%s: %s makes a metric's name at run time: a test must hold what it can make to the list of perf/result/metric.go, and be named above", s.pkg.Fset.Position(key.Pos()), s.in)
		}
		return
	}
	name := constant.StringVal(v)
	s.produced[name] = true
	if !s.known[name] {
		s.t.Errorf("%s: the metric %s is not in the list of perf/result/metric.go", s.pkg.Fset.Position(key.Pos()), name)
	}
}

// whole is what is taken for metrics as a whole: a map of another type could have any names.
func (s *scan) whole(e ast.Expr) {
	if _, other := s.pkg.TypesInfo.TypeOf(e).(*types.Map); other {
		s.t.Errorf("%s: a map is taken for metrics; give it the type result.Metrics, so that its names are seen here", s.pkg.Fset.Position(e.Pos()))
	}
}

// Every metric and every word has what a reader needs, and no two have the same heading.
func TestListsAreWhole(t *testing.T) {
	titles := map[string]bool{}
	sentence := func(name, about string) {
		if len(about) < 8 || strings.ContainsAny(about, "|<>\n") || strings.HasSuffix(about, ".") {
			t.Errorf("%s: %q is no sentence for a table", name, about)
		}
	}
	for _, m := range result.Known() {
		sentence(m.Name, m.About)
		if titles[m.Title] || m.Title == "" || m.Unit == "" {
			t.Errorf("%s: heading %q, unit %q", m.Name, m.Title, m.Unit)
		}
		titles[m.Title] = true
	}
	words := result.Words()
	for i, w := range words {
		sentence(w.Word, w.About)
		if slices.ContainsFunc(words[:i], func(o result.Word) bool { return o.Word == w.Word && o.Kind == w.Kind }) {
			t.Errorf("%s is there twice", w.Word)
		}
	}
}
