package ctl

import (
	"net/netip"
	"reflect"
	"testing"

	"sluice/rings"
)

func TestRules(t *testing.T) {
	f, err := Parse("rules.yaml", []byte(`
ports:
  - {name: outside, interface: eth1, addresses: [172.16.10.1/24, 10.10.1.102/24]}
  - {name: inside, interface: eth2, addresses: [192.168.20.254/24]}
pools:
  - name: any
    members: [{address: 192.168.20.1}, {address: "192.168.20.2:8080"}, {address: 172.16.10.9}]
  - name: same
    members: [{name: a, address: 192.168.20.1}]
virtual-servers:
  - {name: web, address: "10.10.1.100:80", protocol: tcp, pool: any}
  - {name: web2, address: "10.10.1.101:80", protocol: tcp, pool: same}
  - {name: dns, address: "10.10.1.100:53", protocol: udp, pool: any}
  - {name: own, address: "10.10.1.102:81", protocol: tcp, pool: same, unmatched: host, address-handling: external}
`))
	if err != nil {
		t.Fatal(err)
	}
	topology, err := f.offline()
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr
	virtual := []rings.VirtualRule{
		{Addr: a("10.10.1.100"), Proto: 6, Port: 80}, {Addr: a("10.10.1.101"), Proto: 6, Port: 80},
		{Addr: a("10.10.1.100"), Proto: 17, Port: 53}, {Addr: a("10.10.1.102"), Proto: 6, Port: 81},
	}
	addresses := []rings.AddressRule{{Addr: a("10.10.1.100")}, {Addr: a("10.10.1.101")}, {Addr: a("10.10.1.102"), UnmatchedHost: true}}
	local := []netip.Addr{a("172.16.10.1"), a("192.168.20.254")} // less the one that is virtual
	for port, members := range [][]rings.MemberRule{
		{{Addr: a("172.16.10.9"), Proto: 6, Port: 80}, {Addr: a("172.16.10.9"), Proto: 17, Port: 53}},
		{
			{Addr: a("192.168.20.1"), Proto: 6, Port: 80}, {Addr: a("192.168.20.1"), Proto: 6, Port: 81}, {Addr: a("192.168.20.1"), Proto: 17, Port: 53},
			{Addr: a("192.168.20.2"), Proto: 6, Port: 8080}, {Addr: a("192.168.20.2"), Proto: 17, Port: 8080},
		},
	} {
		want := rings.Rules{Virtuals: virtual, Addresses: addresses, Local: local, Members: members}
		got := f.rules(topology, port, f.ownAddresses())
		if !reflect.DeepEqual(got, want) {
			t.Errorf("port %d:\n%+v, want\n%+v", port, got, want)
		}
		if _, err := rings.NewClassifier(got); err != nil {
			t.Error(err)
		}
	}
}
