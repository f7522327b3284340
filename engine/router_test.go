package engine

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// Two providers' routers are outside, each with a network of its own; the hosts that go out through them are inside.
var (
	routerMACs = []net.HardwareAddr{{0xaa, 0xaa, 0xaa, 0xaa, 0xaa, 0xaa}, {0xba, 0xbb, 0xbb, 0xbb, 0xbb, 0xbb}}
	routerIPs  = []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("198.51.100.1")}
	routerIP6s = []netip.Addr{netip.MustParseAddr("2001:db8:1::1"), netip.MustParseAddr("2001:db8:2::1")}
	ownIPs     = []netip.Addr{netip.MustParseAddr("203.0.113.100"), netip.MustParseAddr("198.51.100.100")}
	ownIP6s    = []netip.Addr{netip.MustParseAddr("2001:db8:1::100"), netip.MustParseAddr("2001:db8:2::100")}
	siteIP     = netip.MustParseAddr("192.0.2.80")
	siteIP6    = netip.MustParseAddr("2001:db8:ffff::80")
	hostIP6    = netip.MustParseAddr("fd00:192:168:20::1")
)

var anywhere4 = []Destination{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}}
var anywhere6 = []Destination{{Prefix: netip.MustParsePrefix("::/0")}}

// routed is a configuration without virtual servers of the usual kind: ports, and two routers of each family as members.
func routed(workers int, mode Mode, snat bool) Spec {
	s := Spec{
		Workers: workers,
		Ports:   a4(1).Ports,
		Host:    a4(1).Host,
	}
	for f, ips := range [][]netip.Addr{routerIPs, routerIP6s} {
		p := PoolSpec{Name: fmt.Sprintf("routers%d", f), Scheduler: "round-robin"}
		if mode == Firewall {
			p.Scheduler, p.Symmetric = "maglev", true
		}
		for i, ip := range ips {
			m := MemberSpec{Name: fmt.Sprintf("router-%d", i+1), Addr: ip, Weight: 1, Hop: Hop{Port: outside, MAC: mac(routerMACs[i]), OK: true}}
			if snat {
				m.SNAT = fmt.Sprintf("provider-%d", i+1)
			}
			p.Members = append(p.Members, m)
		}
		s.Pools = append(s.Pools, p)
	}
	if snat {
		for i := range 2 {
			s.SNAT = append(s.SNAT, SNATSpec{Name: fmt.Sprintf("provider-%d", i+1), Addresses: []SNATAddress{snatAt(ownIPs[i].String(), 1024, 65535), snatAt(ownIP6s[i].String(), 1024, 65535)}})
		}
	}
	s.Virtuals = []VirtualSpec{
		{Name: "out", Destinations: anywhere4, Ingress: inside, Pool: 0, Mode: mode},
		{Name: "out6", Destinations: anywhere6, Ingress: inside, Pool: 1, Mode: mode},
	}
	return s
}

// withRoutes adds where hosts and sites are for what is routed by the kernel's table: hosts are neighbours inside, everything
// else is behind the first router.
func withRoutes(s Spec) Spec {
	s.Routes = []RouteSpec{
		{Prefix: netip.MustParsePrefix("192.168.20.0/24"), Hop: Hop{Port: inside}},
		{Prefix: netip.MustParsePrefix("fd00:192:168:20::/64"), Hop: Hop{Port: inside}},
		{Prefix: netip.PrefixFrom(serverIP(1), 32), Hop: Hop{Port: inside, MAC: mac(serverMAC(1)), OK: true}},
		{Prefix: netip.PrefixFrom(hostIP6, 128), Hop: Hop{Port: inside, MAC: mac(serverMAC(1)), OK: true}},
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Via: routerIPs[0], Hop: Hop{Port: outside, MAC: mac(routerMACs[0]), OK: true}},
		{Prefix: netip.MustParsePrefix("::/0"), Via: routerIP6s[0], Hop: Hop{Port: outside, MAC: mac(routerMACs[0]), OK: true}},
		{Prefix: netip.MustParsePrefix("10.99.0.0/16"), Host: true},
	}
	return s
}

// anyPacket is a packet of some protocol between two addresses as gopacket builds it. kind: TCP, UDP, a query or its reply, ESP.
type anyPacket struct {
	packet
	kind  string
	reply bool
}

