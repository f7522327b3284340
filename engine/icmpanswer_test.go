package engine

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	outside4, outside6 = netip.MustParseAddr("172.16.10.1"), netip.MustParseAddr("fd00:172:16:10::1")
	inside4, inside6   = netip.MustParseAddr("192.168.20.254"), netip.MustParseAddr("fd00:192:168:20::254")
)

// answering is a4 with ports that have addresses and may send rate errors a second.
func answering(workers, rate int) Spec {
	s := a4(workers)
	s.ICMPRate = rate
	s.Ports[outside].Addr4, s.Ports[outside].Addr6, s.Ports[outside].MTU = outside4, outside6, 1500
	s.Ports[inside].Addr4, s.Ports[inside].Addr6, s.Ports[inside].MTU = inside4, inside6, 1500
	return s
}

// said is what an ICMP error says, as gopacket reads it; checksums are checked on the way.
type said struct {
	src, dst   netip.Addr
	kind, code uint8
	mtu        int
	quoted     []byte
}

func readError(t testing.TB, frame []byte) (s said) {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok {
		icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		if !ok || sum16(ip.Payload) != 0xffff || sum16(ip.Contents) != 0xffff {
			t.Fatalf("not a sound ICMP message: %x", frame)
		}
		s.src, _ = netip.AddrFromSlice(ip.SrcIP)
		s.dst, _ = netip.AddrFromSlice(ip.DstIP)
		s.kind, s.code, s.mtu, s.quoted = icmp.TypeCode.Type(), icmp.TypeCode.Code(), int(icmp.Seq), icmp.Payload
		return s
	}
	ip, _ := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	icmp, ok := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	if !ok {
		t.Fatalf("not ICMPv6: %x", frame)
	}
	pseudo := append(append([]byte{}, ip.SrcIP...), ip.DstIP...)
	pseudo = append(binary.BigEndian.AppendUint32(pseudo, uint32(len(ip.Payload))), 0, 0, 0, 58)
	if sum16(append(pseudo, ip.Payload...)) != 0xffff {
		t.Fatalf("wrong checksum: %x", frame)
	}
	s.src, _ = netip.AddrFromSlice(ip.SrcIP)
	s.dst, _ = netip.AddrFromSlice(ip.DstIP)
	s.kind, s.code = icmp.TypeCode.Type(), icmp.TypeCode.Code()
	s.mtu, s.quoted = int(binary.BigEndian.Uint32(icmp.Payload)), icmp.Payload[4:]
	return s
}

