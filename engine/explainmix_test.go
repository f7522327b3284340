package engine

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/sched"
)

// mixed is crowded with every mode, form and persistence beside: lists, ranges and prefixes of destinations, source rates, tunnels of
// both kinds, routers with and without SNAT, firewalls, the kernel's routes.
func mixed(scheduler string, workers int) Spec {
	s := crowded(scheduler, workers)
	s.Persistences = []PersistenceSpec{
		{Name: "shop", Bits4: 28, Bits6: 64, Timeout: 5000, Entries: 300},
		{Name: "few", Bits4: 32, Bits6: 128, Timeout: 2500, Entries: 12},
	}
	for i := range s.Virtuals {
		if p := map[string]string{"web": "shop", "web6": "shop", "full": "shop", "range": "few", "slow": "few"}[s.Virtuals[i].Name]; p != "" {
			s.Virtuals[i].Persistence = p
		}
	}
	s.Ports[inside].Addr4, s.Ports[inside].Addr6 = tunnelSrc4, tunnelSrc6
	for i := range s.Ports {
		s.Ports[i].MTU = 1500
	}
	routers := routed(workers, Router, true)
	walls := routed(workers, Firewall, false)
	first := len(s.Pools) // after these come pools of tunnels, routers, routers with SNAT, and firewalls
	for i, kind := range []rewrite.TunnelKind{rewrite.IPIP, rewrite.GUE} {
		p := PoolSpec{Name: fmt.Sprint("tunnel", i), Scheduler: scheduler, Tunnel: TunnelSpec{Kind: kind, Port: 6081}}
		for j := 40; j < 43; j++ {
			p.Members = append(p.Members, MemberSpec{Name: fmt.Sprint("far", j), Addr: serverIP(j + 3*i), Weight: 1, Hop: Hop{Port: inside, MAC: mac(serverMAC(j + 3*i)), OK: true}})
		}
		s.Pools = append(s.Pools, p)
	}
	plain := routed(workers, Router, false).Pools[0]
	plain.Name, plain.Scheduler = "plain", scheduler
	withSNAT, wall := routers.Pools[0], walls.Pools[0]
	withSNAT.Name, withSNAT.Scheduler, wall.Name = "providers", scheduler, "walls"
	own := PoolSpec{Name: "own", Scheduler: scheduler}
	for j := 50; j < 53; j++ {
		own.Members = append(own.Members, MemberSpec{Name: fmt.Sprint("own", j), Addr: serverIP(j), Weight: 1, Hop: Hop{Port: inside, MAC: mac(serverMAC(j)), OK: true}})
	}
	s.Pools = append(s.Pools, plain, withSNAT, wall, own)
	s.SNAT = append(append(s.SNAT, routers.SNAT...), SNATSpec{Name: "own", Addresses: []SNATAddress{snatAt("203.0.113.101", 3000, 3200)}})
	s.Routes = withRoutes(Spec{}).Routes
	net := func(text string) []Destination { return []Destination{{Prefix: netip.MustParsePrefix(text)}} }
	address := func(text string, first, last uint16) Destination {
		a := netip.MustParseAddr(text)
		return Destination{netip.PrefixFrom(a, a.BitLen()), flow.PortRange{First: first, Last: last}}
	}
	added := []VirtualSpec{
		{Name: "list", Proto: flow.TCP, Pool: 5, Mode: FullNAT, SNAT: "out", Persistence: "few", Destinations: []Destination{address("10.10.1.113", 80, 80), address("10.10.1.114", 8080, 8083), address("10.10.1.115", 443, 443)}},
		{Name: "prefixes", Proto: flow.TCP, Pool: 5, SourceRate: 2, Ingress: outside, Destinations: []Destination{
			{netip.MustParsePrefix("10.30.0.0/16"), flow.PortRange{First: 80, Last: 80}}, {netip.MustParsePrefix("10.30.4.0/24"), flow.PortRange{First: 8000, Last: 8002}}}},
		{Name: "ipip", Addr: netip.MustParseAddr("10.10.1.117"), Port: 80, Proto: flow.TCP, Pool: first, Mode: Tunnel},
		{Name: "gue", Addr: netip.MustParseAddr("10.10.1.118"), Port: 53, Proto: flow.UDP, Pool: first + 1, Mode: Tunnel},
		{Name: "crossed", Addr: netip.MustParseAddr("fd00:10:10:1::117"), Port: 80, Proto: flow.TCP, Pool: first, Mode: Tunnel},
		{Name: "directnet", Proto: 0, Pool: first + 5, Mode: DirectReturn, Ingress: outside, Destinations: net("10.40.0.0/16")},
		{Name: "router", Ingress: inside, Pool: first + 2, Mode: Router, Destinations: net("198.18.0.0/16")},
		{Name: "snatrouter", Ingress: inside, Pool: first + 3, Mode: Router, Destinations: net("198.19.0.0/16")},
		{Name: "firewall", Ingress: inside, Pool: first + 4, Mode: Firewall, MidStream: MidStreamAdopt, Destinations: net("198.20.0.0/16")},
		{Name: "forward", Ingress: inside, Pool: -1, Mode: Forward, Destinations: net("198.21.0.0/16")},
		{Name: "snatforward", Ingress: inside, Pool: -1, Mode: Forward, SNAT: "own", Destinations: net("198.22.0.0/16")},
	}
	for i := range added {
		added[i].Timeouts = s.Virtuals[0].Timeouts
	}
	s.Virtuals = append(s.Virtuals, added...)
	return s
}

