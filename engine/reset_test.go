package engine

import (
	"bytes"
	"fmt"
	"net"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
)

// rstFrame is a RST as gopacket builds it: no window, do not fragment, TTL 64.
func rstFrame(t *testing.T, p packet) []byte {
	t.Helper()
	p.ttl = 64
	b := gopacket.NewPacket(p.build(t), layers.LayerTypeEthernet, gopacket.Default)
	ls := []gopacket.SerializableLayer{b.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)}
	if tag, ok := b.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); ok {
		ls = append(ls, tag)
	}
	tcp := b.Layer(layers.LayerTypeTCP).(*layers.TCP)
	tcp.Window = 0
	if ip, ok := b.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok {
		ip.Id, ip.Flags = 0, layers.IPv4DontFragment
		_ = tcp.SetNetworkLayerForChecksum(ip)
		ls = append(ls, ip)
	} else {
		ip := b.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
		_ = tcp.SetNetworkLayerForChecksum(ip)
		ls = append(ls, ip)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(ls, tcp)...); err != nil {
		t.Fatal(err)
	}
	n := 14 + 20 + 20 // without the padding of a short frame, which a port adds by itself
	if p.src.Is6() {
		n += 20
	}
	if p.vlan != 0 {
		n += 4
	}
	return buf.Bytes()[:n]
}

// A segment in the middle of a connection that nobody knows is dropped, answered with a RST, or taken over.
func TestMidStream(t *testing.T) {
	spec := a4(1)
	spec.Virtuals[0].MidStream, spec.Virtuals[1].MidStream = MidStreamReset, MidStreamReset
	b := newBench(t, spec, 100, 2048)
	defer b.close()
	for i, c := range []struct {
		flags, payload string
		v6             bool
		vlan           uint16
		answer         string
		seq, ack       uint32
	}{
		{flags: "A", answer: "R", seq: 500},
		{flags: "PA", payload: "some data of odd length", answer: "R", seq: 500},
		{flags: "FA", payload: "x", answer: "R", seq: 500},
		{flags: "F", answer: "RA", ack: 1001},
		{flags: "", payload: "four", answer: "RA", ack: 1004},
		{flags: "SA", answer: "R", seq: 500},
		{flags: "A", v6: true, answer: "R", seq: 500},
		{flags: "PA", payload: "tagged", vlan: 42, answer: "R", seq: 500},
		{flags: "F", payload: "tagged 6", vlan: 42, v6: true, answer: "RA", ack: 1009},
	} {
		t.Run(fmt.Sprint(i, c.flags), func(t *testing.T) {
			p := fromClient(4003, c.flags)
			p.ack, p.payload, p.vlan = 500, c.payload, c.vlan
			if c.v6 {
				p.src, p.dst = clientIP6, vip6
			}
			got := only(t, b.send(outside, p.build(t)), outside)
			want := packet{srcMAC: outsideMAC, dstMAC: clientMAC, src: p.dst, dst: p.src, sport: 80, dport: 4003, flags: c.answer, seq: c.seq, ack: c.ack, vlan: c.vlan}
			if w := rstFrame(t, want); !bytes.Equal(got, w) {
				t.Fatalf("answer\n%x, want\n%x", got, w)
			}
		})
	}
	for _, flags := range []string{"R", "RA"} { // a RST is never answered (RFC 9293 section 3.10.7.1)
		b.drops(outside, fromClient(4003, flags).build(t), NoConnection)
	}
	if s := b.stats(); s.Resets != 9 || s.Answered != 9 || s.Opened != 0 || s.RxPackets != s.Answered+s.Dropped() {
		t.Errorf("%+v", s)
	}
	b.check()
}

