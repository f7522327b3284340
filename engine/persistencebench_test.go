package engine

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"sluice/flow"
)

// The first packet of a connection without persistence, of a client that is remembered, and of one that is not and gets an entry:
// bursts of the three by turns, on three engines of one worker, so that they share every moment of the machine. What is to be read is
// the ratio of the medians to without; ns are those of this machine.
func BenchmarkFirstPacketPersistence(b *testing.B) {
	const burst = 32
	type arm struct {
		*bench
		name   string
		frames [][]byte
		keys   []flow.Key
		fresh  bool // clients are forgotten after each burst
		took   []time.Duration
	}
	arms := []*arm{{name: "without"}, {name: "hit"}, {name: "miss", fresh: true}}
	for _, a := range arms {
		spec := a4(1)
		if a.name != "without" {
			spec = persistentSpec(1, shop())
		}
		a.bench = newBench(b, spec, 1<<16, 1024)
		for i := range burst {
			host := netip.AddrFrom4([4]byte{172, 16, 11, byte(i)})
			p := fromClient(5000, "S")
			p.src = host
			a.frames = append(a.frames, p.build(b))
			a.keys = append(a.keys, flow.Key{Src: flow.AddrFrom(host), Dst: flow.AddrFrom(vip), Ports: flow.Ports(5000, 80), Proto: flow.TCP})
		}
	}
	round := func(a *arm) time.Duration {
		w := a.workers[0]
		a.wire(0, outside).SendBurst(a.frames)
		start := time.Now()
		w.step(a.now)
		took := time.Since(start)
		a.wire(0, inside).Recv(nil)
		for i := range a.keys {
			r := w.table.Lookup(&a.keys[i])
			if r == 0 {
				b.Fatalf("%s: connection %d was not made", a.name, i)
			}
			w.remove(r.Index())
		}
		if a.fresh {
			a.now += uint64(shop().Timeout) + 2000
			for w.persist.table.Len() > 0 {
				w.step(a.now)
			}
		}
		w.step(a.now) // timers, free frames
		return took
	}
	for range 200 { // caches, and the clients of hit
		for _, a := range arms {
			round(a)
		}
	}
	b.ResetTimer()
	for range b.N {
		for _, a := range arms {
			a.took = append(a.took, round(a))
		}
	}
	b.StopTimer()
	var without float64
	for _, a := range arms {
		slices.Sort(a.took)
		ns := float64(a.took[len(a.took)/2].Nanoseconds()) / burst
		if a.name == "without" {
			without = ns
		} else {
			b.ReportMetric(ns/without, a.name+"/without")
		}
		b.ReportMetric(ns, a.name+"-ns")
		var s PersistenceStats
		if a.workers[0].persist != nil {
			s = a.workers[0].persistenceStats()[1]
		}
		if n := uint64(b.N); a.name == "hit" && s.Hits < n*burst || a.name == "miss" && s.Misses < n*burst {
			b.Errorf("%s: %+v", a.name, s)
		}
		a.close()
	}
}
