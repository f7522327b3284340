package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
	"sluice/sched"
)

// explainTuples is how many tuples each of these tests explains and sends: SLUICE_EXPLAIN=100000 for the proof, fewer in every run.
func explainTuples(t *testing.T) int {
	s := os.Getenv("SLUICE_EXPLAIN")
	if s == "" {
		return 12_000
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1000 {
		t.Fatalf("SLUICE_EXPLAIN=%q is not a number from 1000 on", s)
	}
	return n
}

// crowded is a configuration in which much is refused: limits and rates of members and virtual servers, groups, members that
// are down, slow, without next hop or weight, a pool to fall back to, SNAT with few ports, a table that is too small.
func crowded(scheduler string, workers int) Spec {
	s := a4(workers)
	for i := range s.Pools {
		p := &s.Pools[i]
		p.Scheduler = scheduler
		for j := range p.Members {
			p.Members[j].Weight = uint32(1 + j)
		}
	}
	web, web6, dns := &s.Pools[0], &s.Pools[1], &s.Pools[2]
	web.Members[0].Priority, web.Members[1].Priority, web.Minimum, web.SlowStart, web.ReturnAfter = 10, 10, 2, 4000, 2000
	web.Members[0].Limit, web.Members[1].Rate, web.Members[2].Limit = 6, 3, 12
	web6.Members[1].Limit, web6.Members[2].Rate, web6.Members[3].Weight = 9, 2, 0
	dns.Members[2].Hop.OK = false
	dns.SlowStart = 3000
	web.AllDown, web.Fallback, web6.AllDown, dns.AllDown = AllDownPool, 3, AllDownReset, AllDownFailOpen
	sorry := web.Members[0]
	sorry.Name, sorry.Addr, sorry.Limit, sorry.Priority = "sorry", serverIP(9), 0, 0
	s.Pools = append(s.Pools, PoolSpec{Name: "sorry", Scheduler: scheduler, Members: []MemberSpec{sorry}})
	s.SNAT = []SNATSpec{{Name: "out", Addresses: []SNATAddress{
		snatAt("192.168.20.200", 1024, 1250), snatAt("192.168.20.201", 2048, 2250), snatAt("fd00:192:168:20::200", 1024, 65535)}}}
	at := func(last byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 10, 1, last}) }
	s.Virtuals = append(s.Virtuals,
		VirtualSpec{Name: "full", Addr: at(101), Port: 80, Proto: flow.TCP, Pool: 0, SNAT: "out", Mode: FullNAT},
		VirtualSpec{Name: "echo", Addr: vip, Proto: flow.ICMP, Pool: 2},
		VirtualSpec{Name: "echofull", Addr: at(101), Proto: flow.ICMP, Pool: 2, SNAT: "out", Mode: FullNAT},
		VirtualSpec{Name: "echo6", Addr: vip6, Proto: flow.ICMPv6, Pool: 1},
		VirtualSpec{Name: "bounded", Addr: at(102), Port: 80, Proto: flow.TCP, Pool: 2, Limit: 5, Rate: 2, ResetRefused: true, HalfOpenLimit: 30},
		VirtualSpec{Name: "one", Addr: at(103), Port: 53, Proto: flow.UDP, Pool: 4, OnePacket: true},
		VirtualSpec{Name: "any", Addr: at(104), Pool: 3},
		VirtualSpec{Name: "full6", Addr: vip6, Port: 443, Proto: flow.TCP, Pool: 1, SNAT: "out", Mode: FullNAT},
		VirtualSpec{Name: "sctp", Addr: vip, Port: 9899, Proto: flow.SCTP, Pool: 3},
		VirtualSpec{Name: "unmatched", Addr: at(105), Port: 80, Proto: flow.TCP, Pool: 3, Unmatched: UnmatchedHost},
		VirtualSpec{Name: "near", Addr: at(106), Port: 80, Proto: flow.TCP, Pool: 5, Hairpin: HairpinSNAT, SNAT: "out", HalfOpenLimit: 4},
		VirtualSpec{Name: "direct", Addr: at(109), Port: 80, Proto: flow.TCP, Pool: 5, Mode: DirectReturn, Echo: EchoWhileUp},
		VirtualSpec{Name: "denied", Addr: at(110), Port: 80, Proto: flow.TCP, Pool: 5, Deny: []netip.Prefix{netip.MustParsePrefix("172.16.10.0/27")}},
		VirtualSpec{Name: "slow", Addr: at(111), Port: 80, Proto: flow.TCP, Pool: 5, SourceRate: 1, Echo: EchoEngine},
		VirtualSpec{Name: "range", Proto: flow.TCP, Pool: 5, Destinations: []Destination{{netip.PrefixFrom(at(112), 32), flow.PortRange{First: 100, Last: 200}}}},
		VirtualSpec{Name: "network", Proto: 0, Pool: 5, Ingress: outside, Destinations: []Destination{{netip.MustParsePrefix("10.20.0.0/16"), flow.PortRange{}}}},
		VirtualSpec{Name: "refused", Addr: at(107), Port: 80, Proto: flow.TCP, Pool: 5, Hairpin: HairpinRefuse, Unmatched: UnmatchedReset},
	)
	single := PoolSpec{Name: "single", Scheduler: scheduler}
	near := PoolSpec{Name: "near", Scheduler: scheduler}
	for i := 10; i < 13; i++ {
		m := MemberSpec{Name: serverIP(i).String(), Addr: serverIP(i), Port: 53, Weight: 1, Hop: Hop{Port: inside, MAC: mac(serverMAC(i)), OK: true}}
		single.Members = append(single.Members, m)
		m.Port, m.Addr, m.Name = 80, serverIP(i+10), serverIP(i+10).String()
		m.Hop.MAC = mac(serverMAC(i + 10))
		m.Subnet = netip.MustParsePrefix("172.16.10.0/24")
		near.Members = append(near.Members, m)
	}
	near.Members[0].Subnet = netip.MustParsePrefix("192.168.20.0/24")
	s.Pools = append(s.Pools, single, near)
	if p, ok := map[string]bool{"source-hash": true, "maglev": true}[scheduler]; ok && p {
		s.Virtuals = append(s.Virtuals, VirtualSpec{Name: "stateless", Addr: at(108), Port: 80, Proto: flow.TCP, Pool: 6, Stateless: true})
		less := PoolSpec{Name: "less", Scheduler: scheduler}
		for i := 31; i < 34; i++ {
			less.Members = append(less.Members, MemberSpec{Name: serverIP(i).String(), Addr: serverIP(i), Port: 80, Weight: 1, Hop: Hop{Port: inside, MAC: mac(serverMAC(i)), OK: true}})
		}
		s.Pools = append(s.Pools, less)
	}
	s.ICMPRate = 3
	s.Sources = SourceLimit{HalfOpen: 6, Bits4: 32, Bits6: 64}
	for i := range s.Virtuals {
		s.Virtuals[i].Timeouts = Timeouts{Handshake: 6000, Established: 60_000, Closing: 3000, Closed: 1500, UDP: 6000, UDPUnanswered: 2500, ICMP: 2000, Other: 9000,
			SCTPInit: 3000, SCTPEstablished: 9000, SCTPShutdown: 1000, SCTPClosed: 500}
	}
	return s
}

