package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
	"sluice/rings"
)

// answeringAll is answering with addresses, and a prefix on the outside port, whose unmatched is as given.
func answeringAll(workers, rate int, rest Unmatched) Spec {
	s := answering(workers, rate)
	s.Virtuals = append(s.Virtuals, VirtualSpec{Name: "net", Proto: flow.TCP, Pool: 0, Ingress: outside,
		Destinations: []Destination{{netip.MustParsePrefix("10.20.0.0/16"), flow.PortRange{First: 80, Last: 80}}}})
	for i := range s.Virtuals {
		s.Virtuals[i].Unmatched = rest
	}
	return s
}

// unmatchedPacket is a packet from the client to nobody, of any protocol.
func unmatchedPacket(r *rand.Rand) anyWire {
	p := anyWire{from: clientMAC, to: outsideMAC, src: clientIP, dst: vip, sport: uint16(1 + r.IntN(65535)), dport: uint16(1000 + r.IntN(60000))}
	switch r.IntN(3) {
	case 0:
		p.src, p.dst = clientIP6, vip6
	case 1:
		p.dst = netip.AddrFrom4([4]byte{10, 20, byte(r.IntN(256)), byte(r.IntN(256))})
	}
	p.proto = []uint8{flow.TCP, flow.TCP, flow.UDP, flow.UDP, flow.SCTP, 4, 33, 47, 50, 103, 136}[r.IntN(11)]
	p = p.randomBody(r, 1200)
	p.ttl = uint8(1 + r.IntN(255)) // the end of a packet's way takes it with a TTL of 1 (RFC 1122 section 3.2.1.7)
	switch p.proto {
	case flow.TCP:
		p.tcp = layers.TCP{Seq: r.Uint32(), Ack: r.Uint32(), Window: 1000, SYN: r.IntN(2) == 0, ACK: r.IntN(2) == 0, FIN: r.IntN(4) == 0, PSH: r.IntN(2) == 0, RST: r.IntN(5) == 0}
	case flow.UDP, flow.SCTP:
	default:
		p.sport, p.dport = 0, 0
	}
	return p
}

// refusedBy is the frame that a host of the packet's destination answers to sent, the packet or its first part, by gopacket:
// nothing for a RST.
func refusedBy(t testing.TB, p anyWire, sent []byte) []byte {
	t.Helper()
	a := anyWire{from: p.to, to: p.from, src: p.dst, dst: p.src, ttl: 64, df: true}
	if p.proto == flow.TCP {
		if p.tcp.RST {
			return nil
		}
		a.proto, a.sport, a.dport, a.tcp = flow.TCP, p.dport, p.sport, layers.TCP{RST: true, DataOffset: 5}
		if p.tcp.ACK {
			a.tcp.Seq = p.tcp.Ack
		} else {
			n := len(p.transport(t)) - 20
			if len(p.cuts) > 0 {
				n = p.cuts[0] - 20
			}
			for _, flag := range []bool{p.tcp.SYN, p.tcp.FIN} {
				if flag {
					n++
				}
			}
			a.tcp.ACK, a.tcp.Ack = true, p.tcp.Seq+uint32(n)
		}
		return a.ethernet(a.ip(t, a.transport(t), 0, false))
	}
	quoted := sent[14:]
	if p.src.Is4() {
		quoted = quoted[:min(len(quoted), 576-28)]
		code := uint8(2)
		if p.proto == flow.UDP {
			code = 3
		}
		a.proto, a.tos = flow.ICMP, 0xc0
		return a.ethernet(a.ip(t, frame(t, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, code)}, gopacket.Payload(quoted)), 0, false))
	}
	quoted = quoted[:min(len(quoted), 1280-48)]
	kind, code, word := uint8(1), uint8(4), 0
	if p.proto != flow.UDP {
		kind, code, word = 4, 1, 6
		at := 40
		for _, e := range p.ext {
			word, at = at, at+1+len(e.rest)
		}
		if len(p.cuts) > 0 {
			word = at
		}
	}
	a.proto = flow.ICMPv6
	_, network := a.layer()
	l := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, code)}
	_ = l.SetNetworkLayerForChecksum(network)
	return a.ethernet(a.ip(t, frame(t, l, gopacket.Payload(append(binary.BigEndian.AppendUint32(nil, uint32(word)), quoted...))), 0, false))
}

