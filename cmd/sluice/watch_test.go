package main

import (
	"bytes"
	"encoding/json"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"sluice/ctl"
	"sluice/perf/lab"
)

func TestInterval(t *testing.T) {
	for s, want := range map[string]time.Duration{"true": 2 * time.Second, "1": time.Second, "0.5": 500 * time.Millisecond, "300ms": 300 * time.Millisecond, "1m": time.Minute} {
		var v interval
		if err := v.Set(s); err != nil || v.every != want {
			t.Errorf("%q: %s, %v", s, v.every, err)
		}
	}
	for _, s := range []string{"", "fast", "50ms", "0", "-1", "25h"} {
		if err := new(interval).Set(s); err == nil {
			t.Errorf("%q is taken", s)
		}
	}
}

// What is drawn fits the terminal, and nothing of the last block stays behind it.
func TestRedraw(t *testing.T) {
	for _, c := range []struct {
		block         string
		rows, columns int
		want          string
	}{
		{"A  B\n1  2\n", 24, 80, "\x1b[HA  B\x1b[K\r\n1  2\x1b[K\r\n\x1b[J"},
		{"abcdefghij\n", 24, 4, "\x1b[Habcd\x1b[K\r\n\x1b[J"},
		{"äöüß\n", 24, 3, "\x1b[Häöü\x1b[K\r\n\x1b[J"},
		{"1\n2\n3\n4\n5\n", 4, 80, "\x1b[H1\x1b[K\r\n2\x1b[K\r\n(3 lines more)\x1b[K\r\n\x1b[J"},
	} {
		if got := redraw(c.block, c.rows, c.columns); got != c.want {
			t.Errorf("%q on %dx%d: %q, want %q", c.block, c.columns, c.rows, got, c.want)
		}
	}
}

// A watch prints block after block, outlives the engine's restart, and ends on an interrupt with exit code 0.
func TestWatch(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	d := b.start()
	watch := func(args ...string) (*output, func()) {
		t.Helper()
		out := &output{}
		cmd := exec.Command(program(t), append(args, "--socket", b.socket)...)
		cmd.Stdout, cmd.Stderr = out, out
		p := must(b.Balancer.Start(cmd))(t)
		return out, func() {
			t.Helper()
			ok(t, p.Signal(syscall.SIGINT))
			if err := p.Wait(); err != nil {
				t.Errorf("sluice %s: %v\n%s", args, err, out)
			}
		}
	}
	table, endTable := watch("worker", "--watch", "0.1")
	list, endList := watch("member", "list", "--watch=200ms", "-o", "json")
	eventually(t, "three tables, parted by empty lines", func() bool { return strings.Count(table.String(), "\n\nWORKER  CORE") >= 2 })
	eventually(t, "three lists", func() bool { return strings.Count(list.String(), "server-1") >= 6 })
	d.stop()
	eventually(t, "it says that the engine has gone", func() bool { return strings.Contains(table.String(), "\nsluice: no sluice answers") })
	seen := strings.Count(table.String(), "WORKER")
	d = b.start()
	eventually(t, "it goes on with the next engine", func() bool { return strings.Count(table.String(), "WORKER") > seen })
	endTable()
	endList()
	before, _, _ := strings.Cut(list.String(), "sluice: ")
	for dec := json.NewDecoder(strings.NewReader(before)); ; {
		var v []ctl.MemberView
		if err := dec.Decode(&v); err == io.EOF {
			break
		} else if err != nil || len(v) != 2 {
			t.Fatalf("%v: %v", v, err)
		}
	}
	if r := b.sluice(nil, "worker", "--watch", "20ms", "--socket", b.socket); r.code != exitUsage || !strings.Contains(r.stderr, "between 100ms and 24h") {
		t.Errorf("%+v", r)
	}
	d.stop()
	if r := b.sluice(nil, "worker", "--watch", "--socket", b.socket); r.code != exitFailed {
		t.Errorf("a watch of nothing: %+v", r)
	}
}

// config show has what runs and what a file says; config diff has what reload would do, and says what it would refuse.
func TestConfigCommands(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	file := query[[]ctl.Setting](b, "config", "show", "-c", b.config)
	d := b.start()
	running := query[[]ctl.Setting](b, "config", "show")
	if len(file) < 50 || len(ctl.Diff(file, running)) != 0 {
		t.Errorf("the engine runs with\n%v\nthe file says\n%v", running, file)
	}
	if r := b.sluice(nil, "config", "diff", "-c", b.config, "--socket", b.socket); r.code != 0 || r.stdout != "the running engine has what "+b.config+" says\n" {
		t.Errorf("%+v", r)
	}
	text := b.configText(settings{weights: []int{3}})
	b.write(strings.Replace(text, "engine: {", "engine: {ring-size: 1024", 1))
	r := b.sluice(nil, "config", "diff", "-c", b.config, "--socket", b.socket)
	want := `~ engine.ring-size: 512 > 1024  (needs a restart)
~ pools[all].members[server-1].weight: 1 > 3
~ pools[all6].members[server-1].weight: 1 > 3
1 of 3 changes need a restart, and sluice reload refuses the file for them
`
	if r.code != 0 || r.stdout != want {
		t.Errorf("%+v, want\n%s", r, want)
	}
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != exitFailed || !strings.Contains(r.stderr, "ring-size") {
		t.Errorf("reload takes what diff said it would refuse: %+v", r)
	}
	b.write(text)
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
		t.Errorf("%+v", r)
	}
	if d := query[configDifference](b, "config", "diff", "-c", b.config); len(d.Changes) != 0 || len(d.Ordered) != 0 {
		t.Errorf("after the reload: %v", d)
	}
	d.stop()
}

func TestSuggestions(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"runn", `did you mean "run"?`},
		{"memebr", `did you mean "member"?`},
		{"conn shwo", `did you mean "show"?`},
		{"perf pipelin", `did you mean "pipeline"?`},
		{"config dif", `did you mean "diff"?`},
		{"run --takover", `did you mean --takeover?`},
		{"conn list --membre x", `did you mean --member?`},
	} {
		app := newApp()
		app.Writer, app.ErrWriter = io.Discard, io.Discard
		prepare(app.Commands)
		err := app.RunContext(t.Context(), flagsFirst(app, append([]string{"sluice"}, strings.Fields(c.args)...)))
		if exitCode(err) != exitUsage || !strings.Contains(err.Error(), c.want) {
			t.Errorf("sluice %s: %v, want %s", c.args, err, c.want)
		}
	}
	if best := nearest("xyzzy", []string{"run", "check"}); best != "" {
		t.Errorf("xyzzy is like %s", best)
	}
}

func TestPrintDoctor(t *testing.T) {
	var b bytes.Buffer
	ok(t, printDoctor(&b, &ctl.DoctorReport{OK: 1, Warnings: 1, Findings: []ctl.Finding{
		{Level: ctl.LevelOK, Subject: "host", Check: "kernel", Text: "Linux 6.18"},
		{Level: ctl.LevelWarn, Subject: "outside (eth1)", Check: "rp-filter", Text: "it is 1", Meaning: "packets are dropped", Mend: "sysctl x=2"},
	}}))
	want := `ok    host            kernel     Linux 6.18
warn  outside (eth1)  rp-filter  it is 1
                                   packets are dropped
                                   mend: sysctl x=2
1 ok, 0 notes, 1 warnings, 0 failures
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", &b, want)
	}
}
