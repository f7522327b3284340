package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// direct is a4 with direct return, members without ports, and a virtual server for every other protocol and port.
func direct(workers int) Spec {
	s := a4(workers)
	for i := range s.Pools {
		for j := range s.Pools[i].Members {
			s.Pools[i].Members[j].Port = 0
		}
	}
	s.Virtuals = append(s.Virtuals,
		VirtualSpec{Name: "any", Addr: vip, Pool: 0}, VirtualSpec{Name: "any6", Addr: vip6, Pool: 1},
		VirtualSpec{Name: "echo", Addr: vip, Proto: flow.ICMP, Pool: 0}, VirtualSpec{Name: "echo6", Addr: vip6, Proto: flow.ICMPv6, Pool: 1})
	for i := range s.Virtuals {
		s.Virtuals[i].Mode = DirectReturn
	}
	return s
}

// hopped is what a router makes of a frame: other MAC addresses, one hop less, and the header's sum made anew.
func hopped(frame []byte, dst, src [6]byte) []byte {
	b := slices.Clone(frame)
	copy(b, dst[:])
	copy(b[6:], src[:])
	l3 := 14
	for b[l3-2] == 0x81 && b[l3-1] == 0 {
		l3 += 4
	}
	if b[l3]>>4 == 6 {
		b[l3+7]--
		return b
	}
	b[l3+8]--
	h := b[l3 : l3+int(b[l3]&15)*4]
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], ^sum16(h))
	return b
}

// anyClientPacket is a packet of any protocol, with tags, options and extension headers at random, that begins a connection.
func anyClientPacket(t testing.TB, rng *rand.Rand, sport uint16) []byte {
	t.Helper()
	v6 := rng.IntN(2) == 0
	eth := &layers.Ethernet{SrcMAC: clientMAC, DstMAC: outsideMAC, EthernetType: layers.EthernetTypeIPv4}
	ls := []gopacket.SerializableLayer{eth}
	network := layers.EthernetTypeIPv4
	if v6 {
		network = layers.EthernetTypeIPv6
	}
	eth.EthernetType = network
	if rng.IntN(3) == 0 {
		eth.EthernetType = layers.EthernetTypeDot1Q
		ls = append(ls, &layers.Dot1Q{VLANIdentifier: uint16(1 + rng.IntN(4094)), Type: network})
	}
	proto := []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolSCTP, layers.IPProtocolICMPv4, layers.IPProtocolGRE, layers.IPProtocolUDPLite, layers.IPProtocolESP}[rng.IntN(7)]
	ttl := uint8(2 + rng.IntN(254))
	var ip gopacket.NetworkLayer
	if v6 {
		if proto == layers.IPProtocolICMPv4 {
			proto = layers.IPProtocolICMPv6
		}
		h := &layers.IPv6{Version: 6, TrafficClass: uint8(rng.Uint32()), FlowLabel: rng.Uint32() & 0xfffff, HopLimit: ttl, NextHeader: proto, SrcIP: clientIP6.AsSlice(), DstIP: vip6.AsSlice()}
		ls, ip = append(ls, h), h
	} else {
		h := &layers.IPv4{Version: 4, TOS: uint8(rng.Uint32()), Id: uint16(rng.Uint32()), TTL: ttl, Protocol: proto, SrcIP: clientIP.AsSlice(), DstIP: vip.AsSlice()}
		if rng.IntN(2) == 0 {
			h.Flags = layers.IPv4DontFragment
		}
		if rng.IntN(4) == 0 {
			h.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}} // router alert (RFC 2113)
		}
		ls, ip = append(ls, h), h
	}
	payload := make([]byte, rng.IntN(1200))
	for i := range payload {
		payload[i] = byte(rng.Uint32())
	}
	ports := []uint16{80, 53, uint16(1 + rng.IntN(65535))}
	dport := ports[rng.IntN(3)]
	switch proto {
	case layers.IPProtocolTCP:
		l := &layers.TCP{SrcPort: layers.TCPPort(sport), DstPort: layers.TCPPort(dport), Seq: rng.Uint32(), SYN: true, Window: uint16(rng.Uint32()), Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 0xb4}}}}
		_ = l.SetNetworkLayerForChecksum(ip)
		ls = append(ls, l)
	case layers.IPProtocolUDP:
		l := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
		_ = l.SetNetworkLayerForChecksum(ip)
		ls = append(ls, l)
	case layers.IPProtocolSCTP:
		chunk := append([]byte{flow.ChunkInit, 0, 0, 20}, make([]byte, 16)...)
		binary.BigEndian.PutUint32(chunk[4:], rng.Uint32()|1)
		ls, payload = append(ls, &layers.SCTP{SrcPort: layers.SCTPPort(sport), DstPort: layers.SCTPPort(dport)}), chunk
	case layers.IPProtocolICMPv4:
		ls = append(ls, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: sport, Seq: 1})
	case layers.IPProtocolICMPv6:
		l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
		_ = l.SetNetworkLayerForChecksum(ip)
		ls = append(ls, l, &layers.ICMPv6Echo{Identifier: sport, SeqNumber: 1})
	default: // what is behind the header is nobody's to read
		payload = append(payload, 0, 1, 2, 3, 4, 5, 6, 7)
	}
	return frame(t, append(ls, gopacket.Payload(payload))...)
}