// sum16 is the ones' complement sum.
func sum16(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// A packet whose TTL is used up here is answered to its sender, from the port that it came in by: traceroute shows a hop.
func TestTimeExceeded(t *testing.T) {
	for _, c := range errorCases() {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, answering(1, 1000), 1000, 2048)
			defer b.close()
			request, answer := c.request, c.answer
			request.srcMAC, request.dstMAC = clientMAC, outsideMAC
			answer.srcMAC, answer.dstMAC = serverMAC(1), insideMAC
			kind, first, second := uint8(11), outside4, inside4
			if c.request.src.Is6() {
				kind, first, second = 3, outside6, inside6
			}
			last := request
			last.ttl = 1
			check := func(out [3][][]byte, port int, from, to netip.Addr, sent packet) {
				t.Helper()
				e := readError(t, only(t, out, port))
				if e.src != from || e.dst != to || e.kind != kind || e.code != 0 || len(e.quoted) < len(sent.payload)+28 || !bytes.HasPrefix(sent.build(t)[14:], e.quoted) {
					t.Errorf("%+v", e)
				}
			}
			check(b.send(outside, last.build(t)), outside, first, c.request.src, last) // opens nothing
			only(t, b.send(outside, request.build(t)), inside)
			check(b.send(outside, last.build(t)), outside, first, c.request.src, last)
			answer.ttl = 1
			check(b.send(inside, answer.build(t)), inside, second, c.server, answer)
			if s := b.stats(); s.ICMPSent != 3 || s.Answered != 3 || s.Refused[TTLExpired] != 3 || s.Dropped() != 0 || s.Opened != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// What is too big for the port it would leave by is answered with that port's MTU, in both directions; without DF it leaves
// in parts.
func TestPacketTooBig(t *testing.T) {
	for _, c := range errorCases() {
		for _, small := range []int{outside, inside} {
			t.Run(c.name, func(t *testing.T) {
				spec := answering(1, 1000)
				spec.Ports[small].MTU = 1280
				b := newBench(t, spec, 1000, 2048)
				defer b.close()
				request, answer := c.request, c.answer
				request.srcMAC, request.dstMAC = clientMAC, outsideMAC
				answer.srcMAC, answer.dstMAC = serverMAC(1), insideMAC
				only(t, b.send(outside, request.build(t)), inside)
				only(t, b.send(inside, answer.build(t)), outside)
				big, from, port := request, outside4, outside
				if small == outside {
					big, from, port = answer, inside4, inside
				}
				if !big.udp {
					big.flags = "A"
				}
				header := c.header + 20
				if big.udp {
					header = c.header + 8
				}
				big.payload = strings.Repeat("x", 1280-header)
				if out := b.send(port, big.build(t)); len(out[small]) != 1 {
					t.Errorf("a packet as large as the MTU was not sent on: %d, %d, %d", len(out[0]), len(out[1]), len(out[2]))
				}
				big.payload += "x"
				frame := big.build(t)
				kind, code := uint8(3), uint8(4)
				if c.request.src.Is6() {
					kind, code = 2, 0
					if from = outside6; port == inside {
						from = inside6
					}
				} else {
					if out := b.send(port, frame); len(out[small]) != 2 || len(out[port]) != 0 {
						t.Error("without DF it is not two parts")
					}
					if s := b.stats(); s.Dropped() != 0 || s.Split != 1 {
						t.Errorf("%+v", s)
					}
					frame[20] |= 0x40
					frame[24], frame[25] = 0, 0
					binary.BigEndian.PutUint16(frame[24:], ^sum16(frame[14:34]))
				}
				e := readError(t, only(t, b.send(port, frame), port))
				if e.src != from || e.dst != big.src || e.kind != kind || e.code != code || e.mtu != 1280 || string(e.quoted) != string(frame[14:14+len(e.quoted)]) {
					t.Errorf("%+v", e)
				}
				if s := b.stats(); s.ICMPSent != 1 || s.Refused[TooBig] != 1 {
					t.Errorf("%+v", s)
				}
			})
		}
	}
}

// No more answers a second than the rate over all workers, none where the port has no address, none about an ICMP error.
func TestAnswerRate(t *testing.T) {
	const workers, rate = 2, 10
	b := newBench(t, answering(workers, rate), 1000, 1024)
	defer b.close()
	last := fromClient(4003, "S")
	last.ttl = 1
	for second := range uint64(3) {
		b.now = 10_000 + 1000*second
		for i := range uint16(100) {
			last.sport = 1000 + i
			b.sendTo(int(i)%workers, outside, last.build(t))
		}
		s := b.stats()
		if want := (second + 1) * rate; s.ICMPSent != want || s.Drops[TTLExpired] != (second+1)*100-want {
			t.Errorf("after %d seconds: %d sent, %d dropped", second+1, s.ICMPSent, s.Drops[TTLExpired])
		}
	}
	spec := answering(1, rate)
	spec.Ports[outside].Addr4 = netip.Addr{}
	silent := newBench(t, spec, 1000, 1024)
	defer silent.close()
	silent.send(outside, last.build(t))
	if s := silent.stats(); s.ICMPSent != 0 || s.Drops[TTLExpired] != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAnswerAllocations(t *testing.T) {
	b := newBench(t, answering(1, 1<<20), 1000, 2048)
	defer b.close()
	last := fromClient(4003, "S")
	last.ttl = 1
	frame := last.build(t)
	if n := testing.AllocsPerRun(100, func() {
		b.wire(0, outside).Send(frame)
		b.Engine.workers[0].step(b.now)
		b.wire(0, outside).Recv(func([]byte) {})
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if s := b.stats(); s.ICMPSent < 100 {
		t.Errorf("%d sent", s.ICMPSent)
	}
}
