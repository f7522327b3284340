package engine

import (
	"fmt"
	"net/netip"
	"testing"

	"sluice/flow"
)

// A packet each way of established connections, in server NAT and in full NAT: to be compared within one run.
func BenchmarkEstablished(b *testing.B) {
	for _, mode := range []string{"nat", "fullnat"} {
		b.Run("mode="+mode, func(b *testing.B) {
			spec := oneArm(1, 1024, 65535)
			if mode == "nat" {
				spec = a4(1)
				for i := range spec.Pools[0].Members {
					spec.Pools[0].Members[i].Hop.Port = outside
				}
			}
			bn := newBench(b, spec, 1000, 1024)
			var frames [][]byte
			for port := uint16(1); port <= 32; port++ {
				_, server, sport, _ := tuple(b, only(b, bn.send(outside, fromClient(port, "S").build(b)), outside))
				n := int(server.As4()[3])
				back := packet{srcMAC: serverMAC(n), dstMAC: outsideMAC, src: server, dst: clientIP, sport: 80, dport: sport, flags: "SA", seq: 9000, ack: 1001}
				if mode == "fullnat" {
					back.dst = snat4
				}
				frames = append(frames, ackOf(port).build(b), back.build(b))
			}
			discard := func([]byte) {}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += len(frames) {
				bn.wire(0, outside).SendBurst(frames)
				bn.workers[0].step(bn.now)
				bn.wire(0, outside).Recv(discard)
			}
			if s := bn.stats(); s.Dropped() != 0 {
				b.Fatalf("dropped %v", s.Drops)
			}
		})
	}
}

// The first datagram of a connection, and its end, when so much of the ports to the member is in use; with server NAT beside.
func BenchmarkFirstPacket(b *testing.B) {
	const fill = 64512
	for _, percent := range []int{-1, 0, 50, 90, 99} {
		name := fmt.Sprintf("mode=fullnat/used=%d%%", percent)
		spec := oneArm(1, 1024, 65535)
		if percent < 0 {
			name, spec = "mode=nat", a4(1)
		}
		b.Run(name, func(b *testing.B) {
			spec.Pools[2].Members = spec.Pools[2].Members[:1]
			bn := newBench(b, spec, 1<<17, 1024)
			w := bn.workers[0]
			ask := func(host byte, port uint16) []byte {
				return packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: netip.AddrFrom4([4]byte{172, 16, 10, host}), dst: vip, sport: port, dport: 53, udp: true}.build(b)
			}
			for port := 1024; port < 1024+fill*max(0, percent)/100; port++ {
				bn.wire(0, outside).Send(ask(55, uint16(port)))
				if port%64 == 0 {
					w.step(bn.now)
					bn.wire(0, outside).Recv(nil)
				}
			}
			w.step(bn.now)
			bn.wire(0, outside).Recv(nil)
			// Those of clients whose bins have a port left.
			var frames [][]byte
			var keys []flow.Key
			for port := uint16(1); len(frames) < 32; port++ {
				k := flow.Key{Src: flow.AddrFrom4(172<<24 | 16<<16 | 10<<8 | 56), Dst: flow.AddrFrom(vip), Ports: flow.Ports(port, 53), Proto: flow.UDP}
				f := ask(56, port)
				bn.wire(0, outside).Send(f)
				w.step(bn.now)
				if r := w.table.Lookup(&k); r != 0 {
					w.remove(r.Index())
					frames, keys = append(frames, f), append(keys, k)
				}
				bn.wire(0, outside).Recv(nil)
				bn.wire(0, inside).Recv(nil)
			}
			used := w.table.Len()
			opened := w.stats.Opened
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += len(frames) {
				bn.wire(0, outside).SendBurst(frames)
				w.step(bn.now)
				bn.wire(0, outside).Recv(nil)
				bn.wire(0, inside).Recv(nil)
				for j := range keys {
					if r := w.table.Lookup(&keys[j]); r != 0 {
						w.remove(r.Index())
					}
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(used), "used")
			if made := w.stats.Opened - opened; made < uint64(b.N)/2 {
				b.Fatalf("%d connections were made in %d tries", made, b.N)
			}
		})
	}
}
