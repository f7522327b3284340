package ctl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/rings"
)

// iface is a port's network interface as the kernel has it.
type iface struct {
	name   string
	index  int
	mac    [6]byte
	queues int // receive queues; no more are served than there are transmit queues
	mtu    int
	jumbo  bool // its sockets take packets of several frames
	// Its first global addresses that are not virtual; not valid without.
	addr4, addr6 netip.Addr
	tpid         uint16 // of a VLAN's outermost tag
}

// interfaces looks up the interface of every port.
func (f *File) interfaces() ([]iface, error) {
	out := make([]iface, len(f.Ports))
	var errs []error
	for i := range f.Ports {
		var err error
		if out[i], err = f.lookUp(i); err != nil {
			errs = append(errs, err)
		}
	}
	return out, errors.Join(errs...)
}

// lookUp looks up the interface of port i; it must be up and have queues that can all be served.
func (f *File) lookUp(i int) (iface, error) {
	p := &f.Ports[i]
	refuse := func(key, format string, args ...any) (iface, error) {
		return iface{}, f.problem(fmt.Sprintf("ports[%d].%s", i, key), fmt.Errorf(format, args...))
	}
	l, err := netlink.LinkByName(p.Interface)
	if err != nil {
		return refuse("interface", "no interface %s; list them with: ip link", p.Interface)
	}
	a := l.Attrs()
	if len(a.HardwareAddr) != 6 || a.Flags&net.FlagLoopback != 0 {
		return refuse("interface", "%s is not an Ethernet interface", p.Interface)
	}
	if a.Flags&net.FlagUp == 0 {
		return refuse("interface", "%s is down; set it up (ip link set %s up)", p.Interface, p.Interface)
	}
	rx, tx, err := rings.Channels(p.Interface)
	if err != nil {
		return iface{}, err
	}
	n := min(rx, tx)
	if p.Queues > n {
		return refuse("queues", "%s has %d queues, not %d", p.Interface, n, p.Queues)
	}
	if p.Queues != 0 && p.Queues < rx {
		return refuse("queues", "%s receives on %d queues, and those beyond %d would have no socket; set the interface to as many (ethtool -L %s combined %d), or use queues: auto", p.Interface, rx, p.Queues, p.Interface, p.Queues)
	}
	if rx > tx {
		return refuse("interface", "%s receives on %d queues but has only %d to send on; make them equal (ethtool -L %s)", p.Interface, rx, tx, p.Interface)
	}
	out := iface{name: p.Interface, index: a.Index, mac: [6]byte(a.HardwareAddr), queues: rx, mtu: a.MTU}
	if out.jumbo, err = f.wantsJumbo(p, a.MTU); err != nil {
		return refuse("jumbo", "%w", err)
	}
	out.addr4, out.addr6, err = f.portAddresses(l)
	return out, err
}

// portAddresses are the first global addresses of an interface that are its own: neither virtual nor of a SNAT pool.
func (f *File) portAddresses(l netlink.Link) (a4, a6 netip.Addr, err error) {
	list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return a4, a6, fmt.Errorf("list addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, entry := range list {
		a, ok := netip.AddrFromSlice(entry.IP)
		if a = a.Unmap(); !ok || entry.Scope != unix.RT_SCOPE_UNIVERSE || f.isVirtual(a) || f.hasSNAT(a) {
			continue
		}
		if a.Is4() && !a4.IsValid() {
			a4 = a
		} else if a.Is6() && !a6.IsValid() {
			a6 = a
		}
	}
	return a4, a6, nil
}

func (f *File) isVirtual(a netip.Addr) bool {
	return slices.ContainsFunc(f.VirtualServers, func(v VirtualServer) bool {
		return slices.ContainsFunc(v.Destinations, func(d engine.Destination) bool { return d.IsAddress() && d.Prefix.Addr() == a })
	})
}

// problem is an error about a place in the file.
func (f *File) problem(key string, err error) error {
	line, column := f.Position(key)
	if line == 0 {
		return fmt.Errorf("%s: %s: %w", f.Name, key, err)
	}
	return fmt.Errorf("%s:%d:%d: %s: %w", f.Name, line, column, key, err)
}

// localAddresses are all addresses of the host.
func localAddresses() ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			out = append(out, ip.Unmap())
		}
	}
	return out, nil
}

// networks are the addresses of an interface that stand for a network.
func networks(index int) (out []netip.Prefix, err error) {
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return nil, nil // it has gone; followLinks says so
	}
	list, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			bits, _ := a.Mask.Size()
			if p := netip.PrefixFrom(ip.Unmap(), bits); isNetwork(p) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// way is the kernel's route to a member, before its MAC is known.
type way struct {
	port int
	via  netip.Addr
	gone bool // the kernel has no route any more; port and via are the last there were
}

// route asks the kernel for the way to a member.
func route(a netip.Addr, ifaces []iface) (way, error) {
	rs, err := netlink.RouteGet(a.AsSlice())
	if err != nil || len(rs) == 0 {
		return way{}, fmt.Errorf("no route to member %s: %w", a, errors.Join(err))
	}
	r := rs[0]
	if r.Type == unix.RTN_LOCAL {
		return way{}, fmt.Errorf("member %s is an address of this host", a)
	}
	for i := range ifaces {
		if ifaces[i].index != r.LinkIndex {
			continue
		}
		w := way{port: i, via: a}
		if gw, ok := netip.AddrFromSlice(r.Gw); ok {
			w.via = gw.Unmap()
		}
		return w, nil
	}
	name := fmt.Sprint(r.LinkIndex)
	if l, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
		name = l.Attrs().Name
	}
	return way{}, fmt.Errorf("member %s is reached through %s, which is not a port; add it under ports, or a route through a port", a, name)
}

