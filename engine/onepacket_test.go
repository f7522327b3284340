package engine

import (
	"bytes"
	"net/netip"
	"testing"

	"sluice/flow"
)

// datagram is a UDP packet; via says where it is on its way.
func datagram(src, dst netip.Addr, sport, dport uint16, payload string) packet {
	return packet{src: src, dst: dst, sport: sport, dport: dport, udp: true, payload: payload}
}

func (p packet) via(from, to [6]byte, ttl uint8) packet {
	p.srcMAC, p.dstMAC, p.ttl = from[:], to[:], ttl
	return p
}

// onePacket is the figure with DNS answered one datagram at a time; its members listen on another port.
func onePacket(workers int) Spec {
	spec := a4(workers)
	spec.Pools = append(spec.Pools, PoolSpec{Name: "dns6", Scheduler: "round-robin", Members: append([]MemberSpec(nil), spec.Pools[1].Members...)})
	spec.Virtuals[2].OnePacket, spec.Virtuals[3].OnePacket, spec.Virtuals[3].Pool = true, true, 3
	return spec
}

// There and back with the port translated, for both families: every datagram has its own member, and no entry.
func TestOnePacket(t *testing.T) {
	b := newBench(t, onePacket(1), 100, 2048)
	defer b.close()
	for _, c := range []struct {
		client, virtual netip.Addr
		server          func(i int) netip.Addr
		port            uint16
	}{
		{clientIP, vip, serverIP, 5353},
		{clientIP6, vip6, func(i int) netip.Addr { return a4(1).Pools[1].Members[i-1].Addr }, 8080},
	} {
		for i := 1; i <= 8; i++ {
			n := (i-1)%4 + 1
			got := only(t, b.send(outside, datagram(c.client, c.virtual, 999, 53, "query").via(mac(clientMAC), mac(outsideMAC), 64).build(t)), inside)
			want := datagram(c.client, c.server(n), 999, c.port, "query").via(mac(insideMAC), mac(serverMAC(n)), 63).build(t)
			if !bytes.Equal(got, want) {
				t.Fatalf("query %d\n%x, want\n%x", i, got, want)
			}
			got = only(t, b.send(inside, datagram(c.server(n), c.client, c.port, 999, "an answer").via(mac(serverMAC(n)), mac(insideMAC), 64).build(t)), outside)
			want = datagram(c.virtual, c.client, 53, 999, "an answer").via(mac(outsideMAC), mac(clientMAC), 63).build(t)
			if !bytes.Equal(got, want) {
				t.Fatalf("answer %d\n%x, want\n%x", i, got, want)
			}
		}
	}
	noSum := datagram(clientIP, vip, 7, 53, "query").via(mac(clientMAC), mac(outsideMAC), 64)
	noSum.noChecksum = true
	got := only(t, b.send(outside, noSum.build(t)), inside)
	want := datagram(clientIP, serverIP(1), 7, 5353, "query").via(mac(insideMAC), mac(serverMAC(1)), 63)
	if want.noChecksum = true; !bytes.Equal(got, want.build(t)) {
		t.Errorf("without a checksum\n%x, want\n%x", got, want.build(t))
	}
	if s := b.stats(); s.Opened != 0 || s.ToServer != 17 || s.ToClient != 16 || s.Dropped() != 0 || b.workers[0].table.Len() != 0 {
		t.Errorf("%+v", s)
	}
	snaps, _ := b.Snapshots(t.Context())
	if v := snaps[0].Virtual[3]; v.Packets != [2]uint64{9, 8} {
		t.Errorf("the virtual server counts %v packets", v.Packets)
	}
	b.check()
}

