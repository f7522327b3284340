package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/pprof/profile"

	"sluice/perf/result"
)

// perfRun runs a command of perf in this process.
func perfRun(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	var out, errs bytes.Buffer
	app := newApp()
	prepare(app.Commands)
	app.Writer, app.ErrWriter = &out, &errs
	err = app.RunContext(t.Context(), flagsFirst(app, append([]string{"sluice", "perf"}, args...)))
	return out.String(), errs.String(), err
}

// The whole way of figures, with tiny sizes: measured, written, compared, reported. No speed is judged.
func TestPerfPipelineCommand(t *testing.T) {
	dir := t.TempDir()
	a, b, page := filepath.Join(dir, "a.json"), filepath.Join(dir, "b.json"), filepath.Join(dir, "r.html")
	prof := filepath.Join(dir, "cpu.pgo")
	for _, name := range []string{a, b} {
		stdout, stderr, err := perfRun(t, "pipeline", "--quick", "--connections", "100,2k", "--duration", "10ms", "--runs", "4", "--json", name, "--cpuprofile", prof)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(stdout, "nat/flows=2000/workers=1") || !strings.Contains(stderr, "run 4 of 4") {
			t.Errorf("%s\n%s", stdout, stderr)
		}
	}
	if p := must(profile.ParseData(must(os.ReadFile(prof))(t)))(t); len(p.Sample) == 0 || p.CheckValid() != nil {
		t.Errorf("the profile is %v", p)
	}
	f := must(result.ReadFile(a))(t)
	if f.Scenario != "pipeline" || len(f.Results) != 2 || f.Host.Cores < 1 || len(f.Host.Commands) != 1 || f.Host.Kernel == "" {
		t.Errorf("%+v", f)
	}
	for _, r := range f.Results {
		if r.Metrics["ns_per_packet"] <= 0 || r.Metrics["mpps"] <= 0 || r.Metrics["allocations_per_packet"] != 0 || len(r.Samples["ns_per_packet"]) != 4 {
			t.Errorf("%+v", r)
		}
	}
	stdout, _, err := perfRun(t, "compare", a, b)
	if err != nil || !strings.Contains(stdout, "n=4+4") || !strings.Contains(stdout, "~") {
		t.Errorf("%v\n%s", err, stdout)
	}
	stdout, _, err = perfRun(t, "report", a, b, "-o", page)
	if err != nil || !strings.Contains(stdout, "## pipeline") {
		t.Errorf("%v\n%s", err, stdout)
	}
	if html := string(must(os.ReadFile(page))(t)); strings.Count(html, "<h2>pipeline</h2>") != 2 || !strings.Contains(html, "</svg>") {
		t.Errorf("%d bytes of a page", len(html))
	}
}

// writeResults makes a file of one case.
func writeResults(t *testing.T, scenario, metric string, samples ...float64) string {
	t.Helper()
	r := result.NewRecorder(scenario, result.Host{CPU: "x"})
	for _, v := range samples {
		r.Add("nat/flows=1", result.Metrics{metric: v})
	}
	name := filepath.Join(t.TempDir(), "x.json")
	ok(t, r.File().WriteFile(name))
	return name
}