func (p anyPacket) frame(t testing.TB) []byte {
	t.Helper()
	if p.ttl == 0 {
		p.ttl = 64
	}
	switch p.kind {
	case "tcp":
		return p.build(t)
	case "udp":
		p.udp = true
		return p.build(t)
	}
	eth := &layers.Ethernet{SrcMAC: p.srcMAC, DstMAC: p.dstMAC, EthernetType: layers.EthernetTypeIPv4}
	id := p.sport
	if p.reply {
		id = p.dport
	}
	if p.src.Is4() {
		if p.kind == "esp" {
			return frame(t, eth, ip4(p.src, p.dst, layers.IPProtocolESP, p.ttl), gopacket.Payload("\x00\x00\x00\x01"+p.payload))
		}
		kind := uint8(layers.ICMPv4TypeEchoRequest)
		if p.reply {
			kind = layers.ICMPv4TypeEchoReply
		}
		return frame(t, eth, ip4(p.src, p.dst, layers.IPProtocolICMPv4, p.ttl), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: id, Seq: 1}, gopacket.Payload(p.payload))
	}
	eth.EthernetType = layers.EthernetTypeIPv6
	ip := &layers.IPv6{Version: 6, HopLimit: p.ttl, NextHeader: layers.IPProtocolICMPv6, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
	if p.kind == "esp" {
		ip.NextHeader = layers.IPProtocolESP
		return frame(t, eth, ip, gopacket.Payload("\x00\x00\x00\x01"+p.payload))
	}
	kind := uint8(layers.ICMPv6TypeEchoRequest)
	if p.reply {
		kind = layers.ICMPv6TypeEchoReply
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	_ = icmp.SetNetworkLayerForChecksum(ip)
	return frame(t, eth, ip, icmp, &layers.ICMPv6Echo{Identifier: id, SeqNumber: 1}, gopacket.Payload(p.payload))
}

// randomOut is the first packet of a random connection from a host inside to somewhere.
func randomOut(rng *rand.Rand, kinds ...string) anyPacket {
	p := anyPacket{kind: kinds[rng.IntN(len(kinds))], packet: packet{srcMAC: serverMAC(1), dstMAC: insideMAC, flags: "S", seq: rng.Uint32(),
		sport: uint16(1 + rng.IntN(65535)), dport: uint16(1 + rng.IntN(65535)), payload: string(make([]byte, 8+rng.IntN(900)))}}
	if rng.IntN(2) == 0 {
		p.src, p.dst = serverIP(1), netip.AddrFrom4([4]byte{byte(1 + rng.IntN(9)), byte(rng.IntN(256)), byte(rng.IntN(256)), byte(1 + rng.IntN(200))})
	} else {
		a := siteIP6.As16()
		a[13], a[14], a[15] = byte(rng.IntN(256)), byte(rng.IntN(256)), byte(rng.IntN(256))
		p.src, p.dst = hostIP6, netip.AddrFrom16(a)
	}
	if p.kind == "esp" || p.kind == "icmp" {
		p.dport = p.sport // of a query: there is one number
	}
	return p
}

func (p anyPacket) answer(from net.HardwareAddr, at net.HardwareAddr) anyPacket {
	a := p
	a.srcMAC, a.dstMAC, a.src, a.dst, a.sport, a.dport, a.flags, a.ack, a.reply, a.ttl = from, at, p.dst, p.src, p.dport, p.sport, "SA", p.seq+1+uint32(len(p.payload)), true, 64
	return a
}

// macs reads the Ethernet addresses of a frame.
func macs(b []byte) (dst, src [6]byte) { return [6]byte(b[:6]), [6]byte(b[6:12]) }

// Connections to any destination go out by one of two routers and stay there; where members have SNAT addresses they come
// from that router's, and the answer, on whatever worker it arrives, goes to the host with everything as the host sent it.
// Every byte is what gopacket builds.
func TestRouter(t *testing.T) {
	for _, snat := range []bool{false, true} {
		for workers := 1; workers <= 4; workers++ {
			t.Run(fmt.Sprintf("snat=%v/workers=%d", snat, workers), func(t *testing.T) {
				b := newBench(t, routed(workers, Router, snat), 4000, 1024)
				rng := rand.New(rand.NewPCG(7, uint64(workers)))
				kinds := []string{"tcp", "udp", "icmp"}
				if !snat {
					kinds = append(kinds, "esp")
				}
				used := [2]int{}
				sent := uint64(0)
				for range 400 {
					p := randomOut(rng, kinds...)
					got := only(t, b.sendTo(rng.IntN(workers), inside, p.frame(t)), outside)
					to, _ := macs(got)
					r := 0
					if to == mac(routerMACs[1]) {
						r = 1
					}
					used[r]++
					want := p
					want.srcMAC, want.dstMAC, want.ttl = outsideMAC, routerMACs[r], 63
					if snat {
						want.src, want.sport = ownIPs[r], 0
						if p.src.Is6() {
							want.src = ownIP6s[r]
						}
						want.sport = sportOf(t, got)
						k := flow.Key{Src: flow.AddrFrom(p.src), Dst: flow.AddrFrom(p.dst), Ports: flow.Ports(p.sport, p.dport)}
						if p.kind == "icmp" {
							k.Ports = flow.Ports(p.sport, 0)
							want.dport = want.sport
						}
						if p.kind != "icmp" && uint8(want.sport) != b.Config().binOfEnds(&k) {
							t.Fatalf("port %d is not of bin %d", want.sport, b.Config().binOfEnds(&k))
						}
					}
					if string(got) != string(want.frame(t)) {
						t.Fatalf("%s to the router:\n%x, want\n%x", p.kind, got, want.frame(t))
					}
					answer := want.answer(routerMACs[r], outsideMAC)
					got = only(t, b.sendTo(rng.IntN(workers), outside, answer.frame(t)), inside)
					back := p.answer(insideMAC, serverMAC(1))
					back.ttl = 63
					if string(got) != string(back.frame(t)) {
						t.Fatalf("%s to the host:\n%x, want\n%x", p.kind, got, back.frame(t))
					}
					again := p
					again.flags, again.seq, again.ack = "A", answer.ack, answer.seq+1+uint32(len(answer.payload))
					got = only(t, b.sendTo(rng.IntN(workers), inside, again.frame(t)), outside)
					if again, _ := macs(got); again != to {
						t.Fatalf("%s: the connection changed its router", p.kind)
					}
					sent++
				}
				if used[0] == 0 || used[1] == 0 {
					t.Errorf("connections by router: %v", used)
				}
				s := b.stats()
				if s.Dropped() != 0 || s.ToHost != 0 || s.ToServer != 2*sent || s.ToClient != sent {
					t.Errorf("%+v", s)
				}
				if workers > 1 && s.HandedIn == 0 {
					t.Error("nothing was handed over")
				}
				b.close()
			})
		}
	}
}

// sportOf is the source port, or id of a query, of a frame.
func sportOf(t testing.TB, b []byte) uint16 {
	t.Helper()
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	switch l := p.Layers()[2].(type) {
	case *layers.TCP:
		return uint16(l.SrcPort)
	case *layers.UDP:
		return uint16(l.SrcPort)
	case *layers.ICMPv4:
		return l.Id
	case *layers.ICMPv6:
		return p.Layer(layers.LayerTypeICMPv6Echo).(*layers.ICMPv6Echo).Identifier
	}
	t.Fatalf("no ports in %v", p)
	return 0
}

// hostsOut opens n TCP connections and returns by which router each went.
func (b *bench) hostsOut(t *testing.T, from, n uint16) (routers []int, packets []anyPacket) {
	t.Helper()
	for i := range n {
		p := anyPacket{kind: "tcp", packet: packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: siteIP, sport: from + i, dport: 80, flags: "S", seq: 100}}
		to, _ := macs(only(t, b.sendTo(int(i)%b.n, inside, p.frame(t)), outside))
		r := 0
		if to == mac(routerMACs[1]) {
			r = 1
		}
		routers, packets = append(routers, r), append(packets, p)
	}
	return routers, packets
}

