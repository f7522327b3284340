package engine

import (
	"net/netip"
	"testing"

	"sluice/flow"
)

// drops sends a frame that must end in one drop for why, and nothing else.
func (b *bench) drops(port int, frame []byte, why Reason) {
	b.t.Helper()
	before := b.stats()
	out := b.send(port, frame)
	after := b.stats()
	if len(out[0])+len(out[1])+len(out[2]) != 0 || after.Drops[why] != before.Drops[why]+1 || after.Dropped() != before.Dropped()+1 {
		b.t.Fatalf("not one drop for %v: %v", why, after.Drops)
	}
}

// pass lets time pass and what has ended expire.
func (b *bench) pass(ms uint64) {
	b.now += ms
	for range 60 {
		b.Step(b.now)
	}
	b.check()
}

// The quota of a virtual server: above it SYNs are dropped by name before a member sees them; one comes back with every
// connection that is established, expires or is reset.
func TestQuotaPerVirtualServer(t *testing.T) {
	spec := a4(1)
	spec.Virtuals[0].HalfOpenLimit = 3
	b := newBench(t, spec, 1000, 2048)
	defer b.close()
	refused := func() { t.Helper(); b.drops(outside, fromClient(500, "S").build(t), HalfOpenVirtual) }
	servers := map[uint16]int{}
	for port := uint16(100); port < 103; port++ {
		servers[port] = b.serverOf(port)
	}
	refused()
	only(t, b.send(outside, packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP6, dst: vip6, sport: 1, dport: 80, flags: "S"}.build(t)), inside)
	// A SYN sent again belongs to its connection.
	only(t, b.send(outside, fromClient(100, "S").build(t)), inside)

	sa := fromServer(servers[100], 100, "SA")
	sa.ack = 1001
	only(t, b.send(inside, sa.build(t)), outside)
	refused()
	only(t, b.send(outside, ackOf(100).build(t)), inside)
	b.check()
	b.serverOf(103) // the first is established
	refused()

	rst := fromServer(servers[101], 101, "RA")
	rst.seq, rst.ack = 0, 1001
	only(t, b.send(inside, rst.build(t)), outside)
	b.check()
	b.serverOf(104) // the second was refused by its server
	refused()

	b.pass(uint64(DefaultTimeouts.Handshake) + 600)
	for port := uint16(200); port < 203; port++ {
		b.serverOf(port) // the others have expired
	}
	refused()
	b.pass(uint64(DefaultTimeouts.Handshake) + 600)
	if n := b.workers[0].half.virtual[1]; n != 0 {
		t.Errorf("%d half-open at the end", n)
	}
}

// The quota of a source prefix, for both families; other prefixes are not concerned, and unanswered UDP counts too.
func TestQuotaPerSource(t *testing.T) {
	spec := a4(1)
	spec.Sources = SourceLimit{HalfOpen: 4, Bits4: 24, Bits6: 64}
	b := newBench(t, spec, 1000, 2048)
	defer b.close()
	from := func(addr string, port uint16) []byte {
		p := fromClient(port, "S")
		if p.src = netip.MustParseAddr(addr); p.src.Is6() {
			p.dst = vip6
		}
		return p.build(t)
	}
	for i, c := range []struct{ same, other string }{{"172.16.10.", "172.16.11."}, {"fd00:1:2:3::", "fd00:1:2:4::"}} {
		for k := range uint16(4) {
			only(t, b.send(outside, from(c.same+string(rune('1'+k)), 100+k)), inside)
		}
		b.drops(outside, from(c.same+"9", 200), HalfOpenSource)
		only(t, b.send(outside, from(c.other+"9", 200)), inside)
		b.check()
		if i == 0 { // one is answered
			p := fromServer(1, 100, "SA")
			p.dst, p.ack = netip.MustParseAddr(c.same+"1"), 1001
			only(t, b.send(inside, p.build(t)), outside)
			p = ackOf(100)
			p.src = netip.MustParseAddr(c.same + "1")
			only(t, b.send(outside, p.build(t)), inside)
			only(t, b.send(outside, from(c.same+"9", 200)), inside)
			b.drops(outside, from(c.same+"9", 201), HalfOpenSource)
		}
	}
	b.pass(uint64(DefaultTimeouts.Handshake) + 600)
	query := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 1, dport: 53, udp: true}
	for range 4 {
		query.sport++
		only(t, b.send(outside, query.build(t)), inside)
	}
	query.sport++
	b.drops(outside, query.build(t), HalfOpenSource)
	ans := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: clientIP, sport: 5353, dport: 2, udp: true}
	only(t, b.send(inside, ans.build(t)), outside)
	only(t, b.send(outside, query.build(t)), inside)
	b.pass(uint64(DefaultTimeouts.UDP) + 600)
	for _, n := range b.workers[0].half.source {
		if n != 0 {
			t.Errorf("%d half-open of a source at the end", n)
		}
	}
}

