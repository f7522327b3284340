package main

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/perf/lab"
	"sluice/perf/link"
	"sluice/perf/result"
)

// The scenarios over real interfaces, with samples that are too short to say anything about speed. What is judged: every
// packet that a carrier says it sent arrived translated with right checksums (the scenario itself fails otherwise), every
// case is there with numbers, and nothing stays behind.

// linkRun runs a scenario to its end and reads its results.
func linkRun(t *testing.T, args ...string) *result.File {
	t.Helper()
	needCarriers(t)
	name := filepath.Join(t.TempDir(), "out.json")
	if args = append([]string{"perf"}, args...); args[1] != "pipeline" && args[1] != "scale" {
		args = append(args, "--no-install", "--verify")
	}
	cmd := exec.Command(program(t), append(args, "--json", name)...)
	before := labs(t)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	t.Logf("%s", out)
	counted(t, string(out))
	if left := cmdLabs(t, cmd.Process.Pid, before); left != "" {
		t.Errorf("left behind: %s", left)
	}
	f := must(result.ReadFile(name))(t)
	explained(t, f)
	measured[f.Scenario] = f
	return f
}

// counted asserts that a scenario says beforehand how long it takes, and that its steps are as many as it said.
func counted(t *testing.T, said string) {
	t.Helper()
	if !regexp.MustCompile(`(?m)^about \d+ (seconds?|minutes?): \d+ (samples?|cases?)`).MatchString(said) {
		t.Errorf("nothing says how long it takes:\n%s", said)
	}
	steps := regexp.MustCompile(`(?m)^ *\d+s \[(\d+)/(\d+)\] `).FindAllStringSubmatch(said, -1)
	for i, step := range steps {
		if step[1] != strconv.Itoa(i+1) || step[2] != strconv.Itoa(len(steps)) {
			t.Errorf("step %d of %d is called %s of %s", i+1, len(steps), step[1], step[2])
		}
	}
	if len(steps) == 0 {
		t.Errorf("no steps:\n%s", said)
	}
}

// explained asserts that a report can say what every metric and every word of a file means.
func explained(t *testing.T, f *result.File) {
	t.Helper()
	for i := range f.Results {
		for _, m := range f.Results[i].Names() {
			if result.MetricOf(m).About == "" {
				t.Errorf("%s: nothing explains the metric %s", f.Results[i].Case, m)
			}
		}
		for at, part := range strings.Split(f.Results[i].Case, "/") {
			if _, ok := result.WordOf(f.Scenario, part, at); !ok {
				t.Errorf("%s: nothing explains %s", f.Results[i].Case, part)
			}
		}
	}
}

// measured is the last file of each scenario that a test has made, for the report of all.
var measured = map[string]*result.File{}

func needCarriers(t *testing.T) {
	t.Helper()
	needRoot(t)
	if why := link.Missing(); why != nil {
		if os.Getenv("SLUICE_LAB") == "require" {
			t.Fatalf("%v, and SLUICE_LAB=require", why)
		}
		t.Skip(why)
	}
}

// labs are the namespaces that there are.
func labs(t *testing.T) map[string]bool {
	t.Helper()
	m := map[string]bool{}
	entries, err := os.ReadDir("/run/netns")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for _, e := range entries {
		m[e.Name()] = true
	}
	return m
}

// cmdLabs names what a process has left: the id of a lab holds that of its maker.
func cmdLabs(t *testing.T, pid int, before map[string]bool) string {
	t.Helper()
	var left []string
	for n := range labs(t) {
		if id, _, ok := strings.Cut(strings.TrimPrefix(n, "sluice-"), "-"); ok && !before[n] && id == strconv.Itoa(pid) {
			left = append(left, n)
			left = append(left, lab.Leftovers(n)...)
		}
	}
	return strings.Join(left, "\n")
}

// has asserts that a case was measured and that each metric is more than 0.
func has(t *testing.T, f *result.File, name string, metrics ...string) *result.Result {
	t.Helper()
	r := f.Find(name)
	if r == nil {
		for _, s := range f.Skipped {
			if s.Case == name {
				t.Skipf("%s: %s", name, s.Reason)
			}
		}
		t.Fatalf("no case %s", name)
	}
	for _, m := range metrics {
		if r.Metrics[m] <= 0 {
			t.Errorf("%s: %s is %v", name, m, r.Metrics[m])
		}
	}
	return r
}

