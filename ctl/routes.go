package ctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/engine"
)

// What is forwarded by the kernel's routes is so by a copy of its main table, read again after each change. Of networks that
// a port is on, neighbours are resolved when a packet needs one (engine.Wanted): the kernel is asked to look after them, and
// they are forgotten when no connection has needed them for a while.

const (
	// maxNear bounds the neighbours that are looked after: who scans a network must not fill the kernel's table.
	maxNear = 4096
	// maxEager is how many ids there may be for neighbours that no packet has needed yet to get more: ids are never given back.
	maxEager = 1 << 16
	// nearIdle is how long one is kept that has no connection.
	nearIdle = time.Minute
)

// nearby is a neighbour that a packet has needed.
type nearby struct {
	way
	since time.Time
}

// forwarding is what a Server knows for it.
type forwarding struct {
	near    map[netip.Addr]nearby
	through map[way]bool // gateways
}

// kernelRoutes reads the main routing table. The routes of each prefix are in the kernel's order, and known are the
// neighbours of each port; those of the file stand for themselves. gateways are the next hops that have to be resolved.
func (f *File) kernelRoutes(ifaces []iface, known []map[netip.Addr]neighbour) (out []engine.RouteSpec, gateways []way, err error) {
	port := func(index int) int {
		if index == 0 {
			return -1
		}
		return slices.IndexFunc(ifaces, func(i iface) bool { return i.index == index })
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return nil, nil, fmt.Errorf("list routes: %w", err)
		}
		slices.SortStableFunc(list, func(a, b netlink.Route) int { return cmp.Compare(a.Priority, b.Priority) })
		for i := range list {
			r := &list[i]
			s := engine.RouteSpec{Prefix: routePrefix(r, family)}
			if s.Prefix.Addr().IsLinkLocalUnicast() || s.Prefix.Addr().IsMulticast() || r.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0 {
				continue
			}
			w, ok := routeWay(r, port)
			switch {
			case !ok:
				s.Host = true
			case w.via.IsValid():
				n := known[w.port][w.via]
				s.Via, s.Hop = w.via, engine.Hop{Port: w.port, MAC: n.mac, OK: n.valid}
				if hop, static := f.staticHop(w.via); static && hop.Port == w.port {
					s.Hop = hop
				} else {
					gateways = append(gateways, w)
				}
			default:
				s.Hop.Port = w.port
			}
			out = append(out, s)
		}
	}
	for _, n := range f.Neighbours {
		hop, _ := f.staticHop(n.Address)
		out = append(out, engine.RouteSpec{Prefix: netip.PrefixFrom(n.Address, n.Address.BitLen()), Hop: hop})
	}
	return out, gateways, nil
}

// neighbourRoutes are the routes to neighbours that have a MAC: those that packets have needed, and while there are not too
// many, whoever else the kernel has spoken with.
func neighbourRoutes(routes []engine.RouteSpec, known []map[netip.Addr]neighbour, near map[netip.Addr]nearby, all bool) (out []engine.RouteSpec) {
	for port := range known {
		var addrs []netip.Addr
		for a, n := range known[port] {
			if w, needed := near[a]; !n.valid || a.IsLinkLocalUnicast() || a.IsMulticast() || !(needed && w.port == port) && !all {
				continue
			}
			if r := findRoute(routes, a); r != nil && !r.Host && !r.Via.IsValid() && r.Hop.Port == port && !r.Hop.OK {
				addrs = append(addrs, a)
			}
		}
		slices.SortFunc(addrs, netip.Addr.Compare) // routes are compared
		for _, a := range addrs {
			out = append(out, engine.RouteSpec{Prefix: netip.PrefixFrom(a, a.BitLen()), Hop: engine.Hop{Port: port, MAC: known[port][a].mac, OK: true}})
		}
	}
	return out
}

func routePrefix(r *netlink.Route, family int) netip.Prefix {
	if r.Dst != nil {
		if a, ok := netip.AddrFromSlice(r.Dst.IP); ok {
			ones, _ := r.Dst.Mask.Size()
			return netip.PrefixFrom(a.Unmap(), ones).Masked()
		}
	}
	if family == netlink.FAMILY_V4 {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// routeWay is where a route leads: through a gateway, or onto the network of a port; ok is false if through no port of ours.
// Of a route with several next hops the first through a port counts: spreading over several is for mode router.
func routeWay(r *netlink.Route, port func(index int) int) (w way, ok bool) {
	if r.Type != unix.RTN_UNICAST && r.Type != 0 {
		return w, false
	}
	hops := []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw}}
	if via, is := r.Via.(*netlink.Via); is {
		hops[0].Gw = via.Addr
	}
	if len(r.MultiPath) > 0 {
		hops = r.MultiPath
	}
	for _, h := range hops {
		if w.port = port(h.LinkIndex); w.port < 0 || h.Flags&(unix.RTNH_F_DEAD|unix.RTNH_F_LINKDOWN) != 0 {
			continue
		}
		if gw, has := netip.AddrFromSlice(h.Gw); has {
			w.via = gw.Unmap()
		}
		return w, true
	}
	return w, false
}

// findRoute is the route with the longest prefix for an address, or nil.
func findRoute(routes []engine.RouteSpec, a netip.Addr) (best *engine.RouteSpec) {
	for i := range routes {
		if r := &routes[i]; r.Prefix.Contains(a) && (best == nil || r.Prefix.Bits() > best.Prefix.Bits()) {
			best = r
		}
	}
	return best
}