// Packets of every protocol, with any options, tags and extension headers, reach one member each, and always the same one,
// with another Ethernet header and a hop less: whatever worker receives them.
func TestDirectReturn(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for workers := 1; workers <= 3; workers++ {
		rng := rand.New(rand.NewPCG(seed, uint64(workers)))
		b := newBench(t, direct(workers), 4000, 1024)
		members := map[uint16]int{}
		for i := range uint16(400) {
			f := anyClientPacket(t, rng, 1024+i)
			again := f
			for range 2 { // the second one may arrive anywhere
				out := b.sendTo(rng.IntN(workers), outside, again)
				if len(out[inside]) != 1 || len(out[outside])+len(out[host]) != 0 {
					t.Fatalf("%d workers, packet %d: %v out of %x; %+v", workers, i, out, f, b.stats())
				}
				got := out[inside][0]
				server := int(got[5])
				if want := hopped(f, mac(serverMAC(server)), mac(insideMAC)); !bytes.Equal(got, want) {
					t.Fatalf("got\n%x, want\n%x, of\n%x", got, want, f)
				}
				if m, ok := members[i]; ok && m != server {
					t.Fatalf("packet %d went to members %d and %d", i, m, server)
				}
				members[i] = server
			}
		}
		s := b.stats()
		if s.Dropped() != 0 || s.ToServer != 800 || s.ToClient != 0 || s.ToHost != 0 {
			t.Errorf("%+v", s)
		}
		b.check()
		b.close()
	}
}

// The states of TCP, by the client's packets alone, each with its own idle time; a new SYN begins anew at once after the
// client's FIN, and answers that come to us after all are nobody's business.
func TestDirectReturnTCP(t *testing.T) {
	b := newBench(t, direct(1), 100, 1024)
	defer b.close()
	times := DefaultTimeouts
	state := func(want flow.TCPState, left uint32) {
		t.Helper()
		conns, err := b.Connections(t.Context(), 10, nil)
		if err != nil || len(conns) != 1 {
			t.Fatal(conns, err)
		}
		if c := conns[0]; c.TCPState() != want || c.LeftMS != uint64(left) || c.Kind() != flow.Routed || !c.OneSided() || c.HalfOpen() != (want == flow.TCPSynSent) {
			t.Fatalf("%v, %d ms, kind %d, half open %v; want %v, %d ms", c.TCPState(), c.LeftMS, c.Kind(), c.HalfOpen(), want, left)
		}
	}
	from := func(flags string, seq, ack uint32, payload string) int {
		t.Helper()
		p := fromClient(4003, flags)
		p.seq, p.ack, p.payload = seq, ack, payload
		return int(only(t, b.send(outside, p.build(t)), inside)[5])
	}
	server := from("S", 1000, 0, "")
	state(flow.TCPSynSent, times.Handshake)
	from("A", 1001, 7001, "")
	state(flow.TCPEstablished, times.Established)
	from("PA", 1001, 7001, "a request")
	state(flow.TCPEstablished, times.Established)
	from("R", 500, 0, "") // guessed
	state(flow.TCPEstablished, times.Established)
	from("FA", 1010, 7001, "")
	state(flow.TCPFinWait, times.Closing)
	if s := from("A", 1011, 7002, ""); s != server {
		t.Errorf("member %d, then %d", server, s)
	}
	// What the member sends is for the client; should it come here, it is the kernel's like anything that is not ours.
	answer := packet{srcMAC: serverMAC(server), dstMAC: insideMAC, src: vip, dst: clientIP, sport: 80, dport: 4003, flags: "A", seq: 7002, ack: 1011}
	if out := b.send(inside, answer.build(t)); len(out[host]) != 1 || len(out[outside]) != 0 {
		t.Errorf("an answer that came to us: %v", out)
	}
	state(flow.TCPFinWait, times.Closing)
	if next := from("S", 90000, 0, ""); next == server {
		t.Errorf("the next connection is the old one")
	}
	state(flow.TCPSynSent, times.Handshake)
	from("A", 90001, 100, "")
	from("R", 90001, 0, "")
	state(flow.TCPClosed, times.Closed)
	b.now += uint64(times.Closed) + 2000
	b.Step(b.now)
	if s := b.stats(); s.Opened != 2 || s.Closed != 2 || s.Outside != 1 {
		t.Errorf("%+v", s)
	}
}

