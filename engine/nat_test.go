package engine

import (
	"bytes"
	"testing"

	"sluice/flow"
)

func only(t testing.TB, out [3][][]byte, port int) []byte {
	t.Helper()
	for p := range out {
		want := 0
		if p == port {
			want = 1
		}
		if len(out[p]) != want {
			t.Fatalf("port %d sent %d packets, want %d", p, len(out[p]), want)
		}
	}
	return out[port][0]
}

// The two figures: the request's destination becomes the server, the answer's source the virtual server.
func TestServerNAT(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	syn := fromClient(4003, "S")
	got := only(t, b.send(outside, syn.build(t)), inside)
	want := syn
	want.srcMAC, want.dstMAC, want.dst, want.ttl = insideMAC, serverMAC(1), serverIP(1), 63
	if !bytes.Equal(got, want.build(t)) {
		t.Fatalf("request\n%x, want\n%x", got, want.build(t))
	}
	ans := fromServer(1, 4003, "SA")
	got = only(t, b.send(inside, ans.build(t)), outside)
	want = ans
	want.srcMAC, want.dstMAC, want.src, want.ttl = outsideMAC, clientMAC, vip, 63
	if !bytes.Equal(got, want.build(t)) {
		t.Fatalf("answer\n%x, want\n%x", got, want.build(t))
	}
}

// Every family and protocol, with port translation, VLAN, and UDP without a checksum, there and back.
func TestNATVariants(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	servers6 := a4(1).Pools[1].Members
	for name, c := range map[string]struct {
		req      packet
		to, from packet // what the server receives, and answers
	}{
		"udp4": {
			req: packet{src: clientIP, dst: vip, sport: 999, dport: 53, udp: true, payload: "query"},
			to:  packet{src: clientIP, dst: serverIP(1), sport: 999, dport: 5353, udp: true, payload: "query"},
		},
		"udp4 without checksum": {
			req: packet{src: clientIP, dst: vip, sport: 998, dport: 53, udp: true, payload: "query", noChecksum: true},
			to:  packet{src: clientIP, dst: serverIP(2), sport: 998, dport: 5353, udp: true, payload: "query", noChecksum: true},
		},
		"tcp6": {
			req: packet{src: clientIP6, dst: vip6, sport: 5000, dport: 80, flags: "S", seq: 7},
			to:  packet{src: clientIP6, dst: servers6[0].Addr, sport: 5000, dport: 8080, flags: "S", seq: 7},
		},
		"udp6": {
			req: packet{src: clientIP6, dst: vip6, sport: 5001, dport: 53, udp: true, payload: "odd"},
			to:  packet{src: clientIP6, dst: servers6[0].Addr, sport: 5001, dport: 8080, udp: true, payload: "odd"},
		},
		"vlan": {
			req: packet{src: clientIP, dst: vip, sport: 5002, dport: 80, flags: "S", vlan: 42},
			to:  packet{src: clientIP, dst: serverIP(1), sport: 5002, dport: 80, flags: "S", vlan: 42},
		},
	} {
		t.Run(name, func(t *testing.T) {
			// Each variant starts from the first member.
			for i := range b.Config().pools {
				b.Config().pools[i].groups[0].turn.Store(0)
			}
			if c.req.noChecksum {
				b.Config().pools[2].groups[0].turn.Store(1)
			}
			req, to := c.req, c.to
			req.srcMAC, req.dstMAC = clientMAC, outsideMAC
			to.srcMAC, to.dstMAC, to.ttl = insideMAC, serverMAC(1), 63
			if c.req.noChecksum {
				to.dstMAC = serverMAC(2)
			}
			if got := only(t, b.send(outside, req.build(t)), inside); !bytes.Equal(got, to.build(t)) {
				t.Fatalf("request\n%x, want\n%x", got, to.build(t))
			}
			from := to
			from.srcMAC, from.dstMAC, from.ttl = to.dstMAC, insideMAC, 64
			from.src, from.dst, from.sport, from.dport = to.dst, to.src, to.dport, to.sport
			from.flags, from.payload = "SA", "answer"
			ans := from
			ans.srcMAC, ans.dstMAC, ans.ttl, ans.src, ans.sport = outsideMAC, clientMAC, 63, req.dst, req.dport
			if got := only(t, b.send(inside, from.build(t)), outside); !bytes.Equal(got, ans.build(t)) {
				t.Fatalf("answer\n%x, want\n%x", got, ans.build(t))
			}
		})
	}
}

