package engine

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

func snatAt(addr string, first, last uint16) SNATAddress {
	return SNATAddress{Addr: netip.MustParseAddr(addr), Ports: flow.PortRange{First: first, Last: last}}
}

var (
	snat4 = netip.MustParseAddr("192.168.20.200")
	snat6 = netip.MustParseAddr("fd00:192:168:20::200")
)

// oneArm is a4 with full NAT: clients, members and both SNAT addresses are on one port.
func oneArm(workers int, first, last uint16) Spec {
	s := a4(workers)
	s.SNAT = []SNATSpec{{Name: "out", Addresses: []SNATAddress{snatAt(snat4.String(), first, last), snatAt(snat6.String(), first, last)}}}
	for i := range s.Pools {
		for j := range s.Pools[i].Members {
			s.Pools[i].Members[j].Hop.Port = outside
		}
	}
	s.Virtuals = append(s.Virtuals, VirtualSpec{Name: "echo", Addr: vip, Proto: flow.ICMP, Pool: 0})
	for i := range s.Virtuals {
		s.Virtuals[i].SNAT, s.Virtuals[i].Mode = "out", FullNAT
	}
	return s
}

// tuple reads addresses and ports, or the id of a query, out of a frame by gopacket.
func tuple(t testing.TB, b []byte) (src, dst netip.Addr, sport, dport uint16) {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	s, d := p.NetworkLayer().NetworkFlow().Endpoints()
	src, _ = netip.AddrFromSlice(s.Raw())
	dst, _ = netip.AddrFromSlice(d.Raw())
	switch l := p.Layers()[2].(type) {
	case *layers.TCP:
		return src, dst, uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.UDP:
		return src, dst, uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.ICMPv4:
		return src, dst, l.Id, l.Id
	}
	t.Fatalf("no ports in %v", p)
	return
}

