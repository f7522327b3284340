package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// A reload that cannot have the memory for other workers changes nothing at all; one that fails later says what is in force, and so do
// all commands; the next one tries again.
func TestReloadPartly(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 1"})
	d := b.start()
	tables := filepath.Join(ctl.StateDir, fmt.Sprintf("net-%d.tables", b.netns()))
	inTheWay := func(name string) {
		t.Helper()
		ok(t, os.Mkdir(filepath.Join(tables, name), 0o700))
		ok(t, os.WriteFile(filepath.Join(tables, name, "file"), nil, 0o600)) // so that nothing can be renamed to it either
	}
	away := func(name string) { ok(t, os.RemoveAll(filepath.Join(tables, name))) }
	weight := func() int { return int(b.member("all", "server-1").Weight) }
	workers := func() int { return len(query[[]ctl.WorkerView](b, "worker")) }
	b.write(b.configText(settings{engine: "workers: 2", weights: []int{7}}))
	before := b.generation()

	inTheWay("fresh-2.1")
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != exitFailed || !strings.Contains(r.stderr, "connection table of worker 1") || strings.Contains(r.stderr, "in force") {
		t.Errorf("%+v", r)
	}
	if g := b.generation(); g != before || weight() != 1 || workers() != 1 {
		t.Errorf("generation %d was %d, weight %d, %d workers", g, before, weight(), workers())
	}
	away("fresh-2.1")
	if left, _ := filepath.Glob(filepath.Join(tables, "fresh-*")); len(left) > 0 {
		t.Errorf("it leaves %v", left)
	}

	inTheWay("worker-3.1")
	resp := must(b.post("/v1/reload"))(t)
	resp.Body.Close()
	if resp.StatusCode != http.StatusInternalServerError {
		t.Error(resp.Status)
	}
	away("worker-3.1")
	inTheWay("worker-5.1")
	r := b.sluice(nil, "reload", "--socket", b.socket)
	if want := fmt.Sprintf("the file is in force (generation %d), except for workers", b.generation()); r.code != exitFailed || !strings.Contains(r.stderr, want) || !strings.Contains(r.stderr, "reload again") {
		t.Errorf("%+v, want %s", r, want)
	}
	if g := b.generation(); g == before || weight() != 7 || workers() != 1 {
		t.Errorf("generation %d was %d, weight %d, %d workers", g, before, weight(), workers())
	}
	if r := b.sluice(nil, "config", "diff", "-c", b.config, "--socket", b.socket); !strings.Contains(r.stdout, "engine.workers") || strings.Contains(r.stdout, "weight") {
		t.Errorf("config diff: %+v", r)
	}
	away("worker-5.1")
	if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	if workers() != 2 {
		t.Errorf("%d workers", workers())
	}
	d.stop()
}

// post sends a request without a body.
func (b *bed) post(path string) (*http.Response, error) {
	c := http.Client{Transport: &http.Transport{DialContext: unixDialer(b.socket), DisableKeepAlives: true}}
	return c.Post("http://sluice"+path, "", nil)
}
