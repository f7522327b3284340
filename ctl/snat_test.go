package ctl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sluice/flow"
	"sluice/rings"
)

const fullNATFile = `
ports:
  - {interface: eth1, addresses: [172.16.10.1/24, "fd00:16::1/64"]}
snat-pools:
  - {name: out, addresses: [172.16.10.200, "fd00:16::200"], ports: %s}
pools:
  - {name: web, members: [{address: 172.16.10.2}]}
virtual-servers:
  - {name: web, address: 10.10.1.100:80, protocol: tcp, pool: web, mode: %s%s}
`

// What the file says of SNAT reaches the engine, the XDP program's rules and explain; automap takes the ports' own addresses.
func TestSNATCompiled(t *testing.T) {
	for _, c := range []struct {
		snat  string
		rules []rings.SNATRule
		from  string
	}{
		{"out", []rings.SNATRule{{Addr: netip.MustParseAddr("172.16.10.200"), First: 2000, Last: 3000}, {Addr: netip.MustParseAddr("fd00:16::200"), First: 2000, Last: 3000}}, "172.16.10.200"},
		{"automap", []rings.SNATRule{{Addr: netip.MustParseAddr("172.16.10.200"), First: 2000, Last: 3000}, {Addr: netip.MustParseAddr("fd00:16::200"), First: 2000, Last: 3000},
			{Addr: netip.MustParseAddr("172.16.10.1"), First: 16384, Last: 32767}, {Addr: netip.MustParseAddr("fd00:16::1"), First: 16384, Last: 32767}}, "172.16.10.1"},
	} {
		f, err := Parse("f.yaml", fmt.Appendf(nil, fullNATFile, "2000-3000", "fullnat", ", snat: "+c.snat))
		if err != nil {
			t.Fatal(err)
		}
		topo, err := f.offline()
		if err != nil {
			t.Fatal(err)
		}
		r := f.rules(topo, 0, f.ownAddresses())
		if !slices.Equal(r.SNAT, c.rules) || len(r.Members) != 0 {
			t.Errorf("%s: rules %+v, members %v", c.snat, r.SNAT, r.Members)
		}
		if _, err := rings.NewClassifier(r); err != nil {
			t.Error(err)
		}
		cfg, _, err := f.Offline()
		if err != nil {
			t.Fatal(err)
		}
		e := cfg.Explain(flow.TCP, netip.MustParseAddrPort("172.16.10.55:40000"), netip.MustParseAddrPort("10.10.1.100:80"))
		if e.ToServer == nil || e.ToServer.After.Src.Addr().String() != c.from || int(e.ToServer.After.Src.Port())%256 != e.Bin || e.ToClient.Before.Dst != e.ToServer.After.Src {
			t.Errorf("%s: %+v", c.snat, e)
		}
	}
	// A client on the members' network is refused in mode nat, unless the file says otherwise.
	for hairpin, want := range map[string]string{"": "hairpin_refused", ", hairpin: refuse": "hairpin_refused", ", hairpin: forward": "172.16.10.55", ", snat: out": "172.16.10.200"} {
		f, err := Parse("f.yaml", fmt.Appendf(nil, fullNATFile, "2000-3000", "nat", hairpin))
		if err != nil {
			t.Fatal(err)
		}
		cfg, _, err := f.Offline()
		if err != nil {
			t.Fatal(err)
		}
		e := cfg.Explain(flow.TCP, netip.MustParseAddrPort("172.16.10.55:40000"), netip.MustParseAddrPort("10.10.1.100:80"))
		got := e.Reason
		if e.ToServer != nil {
			got = e.ToServer.After.Src.Addr().String()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", hairpin, got, want)
		}
		e = cfg.Explain(flow.TCP, netip.MustParseAddrPort("10.9.9.9:40000"), netip.MustParseAddrPort("10.10.1.100:80"))
		if e.ToServer == nil || e.ToServer.After.Src.Addr().String() != "10.9.9.9" {
			t.Errorf("%q: a client from elsewhere: %+v", hairpin, e)
		}
	}
}

// What cannot work is refused with its place.
func TestSNATProblems(t *testing.T) {
	for _, c := range []struct{ ports, mode, rest, want string }{
		{"1-100", "fullnat", ", snat: out", "too few"},
		{"9-2", "fullnat", ", snat: out", "not a range"},
		{"x", "fullnat", ", snat: out", "want first-last"},
		{"1024-65535", "fullnat", "", "fullnat needs snat"},
		{"1024-65535", "nat", ", hairpin: snat", "snat needs snat"},
		{"1024-65535", "fullnat", ", snat: oot", "no SNAT pool named"},
		{"1024-65535", "fullnat", ", snat: out}\n  - {name: dns, address: 10.10.1.101:53, protocol: udp, pool: web, mode: fullnat, snat: out, one-packet: true", "needs an entry"},
		{"1024-65535", "fullnat", ", snat: out}\n  - {name: b, address: 172.16.10.200:53, protocol: udp, pool: web", "is the address of virtual server"},
		{"1024-65535}\n  - {name: automap, addresses: [172.16.10.1]", "fullnat", ", snat: out", "choose another name"},
		{"1024-65535}\n  - {name: b, addresses: [172.16.10.1]", "fullnat", ", snat: out", "own address of port"},
		{"1024-65535}\n  - {name: b, addresses: [172.16.10.2]", "fullnat", ", snat: out", "address of a member"},
		{"1024-65535}\n  - {name: b, addresses: [172.16.10.200]", "fullnat", ", snat: out", "already in line"},
	} {
		_, err := Parse("f.yaml", fmt.Appendf(nil, fullNATFile, c.ports, c.mode, c.rest))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "f.yaml:") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
