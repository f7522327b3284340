package engine

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
	"sluice/rewrite"
)

// everyMode is a way of forwarding as the property test below needs to know it.
type everyMode struct {
	name           string
	spec           func(workers int) Spec
	client, server int  // ports of the two ends
	oneSided       bool // answers pass by
	carried        bool // in a tunnel
	translates     bool // addresses, so that protocols whose checksum covers them do not pass in parts
	other          bool // protocols without ports pass
	// arrives says what the far end gets of p if it gets a frame with these ends.
	arrives func(t testing.TB, p anyWire, to net.HardwareAddr, src, dst netip.Addr, sport, dport uint16) anyWire
}

// everything is a4 with virtual servers for every protocol and port.
func everything(workers int) Spec {
	s := a4(workers)
	s.Virtuals = append(s.Virtuals, VirtualSpec{Name: "any", Addr: vip, Pool: 0}, VirtualSpec{Name: "any6", Addr: vip6, Pool: 1},
		VirtualSpec{Name: "echo", Addr: vip, Proto: flow.ICMP, Pool: 0}, VirtualSpec{Name: "echo6", Addr: vip6, Proto: flow.ICMPv6, Pool: 1})
	return s
}

func everyFullNAT(workers int) Spec {
	s := everything(workers)
	s.SNAT = []SNATSpec{{Name: "out", Addresses: []SNATAddress{snatAt(snat4.String(), 1024, 65535), snatAt(snat6.String(), 1024, 65535)}}}
	for i := range s.Virtuals {
		s.Virtuals[i].SNAT, s.Virtuals[i].Mode = "out", FullNAT
	}
	return s
}

// member is which server an address, or a MAC address, is of: 1 to 4, or the test fails.
func memberAt(t testing.TB, last byte) int {
	t.Helper()
	if last < 1 || last > 4 {
		t.Fatalf("no member has %d", last)
	}
	return int(last)
}

// sameEnds is for modes that change nothing but the frame: it goes to one of these MAC addresses.
func sameEnds(from net.HardwareAddr, to ...net.HardwareAddr) func(testing.TB, anyWire, net.HardwareAddr, netip.Addr, netip.Addr, uint16, uint16) anyWire {
	return func(t testing.TB, p anyWire, got net.HardwareAddr, _, _ netip.Addr, _, _ uint16) anyWire {
		t.Helper()
		if !slices.ContainsFunc(to, func(m net.HardwareAddr) bool { return bytes.Equal(m, got) }) {
			t.Fatalf("it goes to %s", got)
		}
		return p.hop(from, got)
	}
}

// ownSource is for modes whose source is translated to one of the routers' addresses.
func ownSource(t testing.TB, p anyWire, to net.HardwareAddr, _, _ netip.Addr, sport, _ uint16) anyWire {
	t.Helper()
	r := slices.IndexFunc(routerMACs, func(m net.HardwareAddr) bool { return bytes.Equal(m, to) })
	if r < 0 || sport < 1024 && (hasPorts(p.proto) || p.isICMP()) {
		t.Fatalf("it goes to %s from port %d", to, sport)
	}
	own := ownIPs[r]
	if p.src.Is6() {
		own = ownIP6s[r]
	}
	return p.between(own, p.dst, sport, p.dport).hop(outsideMAC, to)
}

func toMember(full bool) func(testing.TB, anyWire, net.HardwareAddr, netip.Addr, netip.Addr, uint16, uint16) anyWire {
	return func(t testing.TB, p anyWire, to net.HardwareAddr, _, dst netip.Addr, sport, dport uint16) anyWire {
		t.Helper()
		m := memberAt(t, to[5])
		src, addr, sp := p.src, serverIP(m), p.sport
		if p.src.Is6() {
			addr = a4(1).Pools[1].Members[m-1].Addr
		}
		if full {
			if src, sp = snat4, sport; p.src.Is6() {
				src = snat6
			}
			if sport < 1024 {
				t.Fatalf("from port %d", sport)
			}
		}
		if dst != addr || hasPorts(p.proto) && dport != 80 && dport != 8080 && dport != 5353 {
			t.Fatalf("to %s:%d at %s", dst, dport, to)
		}
		return p.between(src, addr, sp, dport).hop(insideMAC, to)
	}
}

