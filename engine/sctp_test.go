package engine

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

const (
	sctpPort       = 2905
	sctpMemberPort = 3905
	sctpClientTag  = 0xc11e0001
	sctpServerTag  = 0x5e4e0002
	sctpInit       = 20_000
	sctpShutdown   = 15_000
	sctpClosed     = 6_000
)

func sctpSpec(memberPort uint16) Spec {
	s := a4(1)
	for i := range 2 { // web and web6
		for j := range s.Pools[i].Members {
			s.Pools[i].Members[j].Port = memberPort
		}
	}
	times := DefaultTimeouts
	times.SCTPInit, times.SCTPShutdown, times.SCTPClosed = sctpInit, sctpShutdown, sctpClosed // not those of TCP
	s.Virtuals = []VirtualSpec{
		{Name: "sig", Addr: vip, Port: sctpPort, Proto: flow.SCTP, Pool: 0, Timeouts: times},
		{Name: "sig6", Addr: vip6, Port: sctpPort, Proto: flow.SCTP, Pool: 1, Timeouts: times},
		{Name: "web", Addr: vip, Port: 80, Proto: flow.TCP, Pool: 0},
	}
	return s
}

// sctpFrame is a frame of one chunk; an INIT or INIT ACK carries initTag.
func sctpFrame(t testing.TB, p packet, tag, initTag uint32, kind, flags uint8) []byte {
	t.Helper()
	chunk := []byte{kind, flags, 0, 0}
	switch kind {
	case flow.ChunkInit, flow.ChunkInitAck:
		chunk = binary.BigEndian.AppendUint32(chunk, initTag)
		chunk = append(chunk, 0, 1, 0, 0, 0, 8, 0, 8, 0, 0, 0, 1)
	case flow.ChunkData:
		chunk = append(chunk, make([]byte, 12)...)
		chunk = append(chunk, "signal"...)
	}
	binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)))
	for len(chunk)%4 != 0 {
		chunk = append(chunk, 0)
	}
	eth := &layers.Ethernet{SrcMAC: p.srcMAC, DstMAC: p.dstMAC, EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer = &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolSCTP, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
	if p.src.Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolSCTP, SrcIP: p.src.AsSlice(), DstIP: p.dst.AsSlice()}
	}
	l4 := &layers.SCTP{SrcPort: layers.SCTPPort(p.sport), DstPort: layers.SCTPPort(p.dport), VerificationTag: tag}
	buf := gopacket.NewSerializeBuffer()
	opt := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opt, eth, ip, l4, gopacket.Payload(chunk)); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// association sends packets of both ends through a bench and looks at what arrives.
type association struct {
	*bench
	client, virtual, member netip.Addr
	memberPort, cport       uint16
}

// exchange sends a packet and expects it translated, whole and with its checksums right.
func (a *association) exchange(side flow.Side, tag, initTag uint32, kind, flags uint8) {
	a.t.Helper()
	before, after := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: a.client, dst: a.virtual, sport: a.cport, dport: sctpPort}, packet{}
	in, out := outside, inside
	if side == flow.FromServer {
		in, out = inside, outside
		before = packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: a.member, dst: a.client, sport: a.memberPort, dport: a.cport}
		after = packet{srcMAC: outsideMAC, dstMAC: clientMAC, src: a.virtual, dst: a.client, sport: sctpPort, dport: a.cport}
	} else {
		after = packet{srcMAC: insideMAC, dstMAC: serverMAC(1), src: a.client, dst: a.member, sport: a.cport, dport: a.memberPort}
	}
	got := a.send(in, sctpFrame(a.t, before, tag, initTag, kind, flags))
	if len(got[out]) != 1 {
		a.t.Fatalf("chunk %d from side %d: %d frames, drops %v", kind, side, len(got[out]), a.stats().Drops)
	}
	want := sctpFrame(a.t, after, tag, initTag, kind, flags)
	l3 := 14 + 20
	if a.client.Is6() {
		l3 = 14 + 40
	}
	if string(got[out][0][l3:]) != string(want[l3:]) {
		a.t.Errorf("chunk %d from side %d\nis   % x\nwant % x", kind, side, got[out][0][l3:], want[l3:])
	}
	p := gopacket.NewPacket(got[out][0], layers.LayerTypeEthernet, gopacket.Default)
	if f := p.NetworkLayer().NetworkFlow(); f.Src().String() != after.src.String() || f.Dst().String() != after.dst.String() {
		a.t.Errorf("chunk %d from side %d goes %v", kind, side, f)
	}
}

func (a *association) state() flow.SCTPState {
	a.t.Helper()
	var conns []Conn
	a.workers[0].scan(1, &conns)
	if len(conns) != 1 {
		a.t.Fatalf("%d connections", len(conns))
	}
	return conns[0].SCTPState()
}

func (a *association) expect(want flow.SCTPState) {
	a.t.Helper()
	if s := a.state(); s != want {
		a.t.Fatalf("state %v, want %v", s, want)
	}
}

// refused sends a packet of the client's that belongs to nothing.
func (a *association) refused(why Reason, tag, initTag uint32, kind uint8) {
	a.t.Helper()
	before := a.stats().Drops[why]
	p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: a.client, dst: a.virtual, sport: a.cport, dport: sctpPort}
	out := a.send(outside, sctpFrame(a.t, p, tag, initTag, kind, 0))
	if n := len(out[0]) + len(out[1]) + len(out[2]); n != 0 || a.stats().Drops[why] != before+1 {
		a.t.Errorf("chunk %d: %d frames, drops %v", kind, n, a.stats().Drops)
	}
}

