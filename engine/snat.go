package engine

import (
	"errors"
	"fmt"
	"net/netip"

	"sluice/flow"
	"sluice/rewrite"
)

// Full NAT: the member sees a connection come from a SNAT address, so its answers reach us whatever its gateway is.
//
//	client ── C:cport ▶ V:vport ──▶ bin(C, cport) ──▶ owner ── S:sport ▶ M:mport ──▶ member
//	                                                  owner ◀── M:mport ▶ S:sport     sport mod 256 = bin
//
// The port is taken from the owner's own (flow.SourcePorts), so that the owner of the answer follows from its destination
// port, without a look-up and whatever worker receives it. When bins move, so do their ports: they are made anew from the
// connections.

// SNATSpec is a pool of source addresses for connections to members.
type SNATSpec struct {
	Name      string
	Addresses []SNATAddress
}

// SNATAddress is an address with the ports, and ICMP query ids, that connections may have.
type SNATAddress struct {
	Addr  netip.Addr
	Ports flow.PortRange
	// Egress, if not 0, is the index, plus one, of the only port whose members are reached from this address.
	Egress int
}

// Hairpin is what becomes of a client on the network of the member that is chosen for it, whose answers would go past us.
type Hairpin uint8

// The settings of Hairpin.
const (
	HairpinForward Hairpin = iota // like any other: its own network has to lead the answers to us
	HairpinRefuse                 // another member is tried, then it is dropped
	HairpinSNAT                   // it comes from the SNAT pool
)

type snatPool struct {
	name  string
	addrs []snatAddress
}

type snatAddress struct {
	SNATAddress
	id   uint32
	addr flow.Addr
}

// compileSNAT resolves the pools of SNAT addresses and makes the table that says what such an address is. The virtual
// addresses must be compiled.
func (c *Config) compileSNAT(spec *Spec, pools []snatPool) error {
	n := len(spec.Draining.SNAT)
	for i := range pools {
		n += len(pools[i].addrs)
	}
	if n == 0 {
		return nil
	}
	c.snat, c.hasSNAT = newServices(n), true
	enter := func(id uint32, a netip.Addr, ports flow.PortRange) error {
		addr := flow.AddrFrom(a)
		if virtual, _ := c.services.address(addr); virtual {
			return fmt.Errorf("SNAT address %s is also a virtual address: answers could not be told from requests", a)
		}
		c.services.addOwn(addr)
		if s := c.snat.slot(addr, 0); !s.used {
			*s = service{addr: addr, node: id, id: uint32(ports.First)<<16 | uint32(ports.Last), used: true}
		}
		return nil
	}
	var errs []error
	for i := range pools {
		for j := range pools[i].addrs {
			errs = append(errs, enter(pools[i].addrs[j].id, pools[i].addrs[j].Addr, pools[i].addrs[j].Ports))
		}
	}
	for id, a := range spec.Draining.SNAT {
		errs = append(errs, enter(id, a, flow.PortRange{First: 1}))
	}
	return errors.Join(errs...)
}

// newSNATPools gives the addresses of the pools their ids.
func newSNATPools(specs []SNATSpec, dict *Dictionary) ([]snatPool, error) {
	pools := make([]snatPool, len(specs))
	ranges := map[netip.Addr]flow.PortRange{}
	for i, s := range specs {
		pools[i].name = s.Name
		for _, a := range s.Addresses {
			if a.Ports.First == 0 || a.Ports.Last < a.Ports.First {
				return nil, fmt.Errorf("SNAT pool %s: ports %d to %d are not a range", s.Name, a.Ports.First, a.Ports.Last)
			}
			if r, ok := ranges[a.Addr]; ok && r != a.Ports {
				return nil, fmt.Errorf("SNAT pool %s: %s has two ranges of ports", s.Name, a.Addr)
			}
			ranges[a.Addr] = a.Ports
			pools[i].addrs = append(pools[i].addrs, snatAddress{a, dict.snat(a.Addr), flow.AddrFrom(a.Addr)})
		}
	}
	return pools, nil
}

// resolveSNAT finds the pool of a virtual server.
func (v *virtual) resolveSNAT(pools []snatPool) error {
	for i := range pools {
		if pools[i].name == v.SNAT {
			v.snat = &pools[i]
		}
	}
	switch {
	case v.SNAT != "" && v.snat == nil:
		return fmt.Errorf("virtual server %s: no SNAT pool %s", v.Name, v.SNAT)
	case v.snat == nil && (v.Mode == FullNAT || v.Hairpin == HairpinSNAT):
		return fmt.Errorf("virtual server %s: full NAT, as for clients on the members' network, needs a SNAT pool", v.Name)
	case v.withoutEntry() && v.Mode == FullNAT:
		return fmt.Errorf("virtual server %s: full NAT needs an entry in the table for every connection", v.Name)
	}
	return v.checkUntranslated()
}

// isSNAT reports whether an address is a SNAT address.
func (c *Config) isSNAT(a flow.Addr) bool { return c.hasSNAT && c.snat.slot(a, 0).used }

// inSNATRange reports whether a packet goes to a port at a SNAT address that only connections of ours have.
func (c *Config) inSNATRange(k *flow.Key) bool {
	if !c.hasSNAT {
		return false
	}
	s := c.snat.slot(k.Dst, 0)
	r := flow.PortRange{First: uint16(s.id >> 16), Last: uint16(s.id)}
	return s.used && hasPorts(k.Proto) && r.Contains(k.DstPort())
}

// near reports whether the client is on the member's own network.
func (m *member) near(client flow.Addr) bool {
	return m.subnetBits > 0 && maskAddr(client, m.subnetBits) == m.subnet
}

