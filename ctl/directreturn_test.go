package ctl

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"sluice/engine"
	"sluice/flow"
)

// The virtual server is in line 5, column 3.
const directFile = `ports: [{interface: eth1, addresses: [172.16.10.1/24]}, {interface: eth2, addresses: [192.168.20.254/24]}]
snat-pools: [{name: out, addresses: [192.168.20.200]}]
pools: [{name: web, members: [{address: 192.168.20.1%s}, {address: 192.168.20.2}]%s}]
virtual-servers:
- {name: web, address: 10.10.1.100:80, protocol: tcp, pool: web, %s}
`

// What has no meaning with direct return is refused with its line, and says what to do.
func TestDirectReturnProblems(t *testing.T) {
	for _, c := range []struct{ member, pool, rest, want string }{
		{"", "", "mode: direct-return", ""},
		{":80", "", "mode: direct-return", ""},
		{":8080", "", "mode: direct-return", `5:72: virtual-servers[0].mode: direct-return leaves ports as they are, and member "192.168.20.1:8080" of pool "web" (line 3) has port 8080; leave it out there`},
		{"", "", "mode: direct-return, snat: out", "5:93: virtual-servers[0].snat: direct-return changes no address"},
		{"", "", "mode: direct-return, hairpin: refuse", "5:96: virtual-servers[0].hairpin: direct-return has no hairpin"},
		{"", "", "mode: direct-return, protocol: udp", "given twice"},
		{"", ", scheduler: fastest", "mode: direct-return", `5:72: virtual-servers[0].mode: scheduler fastest of pool "web" (line 3) measures answers`},
		{"", ", scheduler: source-hash", "mode: direct-return, table-full: forward", "5:99: virtual-servers[0].table-full: direct-return needs an entry"},
		{"", ", passive: {failures: 3}", "mode: direct-return", `5:72: virtual-servers[0].mode: passive of pool "web" (line 3) judges members by their answers`},
		{"", ", all-down: pool sorry}, {name: sorry, members: [{address: 192.168.20.9:99}]", "mode: direct-return", `member "192.168.20.9:99" of pool "sorry" (line 3) has port 99`},
		{"", "", "mode: dsr", `5:72: virtual-servers[0].mode: unknown mode "dsr"; supported: nat, fullnat, direct-return, tunnel, router, firewall, forward`},
	} {
		_, err := Parse("f", fmt.Appendf(nil, directFile, c.member, c.pool, c.rest))
		if err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	udp := strings.Replace(fmt.Sprintf(directFile, "", "", "mode: direct-return, one-packet: true"), "tcp", "udp", 1)
	if _, err := Parse("f", []byte(udp)); err == nil || !strings.Contains(err.Error(), "5:99: virtual-servers[0].one-packet: direct-return needs an entry") {
		t.Error(err)
	}
}

// The mode reaches the engine; the XDP program is not told of members, whose answers it is not to take; a member behind a
// gateway of the file is refused.
func TestDirectReturnCompiled(t *testing.T) {
	f, err := Parse("f", fmt.Appendf(nil, directFile, "", "", "mode: direct-return"))
	if err != nil {
		t.Fatal(err)
	}
	topo, err := f.offline()
	if err != nil {
		t.Fatal(err)
	}
	for port := range f.Ports {
		if r := f.rules(topo, port, nil); len(r.Members) != 0 || len(r.Virtuals) != 1 {
			t.Errorf("%+v", r)
		}
	}
	cfg, _, err := f.Offline()
	if err != nil {
		t.Fatal(err)
	}
	// A client on the members' own network is like any other.
	for _, client := range []string{"172.16.10.55:4003", "192.168.20.77:4003"} {
		e := cfg.Explain(flow.TCP, netip.MustParseAddrPort(client), netip.MustParseAddrPort("10.10.1.100:80"))
		if e.Decision != engine.DecideConnect || e.ToServer.Before != e.ToServer.After || e.ToClient != nil || e.ToServer.MAC != "02:01:c0:a8:14:01" {
			t.Errorf("%+v", e)
		}
	}
	text := strings.Replace(fmt.Sprintf(directFile, "", "", "mode: direct-return"), "192.168.20.2}", "192.168.30.2}", 1)
	f, err = Parse("f", []byte(text+"routes: [{prefix: 192.168.30.0/24, via: 192.168.20.9}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.offline(); err == nil || !strings.Contains(err.Error(), "f:3:") || !strings.Contains(err.Error(), "behind the gateway 192.168.20.9") {
		t.Error(err)
	}
}
