package engine

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/flow"
)

func dests(t testing.TB, texts ...string) (out []Destination) {
	t.Helper()
	for _, text := range texts {
		colon := strings.LastIndexByte(text, ':')
		prefix, err := netip.ParsePrefix(text[:colon])
		if err != nil {
			a := netip.MustParseAddr(text[:colon])
			prefix = netip.PrefixFrom(a, a.BitLen())
		}
		var r flow.PortRange
		if ports := text[colon+1:]; ports != "any" {
			for i, p := range strings.Split(ports, "-") {
				n := netip.MustParseAddrPort("0.0.0.0:" + p).Port()
				if i == 0 {
					r.First = n
				}
				r.Last = n
			}
		}
		out = append(out, Destination{prefix, r})
	}
	return out
}

// everywhere has a prefix for clients, everything for TCP and UDP from outside, and everything from inside as well, where the
// members are.
func everywhere(t testing.TB, workers int) Spec {
	spec := a4(workers)
	routers := PoolSpec{Name: "routers", Scheduler: "round-robin", Members: []MemberSpec{{Name: "router", Addr: netip.MustParseAddr("172.16.10.7"), Port: 3128, Weight: 1,
		Hop: Hop{Port: outside, MAC: mac(clientMAC), OK: true}}}}
	transparent := PoolSpec{Name: "transparent", Scheduler: "round-robin"}
	for i := 1; i <= 4; i++ {
		transparent.Members = append(transparent.Members, MemberSpec{Name: serverIP(i).String(), Addr: serverIP(i), Weight: 1, Hop: Hop{Port: inside, MAC: mac(serverMAC(i)), OK: true}})
	}
	spec.Pools = append(spec.Pools, routers, transparent)
	spec.Virtuals = append(spec.Virtuals,
		VirtualSpec{Name: "net", Destinations: dests(t, "10.20.0.0/16:80", "10.20.0.0/16:8000-8999", "10.10.1.101:8000-8010", "10.10.1.101:443"), Ingress: outside, Proto: flow.TCP, Pool: 4},
		VirtualSpec{Name: "datagrams", Destinations: dests(t, "0.0.0.0/0:7000-7999"), Ingress: outside, Proto: flow.UDP, Pool: 4},
		VirtualSpec{Name: "rest", Destinations: dests(t, "0.0.0.0/0:80"), Ingress: outside, Proto: flow.TCP, Pool: 0},
		VirtualSpec{Name: "out", Destinations: dests(t, "0.0.0.0/0:any"), Ingress: inside, Proto: flow.TCP, Pool: 3},
	)
	return spec
}

// Packets to prefixes and ranges find their virtual server and owner on whatever worker's queue they arrive, as do the answers,
// though the port that these arrive on has a prefix for everything.
func TestForms(t *testing.T) {
	b := newBench(t, everywhere(t, 3), 1000, 1024)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	on := func() int { return rnd.IntN(3) }
	for n, c := range []struct {
		dst    string
		port   uint16
		member uint16 // port
	}{
		{"10.20.3.4", 80, 80}, {"10.20.200.1", 8123, 8123}, {"10.10.1.101", 8010, 8010}, {"10.10.1.101", 443, 443}, {"10.30.0.1", 80, 80}, {"8.8.8.8", 80, 80},
	} {
		for round := range 20 {
			syn := fromClient(uint16(1000+n*100+round), "S")
			syn.dst, syn.dport = netip.MustParseAddr(c.dst), c.port
			got := only(t, b.sendTo(on(), outside, syn.build(t)), inside)
			i := int(got[33])
			want := syn
			want.srcMAC, want.dstMAC, want.dst, want.dport, want.ttl = insideMAC, serverMAC(i), serverIP(i), c.member, 63
			if string(got) != string(want.build(t)) {
				t.Fatalf("%s port %d: %x, want %x", c.dst, c.port, got, want.build(t))
			}
			answer := fromServer(i, syn.sport, "SA")
			answer.sport, answer.ack = c.member, 1001
			got = only(t, b.sendTo(on(), inside, answer.build(t)), outside)
			back := answer
			back.srcMAC, back.dstMAC, back.src, back.sport, back.ttl = outsideMAC, clientMAC, syn.dst, c.port, 63
			if string(got) != string(back.build(t)) {
				t.Fatalf("answer of %s port %d: %x, want %x", c.dst, c.port, got, back.build(t))
			}
			// Errors about a packet of either end, from a router on its way.
			far := tooBig{srcMAC: serverMAC(i), dstMAC: insideMAC, src: netip.MustParseAddr("192.168.21.1"), dst: clientIP, ttl: 64, quoted: want.build(t)[14:42]}
			only(t, b.sendTo(on(), inside, far.build(t)), outside)
			near := tooBig{srcMAC: clientMAC, dstMAC: outsideMAC, src: netip.MustParseAddr("172.16.11.1"), dst: syn.dst, ttl: 64, quoted: back.build(t)[14:42]}
			only(t, b.sendTo(on(), outside, near.build(t)), inside)
		}
	}
	// Fragments, of a range and a prefix; each part arrives where it likes.
	for port := range uint16(20) {
		whole := fromClient(5000+port, "")
		whole.udp, whole.dst, whole.dport, whole.payload = true, netip.MustParseAddr("10.77.0.1"), 7000+port, strings.Repeat("0123456789", 20)
		parts := cut(whole.build(t), uint32(port)+1, 80)
		rnd.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		var got [][]byte
		for _, p := range parts {
			got = append(got, b.sendTo(on(), outside, p)[inside]...)
		}
		if len(got) != len(parts) {
			t.Fatalf("%d of %d parts came out", len(got), len(parts))
		}
	}
	// What members begin themselves goes out by the virtual server of their side; what only looks like an answer is the host's.
	own := fromServer(1, 443, "S")
	own.sport, own.dst, own.src = 40000, netip.MustParseAddr("1.1.1.1"), netip.MustParseAddr("192.168.20.77")
	if got := only(t, b.sendTo(on(), inside, own.build(t)), outside); got[33] != 7 {
		t.Errorf("%x", got)
	}
	stray := fromServer(1, 4242, "SA")
	stray.sport = 80
	only(t, b.sendTo(on(), inside, stray.build(t)), host)
	// An address before all prefixes, and its other ports after all: 0.0.0.0/0 has port 80 only.
	if got := only(t, b.sendTo(on(), outside, fromClient(9000, "S").build(t)), inside); got[37] != 80 {
		t.Errorf("%x", got)
	}
	no := fromClient(9001, "S")
	no.dst, no.dport = netip.MustParseAddr("10.20.3.4"), 81
	if out := b.sendTo(on(), outside, no.build(t)); len(out[inside])+len(out[host]) > 0 || b.stats().Drops[NoVirtualServer] != 1 {
		t.Errorf("a port that no virtual server of the prefix has: %x", out)
	}
	b.close()
}