// Both directions are what gopacket builds, for TCP, UDP and queries, IPv4 and IPv6, on one arm. Whatever worker receives the
// answer, it is handed to the owner without a look-up: nothing reaches the kernel and nothing is lost.
func TestFullNAT(t *testing.T) {
	for workers := 1; workers <= 4; workers++ {
		t.Run(fmt.Sprint(workers), func(t *testing.T) {
			b := newBench(t, oneArm(workers, 1024, 65535), 1000, 1024)
			rng := rand.New(rand.NewPCG(1, uint64(workers)))
			for i := range 200 {
				p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: uint16(1 + rng.IntN(65535)), dport: 80, flags: "S", seq: 7, payload: "request"}
				snat, to := snat4, uint16(80)
				switch i % 4 {
				case 1:
					p.udp, p.dport, to = true, 53, 5353
				case 2:
					p.src, p.dst, snat, to = clientIP6, vip6, snat6, 8080
				case 3:
					p.src, p.dst, snat, to, p.udp, p.dport = clientIP6, vip6, snat6, 8080, true, 53
				}
				got := only(t, b.sendTo(rng.IntN(workers), outside, p.build(t)), outside)
				src, server, sport, dport := tuple(t, got)
				bin := b.Config().owners.bin(flow.AddrFrom(p.src), p.sport)
				if src != snat || dport != to || sport < 1024 || uint8(sport) != bin {
					t.Fatalf("the member gets %v:%d > %v:%d; the bin is %d", src, sport, server, dport, bin)
				}
				if uint8(p.sport) == bin && p.sport >= 1024 && sport != p.sport {
					t.Errorf("port %d was not kept", p.sport)
				}
				member := int(server.AsSlice()[len(server.AsSlice())-1])
				want := p
				want.srcMAC, want.dstMAC, want.src, want.dst, want.sport, want.dport, want.ttl = outsideMAC, serverMAC(member), snat, server, sport, to, 63
				if string(got) != string(want.build(t)) {
					t.Fatalf("to the member: %x, want %x", got, want.build(t))
				}
				answer := packet{srcMAC: serverMAC(member), dstMAC: outsideMAC, src: server, dst: snat, sport: to, dport: sport, udp: p.udp, flags: "SA", seq: 9000, ack: 8, payload: "answer"}
				got = only(t, b.sendTo(rng.IntN(workers), outside, answer.build(t)), outside)
				answer.srcMAC, answer.dstMAC, answer.src, answer.dst, answer.sport, answer.dport, answer.ttl = outsideMAC, clientMAC, p.dst, p.src, p.dport, p.sport, 63
				if string(got) != string(answer.build(t)) {
					t.Fatalf("to the client: %x, want %x", got, answer.build(t))
				}
			}
			for id := uint16(1); id < 40; id++ {
				query := func(kind uint8, src, dst netip.Addr, from, to [6]byte, ttl uint8, id uint16) []byte {
					return frame(t, &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: layers.EthernetTypeIPv4},
						ip4(src, dst, layers.IPProtocolICMPv4, ttl), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: id, Seq: 1}, gopacket.Payload("ping"))
				}
				got := only(t, b.sendTo(rng.IntN(workers), outside, query(8, clientIP, vip, mac(clientMAC), mac(outsideMAC), 64, id)), outside)
				src, server, as, _ := tuple(t, got)
				member := int(server.As4()[3])
				if want := query(8, snat4, server, mac(outsideMAC), mac(serverMAC(member)), 63, as); src != snat4 || string(got) != string(want) {
					t.Fatalf("query %x, want %x", got, want)
				}
				got = only(t, b.sendTo(rng.IntN(workers), outside, query(0, server, snat4, mac(serverMAC(member)), mac(outsideMAC), 64, as)), outside)
				if want := query(0, vip, clientIP, mac(outsideMAC), mac(clientMAC), 63, id); string(got) != string(want) {
					t.Fatalf("reply %x, want %x", got, want)
				}
			}
			s := b.stats()
			if s.Dropped() != 0 || s.ToHost != 0 || s.ToServer != 239 || s.ToClient != 239 {
				t.Errorf("%+v", s)
			}
			if workers > 1 && s.HandedIn == 0 {
				t.Error("nothing was handed over")
			}
			b.drops(outside, packet{srcMAC: serverMAC(1), dstMAC: outsideMAC, src: serverIP(1), dst: snat4, sport: 80, dport: 6000, flags: "A"}.build(t), NoConnection)
			b.drops(outside, packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: snat4, dst: vip, sport: 6000, dport: 80, flags: "S"}.build(t), BadSource)
			b.drops(outside, frame(t, &layers.Ethernet{SrcMAC: clientMAC, DstMAC: outsideMAC, EthernetType: layers.EthernetTypeIPv4},
				ip4(clientIP, vip, layers.IPProtocolGRE, 64), &layers.GRE{Protocol: layers.EthernetTypeIPv4}), NoVirtualServer)
			b.check()
			b.pass(2 * uint64(DefaultTimeouts.Established))
			for _, w := range b.workers {
				if w.table.Len() != 0 || w.sources.Sets() != 0 {
					t.Errorf("worker %d has %d connections and %d sets of ports at the end", w.id, w.table.Len(), w.sources.Sets())
				}
			}
			b.close()
		})
	}
}

// One address with 512 ports takes 512 connections to each member, exactly; the reason for the rest has a name, it is foreseen
// by the count of crowded sets, and what ends makes room again. Another protocol has ports of its own.
func TestFullNATExhausted(t *testing.T) {
	spec := oneArm(2, 2048, 2559)
	spec.Pools[0].Members = spec.Pools[0].Members[:2]
	b := newBench(t, spec, 5000, 1024)
	opened, refused, warned := 0, uint64(0), false
	for sport := 1; sport < 8000; sport++ {
		before := b.stats().Drops[SNATExhausted]
		out := b.sendTo(sport%2, outside, fromClient(uint16(sport), "S").build(t))
		refused += b.stats().Drops[SNATExhausted] - before
		opened += len(out[outside])
		if snaps, _ := b.Snapshots(t.Context()); opened == 1000 && snaps[0].CrowdedSets+snaps[1].CrowdedSets > 0 {
			warned = true
		}
	}
	if opened != 2*512 || refused != 7999-2*512 || !warned {
		t.Errorf("%d opened, %d refused, warned %v", opened, refused, warned)
	}
	b.check()
	only(t, b.send(outside, packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 9, dport: 53, udp: true}.build(t)), outside)
	b.pass(uint64(DefaultTimeouts.Handshake) + 5000)
	only(t, b.send(outside, fromClient(7999, "S").build(t)), outside)

	// A second address doubles what there is.
	spec.SNAT[0].Addresses = append(spec.SNAT[0].Addresses, snatAt("192.168.20.201", 2048, 2559))
	b2 := newBench(t, spec, 5000, 1024)
	opened = 0
	for sport := 1; sport < 12000; sport++ {
		opened += len(b2.sendTo(sport%2, outside, fromClient(uint16(sport), "S").build(t))[outside])
	}
	if opened != 4*512 {
		t.Errorf("%d opened with two addresses", opened)
	}
}

