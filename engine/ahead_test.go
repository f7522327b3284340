package engine

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/flow"
)

// burst sends frames together and returns the servers that they went to.
func (b *bench) burst(frames [][]byte) (servers []netip.Addr) {
	b.t.Helper()
	if b.wire(0, outside).SendBurst(frames) != len(frames) {
		b.t.Fatal("the wire is full")
	}
	b.Step(b.now)
	b.wire(0, inside).Recv(func(f []byte) { servers = append(servers, netip.AddrFrom4([4]byte(f[30:34]))) })
	b.wire(0, outside).Recv(nil)
	b.wire(0, host).Recv(nil)
	b.Step(b.now)
	return servers
}

// places checks that as many places are taken as there are connections that are not closed: with the members, and with the virtual
// servers.
func (b *bench) places() {
	b.t.Helper()
	w := b.workers[0]
	var members, virtuals int64
	for _, s := range b.dict.shared {
		if s != nil {
			members += s.active.Load()
		}
	}
	for _, s := range b.dict.services {
		if s != nil {
			virtuals += s.active.Load()
		}
	}
	n := int64(0)
	w.table.Each(1, w.table.Cap()+1, func(_ uint32, r *flow.Record) {
		if holds(r) {
			n++
		}
	})
	if members != n || virtuals != n {
		b.t.Errorf("%d connections, %d places taken with members, %d with virtual servers", n, members, virtuals)
	}
	for i := range w.ahead.of {
		if w.ahead.of[i].member != nil {
			b.t.Errorf("proposal %d was left", i)
		}
	}
}

// New connections of one burst take the turns that they would take one by one, also if a second packet of theirs is with them.
func TestProposedTurns(t *testing.T) {
	b := newBench(t, a4(1), 1000, 2048)
	defer b.close()
	var frames [][]byte
	for i := range uint16(24) {
		f := fromClient(5000+i, "S").build(t)
		frames = append(frames, f, f)
	}
	servers := b.burst(frames)
	if len(servers) != len(frames) {
		t.Fatalf("%d of %d packets were forwarded", len(servers), len(frames))
	}
	for i, s := range servers {
		if want := serverIP(1 + i/2%4); s != want {
			t.Errorf("packet %d went to %v, not %v", i, s, want)
		}
	}
	if s := b.stats(); s.Opened != 24 {
		t.Errorf("%d connections were opened", s.Opened)
	}
	b.places()
}

// What is refused, or finds its tuple taken, gives the place of its proposal back.
func TestProposedInVain(t *testing.T) {
	spec := a4(1)
	spec.Pools[0].Scheduler = "first"
	spec.Virtuals = append(spec.Virtuals, VirtualSpec{Name: "web2", Addr: vip.Next(), Port: 80, Proto: flow.TCP, Pool: 0})
	b := newBench(t, spec, 1000, 2048)
	defer b.close()
	second, forged := fromClient(4003, "S"), fromClient(4004, "S")
	second.dst, forged.src = vip.Next(), vip
	servers := b.burst([][]byte{fromClient(4003, "S").build(t), second.build(t), forged.build(t), fromClient(4005, "S").build(t)})
	if len(servers) != 3 || servers[0] != serverIP(1) || servers[1] != serverIP(2) || servers[2] != serverIP(1) {
		t.Errorf("they went to %v", servers)
	}
	if s := b.stats(); s.Opened != 3 || s.Drops[BadSource] != 1 {
		t.Errorf("%+v", s)
	}
	b.places()
}

// Limits of members hold within a burst.
func TestProposedLimit(t *testing.T) {
	spec := a4(1)
	for i := range spec.Pools[0].Members {
		spec.Pools[0].Members[i].Limit = 3
	}
	b := newBench(t, spec, 1000, 2048)
	defer b.close()
	var frames [][]byte
	for i := range uint16(20) {
		frames = append(frames, fromClient(5000+i, "S").build(t))
	}
	if n := len(b.burst(frames)); n != 12 {
		t.Errorf("%d connections to four members with 3 places each", n)
	}
	if s := b.stats(); s.Drops[MemberLimit] != 8 {
		t.Errorf("%+v", s)
	}
	b.places()
}

// Whatever comes together, as many places are taken as there are connections, and as many ports.
func TestProposedAtRandom(t *testing.T) {
	t.Run("nat", func(t *testing.T) { proposeAtRandom(t, a4(1)) })
	t.Run("fullnat", func(t *testing.T) { proposeAtRandom(t, oneArm(1, 1024, 65535)) })
	t.Run("few ports", func(t *testing.T) { proposeAtRandom(t, oneArm(1, 2048, 2303)) })
}

func proposeAtRandom(t *testing.T, spec Spec) {
	b := newBench(t, spec, 300, 2048)
	defer b.close()
	rng := rand.New(rand.NewPCG(8, 9))
	for range 300 {
		var frames [][]byte
		for range 1 + rng.IntN(40) {
			p := fromClient(uint16(2000+rng.IntN(400)), []string{"S", "S", "A", "R", "SA", "FA"}[rng.IntN(6)])
			switch rng.IntN(6) {
			case 0:
				p.udp, p.dport = true, 53
			case 1:
				p.ttl = 1
			case 2:
				p.src = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			}
			frames = append(frames, p.build(t))
		}
		b.burst(frames)
		b.now += uint64(rng.IntN(400))
		b.places()
		b.check()
	}
	if s := b.stats(); s.Opened < 1000 || s.Evicted == 0 || s.Closed == 0 {
		t.Errorf("the mix did not happen: %+v", s)
	}
}

// Connections end as fast as they come, also when every packet opens one.
func TestExpiryKeepsUp(t *testing.T) {
	spec := a4(1)
	timeouts := DefaultTimeouts
	timeouts.UDPUnanswered = 1000
	for i := range spec.Virtuals {
		spec.Virtuals[i].Timeouts = timeouts
	}
	const capacity = 24_000 // a second's worth, what waits for its tick, and what is left to a tick; below the high-water mark
	b := newBench(t, spec, capacity, 2048)
	defer b.close()
	p := fromClient(1, "")
	p.udp, p.dport = true, 53
	frames := make([][]byte, burstSize)
	for i := range frames {
		frames[i] = p.build(t)
	}
	next := uint32(0)
	most := 0
	for range 1000 { // 5 seconds
		for _, f := range frames {
			next++
			f[28], f[34], f[35] = byte(next>>16), byte(next>>8), byte(next)
		}
		b.wire(0, outside).SendBurst(frames)
		b.Step(b.now)
		b.wire(0, inside).Recv(nil)
		b.now += 5
		most = max(most, b.workers[0].table.Len())
	}
	if s := b.stats(); s.Opened < 60_000 || most > capacity*7/8 || s.Evicted != 0 {
		t.Errorf("%d connections at most, where 12,800 a second live a second; %d opened, %d evicted", most, s.Opened, s.Evicted)
	}
}
