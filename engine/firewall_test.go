package engine

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"

	"sluice/flow"
)

// sandwich is two engines on both sides of two firewalls. Each firewall passes what it has seen open and nothing else, and has
// another MAC on each side.
//
//	hosts ── near ──┬── firewall 1 ──┬── far ── hosts
//	                └── firewall 2 ──┘
type sandwich struct {
	t        *testing.T
	side     [2]*bench
	rng      *rand.Rand
	known    [2]map[flow.Key]bool // by firewall: tuples of both directions
	refused  int
	crossed  [2]int
	lastWall int // that the last packet crossed, -1 for none
}

func wallMAC(side, wall int) net.HardwareAddr {
	return net.HardwareAddr{2, 0xf, 0, byte(side), 0, byte(wall)}
}
func sideHost(side int, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0xfd, 0, byte(side), 15: 1})
	}
	return netip.AddrFrom4([4]byte{10, byte(side), 0, 1})
}
func sideNet(side int, v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(sideHost(side, true), 24).Masked()
	}
	return netip.PrefixFrom(sideHost(side, false), 16).Masked()
}

func sideSpec(side, workers int) Spec {
	s := routed(workers, Firewall, false)
	for f := range s.Pools {
		s.Pools[f].Members = s.Pools[f].Members[:0]
		for _, wall := range [][]int{{0, 1}, {1, 0}}[side] { // in another order, with other addresses
			addr := netip.AddrFrom4([4]byte{192, 0, byte(side), byte(wall + 1)})
			if f == 1 {
				addr = netip.AddrFrom16([16]byte{0x20, 1, byte(side), 15: byte(wall + 1)})
			}
			s.Pools[f].Members = append(s.Pools[f].Members, MemberSpec{Name: []string{"wall-a", "wall-b"}[wall], Addr: addr, Weight: 1,
				Hop: Hop{Port: outside, MAC: mac(wallMAC(side, wall)), OK: true}})
		}
	}
	for i := range s.Virtuals {
		s.Virtuals[i].MidStream = MidStreamAdopt
	}
	for _, v6 := range []bool{false, true} {
		h := sideHost(side, v6)
		s.Routes = append(s.Routes, RouteSpec{Prefix: sideNet(side, v6), Hop: Hop{Port: inside}},
			RouteSpec{Prefix: netip.PrefixFrom(h, h.BitLen()), Hop: Hop{Port: inside, MAC: mac(serverMAC(side)), OK: true}})
	}
	return s
}

func newSandwich(t *testing.T, workers [2]int) *sandwich {
	s := &sandwich{t: t, rng: rand.New(rand.NewPCG(1, 2))}
	for side := range 2 {
		s.side[side] = newBench(t, sideSpec(side, workers[side]), 4000, 1024)
		s.known[side] = map[flow.Key]bool{}
	}
	return s
}

// cross sends a packet from the host of a side and returns what the host of the other side receives, nil if a firewall or an
// engine has dropped it.
func (s *sandwich) cross(side int, p anyPacket) []byte {
	s.t.Helper()
	p.srcMAC, p.dstMAC = serverMAC(side), insideMAC
	b := s.side[side]
	s.lastWall = -1
	out := b.sendTo(s.rng.IntN(b.n), inside, p.frame(s.t))
	if len(out[outside]) == 0 {
		return nil
	}
	f := only(s.t, out, outside)
	to, _ := macs(f)
	wall := slices.IndexFunc([]int{0, 1}, func(i int) bool { return to == mac(wallMAC(side, i)) })
	if wall < 0 {
		s.t.Fatalf("a packet goes to %x", to)
	}
	k := flow.Key{Src: flow.AddrFrom(p.src), Dst: flow.AddrFrom(p.dst), Ports: flow.Ports(p.sport, p.dport), Proto: p.kind[0]}
	if back := (flow.Key{Src: k.Dst, Dst: k.Src, Ports: k.Ports>>16 | k.Ports<<16, Proto: k.Proto}); !s.known[wall][k] {
		if p.kind == "tcp" && p.flags != "S" || p.reply {
			s.refused++
			return nil
		}
		s.known[wall][k], s.known[wall][back] = true, true
	}
	s.crossed[wall]++
	s.lastWall = wall
	other := 1 - side
	copy(f, outsideMAC)
	copy(f[6:], wallMAC(other, wall))
	b = s.side[other]
	out = b.sendTo(s.rng.IntN(b.n), outside, f)
	if len(out[inside]) == 0 {
		return nil
	}
	return only(s.t, out, inside)
}