// fullNATFlow is an established connection with what its next packets are.
type fullNATFlow struct {
	client, member packet
	toMember       uint16 // SNAT port
}

func (b *bench) fullNATFlow(sport uint16) fullNATFlow {
	b.t.Helper()
	got := only(b.t, b.send(outside, fromClient(sport, "S").build(b.t)), outside)
	_, server, port, _ := tuple(b.t, got)
	n := int(server.As4()[3])
	sa := packet{srcMAC: serverMAC(n), dstMAC: outsideMAC, src: server, dst: snat4, sport: 80, dport: port, flags: "SA", seq: 9000, ack: 1001}
	only(b.t, b.send(outside, sa.build(b.t)), outside)
	only(b.t, b.send(outside, ackOf(sport).build(b.t)), outside)
	sa.flags, sa.seq = "A", 9001
	return fullNATFlow{ackOf(sport), sa, port}
}

// go on sends a packet each way from any worker and checks where they come out.
func (f *fullNATFlow) goOn(t testing.TB, send func(frame []byte) [3][][]byte) {
	t.Helper()
	_, server, port, _ := tuple(t, only(t, send(f.client.build(t)), outside))
	if server != f.member.src || port != f.toMember {
		t.Fatalf("the client's packet went to %v from port %d, not to %v from %d", server, port, f.member.src, f.toMember)
	}
	_, client, _, dport := tuple(t, only(t, send(f.member.build(t)), outside))
	if client != clientIP || dport != f.client.sport {
		t.Fatalf("the answer went to %v port %d", client, dport)
	}
}

// Adoption after a kill, with another number of workers, and a takeover: connections keep their ports, and new ones get others.
func TestFullNATOutlivesEngine(t *testing.T) {
	for _, workers := range [][2]int{{1, 3}, {3, 2}, {4, 4}} {
		b := newBench(t, oneArm(workers[0], 4096, 4607), 2000, 1024)
		var flows []fullNATFlow
		for sport := uint16(1); sport <= 600; sport++ {
			flows = append(flows, b.fullNATFlow(sport))
		}
		next, a := b.successor(t, oneArm(workers[1], 4096, 4607), 2000, samePorts)
		if a != (Adoption{Adopted: 600}) {
			t.Fatalf("%+v", a)
		}
		heir := next.takenOver(oneArm(workers[1], 4096, 4607))
		for i := range flows {
			flows[i].goOn(t, func(f []byte) [3][][]byte { return heir.sendTo(i%workers[1], outside, f) })
		}
		for sport := uint16(601); sport <= 800; sport++ {
			flows = append(flows, heir.fullNATFlow(sport))
		}
		seen := map[string]bool{}
		for _, f := range flows {
			at := fmt.Sprint(f.member.src, f.toMember)
			if seen[at] {
				t.Fatalf("%s has two connections", at)
			}
			seen[at] = true
		}
		heir.check()
		// With another idea of the client's end no owner could have both directions.
		spec := oneArm(3, 4096, 4607)
		spec.ClientEnd = ClientAddr
		_, a = heir.successor(t, spec, 2000, samePorts)
		if a.Adopted+a.Strange != 800 || a.Strange < 300 {
			t.Errorf("with another client end %+v", a)
		}
	}
}