func TestMidStreamDropAndAdopt(t *testing.T) {
	spec := a4(1)
	b := newBench(t, spec, 100, 2048)
	defer b.close()
	for _, flags := range []string{"A", "FA", "R", "SA"} {
		b.drops(outside, fromClient(4003, flags).build(t), NoConnection)
	}
	spec.Virtuals[0].MidStream = MidStreamAdopt
	b.apply(spec)
	b.drops(outside, fromClient(4003, "R").build(t), NoConnection)
	p := ackOf(4003)
	p.payload = "in the middle"
	got := only(t, b.send(outside, p.build(t)), inside)
	server := int(got[33])
	ans := fromServer(server, 4003, "A")
	ans.seq, ans.ack = 9001, 1014
	only(t, b.send(inside, ans.build(t)), outside)
	conns, _ := b.Connections(t.Context(), 10, nil)
	if len(conns) != 1 || conns[0].TCPState() != flow.TCPEstablished || conns[0].HalfOpen() {
		t.Fatalf("%+v", conns)
	}
	b.check()
	// From the server's side alone nothing is taken over: it goes to the kernel.
	only(t, b.send(inside, fromServer(server, 4004, "A").build(t)), host)
}

func (b *bench) apply(spec Spec) {
	b.t.Helper()
	cfg, err := NewConfig(spec, b.dict)
	if err != nil {
		b.t.Fatal(err)
	}
	if _, err := b.Engine.Apply(b.t.Context(), cfg); err != nil {
		b.t.Fatal(err)
	}
}

// take is what has come out by itself, by port.
func (b *bench) take() (out [3][][]byte) {
	for p := range 3 {
		b.wire(0, p).Recv(func(packet []byte) { out[p] = append(out[p], append([]byte(nil), packet...)) })
	}
	return out
}

// A connection that expires tells both ends, with the very numbers that each expects; one that is not established does not.
func TestResetOnExpiry(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		spec := a4(1)
		spec.Virtuals[0].ResetExpired, spec.Virtuals[1].ResetExpired = true, true
		b := newBench(t, spec, 100, 2048)
		server, port, virtual, client := serverIP(1), uint16(80), vip, clientIP
		if v6 {
			server, port, virtual, client = spec.Pools[1].Members[0].Addr, 8080, vip6, clientIP6
		}
		c2s := func(flags string, seq, ack uint32, payload string) {
			p := fromClient(4003, flags)
			p.src, p.dst, p.seq, p.ack, p.payload = client, virtual, seq, ack, payload
			only(t, b.send(outside, p.build(t)), inside)
		}
		s2c := func(flags string, seq, ack uint32, payload string) {
			p := fromServer(1, 4003, flags)
			p.src, p.sport, p.dst, p.seq, p.ack, p.payload = server, port, client, seq, ack, payload
			only(t, b.send(inside, p.build(t)), outside)
		}
		c2s("S", 1000, 0, "")
		s2c("SA", 9000, 1001, "")
		c2s("PA", 1001, 9001, "a request")
		s2c("PA", 9001, 1010, "and its answer")
		c2s("A", 1010, 9015, "")
		b.now += uint64(DefaultTimeouts.Established) - 1000
		for range 50 {
			b.Step(b.now)
		}
		if out := b.take(); len(out[0])+len(out[1]) != 0 {
			t.Fatal("too early")
		}
		b.pass(2000)
		out := b.take()
		want := packet{srcMAC: outsideMAC, dstMAC: clientMAC, src: virtual, dst: client, sport: 80, dport: 4003, flags: "RA", seq: 9015, ack: 1010}
		if got, w := only(t, [3][][]byte{out[0]}, outside), rstFrame(t, want); !bytes.Equal(got, w) {
			t.Errorf("to the client\n%x, want\n%x", got, w)
		}
		want = packet{srcMAC: insideMAC, dstMAC: serverMAC(1), src: client, dst: server, sport: 4003, dport: port, flags: "RA", seq: 1010, ack: 9015}
		if got, w := only(t, [3][][]byte{nil, out[1]}, inside), rstFrame(t, want); !bytes.Equal(got, w) {
			t.Errorf("to the server\n%x, want\n%x", got, w)
		}
		if s := b.stats(); s.Resets != 2 || s.Closed != 1 {
			t.Errorf("%+v", s)
		}
		c2s("S", 5000, 0, "")
		b.pass(uint64(DefaultTimeouts.Handshake) + 600)
		if out := b.take(); len(out[0])+len(out[1]) != 0 || b.stats().Resets != 2 {
			t.Error("a half-open connection was reset")
		}
		b.close()
	}
}