func (s *sandwich) connection(side, i int) anyPacket {
	p := anyPacket{kind: []string{"tcp", "udp", "icmp", "esp"}[i%4], packet: packet{flags: "S", seq: 1, sport: uint16(1000 + i), dport: uint16(1 + s.rng.IntN(60000)), payload: "12345678"}}
	v6 := i/4%2 == 1
	p.src, p.dst = sideHost(side, v6), sideHost(1-side, v6)
	a := p.src.AsSlice()
	a[len(a)-2] = byte(i) // so that the hash has something to go by
	b := p.dst.AsSlice()
	b[len(b)-2] = byte(i)
	p.src, _ = netip.AddrFromSlice(a)
	p.dst, _ = netip.AddrFromSlice(b)
	if p.kind == "esp" || p.kind == "icmp" {
		p.dport = p.sport
	}
	return p
}

// settleHosts makes the hosts that connection makes up neighbours.
func settleHosts(s *Spec, side int) {
	for i := range 256 {
		for _, v6 := range []bool{false, true} {
			a := sideHost(side, v6).AsSlice()
			a[len(a)-2] = byte(i)
			h, _ := netip.AddrFromSlice(a)
			s.Routes = append(s.Routes, RouteSpec{Prefix: netip.PrefixFrom(h, h.BitLen()), Hop: Hop{Port: inside, MAC: mac(serverMAC(side)), OK: true}})
		}
	}
}

// Connections opened from both sides cross one and the same firewall in both directions, whatever worker their packets arrive
// on, with everything that the sender sent but TTL; both firewalls are used and neither ever sees a stranger. Then one side
// loses its table: mid-stream adoption and the symmetric hash bring its packets back to where they were.
func TestFirewallSandwich(t *testing.T) {
	for _, workers := range [][2]int{{1, 1}, {3, 2}, {4, 4}} {
		s := newSandwich(t, workers)
		for side := range 2 {
			spec := sideSpec(side, workers[side])
			settleHosts(&spec, side)
			s.side[side] = newBench(t, spec, 4000, 1024)
		}
		type conn struct {
			anyPacket
			side, wall int
		}
		var open []conn
		for i := range 200 {
			side := i / 8 % 2
			p := s.connection(side, i)
			got := s.cross(side, p)
			if got == nil {
				t.Fatalf("workers %v: the first packet of connection %d (%s) was lost; %v %v", workers, i, p.kind, s.side[0].stats().Drops, s.side[1].stats().Drops)
			}
			want := p
			want.srcMAC, want.dstMAC, want.ttl = insideMAC, serverMAC(1-side), 62
			if string(got) != string(want.frame(t)) {
				t.Fatalf("%s arrives as\n%x, want\n%x", p.kind, got, want.frame(t))
			}
			open = append(open, conn{p, side, s.lastWall})
		}
		talk := func(when string) {
			t.Helper()
			for i := range open {
				c := &open[i]
				reply := c.answer(nil, nil)
				if got := s.cross(1-c.side, reply); got == nil || s.lastWall != c.wall {
					t.Fatalf("%s, workers %v: the answer of connection %d (%s, opened from side %d through %d) went through %d; refused %d; drops %v %v", when, workers, i, c.kind, c.side, c.wall, s.lastWall, s.refused,
						s.side[0].stats().Drops, s.side[1].stats().Drops)
				}
				more := c.anyPacket
				more.flags, more.seq, more.ack = "A", reply.ack, reply.seq+1+uint32(len(reply.payload))
				if got := s.cross(c.side, more); got == nil || s.lastWall != c.wall {
					t.Fatalf("%s, workers %v: connection %d goes through %d, not %d", when, workers, i, s.lastWall, c.wall)
				}
			}
		}
		talk("at first")
		if s.refused != 0 || s.crossed[0] == 0 || s.crossed[1] == 0 {
			t.Errorf("firewalls were crossed %v times and have refused %d packets", s.crossed, s.refused)
		}
		for side := range 2 {
			st := s.side[side].stats()
			if st.Dropped() != 0 || st.ToHost != 0 || st.Opened != 200 {
				t.Errorf("side %d: %+v", side, st)
			}
			if workers[side] > 1 && st.HandedIn == 0 {
				t.Error("nothing was handed over")
			}
		}
		for side := range 2 { // one after the other forgets everything
			spec := sideSpec(side, workers[side])
			settleHosts(&spec, side)
			s.side[side].close()
			s.side[side] = newBench(t, spec, 4000, 1024)
			open = slices.DeleteFunc(open, func(c conn) bool { return c.kind == "icmp" }) // a reply alone begins nothing
			talk("after a loss")
		}
		s.side[0].close()
		s.side[1].close()
	}
}