func everyModes() (all []everyMode) {
	servers := []net.HardwareAddr{serverMAC(1), serverMAC(2), serverMAC(3), serverMAC(4)}
	all = []everyMode{
		{name: "nat", spec: everything, client: outside, server: inside, translates: true, other: true, arrives: toMember(false)},
		{name: "fullnat", spec: everyFullNAT, client: outside, server: inside, translates: true, arrives: toMember(true)},
		{name: "router", spec: func(n int) Spec { return routed(n, Router, false) }, client: inside, server: outside, other: true, arrives: sameEnds(outsideMAC, routerMACs...)},
		{name: "router-snat", spec: func(n int) Spec { return routed(n, Router, true) }, client: inside, server: outside, translates: true, arrives: ownSource},
		{name: "firewall", spec: func(n int) Spec { return routed(n, Firewall, false) }, client: inside, server: outside, other: true, arrives: sameEnds(outsideMAC, routerMACs...)},
		{name: "forward", spec: func(n int) Spec { return forwarding(n, false) }, client: inside, server: outside, other: true, arrives: sameEnds(outsideMAC, routerMACs[0])},
		{name: "forward-snat", spec: func(n int) Spec { return forwarding(n, true) }, client: inside, server: outside, translates: true, arrives: ownSource},
		{name: "direct-return", spec: direct, client: outside, server: inside, oneSided: true, other: true, arrives: sameEnds(insideMAC, servers...)},
	}
	for _, kind := range []rewrite.TunnelKind{rewrite.IPIP, rewrite.GUE} {
		for _, crossed := range []bool{false, true} {
			name := TunnelName(kind) + map[bool]string{false: "", true: "-crossed"}[crossed]
			all = append(all, everyMode{name: name, spec: func(n int) Spec { return tunnelled(n, kind, crossed) }, client: outside, server: inside, oneSided: true, carried: true, other: true, arrives: sameEnds(insideMAC, servers...)})
		}
	}
	return all
}

// everyBed is an engine in a mode, whose frames may have tags.
type everyBed struct {
	*bench
	mode everyMode
	r    *rand.Rand
	spec Spec
	tags [2][]uint16 // of a port
	seen map[string]int
	size int // of an IP packet
	// keep says that what goes in is kept, for a fuzzer.
	keep bool
	kept []byte
}

// The MTUs of the two ends' ports: what is larger than the server's comes from clients.
const clientMTU, serverMTU = 1500, 1280

func newEveryBed(t testing.TB, m everyMode, workers, tags int, r *rand.Rand) *everyBed {
	s := m.spec(workers)
	s.ICMPRate = 1 << 20
	for i := range []int{outside, inside} {
		s.Ports[i].Addr4, s.Ports[i].Addr6 = outside4, outside6
		if i == inside {
			s.Ports[i].Addr4, s.Ports[i].Addr6 = inside4, inside6
		}
		s.Ports[i].MTU = clientMTU
		if i == m.server && !m.carried {
			s.Ports[i].MTU = serverMTU
		}
	}
	b := &everyBed{mode: m, r: r, seen: map[string]int{}, size: 1200}
	if tags > 0 {
		b.tags = [2][]uint16{{10}, {20}}
		if tags == 2 {
			b.tags[1] = []uint16{30, 40}
		}
		s = onVLANs(s, b.tags)
	}
	b.spec, b.bench = s, newBench(t, s, 1000, 768)
	return b
}

// onVLANs is a configuration whose two ports are VLANs of others with these tags.
func onVLANs(s Spec, tags [2][]uint16) Spec {
	at := len(s.Ports)
	s.Ports = slices.Clone(s.Ports)
	for i := range tags {
		p := s.Ports[i]
		p.Name += "-vlan"
		p.VLAN = VLANSpec{Parent: i, Tags: rewrite.VLANTags{N: uint8(len(tags[i]))}}
		copy(p.VLAN.Tags.IDs[:], tags[i])
		s.Ports = append(s.Ports, p)
	}
	moved := func(port int) int {
		if port == outside || port == inside {
			return at + port
		}
		return port
	}
	for i := range s.Pools {
		for j := range s.Pools[i].Members {
			s.Pools[i].Members[j].Hop.Port = moved(s.Pools[i].Members[j].Hop.Port)
		}
	}
	for i := range s.Virtuals {
		if len(s.Virtuals[i].Destinations) > 0 {
			s.Virtuals[i].Ingress = moved(s.Virtuals[i].Ingress)
		}
	}
	for i := range s.Routes {
		if !s.Routes[i].Host {
			s.Routes[i].Hop.Port = moved(s.Routes[i].Hop.Port)
		}
	}
	return s
}