// Any packet to a virtual address that is for no virtual server, whole or in parts that arrive in any order at any worker, with tags or
// without, is answered as a host would, byte for byte, or dropped by name.
func TestUnmatchedReset(t *testing.T) {
	for workers := 1; workers <= 3; workers += 2 {
		for tags := range 3 {
			t.Run(fmt.Sprintf("workers=%d/tags=%d", workers, tags), func(t *testing.T) {
				seed := uint64(time.Now().UnixNano())
				t.Logf("seed %d", seed)
				unmatchedReset(t, workers, tags, rand.New(rand.NewPCG(seed, 0)))
			})
		}
	}
}

func unmatchedReset(t *testing.T, workers, tags int, r *rand.Rand) {
	spec := answeringAll(workers, 1<<20, UnmatchedReset)
	b := &everyBed{mode: everyMode{client: outside, server: inside}, r: r, seen: map[string]int{}}
	if tags > 0 {
		if b.tags = [2][]uint16{{10}, {20}}; tags == 2 {
			b.tags[0] = []uint16{30, 40}
		}
		spec = onVLANs(spec, b.tags)
	}
	b.spec, b.bench = spec, newBench(t, spec, 1000, 768)
	defer b.close()
	var resets, errors, rsts, later uint64
	for range 400 {
		p := unmatchedPacket(r)
		if r.IntN(4) == 0 {
			p = p.randomCuts(t, r)
		}
		frames := p.frames(t)
		want := refusedBy(t, p, frames[0])
		out := b.pass(outside, frames...)
		if want == nil {
			none(t, out)
			rsts++
		} else {
			b.expect(p.String(), out, outside, [][]byte{want})
			if p.proto == flow.TCP {
				resets++
			} else {
				errors++
			}
		}
		later += uint64(len(frames) - 1)
		if p.src.Is6() && len(p.ext) > 0 {
			b.seen["extension headers"]++
		}
		b.seen[fmt.Sprintf("protocol %d", p.proto)]++
	}
	s := b.stats()
	if s.Resets != resets || s.ICMPSent != errors || s.Answered != resets+errors || s.Refused[NoVirtualServer] != resets+errors ||
		s.Drops[NoVirtualServer] != rsts || s.Drops[Fragmented] != later || s.Dropped() != rsts+later || s.Opened != 0 || s.ToHost != 0 {
		t.Errorf("%d RSTs, %d errors, %d RSTs were sent to us, %d later parts: %+v", resets, errors, rsts, later, s)
	}
	if resets == 0 || errors == 0 || rsts == 0 || later == 0 || b.seen["extension headers"] == 0 || b.seen["protocol 17"] == 0 || b.seen["protocol 132"] == 0 || b.seen["protocol 47"] == 0 {
		t.Errorf("not all was seen: %v", b.seen)
	}
	if err := b.outcomes(); err != nil {
		t.Error(err)
	}
}

