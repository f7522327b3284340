package engine

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// twins are two engines that get the same frames: one as it is, and one that reads and rewrites every packet by the functions for
// whatever arrives.
type twins struct {
	*bench
	slow    *bench
	rng     *rand.Rand
	wired   []int      // ports that are no VLANs
	out     [][][]byte // what has come out last, by port
	sent    []sentFrame
	mode    Mode
	clients func(t testing.TB, rng *rand.Rand) (port int, frame []byte) // a client's first packet
	configs [2][2]*Config                                               // of this and of slow, that change
}

type sentFrame struct {
	port  int
	frame []byte
}

// stepGeneral is step without the ways of its own for what nearly all packets are.
func (w *worker) stepGeneral(now uint64) {
	w.now = now
	for i := range w.rx {
		q := &w.rx[i]
		if q.TxOnly {
			continue
		}
		q.Queue.Refill(w.pool)
		n := q.Queue.Receive(w.in[:])
		w.stats.RxPackets += uint64(n)
		w.n, w.opening, w.handedIn = 0, 0, false
		in := w.in
		for _, d := range in[:n] {
			w.stats.RxBytes += uint64(d.Len)
			w.parseGeneral(d, uint16(q.Port))
		}
		if w.n > 0 {
			w.table.Hash(w.keys[:w.n], 0)
			if missed := w.table.Find(w.keys[:w.n], w.refs[:]); missed > 0 || w.opening > 0 {
				w.schedule(missed) // one packet alone: nothing else is in hand
			} else {
				for i := range w.n {
					w.rewriteOne(i, w.refs[i], w.table.Record(w.refs[i].Index()))
				}
			}
		}
		if w.fragments.n > 0 {
			w.passParts()
		}
	}
	w.transmit()
	w.reclaim()
	if w.fragments.table.Len() > 0 {
		w.expireFragments()
	}
}

// play gives both a burst of frames on a port, and compares what becomes of it. The slow one gets them one by one.
func (b *twins) play(port int, frames ...[]byte) {
	b.t.Helper()
	for _, f := range frames {
		b.sent = append(b.sent[max(0, len(b.sent)-63):], sentFrame{port, f})
		if !b.wire(0, port).Send(f) || !b.slow.wire(0, port).Send(f) {
			b.t.Fatal("the wire is full")
		}
		b.slow.workers[0].stepGeneral(b.now)
	}
	s := b.slow.workers[0]
	s.table.Expire(b.now, expiryBudget, s.timeoutOf, s.expired) // when the other does
	b.workers[0].step(b.now)
	for _, p := range b.wired {
		var got, want [][]byte
		b.wire(0, p).Recv(func(f []byte) { got = append(got, bytes.Clone(f)) })
		b.slow.wire(0, p).Recv(func(f []byte) { want = append(want, bytes.Clone(f)) })
		if p != host {
			for _, f := range got {
				b.out[p] = append(b.out[p][max(0, len(b.out[p])-31):], f)
			}
		}
		slices.SortFunc(got, bytes.Compare) // packets of different connections may overtake each other
		slices.SortFunc(want, bytes.Compare)
		if !slices.EqualFunc(got, want, bytes.Equal) {
			b.t.Fatalf("%x on port %d:\n%x comes out of port %d, not\n%x\n%+v\n%+v", frames, port, got, p, want, b.stats(), b.slow.stats())
		}
	}
	b.same()
}

// same compares what the two know.
func (b *twins) same() {
	b.t.Helper()
	w, s := b.workers[0], b.slow.workers[0]
	ws, ss := w.stats, s.stats
	ws.Bursts, ss.Bursts = 0, 0
	if ws != ss {
		b.t.Fatalf("%+v\nnot\n%+v", ws, ss)
	}
	if !w.virtual.equal(&s.virtual) || !w.node.equal(&s.node) {
		b.t.Fatalf("%+v %+v\nnot\n%+v %+v", w.virtual, w.node, s.virtual, s.node)
	}
	if w.table.Len() != s.table.Len() {
		b.t.Fatalf("%d connections, not %d", w.table.Len(), s.table.Len())
	}
	w.table.Each(1, w.table.Cap()+1, func(i uint32, r *flow.Record) {
		if want := s.table.Record(i); *r != *want {
			b.t.Fatalf("record %d is\n%+v, not\n%+v", i, *r, *want)
		}
	})
}