// pass delivers frames on a port, in any order and to any worker, and returns what comes out of the ports, sorted.
func (b *everyBed) pass(port int, frames ...[]byte) (out [3][][]byte) {
	b.t.Helper()
	for _, i := range b.r.Perm(len(frames)) {
		f := frames[i]
		if len(b.tags[port]) > 0 {
			f = withTags(f, b.tags[port])
		}
		worker := b.r.IntN(b.n)
		if b.keep {
			b.kept = append(binary.BigEndian.AppendUint16(append(b.kept, byte(port|worker<<1)), uint16(len(f))), f...)
		}
		got := b.sendTo(worker, port, f)
		for p := range got {
			out[p] = append(out[p], got[p]...)
		}
	}
	for p := range out {
		for i, f := range out[p] {
			if p < 2 && len(b.tags[p]) > 0 {
				bare := slices.Concat(f[:12], f[min(len(f), 12+4*len(b.tags[p])):])
				if !bytes.Equal(withTags(bare, b.tags[p]), f) {
					b.t.Fatalf("without tags %d: %x", b.tags[p], f)
				}
				out[p][i] = bare
			}
		}
		slices.SortFunc(out[p], bytes.Compare)
	}
	return out
}

// withTags puts tags into a frame, the outer of two as a provider's (IEEE 802.1ad).
func withTags(f []byte, tags []uint16) []byte {
	head := slices.Clone(f[:12])
	for i, tag := range tags {
		tpid := uint16(0x8100)
		if i < len(tags)-1 {
			tpid = 0x88a8
		}
		head = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(head, tpid), tag)
	}
	return append(head, f[12:]...)
}

// expect compares what came out, of one port alone.
func (b *everyBed) expect(what string, out [3][][]byte, port int, want [][]byte) {
	b.t.Helper()
	slices.SortFunc(want, bytes.Compare)
	for p := range out {
		if p != port && len(out[p]) > 0 || p == port && !slices.EqualFunc(out[p], want, bytes.Equal) {
			b.t.Fatalf("%s: port %d has sent %d\n%x\nwant %d by port %d\n%x\n%+v", what, p, len(out[p]), out[p], len(want), port, want, b.stats().Drops)
		}
	}
}

// opening is the first packet of a new connection, without a body.
func (b *everyBed) opening() anyWire {
	r, v6 := b.r, b.r.IntN(2) == 0
	protos := []uint8{flow.TCP, flow.UDP, flow.SCTP, flow.ICMP}
	if b.mode.other {
		protos = append(protos, 47)
	}
	p := anyWire{proto: protos[r.IntN(len(protos))], sport: uint16(1024 + r.IntN(60000)), dport: uint16(1 + r.IntN(65535))}
	if p.proto == flow.ICMP {
		if p.kind, p.dport = []uint8{8, 13}[r.IntN(2)], 0; v6 {
			p.proto, p.kind = flow.ICMPv6, 128
		}
	}
	if p.proto == 47 { // one connection for each pair of addresses
		p.sport, p.dport = 0, 0
	}
	if b.mode.client == outside {
		p.from, p.to, p.src, p.dst = clientMAC, outsideMAC, clientIP, vip
		if v6 {
			p.src, p.dst = clientIP6, vip6
		}
		return p
	}
	p.from, p.to, p.src = serverMAC(1), insideMAC, serverIP(1)
	p.dst = netip.AddrFrom4([4]byte{byte(1 + r.IntN(9)), byte(r.IntN(256)), byte(r.IntN(256)), byte(1 + r.IntN(200))})
	if v6 {
		a := siteIP6.As16()
		a[14], a[15] = byte(r.IntN(256)), byte(r.IntN(256))
		p.src, p.dst = hostIP6, netip.AddrFrom16(a)
	}
	return p
}