// Who cannot be answered, and what nobody may be answered about, is dropped by name; what the address says of ICMP, and what virtual
// servers want, stays.
func TestUnmatchedUnanswered(t *testing.T) {
	spec := answeringAll(1, 1<<20, UnmatchedReset)
	for i := range spec.Virtuals {
		spec.Virtuals[i].Echo = EchoEngine
	}
	spec.SNAT = []SNATSpec{{Name: "out", Addresses: []SNATAddress{snatAt(snat4.String(), 1024, 65535), snatAt(snat6.String(), 1024, 65535)}}}
	spec.Virtuals[0].SNAT, spec.Virtuals[0].Mode = "out", FullNAT
	b := newBench(t, spec, 1000, 1024)
	defer b.close()
	addr := netip.MustParseAddr
	for _, proto := range []uint8{flow.TCP, flow.UDP, 47} {
		plain := anyWire{from: clientMAC, to: outsideMAC, src: clientIP, dst: vip, sport: 4003, dport: 81, proto: proto, ttl: 64, payload: []byte("abcdefgh"), tcp: layers.TCP{SYN: true}}
		if proto == 47 {
			plain.sport, plain.dport = 0, 0
		}
		plain6 := plain
		plain6.src, plain6.dst = clientIP6, vip6
		for _, src := range []netip.Addr{vip, snat4, outside4, inside4, addr("0.0.0.0"), addr("127.0.0.1"), addr("224.0.0.9"), addr("240.1.2.3"), addr("255.255.255.255")} {
			p := plain
			p.src = src
			b.drops(outside, p.frames(t)[0], BadSource)
		}
		for _, src := range []netip.Addr{vip6, snat6, outside6, inside6, addr("::"), addr("::1"), addr("::a00:1"), addr("ff02::1")} {
			p := plain6
			p.src = src
			b.drops(outside, p.frames(t)[0], BadSource)
		}
		for _, p := range []anyWire{plain, plain6} {
			many, from := p, p
			many.to, from.from = append([]byte{1}, outsideMAC[1:]...), append([]byte{3}, clientMAC[1:]...)
			b.drops(outside, many.frames(t)[0], NoVirtualServer)
			b.drops(outside, from.frames(t)[0], BadSource)
			only(t, b.send(outside, p.frames(t)[0]), outside)
		}
	}
	for _, src := range []netip.Addr{clientIP, clientIP6} {
		p := anyWire{from: clientMAC, to: outsideMAC, src: src, dst: vip, ttl: 64, proto: 59}
		if src.Is6() { // nothing follows, and nothing is asked (RFC 8200 section 4.7)
			p.dst = vip6
			b.drops(outside, p.frames(t)[0], NoVirtualServer)
		} else {
			only(t, b.send(outside, p.frames(t)[0]), outside)
		}
	}
	short := anyWire{from: clientMAC, to: outsideMAC, src: clientIP, dst: vip, sport: 1, dport: 2, proto: flow.TCP, ttl: 64, tcp: layers.TCP{SYN: true}}
	b.drops(outside, short.ethernet(short.ip(t, short.transport(t)[:12], 0, false)), Truncated)
	short.proto = flow.UDP
	b.drops(outside, short.ethernet(short.ip(t, short.transport(t)[:7], 0, false)), Truncated)
	before := b.stats()
	only(t, b.send(outside, echoMessage{src: clientIP, dst: vip, id: 1, size: 9}.build(t)), outside) // ICMP is the address's
	only(t, b.send(outside, echoMessage{src: clientIP, dst: vip, id: 1, size: 9, reply: true}.build(t)), host)
	only(t, b.send(outside, fromClient(4003, "S").build(t)), inside)
	if s := b.stats(); s.Echoes != before.Echoes+1 || s.Opened != 1 || s.ToHost != before.ToHost+1 || s.Resets != 2 || s.ICMPSent != 5 {
		t.Errorf("%+v", s)
	}
	if err := b.outcomes(); err != nil {
		t.Error(err)
	}
}

// The limit is one for RSTs and errors together, and takes nothing from ICMP errors, whose limit is as large.
func TestUnmatchedRate(t *testing.T) {
	const workers, rate = 2, 10
	b := newBench(t, answeringAll(workers, rate, UnmatchedReset), 1000, 1024)
	defer b.close()
	syn, datagram, last := fromClient(4003, "S"), fromClient(4003, ""), fromClient(4003, "S")
	syn.dport, datagram.dport, datagram.udp, last.ttl = 81, 33434, true, 1
	for second := range uint64(3) {
		b.now = 10_000 + 1000*second
		for i := range uint16(100) {
			syn.sport, datagram.sport = 1000+i, 1000+i
			p := []packet{syn, datagram}[i%2]
			b.sendTo(int(i/2)%workers, outside, p.build(t))
		}
		for i := range uint16(100) {
			last.sport = 1000 + i
			b.sendTo(int(i)%workers, outside, last.build(t))
		}
		s := b.stats()
		want := (second + 1) * rate
		if s.Refused[NoVirtualServer] != want || s.Drops[UnmatchedRate] != (second+1)*100-want || s.Refused[TTLExpired] != want || s.Resets == 0 || s.ICMPSent <= want {
			t.Errorf("after %d seconds: %d answered, %d dropped, %d hops", second+1, s.Refused[NoVirtualServer], s.Drops[UnmatchedRate], s.Refused[TTLExpired])
		}
	}
	if err := b.outcomes(); err != nil {
		t.Error(err)
	}
}