// Packets of many connections and of new ones, one way and both, through sluice, the kernel and the forwarders.
func TestPerfLink(t *testing.T) {
	f := linkRun(t, "link", "--quick", "--window", "50ms", "--flows", "64,new", "--sizes", "64,imix",
		"--carriers", "forward-inline,sluice,rings,asavie", "--modes", "auto,generic,zero-copy")
	if f.Scenario != "link" || f.Host.Driver != "veth" || !strings.Contains(f.Host.Mode, "sluice: outside: xsk native copy") {
		t.Errorf("scenario %s, driver %s, mode %s", f.Scenario, f.Host.Driver, f.Host.Mode)
	}
	for _, c := range []string{"forward-inline", "sluice", "rings"} {
		for _, k := range []string{"/flows=64", "/flows=new", "/flows=64/direction=both", "/flows=64/size=imix"} {
			has(t, f, c+k, "mpps", "gbit_per_second")
		}
	}
	has(t, f, "asavie/flows=64", "mpps")
	has(t, f, "sluice/flows=64/mode=generic", "mpps")
	if has(t, f, "anchor/before", "mpps"); f.Find("sluice/flows=64").Metrics["to_rings"] <= 0 {
		t.Error("no ratio to our own rings")
	}
	if g := f.Host.Taken; g == nil || g.Core != 1 || g.LongestUs < g.P99us {
		t.Errorf("how often the core was taken away: %+v", g)
	}
	// A veth has no zero-copy, and that is said rather than measured as something else.
	if len(f.Skipped) != 1 || f.Skipped[0].Case != "sluice/flows=64/mode=zero-copy" || !strings.Contains(f.Skipped[0].Reason, "zero-copy") {
		t.Errorf("skipped: %v", f.Skipped)
	}
}

// A paced load is carried without loss, and the search finds a rate.
func TestPerfLinkPaced(t *testing.T) {
	f := linkRun(t, "link", "--quick", "--window", "100ms", "--flows", "64", "--directions", "both", "--rate", "2000", "--search", "--loss", "5",
		"--carriers", "sluice")
	r := has(t, f, "sluice/flows=64/direction=both", "mpps", "loss_free_mpps")
	if r.Metrics["mpps"] > 0.0022 {
		t.Errorf("%v Mpps at a pace of 0.002", r.Metrics["mpps"])
	}
}

func TestPerfConnections(t *testing.T) {
	f := linkRun(t, "connections", "--quick", "--window", "100ms", "--loss", "5", "--carriers", "sluice")
	for _, k := range []string{"proto=udp/flows=new", "proto=tcp/flows=new/life=whole", "proto=udp/flows=new/table=full"} {
		has(t, f, "sluice/"+k, "connections_per_second")
	}
}

func TestPerfLatency(t *testing.T) {
	f := linkRun(t, "latency", "--quick", "--window", "100ms", "--loss", "5", "--loads", "idle,half", "--probes", "500", "--carriers", "sluice,forward-inline")
	for _, proto := range []string{"udp", "udp/client=polling", "tcp", "tcp/client=polling"} {
		has(t, f, "forward-inline/proto="+proto+"/load=idle", "p50_us", "p99_us", "p999_us", "max_us")
		for _, polling := range []string{"busy", "adaptive", "interrupt"} {
			for _, load := range []string{"idle", "half"} {
				if strings.HasSuffix(proto, "/client=polling") && load != "idle" {
					continue
				}
				r := has(t, f, "sluice/proto="+proto+"/load="+load+"/polling="+polling, "p50_us", "p99_us", "p999_us", "max_us", "cpu_percent")
				if r.Metrics["p50_us"] > r.Metrics["p99_us"] || r.Metrics["p99_us"] > r.Metrics["max_us"] {
					t.Errorf("percentiles are out of order: %v", r.Metrics)
				}
			}
		}
	}
}