// Hundreds that expire at once send their RSTs without losing a frame, also when frames or the ring run out.
func TestResetOnExpiryMany(t *testing.T) {
	spec := a4(1)
	spec.Virtuals[0].ResetExpired = true
	b := newBench(t, spec, 2000, 1024)
	defer b.close()
	for port := range uint16(1500) {
		b.established(1000 + port)
	}
	b.now += uint64(DefaultTimeouts.Established) + 2000
	for range 200 { // nobody reads the wires
		b.Step(b.now)
		if err := b.Audit(); err != nil {
			t.Fatal(err)
		}
	}
	b.check()
	if n := b.workers[0].table.Len(); n != 0 {
		t.Errorf("%d left", n)
	}
	got := 0
	for range 3 {
		out := b.take()
		got += len(out[0]) + len(out[1])
		b.Step(b.now)
	}
	if s := b.stats(); uint64(got)+s.Drops[TxFull] != s.Resets || got < 512 {
		t.Errorf("%d RSTs read, %d dropped, %d made", got, s.Drops[TxFull], s.Resets)
	}
}

// A segment outside the window is forwarded without effect, or dropped by name where that is set. Neither it nor
// a blind RST keeps the connection alive, closes it, or moves the MAC that answers go to.
func TestOutsideWindow(t *testing.T) {
	for _, drop := range []bool{false, true} {
		spec := a4(1)
		spec.DropOutside = drop
		b := newBench(t, spec, 100, 2048)
		server := b.established(4003)
		record := func() Conn {
			conns, _ := b.Connections(t.Context(), 2, nil)
			if len(conns) != 1 {
				t.Fatalf("%d connections", len(conns))
			}
			return conns[0]
		}
		before := record()
		b.now += 5000
		evil := net.HardwareAddr{2, 0xe, 0xe, 0xe, 0xe, 0xe}
		n := uint64(0)
		for _, c := range []struct {
			flags    string
			seq, ack uint32
		}{{"A", 1 << 30, 9001}, {"A", 1001, 1 << 30}, {"R", 2000, 0}, {"RA", 77, 9001}, {"S", 1 << 20, 0}, {"FA", 1 << 30, 9001}} {
			p := fromClient(4003, c.flags)
			p.srcMAC, p.seq, p.ack = evil, c.seq, c.ack
			q := fromServer(server, 4003, c.flags)
			q.seq, q.ack = c.seq, c.ack
			n += 2
			if drop {
				b.drops(outside, p.build(t), OutOfWindow)
				b.drops(inside, q.build(t), OutOfWindow)
				continue
			}
			only(t, b.send(outside, p.build(t)), inside)
			got := only(t, b.send(inside, q.build(t)), outside)
			if !bytes.Equal(got[:6], clientMAC) {
				t.Fatalf("the answer goes to %x after a segment outside", got[:6])
			}
		}
		if after := record(); after.Seen != before.Seen || after.ClientMAC != before.ClientMAC || after.TCPState() != flow.TCPEstablished || after.Win != before.Win {
			t.Errorf("drop %t: before\n%+v, after\n%+v", drop, before.Record, after.Record)
		}
		if s := b.stats(); s.Outside != n {
			t.Errorf("%d outside, want %d", s.Outside, n)
		}
		// A segment in the window does all of that.
		moved := net.HardwareAddr{2, 0, 0, 0, 0x10, 0x77}
		p := ackOf(4003)
		p.srcMAC = moved
		only(t, b.send(outside, p.build(t)), inside)
		ans := fromServer(server, 4003, "A")
		ans.seq, ans.ack = 9001, 1001
		if got := only(t, b.send(inside, ans.build(t)), outside); !bytes.Equal(got[:6], moved) {
			t.Errorf("the answer goes to %x, the client is at %v", got[:6], moved)
		}
		if after := record(); after.Seen == before.Seen {
			t.Error("a segment in the window does not count as seen")
		}
		rst := fromClient(4003, "R")
		rst.seq = 1001
		only(t, b.send(outside, rst.build(t)), inside)
		if after := record(); after.TCPState() != flow.TCPClosed {
			t.Errorf("%v after an exact RST", after.TCPState())
		}
		b.check()
		b.close()
	}
}
