package ctl

import (
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"sluice/engine"
)

const persistenceFile = `ports: [{interface: eth1}, {interface: eth2}]
pools:
  - {name: a, members: [{address: 192.168.20.1:80}, {address: 192.168.20.2:80}]}
  - {name: b, members: [{address: 192.168.20.1:443}, {address: 192.168.20.3:443}]}
  - {name: h, scheduler: maglev, members: [{address: 192.168.20.1:53}]}
persistences:
  - PERSISTENCE
virtual-servers:
  - {name: v1, address: 10.10.1.100:80, protocol: tcp, pool: a, persistence: shop}
  - VIRTUAL
`

func TestPersistenceProblems(t *testing.T) {
	for _, c := range []struct {
		persistence, virtual string
		errors, warnings     []string
	}{
		{"{name: shop}", "{name: v2, address: 10.10.1.100:81, protocol: tcp, pool: a, persistence: shop}", nil, nil},
		{"{name: shop}", "{name: v2, address: 10.10.1.100:443, protocol: tcp, pool: b, persistence: shop}", nil,
			[]string{`10:79: virtual-servers[1].persistence: member "192.168.20.3:443" of pool "b" has an address that pool "a" of virtual server "v1" has not`}},
		{"{name: shop}\n  - {name: shop}", "{name: v2, address: 10.10.1.100:81, protocol: tcp, pool: a}", []string{"8:12: persistences[1].name: persistence shop is already in line 7"}, nil},
		{"{name: shop}\n  - {name: idle}", "{name: v2, address: 10.10.1.100:81, protocol: tcp, pool: a}", nil, []string{`8:5: persistences[1]: no virtual server uses persistence "idle"`}},
		{"{name: shop}", "{name: v2, address: 10.10.1.100:81, protocol: tcp, pool: a, persistence: shp}",
			[]string{`10:78: virtual-servers[1].persistence: no persistence named "shp" (did you mean "shop"?)`}, nil},
		{"{name: shop}", "{name: v2, address: 10.10.1.100:53, protocol: udp, pool: a, one-packet: true, persistence: shop}",
			[]string{"10:96: virtual-servers[1].persistence: one-packet schedules every datagram by itself; remove one of the two"}, nil},
		{"{name: shop}", "{name: v2, address: 10.10.1.100:53, protocol: udp, pool: h, table-full: forward, persistence: shop}",
			[]string{"10:99: virtual-servers[1].persistence: table-full: forward goes by the hash of the client alone"}, nil},
		{"{name: shop, type: cookie, prefix-v4: 33, prefix-v6: 0, timeout: 10ms, entries: 0, on-down: stay}", "{name: v2, address: 10.10.1.100:81, protocol: tcp, pool: a}",
			[]string{"7:24: persistences[0].type: type cookie is not in this release; supported: source-address",
				"7:43: persistences[0].prefix-v4: 33 is out of range: 1 to 32", "7:58: persistences[0].prefix-v6: 0 is out of range: 1 to 128",
				"7:70: persistences[0].timeout: 10ms is out of range: 1s to 168h", "7:85: persistences[0].entries: 0 is out of range: 1 to 10000000",
				`7:97: persistences[0].on-down: unknown on-down "stay"; supported: move, keep, refuse`}, nil},
	} {
		text := strings.Replace(strings.Replace(persistenceFile, "PERSISTENCE", c.persistence, 1), "VIRTUAL", c.virtual, 1)
		f, err := Parse("f.yaml", []byte(text))
		var got []string
		if err != nil {
			got = strings.Split(err.Error(), "\n")
		}
		check := func(what string, got, want []string) {
			for i, w := range want {
				if i >= len(got) || !strings.Contains(got[i], w) {
					t.Errorf("%s %s: %s %q, want %q", c.persistence, c.virtual, what, got, want)
					return
				}
			}
			if len(got) != len(want) {
				t.Errorf("%s %s: %s %q, want %q", c.persistence, c.virtual, what, got, want)
			}
		}
		check("errors", got, c.errors)
		if f != nil {
			check("warnings", slices.DeleteFunc(f.Warnings(), func(w string) bool { return strings.Contains(w, "uses pool") }), c.warnings)
		}
	}
}

// Every word reaches the engine.
func TestPersistenceSpec(t *testing.T) {
	text := strings.Replace(strings.Replace(persistenceFile, "PERSISTENCE",
		"{name: shop, prefix-v4: 24, prefix-v6: 56, timeout: 90s, entries: 1000, entries-full: forward, on-down: keep, on-full: refuse, on-drain: move, lower-priority: keep}", 1),
		"VIRTUAL", "{name: v2, address: 10.10.1.100:81, protocol: tcp, pool: a}", 1)
	f, err := Parse("f.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	cfg, _, err := f.Offline()
	if err != nil {
		t.Fatal(err)
	}
	want := engine.PersistenceSpec{Name: "shop", Bits4: 24, Bits6: 56, Timeout: 90_000, Entries: 1000, Full: engine.PersistencePass,
		OnDown: engine.PersistenceKeep, OnFull: engine.PersistenceStay, MoveDraining: true, KeepLower: true}
	if got := cfg.Persistences(); len(got) != 1 || got[0].PersistenceSpec != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if v := cfg.Virtuals(); v[0].Persistence != "shop" || v[1].Persistence != "" {
		t.Errorf("%+v", v)
	}
	if n := f.persistenceCapacity(3); n != 334 {
		t.Errorf("room for %d entries on each of 3 workers", n)
	}
	e := cfg.Explain(6, netip.MustParseAddrPort("172.16.10.55:4003"), netip.MustParseAddrPort("10.10.1.100:80"))
	if e.Persistence == nil || e.Persistence.Name != "shop" || e.Persistence.Client != "172.16.10.0/24" || e.Persistence.Entry != "" {
		t.Errorf("explained as %+v", e.Persistence)
	}
}

func TestPersistenceFilter(t *testing.T) {
	entry := func(client, server string) *engine.PersistenceEntry {
		return &engine.PersistenceEntry{Persistence: "shop", Client: netip.MustParsePrefix(client), Member: "s1", Server: netip.MustParseAddr(server)}
	}
	list := []*engine.PersistenceEntry{entry("172.16.10.0/24", "192.168.20.1"), entry("172.16.11.0/24", "192.168.20.2"), entry("2001:db8::/64", "fd00::1")}
	for q, want := range map[string][]int{
		"":                      {0, 1, 2},
		"client=172.16.10.55":   {0},
		"client=172.16.10.0/23": {0, 1},
		"client=2001:db8::7":    {2},
		"member=192.168.20.2":   {1},
		"member=s1&client=::/0": {2},
		"persistence=other":     nil,
	} {
		match, _, err := persistenceFilter(httptest.NewRequest("GET", "/?"+q, nil))
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for i := range list {
			if match(list[i]) {
				got = append(got, i)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", q, got, want)
		}
	}
	for _, q := range []string{"client=web", "client=10.0.0.1:80"} {
		if _, _, err := persistenceFilter(httptest.NewRequest("GET", "/?"+q, nil)); err == nil {
			t.Errorf("%s is accepted", q)
		}
	}
}