// Wrong words are refused before anything is made.
func TestPerfLinkUsage(t *testing.T) {
	for _, args := range []string{
		"link extra", "link --flows 0", "link --flows x", "link --sizes 65", "link --sizes ,", "link --directions up", "link --modes none",
		"link --carriers ipvs", "link --window 1ms", "link --core 0", "link --core 1000", "link --json /nonexistent/x", "link --runs 0", "link --rate -1", "latency --loads full", "latency --polling x",
		"latency --probes 0", "link --in x", "link --in x --out y", "link --in x --out y --to z", "connections --loss 200", "forwarder --driver mem", "forwarder --to-server x",
	} {
		if code := run(t.Context(), append([]string{"sluice", "perf"}, strings.Fields(args)...)); code != exitUsage {
			t.Errorf("sluice perf %s: exit code %d, want %d", args, code, exitUsage)
		}
	}
}

// An interrupt, or a terminal that is closed, ends a scenario at once and leaves nothing.
func TestPerfLinkInterrupted(t *testing.T) {
	needCarriers(t)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		t.Run(signal.String(), func(t *testing.T) { interruptPerfLink(t, signal) })
	}
}

func interruptPerfLink(t *testing.T, signal syscall.Signal) {
	cmd := exec.Command(program(t), "perf", "link", "--no-http", "--no-install", "--carriers", "sluice", "--window", "20s")
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	before := labs(t)
	ok(t, cmd.Start())
	eventually(t, "it measures", func() bool { return strings.Contains(out.String(), "anchor") })
	time.Sleep(500 * time.Millisecond)
	ok(t, cmd.Process.Signal(signal))
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(out.String(), "interrupted") {
			t.Errorf("ended with %v:\n%s", err, &out)
		}
	case <-time.After(stopTime):
		_ = cmd.Process.Kill()
		t.Fatalf("it did not end within %s:\n%s", stopTime, &out)
	}
	if left := cmdLabs(t, cmd.Process.Pid, before); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// What had been measured before an interrupt is printed and written, and the network is gone.
func TestPerfLinkKeepsWhatItHas(t *testing.T) {
	needCarriers(t)
	out, f, pid, before := interruptedRun(t, "run 2 of 1000", "link", "--quick", "--window", "50ms", "--runs", "1000", "--flows", "64", "--directions", "one-way", "--no-install", "--carriers", "forward-inline")
	r := has(t, f, "forward-inline/flows=64", "mpps", "gbit_per_second")
	if len(r.Samples["mpps"]) < 1 || len(f.Find("anchor/after").Samples["mpps"]) < 1 || !strings.Contains(out, "everything was taken down") {
		t.Errorf("%+v\n%s", r, out)
	}
	if left := cmdLabs(t, pid, before); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

// A carrier that cannot come up any more, in the middle, ends a scenario with what had been measured before: here the one that says what is
// wrong is the harness, whose configurations have gone.
func TestPerfLinkEndsByAnError(t *testing.T) {
	needCarriers(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "out.json")
	cmd := exec.Command(program(t), "perf", "link", "--quick", "--window", "50ms", "--runs", "1000", "--flows", "64", "--directions", "one-way", "--no-install",
		"--carriers", "forward-inline,sluice", "--json", name)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	before := labs(t)
	ok(t, cmd.Start())
	eventually(t, "the second repetition", func() bool { return strings.Contains(out.String(), "run 2 of 1000") })
	gone, err := filepath.Glob(filepath.Join(dir, "sluice-perf-*"))
	if err != nil || len(gone) != 1 {
		t.Fatal(gone, err)
	}
	ok(t, os.RemoveAll(gone[0]))
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(2 * stopTime):
		_ = cmd.Process.Kill()
		t.Fatalf("it did not end:\n%s", &out)
	}
	f := must(result.ReadFile(name))(t)
	if code := cmd.ProcessState.ExitCode(); code != exitFailed || f.Interrupted == "" || !strings.Contains(f.Error, "no such file") ||
		!strings.Contains(out.String(), "ended by an error at") || !strings.Contains(out.String(), "what had been measured is above and in "+name) {
		t.Errorf("exit code %d, %q at %q:\n%s", code, f.Error, f.Interrupted, &out)
	}
	if r := has(t, f, "forward-inline/flows=64", "mpps"); len(r.Samples["mpps"]) < 1 {
		t.Errorf("%+v", r)
	}
	if left := cmdLabs(t, cmd.Process.Pid, before); left != "" {
		t.Errorf("left behind: %s", left)
	}
}