// A client of UDP or of queries has the whole idle time from its first packet on, and is not half open from its second on;
// that nothing answers is held against nobody.
func TestDirectReturnUDP(t *testing.T) {
	b := newBench(t, direct(1), 100, 1024)
	defer b.close()
	p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 9, dport: 53, udp: true, payload: "?"}
	for i := range 2 {
		only(t, b.send(outside, p.build(t)), inside)
		conns, _ := b.Connections(t.Context(), 10, nil)
		if len(conns) != 1 || conns[0].LeftMS != uint64(DefaultTimeouts.UDP) || conns[0].HalfOpen() != (i == 0) {
			t.Fatalf("packet %d: %+v", i, conns)
		}
	}
	syn := fromClient(4003, "S")
	only(t, b.send(outside, syn.build(t)), inside)
	only(t, b.send(outside, syn.build(t)), inside)
	b.pass(uint64(DefaultTimeouts.UDP) + 2000)
	if s := b.stats(); s.Closed != 2 {
		t.Fatalf("%+v", s)
	}
	for _, s := range snapshots(t, b) {
		for id, n := range s.Node {
			if n.Unanswered+n.Answered+n.Refused != 0 {
				t.Errorf("node %d: %+v", id, n)
			}
		}
	}
}

// All parts of a datagram reach the member of its connection, in any order, also those of SCTP, whose checksum stays.
func TestDirectReturnFragments(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for workers := 1; workers <= 3; workers += 2 {
		b := newBench(t, direct(workers), 1000, 2048)
		for i := range 40 {
			src, dst := clientIP, vip
			if i%2 == 1 {
				src, dst = clientIP6, vip6
			}
			p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: src, dst: dst, sport: uint16(1024 + i), dport: 53, udp: true, payload: strings.Repeat("parts of it", 300+rng.IntN(2000))}
			whole := p.build(t)
			if i%8 >= 6 {
				p.dport = sctpPort
				b.send(outside, sctpFrame(t, p, 0, 77, flow.ChunkInit, 0))
				b.send(outside, sctpFrame(t, p, 88, 0, flow.ChunkCookieEcho, 0))
				whole = append(sctpFrame(t, p, 88, 0, flow.ChunkData, 0), make([]byte, 2000)...)
				if i%2 == 1 {
					binary.BigEndian.PutUint16(whole[18:], uint16(len(whole)-54))
				} else {
					binary.BigEndian.PutUint16(whole[16:], uint16(len(whole)-14))
				}
			}
			parts := cut(whole, uint32(i), 8*(60+rng.IntN(120)))
			rng.Shuffle(len(parts), func(a, b int) { parts[a], parts[b] = parts[b], parts[a] })
			var got [][]byte
			for _, part := range parts {
				out := b.sendTo(rng.IntN(workers), outside, part)
				got = append(got, out[inside]...)
			}
			if len(got) != len(parts) {
				t.Fatalf("%d of %d parts; %+v", len(got), len(parts), b.stats())
			}
			to := got[0][:6]
			for _, g := range got {
				if !bytes.Equal(g[:6], to) {
					t.Fatalf("parts went to %x and %x", to, g[:6])
				}
				if !slices.ContainsFunc(parts, func(p []byte) bool { return bytes.Equal(hopped(p, [6]byte(to), mac(insideMAC)), g) }) {
					t.Fatalf("no part was %x", g)
				}
			}
		}
		b.close()
	}
}

