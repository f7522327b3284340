package ctl

import (
	"fmt"
	"net/netip"
	"time"

	"sluice/engine"
	"sluice/flow"
	"sluice/sched"
)

// topology is what the configuration needs to know of the network around it. It comes from the kernel (network.go)
// or, for replay and explain, from the file alone (offline.go).
type topology struct {
	ports []engine.PortSpec         // by number of port, without names
	down  []bool                    // by number of port; nil: none is
	hops  map[netip.Addr]engine.Hop // by address of a member
	host  *engine.HostSpec
	own   [][]netip.Prefix // own addresses, by number of port, that stand for a network
	tpids map[int]uint16   // of VLANs, by number of port
	// routes are where forwarding leads, if the file has it.
	routes []engine.RouteSpec
	known  []map[netip.Addr]neighbour // live: by number of port

	unmanaged []way // live: neighbours that the kernel does not keep resolved

	parents map[int]int // of VLANs, by number of port
}

// noteVLANs notes which ports have the queues of VLANs.
func (t *topology) noteVLANs(f *File) {
	f.eachVLAN(func(n, port int, _ *VLAN, _ *Port, _ string) {
		if t.parents == nil {
			t.parents = map[int]int{}
		}
		t.parents[n] = port
	})
}

// physical is the port that has the queues of a port or VLAN.
func (t *topology) physical(number int) int {
	if port, ok := t.parents[number]; ok {
		return port
	}
	return number
}

// spec turns the file into what the engine compiles.
func (f *File) spec(t *topology, workers int, generation uint64) engine.Spec {
	s := engine.Spec{Generation: generation, Workers: workers, Host: t.host, ClientEnd: engine.ClientAddrPort,
		ICMPRate:    f.Engine.ICMPRate,
		DropOutside: f.Engine.OutOfWindow == OutOfWindowDrop,
		Sources:     engine.SourceLimit{HalfOpen: f.Engine.HalfOpenPerSource, Bits4: f.Engine.SourcePrefix4, Bits6: f.Engine.SourcePrefix6}}
	if f.Engine.ClientEnd == ClientEndAddress {
		s.ClientEnd = engine.ClientAddr
	}
	for i := range f.Ports {
		p := t.ports[i]
		p.Name, p.Checksum = f.Ports[i].Name, f.Ports[i].Checksum.compile()
		p.Down = i < len(t.down) && t.down[i]
		s.Ports = append(s.Ports, p)
	}
	if t.host != nil {
		s.Ports = append(s.Ports, engine.PortSpec{Name: HostPortName, MAC: t.host.MAC})
	}
	f.eachVLAN(func(n, port int, v *VLAN, _ *Port, _ string) {
		p := t.ports[n]
		p.Name, p.VLAN, p.Checksum = v.Name, v.spec(port, t.tpids[n]), f.Ports[port].Checksum.compile()
		p.Down = n < len(t.down) && t.down[n]
		s.Ports = append(s.Ports, p)
	})
	s.SNAT = f.snat(t)
	pools, tunnelled := map[string]int{}, f.tunnelled()
	s.Persistences = f.persistences()
	s.Routes = t.routes
	for i := range f.Pools {
		pools[f.Pools[i].Name] = i
		s.Pools = append(s.Pools, f.Pools[i].spec(t, tunnelled[f.Pools[i].Name]))
		s.Pools[i].Symmetric = f.servesFirewalls(&f.Pools[i])
	}
	for i := range f.Pools {
		s.Pools[i].AllDown, s.Pools[i].Fallback = f.Pools[i].AllDown.compile(), pools[f.Pools[i].AllDown.Pool]
	}
	for i := range f.VirtualServers {
		v := &f.VirtualServers[i]
		s.Virtuals = append(s.Virtuals, engine.VirtualSpec{
			Name: v.Name, Addr: v.Address.Addr(), Port: v.Address.Port(), Proto: v.number(), Pool: pools[v.Pool],
			Destinations: v.Destinations, Ingress: f.portIndex(v.Port),
			Allow: v.Allow, Deny: v.Deny, SourceRate: v.SourceRate,
			Timeouts: v.Timeouts.compile(), Unmatched: v.Unmatched.compile(), Echo: v.Echo.compile(),
			MidStream: v.MidStream.compile(), OnePacket: v.OnePacket, ResetExpired: v.ResetExpired, HalfOpenLimit: v.HalfOpenLimit,
			Limit: v.ConnectionLimit, Rate: v.RateLimit, ResetRefused: v.Refused == RefusedReset, Stateless: v.TableFull == TableFullForward,
			SNAT: v.SNAT, Mode: v.Mode.compile(), Hairpin: v.Hairpin.compile(), MSSClamp: v.MSSClamp,
			Persistence: v.Persistence,
		})
	}
	return s
}