// fate is what became of a packet: where it came out and how, or the reason that was counted.
type fate struct {
	port       int
	mac        [6]byte
	src, dst   netip.AddrPort
	how        Decision
	why        Reason
	tunnel     string // that the packet is in, with its ends
	unaccepted string // what was seen is none of these
}

// readFrame is the tuple of a frame without VLAN tags and options, read by hand: at both ends of a query its id.
func readFrame(b []byte) (src, dst netip.AddrPort) {
	l3, at, n := b[14:], 12, 4
	proto, l4 := l3[9], l3[20:]
	if b[12] == 0x86 {
		at, n = 8, 16
		proto, l4 = l3[6], l3[40:]
	}
	s, _ := netip.AddrFromSlice(l3[at : at+n])
	d, _ := netip.AddrFromSlice(l3[at+n : at+2*n])
	sp, dp := binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	switch proto {
	case flow.ICMP, flow.ICMPv6:
		sp = binary.BigEndian.Uint16(l4[4:])
		dp = sp
	case flow.TCP, flow.UDP, flow.SCTP:
	default:
		sp, dp = 0, 0
	}
	return netip.AddrPortFrom(s, sp), netip.AddrPortFrom(d, dp)
}

// frameOf is a packet of the tuple, built by gopacket; flags of TCP.
func frameOf(t testing.TB, q Question, from, to [6]byte, flags string, seq uint32) []byte {
	p := packet{srcMAC: from[:], dstMAC: to[:], src: q.Src.Addr(), dst: q.Dst.Addr(), sport: q.Src.Port(), dport: q.Dst.Port(), udp: q.Proto == flow.UDP, flags: flags, seq: seq, ack: 1001}
	switch q.Proto {
	case flow.TCP, flow.UDP:
		return p.build(t)
	}
	eth := &layers.Ethernet{SrcMAC: from[:], DstMAC: to[:], EthernetType: layers.EthernetTypeIPv4}
	var ip gopacket.SerializableLayer
	if q.Src.Addr().Is6() {
		eth.EthernetType = layers.EthernetTypeIPv6
		ip = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(q.Proto), SrcIP: q.Src.Addr().AsSlice(), DstIP: q.Dst.Addr().AsSlice()}
	} else {
		ip = ip4(q.Src.Addr(), q.Dst.Addr(), layers.IPProtocol(q.Proto), 64)
	}
	body := []byte{}
	switch q.Proto {
	case flow.ICMP:
		return frame(t, eth, ip, &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(8, 0), Id: q.Src.Port(), Seq: 1}, gopacket.Payload("ping"))
	case flow.ICMPv6:
		i6 := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(128, 0)}
		_ = i6.SetNetworkLayerForChecksum(ip.(*layers.IPv6))
		return frame(t, eth, ip, i6, &layers.ICMPv6Echo{Identifier: q.Src.Port(), SeqNumber: 1}, gopacket.Payload("ping"))
	case flow.SCTP:
		body = make([]byte, 32)
		binary.BigEndian.PutUint16(body, q.Src.Port())
		binary.BigEndian.PutUint16(body[2:], q.Dst.Port())
		copy(body[12:], []byte{1, 0, 0, 20, 0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9})
	default:
		body = append(body, "a protocol of which nothing is known"...)
	}
	return frame(t, eth, ip, gopacket.Payload(body))
}

