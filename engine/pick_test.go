package engine

import (
	"net/netip"
	"testing"

	"sluice/flow"
	"sluice/sched"
)

// Every scheduler gives connections to the member that explain has named, and the hash schedulers know their clients again.
func TestSchedulersAsExplained(t *testing.T) {
	for _, name := range sched.Names() {
		spec := a4(1)
		spec.Pools[0].Scheduler = name
		b := newBench(t, spec, 1000, 2048)
		first := map[byte]netip.Addr{}
		servers := map[netip.Addr]int{}
		for i := range 60 {
			syn := fromClient(uint16(5000+i), "S")
			host := byte(1 + i%20)
			syn.src = netip.AddrFrom4([4]byte{198, 51, 100, host})
			e := b.Config().Explain(flow.TCP, netip.AddrPortFrom(syn.src, syn.sport), netip.AddrPortFrom(syn.dst, syn.dport))
			got := only(t, b.send(outside, syn.build(t)), inside)
			to := netip.AddrFrom4([4]byte(got[30:34]))
			if e.Member != to.String() {
				t.Fatalf("%s: connection %d went to %v, explained was %q", name, i, to, e.Member)
			}
			servers[to]++
			if i < 20 {
				first[host] = to
			}
			if (name == "maglev" || name == "source-hash") && to != first[host] {
				t.Errorf("%s: a client went to %v and then to %v", name, first[host], to)
			}
		}
		if want := map[bool]int{true: 1, false: 4}[name == "first"]; len(servers) != want {
			t.Errorf("%s: 60 connections of 20 clients went to %v", name, servers)
		}
		b.close()
	}
}