// HostPortName is the port through which frames without a flow go to the kernel.
const HostPortName = "host"

func (p *Pool) spec(t *topology, tunnelled bool) engine.PoolSpec {
	s := engine.PoolSpec{
		Name: p.Name, Scheduler: string(p.Scheduler), Minimum: p.MinimumActive,
		Options:     sched.Options{TableSize: p.TableSize, HalfLife: milliseconds(p.HalfLife)},
		Hash:        sched.HashInput{Ports: p.Hash.Ports, Prefix4: uint8(p.Hash.Prefix4), Prefix6: uint8(p.Hash.Prefix6)},
		ReturnAfter: milliseconds(p.ReturnAfter), SlowStart: milliseconds(p.SlowStart), Tunnel: p.Tunnel.compile(),
	}
	for _, m := range p.Members {
		s.Members = append(s.Members, engine.MemberSpec{
			Name: m.Name, Addr: m.Address.Addr(), Port: m.Address.Port(), Weight: uint32(m.Weight), Hop: t.hops[m.Address.Addr()],
			Priority: m.Priority, Limit: m.ConnectionLimit, Rate: m.RateLimit, Subnet: t.subnet(m.Address.Addr()), SNAT: m.SNAT,
		})
		if tunnelled {
			t.withoutSource(&s.Tunnel, &s.Members[len(s.Members)-1])
		}
	}
	return s
}

func milliseconds(d time.Duration) uint32 { return uint32(d.Milliseconds()) }

// number is the protocol in packets of the virtual server's family; 0 is any.
func (v *VirtualServer) number() uint8 {
	switch v.Protocol {
	case UDP:
		return flow.UDP
	case SCTP:
		return flow.SCTP
	case AnyProtocol:
		return 0
	case ICMP:
		if v.Address.Addr().Is6() {
			return flow.ICMPv6
		}
		return flow.ICMP
	}
	return flow.TCP
}

func (m MidStream) compile() engine.MidStream {
	switch m {
	case MidStreamAdopt:
		return engine.MidStreamAdopt
	case MidStreamReset:
		return engine.MidStreamReset
	}
	return engine.MidStreamDrop
}

func (t *Timeouts) compile() engine.Timeouts {
	ms := func(d time.Duration) uint32 { return uint32(max(1, d.Milliseconds())) }
	c := engine.DefaultTimeouts
	c.Handshake, c.Established, c.Closing = ms(t.TCPHandshake), ms(t.TCPEstablished), ms(t.TCPClosing)
	c.Closed = ms(t.TCPClosed)
	c.UDP, c.UDPUnanswered = ms(t.UDP), ms(t.UDPUnanswered)
	c.ICMP, c.Other = ms(t.ICMP), ms(t.Other)
	c.SCTPInit, c.SCTPEstablished, c.SCTPShutdown = ms(t.SCTPInit), ms(t.SCTPEstablished), ms(t.SCTPShutdown)
	c.SCTPClosed = ms(t.SCTPClosed)
	return c
}

// memberAddrs lists the addresses of all members, each once.
func (f *File) memberAddrs() []netip.Addr {
	seen := map[netip.Addr]bool{}
	var out []netip.Addr
	for i := range f.Pools {
		for _, m := range f.Pools[i].Members {
			if a := m.Address.Addr(); !seen[a] {
				seen[a] = true
				out = append(out, a)
			}
		}
	}
	return out
}

// memberKey is the place of the first member with that address.
func (f *File) memberKey(a netip.Addr) string {
	for i := range f.Pools {
		for j := range f.Pools[i].Members {
			if f.Pools[i].Members[j].Address.Addr() == a {
				return fmt.Sprintf("pools[%d].members[%d].address", i, j)
			}
		}
	}
	return "pools"
}

func (a AllDown) compile() engine.AllDown {
	switch a.Policy {
	case AllDownReset:
		return engine.AllDownReset
	case AllDownFailOpen:
		return engine.AllDownFailOpen
	case AllDownPool:
		return engine.AllDownPool
	}
	return engine.AllDownRefuse
}

func (o OnDown) compile() engine.EndPolicy {
	switch o {
	case OnDownReset:
		return engine.EndReset
	case OnDownMove:
		return engine.EndMove
	}
	return engine.EndNone
}

// tableCapacity is each worker's share of the connections.
func (f *File) tableCapacity(workers int) int {
	return (f.Engine.Connections + workers - 1) / workers
}

// tableSize is the bytes of one worker's tables.
func (f *File) tableSize(workers int) int {
	return flow.TableSize(f.tableCapacity(workers), f.persistenceCapacity(workers))
}
