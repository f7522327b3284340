package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/flow"
)

// forwarding is routed by the kernel's table, with the own address of the port as source or without SNAT.
func forwarding(workers int, snat bool) Spec {
	s := withRoutes(routed(workers, Forward, false))
	s.Pools = nil
	for i := range s.Virtuals {
		s.Virtuals[i].Pool = -1
	}
	if snat {
		s.SNAT = []SNATSpec{{Name: "own", Addresses: []SNATAddress{snatAt(ownIPs[0].String(), 1024, 65535), snatAt(ownIP6s[0].String(), 1024, 65535)}}}
		for i := range s.Virtuals {
			s.Virtuals[i].SNAT = "own"
		}
	}
	return s
}

// Forwarded connections go where the longest prefix leads, tracked, with and without SNAT; nothing else of them changes but
// TTL.
func TestForward(t *testing.T) {
	for _, snat := range []bool{false, true} {
		for workers := 1; workers <= 3; workers++ {
			t.Run(fmt.Sprintf("snat=%v/workers=%d", snat, workers), func(t *testing.T) {
				b := newBench(t, forwarding(workers, snat), 2000, 1024)
				rng := rand.New(rand.NewPCG(7, uint64(workers)))
				kinds := []string{"tcp", "udp", "icmp"}
				if !snat {
					kinds = append(kinds, "esp")
				}
				for range 300 {
					p := randomOut(rng, kinds...)
					got := only(t, b.sendTo(rng.IntN(workers), inside, p.frame(t)), outside)
					want := p
					want.srcMAC, want.dstMAC, want.ttl = outsideMAC, routerMACs[0], 63
					if snat {
						want.src, want.sport = ownIPs[0], sportOf(t, got)
						if p.src.Is6() {
							want.src = ownIP6s[0]
						}
						if p.kind == "icmp" {
							want.dport = want.sport
						}
					}
					if string(got) != string(want.frame(t)) {
						t.Fatalf("%s out:\n%x, want\n%x", p.kind, got, want.frame(t))
					}
					got = only(t, b.sendTo(rng.IntN(workers), outside, want.answer(routerMACs[0], outsideMAC).frame(t)), inside)
					back := p.answer(insideMAC, serverMAC(1))
					back.ttl = 63
					if string(got) != string(back.frame(t)) {
						t.Fatalf("%s back:\n%x, want\n%x", p.kind, got, back.frame(t))
					}
				}
				if s := b.stats(); s.Dropped() != 0 || s.ToHost != 0 {
					t.Errorf("%+v", s)
				}
				b.close()
			})
		}
	}
}