// Connections that came through a firewall that stops serving go back through the other at once, where the pool says move.
func TestFirewallFails(t *testing.T) {
	spec := sideSpec(0, 2)
	settleHosts(&spec, 0)
	b := newBench(t, spec, 1000, 1024)
	var conns []anyPacket
	for i := range 8 {
		p := anyPacket{kind: []string{"tcp", "udp"}[i%2], packet: packet{srcMAC: wallMAC(0, i/2%2), dstMAC: outsideMAC, src: sideHost(1, false), dst: sideHost(0, false), sport: uint16(100 + i), dport: 80, flags: "S", seq: 1}}
		only(t, b.sendTo(i%2, outside, p.frame(t)), inside)
		conns = append(conns, p)
	}
	// A firewall that takes over for the other: the MAC of a datagram says so, if it is one of theirs.
	p := conns[1]
	p.srcMAC = wallMAC(0, 1)
	only(t, b.sendTo(0, outside, p.frame(t)), inside)
	answer := p.answer(serverMAC(0), insideMAC)
	if to, _ := macs(only(t, b.sendTo(0, inside, answer.frame(t)), outside)); to != mac(wallMAC(0, 1)) {
		t.Errorf("the answer goes to %x", to)
	}
	p.srcMAC = clientMAC // some neighbour's does not
	only(t, b.sendTo(0, outside, p.frame(t)), inside)
	if to, _ := macs(only(t, b.sendTo(0, inside, answer.frame(t)), outside)); to != mac(wallMAC(0, 1)) {
		t.Errorf("the answer goes to %x", to)
	}
	b.now += 10
	if _, err := b.SetMembers(t.Context(), []MemberChange{{ID: b.member("wall-a"), State: MemberState{Kind: MemberDown}, End: EndMove}}); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		b.Step(b.now)
	}
	for i, p := range conns {
		if to, _ := macs(only(t, b.sendTo(i%2, inside, p.answer(serverMAC(0), insideMAC).frame(t)), outside)); to != mac(wallMAC(0, 1)) {
			t.Errorf("connection %d goes back to %x", i, to)
		}
	}
	if s := b.stats(); s.Moved != 3 || s.Ended != 0 {
		t.Errorf("moved %d, ended %d", s.Moved, s.Ended)
	}
	b.close()
}

// Only what comes from a firewall's MAC, for what the virtual server takes in the other direction, is learned: the rest is
// the kernel's.
func TestFirewallStrangers(t *testing.T) {
	spec := sideSpec(0, 1)
	spec.Virtuals[0].Proto = flow.TCP
	b := newBench(t, spec, 100, 512)
	p := anyPacket{kind: "tcp", packet: packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: sideHost(1, false), dst: sideHost(0, false), sport: 9, dport: 80, flags: "S"}}
	only(t, b.send(outside, p.frame(t)), host)
	p.srcMAC, p.kind = wallMAC(0, 0), "udp"
	only(t, b.send(outside, p.frame(t)), host)
	p.kind, p.dst = "tcp", netip.MustParseAddr("100.64.0.1") // no route there
	only(t, b.send(outside, p.frame(t)), host)
	p.dst = sideNet(0, false).Addr().Next().Next() // no neighbour yet
	b.drops(outside, p.frame(t), NoNeighbour)
	if got := b.Wanted(t.Context()); len(got) != 1 || got[0] != p.dst {
		t.Errorf("wanted %v", got)
	}
	if got := b.Wanted(t.Context()); len(got) != 0 {
		t.Errorf("wanted again %v", got)
	}
	p.dst = sideHost(0, false)
	only(t, b.send(outside, p.frame(t)), inside)
	b.close()
}