// l3Of is where the IP header of a frame with tags or none begins.
func l3Of(f []byte) int {
	l3 := 14
	for l3 < 22 && (f[l3-2] == 0x81 || f[l3-2] == 0x88) {
		l3 += 4
	}
	return l3
}

// back is what the end that has got frame f may send next: mostly what a peer would, now and then something else. ok is false for
// what is neither TCP nor UDP.
func (b *twins) back(f []byte) (frame []byte, ok bool) {
	f = bytes.Clone(f)
	l3 := l3Of(f)
	if len(f) < l3+40+8 {
		f = append(f, make([]byte, 40)...)
	}
	var mac [12]byte
	copy(mac[:], f[6:12])
	copy(mac[6:], f[:6])
	copy(f, mac[:])
	l4, proto, size := l3+20, f[l3+9], 4
	if f[l3]>>4 == 6 {
		l4, proto, size = l3+40, f[l3+6], 16
	}
	if proto != flow.TCP && proto != flow.UDP || len(f) < l4+20 && proto == flow.TCP {
		return nil, false
	}
	src := bytes.Clone(f[l4-2*size : l4-size])
	copy(f[l4-2*size:], f[l4-size:l4])
	copy(f[l4-size:], src)
	ports := binary.BigEndian.Uint32(f[l4:])
	binary.BigEndian.PutUint32(f[l4:], ports>>16|ports<<16)
	if f[l3]>>4 == 6 {
		f[l3+7] = 64
	} else {
		f[l3+8] = 64
	}
	if proto == flow.TCP {
		b.answerTCP(f[l4:])
	}
	return f, true
}

// answerTCP makes a TCP header one that answers it.
func (b *twins) answerTCP(h []byte) {
	be := binary.BigEndian
	seq, ack, flags := be.Uint32(h[4:]), be.Uint32(h[8:]), h[13]
	end := seq + uint32(flags&flow.FlagSYN>>1) + uint32(flags&flow.FlagFIN)
	h[13] = flow.FlagACK
	if flags&(flow.FlagSYN|flow.FlagACK) == flow.FlagSYN {
		ack, h[13] = 9000, flow.FlagSYN|flow.FlagACK
	}
	be.PutUint32(h[4:], ack)
	be.PutUint32(h[8:], end)
}