func TestPerfCompareCommand(t *testing.T) {
	slow := writeResults(t, "pipeline", "ns_per_packet", 60, 61, 62, 63, 64)
	fast := writeResults(t, "pipeline", "ns_per_packet", 30, 31, 32, 33, 34)
	other := writeResults(t, "link", "ns_per_packet", 1)
	ended := writeResults(t, "pipeline", "ns_per_packet", 60, 61)
	f := must(result.ReadFile(ended))(t)
	f.Interrupted = "run 3 of 5: nat/flows=1"
	ok(t, f.WriteFile(ended))
	empty := filepath.Join(t.TempDir(), "empty.json")
	ok(t, os.WriteFile(empty, []byte("{}"), 0o600))
	for _, c := range []struct {
		args []string
		want string // in the output
		err  string
		code int
	}{
		{[]string{"compare", slow, fast}, "-48.4%", "", exitOK},
		{[]string{"compare", slow, fast}, "nat/flows=1  ns/packet  62 ", "", exitOK},
		{[]string{"compare", slow, ended}, "note: " + ended + ": interrupted at", "", exitOK},
		{[]string{"compare", fast, slow}, "+93.8%", "", exitOK},
		{[]string{"compare", slow, slow}, "~", "", exitOK},
		{[]string{"compare", "--fail-above", "10", fast, slow}, "+93.8%", "nat/flows=1: ns/packet is worse by 93.8%, more than 10%", exitFailed},
		{[]string{"compare", fast, slow, "--fail-above", "100"}, "+93.8%", "", exitOK},
		{[]string{"compare", "--fail-above", "10", slow, fast}, "-48.4%", "", exitOK},
		{[]string{"compare", slow}, "", "takes two files", exitUsage},
		{[]string{"compare", "--fail-above", "-1", slow, fast}, "", "negative", exitUsage},
		{[]string{"compare", slow, other}, "", "only results of one scenario", exitFailed},
		{[]string{"compare", slow, empty}, "", "not a file of sluice perf --json", exitFailed},
		{[]string{"compare", slow, "/nowhere.json"}, "", "no such file", exitFailed},
		{[]string{"report"}, "", "takes files", exitUsage},
		{[]string{"report", empty}, "", "not a file of sluice perf --json", exitFailed},
		{[]string{"pipeline", "--connections", "many"}, "", `"many" is not a number`, exitUsage},
		{[]string{"pipeline", "--runs", "0"}, "", "--runs 0", exitUsage},
		{[]string{"pipeline", "--pattern", "square"}, "", `--pattern: "square" is none of uniform, zipf, round`, exitUsage},
		{[]string{"pipeline", "--mode", "nat,teleport"}, "", `--mode: "teleport" is none of nat, fullnat`, exitUsage},
		{[]string{"pipeline", "--size", "9000"}, "", `--size: "9000" is none of 64, imix, 1500`, exitUsage},
		{[]string{"pipeline", "--family", "5"}, "", `--family: "5" is none of 4, 6, both`, exitUsage},
		{[]string{"pipeline", "--workers", "1000"}, "", "--workers: 1000 is not between 1 and", exitUsage},
		{[]string{"pipeline", "--workers", "new"}, "", "--workers takes numbers, and not new", exitUsage},
		{[]string{"pipeline", "--connections", ","}, "", "--connections takes one or more numbers, or new", exitUsage},
		{[]string{"pipeline", "--connections", "1000M"}, "", "--connections: 1000M is not between 1 and 100000000", exitUsage},
		{[]string{"scale", "--rules", "1,1M"}, "", "--rules: 1M is not between 1 and 30000", exitUsage},
		{[]string{"scale", "--mode", "teleport"}, "", `--mode: "teleport" is none of nat`, exitUsage},
		{[]string{"scale", "--workers", ",", "--connections", ",", "--members", ",", "--virtuals", ",", "--rules", ","}, "", "nothing to measure", exitUsage},
		{[]string{"connections", "--carriers", "sluice,haproxy"}, "", `--carriers: connections has no "haproxy"; it has nftables, nftables-inline, sluice`, exitUsage},
		{[]string{"latency", "--carriers", "rings"}, "", `--carriers: latency has no "rings"; it has forward,`, exitUsage},
		{[]string{"latency", "--carriers", "haproxy", "--loads", "half"}, "", "nothing to measure", exitUsage},
		{[]string{"latency", "--loads", "full"}, "", `--loads: "full" is none of idle, half, 90`, exitUsage},
		{[]string{"latency", "--polling", "never"}, "", `--polling: "never" is none of busy, adaptive, interrupt`, exitUsage},
		{[]string{"latency", "--cores", "off"}, "", `--cores: "off" is none of awake, asleep`, exitUsage},
		{[]string{"link", "--carriers", "ipvs"}, "", `--carriers: link has no "ipvs"; it has forward,`, exitUsage},
		{[]string{"link", "--carriers", ","}, "", "--carriers takes one or more of forward,", exitUsage},
		{[]string{"link", "--carriers", "haproxy", "--no-http"}, "", "haproxy carries HTTP alone, which is left out", exitUsage},
		{[]string{"link", "--carriers", "rings", "--flows", ","}, "", `link over HTTP alone has no "rings"; it has forward,`, exitUsage},
		{[]string{"link", "--flows", ",", "--no-http"}, "", "nothing to measure: --flows is empty", exitUsage},
		{[]string{"link", "--flows", ",", "--in", "a", "--out", "b", "--router", "02:00:00:00:00:01"}, "", "--flows takes one or more numbers, or new", exitUsage},
		{[]string{"link", "--modes", "generic", "--in", "a", "--out", "b"}, "", "--modes is about carriers of the lab", exitUsage},
		{[]string{"link", "--carriers", "asavie", "--directions", "both", "--no-http"}, "", "nothing to measure: none of --carriers", exitUsage},
		{[]string{"link", "--sizes", "65"}, "", `--sizes: "65" is none of 64, imix, 1500`, exitUsage},
		{[]string{"link", "--modes", "native"}, "", `--modes: "native" is none of auto, copy, generic, zero-copy`, exitUsage},
		{[]string{"link", "--directions", "up"}, "", `--directions: "up" is none of one-way, both`, exitUsage},
		{[]string{"link", "--flows", "many"}, "", `--flows: "many" is neither new nor a number`, exitUsage},
		{[]string{"pipeline", "now"}, "", "takes no argument", exitUsage},
		{[]string{"scale", "--members", "1x"}, "", "is not a number", exitUsage},
		{[]string{"scale", "--members", "1M"}, "", "--members: 1M is not between 1 and 60000", exitUsage},
		{[]string{"scale", "--base", "0"}, "", "--base 0", exitUsage},
		{[]string{"link", "--ring-size", "100"}, "", "--ring-size 100 is not 64,", exitUsage},
		{[]string{"other"}, "", `no command "other"`, exitUsage},
	} {
		stdout, _, err := perfRun(t, c.args...)
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) || !strings.Contains(stdout, c.want) || exitCode(err) != c.code {
			t.Errorf("%q: exit %d, %v\n%s", c.args, exitCode(err), err, stdout)
		}
	}
}