// connection is one under test: what its two ends send, as they know it.
type connection struct {
	client, server anyWire
	next           [2]uint32 // sequence numbers
	opened         bool
}

// client sends a packet, of at most size bytes, and sees that the server gets what it should.
func (b *everyBed) fromClient(c *connection, size int) {
	b.t.Helper()
	p := c.client.randomBody(b.r, size)
	c.number(&p, 0)
	frames, large := 1, !b.mode.carried && size > serverMTU
	parts := !large && (p.proto != flow.SCTP || !b.mode.translates) && c.opened && b.r.IntN(4) == 0
	if parts {
		if p = p.randomCuts(b.t, b.r); len(p.cuts) > 0 {
			b.seen["parts"]++
		}
	}
	frames = len(p.cuts) + 1
	sent := p.frames(b.t)
	large = large && len(sent[0]) > 14+serverMTU
	out := b.pass(b.mode.client, sent...)
	if large && (p.df || p.src.Is6()) {
		b.tooBig(p, out)
		return
	}
	if large {
		frames = len(p.inParts(b.t, serverMTU).cuts) + 1
		b.seen["cut in parts"]++
	}
	got := out[b.mode.server]
	if len(got) != frames {
		b.t.Fatalf("%d frames of %s have become %d, not %d; dropped %v", len(sent), p, len(got), frames, b.stats().Drops)
	}
	var outers []carried
	if b.mode.carried {
		for i := range got {
			outers = append(outers, readTunnel(b.t, got[i]))
			got[i] = outers[i].inner
		}
		slices.SortFunc(got, bytes.Compare)
		out[b.mode.server] = got
	}
	first := got[slices.IndexFunc(got, func(f []byte) bool { return frames == 1 || isFirst(f) })]
	reader := p
	if large {
		reader.cuts = []int{1}
	}
	_, to, src, dst, sport, dport := reader.readWire(b.t, first)
	want := b.mode.arrives(b.t, p, to, src, dst, sport, dport)
	if b.mode.carried { // it says who gets it, and its hop is taken before it goes in
		member := memberAt(b.t, to[5])
		if o := outers[0]; memberAt(b.t, o.dst.AsSlice()[len(o.dst.AsSlice())-1]) != member || o.src != tunnelSrc4 && o.src != tunnelSrc6 {
			b.t.Fatalf("from %s to %s at %s", o.src, o.dst, to)
		}
	}
	if c.opened && (want.src != c.server.dst || want.dst != c.server.src || want.sport != c.server.dport || want.dport != c.server.sport) {
		b.t.Fatalf("from %s:%d to %s:%d, of a connection from %s:%d to %s:%d", want.src, want.sport, want.dst, want.dport, c.server.dst, c.server.dport, c.server.src, c.server.sport)
	}
	expected := want
	if large {
		expected = want.inParts(b.t, serverMTU)
	}
	b.expect(p.String(), out, b.mode.server, expected.frames(b.t))
	if !c.opened {
		c.server = want
		c.server.from, c.server.to = want.to, want.from
		c.server.src, c.server.dst, c.server.sport, c.server.dport = want.dst, want.src, want.dport, want.sport
		c.server.kind = map[uint8]uint8{8: 0, 13: 14, 128: 129}[c.client.kind]
		if p.isICMP() {
			c.server.sport, c.server.dport = 0, want.sport
		}
	}
	b.seen[fmt.Sprintf("protocol %d", p.proto)]++
	if len(expected.cuts) == 0 && !b.mode.oneSided {
		b.errorAbout(p, want, b.mode.server)
	}
}

// fromServer is the way back: the client gets what it would have got from the address that it asked.
func (b *everyBed) fromServer(c *connection, size int) {
	b.t.Helper()
	p := c.server.randomBody(b.r, size)
	c.number(&p, 1)
	if (p.proto != flow.SCTP || !b.mode.translates) && b.r.IntN(4) == 0 {
		p = p.randomCuts(b.t, b.r)
	}
	want := p.between(c.client.dst, c.client.src, c.client.dport, c.client.sport).hop(c.client.to, c.client.from)
	b.expect(p.String(), b.pass(b.mode.server, p.frames(b.t)...), b.mode.client, want.frames(b.t))
	b.seen["answers"]++
	if len(p.cuts) == 0 {
		b.errorAbout(p, want, b.mode.client)
	}
}