// member is the id of a pool's member.
func (b *bench) member(name string) uint32 {
	for _, p := range b.Config().Pools() {
		for _, m := range p.Members {
			if m.Name == name {
				return m.ID
			}
		}
	}
	b.t.Fatalf("no member %s", name)
	return 0
}

// A router that stops serving gets no connection from that moment; those that it has stay, are reset, or move to the other
// at once with everything that is known of them, as the pool says. One whose source is translated cannot move.
func TestRouterFails(t *testing.T) {
	for name, c := range map[string]struct {
		snat   bool
		policy EndPolicy
		want   string
	}{
		"keep": {false, EndNone, "stay"}, "reset": {false, EndReset, "reset"}, "move": {false, EndMove, "move"}, "move with SNAT": {true, EndMove, "stay"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, routed(2, Router, c.snat), 1000, 1024)
			routers, packets := b.hostsOut(t, 1000, 20)
			before := b.stats()
			b.now += 10
			if _, err := b.SetMembers(t.Context(), []MemberChange{{ID: b.member("router-1"), State: MemberState{Kind: MemberDown}, End: c.policy}}); err != nil {
				t.Fatal(err)
			}
			for range 4 {
				b.Step(b.now)
			}
			resets := 0
			for w := range b.n {
				for p := range 3 {
					b.wire(w, p).Recv(func([]byte) { resets++ })
				}
			}
			first := 0
			for i, p := range packets {
				if routers[i] == 1 {
					continue
				}
				first++
				p.flags, p.seq, p.ack = "A", 101, 1
				out := b.sendTo(i%2, inside, p.frame(t))
				switch c.want {
				case "stay", "move":
					to, _ := macs(only(t, out, outside))
					if moved := to == mac(routerMACs[1]); moved != (c.want == "move") {
						t.Fatalf("connection %d goes to %x", i, to)
					}
				case "reset":
					if len(out[outside]) != 0 {
						t.Fatalf("connection %d goes on", i)
					}
				}
			}
			if first == 0 || first == len(packets) {
				t.Fatalf("%d of %d connections were on router 1", first, len(packets))
			}
			s := b.stats()
			if want := uint64(first); c.want == "move" && s.Moved != want || c.want == "reset" && (s.Ended != want || resets != 2*first) {
				t.Errorf("moved %d, ended %d of %d; %d resets", s.Moved, s.Ended-before.Ended, first, resets)
			}
			fresh, _ := b.hostsOut(t, 3000, 10)
			for _, r := range fresh {
				if r != 1 {
					t.Error("a new connection went to the router that is down")
				}
			}
			var active [2]int64
			for _, p := range b.Config().Pools()[:1] {
				for i, m := range p.Members {
					active[i] = m.Active
				}
			}
			if all := int64(len(packets) + len(fresh)); c.want == "move" && (active[0] != 0 || active[1] != all) || c.want == "stay" && active[0]+active[1] != all {
				t.Errorf("connections by member: %v", active)
			}
			for w := range b.n {
				if err := b.workers[w].table.Check(); err != nil {
					t.Error(err)
				}
			}
			b.close()
		})
	}
}