func (a *association) establish() {
	a.t.Helper()
	a.exchange(flow.FromClient, 0, sctpClientTag, flow.ChunkInit, 0)
	a.expect(flow.SCTPInitSent)
	a.exchange(flow.FromServer, sctpClientTag, sctpServerTag, flow.ChunkInitAck, 0)
	a.exchange(flow.FromClient, sctpServerTag, 0, flow.ChunkCookieEcho, 0)
	a.expect(flow.SCTPCookie)
	a.exchange(flow.FromServer, sctpClientTag, 0, flow.ChunkCookieAck, 0)
	a.expect(flow.SCTPEstablished)
}

func (a *association) idle(timeout uint32) {
	a.t.Helper()
	a.now += uint64(timeout) - 700
	a.Step(a.now)
	a.state() // still there
	a.now += 2500
	for range 4 {
		a.Step(a.now)
	}
	if n := a.workers[0].table.Len(); n != 0 {
		a.t.Errorf("%d connections after the idle time", n)
	}
}

func newAssociation(t *testing.T, v6 bool, memberPort uint16) *association {
	a := &association{client: clientIP, virtual: vip, member: serverIP(1), memberPort: memberPort, cport: 40000}
	if v6 {
		a.client, a.virtual, a.member = clientIP6, vip6, netip.MustParseAddr("fd00:192:168:20::1")
	}
	a.bench = newBench(t, sctpSpec(memberPort), 64, 1024)
	t.Cleanup(a.close)
	return a
}

func TestSCTPAssociation(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, memberPort := range []uint16{sctpPort, sctpMemberPort} {
			a := newAssociation(t, v6, memberPort)
			a.refused(NoConnection, 7, 0, flow.ChunkData)
			a.refused(NoConnection, 7, 0, flow.ChunkAbort)
			a.refused(NoConnection, 7, 8, flow.ChunkInit) // an INIT has no tag
			a.establish()
			a.exchange(flow.FromClient, sctpServerTag, 0, flow.ChunkData, 3)
			a.exchange(flow.FromServer, sctpClientTag, 0, flow.ChunkData, 3)
			a.exchange(flow.FromClient, sctpServerTag+1, 0, flow.ChunkAbort, 0) // forged: forwarded, without effect
			a.expect(flow.SCTPEstablished)
			a.exchange(flow.FromClient, sctpServerTag, 0, flow.ChunkShutdown, 0)
			a.expect(flow.SCTPShutdown)
			a.exchange(flow.FromServer, sctpClientTag, 0, flow.ChunkShutdownAck, 0)
			a.exchange(flow.FromClient, sctpServerTag, 0, flow.ChunkShutdownComplete, 0)
			a.expect(flow.SCTPClosed)
			a.exchange(flow.FromServer, sctpClientTag, 0, flow.ChunkShutdownAck, 0) // late
			if s := a.stats(); s.Outside != 1 || s.Opened != 1 || s.Drops[NoConnection] != 3 {
				t.Errorf("%+v", s)
			}
			a.idle(sctpClosed)
		}
	}
}

// TestSCTPIdle: every state has its own idle time.
func TestSCTPIdle(t *testing.T) {
	a := newAssociation(t, false, sctpMemberPort)
	a.exchange(flow.FromClient, 0, sctpClientTag, flow.ChunkInit, 0)
	a.idle(sctpInit)

	a.member = serverIP(2)
	a.establish()
	a.idle(DefaultTimeouts.SCTPEstablished)

	a.member = serverIP(3)
	a.establish()
	a.exchange(flow.FromServer, sctpClientTag, 0, flow.ChunkShutdown, 0)
	a.idle(sctpShutdown)

	a.member = serverIP(4)
	a.establish()
	a.exchange(flow.FromServer, sctpServerTag, 0, flow.ChunkAbort, 1) // by a server that has forgotten
	a.expect(flow.SCTPClosed)
	a.idle(sctpClosed)
}

// TestSCTPReuse: an INIT on an association that is over begins a new one, at another member; on one that is not it does
// not.
func TestSCTPReuse(t *testing.T) {
	a := newAssociation(t, false, sctpMemberPort)
	a.establish()
	a.exchange(flow.FromClient, 0, sctpClientTag+1, flow.ChunkInit, 0)
	a.expect(flow.SCTPEstablished)
	a.exchange(flow.FromClient, sctpServerTag, 0, flow.ChunkAbort, 0)
	a.expect(flow.SCTPClosed)
	a.member = serverIP(2)
	a.exchange(flow.FromClient, 0, sctpClientTag+2, flow.ChunkInit, 0)
	a.expect(flow.SCTPInitSent)
	if s := a.stats(); s.Opened != 2 || s.Closed != 1 {
		t.Errorf("opened %d, closed %d", s.Opened, s.Closed)
	}
}

// TestSCTPOutsideDropped: with out-of-window: drop a forged ABORT does not get through, and does not keep anything alive.
func TestSCTPOutsideDropped(t *testing.T) {
	a := newAssociation(t, false, sctpMemberPort)
	spec := sctpSpec(sctpMemberPort)
	spec.DropOutside = true
	cfg, err := NewConfig(spec, a.dict)
	if err != nil {
		t.Fatal(err)
	}
	a.workers[0].cfg = cfg
	a.establish()
	a.refused(OutOfWindow, sctpServerTag+1, 0, flow.ChunkAbort)
	a.expect(flow.SCTPEstablished)
}

func TestSCTPAllocations(t *testing.T) {
	a := newAssociation(t, false, sctpMemberPort)
	a.establish()
	p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: a.client, dst: a.virtual, sport: a.cport, dport: sctpPort}
	frame := sctpFrame(t, p, sctpServerTag, 0, flow.ChunkData, 3)
	discard := func([]byte) {}
	if n := testing.AllocsPerRun(100, func() {
		a.wire(0, outside).Send(frame)
		a.workers[0].step(a.now)
		a.wire(0, inside).Recv(discard)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