// ICMP errors about answers come to the virtual address, from any router and on any port: they go to the member that has the
// connection, as they are. Errors about nothing of ours are the kernel's.
func TestDirectReturnErrors(t *testing.T) {
	for workers := 1; workers <= 3; workers++ {
		for _, c := range errorCases() {
			b := newBench(t, direct(workers), 1000, 2048)
			request := c.request
			request.srcMAC, request.dstMAC = clientMAC, outsideMAC
			server := only(t, b.send(outside, request.build(t)), inside)[5]
			answer := c.answer
			answer.srcMAC, answer.dstMAC, answer.src, answer.sport = serverMAC(1), insideMAC, c.virtual, request.dport
			quoted := answer.build(t)[14:]
			for _, size := range []int{c.header + 8, len(quoted)} {
				for _, port := range []int{outside, inside} {
					for worker := range workers {
						e := tooBig{clientMAC, insideMAC, c.nearRouter, c.virtual, 64, quoted[:size]}.build(t)
						got := only(t, b.sendTo(worker, port, e), inside)
						if want := hopped(e, mac(serverMAC(int(server))), mac(insideMAC)); !bytes.Equal(got, want) {
							t.Fatalf("%s on port %d\n%x, want\n%x", c.name, port, got, want)
						}
					}
				}
			}
			answer.dport++
			e := tooBig{clientMAC, insideMAC, c.nearRouter, c.virtual, 64, answer.build(t)[14:]}.build(t)
			if out := b.send(outside, e); len(out[host]) != 1 {
				t.Errorf("%s: about a stranger: %v", c.name, out)
			}
			if s := b.stats(); s.Errors != uint64(4*workers) || s.Dropped() != 0 {
				t.Errorf("%s: %+v", c.name, s)
			}
			b.close()
		}
	}
}

// What is too big for the members' network is answered with its MTU, from our own address; a hop limit that is used up as well.
func TestDirectReturnAnswers(t *testing.T) {
	s := answering(1, 100)
	d := direct(1)
	s.Pools, s.Virtuals = d.Pools, d.Virtuals
	s.Ports[inside].MTU = 1300
	b := newBench(t, s, 100, 1024)
	defer b.close()
	for _, v6 := range []bool{false, true} {
		p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 1, dport: 80, flags: "S"}
		if v6 {
			p.src, p.dst = clientIP6, vip6
		}
		only(t, b.send(outside, p.build(t)), inside)
		p.flags, p.payload = "A", strings.Repeat("x", 1301)
		p.seq, p.ack = 1, 1
		f := p.build(t)
		if !v6 {
			f[20] |= 0x40
			f[24], f[25] = 0, 0
			binary.BigEndian.PutUint16(f[24:], ^sum16(f[14:34]))
		}
		if said := readError(t, only(t, b.send(outside, f), outside)); said.mtu != 1300 {
			t.Errorf("%+v", said)
		}
		p.payload, p.ttl = "", 1
		if out := b.send(outside, p.build(t)); len(out[outside]) != 1 || len(out[inside]) != 0 {
			t.Errorf("TTL 1: %v", out)
		}
	}
}

// RSTs for both ends of a connection that expires are those that their receivers take (RFC 5961 section 3.2): the client's
// next sequence number and the one that it has acknowledged last.
func TestDirectReturnResets(t *testing.T) {
	s := direct(1)
	for i := range s.Virtuals {
		s.Virtuals[i].ResetExpired = true
	}
	b := newBench(t, s, 100, 1024)
	defer b.close()
	syn := fromClient(4003, "S")
	server := only(t, b.send(outside, syn.build(t)), inside)[5]
	p := fromClient(4003, "PA")
	p.seq, p.ack, p.payload = 1001, 7777, "hello"
	only(t, b.send(outside, p.build(t)), inside)
	b.now += uint64(DefaultTimeouts.Established) + 2000
	for range 4 {
		b.Step(b.now)
	}
	out := b.take()
	want := packet{srcMAC: outsideMAC, dstMAC: clientMAC, src: vip, dst: clientIP, sport: 80, dport: 4003, flags: "RA", seq: 7777, ack: 1006}
	if len(out[outside]) != 1 || !bytes.Equal(out[outside][0], rstFrame(t, want)) {
		t.Errorf("to the client %x, want %x", out[outside], rstFrame(t, want))
	}
	want = packet{srcMAC: insideMAC, dstMAC: serverMAC(int(server)), src: clientIP, dst: vip, sport: 4003, dport: 80, flags: "RA", seq: 1006, ack: 7777}
	if len(out[inside]) != 1 || !bytes.Equal(out[inside][0], rstFrame(t, want)) {
		t.Errorf("to the member %x, want %x", out[inside], rstFrame(t, want))
	}
}