// What cannot be answered or sent has its name.
func TestOnePacketDrops(t *testing.T) {
	spec := onePacket(1)
	for i := range spec.Pools[3].Members {
		spec.Pools[3].Members[i].Hop.OK = false
	}
	for i := range spec.Pools[2].Members {
		spec.Pools[2].Members[i].Weight = 0
	}
	b := newBench(t, spec, 100, 2048)
	defer b.close()
	ask := func(v6 bool, ttl uint8) []byte {
		p := datagram(clientIP, vip, 999, 53, "q")
		if v6 {
			p = datagram(clientIP6, vip6, 999, 53, "q")
		}
		return p.via(mac(clientMAC), mac(outsideMAC), ttl).build(t)
	}
	b.drops(outside, ask(false, 64), NoMember)
	b.drops(outside, ask(false, 1), TTLExpired)
	b.drops(outside, ask(true, 64), NoNeighbour)
	// An answer to a client that asked nothing, or is forgotten.
	answer := func(ttl uint8) []byte {
		return datagram(serverIP(2), clientIP, 5353, 999, "a").via(mac(serverMAC(2)), mac(insideMAC), ttl).build(t)
	}
	b.drops(inside, answer(64), NoNeighbour)
	b.drops(inside, answer(1), TTLExpired)
	only(t, b.send(inside, datagram(serverIP(2), clientIP, 5354, 999, "its own").via(mac(serverMAC(2)), mac(insideMAC), 64).build(t)), host)
}

// A client whose place in the cache another has taken gets no answer until it asks again, and never that of another.
func TestOnePacketForgets(t *testing.T) {
	b := newBench(t, onePacket(1), 100, 2048)
	defer b.close()
	w := b.workers[0]
	first := netip.MustParseAddr("172.16.0.1")
	entry := w.clientEntry(flow.AddrFrom(first))
	second := first.Next()
	for w.clientEntry(flow.AddrFrom(second)) != entry {
		second = second.Next()
	}
	ask := func(client netip.Addr, m byte) {
		only(t, b.send(outside, datagram(client, vip, 999, 53, "q").via([6]byte{2, m}, mac(outsideMAC), 64).build(t)), inside)
	}
	answer := func(client netip.Addr) []byte {
		return datagram(serverIP(1), client, 5353, 999, "a").via(mac(serverMAC(1)), mac(insideMAC), 64).build(t)
	}
	ask(first, 1)
	ask(second, 2)
	b.drops(inside, answer(first), NoNeighbour)
	if got := only(t, b.send(inside, answer(second)), outside); got[1] != 2 {
		t.Errorf("the answer went to %x", got[:6])
	}
	ask(first, 1)
	if got := only(t, b.send(inside, answer(first)), outside); got[1] != 1 {
		t.Errorf("the answer went to %x", got[:6])
	}
}

// With several workers an answer finds the worker that knows the client, wherever it arrives.
func TestOnePacketWorkers(t *testing.T) {
	b := newBench(t, onePacket(3), 100, 1024)
	defer b.close()
	for sport := uint16(1); sport < 60; sport++ {
		got := only(t, b.sendTo(int(sport)%3, outside, datagram(clientIP, vip, sport, 53, "q").via(mac(clientMAC), mac(outsideMAC), 64).build(t)), inside)
		n := int(got[33])
		only(t, b.sendTo(int(sport+1)%3, inside, datagram(serverIP(n), clientIP, 5353, sport, "a").via(mac(serverMAC(n)), mac(insideMAC), 64).build(t)), outside)
	}
	if s := b.stats(); s.Dropped() != 0 || s.ToServer != 59 || s.ToClient != 59 {
		t.Errorf("%+v", s)
	}
}

// Two one-packet virtual servers cannot share a member's port: its answers could belong to either.
func TestOnePacketShared(t *testing.T) {
	spec := onePacket(1)
	again := spec.Virtuals[2]
	again.Name, again.Addr = "dns again", vip.Next()
	spec.Virtuals = append(spec.Virtuals, again)
	if _, err := NewConfig(spec, NewDictionary()); err == nil {
		t.Error("accepted")
	}
}
