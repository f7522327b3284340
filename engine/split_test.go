package engine

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// A packet goes in as many parts as it takes, which are those that gopacket builds, tags and all; or, without frames for all of them,
// or where they would be too many, not at all. Nothing is allocated for them.
func TestSplit(t *testing.T) {
	small := func(mtu int) Spec {
		s := answering(1, 1000)
		s.Ports[inside].MTU = mtu
		return s
	}
	request := func(size int) anyWire {
		return anyWire{from: clientMAC, to: outsideMAC, src: clientIP, dst: vip, sport: 4003, dport: 53, proto: 17, ttl: 64, id: 77, payload: bytes.Repeat([]byte("parts"), size)[:size]}
	}
	for _, c := range []struct{ mtu, size, parts int }{{1280, 1252, 1}, {1280, 1253, 2}, {576, 1472, 3}, {68, 1472, 31}, {68, 1600, 34}, {31, 1000, 126}} {
		b := newBench(t, small(c.mtu), 100, 1024)
		sent := request(c.size)
		out := b.send(outside, sent.frames(t)[0])
		if c.mtu < 36 { // more parts than are put together: 8 bytes each
			if s := b.stats(); len(out[inside]) != 0 || s.Drops[TooBig] != 1 || s.Split != 0 || s.ToServer != 0 {
				t.Errorf("MTU %d: %d frames, %+v", c.mtu, len(out[inside]), s)
			}
			b.close()
			continue
		}
		want := sent.between(clientIP, serverIP(1), 4003, 5353).hop(insideMAC, serverMAC(1)).inParts(t, c.mtu).frames(t)
		if len(want) != c.parts || len(out[inside]) != c.parts {
			t.Fatalf("MTU %d: %d parts, want %d, %d were built", c.mtu, len(out[inside]), c.parts, len(want))
		}
		for i := range want {
			if !bytes.Equal(out[inside][i], want[i]) {
				t.Fatalf("MTU %d: part %d is\n%x, want\n%x", c.mtu, i, out[inside][i], want[i])
			}
		}
		if s := b.stats(); s.Dropped() != 0 || s.Split != min(uint64(c.parts-1), 1) {
			t.Errorf("%+v", s)
		}
		b.close()
	}

	b := newBench(t, small(68), 100, 1024)
	defer b.close()
	frame := request(1472).frames(t)[0]
	if n := testing.AllocsPerRun(50, func() {
		b.wire(0, outside).Send(frame)
		b.workers[0].step(b.now)
		b.wire(0, inside).Recv(func([]byte) {})
		b.workers[0].step(b.now)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}

	// All frames but a few are in use: the packet is dropped whole.
	pool := b.workers[0].pool
	var held []uint64
	for pool.Len() > 8 {
		addr, _ := pool.Get()
		held = append(held, addr)
	}
	before := b.stats()
	b.wire(0, outside).Send(frame)
	b.workers[0].step(b.now)
	parts := 0
	b.wire(0, inside).Recv(func([]byte) { parts++ })
	if s := b.stats(); parts != 0 || s.Drops[TooBig] != before.Drops[TooBig]+1 || s.Split != before.Split || s.ToServer != before.ToServer {
		t.Errorf("%d parts, %+v", parts, s)
	}
	for _, addr := range held {
		pool.Put(addr)
	}
	b.Step(b.now)
}

// SCTP in parts: its checksum covers what is not there, so that it passes where addresses stay, and is refused by name, to the last
// part, where they do not: also in a connection that began whole, from either side, and behind a router with a SNAT address.
func TestSCTPParts(t *testing.T) {
	for _, m := range everyModes() {
		if m.carried {
			continue
		}
		b := newEveryBed(t, m, 1, 0, rand.New(rand.NewPCG(1, 1)))
		c := connection{client: b.opening()}
		for c.client.proto != 132 || c.client.src.Is6() {
			c.client = b.opening()
		}
		b.fromClient(&c, 1000)
		if !m.oneSided {
			b.fromServer(&c, 1000)
		}
		for side, p := range []anyWire{c.client, c.server} {
			port := []int{m.client, m.server}[side]
			if side == 1 && m.oneSided {
				continue
			}
			p.ttl, p.payload, p.cuts = 64, []byte(strings.Repeat("data", 100)), []int{104, 208}
			c.number(&p, side)
			before := b.stats()
			out := b.pass(port, p.frames(t)...)
			n, s := len(out[m.client+m.server-port]), b.stats()
			if refused := s.Drops[Untranslatable] - before.Drops[Untranslatable] + s.Drops[Fragmented] - before.Drops[Fragmented]; m.translates && (n != 0 || refused != 3) || !m.translates && n != 3 {
				t.Errorf("%s, side %d: %d parts arrive, %d are refused", m.name, side, n, refused)
			}
		}
		b.close()
	}
}

// TCP in parts, as it comes through routers with a smaller MTU from ends that set no DF: what acknowledges all of a segment, of which
// its first part has told no length, is not outside the window.
func TestTCPParts(t *testing.T) {
	spec := everything(1)
	spec.DropOutside = true
	b := newBench(t, spec, 100, 1024)
	defer b.close()
	client := anyWire{from: clientMAC, to: outsideMAC, src: clientIP, dst: vip, sport: 4003, dport: 80, proto: 6, ttl: 64}
	server := anyWire{from: serverMAC(1), to: insideMAC, src: serverIP(1), dst: clientIP, sport: 80, dport: 4003, proto: 6, ttl: 64}
	send := func(p anyWire, tcp layers.TCP, size int, cuts ...int) {
		t.Helper()
		p.tcp, p.payload, p.cuts = tcp, make([]byte, size), cuts
		p.tcp.Window = 29200
		port, n := outside, 0
		if p.src != clientIP {
			port = inside
		}
		for _, f := range p.frames(t) {
			out := b.send(port, f)
			n += len(out[outside+inside-port])
		}
		if n != len(cuts)+1 {
			t.Fatalf("%d of %d parts: dropped %v", n, len(cuts)+1, b.stats().Drops)
		}
	}
	send(client, layers.TCP{SYN: true, Seq: 100}, 0)
	send(server, layers.TCP{SYN: true, ACK: true, Seq: 900, Ack: 101}, 0)
	send(client, layers.TCP{ACK: true, Seq: 101, Ack: 901}, 0)
	seq := [2]uint32{101, 901}
	for i := range 200 {
		from, to := client, server
		if i%3 == 0 {
			from, to = server, client
		}
		side := map[bool]int{true: 0, false: 1}[from.src == clientIP]
		size := 600 + 4*i
		send(from, layers.TCP{ACK: true, Seq: seq[side], Ack: seq[1-side]}, size, 104, 208)
		seq[side] += uint32(size)
		send(to, layers.TCP{ACK: true, Seq: seq[1-side], Ack: seq[side]}, 0)
	}
	if s := b.stats(); s.Outside != 0 || s.Dropped() != 0 {
		t.Errorf("%+v", s)
	}
}
