package engine

import (
	"bytes"
	"testing"

	"sluice/flow"
)

// In a table full of established connections, those of a pool that hashes go on without entries: every packet of a client
// reaches the same member, answers come back from the virtual address, and when there is room again the connection gets one.
func TestStatelessWhenFull(t *testing.T) {
	for _, scheduler := range []string{"source-hash", "maglev"} {
		spec := a4(1)
		spec.Pools[0].Scheduler = scheduler
		spec.Virtuals[0].Stateless = true
		b := newBench(t, spec, 16, 2048)
		client := b.established(1)
		for port := uint16(2); b.workers[0].table.Len() < b.workers[0].table.Cap(); port++ {
			b.established(port)
		}
		if b.stats().Stateless != 0 {
			t.Fatalf("%+v", b.stats())
		}
		full := b.workers[0].table.Len()
		const port = 7000
		for _, p := range []packet{fromClient(port, "S"), ackOf(port), fromClient(port, "PA"), fromClient(port, "R")} {
			got := only(t, b.send(outside, p.build(t)), inside)
			want := p
			want.srcMAC, want.dstMAC, want.dst, want.ttl = insideMAC, serverMAC(client), serverIP(client), 63
			if !bytes.Equal(got, want.build(t)) {
				t.Fatalf("%s %s: %x, want %x", scheduler, p.flags, got, want.build(t))
			}
			ans := fromServer(client, port, "A")
			got = only(t, b.send(inside, ans.build(t)), outside)
			ans.srcMAC, ans.dstMAC, ans.src, ans.ttl = outsideMAC, clientMAC, vip, 63
			if !bytes.Equal(got, ans.build(t)) {
				t.Fatalf("%s: answer %x, want %x", scheduler, got, ans.build(t))
			}
		}
		if s := b.stats(); s.Stateless != 3 || s.Dropped() != 0 || b.workers[0].table.Len() != full {
			t.Errorf("%+v", s)
		}
		// A member's segment to somebody who has sent nothing is not the virtual server's.
		own := fromServer(client, 9, "A")
		own.dst = clientIP.Next()
		only(t, b.send(inside, own.build(t)), host)
		b.finish(client, 1)
		only(t, b.send(outside, ackOf(port).build(t)), inside)
		if s := b.stats(); s.Stateless != 3 || b.workers[0].table.Lookup(&flow.Key{Src: flow.AddrFrom(clientIP), Dst: flow.AddrFrom(vip), Ports: flow.Ports(port, 80), Proto: flow.TCP}) == 0 {
			t.Errorf("there is room, and the connection has no entry: %+v", s)
		}
		b.check()
		b.close()
	}
	spec := a4(1)
	spec.Virtuals[0].Stateless = true
	if _, err := NewConfig(spec, NewDictionary()); err == nil {
		t.Error("a round-robin pool without the table was accepted")
	}
}