// vary changes what a packet says, so that some are still what they were, and others are not steady, not regular, or nothing at all.
func (b *twins) vary(f []byte) []byte {
	be, r := binary.BigEndian, b.rng
	l3 := l3Of(f)
	l4, v6 := l3+20, f[l3]>>4 == 6
	if v6 {
		l4 = l3 + 40
	}
	if len(f) < l4+20 {
		return f
	}
	isTCP := v6 && f[l3+6] == flow.TCP || !v6 && f[l3+9] == flow.TCP
	switch r.IntN(24) {
	case 0, 1:
		if isTCP {
			be.PutUint32(f[l4+4:], be.Uint32(f[l4+4:])+uint32(r.IntN(40)))
		}
	case 2, 3:
		if isTCP {
			be.PutUint32(f[l4+8:], be.Uint32(f[l4+8:])+uint32(r.IntN(3)))
		}
	case 4:
		if isTCP {
			be.PutUint16(f[l4+14:], uint16(r.Uint32()))
		}
	case 5:
		if isTCP && r.IntN(2) == 0 {
			f[l4+13] = byte(r.IntN(32))
		}
	case 6:
		if isTCP {
			at := l4 + 4 + 4*r.IntN(2)
			be.PutUint32(f[at:], be.Uint32(f[at:])+uint32(r.IntN(1<<18))-1<<17)
		}
	case 7:
		f[l3+8-b2i(v6)] = byte(r.IntN(3))
	case 8:
		f[r.IntN(min(len(f), 60))] ^= 1 << r.IntN(8)
	case 9:
		f[11] = byte(r.IntN(4))
	case 10:
		at := l4 + 6 + 10*b2i(isTCP)
		be.PutUint16(f[at:], uint16(0-r.IntN(2)))
	case 11:
		f = f[:max(14, len(f)-r.IntN(30))]
	case 12: // more payload
		more := r.IntN(max(1, 1700-len(f)))
		f = append(f, make([]byte, more)...)
		at := l3 + 2 + 2*b2i(v6)
		be.PutUint16(f[at:], be.Uint16(f[at:])+uint16(more))
		if !isTCP {
			be.PutUint16(f[l4+4:], be.Uint16(f[l4+4:])+uint16(more))
		}
	case 13:
		if l3 > 14 {
			f[14] = f[14]&0x0f | byte(r.IntN(16))<<4
		}
	case 14: // a tag more, or one of no VLAN
		f = slices.Insert(f, 12, 0x81, 0, byte(r.IntN(2))<<5, byte(r.IntN(50)))
	case 15:
		b.now += uint64(r.IntN(3000))
	case 16: // service, flow label, flags
		f[l3+1] = byte(r.Uint32())
		if !v6 {
			f[l3+6] ^= 0x40
		}
	case 17: // an option
		if !v6 {
			f[l3]++
			be.PutUint16(f[l3+2:], be.Uint16(f[l3+2:])+4)
			f = slices.Insert(f, l4, 1, 1, 1, 0)
		}
	}
	return f
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// once plays one burst of traffic.
func (b *twins) once() {
	r := b.rng
	if r.IntN(100) == 0 {
		at := r.IntN(2)
		for i, e := range []*bench{b.bench, b.slow} {
			if _, err := e.Engine.Apply(b.t.Context(), b.configs[i][at]); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	switch port := b.wired[r.IntN(2)]; {
	case r.IntN(20) == 0 || len(b.out[port]) == 0:
		port, f := b.clients(b.t, r)
		b.play(port, f)
	case r.IntN(6) == 0: // somebody goes on without an answer
		s := b.sent[r.IntN(len(b.sent))]
		to := s.port
		if r.IntN(8) == 0 {
			to = b.wired[r.IntN(2)]
		}
		b.play(to, b.vary(bytes.Clone(s.frame)))
	case (b.mode == DirectReturn || b.mode == Tunnel) && port == inside: // the client goes on as if it had been answered
		var burst [][]byte
		for range 1 + r.IntN(6) {
			f := b.out[port][r.IntN(len(b.out[port]))]
			if b.mode == Tunnel {
				f = b.uncovered(f)
			}
			if f, ok := b.back(f); ok {
				if f, ok = b.back(f); ok {
					burst = append(burst, b.vary(f))
				}
			}
		}
		if n := b.steadyUpTo(burst); n > 0 {
			b.play(outside, burst[:n]...)
		}
	default:
		var burst [][]byte
		for range 1 + r.IntN(6) {
			if f, ok := b.back(b.out[port][r.IntN(len(b.out[port]))]); ok {
				burst = append(burst, b.vary(f))
			}
		}
		// A burst is found at once: what another packet of it ends is still there for the slow one's next.
		if n := b.steadyUpTo(burst); n > 0 {
			b.play(port, burst[:n]...)
		}
	}
}

// steadyUpTo is how many frames can go in one burst for both: up to and with the first that may open or end a connection.
func (b *twins) steadyUpTo(burst [][]byte) int {
	for i, f := range burst {
		var p rewrite.Packet
		var k flow.Key
		if rewrite.Parse(f, &p, &k) != rewrite.OK || p.Proto == flow.TCP && p.TCP.Flags&(flow.FlagSYN|flow.FlagFIN|flow.FlagRST) != 0 || p.Proto == flow.UDP {
			if i == 0 {
				return 1
			}
			return i
		}
	}
	return len(burst)
}

// steadySpecs are configurations in all modes; near is where clients are.
func steadySpecs() map[string]struct {
	spec Spec
	near int
} {
	type s = struct {
		spec Spec
		near int
	}
	// Members are behind a port without VLANs, and clients in one.
	apart := a4(1)
	apart.Ports = append(apart.Ports, PortSpec{Name: "red", MAC: vlanMACs[red], VLAN: VLANSpec{Parent: outside, Tags: rewrite.VLANTags{N: 1, IDs: [2]uint16{10}}}})
	specs := map[string]s{
		"vlan-apart": {apart, outside}, "firewall-learned": {withRoutes(routed(1, Firewall, false)), outside},
		"nat": {a4(1), outside}, "fullnat": {oneArm(1, 1024, 65535), outside}, "direct": {direct(1), outside},
		"router": {withRoutes(routed(1, Router, false)), inside}, "router-snat": {withRoutes(routed(1, Router, true)), inside},
		"firewall": {withRoutes(routed(1, Firewall, false)), inside}, "forward": {forwarding(1, false), inside}, "forward-snat": {forwarding(1, true), inside},
		"vlan": {vlans(1, blue), outside}, "vlan-same": {vlans(1, lime), outside},
		"vlan-untagged": {vlans(1, inside), outside}, "qinq": {vlans(1, qinq), outside},
	}
	for name, spec := range tunnelSpecs() {
		specs[name] = s{spec, outside}
	}
	for name, x := range specs {
		x.spec.DropOutside = name == "router" || name == "fullnat"
		if name == "nat" || name == "forward-snat" {
			for i := range x.spec.Ports {
				x.spec.Ports[i].MTU = 1500
			}
		}
		specs[name] = x
	}
	return specs
}

// client makes first packets of both families and protocols, with a tag or none.
func client(s *Spec, near int) func(t testing.TB, rng *rand.Rand) (int, []byte) {
	return func(t testing.TB, rng *rand.Rand) (int, []byte) {
		p := packet{srcMAC: clientMAC, dstMAC: outsideMAC, src: clientIP, dst: vip, flags: "S", seq: 1000}
		learned := near == outside && s.Virtuals[0].Mode == Firewall
		if near == inside {
			p = packet{srcMAC: serverMAC(1), dstMAC: insideMAC, src: serverIP(1), dst: siteIP, flags: "S", seq: 1000}
		}
		if learned {
			p = packet{srcMAC: routerMACs[rng.IntN(2)], dstMAC: outsideMAC, src: siteIP, dst: serverIP(1), flags: "S", seq: 1000}
		}
		p.sport, p.dport = 1000+uint16(rng.IntN(16)), 80
		if p.udp = rng.IntN(2) == 0; p.udp {
			p.dport, p.payload = 53, "0123456789"[:rng.IntN(10)]
		}
		if rng.IntN(2) == 0 {
			p.src, p.dst = clientIP6, vip6
			if near == inside {
				p.src, p.dst = hostIP6, siteIP6
			}
			if learned {
				p.src, p.dst = siteIP6, hostIP6
			}
		}
		f := p.build(t)
		if len(s.Ports) > red && rng.IntN(4) > 0 {
			f = tagged(t, f, dot1q, []uint16{10, 11, 10 | 5<<13}[rng.IntN(3)])
		}
		return near, f
	}
}

// Whatever the mode, the family and the tags: packets that are rewritten by the shorter ways come out as by the longer ones, and
// leave records, counters and connections as those do.
func TestSteadyWays(t *testing.T) { steadyWays(t) }

func steadyWays(t *testing.T) {
	seed := rand.Uint64()
	for name, x := range steadySpecs() {
		t.Run(name, func(t *testing.T) {
			t.Logf("seed %d", seed)
			b := newTwins(t, x.spec, x.near, seed)
			for range 4000 {
				b.once()
			}
			s := b.stats()
			if s.ToServer < 500 || s.ToClient < 500 && x.spec.Virtuals[0].Mode != DirectReturn && x.spec.Virtuals[0].Mode != Tunnel {
				t.Errorf("%d packets to servers, %d to clients, dropped %v", s.ToServer, s.ToClient, s.Drops)
			}
			b.close()
			b.slow.close()
		})
	}
}

func newTwins(t *testing.T, s Spec, near int, seed uint64) *twins {
	b := &twins{mode: s.Virtuals[0].Mode, rng: rand.New(rand.NewPCG(seed, 1)), clients: client(&s, near)}
	for i, e := range []**bench{&b.bench, &b.slow} {
		*e = newBench(t, s, 300, 1024)
		for at, spec := range []Spec{s, elsewhere(s)} {
			var err error
			if b.configs[i][at], err = NewConfig(spec, (*e).dict); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.out = make([][][]byte, len(s.Ports))
	b.wired = []int{outside, inside, host}
	return b
}

// elsewhere is s with next hops that are not known or are others, and routes that lead back.
func elsewhere(s Spec) Spec {
	s.Pools = slices.Clone(s.Pools)
	for i := range s.Pools {
		s.Pools[i].Members = slices.Clone(s.Pools[i].Members)
		s.Pools[i].Members[0].Hop.OK = false
		s.Pools[i].Members[1].Hop.MAC[5] ^= 0x40
	}
	if s.Virtuals[0].Mode == Tunnel {
		elsewhereInTunnels(&s)
	}
	s.Routes = slices.Clone(s.Routes)
	for i := range s.Routes {
		if h := &s.Routes[i].Hop; h.OK && s.Virtuals[0].Mode == Forward {
			h.Port, h.MAC = inside, mac(serverMAC(2))
		}
	}
	return s
}

// No packet costs an allocation, in any mode: those that go on, first ones, ends, and what is nothing at all.
func TestNoAllocationsModes(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	for name, x := range steadySpecs() {
		b := newTwins(t, x.spec, x.near, seed)
		bursts := make([][][]byte, len(b.wired))
		for i := range 40 * 32 {
			b.once()
			if s := b.sent[len(b.sent)-1]; i%40 == 0 {
				bursts[s.port] = append(bursts[s.port], s.frame)
			}
		}
		before := b.stats()
		if got := testing.AllocsPerRun(200, func() {
			for port, burst := range bursts {
				b.wire(0, port).SendBurst(burst)
			}
			b.now += 100
			b.workers[0].step(b.now)
			for _, port := range b.wired {
				b.wire(0, port).Recv(nil)
			}
		}); got != 0 {
			t.Errorf("%s: %v allocations a step", name, got)
		}
		after := b.stats()
		if n := after.ToServer + after.ToClient - before.ToServer - before.ToClient; n < 200 {
			t.Errorf("%s: only %d packets were forwarded", name, n)
		}
		b.close()
		b.slow.close()
	}
}

// Frames leave with the tags that retag, which TestRetag holds against gopacket, gives them.
func TestLeaveVLAN(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	s := vlans(1, blue)
	s.Ports[lime].VLAN.Tags.TPID = 0x88a8
	b := newBench(t, s, 100, 1024)
	defer b.close()
	w := b.workers[0]
	plain := fromClient(1, "A").build(t)
	addrs := [2]uint64{}
	for i := range addrs {
		addrs[i], _ = w.pool.Get()
	}
	dropped, kept := 0, 0
	for range 5000 {
		have := make([]uint16, rng.IntN(3))
		for i := range have {
			have[i] = uint16(rng.Uint32())
		}
		frame := tagged(t, plain, dot1q, have...)
		if len(have) > 0 && rng.IntN(3) == 0 {
			frame[12], frame[13] = 0x88, 0xa8
		}
		port, own, head := rng.IntN(len(s.Ports)), rng.IntN(3), uint64(rng.IntN(10))
		var d [2]rings.Desc
		for i := range d {
			d[i] = rings.Desc{Addr: addrs[i] + head, Len: uint32(len(frame)), Options: uint32(own) << tagShift}
			copy(w.region.Packet(d[i]), frame)
		}
		l := &w.cfg.lanes[port]
		want, ok := d[1], false
		if l.bare {
			ok = w.retag(&want, 2, &l.tags)
		} else {
			ok = w.retag(&want, own, &l.tags)
		}
		got := w.leaveVLAN(d[:1], port)
		if ok != (len(got) == 1) {
			t.Fatalf("%x, %d own, to %s: %v, not %v", frame, own, s.Ports[port].Name, len(got), ok)
		}
		if !ok {
			dropped++
			addrs[0], _ = w.pool.Get()
			continue
		}
		kept++
		if f, g := w.region.Packet(got[0]), w.region.Packet(want); !bytes.Equal(f, g) || got[0].Options != 0 {
			t.Fatalf("%x, %d own, to %s: %x, not %x", frame, own, s.Ports[port].Name, f, g)
		}
	}
	if dropped < 100 || kept < 1000 {
		t.Errorf("%d dropped, %d kept", dropped, kept)
	}
	for _, a := range addrs {
		w.pool.Put(a)
	}
}
