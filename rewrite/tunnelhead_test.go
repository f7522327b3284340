package rewrite

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"sluice/flow"
)

// headTwin encapsulates packet p of frame in both ways, if the shorter one takes it, and reports whether it does.
func headTwin(t *testing.T, tun *Tunnel, frame []byte, p *Packet, entropy uint32, id uint16) bool {
	t.Helper()
	const head = TunnelRoom + 3
	h := tun.Head(p.V6)
	size := int(p.End - p.L3)
	want := exact(append(make([]byte, head), frame...))
	start, why := tun.Encapsulate(want, head, p, entropy, id)
	takes := h.Takes(TunnelWay(tun.Kind, tun.Port), size)
	if takes != (why == Done) {
		t.Fatalf("%+v takes %d bytes: %v, but %q", tun, size, takes, why)
	}
	if h.Takes(TunnelWay(tun.Kind, tun.Port+1), size) || h.Takes(TunnelWay(1-tun.Kind, tun.Port), size) {
		t.Fatal("taken in spite of another encapsulation")
	}
	if !takes || !p.Regular() || p.TTL <= 1 {
		return false
	}
	got := append(append(make([]byte, head), frame...), make([]byte, LongHeadLen)...)
	ip := head + int(p.L3)
	sum := uint32(0)
	if h.Summed() {
		sum = h.Sum(got[ip : ip+size])
	}
	if !h.Varies() {
		entropy = ^entropy
	}
	added := h.Encapsulate((*LongHead)(got[ip-TunnelRoom:]), size, entropy, id, sum)
	if got = got[ip-added : ip+size]; !bytes.Equal(got, want[start:head+int(p.End)]) {
		t.Fatalf("%+v, %d bytes\nis   % x\nwant % x", tun, size, got, want[start:head+int(p.End)])
	}
	return true
}

// Headers that are ready come out as those that are made for the packet, whatever the tunnel and the packet.
func TestTunnelHead(t *testing.T) {
	r := seeded(t)
	taken := map[[3]bool]int{}
	for range 20000 {
		tun, inner := randomTunnel(r), randomPacket(r)
		if r.IntN(3) == 0 {
			tun.MTU = uint16(r.IntN(300))
		}
		frame := inner.build(t)
		p, _ := parsed(t, frame, OK)
		disturb(r, frame, &p)
		if headTwin(t, &tun, frame, &p, r.Uint32(), uint16(r.Uint32())) {
			taken[[3]bool{tun.Dst.Is4(), tun.Kind == GUE, p.V6}]++
		}
	}
	for _, n := range taken {
		if n < 200 {
			t.Errorf("taken, by outer family, kind and inner family: %v", taken)
		}
	}
	if len(taken) != 8 {
		t.Errorf("only %v", taken)
	}
	if (&TunnelHead{}).Takes(0, 1) {
		t.Error("headers of nothing take a packet")
	}
}

// A sum of GUE's UDP that comes out as 0 is sent as 0xffff.
func TestTunnelHeadZeroSum(t *testing.T) {
	for way := range 4 {
		ends, v6 := fuzzEnds(way&1 != 0, ICMPOther, false), way&2 != 0
		tun := Tunnel{Src: ends.Src, Dst: ends.Dst, Kind: GUE, MTU: 1500}
		inner := basicPacket(v6, flow.TCP).with(func(p *testPacket) { p.payload = make([]byte, 8) })
		frame := inner.build(t)
		p, _ := parsed(t, frame, OK)
		for n := range 2 {
			b := append(make([]byte, TunnelRoom), frame...)
			start, why := tun.Encapsulate(b, TunnelRoom, &p, 7, 1)
			sum := b[start+etherLen+tun.Overhead()-gueLen-2:][:2]
			if zero := sum[0] == 0xff && sum[1] == 0xff; why != Done || zero != (n == 1) {
				t.Fatalf("%q: a checksum of % x", why, sum)
			}
			if !headTwin(t, &tun, frame, &p, 7, 1) {
				t.Fatal("not taken")
			}
			copy(frame[p.End-2:], sum) // an even offset of the datagram: with the checksum there it becomes 0
		}
	}
}

// disturb changes what a header says of service, flow, flags, hops and checksums, right or wrong.
func disturb(r *rand.Rand, frame []byte, p *Packet) {
	h := frame[p.L3:]
	if p.V6 {
		binary.BigEndian.PutUint32(h, 6<<28|r.Uint32()>>4)
		h[ttl6] = uint8(2 + r.IntN(254))
	} else {
		h[1], h[ttl4] = uint8(r.Uint32()), uint8(2+r.IntN(254))
		h[fragment4] = h[fragment4]&0x1f | uint8(r.IntN(8))<<5
		binary.BigEndian.PutUint16(h[sum4:], randomWord(r))
	}
	if r.IntN(2) == 0 { // sums of all ones and of all zeros, and nearly
		fill := []uint8{0, 0xff}[r.IntN(2)]
		for i := p.Payload; i < p.End; i++ {
			frame[i] = fill
		}
	}
}

// FuzzTunnelHead has a fuzzer choose packet and tunnel.
func FuzzTunnelHead(f *testing.F) {
	for i, frame := range fuzzSeeds(f) {
		f.Add(frame, uint8(i), uint16(1500), uint32(i)<<29|7, uint16(i))
	}
	f.Fuzz(func(t *testing.T, frame []byte, setting uint8, mtu uint16, entropy uint32, id uint16) {
		var p Packet
		var k flow.Key
		if Parse(frame, &p, &k) != OK {
			return
		}
		over6 := setting&1 != 0
		ends := fuzzEnds(over6, ICMPOther, false)
		tun := Tunnel{Src: ends.Src, Dst: ends.Dst, Kind: TunnelKind(setting >> 1 & 1), DF: DFPolicy(setting >> 2 & 3 % 3), ZeroSum: setting&16 != 0, MTU: mtu}
		if setting&32 != 0 {
			tun.Port, tun.TTL = 6081, 3
		}
		headTwin(t, &tun, slices.Clone(frame), &p, entropy, id)
	})
}
