package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const deployDir = "../../deploy"

// exportedMetrics are the names of ctl's descriptors, from its source: not every one has a sample in every scrape.
func exportedMetrics(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, path := range must(filepath.Glob("../../ctl/*.go"))(t) {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file := must(parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution))(t)
		ast.Inspect(file, func(n ast.Node) bool {
			call, isCall := n.(*ast.CallExpr)
			if !isCall || len(call.Args) < 2 {
				return true
			}
			f, isName := call.Fun.(*ast.Ident)
			lit, isLit := call.Args[0].(*ast.BasicLit)
			if isName && f.Name == "desc" && isLit && lit.Kind == token.STRING {
				names["sluice_"+must(strconv.Unquote(lit.Value))(t)] = true
			}
			return true
		})
	}
	if len(names) < 20 {
		t.Fatalf("only %d metrics are exported: %v", len(names), names)
	}
	return names
}

var metricName = regexp.MustCompile(`\bsluice_[a-z0-9_]+`)

// Alert rules and dashboard speak of metrics that there are.
func TestDeployMetrics(t *testing.T) {
	exported := exportedMetrics(t)
	for _, c := range []struct {
		file  string
		least int
	}{{"prometheus/sluice.rules.yaml", 7}, {"prometheus/sluice.rules.test.yaml", 4}, {"grafana/sluice.json", 24}} {
		text := string(must(os.ReadFile(filepath.Join(deployDir, c.file)))(t))
		used := map[string]bool{}
		for _, name := range metricName.FindAllString(text, -1) {
			used[name] = true
			if !exported[name] {
				t.Errorf("%s: no metric %s is exported", c.file, name)
			}
		}
		if len(used) < c.least {
			t.Errorf("%s uses %d metrics, not %d", c.file, len(used), c.least)
		}
	}
}

func TestDashboard(t *testing.T) {
	var d struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	ok(t, json.Unmarshal(must(os.ReadFile(filepath.Join(deployDir, "grafana/sluice.json")))(t), &d))
	at := map[[2]int]string{}
	for _, p := range d.Panels {
		if p.Title == "" || len(p.Targets) == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("%+v", p)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := at[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				at[[2]int{x, y}] = p.Title
			}
		}
		for _, q := range p.Targets {
			if strings.Count(q.Expr, "(") != strings.Count(q.Expr, ")") || !strings.Contains(q.Expr, `instance=~"$instance"`) {
				t.Errorf("%s: %s", p.Title, q.Expr)
			}
		}
	}
	if d.Title != "sluice" || len(d.Panels) < 10 {
		t.Errorf("%s has %d panels", d.Title, len(d.Panels))
	}
}

// Prometheus' own tool takes the rules and runs their tests.
func TestAlertRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		lacking(t, "promtool is not installed (apt-get install prometheus)")
	}
	for _, args := range [][]string{{"check", "rules", "sluice.rules.yaml"}, {"test", "rules", "sluice.rules.test.yaml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = filepath.Join(deployDir, "prometheus")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", args, err, out)
		}
	}
}

// unitSettings are the values of a setting of a unit, in order.
func unitSettings(t *testing.T, unit, key string) (values []string) {
	t.Helper()
	for line := range strings.Lines(string(must(os.ReadFile(filepath.Join(deployDir, "systemd", unit)))(t))) {
		if v, found := strings.CutPrefix(strings.TrimSpace(line), key+"="); found {
			values = append(values, v)
		}
	}
	return values
}

// The units' commands are ones that sluice has, and systemd takes the units.
func TestUnits(t *testing.T) {
	app := newApp()
	for _, unit := range []string{"sluice.service", "sluice-prepare.service"} {
		for _, key := range []string{"ExecStartPre", "ExecStart", "ExecReload", "ExecStop"} {
			for _, v := range unitSettings(t, unit, key) {
				_, line, found := strings.Cut(strings.TrimPrefix(v, "+"), "/usr/bin/sluice ")
				if !found {
					t.Errorf("%s: %s=%s", unit, key, v)
					continue
				}
				words := strings.Fields(strings.TrimSuffix(line, "'"))
				c := app.Command(words[0])
				if c != nil && len(words) > 1 && !strings.HasPrefix(words[1], "-") {
					c = c.Command(words[1])
				}
				if c == nil {
					t.Errorf("%s: sluice has no command %q", unit, words)
					continue
				}
				for _, w := range words {
					if strings.HasPrefix(w, "-") && flagNamed(c.Flags, trimDashes(w)) == nil {
						t.Errorf("%s: sluice %s has no flag %s", unit, c.Name, w)
					}
				}
			}
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		lacking(t, "systemd-analyze is not installed (apt-get install systemd)")
	}
	dir := t.TempDir()
	var paths []string
	for _, unit := range []string{"sluice-prepare.service", "sluice.service"} {
		text := string(must(os.ReadFile(filepath.Join(deployDir, "systemd", unit)))(t))
		// The program and its manual page are not installed here.
		text = strings.NewReplacer("/usr/bin/sluice", program(t), "Documentation=man:sluice(8)\n", "").Replace(text)
		paths = append(paths, filepath.Join(dir, unit))
		ok(t, os.WriteFile(paths[len(paths)-1], []byte(text), 0o644))
	}
	exposure := regexp.MustCompile(`Overall exposure level for sluice.service: ([0-9.]+)`)
	out := must(exec.Command(analyze, "security", "--offline=true", "--no-pager", paths[1]).Output())(t)
	m := exposure.FindSubmatch(out)
	if m == nil {
		t.Fatalf("systemd-analyze security says nothing of the exposure:\n%s", out)
	}
	t.Logf("systemd-analyze security: %s", m[0])
	if level := must(strconv.ParseFloat(string(m[1]), 64))(t); level > 2.5 {
		t.Errorf("the unit's exposure has risen to %v:\n%s", level, out)
	}
	if out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput(); err != nil || strings.Contains(string(out), dir) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}