// forward adds the kernel's routes to a topology, if the file forwards by them.
func (s *Server) forward(t *topology) error {
	if !s.file.isByRoute() {
		return nil
	}
	routes, gateways, err := s.file.kernelRoutes(s.reach(), t.known)
	if err != nil {
		return err
	}
	t.routes = append(routes, neighbourRoutes(routes, t.known, s.forwarding.near, len(s.dict.Entries(0)) < maxEager)...)
	s.forwarding.through = map[way]bool{}
	for _, w := range gateways {
		s.forwarding.through[w] = true
		if !t.known[w.port][w.via].managed {
			t.unmanaged = append(t.unmanaged, w)
		}
	}
	for a, n := range s.forwarding.near {
		if w := n.way; !t.known[w.port][a].managed {
			t.unmanaged = append(t.unmanaged, w)
		}
	}
	return nil
}

// eachForwarding calls f for every next hop that forwarding needs resolved.
func (s *Server) eachForwarding(f func(w way)) {
	if !s.file.isByRoute() {
		return
	}
	for w := range s.forwarding.through {
		f(w)
	}
	for _, n := range s.forwarding.near {
		f(n.way)
	}
}

// resolveWanted has the kernel resolve the neighbours that packets have needed. That they are is a change that is followed.
func (s *Server) resolveWanted(ctx context.Context) {
	if !s.file.isByRoute() {
		return
	}
	var errs []error
	for _, a := range s.engine.Wanted(ctx) {
		if _, known := s.forwarding.near[a]; known || len(s.forwarding.near) >= maxNear {
			continue
		}
		r := findRoute(s.spec.Routes, a)
		if r == nil || r.Host || r.Via.IsValid() || !s.isOpen(r.Hop.Port) {
			continue
		}
		w := way{port: r.Hop.Port, via: a}
		if s.forwarding.near == nil {
			s.forwarding.near = map[netip.Addr]nearby{}
		}
		s.forwarding.near[a] = nearby{w, time.Now()}
		errs = append(errs, s.state.addNeighbour(placedNeighbour{s.ifaceOf(w.port).index, a}))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.Warn("a neighbour that is to be forwarded to cannot be resolved", "error", err)
	}
}

// addNeighbour has the kernel resolve one more next hop.
func (s *kernelState) addNeighbour(n placedNeighbour) error {
	if !slices.Contains(s.Neighbours, n) {
		s.Neighbours = append(s.Neighbours, n)
		if err := s.save(); err != nil {
			return err
		}
	}
	return manage(n.Index, n.Address)
}

// forgetNear gives neighbours back to the kernel's ordinary care that no connection needs any more.
func (s *Server) forgetNear(ctx context.Context) {
	if len(s.forwarding.near) == 0 {
		return
	}
	snaps, err := s.engine.Snapshots(ctx)
	if err != nil {
		return
	}
	cfg, before := s.engine.Config(), len(s.forwarding.near)
	for a, n := range s.forwarding.near {
		if time.Since(n.since) < nearIdle {
			continue
		}
		if id, ok := cfg.RouteNode(netip.PrefixFrom(a, a.BitLen())); ok {
			if sum := sumService(snaps, nodesOf, id); sum.Active > 0 {
				continue
			}
		}
		delete(s.forwarding.near, a)
	}
	if len(s.forwarding.near) < before {
		if err := s.resolveHops(); err != nil {
			s.log.Warn("neighbours cannot be given back to the kernel", "error", err)
		}
	}
}

// inheritNear takes over the neighbours that the connections of an earlier engine go to.
func (s *Server) inheritNear(id uint32) bool {
	e, ok := s.dict.Node(id)
	if !ok {
		return false
	}
	p, err := netip.ParsePrefix(e.Pool)
	if err != nil {
		return false // a member
	}
	if p.IsSingleIP() {
		if w, err := route(p.Addr(), s.reach()); err == nil && w.via == p.Addr() {
			if s.forwarding.near == nil {
				s.forwarding.near = map[netip.Addr]nearby{}
			}
			s.forwarding.near[p.Addr()] = nearby{w, time.Now()}
		}
	}
	return true
}

// offlineRoutes are the routes of a file alone: networks of its ports, routes, neighbours, and those of near that are on a
// port's network, whose MACs are made up as those of members are.
func (f *File) offlineRoutes(near []netip.Addr) (out []engine.RouteSpec) {
	if !f.isByRoute() {
		return nil
	}
	for i, network := range f.networks() {
		for _, p := range network {
			out = append(out, engine.RouteSpec{Prefix: netip.PrefixFrom(p.Addr(), p.Addr().BitLen()), Host: true}, engine.RouteSpec{Prefix: p.Masked(), Hop: engine.Hop{Port: i}})
		}
	}
	for _, n := range f.Neighbours {
		near = append(slices.Clone(near), n.Address)
	}
	for _, a := range near {
		if hop, ok := f.onLink(a); ok {
			out = append(out, engine.RouteSpec{Prefix: netip.PrefixFrom(a, a.BitLen()), Hop: hop})
		}
	}
	for i := range f.Routes {
		r := &f.Routes[i]
		if hop, ok := f.onLink(r.Via); ok {
			out = append(out, engine.RouteSpec{Prefix: r.Prefix, Via: r.Via, Hop: hop})
		}
	}
	return out
}