func TestPerfNumber(t *testing.T) {
	for word, want := range map[string]int{"1": 1, "1k": 1000, "10M": 10_000_000, "new": 0, "": -1} {
		if n, err := perfNumber(word); err != nil || n != want {
			t.Errorf("%q is %d, %v", word, n, err)
		}
	}
	for _, word := range []string{"0", "-1", "1.5k", "k", "99999M", "1 0"} {
		if n, err := perfNumber(word); err == nil {
			t.Errorf("%q is %d", word, n)
		}
	}
}

// Two runs of one program on a machine that has become slower differ; compare says what else does. One repetition each tells nothing.
func TestPerfCompareNotes(t *testing.T) {
	write := func(by float64, runs int) string {
		rec := result.NewRecorder("pipeline", result.Host{CPU: "x"})
		for i := range runs {
			rec.Add("nat/flows=1", result.Metrics{"ns_per_packet": by * (20 + float64(i)/10), "floor_ns_per_packet": by * (6 + float64(i)/100), "to_floor": 4})
		}
		name := filepath.Join(t.TempDir(), "x.json")
		ok(t, rec.File().WriteFile(name))
		return name
	}
	const moved, few = "note: the machine was not the same", "note: too few repetitions"
	for _, c := range []struct {
		before, after string
		moved, few    bool
	}{
		{write(1, 5), write(1.1, 5), true, false},
		{write(1, 5), write(1, 5), false, false},
		{write(1, 1), write(1.1, 1), false, true},
		{write(1, 3), write(1.1, 4), false, true},
		{write(1, 3), write(1.1, 5), true, false},
	} {
		stdout, _, err := perfRun(t, "compare", c.before, c.after)
		ok(t, err)
		if strings.Contains(stdout, moved) != c.moved || strings.Contains(stdout, few) != c.few {
			t.Errorf("want notes %v, %v:\n%s", c.moved, c.few, stdout)
		}
	}
}