// explaining is a bench whose every packet is explained before it is sent.
type explaining struct {
	*bench
	rng   *rand.Rand
	kinds map[string]int // how often each outcome was met
	open  []Question     // what was sent to virtual servers
}

// settled steps until nothing expires any more.
func (x *explaining) settled() {
	for range 60 {
		x.Step(x.now)
	}
}

// foretold is an explanation as a fate.
func foretold(e *Explanation, cfg *Config, arrived int) (f fate) {
	f.how = e.Decision
	switch e.Decision {
	case DecideDrop, DecideReset, DecideUnreachable:
		for i, r := range Reasons() {
			if r.Name == e.Reason {
				f.why = Reason(i)
			}
		}
		return f
	case DecideHost:
		f.port = host
		return f
	case DecideEcho:
		return f
	}
	f.how = DecideForward
	way := e.ToServer
	if e.Side == "server" || way == nil {
		way = e.ToClient
	}
	f.src, f.dst = way.After.Src, way.After.Dst
	if u := e.Tunnel; u != nil {
		f.tunnel = fmt.Sprintf("%s %s>%s %d", u.Kind, u.Src, u.Dst, u.Port)
	}
	f.port = arrived
	for i, p := range cfg.Ports {
		if p.Name == way.Port {
			f.port = i
		}
	}
	if way.MAC != "" {
		if _, err := fmt.Sscanf(way.MAC, "%02x:%02x:%02x:%02x:%02x:%02x", &f.mac[0], &f.mac[1], &f.mac[2], &f.mac[3], &f.mac[4], &f.mac[5]); err != nil {
			f.unaccepted = err.Error()
		}
	}
	return f
}