func TestPerfPipelineKeepsWhatItHas(t *testing.T) {
	_, f, _, _ := interruptedRun(t, "run 4 of 1000", "pipeline", "--connections", "100", "--runs", "1000", "--duration", "20ms")
	if r := has(t, f, "nat/flows=100/workers=1", "ns_per_packet", "to_floor"); len(r.Samples["ns_per_packet"]) < 3 {
		t.Errorf("%d repetitions", len(r.Samples["ns_per_packet"]))
	}
}

// interruptedRun interrupts a scenario at a step of its progress, and asserts that it ends with 1, prints a table and writes the same.
func interruptedRun(t *testing.T, at string, args ...string) (text string, f *result.File, pid int, before map[string]bool) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "out.json")
	cmd := exec.Command(program(t), append(append([]string{"perf"}, args...), "--json", name)...)
	var out output
	cmd.Stdout, cmd.Stderr = &out, &out
	before = labs(t)
	ok(t, cmd.Start())
	eventually(t, at, func() bool { return strings.Contains(out.String(), at) })
	ok(t, cmd.Process.Signal(syscall.SIGINT))
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(stopTime):
		_ = cmd.Process.Kill()
		t.Fatalf("it did not end within %s:\n%s", stopTime, &out)
	}
	f = must(result.ReadFile(name))(t)
	explained(t, f)
	if code := cmd.ProcessState.ExitCode(); code != exitFailed || f.Interrupted == "" || !strings.Contains(out.String(), "what had been measured is above and in "+name) {
		t.Errorf("exit code %d, interrupted at %q:\n%s", code, f.Interrupted, &out)
	}
	for i := range f.Results {
		if !strings.Contains(out.String(), f.Results[i].Case+" ") {
			t.Errorf("%s is not in the table:\n%s", f.Results[i].Case, &out)
		}
	}
	return out.String(), f, cmd.Process.Pid, before
}

// A tester's two interfaces, with a router of the kernel between them.
func TestPerfLinkExternal(t *testing.T) {
	needCarriers(t)
	program(t)
	l := must(lab.New(t.Context(), "external"))(t)
	t.Cleanup(func() { ok(t, l.Close()) })
	tester, router := must(l.Host("tester"))(t), must(l.Host("router"))(t)
	ok(t, l.Wire(tester, "near", router, "outside", lab.WireOptions{}))
	ok(t, l.Wire(router, "inside", tester, "far", lab.WireOptions{}))
	ok(t, router.Addr("outside", "172.16.10.1/24"))
	ok(t, router.Addr("inside", "192.168.20.254/24"))
	server, client := netip.MustParseAddr("192.168.20.1"), netip.MustParseAddr("172.16.10.55")
	ok(t, router.Neighbour("inside", server, must(tester.MAC("far"))(t)))
	ok(t, router.Neighbour("outside", client, must(tester.MAC("near"))(t)))
	ok(t, router.Gateway(netip.MustParsePrefix("10.10.1.100/32"), server))
	ok(t, router.Gateway(lab.Sources, client))
	for _, name := range []string{"outside", "inside"} {
		ok(t, router.GRO(name, true))
	}
	ok(t, router.Sysctl("net.ipv4.ip_forward", "1"))
	name := filepath.Join(t.TempDir(), "out.json")
	out, err := tester.Run(t.Context(), program(t), "perf", "link", "--quick", "--window", "50ms", "--flows", "64,new", "--verify",
		"--in", "near", "--out", "far", "--router", must(router.MAC("outside"))(t).String(), "--name", "router", "--json", name)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f := must(result.ReadFile(name))(t)
	for _, k := range []string{"flows=64", "flows=new", "flows=64/direction=both"} {
		has(t, f, "router/"+k, "mpps")
	}
	if !strings.Contains(f.Host.Driver, "near, far") {
		t.Errorf("the driver is %q", f.Host.Driver)
	}
	// The generator's options hold here as in the lab: pace, sizes, connections, a search.
	out, err = tester.Run(t.Context(), program(t), "perf", "link", "--quick", "--window", "100ms", "--flows", "100", "--verify", "--rate", "2000", "--sizes", "imix",
		"--directions", "one-way", "--search", "--loss", "5", "--in", "near", "--out", "far", "--router", must(router.MAC("outside"))(t).String(), "--json", name)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f = must(result.ReadFile(name))(t)
	r := has(t, f, "external/flows=100/size=imix", "mpps", "loss_free_mpps", "gbit_per_second")
	if len(f.Results) != 1 || r.Metrics["mpps"] > 0.0022 {
		t.Errorf("%d results, %v Mpps at a pace of 0.002", len(f.Results), r.Metrics["mpps"])
	}
	if bytes := r.Metrics["gbit_per_second"] * 1e9 / 8 / (r.Metrics["mpps"] * 1e6); bytes < 250 || bytes > 500 {
		t.Errorf("a packet of the mix has %v bytes", bytes)
	}
}