// Round-robin is exact, and so is the count of connections.
func TestRoundRobinExact(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	count := map[string]int{}
	for port := range uint16(400) {
		got := only(t, b.send(outside, fromClient(10000+port, "S").build(t)), inside)
		count[string(got[30:34])]++
	}
	for i := 1; i <= 4; i++ {
		if n := count[string(serverIP(i).AsSlice())]; n != 100 {
			t.Errorf("server %d got %d connections", i, n)
		}
	}
	if s := b.stats(); s.Opened != 400 || s.ToServer != 400 || s.Dropped() != 0 {
		t.Errorf("%+v", s)
	}
}

// A whole connection: states, the closing linger, a SYN that reuses the tuple at once, and idle expiry.
func TestConnectionLife(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	state := func() flow.TCPState {
		conns, err := b.Connections(t.Context(), 10, nil)
		if err != nil || len(conns) != 1 {
			t.Fatalf("%d connections, %v", len(conns), err)
		}
		return conns[0].TCPState()
	}
	c2s := func(flags string, seq, ack uint32) {
		p := fromClient(4003, flags)
		p.seq, p.ack = seq, ack
		only(t, b.send(outside, p.build(t)), inside)
	}
	s2c := func(flags string, seq, ack uint32) {
		p := fromServer(1, 4003, flags)
		p.seq, p.ack = seq, ack
		only(t, b.send(inside, p.build(t)), outside)
	}
	c2s("S", 1000, 0)
	if s := state(); s != flow.TCPSynSent {
		t.Fatal(s)
	}
	s2c("SA", 9000, 1001)
	c2s("A", 1001, 9001)
	if s := state(); s != flow.TCPEstablished {
		t.Fatal(s)
	}
	c2s("FA", 1001, 9001)
	s2c("FA", 9001, 1002)
	if s := state(); s != flow.TCPClosing {
		t.Fatal(s)
	}
	c2s("A", 1002, 9002)
	if s := state(); s != flow.TCPClosed {
		t.Fatal(s)
	}
	// The tuple is used again at once and goes to the next server.
	p := fromClient(4003, "S")
	p.seq = 77
	got := only(t, b.send(outside, p.build(t)), inside)
	if !bytes.Equal(got[30:34], serverIP(2).AsSlice()) {
		t.Fatalf("the new connection went to %v", got[30:34])
	}
	if s := state(); s != flow.TCPSynSent {
		t.Fatal(s)
	}
	// It is never answered: after the handshake timeout it is gone.
	b.now += uint64(DefaultTimeouts.Handshake) + 600
	for range 100 {
		b.Step(b.now)
	}
	if conns, _ := b.Connections(t.Context(), 10, nil); len(conns) != 0 {
		t.Fatalf("%d connections left", len(conns))
	}
	if s := b.stats(); s.Opened != 2 || s.Closed != 2 {
		t.Fatalf("%+v", s)
	}
}

// Every way a packet can end other than at a server or client, with its one reason.
func TestReasons(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	only(t, b.send(outside, fromClient(4003, "S").build(t)), inside)
	ttl1 := fromClient(4004, "S")
	ttl1.ttl = 1
	ssh := fromClient(4005, "S")
	ssh.dport = 22
	fragment := fromClient(4006, "S").build(t)
	fragment[20] |= 0x20
	long := fromClient(4007, "S").build(t)
	long[16] = 0xff
	ihl := fromClient(4008, "S").build(t)
	ihl[14] = 0x44
	arp := fromClient(1, "S").build(t)
	arp[12], arp[13] = 8, 6
	for _, c := range []struct {
		name  string
		port  int
		frame []byte
		why   Reason
	}{
		{"mid-stream", outside, fromClient(9, "A").build(t), NoConnection},
		{"ttl", outside, ttl1.build(t), TTLExpired},
		{"other port", outside, ssh.build(t), NoVirtualServer},
		{"fragment", outside, fragment, Fragmented},
		{"length", outside, long, BadLength},
		{"ihl", outside, ihl, BadHeader},
		{"short", outside, fromClient(1, "S").build(t)[:20], Truncated},
		{"arp", outside, arp, NotIP},
		{"wrong side", inside, fromClient(4003, "A").build(t), WrongSide},
	} {
		before := b.stats()
		out := b.send(c.port, c.frame)
		after := b.stats()
		if len(out[0])+len(out[1])+len(out[2]) != 0 {
			t.Errorf("%s: was sent on", c.name)
		}
		if after.Drops[c.why] != before.Drops[c.why]+1 || after.Dropped() != before.Dropped()+1 {
			t.Errorf("%s: not one drop for %v", c.name, c.why)
		}
	}
	// A member's own packet goes to the kernel, unchanged but for the Ethernet destination.
	p := fromServer(3, 1234, "A")
	got := only(t, b.send(inside, p.build(t)), host)
	p.dstMAC = hostMAC
	if !bytes.Equal(got, p.build(t)) {
		t.Error("the host received another packet")
	}
}