// A route that changes takes its connections along, to another port even; one that goes leaves what it had to the kernel,
// as does one that the kernel keeps to itself; neighbours are asked for.
func TestForwardRoutes(t *testing.T) {
	spec := forwarding(1, false)
	b := newBench(t, spec, 100, 512)
	p := anyPacket{kind: "tcp", packet: packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: siteIP, sport: 1000, dport: 80, flags: "S", seq: 1}}
	only(t, b.send(inside, p.frame(t)), outside)
	for i := range spec.Routes {
		if spec.Routes[i].Prefix.Bits() == 0 {
			spec.Routes[i].Via, spec.Routes[i].Hop.MAC = routerIPs[1], mac(routerMACs[1])
		}
	}
	apply := func() {
		t.Helper()
		cfg, err := NewConfig(spec, b.dict)
		if err == nil {
			_, err = b.Apply(t.Context(), cfg)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	apply()
	more := p
	more.flags, more.seq, more.ack = "A", 2, 1
	if to, _ := macs(only(t, b.send(inside, more.frame(t)), outside)); to != mac(routerMACs[1]) {
		t.Errorf("the connection goes to %x", to)
	}
	near := p // to a neighbour on the hosts' own network, by another of its addresses
	near.sport, near.dst = 1001, serverIP(2)
	b.drops(inside, near.frame(t), NoNeighbour)
	if got := b.Wanted(t.Context()); len(got) != 1 || got[0] != serverIP(2) {
		t.Errorf("wanted %v", got)
	}
	spec.Routes = append(spec.Routes, RouteSpec{Prefix: netip.PrefixFrom(serverIP(2), 32), Hop: Hop{Port: inside, MAC: mac(serverMAC(2)), OK: true}})
	apply()
	if to, _ := macs(only(t, b.send(inside, near.frame(t)), inside)); to != mac(serverMAC(2)) {
		t.Errorf("the neighbour's packet goes to %x", to)
	}
	p.sport, p.dst = 1002, netip.MustParseAddr("10.99.1.1")
	only(t, b.send(inside, p.frame(t)), host)
	spec.Routes = spec.Routes[:2]
	apply()
	p.sport, p.dst = 1003, siteIP
	only(t, b.send(inside, p.frame(t)), host)
	if s := b.stats(); s.Dropped() != 1 {
		t.Errorf("dropped %v", s.Drops)
	}
	b.close()
}

// A member's connections to the outside are forwarded, and those that clients have with it are translated, on one
// configuration and whatever worker receives what.
func TestForwardBesideNAT(t *testing.T) {
	for workers := 1; workers <= 4; workers++ {
		s := a4(workers)
		f := withRoutes(routed(workers, Forward, false))
		s.Routes, s.SNAT = f.Routes, []SNATSpec{{Name: "own", Addresses: []SNATAddress{snatAt(ownIPs[0].String(), 1024, 65535)}}}
		s.Virtuals = append(s.Virtuals, VirtualSpec{Name: "out", Destinations: anywhere4, Ingress: inside, Pool: -1, Mode: Forward, SNAT: "own"})
		b := newBench(t, s, 4000, 1024)
		rng := rand.New(rand.NewPCG(5, uint64(workers)))
		for i := range 300 {
			c := fromClient(uint16(1000+i), "S")
			server := only(t, b.sendTo(rng.IntN(workers), outside, c.build(t)), inside)
			_, to, _, _ := tuple(t, server)
			n := int(to.As4()[3])
			back := only(t, b.sendTo(rng.IntN(workers), inside, fromServer(n, uint16(1000+i), "SA").build(t)), outside)
			if src, dst, sport, _ := tuple(t, back); src != vip || dst != clientIP || sport != 80 {
				t.Fatalf("the answer comes from %v:%d to %v", src, sport, dst)
			}
			p := anyPacket{kind: "tcp", packet: packet{srcMAC: serverMAC(n), dstMAC: insideMAC, src: serverIP(n), dst: clientIP, sport: uint16(20000 + i), dport: 443, flags: "S", seq: 1}}
			if i%3 == 0 { // with the port of its service, to another's
				p.sport, p.dport = 80, uint16(1000+rng.IntN(60000))
				p.dst = siteIP
			}
			got := only(t, b.sendTo(rng.IntN(workers), inside, p.frame(t)), outside)
			src, _, sport, _ := tuple(t, got)
			if src != ownIPs[0] {
				t.Fatalf("forwarded from %v", src)
			}
			a := packet{srcMAC: routerMACs[0], dstMAC: outsideMAC, src: p.dst, dst: src, sport: p.dport, dport: sport, flags: "SA", seq: 4, ack: 2}
			if _, dst, _, dport := tuple(t, only(t, b.sendTo(rng.IntN(workers), outside, a.build(t)), inside)); dst != serverIP(n) || dport != p.sport {
				t.Fatalf("the answer goes to %v:%d", dst, dport)
			}
		}
		if s := b.stats(); s.Dropped() != 0 || s.ToHost != 0 || s.Opened != 600 {
			t.Errorf("%+v", s)
		}
		b.close()
	}
}

// Bins of the modes: both directions of every connection, and the quote of an ICMP error about it, have one owner.
func TestTransparentOwner(t *testing.T) {
	s := a4(4)
	f := forwarding(4, false)
	s.Routes = f.Routes
	s.Virtuals = append(s.Virtuals, f.Virtuals...)
	cfg, err := NewConfig(s, NewDictionary())
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(9, 9))
	seen := map[int]int{}
	for range 20_000 {
		k := flow.Key{Src: flow.AddrFrom(serverIP(1 + rng.IntN(6))), Dst: flow.AddrFrom(netip.AddrFrom4([4]byte{10, 9, byte(rng.IntN(3)), byte(rng.IntN(256))})), Ports: rng.Uint32(), Proto: flow.TCP}
		if rng.IntN(4) == 0 {
			k.Ports = k.Ports&0xffff | 80<<16
		}
		if rng.IntN(4) == 0 {
			k.Dst = flow.AddrFrom(serverIP(1 + rng.IntN(6)))
		}
		back := flow.Key{Src: k.Dst, Dst: k.Src, Ports: k.Ports>>16 | k.Ports<<16, Proto: k.Proto}
		a, b := cfg.Owner(&k, inside), cfg.Owner(&back, outside)
		if a != b || cfg.Owner(&back, inside) != a {
			t.Fatalf("%+v: owners %d and %d", k, a, b)
		}
		seen[a]++
	}
	for w := range 4 {
		if seen[w] < 4000 {
			t.Errorf("connections by owner: %v", seen)
		}
	}
}

func TestTransparentAllocations(t *testing.T) {
	for name, spec := range map[string]Spec{"router": routed(1, Router, true), "forward": forwarding(1, false), "firewall": withRoutes(routed(1, Firewall, false))} {
		b := newBench(t, spec, 20_000, 1024)
		p := anyPacket{kind: "tcp", packet: packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: siteIP, sport: 1, dport: 80, flags: "S"}}
		only(t, b.send(inside, p.frame(t)), outside)
		again := p.frame(t)
		fresh := make([][]byte, 1200)
		for i := range fresh {
			p.sport = uint16(2000 + i)
			fresh[i] = p.frame(t)
		}
		next := 0
		if n := testing.AllocsPerRun(500, func() {
			b.wire(0, inside).SendBurst([][]byte{again, fresh[next], fresh[next+1]})
			next += 2
			b.now += 300
			b.Step(b.now)
			b.wire(0, outside).Recv(nil)
		}); n != 0 {
			t.Errorf("%s: %v allocations a step", name, n)
		}
		if st := b.stats(); st.Opened < 1000 || st.Closed == 0 {
			t.Errorf("%s: %d opened, %d closed", name, st.Opened, st.Closed)
		}
	}
}
