package link

import (
	"strings"
	"testing"
	"time"

	"sluice/perf/result"
)

// A plan counts what the options say, and is longer for more of it.
func TestPlans(t *testing.T) {
	quick := &Options{Runs: 1, Quick: true, Window: 200 * time.Millisecond, GeneratorCore: 0, CarrierCore: 1}
	l := &LinkOptions{Flows: []int{1000, 0}, Sizes: []string{"64"}, Directions: []string{"one-way", "both"}, Modes: []string{"auto"}}
	p := l.plan(quick)
	// Nine carriers that are no proxies, twice; answers do not come back through one that reflects.
	if p.samples != 9+9+8 || p.anchors != 2 || p.time < 10*time.Second || p.time > 40*time.Second {
		t.Errorf("link --quick: %+v", p)
	}
	all := *quick
	all.Runs, all.Quick, all.Window = 3, false, time.Second
	if q := l.plan(&all); q.samples != 3*p.samples || q.anchors != 6 || q.time < 3*26*time.Second || !q.again {
		t.Errorf("three repetitions with windows of 1s: %+v", q)
	}
	searching := *l
	searching.Search = true
	if q := searching.plan(quick); q.samples != p.samples || q.time < 2*p.time {
		t.Errorf("with a search: %+v, without %+v", q, p)
	}
	k := &LatencyOptions{Loads: []string{"idle"}, Polling: []string{"busy", "adaptive", "interrupt"}, Cores: []string{"awake"}}
	// Each of two protocols and two clients: forward, nftables, both inline in two ways, sluice in three; TCP has HAProxy too.
	if p := k.plan(quick); p.samples != 2*9+2*10 {
		t.Errorf("latency --quick: %+v", p)
	}
	loaded := *k
	loaded.Loads = []string{"half", "90"}
	one, two := loaded.plan(quick), plan{}
	again := *quick
	again.Runs = 2
	if two = loaded.plan(&again); one.samples != 4*7 || two.samples != 2*one.samples || two.time > 2*one.time-10*time.Second {
		t.Errorf("loads: %+v once, %+v twice; the search is of the first alone", one, two)
	}
	if p := connectionsPlan(quick); p.samples != 9 {
		t.Errorf("connections: %+v", p)
	}
	if p := l.externalPlan(&all); p.samples != 9 || p.anchors != 0 {
		t.Errorf("two interfaces: %+v", p)
	}
	var b strings.Builder
	all.Progress = result.NewProgress(&b, false, 0)
	all.begin(plan{samples: 48, anchors: 6, runs: 3, time: 12 * time.Minute, again: true})
	if b.String() != "about 12 minutes: 48 samples and 6 anchors in 3 repetitions; longer where others disturb samples, which are then taken again\n" {
		t.Errorf("%q", &b)
	}
}

// No flows are no cases, and the packets' options do not matter then.
func TestHTTPAlone(t *testing.T) {
	o := &Options{Runs: 1, Window: time.Second}
	l := &LinkOptions{HTTP: true}
	if err := CheckLink(o, l); err != nil || len(l.cases()) != 0 {
		t.Error(err, l.cases())
	}
	if httpMissing() == nil {
		if p := l.plan(o); p.samples != 2*len(httpCarriers) || p.time < time.Duration(p.samples)*2*time.Second {
			t.Errorf("%+v", p)
		}
	}
}
