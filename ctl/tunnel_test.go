package ctl

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sluice/engine"
	"sluice/flow"
)

// The pool is in line 2, the virtual server in line 4, column 3.
const tunnelFile = `ports: [{interface: eth1, addresses: [172.16.10.1/24, "fd00:16::1/64"]}, {interface: eth2, addresses: [192.168.20.254/24]}]
pools: [{name: far, members: [{address: %s}]%s}]
virtual-servers:
- {name: web, address: 10.10.1.100:80, protocol: tcp, pool: far, mode: tunnel%s}
`

// What cannot work is refused, and what has no effect said, with its line.
func TestTunnelProblems(t *testing.T) {
	for _, c := range []struct{ member, pool, rest, want, warning string }{
		{"192.168.20.1", "", "", "", ""},
		{"192.168.20.1:80", ", tunnel: {encapsulation: gue, port: 6081, checksum: on, df: clear}", "", "", ""},
		{`"fd00:16::9"`, "", "", "", ""}, // another family than the virtual server
		{"192.168.20.1:81", "", "", `4:72: virtual-servers[0].mode: tunnel leaves ports as they are, and member "192.168.20.1:81"`, ""},
		{"192.168.20.1", ", tunnel: {encapsulation: gre}", "", "2:81: pools[0].tunnel.encapsulation: encapsulation gre is not in this release; supported: ipip, gue", ""},
		{"192.168.20.1", ", tunnel: {encapsulation: gue, port: 0}", "", "2:92: pools[0].tunnel.port: 0 is out of range: 1 to 65535", ""},
		{"192.168.20.1", ", tunnel: {sources: [10.0.0.1, 10.0.0.2]}", "", "2:86: pools[0].tunnel.sources[1]: a second IPv4 address", ""},
		{"192.168.20.1", ", tunnel: {sources: [224.0.0.1]}", "", "2:76: pools[0].tunnel.sources[0]: a tunnel cannot come from", ""},
		{"192.168.20.1", ", tunnel: {port: 6081}", "", "", "2:72: pools[0].tunnel.port: has no effect with ipip"},
		{"192.168.20.1", ", tunnel: {df: maybe}", "", `2:70: pools[0].tunnel.df: unknown df "maybe"; supported: copy, set, clear`, ""},
		{"192.168.20.1", "", ", snat: automap", "4:86: virtual-servers[0].snat: tunnel changes no address", ""},
		{"192.168.20.1", "", ", hairpin: forward", "4:89: virtual-servers[0].hairpin: tunnel has no hairpin", ""},
		{"192.168.20.1", "", ", mss-clamp: auto", "", ""},
		{"192.168.20.1", "", ", mss-clamp: 1400", "", ""},
		{"192.168.20.1", "", ", mss-clamp: 100", "4:91: virtual-servers[0].mss-clamp: 100 is out of range: 536 to 65495", ""},
		{"192.168.20.1", "", ", mss-clamp: yes", `4:91: virtual-servers[0].mss-clamp: want a number in decimal digits, found "yes"`, ""},
		{"192.168.20.1", ", tunnel: {encapsulation: gue}", "}\n- {name: dns, address: 10.10.1.100:53, protocol: udp, pool: far, mode: tunnel, mss-clamp: auto", "", "5:91: virtual-servers[1].mss-clamp: has no effect"},
		{"192.168.20.1", ", tunnel: {encapsulation: gue}}, {name: near, members: [{address: 192.168.20.2}], tunnel: {}", "}\n- {name: two, address: 10.10.1.101:80, protocol: tcp, pool: near", "", `2:137: pools[1].tunnel: has no effect: no virtual server with mode tunnel uses pool "near"`},
	} {
		f, err := Parse("f", fmt.Appendf(nil, tunnelFile, c.member, c.pool, c.rest))
		if err == nil && c.want != "" || err != nil && (c.want == "" || !strings.Contains(err.Error(), "f:"+c.want)) {
			t.Errorf("%+v: %v", c, err)
		}
		if err != nil {
			continue
		}
		if w := f.Warnings(); c.warning == "" && len(w) > 0 || c.warning != "" && (len(w) != 1 || !strings.HasPrefix(w[0], "f:"+c.warning)) {
			t.Errorf("%+v: warned %q", c, w)
		}
	}
}

// Settings reach the engine; explain says what is outside; errors about tunnels that come to our own address are taken by the
// XDP program; a member without a source address is refused with its line.
func TestTunnelCompiled(t *testing.T) {
	compile := func(member, pool string) (*File, *engine.Config, error) {
		f, err := Parse("f", fmt.Appendf(nil, tunnelFile, member, pool, ""))
		if err != nil {
			t.Fatal(err)
		}
		cfg, _, err := f.Offline()
		return f, cfg, err
	}
	for _, c := range []struct{ member, pool, want string }{
		{"192.168.20.1", "", "{ipip 192.168.20.254 192.168.20.1 0 65515}"},
		{"192.168.20.1", ", tunnel: {encapsulation: gue, sources: [10.9.9.9]}", "{gue 10.9.9.9 192.168.20.1 6080 65503}"},
		{`"fd00:16::9"`, ", tunnel: {encapsulation: gue, port: 7000}", "{gue fd00:16::1 fd00:16::9 7000 65483}"},
	} {
		f, cfg, err := compile(c.member, c.pool)
		if err != nil {
			t.Fatal(err)
		}
		e := cfg.Explain(flow.TCP, netip.MustParseAddrPort("10.9.9.9:40000"), netip.MustParseAddrPort("10.10.1.100:80"))
		if e.Tunnel == nil || fmt.Sprint(*e.Tunnel) != c.want || e.ToServer.Before != e.ToServer.After {
			t.Errorf("%+v: %+v", c, e.Tunnel)
		}
		topo, err := f.offline()
		if err != nil {
			t.Fatal(err)
		}
		if r := f.rules(topo, 1, nil); len(r.Members) != 0 || !slices.Equal(r.FarEnds, []netip.Addr{f.Pools[0].Members[0].Address.Addr()}) {
			t.Errorf("%+v", r)
		}
	}
	text := strings.Replace(fmt.Sprintf(tunnelFile, `"fd00:16::9"`, "", ""), `, "fd00:16::1/64"`, "", 1)
	f, err := Parse("f", []byte(text+"neighbours: [{address: \"fd00:16::9\", mac: 02:00:00:00:00:01, port: eth2}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Offline(); err == nil || !strings.Contains(err.Error(), "f:2:41: pools[0].members[0].address: port eth2 has no IPv6 address for tunnels") {
		t.Error(err)
	}
}