// sent is what happened, by what came out of the ports and by the counters.
func (x *explaining) sent(worker, port int, frame []byte) (f fate) {
	before := x.stats()
	out := x.sendTo(worker, port, frame)
	after := x.stats()
	n := len(out[0]) + len(out[1]) + len(out[2])
	drops := 0
	for i := range after.Drops {
		if d := after.Drops[i] - before.Drops[i]; d > 0 {
			drops += int(d)
			f.how, f.why = DecideDrop, Reason(i)
		}
	}
	if n+drops != 1 {
		f.unaccepted = fmt.Sprintf("%d frames and %d drops", n, drops)
		return f
	}
	if drops == 1 {
		return f
	}
	for p := range out {
		for _, b := range out[p] {
			f.port, f.mac = p, [6]byte(b[:6])
			b, f.tunnel = readCarrier(b)
			f.src, f.dst = readFrame(b)
		}
	}
	switch {
	case after.Resets > before.Resets:
		f = fate{how: DecideReset}
		for i := range after.Refused {
			if after.Refused[i] > before.Refused[i] {
				f.why = Reason(i)
			}
		}
	case after.ICMPSent > before.ICMPSent:
		f = fate{how: DecideUnreachable}
		for i := range after.Refused {
			if after.Refused[i] > before.Refused[i] {
				f.why = Reason(i)
			}
		}
	case after.Echoes > before.Echoes:
		f = fate{how: DecideEcho}
	case after.ToHost > before.ToHost:
		f = fate{how: DecideHost, port: host}
	default:
		f.how = DecideForward
	}
	return f
}

// try explains the packet, sends it, and compares.
func (x *explaining) try(q Question, from [6]byte, flags string, seq uint32) (fate, *Explanation) {
	x.t.Helper()
	shared := x.sharedState()
	e, err := x.Explain(x.t.Context(), q)
	if err != nil {
		x.t.Fatal(err)
	}
	if x.sharedState() != shared {
		x.t.Fatal("an explanation has changed what workers share")
	}
	to := [][6]byte{mac(outsideMAC), mac(insideMAC)}[q.Port]
	before := x.owners()
	want, got := foretold(&e, x.Config(), q.Port), x.sent(x.rng.IntN(x.n), q.Port, frameOf(x.t, q, from, to, flags, seq))
	if want.mac == ([6]byte{}) {
		got.mac = [6]byte{}
	}
	if !hasPorts(q.Proto) && !isICMP(q.Proto) {
		want.src, want.dst = netip.AddrPortFrom(want.src.Addr(), 0), netip.AddrPortFrom(want.dst.Addr(), 0)
	}
	if isICMP(q.Proto) && want.how == DecideForward { // a query has one id, at both ends
		want.dst = netip.AddrPortFrom(want.dst.Addr(), want.src.Port())
	}
	if got != want {
		x.t.Fatalf("protocol %d %s > %s on port %d:\nexplained %+v\nhappened  %+v\n%+v\npersistence %+v, groups %+v", q.Proto, q.Src, q.Dst, q.Port, want, got, e, e.Persistence, e.Groups)
	}
	if e.Decision == DecideConnect {
		after := x.owners()
		for i := range after {
			if grown := after[i] > before[i]; grown != (i == e.Worker) {
				x.t.Fatalf("the owner is said to be worker %d, and connections of workers went from %v to %v", e.Worker, before, after)
			}
		}
	}
	kind := string(want.how)
	if want.how == DecideDrop || want.how == DecideReset || want.how == DecideUnreachable {
		kind += " " + want.why.String()
	}
	for what, is := range map[string]bool{"existing " + e.Side: e.Existing != nil, "starts anew": e.Replaces != nil && e.Replaces.Closed(), "gives way": e.Replaces != nil && e.Replaces.HalfOpen(), "stateless": e.Stateless, "connect": e.Decision == DecideConnect, "tried": len(e.Tried) > 0,
		"second group": len(e.Groups) > 1, "fallback": e.Pool == "sorry" && e.Virtual == "web", "SNAT": e.Mode == "fullnat", "direct-return": e.Mode == "direct-return", "network": e.Virtual == "network" && e.Decision == DecideConnect, "IPv6": q.Src.Addr().Is6() && e.Member != ""} {
		if is {
			x.kinds[what]++
		}
	}
	x.kinds[kind]++
	return got, &e
}