// A prefix is nobody's on other ports; the ports' own addresses are in no prefix; what nobody wants may be the host's.
func TestPrefixBounds(t *testing.T) {
	spec := a4(1)
	spec.Ports[outside].Addr4 = netip.MustParseAddr("10.20.0.1")
	spec.Virtuals = []VirtualSpec{{Name: "net", Destinations: dests(t, "10.20.0.0/16:80"), Ingress: outside, Proto: flow.TCP, Unmatched: UnmatchedHost}}
	b := newBench(t, spec, 100, 1024)
	to := func(dst string, port uint16) []byte {
		p := fromClient(77, "S")
		p.dst, p.dport = netip.MustParseAddr(dst), port
		return p.build(t)
	}
	only(t, b.send(outside, to("10.20.0.2", 80)), inside)
	only(t, b.send(outside, to("10.20.0.1", 80)), host)
	only(t, b.send(outside, to("10.20.0.2", 81)), host)
	only(t, b.send(inside, to("10.20.0.3", 80)), host)
	b.close()
}

func TestFormsRefused(t *testing.T) {
	for want, change := range map[string]func(s *Spec){
		"a and b: ports 80-90 and 90-99 overlap": func(s *Spec) {
			s.Virtuals = []VirtualSpec{{Name: "a", Destinations: dests(t, "10.0.0.0/8:80-90"), Proto: flow.TCP}, {Name: "b", Destinations: dests(t, "10.0.0.0/8:90-99"), Proto: flow.TCP}}
		},
		"virtual server b: a already has 10.0.0.1:80": func(s *Spec) {
			s.Virtuals = []VirtualSpec{{Name: "a", Destinations: dests(t, "10.0.0.1:80"), Proto: flow.TCP}, {Name: "b", Destinations: dests(t, "10.0.0.1:81", "10.0.0.1:80"), Proto: flow.TCP}}
		},
		"no port 7 for prefix": func(s *Spec) {
			s.Virtuals = []VirtualSpec{{Name: "a", Destinations: dests(t, "10.0.0.0/8:80"), Proto: flow.TCP, Ingress: 7}}
		},
		"is not a prefix": func(s *Spec) {
			s.Virtuals = []VirtualSpec{{Name: "a", Destinations: dests(t, "10.0.0.1/8:80"), Proto: flow.TCP}}
		},
		"only one port of one address": func(s *Spec) {
			s.Virtuals = []VirtualSpec{{Name: "a", Destinations: dests(t, "10.0.0.1:80-81"), Proto: flow.UDP, OnePacket: true}}
		},
	} {
		spec := a4(1)
		change(&spec)
		if _, err := NewConfig(spec, NewDictionary()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A virtual server keeps its id as long as its first destination stays, over a dictionary that is written and read.
func TestFormsKeepIDs(t *testing.T) {
	dict := NewDictionary()
	spec := everywhere(t, 1)
	before, err := NewConfig(spec, dict)
	if err != nil {
		t.Fatal(err)
	}
	again := NewDictionary()
	for _, e := range dict.Entries(0) {
		if !again.Restore(e) {
			t.Fatalf("%+v does not fit", e)
		}
	}
	for i := range spec.Virtuals {
		if v := &spec.Virtuals[i]; v.Name == "net" {
			v.Destinations = append(v.Destinations[:1:1], dests(t, "10.99.0.0/16:1-10")...)
		}
	}
	after, err := NewConfig(spec, again)
	if err != nil {
		t.Fatal(err)
	}
	a, b := before.Virtuals(), after.Virtuals()
	for i := range a {
		if a[i].ID != b[i].ID || a[i].Name != b[i].Name {
			t.Errorf("%s has id %d, then %d", a[i].Name, a[i].ID, b[i].ID)
		}
	}
	if len(again.Entries(0)) != len(dict.Entries(0)) {
		t.Errorf("%d entries, then %d", len(dict.Entries(0)), len(again.Entries(0)))
	}
}