// neighbour is what the kernel knows of one.
type neighbour struct {
	mac     [6]byte
	valid   bool // it has a MAC that may be used
	managed bool
}

// neighbours are those that the kernel knows behind one interface.
func neighbours(index int) (map[netip.Addr]neighbour, error) {
	out := map[netip.Addr]neighbour{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := netlink.NeighList(index, family)
		if err != nil {
			return nil, fmt.Errorf("list neighbours: %w", err)
		}
		const valid = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
		for _, n := range list {
			ip, ok := netip.AddrFromSlice(n.IP)
			if !ok {
				continue
			}
			e := neighbour{managed: n.FlagsExt&netlink.NTF_EXT_MANAGED != 0}
			if n.State&valid != 0 && len(n.HardwareAddr) == 6 {
				e.mac, e.valid = [6]byte(n.HardwareAddr), true
			}
			out[ip.Unmap()] = e
		}
	}
	return out, nil
}

// manage asks the kernel to resolve a neighbour and keep it resolved (NTF_EXT_MANAGED, Linux 5.16). Before that the
// entry is only used once, which starts a resolution.
func manage(index int, a netip.Addr) error {
	n := &netlink.Neigh{LinkIndex: index, IP: a.AsSlice(), FlagsExt: netlink.NTF_EXT_MANAGED, Family: familyNumber(a)}
	if err := netlink.NeighSet(n); err == nil {
		return nil
	}
	n.FlagsExt, n.Flags = 0, netlink.NTF_USE
	if err := netlink.NeighSet(n); err != nil {
		return fmt.Errorf("resolve neighbour %s: %w", a, err)
	}
	return nil
}

// unmanage gives the neighbour back to the kernel's ordinary care.
func unmanage(index int, a netip.Addr) error {
	err := netlink.NeighDel(&netlink.Neigh{LinkIndex: index, IP: a.AsSlice(), Family: familyNumber(a)})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}

func familyNumber(a netip.Addr) int {
	if a.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

// ways finds the route to every member; a static neighbour of the file needs none.
func (f *File) ways(ifaces []iface) (map[netip.Addr]way, error) {
	out := map[netip.Addr]way{}
	var errs []error
	onLink := f.onLinkMembers()
	for _, a := range f.memberAddrs() {
		if _, ok := f.staticHop(a); ok {
			continue
		}
		w, err := route(a, ifaces)
		if err != nil {
			errs = append(errs, f.problem(f.memberKey(a), err))
			continue
		}
		errs = append(errs, f.checkOnLink(a, w.via, onLink))
		out[a] = w
	}
	errs = append(errs, f.checkLiveSources(out, ifaces))
	return out, errors.Join(errs...)
}

// live makes a topology from the kernel's tables. A member whose next hop has no MAC yet is not OK. ifaces are by number of
// port (reach).
func (f *File) live(ifaces []iface, ways, draining map[netip.Addr]way, host *engine.HostSpec) (*topology, error) {
	t := &topology{hops: map[netip.Addr]engine.Hop{}, host: host, tpids: map[int]uint16{}}
	t.noteVLANs(f)
	known := make([]map[netip.Addr]neighbour, len(ifaces))
	t.known = known
	for i := range ifaces {
		t.ports = append(t.ports, engine.PortSpec{MAC: ifaces[i].mac, MTU: ifaces[i].mtu, Addr4: ifaces[i].addr4, Addr6: ifaces[i].addr6})
		if ifaces[i].tpid != 0 {
			t.tpids[i] = ifaces[i].tpid
		}
		if ifaces[i].index == 0 {
			t.own = append(t.own, nil)
			continue
		}
		own, err := networks(ifaces[i].index)
		if err != nil {
			return nil, err
		}
		t.own = append(t.own, own)
		if known[i], err = neighbours(ifaces[i].index); err != nil {
			return nil, err
		}
	}
	onLink := f.onLinkMembers()
	for _, a := range f.memberAddrs() {
		if hop, ok := f.staticHop(a); ok {
			t.hops[a] = hop
			continue
		}
		t.add(a, ways[a], known)
		if hop := t.hops[a]; onLink[a] && ways[a].via != a { // a route that came later
			hop.OK = false
			t.hops[a] = hop
		}
	}
	for a, w := range draining {
		if _, ok := t.hops[a]; !ok {
			t.add(a, w, known)
		}
	}
	return t, nil
}

// add notes the hop to a member, and its neighbour if the kernel does not look after it.
func (t *topology) add(a netip.Addr, w way, known []map[netip.Addr]neighbour) {
	n := known[w.port][w.via]
	t.hops[a] = engine.Hop{Port: w.port, MAC: n.mac, OK: n.valid && !w.gone}
	if !n.managed && !w.gone {
		t.unmanaged = append(t.unmanaged, w)
	}
}

// unresolved lists the members whose next hop is not known, and the gateways of routes.
func (t *topology) unresolved() (out []netip.Addr) {
	for a, h := range t.hops {
		if !h.OK {
			out = append(out, a)
		}
	}
	for i := range t.routes {
		if r := &t.routes[i]; r.Via.IsValid() && !r.Hop.OK && !slices.Contains(out, r.Via) {
			out = append(out, r.Via)
		}
	}
	return out
}

// resolveTime is how long a start waits for the next hops of the members.
const resolveTime = time.Second
