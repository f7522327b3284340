package engine

import (
	"testing"
)

// A packet each way of established connections in every transparent mode, and in server NAT: to be compared within one run.
func BenchmarkTransparent(b *testing.B) {
	for _, c := range []struct {
		mode string
		spec Spec
	}{
		{"nat", a4(1)}, {"router", routed(1, Router, false)}, {"router-snat", routed(1, Router, true)}, {"firewall", withRoutes(routed(1, Firewall, false))},
		{"forward", forwarding(1, false)}, {"forward-snat", forwarding(1, true)},
	} {
		b.Run("mode="+c.mode, func(b *testing.B) {
			bn := newBench(b, c.spec, 1000, 1024)
			near, far := inside, outside
			if c.mode == "nat" {
				near, far = outside, inside
			}
			var there, back [][]byte
			for i := range uint16(32) {
				p := packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: siteIP, sport: 1000 + i, dport: 80, flags: "S", seq: 1000}
				if c.mode == "nat" {
					p = fromClient(1000+i, "S")
				}
				src, dst, sport, dport := tuple(b, only(b, bn.send(near, p.build(b)), far))
				a := packet{srcMAC: routerMACs[0], dstMAC: outsideMAC, src: dst, dst: src, sport: dport, dport: sport, flags: "SA", seq: 9000, ack: 1001}
				only(b, bn.send(far, a.build(b)), near)
				p.flags, p.seq, p.ack, a.flags, a.seq = "A", 1001, 9001, "A", 9001
				there, back = append(there, p.build(b)), append(back, a.build(b))
			}
			discard := func([]byte) {}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += len(there) + len(back) {
				bn.wire(0, near).SendBurst(there)
				bn.wire(0, far).SendBurst(back)
				bn.workers[0].step(bn.now)
				bn.wire(0, near).Recv(discard)
				bn.wire(0, far).Recv(discard)
			}
			if s := bn.stats(); s.Dropped() != 0 || s.ToHost != 0 {
				b.Fatalf("dropped %v", s.Drops)
			}
		})
	}
}