// owners is how many connections each worker has opened.
func (x *explaining) owners() (n []uint64) {
	for _, w := range x.workers {
		n = append(n, w.stats.Opened)
	}
	return n
}

// sharedState is all that workers share, as text.
func (x *explaining) sharedState() string {
	s := []byte{}
	for _, list := range [][]*shared{x.dict.shared, x.dict.services} {
		for _, c := range list {
			s = strconv.AppendInt(s, c.active.Load(), 16)
			s = strconv.AppendUint(append(s, ' '), c.rate.Load(), 16)
			s = strconv.AppendUint(append(s, ' '), c.latency.Load(), 16)
		}
	}
	for _, k := range x.turnKeys() {
		s = strconv.AppendUint(append(s, ' '), x.dict.turns[k].Load(), 16)
	}
	return string(s)
}

func (x *explaining) turnKeys() (keys []turnKey) {
	for k := range x.dict.turns {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b turnKey) int { return int(int64(x.dict.turns[a].Load()) - int64(x.dict.turns[b].Load())) })
	return keys
}

// client is one of some dozens of clients, so that they meet again.
func (x *explaining) client(v6 bool) netip.AddrPort {
	port := uint16(1024 + x.rng.IntN(200))
	switch n := x.rng.IntN(40); {
	case n == 0 && v6:
		return netip.AddrPortFrom(netip.IPv6Unspecified(), port)
	case n == 0:
		return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	case v6:
		b := clientIP6.As16()
		b[7], b[15] = byte(n%5), byte(n)
		return netip.AddrPortFrom(netip.AddrFrom16(b), port)
	case n < 8:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 20, byte(100 + n)}), port)
	default:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, 10, byte(n)}), port)
	}
}

// question is a packet to one of the addresses, most of them to a virtual server.
func (x *explaining) question() Question {
	q := Question{Port: outside}
	if x.rng.IntN(30) == 0 {
		q.Proto, q.Src = flow.TCP, x.client(false)
		q.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 10, 1, byte(100 + x.rng.IntN(12))}), uint16(79+x.rng.IntN(3)))
		return q
	}
	vs := x.Config().Virtuals()
	v := vs[x.rng.IntN(len(vs))]
	if d := v.All()[0]; len(v.Destinations) > 0 {
		v.Addr, v.Port = d.Prefix.Addr(), d.Ports.First+uint16(x.rng.IntN(int(d.Ports.Last-d.Ports.First)+1))
		if !d.IsAddress() {
			v.Addr = netip.AddrFrom4([4]byte{10, 20, byte(x.rng.IntN(3)), byte(x.rng.IntN(3))})
			q.Port = x.rng.IntN(2)
		}
	}
	q.Proto, q.Src, q.Dst = v.Proto, x.client(v.Addr.Is6()), netip.AddrPortFrom(v.Addr, v.Port)
	if v.Unmatched == UnmatchedReset && x.rng.IntN(2) == 0 {
		q.Proto, q.Dst = []uint8{flow.TCP, flow.UDP, flow.SCTP}[x.rng.IntN(3)], netip.AddrPortFrom(v.Addr, 33434)
	}
	if v.Echo != EchoKernel && x.rng.IntN(2) == 0 {
		q.Proto, q.Dst = flow.ICMP, netip.AddrPortFrom(v.Addr, 0)
	}
	if q.Proto == 0 {
		q.Proto = []uint8{flow.TCP, flow.UDP, 47, flow.SCTP, 33}[x.rng.IntN(5)]
		q.Dst = netip.AddrPortFrom(v.Addr, uint16(1+x.rng.IntN(3)))
	}
	if !hasPorts(q.Proto) {
		q.Dst = netip.AddrPortFrom(v.Addr, 0)
	}
	return q
}