// A quota is shared out among the workers: each has its part, rounded up.
func TestQuotaShare(t *testing.T) {
	const workers = 3
	spec := a4(workers)
	spec.Virtuals[0].HalfOpenLimit = 10
	b := newBench(t, spec, 1000, 1024)
	defer b.close()
	for port := uint16(100); port < 200; port++ {
		b.send(outside, fromClient(port, "S").build(t))
	}
	for _, w := range b.workers {
		if w.table.Len() != 4 {
			t.Errorf("worker %d let %d in, its share is 4", w.id, w.table.Len())
		}
	}
	if s := b.stats(); s.Drops[HalfOpenVirtual] != 88 || s.Dropped() != 88 {
		t.Errorf("%+v", s.Drops)
	}
	b.check()
}

// A flood against a table a tenth its size: half-open connections make room for each other, established ones are never
// touched and go on.
func TestFlood(t *testing.T) {
	const capacity, kept = 200, 120
	b := newBench(t, a4(1), capacity, 2048)
	defer b.close()
	servers := map[uint16]int{}
	for port := uint16(100); port < 100+kept; port++ {
		servers[port] = b.established(port)
	}
	for i := range uint16(10 * capacity) {
		p := fromClient(1000+i, "S")
		p.src = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		only(t, b.send(outside, p.build(t)), inside)
		b.now += 3
		if i%100 == 0 {
			b.check()
		}
	}
	if s := b.stats(); s.Closed != 10*capacity-(capacity-kept) || s.Evicted < s.Closed/2 || s.Dropped() != 0 {
		t.Errorf("%d evicted, %d closed, dropped %v", s.Evicted, s.Closed, s.Drops)
	}
	for port, server := range servers {
		only(t, b.send(outside, ackOf(port).build(t)), inside)
		p := fromServer(server, port, "A")
		p.seq, p.ack = 9001, 1001
		only(t, b.send(inside, p.build(t)), outside)
	}
	b.check()
	// A full table of nothing but established connections refuses by name.
	for port := uint16(500); port < 500+capacity-kept; port++ {
		b.established(port)
	}
	b.drops(outside, fromClient(900, "S").build(t), TableFull)
	if n := b.workers[0].table.Len(); n != capacity {
		t.Errorf("%d of %d established", n, capacity)
	}
}

// In a full table nothing gives way to a packet that will not be a connection: one over its quota, one without TTL, or a
// datagram that needs no entry.
func TestNothingGivesWayInVain(t *testing.T) {
	spec := a4(1)
	spec.Virtuals[0].HalfOpenLimit = 4
	spec.Virtuals[2].OnePacket = true
	b := newBench(t, spec, 4, 2048)
	defer b.close()
	for port := uint16(100); port < 104; port++ {
		b.serverOf(port)
	}
	b.drops(outside, fromClient(200, "S").build(t), HalfOpenVirtual)
	p := fromClient(201, "S")
	p.src, p.dst, p.ttl = clientIP6, vip6, 1
	b.drops(outside, p.build(t), TTLExpired)
	only(t, b.send(outside, packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, sport: 1, dport: 53, udp: true}.build(t)), inside)
	if s := b.stats(); s.Evicted != 0 || b.workers[0].table.Len() != 4 {
		t.Errorf("%d evicted", s.Evicted)
	}
	p.ttl = 64
	only(t, b.send(outside, p.build(t)), inside)
	if s := b.stats(); s.Evicted != 1 {
		t.Errorf("%d evicted", s.Evicted)
	}
	b.check()
}

// Above the high-water mark idle times shrink: what would have lasted is gone, until there is room again.
func TestShrunkTimeouts(t *testing.T) {
	const capacity = 160
	b := newBench(t, a4(1), capacity, 2048)
	defer b.close()
	for port := range uint16(capacity) {
		b.established(1000 + port)
	}
	// Idle for a quarter of the timeout, they go until the last eighth of the table has a quarter of its room again.
	for quarter := 1; quarter <= 3; quarter++ {
		b.pass(uint64(DefaultTimeouts.Established) / 4)
		want := capacity - capacity/8*quarter/4
		if n := b.workers[0].table.Len(); n > want || n < want-2 {
			t.Errorf("after %d quarters %d of %d are left, want %d", quarter, n, capacity, want)
		}
	}
	left, _ := b.Connections(t.Context(), 1, func(c *Conn) bool { return c.TCPState() != flow.TCPEstablished })
	if len(left) != 0 {
		t.Error("not established")
	}
}
