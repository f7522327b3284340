package engine

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// echoMessage is an echo request or reply; size is that of its data.
type echoMessage struct {
	src, dst netip.Addr
	reply    bool
	id, seq  uint16
	size     int
}

func (m echoMessage) build(t testing.TB) []byte {
	t.Helper()
	data := bytes.Repeat([]byte("ping"), m.size/4+1)[:m.size]
	eth := &layers.Ethernet{SrcMAC: clientMAC, DstMAC: outsideMAC, EthernetType: layers.EthernetTypeIPv4}
	ls := []gopacket.SerializableLayer{eth}
	if m.src.Is4() {
		kind := uint8(layers.ICMPv4TypeEchoRequest)
		if m.reply {
			kind = layers.ICMPv4TypeEchoReply
		}
		ls = append(ls, &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: m.src.AsSlice(), DstIP: m.dst.AsSlice(), Id: 9},
			&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: m.id, Seq: m.seq})
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		kind := uint8(layers.ICMPv6TypeEchoRequest)
		if m.reply {
			kind = layers.ICMPv6TypeEchoReply
		}
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolICMPv6, SrcIP: m.src.AsSlice(), DstIP: m.dst.AsSlice()}
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
		if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		ls = append(ls, ip, icmp, &layers.ICMPv6Echo{Identifier: m.id, SeqNumber: m.seq})
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(ls, gopacket.Payload(data))...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// echoing is a4 with echo requests to all virtual addresses as e says.
func echoing(workers int, e Echo, rate int) Spec {
	s := answering(workers, rate)
	for i := range s.Virtuals {
		s.Virtuals[i].Echo = e
	}
	return s
}

// echoPairs are requests of both families and what must come back: the same but for the ends and the type. The MACs change places.
func echoPairs() (out [][2]echoMessage) {
	for _, c := range [][2]netip.Addr{{clientIP, vip}, {clientIP6, vip6}} {
		for _, size := range []int{0, 1, 56, 1400} {
			m := echoMessage{src: c[0], dst: c[1], id: 77, seq: 3, size: size}
			r := m
			r.src, r.dst, r.reply = c[1], c[0], true
			out = append(out, [2]echoMessage{m, r})
		}
	}
	return out
}

// turned is the reply's frame as it goes to the client, without the padding of a short one.
func (m echoMessage) turned(t testing.TB) []byte {
	frame, header := m.build(t), 14+20+8
	if m.src.Is6() {
		header += 20
	}
	copy(frame, clientMAC)
	copy(frame[6:], outsideMAC)
	return frame[:header+m.size]
}

func TestEcho(t *testing.T) {
	for _, workers := range []int{1, 3} {
		b := newBench(t, echoing(workers, EchoEngine, 1000), 1000, 1024)
		for _, c := range echoPairs() {
			got, want := only(t, b.send(outside, c[0].build(t)), outside), c[1].turned(t)
			if !bytes.Equal(got, want) {
				t.Errorf("%d workers: %+v\n%x, want\n%x", workers, c[0], got, want)
			}
		}
		// What is no echo request is the kernel's.
		only(t, b.send(outside, echoPairs()[0][1].swapped().build(t)), host)
		n := uint64(len(echoPairs()))
		if s := b.stats(); s.Echoes != n || s.Answered != n || s.ToHost != 1 || s.Dropped() != 0 {
			t.Errorf("%+v", s)
		}
		// Nobody can be answered there.
		for i, src := range []netip.Addr{vip, netip.MustParseAddr("224.0.0.1"), netip.MustParseAddr("127.0.0.1")} {
			m := echoMessage{src: src, dst: vip, size: 8}
			none(t, b.send(outside, m.build(t)))
			if s := b.stats(); s.Drops[BadSource] != uint64(i+1) {
				t.Errorf("%s: %+v", src, s)
			}
		}
		b.close()
	}
}

// swapped has the ends exchanged.
func (m echoMessage) swapped() echoMessage {
	m.src, m.dst = m.dst, m.src
	return m
}

func none(t testing.TB, out [3][][]byte) {
	t.Helper()
	for p := range out {
		if len(out[p]) > 0 {
			t.Fatalf("port %d: %x", p, out[p])
		}
	}
}