// A reload goes from each setting to each other.
func TestUnmatchedReload(t *testing.T) {
	settings := []Unmatched{UnmatchedDrop, UnmatchedHost, UnmatchedReset}
	b := newBench(t, answeringAll(1, 1000, UnmatchedDrop), 1000, 1024)
	defer b.close()
	net := fromClient(4003, "S")
	net.dst, net.dport = netip.MustParseAddr("10.20.3.4"), 81
	probe := fromClient(4003, "S")
	probe.dport = 81
	for _, from := range settings {
		for _, to := range settings {
			b.apply(answeringAll(1, 1000, from))
			b.apply(answeringAll(1, 1000, to))
			for _, p := range []packet{probe, net} {
				switch to {
				case UnmatchedDrop:
					b.drops(outside, p.build(t), NoVirtualServer)
				case UnmatchedHost:
					only(t, b.send(outside, p.build(t)), host)
				default:
					want := packet{srcMAC: outsideMAC, dstMAC: clientMAC, src: p.dst, dst: p.src, sport: 81, dport: 4003, flags: "RA", ack: 1001}
					if got := only(t, b.send(outside, p.build(t)), outside); !bytes.Equal(got, rstFrame(t, want)) {
						t.Errorf("%x", got)
					}
				}
			}
		}
	}
}

// A jumbo frame is answered out of its head, and the rest of its frames are free again.
func TestUnmatchedJumbo(t *testing.T) {
	spec := answeringAll(1, 1000, UnmatchedReset)
	for i := range spec.Ports {
		spec.Ports[i].MTU = 9000
	}
	region := rings.NewHeapRegion(768, 2048)
	region.MakeChains()
	b := newBenchOver(t, region, spec, 1000, NewDictionary(), 1000)
	defer b.close()
	for _, proto := range []uint8{flow.TCP, flow.UDP, 47} {
		for _, v6 := range []bool{false, true} {
			p := anyWire{from: clientMAC, to: outsideMAC, src: clientIP, dst: vip, sport: 4003, dport: 81, proto: proto, ttl: 64, payload: bytes.Repeat([]byte("jumbo"), 1700), tcp: layers.TCP{PSH: true, Seq: 7}}
			if v6 {
				p.src, p.dst = clientIP6, vip6
			}
			sent := p.frames(t)[0]
			if got := only(t, b.send(outside, sent), outside); !bytes.Equal(got, refusedBy(t, p, sent)) {
				t.Errorf("%s: %x", p, got)
			}
		}
	}
	if err := b.outcomes(); err != nil {
		t.Error(err)
	}
}

func TestUnmatchedAllocations(t *testing.T) {
	b := newBench(t, answeringAll(1, 1<<20, UnmatchedReset), 1000, 2048)
	defer b.close()
	syn, datagram := fromClient(4003, "S"), fromClient(4003, "")
	syn.dport, datagram.dport, datagram.udp = 81, 33434, true
	frames := [][]byte{syn.build(t), datagram.build(t)}
	if n := testing.AllocsPerRun(100, func() {
		for _, f := range frames {
			b.wire(0, outside).Send(f)
		}
		b.Engine.workers[0].step(b.now)
		b.wire(0, outside).Recv(func([]byte) {})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s := b.stats(); s.Refused[NoVirtualServer] < 200 {
		t.Errorf("%d answered", s.Refused[NoVirtualServer])
	}
}

// Explain says what is answered and how, and that over the limit nothing is.
func TestUnmatchedExplain(t *testing.T) {
	b := newBench(t, answeringAll(1, 2, UnmatchedReset), 1000, 1024)
	defer b.close()
	ask := func(proto uint8, src string) Explanation {
		t.Helper()
		e, err := b.Explain(t.Context(), Question{Proto: proto, Src: netip.MustParseAddrPort(src), Dst: netip.AddrPortFrom(vip, 81), Port: outside})
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for range 5 { // it takes none of the limit
		for proto, want := range map[uint8]Decision{flow.TCP: DecideReset, flow.UDP: DecideUnreachable, flow.SCTP: DecideUnreachable, 47: DecideUnreachable} {
			if e := ask(proto, "172.16.10.55:9"); e.Decision != want || e.Reason != NoVirtualServer.String() || e.Virtual != "" {
				t.Errorf("protocol %d: %+v", proto, e)
			}
		}
	}
	if e := ask(flow.TCP, "10.10.1.100:9"); e.Decision != DecideDrop || e.Reason != BadSource.String() {
		t.Errorf("%+v", e)
	}
	syn := fromClient(4003, "S")
	syn.dport = 81
	for range 2 {
		only(t, b.send(outside, syn.build(t)), outside)
	}
	if e := ask(flow.UDP, "172.16.10.55:9"); e.Decision != DecideDrop || e.Reason != UnmatchedRate.String() {
		t.Errorf("%+v", e)
	}
}