// disturb changes the state of members now and then.
func (x *explaining) disturb() {
	pools := x.Config().Pools()
	p := &pools[x.rng.IntN(len(pools))]
	var changes []MemberChange
	all := x.rng.IntN(5)
	if x.rng.IntN(5) == 0 { // the pool that is fallen back to is up while the first is down
		p, all = &pools[0], 0
		changes = append(changes, MemberChange{ID: pools[3].Members[0].ID})
	}
	for i := range p.Members {
		kind := MemberKind(x.rng.IntN(4))
		if all == 0 {
			kind = MemberDown
		} else if all <= 3 {
			kind = MemberUp
		}
		changes = append(changes, MemberChange{ID: p.Members[i].ID, State: MemberState{Kind: kind, Since: x.now}, End: EndNone})
	}
	if _, err := x.SetMembers(x.t.Context(), changes); err != nil {
		x.t.Fatal(err)
	}
}

// Random tuples are explained, then sent; what came out, and where, and what was counted, agrees every time. Between them the
// clock goes on, members come and go, connections are answered, closed, and begun anew.
func TestExplainAgrees(t *testing.T) {
	total, names := explainTuples(t), sched.Names()
	kinds := map[string]int{}
	for i, name := range names {
		for _, workers := range []int{1, 3} {
			seed := uint64(i*10 + workers)
			x := &explaining{bench: newBench(t, crowded(name, workers), 36/workers, 1024), rng: rand.New(rand.NewPCG(seed, 5)), kinds: kinds}
			t.Logf("%s, %d workers, seed %d", name, workers, seed)
			for n := range total / len(names) / 2 {
				if x.rng.IntN(4) == 0 {
					x.now += uint64(x.rng.IntN([]int{500, 60}[n>>7&1])) // slowly, the tables fill
					x.settled()
				}
				if x.rng.IntN(40) == 0 {
					x.disturb()
				}
				q := x.question()
				flags, from := "S", mac(clientMAC)
				if n := len(x.open); n > 0 && x.rng.IntN(3) == 0 {
					q = x.open[x.rng.IntN(n)]
					if q.Port == outside && x.rng.IntN(3) == 0 {
						flags = "R"
						if e, err := x.Explain(t.Context(), q); err != nil || e.Existing == nil || e.Side != "client" {
							flags = "S" // a RST begins nothing, and explained is what begins
						}
					} else if q.Port == inside {
						flags, from = "SA", mac(serverMAC(1))
					}
				}
				seq := uint32(1000)
				if flags == "R" {
					seq = 1001
				}
				got, e := x.try(q, from, flags, seq)
				if e.Decision == DecideConnect {
					x.open = append(x.open, q, Question{Proto: q.Proto, Src: got.dst, Dst: got.src, Port: inside})
					if isICMP(q.Proto) { // a request from the member's side is no answer
						x.open = x.open[:len(x.open)-1]
					}
					if len(x.open) > 160 {
						x.open = x.open[2:]
					}
				}
			}
			x.close()
		}
	}
	for _, what := range []string{"forward", "connect", "host", "existing client", "existing server", "starts anew", "gives way", "stateless", "tried", "second group", "fallback", "SNAT", "IPv6",
		"drop no_member", "drop member_limit", "reset virtual_limit", "drop half_open_virtual", "drop half_open_source", "drop snat_exhausted", "drop hairpin_refused", "drop bad_source", "drop no_virtual_server", "reset no_virtual_server", "unreachable no_virtual_server", "drop unmatched_rate", "drop untranslatable", "drop source_denied", "drop source_rate", "drop echo_refused", "drop echo_rate", "echo", "direct-return", "network"} {
		if kinds[what] == 0 {
			t.Errorf("nothing of %q was met", what)
		}
	}
	t.Log(kinds)
}