// translates reports whether connections of the client to member m get a SNAT address, or why they cannot be.
func (v *virtual) translates(m *member, client flow.Addr) (snat bool, why Reason, ok bool) {
	switch {
	case v.Mode.Transparent():
		return v.snatOf(m) != nil, 0, true
	case !v.Mode.translates():
		return false, 0, true
	case v.Mode == FullNAT:
		return true, 0, true
	case v.Hairpin == HairpinForward || !m.near(client):
		return false, 0, true
	case v.Hairpin == HairpinRefuse:
		return false, HairpinRefused, false
	}
	return true, 0, true
}

// reaches reports whether connections to a member may come from the address.
func (a *snatAddress) reaches(m *member) bool {
	return a.addr.Is4() == m.addr.Is4() && (a.Egress == 0 || a.Egress == m.Hop.Port+1)
}

// source gives the connection that rec describes a SNAT address and port, if there is one that no other connection to the same
// place has. A client begins with the same address each time. The port is taken.
func (w *worker) source(rec *flow.Record, v *virtual, m *member, proto uint8) bool {
	addrs := v.snatOf(m).addrs
	start := w.firstAddress(addrs, rec.Client)
	bin := w.cfg.binOf(rec, proto)
	d := destination(rec, m, proto)
	for i := range addrs {
		a := &addrs[(start+uint64(i))%uint64(len(addrs))]
		if !a.reaches(m) {
			continue
		}
		d.SNAT = a.id
		port, ok := w.takePort(d, bin, a.Ports, rec.CPort)
		if !ok {
			continue
		}
		rec.SNAT, rec.SPort = a.id, port
		setDiffs(rec, proto, a.addr, d.Server)
		return true
	}
	return false
}

// firstAddress is the index of the address that connections of a client have if they can.
func (w *worker) firstAddress(addrs []snatAddress, client flow.Addr) uint64 {
	if len(addrs) < 2 {
		return 0
	}
	return w.runtime.secret.Hash(&flow.Key{Src: client}) % uint64(len(addrs))
}

// destination is what the source port of the connection that rec describes is unique for.
func destination(rec *flow.Record, m *member, proto uint8) flow.Destination {
	server := m.addr
	if rec.Kind() != flow.Translated {
		server = rec.Virtual
	}
	return flow.Destination{Server: server, SNAT: rec.SNAT, Port: rec.NPort, Proto: proto}
}

func (w *worker) takePort(d flow.Destination, bin uint8, r flow.PortRange, prefer uint16) (uint16, bool) {
	if p := w.runtime.peek; p != nil {
		return w.sources.Peek(d, bin, r, prefer, p.freed)
	}
	return w.sources.Take(d, bin, r, prefer)
}

// setDiffs computes what the rewrite of a connection adds to checksums.
func setDiffs(rec *flow.Record, proto uint8, source, server flow.Addr) {
	before := rewrite.Ends{Src: rec.Client, Dst: rec.Virtual, SrcPort: rec.CPort, DstPort: rec.VPort}
	after := rewrite.Ends{Src: source, Dst: server, SrcPort: rec.SPort, DstPort: rec.NPort}
	l3, l4 := rewrite.EndsDiff(&before, &after, proto)
	rec.L3Diff, rec.L4Diff = 0, l4
	if rec.Client.Is4() {
		rec.L3Diff = l3
	}
}

// giveBackPort frees the port of a connection that did not come about.
func (w *worker) giveBackPort(rec *flow.Record, m *member, proto uint8) {
	if rec.SNAT != 0 && w.runtime.peek == nil {
		w.sources.Free(destination(rec, m, proto), rec.SPort)
	}
}

// enter counts a connection that is in the table now; exit counts one that goes no longer, and gives its port back.
func (w *worker) enter(r *flow.Record) {
	w.node.connections[r.Node].Active++
	w.virtual.connections[r.VS].Active++
	if r.SNAT != 0 {
		w.node.connections[r.SNAT].Active++
	}
}

func (w *worker) exit(r *flow.Record) {
	w.node.connections[r.Node].Active--
	w.virtual.connections[r.VS].Active--
	if r.SNAT != 0 {
		w.node.connections[r.SNAT].Active--
		w.sources.Free(w.table.DestinationOf(r), r.SPort)
	}
}

// keepPort marks the port of a connection that comes from elsewhere.
func (w *worker) keepPort(r *flow.Record) {
	if r.SNAT == 0 {
		return
	}
	w.needPorts()
	w.sources.Mark(w.table.DestinationOf(r), r.SPort)
}

// needPorts makes the allocator before it is first used.
func (w *worker) needPorts() {
	if w.sources == nil {
		w.sources = flow.NewSourcePorts(w.table.Cap(), w.runtime.secret)
		w.table.FetchPorts(w.sources)
	}
}

// apart reports whether the two directions of a connection have different owners: the setting of the client's end was another
// one when its port was chosen.
func (c *Config) apart(r *flow.Record) bool {
	return r.SNAT != 0 && int(c.owners.worker[uint8(r.SPort)]) != c.ownerOf(r)
}

// SNATInfo is a SNAT address of a configuration, with its id in Snapshot.Node.
type SNATInfo struct {
	ID   uint32
	Pool string
	SNATAddress
}

// SNAT lists the SNAT addresses.
func (c *Config) SNAT() (out []SNATInfo) {
	for i := range c.snatPools {
		for _, a := range c.snatPools[i].addrs {
			out = append(out, SNATInfo{a.id, c.snatPools[i].name, a.SNATAddress})
		}
	}
	return out
}

// snatAddresses is how many SNAT addresses there are: each has an entry among the virtual addresses, too.
func (s *Spec) snatAddresses() int {
	n := len(s.Draining.SNAT)
	for i := range s.SNAT {
		n += len(s.SNAT[i].Addresses)
	}
	return n
}