// ICMP errors about routed connections reach the end that sent the packet, from both sides and with SNAT, on any worker.
func TestRouterErrors(t *testing.T) {
	for _, snat := range []bool{false, true} {
		b := newBench(t, routed(4, Router, snat), 1000, 1024)
		rng := rand.New(rand.NewPCG(3, 3))
		for i := range 60 {
			p := anyPacket{kind: []string{"tcp", "udp"}[i%2], packet: packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: siteIP, sport: uint16(2000 + i), dport: 80, flags: "S", payload: "0123456789"}}
			out := only(t, b.sendTo(rng.IntN(4), inside, p.frame(t)), outside)
			to, _ := macs(out)
			errorAbout := func(from net.HardwareAddr, at net.HardwareAddr, src netip.Addr, about []byte, ttl uint8) []byte {
				q := gopacket.NewPacket(about, layers.LayerTypeEthernet, gopacket.Default).Layer(layers.LayerTypeIPv4).(*layers.IPv4)
				dst, _ := netip.AddrFromSlice(q.SrcIP)
				return frame(t, &layers.Ethernet{SrcMAC: from, DstMAC: at, EthernetType: layers.EthernetTypeIPv4}, ip4(src, dst, layers.IPProtocolICMPv4, ttl),
					&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, 4), Seq: 1280}, gopacket.Payload(about[14:14+28]))
			}
			far := netip.MustParseAddr("100.64.1.1")
			got := only(t, b.sendTo(rng.IntN(4), outside, errorAbout(net.HardwareAddr(to[:]), outsideMAC, far, out, 60)), inside)
			sent := p
			sent.ttl = 63 // it was quoted after our hop
			want := errorAbout(insideMAC, serverMAC(1), far, sent.frame(t), 59)
			if string(got) != string(want) {
				t.Fatalf("snat %v: error to the host\n%x, want\n%x", snat, got, want)
			}
		}
		if s := b.stats(); s.Errors != 60 || s.Dropped() != 0 || s.ToHost != 0 {
			t.Errorf("%+v", s)
		}
		b.close()
	}
}
