package rewrite

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// TestSplitIPv4 cuts packets of every kind again and again: each part is an IPv4 packet that fits, with right length and checksum,
// offsets that follow each other and the options that belong into every part; put together they are the packet.
func TestSplitIPv4(t *testing.T) {
	r := seeded(t)
	cut := 0
	for range 3000 {
		whole := randomAny(r)
		frame := whole.build(t)
		p, _ := parsed(t, frame, OK, NoPorts)
		if p.V6 {
			continue
		}
		ihl := int(p.L4 - p.L3)
		h := frame[p.L3:]
		h[6] &^= 0x40 // testPacket has DF
		part := r.IntN(3)
		field := uint16(0)
		if part > 0 { // a part itself: a middle or the last one
			field = uint16(1+r.IntN(1000)) | uint16(part-1)<<13
			binary.BigEndian.PutUint16(h[6:], field)
		}
		h[10], h[11] = 0, 0
		binary.BigEndian.PutUint16(h[10:], naiveSum(h[:ihl]))
		frame = frame[:p.End]
		original := slices.Clone(frame)
		mtu := ihl + 8 + r.IntN(400)
		var parts [][]byte
		b := frame
		for {
			rest := make([]byte, len(b)+r.IntN(3))
			before := slices.Clone(b)
			n := SplitIPv4(rest, b, &p, mtu)
			if n == 0 {
				if !bytes.Equal(before, b) {
					t.Fatal("a packet that was not cut has changed")
				}
				parts = append(parts, b)
				break
			}
			parts = append(parts, b[:p.End])
			b = rest[:n]
			p = Packet{L3: p.L3, End: uint16(n)}
		}
		if len(parts) > 1 {
			cut++
		}
		offset, payload := int(field&0x1fff)*8, []byte(nil)
		for i, f := range parts {
			h := f[p.L3:]
			size := int(h[0]&15) * 4
			if len(h) > mtu && len(parts) > 1 {
				t.Fatalf("part %d of %d has %d bytes, more than %d", i, len(parts), len(h), mtu)
			}
			last := i == len(parts)-1
			got := binary.BigEndian.Uint16(h[6:])
			more := !last || field&0x2000 != 0
			if int(got&0x1fff)*8 != offset || got&0x2000 != 0 != more || naiveSum(h[:size]) != 0 || int(binary.BigEndian.Uint16(h[2:])) != len(h) {
				t.Fatalf("part %d of %d: header %x, %d bytes, sum %x; want offset %d, more %v", i, len(parts), h[:size], len(h), naiveSum(h[:size]), offset, more)
			}
			if !bytes.Equal(f[:p.L3], original[:p.L3]) || !bytes.Equal(h[4:6], original[p.L3+4:][:2]) || !bytes.Equal(h[8:10], original[p.L3+8:][:2]) || !bytes.Equal(h[12:20], original[p.L3+12:][:8]) {
				t.Fatalf("part %d: %x of %x", i, f, original)
			}
			if i == 0 && !bytes.Equal(h[20:size], original[p.L3+20:][:ihl-20]) {
				t.Fatal("the first part has other options")
			}
			if i > 0 && !bytes.Equal(copiedOptions(h[20:size]), copiedOptions(original[p.L3+20:][:ihl-20])) {
				t.Fatalf("part %d has options %x of %x", i, h[20:size], original[p.L3+20:][:ihl-20])
			}
			payload = append(payload, h[size:]...)
			offset += len(h) - size
		}
		if !bytes.Equal(payload, original[int(p.L3)+ihl:]) {
			t.Fatal("the parts are not the packet")
		}
	}
	if cut < 300 {
		t.Errorf("only %d packets were cut", cut)
	}
}