// Scaling moves connections with their ports, to and fro.
func TestFullNATScale(t *testing.T) {
	s := newScaleBenchOf(t, oneArm(1, 1024, 65535), 2000, nil)
	var flows []fullNATFlow
	sport := uint16(1)
	for _, workers := range []int{1, 3, 2, 4, 1} {
		if workers != len(s.workers) {
			if done := s.scale(workers, 2000); done.Lost != 0 || done.Moved != len(flows) {
				t.Fatalf("%+v", done)
			}
		}
		s.check()
		for range 100 {
			flows = append(flows, s.fullNATFlow(sport))
			sport++
		}
		for i := range flows {
			flows[i].goOn(t, func(f []byte) [3][][]byte { return s.sendTo(i%scaleQueues, outside, f) })
		}
		s.check()
	}
	if st := s.stats(); st.Dropped() != 0 {
		t.Errorf("dropped %v", st.Drops)
	}
}

// A client on the member's own network is answered past us in server NAT: it gets a SNAT address, or another member, or a
// reason.
func TestHairpin(t *testing.T) {
	near := packet{srcMAC: serverMAC(9), dstMAC: insideMAC, src: netip.MustParseAddr("192.168.20.9"), dst: vip, sport: 5000, dport: 80, flags: "S"}
	spec := a4(1)
	spec.SNAT = oneArm(1, 1024, 65535).SNAT
	for i := range 3 {
		spec.Pools[0].Members[i].Subnet = netip.MustParsePrefix("192.168.20.254/24")
	}
	spec.Virtuals[0].Hairpin = HairpinRefuse
	b := newBench(t, spec, 1000, 1024)
	for range 3 { // the only member that is not known to be on that network
		if _, server, _, _ := tuple(t, only(t, b.send(inside, near.build(t)), inside)); server != serverIP(4) {
			t.Errorf("went to %v", server)
		}
		near.sport++
	}
	spec.Pools[0].Members[3].Subnet = spec.Pools[0].Members[0].Subnet
	b = newBench(t, spec, 1000, 1024)
	b.drops(inside, near.build(t), HairpinRefused)
	spec.Virtuals[0].Hairpin, spec.Virtuals[0].SNAT = HairpinSNAT, "out"
	b = newBench(t, spec, 1000, 1024)
	for range 4 {
		src, server, port, _ := tuple(t, only(t, b.send(inside, near.build(t)), inside))
		if src != snat4 {
			t.Fatalf("comes from %v", src)
		}
		answer := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: server, dst: snat4, sport: 80, dport: port, flags: "SA", ack: 1}
		if src, dst, _, dport := tuple(t, only(t, b.send(inside, answer.build(t)), inside)); src != vip || dst != near.src || dport != near.sport {
			t.Errorf("the answer is from %v to %v:%d", src, dst, dport)
		}
		near.sport++
	}
	if src, _, _, _ := tuple(t, only(t, b.send(outside, fromClient(77, "S").build(t)), inside)); src != clientIP {
		t.Errorf("a client from elsewhere comes from %v", src)
	}
	b.check()
}

// What cannot work is refused when it is compiled.
func TestSNATConfigErrors(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"no pool":      func(s *Spec) { s.Virtuals[0].SNAT = "none" },
		"needs a pool": func(s *Spec) { s.Virtuals[0].SNAT = "" },
		"virtual too":  func(s *Spec) { s.SNAT[0].Addresses[0].Addr = vip },
		"range":        func(s *Spec) { s.SNAT[0].Addresses[0].Ports.First = 0 },
		"one-packet":   func(s *Spec) { s.Virtuals[2].OnePacket = true },
	} {
		s := oneArm(1, 1024, 65535)
		change(&s)
		if _, err := NewConfig(s, NewDictionary()); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestFullNATAllocations(t *testing.T) {
	b := newBench(t, oneArm(1, 1024, 65535), 20_000, 1024)
	f := b.fullNATFlow(1)
	c, s := f.client.build(t), f.member.build(t)
	fresh := make([][]byte, 1200)
	for i := range fresh {
		fresh[i] = fromClient(uint16(2000+i), "S").build(t)
	}
	next := 0
	if n := testing.AllocsPerRun(500, func() {
		b.wire(0, outside).SendBurst([][]byte{c, s, fresh[next], fresh[next+1]})
		next += 2
		b.now += 300
		b.Step(b.now)
		b.wire(0, outside).Recv(nil)
	}); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	if st := b.stats(); st.Opened < 1000 || st.Closed == 0 {
		t.Errorf("%d opened, %d closed", st.Opened, st.Closed)
	}
}