func TestEchoOff(t *testing.T) {
	b := newBench(t, echoing(1, EchoOff, 1000), 1000, 1024)
	defer b.close()
	for i, c := range echoPairs() {
		none(t, b.send(outside, c[0].build(t)))
		if s := b.stats(); s.Drops[EchoRefused] != uint64(i+1) {
			t.Errorf("%+v", s)
		}
	}
}

// Without the setting what the XDP program hands over goes back to the kernel.
func TestEchoKernel(t *testing.T) {
	b := newBench(t, echoing(1, EchoKernel, 1000), 1000, 1024)
	defer b.close()
	for _, c := range echoPairs() {
		only(t, b.send(outside, c[0].build(t)), host)
	}
}

// While any member of any virtual server of the address is up, there is an answer.
func TestEchoWhileUp(t *testing.T) {
	b := newBench(t, echoing(2, EchoWhileUp, 1000), 1000, 1024)
	defer b.close()
	set := func(pools []string, kind MemberKind) {
		t.Helper()
		var changes []MemberChange
		for _, p := range b.Config().Pools() {
			for _, name := range pools {
				if p.Name == name {
					for _, m := range p.Members {
						changes = append(changes, MemberChange{ID: m.ID, State: MemberState{Kind: kind}})
					}
				}
			}
		}
		if _, err := b.SetMembers(t.Context(), changes); err != nil {
			t.Fatal(err)
		}
	}
	request := echoMessage{src: clientIP, dst: vip, id: 5, size: 20}
	only(t, b.send(outside, request.build(t)), outside)
	set([]string{"web"}, MemberDown) // dns has the same address
	only(t, b.send(outside, request.build(t)), outside)
	set([]string{"dns"}, MemberDisabled)
	none(t, b.send(outside, request.build(t)))
	only(t, b.send(outside, echoMessage{src: clientIP6, dst: vip6, id: 5, size: 20}.build(t)), outside)
	set([]string{"dns"}, MemberUp)
	only(t, b.send(outside, request.build(t)), outside)
	if s := b.stats(); s.Drops[EchoRefused] != 1 || s.Dropped() != 1 || s.Echoes != 4 {
		t.Errorf("%+v", s)
	}
}

// A flood of requests is answered so many times a second, and takes nothing from the ICMP errors.
func TestEchoRate(t *testing.T) {
	const rate = 10
	b := newBench(t, echoing(1, EchoEngine, rate), 1000, 1024)
	defer b.close()
	b.now = 5000
	last := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 9, dport: 80, flags: "S", ttl: 1}
	for second := range 3 {
		for i := range 5 * rate {
			out := b.send(outside, echoMessage{src: clientIP, dst: vip, id: uint16(i), size: 20}.build(t))
			if i < rate {
				only(t, out, outside)
			} else {
				none(t, out)
			}
		}
		only(t, b.send(outside, last.build(t)), outside)
		if s := b.stats(); s.Echoes != uint64(rate*(second+1)) || s.Drops[EchoRate] != uint64(4*rate*(second+1)) {
			t.Errorf("%+v", s)
		}
		b.now += 1000
	}
}

// The parts of a request that is too large for the link are the kernel's, which puts them together, in any order.
func TestEchoFragments(t *testing.T) {
	b := newBench(t, echoing(1, EchoEngine, 1000), 1000, 1024)
	defer b.close()
	for _, c := range echoPairs() {
		whole := c[0]
		whole.size = 1200
		parts := cut(whole.build(t), 9, 600)
		before := b.stats()
		for _, part := range parts {
			only(t, b.send(outside, part), host)
		}
		parts = cut(whole.build(t), 10, 600)
		n := 0
		for i := range parts {
			n += len(b.send(outside, parts[len(parts)-1-i])[host])
		}
		if s := b.stats(); n != len(parts) || s.ToHost-before.ToHost != uint64(2*n) || s.Dropped() != 0 || s.Echoes != 0 {
			t.Errorf("%d of %d parts: %+v", n, len(parts), s)
		}
	}
}