// What a hash decides does not depend on what came before: all tuples are explained, then sent in bursts, and members are chosen
// ahead.
func TestExplainAgreesInBulk(t *testing.T) {
	total, names := explainTuples(t), []string{"source-hash", "maglev", "first"}
	for _, name := range names {
		for _, workers := range []int{1, 3} {
			n := total / len(names) / 2
			spec := a4(workers)
			spec.Pools[0].Members[1].Weight, spec.Pools[0].Members[2].State.Kind = 3, MemberDown
			for i := range spec.Pools {
				spec.Pools[i].Scheduler = name
			}
			b := newBench(t, spec, n+64, 1024)
			rng := rand.New(rand.NewPCG(uint64(workers), 9))
			want := map[netip.AddrPort]fate{}
			var frames [][]byte
			for i := 0; len(want) < n; i++ {
				q := Question{Proto: flow.TCP, Port: outside, Dst: netip.AddrPortFrom(vip, 80)}
				if q.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(rng.IntN(256)), byte(1 + rng.IntN(250))}), uint16(1+rng.IntN(65535))); i%3 == 0 {
					a := clientIP6.As16()
					binary.BigEndian.PutUint16(a[14:], uint16(rng.IntN(65536)))
					q.Src, q.Dst = netip.AddrPortFrom(netip.AddrFrom16(a), q.Src.Port()), netip.AddrPortFrom(vip6, 80)
				}
				if _, again := want[q.Src]; again {
					continue
				}
				e, err := b.Explain(t.Context(), q)
				if err != nil || e.Decision != DecideConnect {
					t.Fatalf("%+v, %v", e, err)
				}
				want[q.Src] = foretold(&e, b.Config(), outside)
				frames = append(frames, frameOf(t, q, mac(clientMAC), mac(outsideMAC), "S", 1))
			}
			got := 0
			for len(frames) > 0 {
				burst := frames[:min(len(frames), 40)]
				frames = frames[len(burst):]
				for _, f := range burst {
					if !b.wire(rng.IntN(workers), outside).Send(f) {
						t.Fatal("the wire is full")
					}
				}
				for range 3 {
					b.Step(b.now)
				}
				for w := range workers {
					b.wire(w, inside).Recv(func(f []byte) {
						src, dst := readFrame(f)
						if m := want[src]; m.dst != dst || m.mac != [6]byte(f[:6]) || m.port != inside {
							t.Fatalf("%s, %d workers: %s went to %s, explained was %+v", name, workers, src, dst, m)
						}
						got++
					})
				}
			}
			if s := b.stats(); got != n || int(s.Opened) != n || s.Dropped() != 0 {
				t.Errorf("%s, %d workers: %d of %d came out: %+v", name, workers, got, n, s)
			}
			b.close()
		}
	}
}

