package engine

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"sluice/flow"
)

// Routes are where the kernel's routing table leads, for what is forwarded by it: longest prefix first. A route through a
// gateway is one next hop. On a network that a port is on every neighbour is its own next hop: each that the kernel has
// resolved is a route to one address. What is not resolved is dropped by name, and asked for (Wanted).

// RouteSpec is a route.
type RouteSpec struct {
	Prefix netip.Prefix
	// Via is the gateway; not valid for a network that a port is on, where Hop has only the port, and for one neighbour.
	Via netip.Addr
	// Host leaves what goes there to the kernel: addresses of its own, routes through an interface that is no port, routes
	// that refuse.
	Host bool
	Hop  Hop
}

// routes is a hash table of prefixes, filled when a configuration is compiled and only read afterwards.
type routes struct {
	lengths [2]lengths // of prefixes there are, the longest first; IPv4 and IPv6
	entries []routeEntry
	mask    uint64
}

type routeEntry struct {
	addr flow.Addr
	bits uint8 // of the mapped address
	used bool
	host bool
	hop  *member // as connections have one: id, counts, next hop
}

// RoutePool is the name under which the connections of a route are shown and its id is kept, where a member has its pool's.
// No pool has such a name.
func RoutePool(p netip.Prefix) string { return p.String() }

// compileRoutes gives routes their ids and next hops.
func (c *Config) compileRoutes(specs []RouteSpec, dict *Dictionary) error {
	size := uint64(8)
	for size < uint64(len(specs))*2 {
		size *= 2
	}
	r := &c.routes
	r.entries, r.mask = make([]routeEntry, size), size-1
	for i := range specs {
		s := &specs[i]
		if !s.Prefix.IsValid() || s.Prefix != s.Prefix.Masked() {
			return fmt.Errorf("route to %s: not a prefix", s.Prefix)
		}
		if !s.Host && (s.Hop.Port < 0 || s.Hop.Port >= len(c.Ports)) {
			return fmt.Errorf("route to %s: no port %d", s.Prefix, s.Hop.Port)
		}
		bits := prefixBits(s.Prefix)
		addr := maskAddr(flow.AddrFrom(s.Prefix.Addr()), int(bits))
		e := r.slot(addr, bits)
		if e.used {
			continue // the first is the kernel's choice
		}
		*e = routeEntry{addr: addr, bits: bits, used: true, host: s.Host}
		l := &r.lengths[family4(bits, addr)]
		if at, found := slices.BinarySearchFunc(*l, bits, func(have, want uint8) int { return cmp.Compare(want, have) }); !found {
			*l = slices.Insert(*l, at, bits)
		}
		if s.Host {
			continue
		}
		via := s.Via
		if !via.IsValid() {
			via = s.Prefix.Addr()
		}
		id := dict.node(RoutePool(s.Prefix), s.Prefix.Addr(), 0)
		e.hop = &member{MemberSpec: MemberSpec{Name: via.String(), Addr: s.Prefix.Addr(), Weight: 1, Hop: s.Hop}, id: id,
			addr: flow.AddrFrom(s.Prefix.Addr()), shared: dict.member(id), route: true}
	}
	return nil
}

// placeRoutes makes the next hops of routes nodes. The nodes must have room for all ids.
func (c *Config) placeRoutes() {
	for i := range c.routes.entries {
		if m := c.routes.entries[i].hop; m != nil {
			c.nodes[m.id] = c.nodeOf(m)
			c.names[m.id] = &memberName{RoutePool(netip.PrefixFrom(m.Addr, int(c.routes.entries[i].bits)-128+m.Addr.BitLen())), m.Name}
		}
	}
}

func (r *routes) slot(addr flow.Addr, bits uint8) *routeEntry {
	h := spread(addr, uint32(bits))
	for i := h & r.mask; ; i = (i + 1) & r.mask {
		e := &r.entries[i]
		if !e.used || e.bits == bits && e.addr == addr {
			return e
		}
	}
}

// find is the next hop towards addr, or nil if the kernel has none through a port.
func (r *routes) find(addr flow.Addr) *member {
	if r.mask == 0 {
		return nil
	}
	for _, bits := range r.lengths[family(addr)] {
		if e := r.slot(maskAddr(addr, int(bits)), bits); e.used {
			return e.hop
		}
	}
	return nil
}

// maxWanted bounds what a worker asks for at a time.
const maxWanted = 64

// want notes that a neighbour is needed. Control looks at times; what is asked for again in between is noted once.
func (w *worker) want(addr flow.Addr) {
	list := &w.runtime.wanted
	if list.n == len(list.addrs) || slices.Contains(list.addrs[:list.n], addr) {
		return
	}
	list.addrs[list.n] = addr
	list.n++
	w.runtime.wants.Store(true)
}

type wanted struct {
	addrs [maxWanted]flow.Addr
	n     int
}

// Wanted are the addresses of neighbours that packets have needed since the last time and that routes did not have. It costs
// next to nothing while there are none.
func (e *Engine) Wanted(ctx context.Context) (out []netip.Addr) {
	for _, w := range e.seated() {
		if !w.runtime.wants.Load() {
			continue
		}
		_ = e.wait(ctx, w, func(w *worker) {
			for _, a := range w.runtime.wanted.addrs[:w.runtime.wanted.n] {
				if n := a.Netip(); !slices.Contains(out, n) {
					out = append(out, n)
				}
			}
			w.runtime.wanted.n = 0
			w.runtime.wants.Store(false)
		})
	}
	return out
}

// RouteNode is the id in Snapshot.Node of the next hop of a route.
func (c *Config) RouteNode(p netip.Prefix) (id uint32, ok bool) {
	if c.routes.mask == 0 {
		return 0, false
	}
	bits := prefixBits(p)
	e := c.routes.slot(maskAddr(flow.AddrFrom(p.Addr()), int(bits)), bits)
	if !e.used || e.hop == nil {
		return 0, false
	}
	return e.hop.id, true
}

// byOtherRoute has a connection go where routes lead now, because its next hop is no more or has no MAC, and reports whether
// there is another.
func (w *worker) byOtherRoute(rec *flow.Record) bool {
	if !rec.Movable() || w.mode(rec) != Forward && !w.isLearned(rec) {
		return false
	}
	m := w.cfg.routes.find(rec.Virtual)
	switch {
	case m == nil:
		return false
	case !m.Hop.OK:
		w.want(rec.Virtual)
		return false
	case m.id == rec.Node:
		return false
	}
	w.setNode(rec, m)
	return true
}

// setNode moves a connection to another next hop, and its place with it.
func (w *worker) setNode(rec *flow.Record, m *member) {
	w.node.connections[rec.Node].Active--
	w.node.connections[m.id].Active++
	if holds(rec) {
		w.runtime.counts.nodes[rec.Node].active.Add(-1)
		w.runtime.counts.nodes[m.id].active.Add(1)
	}
	rec.SetNode(m.id)
	rec.ServerIf = uint16(m.Hop.Port)
}