// HTTP through HAProxy in both of its modes.
func TestPerfHTTP(t *testing.T) {
	if _, err := exec.LookPath("wrk"); err != nil {
		t.Skip(err)
	}
	f := linkRun(t, "link", "--quick", "--window", "1s", "--flows", ",", "--carriers", "haproxy-http") // HTTP alone
	for _, kind := range []string{"keep-alive", "close"} {
		for _, placement := range []string{"balancer-alone", "client-alone"} {
			has(t, f, "haproxy-http/http="+kind+"/placement="+placement, "requests_per_second", "cpu_percent")
		}
	}
	if !strings.Contains(f.Host.Mode, "mode http, one thread") {
		t.Errorf("it ran as %s", f.Host.Mode)
	}
}

// The page and the table of a whole run: one file of each scenario, and nothing of any is missing.
func TestPerfReportOfAll(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for _, args := range []string{
		"pipeline --quick --connections 100 --family 4,6 --duration 10ms --runs 1", "scale --quick --connections 100,200 --members 4,8 --virtuals 1,2 --rules 1,10 --workers 1 --base 100 --duration 10ms --runs 1",
		"link --quick --window 50ms --flows 64 --directions one-way --carriers forward-inline", "latency --quick --window 100ms --probes 500 --carriers forward-inline",
		"connections --quick --window 100ms --loss 50 --carriers sluice",
	} {
		words := strings.Fields(args)
		f := measured[words[0]]
		if f == nil { // this test runs alone
			f = linkRun(t, words...)
		}
		names = append(names, filepath.Join(dir, f.Scenario+".json"))
		ok(t, f.WriteFile(names[len(names)-1]))
	}
	page, table := filepath.Join(dir, "perf.html"), filepath.Join(dir, "perf.md")
	if _, _, err := perfRun(t, append([]string{"report", "-o", page, "--markdown", table}, names...)...); err != nil {
		t.Fatal(err)
	}
	html, markdown := string(must(os.ReadFile(page))(t)), string(must(os.ReadFile(table))(t))
	// That a page is well-formed is tested in perf/report.
	drawings := strings.Count(html, "<svg")
	if drawings < len(names) {
		t.Errorf("%d drawings of %d scenarios", drawings, len(names))
	}
	for _, name := range names {
		f := must(result.ReadFile(name))(t)
		if len(f.Results) == 0 || !strings.Contains(html, "<h2>"+f.Scenario+"</h2>") || !strings.Contains(markdown, "## "+f.Scenario) {
			t.Errorf("%s: %d results, or no heading", f.Scenario, len(f.Results))
		}
		for _, r := range f.Results {
			if !strings.Contains(html, r.Case) || !strings.Contains(markdown, r.Case) {
				t.Errorf("%s: no case %s in page and table", f.Scenario, r.Case)
			}
		}
	}
}