// copiedOptions are the options whose copied flag is set, without padding.
func copiedOptions(b []byte) (out []byte) {
	for len(b) > 0 && b[0] != 0 {
		n := 1
		if b[0] != 1 {
			if len(b) < 2 || b[1] < 2 || int(b[1]) > len(b) {
				break
			}
			n = int(b[1])
		}
		if b[0]&0x80 != 0 {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out
}

// TestTunnelQuote reads what is inside of what ICMP errors quote of tunnels, whatever they are and however much is quoted, and
// gives the packet its hop back.
func TestTunnelQuote(t *testing.T) {
	r := seeded(t)
	read, short := 0, 0
	for range 3000 {
		inner, tun := randomAny(r), randomTunnel(r)
		inner.padding, inner.tags = 0, nil
		inner.ttl = uint8(2 + r.IntN(254))
		sent := inner.build(t)
		p, k := parsed(t, sent, OK, NoPorts)
		head := 128
		b := append(make([]byte, head), sent...)
		start, why := tun.Encapsulate(b, head, &p, r.Uint32(), 0)
		if why != Done {
			t.Fatal(why)
		}
		outer := b[start+etherLen : head+int(p.End)]
		router := randomAddr(r, !tun.Dst.Is4())
		quoted := outer[:min(len(outer), tun.Overhead()+8+r.IntN(len(outer)))]
		frame := errorAbout(t, router.AsSlice(), tun.Src, quoted)
		var e, in Packet
		var q Quote
		var outerKey, got flow.Key
		if v := Parse(frame, &e, &outerKey); v != NoPorts {
			t.Fatal(v)
		}
		if why := ReadQuote(frame, &e, &q, &outerKey); why != Done {
			t.Fatalf("%v: %x", why, frame)
		}
		if outerKey.Src != tun.Dst || outerKey.Dst != tun.Src {
			t.Fatalf("%+v for %+v", outerKey, tun)
		}
		why = ReadTunnelQuote(frame, &q, outerKey.SrcPort(), &in, &got)
		need := int(p.L4-p.L3) + 8
		switch there := len(quoted) - tun.Overhead(); {
		case p.ICMP != ICMPRequest && p.ICMP != ICMPReply && isICMP(&p):
			if why == Done {
				t.Fatal("about an ICMP message that is no query")
			}
			continue
		case there < need:
			if why != QuoteTruncated {
				t.Fatalf("%v for %d of %d bytes", why, there, need)
			}
			short++
			continue
		case why != Done || got != k || in.V6 != p.V6 || in.Proto != p.Proto:
			t.Fatalf("%v: %+v, %+v; want %+v", why, got, in, k)
		}
		read++
		at := UncoverQuote(frame, &in)
		back := frame[at:][:in.End]
		if !bytes.Equal(back[etherLen:], sent[etherLen:][:len(back)-etherLen]) || !bytes.Equal(back[12:14], sent[12:14]) || in.TTL != inner.ttl {
			t.Fatalf("uncovered\n%x, sent\n%x", back, sent)
		}
	}
	if read < 1000 || short < 50 {
		t.Errorf("%d read, %d too short", read, short)
	}
}

// errorAbout is an ICMP error to dst that says that the packet which is quoted was too big.
func errorAbout(t testing.TB, src []byte, dst flow.Addr, quoted []byte) []byte {
	t.Helper()
	if dst.Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 60, Protocol: layers.IPProtocolICMPv4, SrcIP: src, DstIP: dst.Netip().AsSlice()}
		icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1280}
		return append(append(make([]byte, 12), 8, 0), serialize(t, ip, icmp, gopacket.Payload(quoted))...)
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 60, NextHeader: layers.IPProtocolICMPv6, SrcIP: src, DstIP: dst.Netip().AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}
	must(t, icmp.SetNetworkLayerForChecksum(ip))
	return append(append(make([]byte, 12), 0x86, 0xdd), serialize(t, ip, icmp, gopacket.Payload(append([]byte{0, 0, 5, 0}, quoted...)))...)
}

// FuzzTunnelQuote reads whatever bytes after a right error's header: nothing is read beyond the end, and what is read lies inside.
func FuzzTunnelQuote(f *testing.F) {
	for _, seed := range changeSeeds(f) {
		f.Add(seed, uint16(0))
	}
	f.Fuzz(func(t *testing.T, b []byte, port uint16) {
		b = exact(b)
		var p, in Packet
		var q Quote
		var k flow.Key
		if Parse(b, &p, &k) != NoPorts || ReadQuote(b, &p, &q, &k) != Done || ReadTunnelQuote(b, &q, port, &in, &k) != Done {
			return
		}
		if in.L3 < q.L4 || in.L4 <= in.L3 || in.End > p.End || int(in.L4)+icmpLen > int(in.End) {
			t.Fatalf("%+v in %+v", in, q)
		}
		UncoverQuote(b, &in)
	})
}
