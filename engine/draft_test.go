package engine

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/flow"
	"sluice/rewrite"
)

// What a proposal describes for the plain case is what track describes for all.
func TestDraftIsTrack(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].Members[1].Port = 0 // that of the virtual server
	spec.Pools[0].Members[2].Addr = netip.MustParseAddr("0.0.255.255")
	b := newBench(t, spec, 1000, 2048)
	defer b.close()
	w, rng := b.workers[0], rand.New(rand.NewPCG(5, 6))
	for i := range w.cfg.pools {
		for j := range w.cfg.pools[i].groups[0].members {
			if m := &w.cfg.pools[i].groups[0].members[j]; j == 3 {
				m.addr = flow.Addr{Hi: 0xfd00 << 48, Lo: 3} // only what is computed is looked at
			}
		}
	}
	d, _ := w.pool.Get()
	for n := range 20_000 {
		id := uint32(1 + n%(len(w.cfg.virtuals)-1))
		v := &w.cfg.virtuals[id]
		if !v.exists || v.Mode != NAT {
			continue
		}
		k, p := &w.keys[0], &w.pkts[0]
		*k = flow.Key{Src: flow.AddrFrom4(rng.Uint32()), Dst: flow.AddrFrom4(rng.Uint32()), Ports: rng.Uint32(), Proto: []uint8{flow.TCP, flow.UDP, flow.SCTP}[rng.IntN(3)]}
		if p.V6 = rng.IntN(2) == 0; p.V6 {
			k.Src, k.Dst = flow.Addr{Hi: rng.Uint64(), Lo: rng.Uint64()}, flow.Addr{Hi: rng.Uint64(), Lo: rng.Uint64()}
		}
		if rng.IntN(16) == 0 {
			k.Dst = flow.AddrFrom4(0xffffffff)
		}
		p.Proto = k.Proto
		p.TCP = flow.Segment{Seq: rng.Uint32(), Flags: flow.FlagSYN, Window: uint16(rng.Uint32()), Scale: uint8(rng.IntN(15))}
		w.descs[0].Addr, w.descs[0].Len = d, 64
		frame := w.region.Packet(w.descs[0])
		for i := range frame[:14] {
			frame[i] = byte(rng.Uint32())
		}
		w.ports[0] = uint16(rng.IntN(2))
		m := &v.pool.groups[0].members[rng.IntN(len(v.pool.groups[0].members))]
		want, _, ok := w.track(0, id, v, m, false)
		if !ok {
			t.Fatal("track does not describe it")
		}
		w.table.Hash(w.keys[:1], 0)
		x := proposal{member: m, virtual: v, id: id, proto: k.Proto, mac: rewrite.SourceMAC(frame)}
		if !w.draft(0, &x) {
			t.Fatal("no draft")
		}
		got := *w.table.Drafted(&x.draft)
		if w.table.Discard(&x.draft); got.Proto() != k.Proto {
			t.Fatalf("protocol %d", got.Proto())
		}
		other := w.table.Draft(&x.draft, 0) // track leaves the protocol to the table
		*other = want
		w.table.Expect(&x.draft, k.Proto)
		if want = *other; got != want {
			t.Fatalf("%+v to %v\n got %+v\nwant %+v", *k, m.addr, got, want)
		}
		w.table.Discard(&x.draft)
	}
	w.table.Fetch()
	w.pool.Put(d)
}

// With hundreds of members every packet is counted where it belongs.
func TestManyCounters(t *testing.T) {
	const more = 512
	spec := a4(1)
	for i := range more {
		m := spec.Pools[0].Members[0]
		m.Addr = netip.AddrFrom4([4]byte{172, 30, byte(i >> 8), byte(i)})
		m.Name = m.Addr.String()
		spec.Pools[0].Members = append(spec.Pools[0].Members, m)
	}
	b := newBench(t, spec, 2000, 2048)
	defer b.close()
	w := b.workers[0]
	for round := range 20 {
		var frames [][]byte
		for i := range 40 {
			frames = append(frames, fromClient(uint16(2000+40*round+i), "S").build(t))
		}
		b.burst(frames)
	}
	members, packets := 0, uint64(0)
	for i := range w.node.traffic {
		if w.node.traffic[i].Packets[0] > 0 {
			members++
		}
		packets += w.node.traffic[i].Packets[0]
	}
	if packets != 800 || members != len(spec.Pools[0].Members) || w.virtual.traffic[1].Packets[0] != 800 {
		t.Errorf("%d packets to %d members, %+v", packets, members, w.virtual.traffic[1])
	}
	b.places()
}