// number gives a packet what its protocol counts: the first one opens the connection.
func (c *connection) number(p *anyWire, side int) {
	switch p.proto {
	case flow.TCP:
		p.tcp = layers.TCP{Seq: c.next[side], Ack: c.next[1-side], Window: 65000, ACK: true, PSH: len(p.payload)%2 == 0}
		if c.next[side] == 0 {
			c.next[side] = 1 << 20 * uint32(1+side)
			p.tcp.SYN, p.tcp.Seq, p.tcp.ACK, p.tcp.PSH, p.payload = true, c.next[side], side == 1, false, nil
			c.next[side]++
		}
		c.next[side] += uint32(len(p.payload))
	case flow.SCTP:
		if c.next[side] == 0 { // INIT and INIT ACK (RFC 9260 sections 3.3.2 and 3.3.3)
			c.next[side] = 77 + uint32(side)
			p.chunks = []byte{byte(1 + side), 0, 0, 20, 0, 0, 0, byte(c.next[side]), 0, 0, 128, 0, 0, 1, 0, 1, 0, 0, 0, 1}
			p.payload = nil
		}
		p.tcp.Seq = c.next[1-side] // the other's tag; 0 in an INIT
	}
}

// isFirst reports whether a frame without tags is the first part of a datagram.
func isFirst(f []byte) bool {
	if f[12] == 8 {
		return f[20]&0x1f == 0 && f[21] == 0
	}
	next, at := f[20], 54
	for next == 0 || next == 60 {
		next, at = f[at], at+8
	}
	return next != 44 || f[at+2] == 0 && f[at+3]&0xf8 == 0
}

// tooBig sees that the sender of p is told how large it may be.
func (b *everyBed) tooBig(p anyWire, out [3][][]byte) {
	b.t.Helper()
	e := readError(b.t, only(b.t, out, b.mode.client))
	kind, code := uint8(3), uint8(4)
	if p.src.Is6() {
		kind, code = 2, 0
	}
	if sent := p.whole(b.t); e.dst != p.src || e.kind != kind || e.code != code || e.mtu != serverMTU || len(e.quoted) < 48 || !bytes.HasPrefix(sent, e.quoted) {
		b.t.Fatalf("%+v about %s", e, p)
	}
	b.seen["too big"]++
}

// errorAbout has a router, or the end itself, on the side of port say something about packet is, which was sent as was: whoever sent it
// hears that about its own packet.
func (b *everyBed) errorAbout(was, is anyWire, port int) {
	b.t.Helper()
	quoted, original := is.whole(b.t), was.hop(was.from, was.to).whole(b.t)
	header := len(quoted) - len(is.transport(b.t))
	if len(quoted) < header+8 {
		return
	}
	n := header + 8
	switch b.r.IntN(3) {
	case 0:
		n = min(len(quoted), 1200)
	case 1:
		n += b.r.IntN(len(quoted) - n + 1)
	}
	n = min(n, 1200)
	switch { // what of a checksum is quoted can be made right, if all that it covers is there
	case is.proto == flow.SCTP && n < len(quoted):
		n = header + 8
	case is.proto == flow.TCP && n == header+17:
		n++
	}
	router, from := netip.MustParseAddr("100.64.9.9"), is.to
	kind, code := []uint8{3, 11, 12}[b.r.IntN(3)], uint8(b.r.IntN(2))
	if is.src.Is6() {
		router = netip.MustParseAddr("2001:db8:64::9")
		kind = []uint8{1, 3, 4}[b.r.IntN(3)]
	}
	seenFrom := router
	if b.r.IntN(2) == 0 { // the end itself
		router, seenFrom = is.dst, was.dst
	}
	word := uint32(0)
	if is.src.Is4() && kind == 3 && b.r.IntN(2) == 0 {
		code, word = 4, 1280
	}
	other := b.mode.client + b.mode.server - port
	sent := about(b.t, from, is.from, router, is.src, 64, kind, code, word, quoted[:n])
	want := about(b.t, was.to, was.from, seenFrom, was.src, 63, kind, code, word, original[:n])
	b.expect("error about "+is.String(), b.pass(port, sent), other, [][]byte{want})
	b.seen["errors"]++
}