// A server-side tuple that is taken sends the connection to another member.
func TestCollisionPicksAnother(t *testing.T) {
	spec := a4(1)
	spec.Virtuals = append(spec.Virtuals, VirtualSpec{Name: "web2", Addr: vip.Next(), Port: 80, Proto: flow.TCP, Pool: 0})
	b := newBench(t, spec, 1000, 2048)
	defer b.close()
	only(t, b.send(outside, fromClient(4003, "S").build(t)), inside)
	b.Config().pools[0].groups[0].turn.Store(0) // the same member is next
	p := fromClient(4003, "S")
	p.dst = vip.Next()
	got := only(t, b.send(outside, p.build(t)), inside)
	if !bytes.Equal(got[30:34], serverIP(2).AsSlice()) {
		t.Errorf("went to %v", got[30:34])
	}
}

// A full table gives up half-open connections first; full of established ones it refuses new ones by name and keeps
// the old.
func TestTableFull(t *testing.T) {
	b := newBench(t, a4(1), 8, 2048)
	defer b.close()
	open := func(port uint16) {
		got := only(t, b.send(outside, fromClient(port, "S").build(t)), inside)
		server := int(got[33])
		if port >= 104 {
			return
		}
		sa := fromServer(server, port, "SA")
		sa.ack = 1001
		only(t, b.send(inside, sa.build(t)), outside)
		a := fromClient(port, "A")
		a.seq, a.ack = 1001, 9001
		only(t, b.send(outside, a.build(t)), inside)
	}
	for port := range uint16(8) {
		open(100 + port) // four established, four half open
	}
	for port := range uint16(20) {
		open(200 + port)
	}
	if s := b.stats(); s.Evicted != 20 || s.Dropped() != 0 {
		t.Errorf("%d evicted, %d dropped", s.Evicted, s.Dropped())
	}
	conns, _ := b.Connections(t.Context(), 100, func(c *Conn) bool { return c.TCPState() == flow.TCPEstablished })
	if len(conns) != 4 {
		t.Errorf("%d of 4 established connections are left", len(conns))
	}
	full := newBench(t, a4(1), 4, 2048)
	defer full.close()
	b = full
	for port := range uint16(4) {
		open(100 + port)
	}
	b.send(outside, fromClient(300, "S").build(t))
	if s := b.stats(); s.Drops[TableFull] != 1 || s.Evicted != 0 {
		t.Errorf("%+v", s)
	}
}

// With several workers each connection has one owner, wherever its packets arrive, and frames flow back.
func TestHandoff(t *testing.T) {
	const workers = 3
	b := newBench(t, a4(workers), 1000, 1024)
	defer b.close()
	total := 0
	for port := range uint16(300) {
		at := int(port) % workers
		got := only(t, b.sendTo(at, outside, fromClient(10000+port, "S").build(t)), inside)
		server := int(got[33])
		only(t, b.sendTo((at+1)%workers, inside, fromServer(server, 10000+port, "SA").build(t)), outside)
		only(t, b.sendTo((at+2)%workers, outside, fromClient(10000+port, "A").build(t)), inside)
		total += 3
	}
	s := b.stats()
	if s.Opened != 300 || s.Dropped() != 0 || s.HandedIn != s.HandedOut || s.HandedIn < uint64(total/2) {
		t.Errorf("%+v", s)
	}
	snaps, _ := b.Snapshots(t.Context())
	for i := range snaps {
		if snaps[i].Connections == 0 || snaps[i].FreeFrames < 64 {
			t.Errorf("worker %d: %d connections, %d free frames", i, snaps[i].Connections, snaps[i].FreeFrames)
		}
	}
}
