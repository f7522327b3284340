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

// The virtual server is in line 5, column 3.
const routerFile = `ports: [{name: in, interface: eth1, addresses: [192.168.20.254/24]}, {name: a, interface: eth2, addresses: [203.0.113.254/24]}, {name: b, interface: eth3, addresses: [198.51.100.254/24]}]
snat-pools: [{name: pa, addresses: [203.0.113.100], port: a}, {name: pb, addresses: [198.51.100.100], port: b}, {name: six, addresses: ["2001:db8::1"]}]
pools: [{name: r, members: [{name: ra, address: 203.0.113.1%s}, {name: rb, address: 198.51.100.1, snat: pb}]%s}]
virtual-servers:
- {name: out, address: "0.0.0.0/0:any", protocol: any, port: in, %s}
`

// What has no meaning with a transparent mode is refused with its line, and says what to do.
func TestTransparentProblems(t *testing.T) {
	for _, c := range []struct{ member, pool, rest, want string }{
		{", snat: pa", "", "pool: r, mode: router", ""},
		{"", "", "pool: r, mode: router, snat: automap", ""},
		{", snat: none", "", "pool: r, mode: router", `3:68: pools[0].members[0].snat: no SNAT pool named "none"`},
		{", snat: six", "", "pool: r, mode: router", `3:68: pools[0].members[0].snat: member "ra" (203.0.113.1) is IPv4, and SNAT pool "six" has no such address`},
		{":80", "", "pool: r, mode: router", `router leaves ports as they are, and member "ra" of pool "r" (line 3) has port 80; leave it out there`},
		{"", "", "mode: router", "5:3: virtual-servers[0]: pool is missing"},
		{"", "", "mode: forward", ""},
		{"", "", "mode: forward, snat: automap", ""},
		{"", "", "pool: r, mode: forward", "virtual-servers[0].pool: forward goes where the kernel's routes lead, not to members; remove pool, or use mode router"},
		{"", "", "pool: r, mode: firewall", `virtual-servers[0].mode: firewalls see both ends as they are, and member "rb" of pool "r" (line 3) has snat`},
		{"", "", "pool: r, mode: firewall, snat: pa", "virtual-servers[0].snat: firewalls see both ends as they are; remove snat, or use mode router"},
		{"", "", "pool: r, mode: router, hairpin: refuse", "virtual-servers[0].hairpin: router has no hairpin"},
		{"", "", "pool: r, mode: router, table-full: forward", "virtual-servers[0].table-full"},
		{"", "", "pool: r, mode: mat", `virtual-servers[0].mode: unknown mode "mat"; supported: nat, fullnat, direct-return, tunnel, router, firewall, forward`},
	} {
		_, err := Parse("f", fmt.Appendf(nil, routerFile, c.member, c.pool, c.rest))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.rest, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%q: %v, want %s", c.rest, err, c.want)
		}
	}
	walls := strings.ReplaceAll(routerFile, ", snat: pb", "")
	for pool, want := range map[string]string{
		"":                         `firewall needs a pool that hashes, and scheduler round-robin of pool "r" (line 3) does not`,
		", scheduler: maglev":      "",
		", scheduler: source-hash": "",
	} {
		_, err := Parse("f", fmt.Appendf(nil, walls, "", pool, "pool: r, mode: firewall"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %s", pool, err, want)
		}
	}
	_, err := Parse("f", append(fmt.Appendf(nil, walls, "", ", scheduler: maglev", "pool: r, mode: firewall"), "- {name: web, address: 203.0.113.200:80, protocol: tcp, pool: r}\n"...))
	if err == nil || !strings.Contains(err.Error(), `pool "r" is that of virtual server "web" (line 6) as well, whose mode is nat`) {
		t.Errorf("a pool of firewalls and servers: %v", err)
	}
}

func parseRouters(t *testing.T, member, pool, rest string) *File {
	t.Helper()
	f, err := Parse("f", fmt.Appendf(nil, routerFile, member, pool, rest))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// Ports take what answers may come as: everything where the source stays, only SNAT addresses where it is translated.
func TestTransparentRules(t *testing.T) {
	all := netip.MustParsePrefix("0.0.0.0/0")
	for _, c := range []struct {
		member, rest string
		want         [3]bool // whether the port takes everything
	}{
		{", snat: pa", "pool: r, mode: router", [3]bool{true, false, false}},
		{"", "pool: r, mode: router", [3]bool{true, true, false}},
		{"", "mode: forward", [3]bool{true, true, true}},
		{"", "mode: forward, snat: automap", [3]bool{true, false, false}},
	} {
		f := parseRouters(t, c.member, "", c.rest)
		top, err := f.offline()
		if err != nil {
			t.Fatal(err)
		}
		for port, want := range c.want {
			r := f.rules(top, port, f.ownAddresses())
			if slices.Contains(r.Prefixes, all) != want || len(r.Virtuals)+len(r.Addresses)+len(r.Members) != 0 {
				t.Errorf("%s %s, port %d: %+v", c.member, c.rest, port, r)
			}
			for _, s := range r.SNAT {
				if !s.ICMPEngine {
					t.Errorf("errors about connections from %s are not the engine's", s.Addr)
				}
			}
		}
		if f.VirtualServers[0].addresses() != nil {
			t.Error("a transparent virtual server has an address")
		}
	}
}

// explain tells the router, its MAC address, and the source.
func TestTransparentExplain(t *testing.T) {
	src, dst := netip.MustParseAddrPort("192.168.20.7:5000"), netip.MustParseAddrPort("192.0.2.80:443")
	for _, c := range []struct{ member, rest, port, mac, from string }{
		{", snat: pa", "pool: r, mode: router", "a", "02:01:cb:00:71:01", "203.0.113.100"},
		{"", "pool: r, mode: router", "a", "02:01:cb:00:71:01", "192.168.20.7"},
		{"", "mode: forward, snat: automap", "b", "02:01:c6:33:64:09", "198.51.100.254"},
		{"", "mode: forward", "b", "02:01:c6:33:64:09", "192.168.20.7"},
	} {
		text := fmt.Sprintf(routerFile, c.member, "", c.rest) + "routes: [{prefix: 0.0.0.0/0, via: 198.51.100.9}]\n"
		f, err := Parse("f", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		cfg, _, err := f.Offline(dst.Addr())
		if err != nil {
			t.Fatal(err)
		}
		e := cfg.Explain(flow.TCP, src, dst)
		if e.Decision != engine.DecideConnect || e.ToServer.Port != c.port || e.ToServer.MAC != c.mac || e.ToServer.After.Src.Addr().String() != c.from ||
			e.ToServer.After.Dst != dst || e.ToClient.After.Src != dst || e.ToClient.After.Dst != src || e.Virtual != "out" {
			t.Errorf("%s %s: %+v %+v %+v", c.member, c.rest, e, e.ToServer, e.ToClient)
		}
	}
}

// A reload's difference names what has changed, and every mode and member setting is in it.
func TestTransparentDiff(t *testing.T) {
	from, to := parseRouters(t, "", "", "pool: r, mode: router"), parseRouters(t, ", snat: pa", "", "mode: forward")
	var texts []string
	for _, c := range diff(from, to) {
		texts = append(texts, c.String())
		if c.NeedsRestart() {
			t.Errorf("%s needs a restart", c)
		}
	}
	for _, want := range []string{"~ virtual-servers[out].mode: router > forward", "~ pools[r].members[ra].snat:  > pa"} {
		if !slices.Contains(texts, want) {
			t.Errorf("%q is not in %q", want, texts)
		}
	}
}
