package ctl

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// What is written as the file has it is read as the same.
func TestEndsRoundTrip(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 3000 {
		a := netip.AddrFrom4([4]byte{byte(1 + rnd.IntN(200)), byte(rnd.IntN(256)), byte(rnd.IntN(256)), byte(rnd.IntN(256))})
		if rnd.IntN(2) == 0 {
			b := [16]byte{0x20, 0x01}
			for i := 2; i < 16; i++ {
				b[i] = byte(rnd.IntN(256) * rnd.IntN(2))
			}
			a = netip.AddrFrom16(b)
		}
		prefix := netip.PrefixFrom(a, a.BitLen())
		if rnd.IntN(2) == 0 {
			prefix = netip.PrefixFrom(a, rnd.IntN(a.BitLen())).Masked()
		}
		var want ends
		if rnd.IntN(4) == 0 {
			want = ends{{Prefix: prefix}}
		}
		for n := rnd.IntN(4); want == nil || len(want) < n && !want[0].AnyPort(); {
			first := 1 + rnd.IntN(65535)
			r := flow.PortRange{First: uint16(first), Last: uint16(first)}
			if rnd.IntN(2) == 0 {
				r.Last += uint16(rnd.IntN(65536 - first))
			}
			if r.First == 1 && r.Last == 65535 {
				continue
			}
			want = append(want, engine.Destination{Prefix: prefix, Ports: r})
		}
		got, err := parseEnds(want.String())
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: %v, %v", want, got, err)
		}
	}
}

func FuzzEnds(f *testing.F) {
	for _, text := range []string{"10.0.0.1:80", "[2001:db8::/32]:1-5,9", "0.0.0.0/0:any", "[::1]", "10.0.0.0/8", "1.2.3.4:80-", "[::/0]:,", "a/b:1,2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		e, err := parseEnds(text)
		if err != nil {
			return
		}
		for _, d := range e {
			if !d.Prefix.IsValid() || d.Prefix != d.Prefix.Masked() || d.Ports.Last < d.Ports.First {
				t.Fatalf("%q is %+v", text, d)
			}
		}
		again, err := parseEnds(e.String())
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%q is %v, and that is %v (%v)", text, e, again, err)
		}
	})
}

const formsFile = `
ports:
  - {name: outside, interface: eth1, addresses: [172.16.10.1/24]}
  - {name: inside, interface: eth2, addresses: [192.168.20.254/24]}
pools:
  - name: web
    members: [{address: 192.168.20.1}, {address: "192.168.20.2:8080"}]
  - name: routers
    members: [{address: 172.16.10.9}]
virtual-servers:
  - {name: list, address: "10.10.1.100:80,8000-8009", addresses: ["10.10.1.101:80", "10.20.0.0/16:80"], protocol: tcp, pool: web}
  - {name: net, address: "10.20.0.0/16:any", protocol: udp, pool: web}
  - {name: out, address: "0.0.0.0/0:any", protocol: any, pool: routers, port: inside}
`

// What the file says of prefixes, ranges and lists reaches the engine, the rules of each port, and the addresses that are put on
// ports; the classifier and explain agree.
func TestFormsCompile(t *testing.T) {
	f, err := Parse("forms.yaml", []byte(formsFile))
	if err != nil {
		t.Fatal(err)
	}
	top, err := f.offline()
	if err != nil {
		t.Fatal(err)
	}
	a := netip.MustParseAddr
	for port, want := range map[int]rings.Rules{
		0: {Prefixes: []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16"), netip.MustParsePrefix("10.20.0.0/16")},
			Members: []rings.MemberRule{{Addr: a("172.16.10.9")}}},
		1: {Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")},
			Members: []rings.MemberRule{{Addr: a("192.168.20.1"), Proto: 6}, {Addr: a("192.168.20.1"), Proto: 6, Port: 80}, {Addr: a("192.168.20.1"), Proto: 17},
				{Addr: a("192.168.20.2"), Proto: 6, Port: 8080}, {Addr: a("192.168.20.2"), Proto: 17, Port: 8080}}},
	} {
		want.Virtuals = []rings.VirtualRule{{Addr: a("10.10.1.100"), Proto: 6, Port: 80}, {Addr: a("10.10.1.100"), Proto: 6, Port: 8000, PortLast: 8009}, {Addr: a("10.10.1.101"), Proto: 6, Port: 80}}
		want.Addresses = []rings.AddressRule{{Addr: a("10.10.1.100")}, {Addr: a("10.10.1.101")}}
		want.Local = f.ownAddresses()
		if got := f.rules(top, port, f.ownAddresses()); !reflect.DeepEqual(got, want) {
			t.Errorf("port %d:\n%+v, want\n%+v", port, got, want)
		}
	}
	if got := fmt.Sprint(f.VirtualServers[0].addresses()); got != "[10.10.1.100 10.10.1.101]" {
		t.Errorf("put on the port: %s", got)
	}
	cfg, _, err := f.Offline()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ dst, virtual, ingress string }{
		{"10.10.1.100:8009", "list", "outside"}, {"10.20.9.9:80", "list", "outside"}, {"10.20.9.9:81", "out", "inside"}, {"10.10.1.100:81", "out", "inside"},
		{"172.16.10.1:80", "", "outside"}, {"192.168.20.254:80", "", "outside"},
	} {
		e := cfg.Explain(flow.TCP, netip.MustParseAddrPort("172.16.10.55:4000"), netip.MustParseAddrPort(c.dst))
		if e.Virtual != c.virtual || e.Ingress != c.ingress {
			t.Errorf("%s: %+v", c.dst, e)
		}
	}
	var texts []string
	for _, s := range f.Settings() {
		if strings.HasSuffix(s.Path, "].address") && strings.Contains(s.Path, "virtual") || strings.HasSuffix(s.Path, "].addresses") && strings.Contains(s.Path, "virtual") {
			texts = append(texts, s.Value)
		}
	}
	if got := strings.Join(texts, " | "); got != "10.10.1.100:80,8000-8009 | [10.10.1.101:80, 10.20.0.0/16:80] | 10.20.0.0/16:any | [] | 0.0.0.0/0:any | []" {
		t.Error(got)
	}
	for _, v := range cfg.Virtuals() {
		if v.Name == "list" && endsText(&v.VirtualSpec) != "10.10.1.100:80,8000-8009, 10.10.1.101:80, 10.20.0.0/16:80" {
			t.Error(endsText(&v.VirtualSpec))
		}
	}
}

// A virtual server that is only known by an entry of the dictionary, after a kill, is found again in the file whatever form it has.
func TestEntriesOfForms(t *testing.T) {
	f, err := Parse("forms.yaml", []byte(formsFile))
	if err != nil {
		t.Fatal(err)
	}
	_, dict, err := f.Offline()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, e := range dict.Entries(0) {
		if e.Kind != "virtual" {
			continue
		}
		v := f.virtual(e)
		if v == nil {
			t.Errorf("%+v is not in the file", e)
			continue
		}
		found[v.Name] = true
		spec := e.Spec(f.portNames())
		if spec.All()[0].String() != v.Destinations[0].String() || spec.Proto != v.number() || !spec.Destinations[0].IsAddress() && spec.Ingress != f.portIndex(v.Port) {
			t.Errorf("%s: %+v", v.Name, spec)
		}
		e.Ingress += "x"
		if f.virtual(e) != nil {
			t.Errorf("%+v is %s", e, v.Name)
		}
	}
	if len(found) != len(f.VirtualServers) {
		t.Errorf("%v", found)
	}
}