// Connections keep their kind over a takeover, a restart that adopts them, other workers, and a reload that makes the virtual
// server another mode: those that there are go on as they began.
func TestDirectReturnSurvives(t *testing.T) {
	b := newBench(t, direct(2), 1000, 1024)
	servers := map[uint16]byte{}
	talk := func(b *bench, flags string) {
		t.Helper()
		for port := uint16(4000); port < 4040; port++ {
			p := fromClient(port, flags)
			if flags != "S" {
				p.seq, p.ack = 1001, 500
			}
			f := p.build(t)
			got := only(t, b.sendTo(int(port)%b.n, outside, f), inside)
			if flags == "S" {
				servers[port] = got[5]
			}
			if want := hopped(f, mac(serverMAC(int(servers[port]))), mac(insideMAC)); !bytes.Equal(got, want) {
				t.Fatalf("got\n%x, want\n%x", got, want)
			}
		}
	}
	talk(b, "S")
	talk(b, "A")
	nat := a4(2)
	for i := range nat.Pools {
		for j := range nat.Pools[i].Members {
			nat.Pools[i].Members[j].Port = 0
		}
	}
	b.apply(nat)
	talk(b, "A")
	if got := only(t, b.send(outside, fromClient(5000, "S").build(t)), inside); netip.AddrFrom4([4]byte(got[30:34])) == vip {
		t.Error("a new connection is not translated")
	}
	heir := b.takenOver(direct(2))
	talk(heir, "A")
	next, a := heir.successor(t, direct(3), 1000, []int{0, 1, 2})
	if a.Adopted != 41 || a.Unsound+a.Strange+a.Doubled != 0 {
		t.Fatalf("%+v", a)
	}
	talk(next, "A")
	for _, c := range must(next.Connections(t.Context(), 100, nil))(t) {
		if routed := c.CPort != 5000; (c.Kind() == flow.Routed) != routed || c.OneSided() != routed {
			t.Errorf("port %d: kind %d, one-sided %v", c.CPort, c.Kind(), c.OneSided())
		}
	}
	next.close()
}

func must[T any](v T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// The engine refuses what has no meaning where nothing is translated.
func TestDirectReturnRefuses(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"one-packet": func(s *Spec) { s.Virtuals[2].OnePacket = true },
		"SNAT": func(s *Spec) {
			s.SNAT = []SNATSpec{{Name: "out", Addresses: []SNATAddress{snatAt(snat4.String(), 1024, 65535)}}}
			s.Virtuals[0].SNAT = "out"
		},
		"another port": func(s *Spec) { s.Pools[0].Members[2].Port = 81 },
	} {
		s := direct(1)
		change(&s)
		if _, err := NewConfig(s, NewDictionary()); err == nil || !strings.Contains(err.Error(), "virtual server") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Explain says that the member gets the packet as it is, and that the answer does not come back this way.
func TestExplainDirectReturn(t *testing.T) {
	b := newBench(t, direct(1), 100, 1024)
	defer b.close()
	e := b.Config().Explain(flow.TCP, netip.AddrPortFrom(clientIP, 4003), netip.AddrPortFrom(vip, 80))
	if e.Decision != DecideConnect || e.ToServer.Before != e.ToServer.After || e.ToServer.MAC != fmt.Sprint(serverMAC(1)) || e.ToClient != nil {
		t.Errorf("%+v", e)
	}
}

// A mix of new and known connections, parts and errors takes no memory.
func TestDirectReturnAllocates(t *testing.T) {
	b := newBench(t, direct(1), 4000, 2048)
	defer b.close()
	syn := fromClient(4003, "S").build(t)
	ack := fromClient(4003, "A")
	ack.seq, ack.ack = 1001, 1
	known := ack.build(t)
	answer := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: vip, dst: clientIP, sport: 80, dport: 4003, flags: "A"}
	e := tooBig{clientMAC, outsideMAC, clientIP, vip, 64, answer.build(t)[14:]}.build(t)
	parts := cut(packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 9, dport: 53, udp: true, payload: strings.Repeat("p", 3000)}.build(t), 9, 1024)
	var fresh [][]byte
	for i := range uint16(1200) {
		p := fromClient(10000+i, "S")
		fresh = append(fresh, p.build(t))
	}
	b.send(outside, syn)
	next := 0
	if n := testing.AllocsPerRun(500, func() {
		b.wire(0, outside).SendBurst([][]byte{known, e, fresh[next], fresh[next+1], parts[2], parts[0], parts[1]})
		next += 2
		b.now += 10
		b.Step(b.now)
		b.wire(0, inside).Recv(nil)
	}); n != 0 {
		t.Errorf("%v allocations a step", n)
	}
	if s := b.stats(); s.Opened < 1000 || s.Errors < 500 || s.Dropped() != 0 {
		t.Errorf("%+v", s)
	}
}
