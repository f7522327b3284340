package link

import (
	"strings"
	"testing"

	"sluice/perf/result"
)

// Every ratio that a scenario can make, of what it compares with whom, is in the list of metrics.
func TestRatiosAreKnown(t *testing.T) {
	known := func(kind, peer string) {
		if name := result.Ratio(kind, peer); result.MetricOf(name).About == "" {
			t.Errorf("%s is not in the list of perf/result/metric.go", name)
		}
	}
	for _, peer := range compared {
		known("", peer)
		known("loss_free", peer)
	}
	for _, list := range [][]string{httpCarriers, connectionCarriers} {
		for _, peer := range list {
			if peer != "sluice" {
				known("", peer)
			}
		}
	}
	for _, peer := range latencyPeers {
		known("p50", peer)
		known("p99", peer)
	}
}

// Every word of every case is explained: all flags at all their values.
func TestWordsAreKnown(t *testing.T) {
	cases, told := map[string]bool{}, map[string]bool{}
	add := func(scenario, name string) {
		cases[name] = true
		for at, part := range strings.Split(name, "/") {
			if _, ok := result.WordOf(scenario, part, at); !ok && !told[part] {
				told[part] = true
				t.Errorf("%s: %s of %s is not in the list of perf/result/words.go", scenario, part, name)
			}
		}
	}
	add("link", "anchor/before")
	add("link", "anchor/after")
	l := LinkOptions{Flows: []int{1000, 0, 7}, Sizes: []string{"64", "imix", "1500"}, Directions: []string{"one-way", "both"}, Modes: []string{"auto", "copy", "generic", "zero-copy"}}
	k := LatencyOptions{Loads: []string{"idle", "half", "90"}, Polling: []string{"busy", "adaptive", "interrupt"}, Cores: []string{"awake", "asleep"}}
	o := Options{CarrierCore: 1}
	for _, c := range carriers() {
		for _, i := range l.cases() {
			add("link", c.name+"/"+i.name())
		}
		for _, p := range o.placements() {
			for _, kind := range httpKinds {
				add("link", httpCase(c.name, kind, p))
			}
		}
		for _, i := range k.cases() {
			for _, way := range i.ways(&k, c) {
				add("latency", i.name(c.name, way))
			}
		}
		for _, i := range connectionKinds {
			add("connections", c.name+"/"+i.name)
		}
	}
	for _, want := range []string{"sluice/flows=1000/size=imix", "sluice/flows=1000/mode=zero-copy", "sluice/flows=1000/direction=both",
		"forward-inline/proto=udp/load=idle/other-core=busy", "sluice/proto=tcp/client=polling/load=idle/polling=busy", "haproxy/http=close/placement=client-alone"} {
		if !cases[want] {
			t.Errorf("no case %s", want)
		}
	}
}