// readCarrier is the frame inside a tunnel, with an Ethernet header, and which tunnel it is; of any other frame the same, read by hand.
func readCarrier(b []byte) (inner []byte, tunnel string) {
	if b[12] == 0x86 {
		return b, ""
	}
	l3 := b[14:]
	src, _ := netip.AddrFromSlice(l3[12:16])
	dst, _ := netip.AddrFromSlice(l3[16:20])
	body, port := l3[20:], uint16(0)
	switch proto := l3[9]; {
	case proto == 4, proto == 41:
		tunnel = "ipip"
	case proto == flow.UDP && binary.BigEndian.Uint16(body[2:]) == 6081:
		tunnel, port, body = "gue", 6081, body[12:]
	default:
		return b, ""
	}
	head := append([]byte{}, b[:14]...)
	if body[0]>>4 == 6 {
		head[12], head[13] = 0x86, 0xdd
	} else {
		head[12], head[13] = 8, 0
	}
	return append(head, body...), fmt.Sprintf("%s %s>%s %d", tunnel, src, dst, port)
}

// anyForm is a packet to a destination of any virtual server, of whatever form, on the port that it is for or sometimes another.
func (x *explaining) anyForm() Question {
	vs := x.Config().Virtuals()
	v := &vs[x.rng.IntN(len(vs))]
	all := v.All()
	d := all[x.rng.IntN(len(all))]
	addr := d.Prefix.Addr()
	if !d.IsAddress() {
		a := addr.As4()
		a[3] = byte(1 + x.rng.IntN(9))
		if d.Prefix.Bits() < 24 {
			a[2] = byte(x.rng.IntN(6))
		}
		addr = netip.AddrFrom4(a)
	}
	q := Question{Proto: v.Proto, Port: outside, Src: x.client(addr.Is6())}
	if !d.IsAddress() && v.Ingress == inside {
		q.Port = inside
		q.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 168, 20, byte(60 + x.rng.IntN(9))}), q.Src.Port())
	}
	if x.rng.IntN(40) == 0 {
		q.Port = 1 - q.Port
	}
	if q.Proto == 0 {
		q.Proto = []uint8{flow.TCP, flow.UDP, 47, flow.SCTP, 33, flow.ICMP}[x.rng.IntN(6)]
		if d.IsAddress() && q.Proto == flow.ICMP {
			q.Proto = flow.TCP
		}
	}
	port := uint16(1 + x.rng.IntN(3))
	if !d.AnyPort() {
		port = d.Ports.First + uint16(x.rng.IntN(int(d.Ports.Last-d.Ports.First)+1))
	}
	if !hasPorts(q.Proto) {
		port = 0
	}
	q.Dst = netip.AddrPortFrom(addr, port)
	return q
}

// As TestExplainAgrees, with every mode and form at once.
func TestExplainAgreesOnEverything(t *testing.T) {
	total, names := explainTuples(t), sched.Names()
	kinds, connects, answers := map[string]int{}, map[string]int{}, map[string]int{}
	asked := 0
	type opened struct {
		Question
		answer bool
	}
	for i, name := range names {
		for _, workers := range []int{1, 3} {
			seed := uint64(i*10 + workers)
			x := &explaining{bench: newBench(t, mixed(name, workers), 120/workers, 1024), rng: rand.New(rand.NewPCG(seed, 6)), kinds: kinds}
			var open []opened
			for n := 0; n < (total+2*len(names)-1)/(2*len(names)); {
				if x.rng.IntN(4) == 0 {
					x.now += uint64(x.rng.IntN([]int{500, 60}[n>>7&1]))
					x.settled()
				}
				if x.rng.IntN(40) == 0 {
					x.disturb()
				}
				q, flags, from, answer := x.anyForm(), "S", mac(clientMAC), false
				if len(open) > 0 && x.rng.IntN(3) == 0 {
					o := open[x.rng.IntN(len(open))]
					q, answer = o.Question, o.answer
					if answer {
						flags, from = "SA", mac(serverMAC(1))
					}
				}
				if answer { // what a member sends without a connection is explained as what begins one
					if e, err := x.Explain(t.Context(), q); err != nil || e.Existing == nil {
						continue
					}
				}
				got, e := x.try(q, from, flags, 1000)
				asked++
				n++
				if e.Existing != nil {
					answers[e.Virtual+" "+e.Side]++
				}
				if p := e.Persistence; p != nil {
					kinds[fmt.Sprint("persistence, entry ", p.Entry != "")]++
				}
				if e.Decision == DecideConnect {
					connects[e.Virtual]++
					open = append(open, opened{q, false})
					if !isICMP(q.Proto) {
						open = append(open, opened{Question{Proto: q.Proto, Src: got.dst, Dst: got.src, Port: got.port}, true})
					}
					if len(open) > 160 {
						open = open[2:]
					}
				}
			}
			x.close()
		}
	}
	t.Logf("%d tuples; new connections by virtual server: %v; of connections: %v; %v", asked, connects, answers, kinds)
	for _, v := range mixed("round-robin", 1).Virtuals {
		if connects[v.Name] == 0 && kinds["stateless"] == 0 {
			t.Errorf("no connection to %s", v.Name)
		}
	}
	for _, name := range []string{"web", "full", "list", "prefixes", "range", "ipip", "gue", "crossed", "directnet", "router", "snatrouter", "firewall", "forward", "snatforward"} {
		if connects[name] == 0 || answers[name+" client"] == 0 {
			t.Errorf("of %s: %d connections, %d packets of them", name, connects[name], answers[name+" client"])
		}
	}
	for _, name := range []string{"web", "full", "list", "router", "snatrouter", "firewall", "forward", "snatforward"} {
		if answers[name+" server"] == 0 {
			t.Errorf("no answers of %s", name)
		}
	}
}
