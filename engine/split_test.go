package engine

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
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
			if s := b.stats(); len(out[inside]) != 0 || s.Drops[TooBig] != 1 || s.Split != 0 {
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
	if s := b.stats(); parts != 0 || s.Drops[TooBig] != before.Drops[TooBig]+1 || s.Split != before.Split {
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