// errorAboutAnswer is errorAbout for what went past us: the client's side says something about a member's packet, which keeps its
// addresses and goes to the member.
func (b *everyBed) errorAboutAnswer(c *connection) {
	b.t.Helper()
	answer := c.server.randomBody(b.r, 500)
	c.number(&answer, 1)
	quoted := answer.whole(b.t)
	header := len(quoted) - len(answer.transport(b.t))
	if len(quoted) < header+8 {
		return
	}
	n := header + 8 + b.r.IntN(len(quoted)-header-7)
	router, kind := netip.MustParseAddr("100.64.9.9"), uint8(11)
	if answer.src.Is6() {
		router, kind = netip.MustParseAddr("2001:db8:64::9"), 3
	}
	sent := about(b.t, c.client.from, c.client.to, router, c.client.dst, 64, kind, 0, 0, quoted[:n])
	want := about(b.t, insideMAC, c.server.from, router, c.client.dst, 63, kind, 0, 0, quoted[:n])
	out := b.pass(b.mode.client, sent)
	if b.mode.carried {
		out[b.mode.server][0] = readTunnel(b.t, only(b.t, out, b.mode.server)).inner
	}
	b.expect("error", out, b.mode.server, [][]byte{want})
	b.seen["errors"]++
}

// Every mode does with packets of every class what a description of it says, byte for byte: each packet is built by gopacket, of either
// family, of TCP, UDP, SCTP, ICMP queries and, where addresses may stay, a protocol without ports, with and without VLAN tags, IPv4
// options, IPv6 extension headers, a UDP checksum, whole, in parts that arrive in any order, too big for the next link with DF and
// without; goes through the engine there and back; and is compared with the same packet built with other ends. ICMP errors
// about what was sent, by a router or the end itself, quote 8 bytes to all of it, and become errors about what was sent originally.
func TestEveryMode(t *testing.T) {
	for _, m := range everyModes() {
		for workers := 1; workers <= 3; workers += 2 {
			for tags := range 3 {
				t.Run(fmt.Sprintf("%s/workers=%d/tags=%d", m.name, workers, tags), func(t *testing.T) {
					seed := uint64(time.Now().UnixNano())
					t.Logf("seed %d", seed)
					b := newEveryBed(t, m, workers, tags, rand.New(rand.NewPCG(seed, 0)))
					defer b.close()
					rounds := 120
					if testing.Short() {
						rounds = 10
					}
					for range rounds {
						b.connection()
					}
					b.judge(rounds)
				})
			}
		}
	}
}

// connection opens one, and has packets go there and back.
func (b *everyBed) connection() {
	b.t.Helper()
	c := connection{client: b.opening()}
	b.fromClient(&c, b.size)
	if !b.mode.oneSided {
		b.fromServer(&c, b.size)
	} else if c.client.proto == flow.TCP {
		c.next[1] = 1 << 20
	}
	c.opened = true
	for range 6 {
		switch {
		case b.mode.oneSided && b.r.IntN(3) == 0:
			b.errorAboutAnswer(&c)
		case !b.mode.oneSided && b.r.IntN(2) == 0:
			b.fromServer(&c, b.size)
		default:
			large := b.size
			if !b.mode.carried && b.r.IntN(2) == 0 {
				large = clientMTU
			}
			b.fromClient(&c, large)
		}
	}
}

// judge looks at the counters: nothing was lost or left to the kernel, and every class has been seen.
func (b *everyBed) judge(rounds int) {
	b.t.Helper()
	s := b.stats()
	if s.Dropped() != 0 || s.ToHost != 0 || int(s.Split) != b.seen["cut in parts"] || int(s.ICMPSent) != b.seen["too big"] || int(s.Errors) != b.seen["errors"] {
		b.t.Errorf("%+v, seen %v", s, b.seen)
	}
	want := []string{"errors", "parts", "protocol 6", "protocol 17", "protocol 132"}
	if !b.mode.oneSided {
		want = append(want, "answers")
	}
	if !b.mode.carried {
		want = append(want, "too big", "cut in parts")
	}
	for _, class := range want {
		if b.seen[class] == 0 && rounds >= 120 {
			b.t.Errorf("no %s among %v", class, b.seen)
		}
	}
	if err := b.consistent(); err != nil {
		b.t.Error(err)
	}
}