// A full table is said to be full, and what would be adopted over a tuple that another connection has goes to another member.
func TestExplainFullAndCollision(t *testing.T) {
	spec := a4(1)
	other := spec.Virtuals[0]
	other.Name, other.Addr = "other", netip.MustParseAddr("10.10.1.101")
	spec.Virtuals = append(spec.Virtuals, other)
	spec.Pools[0].Scheduler = "first"
	b := newBench(t, spec, 5, 1024)
	x := &explaining{bench: b, rng: rand.New(rand.NewPCG(1, 1)), kinds: map[string]int{}}
	to := func(v netip.Addr, port uint16) Question {
		return Question{Proto: flow.TCP, Src: netip.AddrPortFrom(clientIP, port), Dst: netip.AddrPortFrom(v, 80), Port: outside}
	}
	b.established(5)
	_, e := x.try(to(other.Addr, 5), mac(clientMAC), "S", 1)
	if e.Member != serverIP(2).String() || len(e.Tried) != 1 || e.Tried[0] != (Tried{serverIP(1).String(), TupleCollision.String()}) {
		t.Errorf("%s after %v", e.Member, e.Tried)
	}
	for port := uint16(6); port < 9; port++ {
		b.established(port)
	}
	if _, e = x.try(to(vip, 20), mac(clientMAC), "S", 1); e.Replaces == nil || e.Replaces.CPort != 5 {
		t.Errorf("the half-open connection gives way, explained is %+v", e.Replaces)
	}
	sa := fromServer(1, 20, "SA")
	sa.ack = 2
	ack := fromClient(20, "A")
	ack.seq, ack.ack = 2, 9001
	b.send(inside, sa.build(t))
	b.send(outside, ack.build(t))
	if _, e = x.try(to(vip, 21), mac(clientMAC), "S", 1); e.Reason != TableFull.String() {
		t.Errorf("%+v", e)
	}
	if _, e = x.try(to(vip, 6), mac(clientMAC), "S", 1); e.Existing == nil || e.Existing.TCPState() != flow.TCPEstablished {
		t.Errorf("%+v", e)
	}
	q := to(vip, 6)
	q.Port = inside
	if _, e = x.try(q, mac(clientMAC), "S", 1); e.Reason != WrongSide.String() {
		t.Errorf("%+v", e)
	}
	x.close()
}

// A running engine is asked from many sides while packets come: everybody gets an answer, and with the race detector on nobody
// reads what another writes.
func TestExplainWhileRunning(t *testing.T) {
	b := newBench(t, a4(3), 1000, 1024)
	if err := b.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	answered := make(chan int)
	for i := range 4 {
		go func() {
			n := 0
			defer func() { answered <- n }()
			for port := uint16(i); ctx.Err() == nil; port += 4 {
				q := Question{Proto: flow.TCP, Src: netip.AddrPortFrom(clientIP, port), Dst: netip.AddrPortFrom(vip, 80), Port: int(port%3) - 1}
				e, err := b.Explain(ctx, q)
				if err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				if err == nil && e.Decision != DecideConnect && e.Decision != DecideForward && e.Reason != WrongSide.String() {
					t.Errorf("%+v", e)
				}
				n++
			}
		}()
	}
	for port := uint16(1); port < 400; port++ {
		if !b.wire(int(port%3), outside).Send(fromClient(port, "S").build(t)) {
			t.Fatal("the wire is full")
		}
		for opened := uint64(0); opened < uint64(port); opened = b.stats().Opened {
			for w := range 3 {
				b.wire(w, inside).Recv(func([]byte) {})
			}
		}
	}
	stop()
	for range 4 {
		if n := <-answered; n < 10 {
			t.Errorf("%d answers", n)
		}
	}
	if err := b.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := b.stats(); s.Opened != 399 || s.Dropped() != 0 {
		t.Errorf("%+v", s)
	}
	b.close()
}

// What is refused before a member is looked for is told with the pool of its own virtual server, whatever was asked before.
func TestExplainRefusedPool(t *testing.T) {
	spec := a4(1)
	spec.Pools = append(spec.Pools, PoolSpec{Name: "second", Scheduler: "first", Members: spec.Pools[0].Members})
	other := spec.Virtuals[0]
	other.Name, other.Addr, other.Pool, other.Deny = "other", netip.MustParseAddr("10.10.1.101"), len(spec.Pools)-1, []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	spec.Virtuals = append(spec.Virtuals, other)
	b := newBench(t, spec, 5, 1024)
	for _, to := range []netip.Addr{vip, other.Addr} {
		e, err := b.Engine.Explain(t.Context(), Question{Proto: flow.TCP, Src: netip.AddrPortFrom(clientIP, 4003), Dst: netip.AddrPortFrom(to, 80), Port: outside})
		if err != nil {
			t.Fatal(err)
		}
		if to == vip && (e.Pool != spec.Pools[0].Name || e.Member == "") || to != vip && (e.Pool != "second" || e.Reason != SourceDenied.String()) {
			t.Errorf("to %s: pool %q, %v %s, member %q", to, e.Pool, e.Decision, e.Reason, e.Member)
		}
	}
}
