package ctl

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"sluice/engine"
	"sluice/rewrite"
)

// VLANs of a port are ports of the engine without queues of their own; the kernel's VLAN interface on the port's supplies
// addresses, routes and neighbours, as eth1.10 does for VLAN 10 of eth1. The engine numbers ports in this order:
//
//	the ports of the file, the host port if there is one, then the VLANs in the order of the file

// VLAN is a VLAN of a port.
type VLAN struct {
	Name      string
	ID        int
	Inner     int              // of a second tag (QinQ); 0: none
	Interface string           // the kernel's; empty: that of VLAN id on the port's
	MAC       net.HardwareAddr // nil: the port's
	Addresses []netip.Prefix   // with host bits; nil: the kernel's
}

var vlanKeys = mapping[VLAN]{what: "a VLAN", keys: []configKey[VLAN]{
	nameKey("interface and id, such as eth1.10", "red", "Name of the VLAN, unique among ports and VLANs: what port stands for elsewhere may be a VLAN.", func(v *VLAN) *string { return &v.Name }),
	numberKey(keyDoc{name: "id", required: true, example: "10", text: "Its id, in the outermost tag of its frames. The kernel must have an interface for it on the port's (ip link add link eth1 name eth1.10 type vlan id 10)."},
		1, 4094, func(v *VLAN) *int { return &v.ID }),
	numberKey(keyDoc{name: "inner", def: "0", example: "100", text: "The id in a second tag (QinQ): then it is the VLAN interface on that of id. 0 is none; a second tag that frames have all the same is carried through."},
		0, 4094, func(v *VLAN) *int { return &v.Inner }),
	textKey(keyDoc{name: "interface", kind: "interface name", otherwise: "the VLAN interface with this id on that of the port", limits: "at most 15 characters", example: "vlan10", text: "The kernel's interface for the VLAN, where it is not one of 8021q: its addresses, routes and neighbours are those of the VLAN. Its MAC address must be the port's, or one that the NIC takes."},
		parseInterface, func(v *VLAN) *string { return &v.Interface }),
	textKey(keyDoc{name: "mac", kind: "MAC address", otherwise: "that of the port", limits: "of one station", example: "02:00:00:00:01:0a", text: "Only used offline (replay, explain)."},
		parseMAC, func(v *VLAN) *net.HardwareAddr { return &v.MAC }),
	scalarsKey(keyDoc{name: "addresses", kind: "list of addresses with prefix length", otherwise: "those of the interface", example: "[172.16.11.1/24]", text: "Only used offline (replay, explain)."},
		textKey(keyDoc{kind: "address with prefix length"}, parsePrefix, func(p *netip.Prefix) *netip.Prefix { return p }), func(v *VLAN) *[]netip.Prefix { return &v.Addresses }),
}}

// completeVLANs gives VLANs without a name that of their interface, as it is by custom.
func (f *File) completeVLANs() {
	f.eachVLAN(func(_, _ int, v *VLAN, p *Port, _ string) {
		if v.Name == "" && v.ID != 0 {
			v.Name = fmt.Sprintf("%s.%d", p.Interface, v.ID)
			if v.Inner != 0 {
				v.Name += fmt.Sprintf(".%d", v.Inner)
			}
		}
	})
}

// eachVLAN calls do for every VLAN, in the engine's order: with its number among ports, that of its port, and its key.
func (f *File) eachVLAN(do func(number, port int, v *VLAN, p *Port, key string)) {
	n := f.firstVLAN()
	for i := range f.Ports {
		for j := range f.Ports[i].VLANs {
			do(n, i, &f.Ports[i].VLANs[j], &f.Ports[i], fmt.Sprintf("ports[%d].vlans[%d]", i, j))
			n++
		}
	}
}

// firstVLAN is the number of the first VLAN among the engine's ports.
func (f *File) firstVLAN() int {
	if f.Engine.HostPort {
		return len(f.Ports) + 1
	}
	return len(f.Ports)
}

// enginePorts are the names of all ports by their number; the host port has none.
func (f *File) enginePorts() (names []string) {
	for i := range f.Ports {
		names = append(names, f.Ports[i].Name)
	}
	if f.Engine.HostPort {
		names = append(names, "")
	}
	f.eachVLAN(func(_, _ int, v *VLAN, _ *Port, _ string) { names = append(names, v.Name) })
	return names
}

// portNumber finds a port or VLAN by its name.
func (f *File) portNumber(name string) (number int, ok bool) {
	i := slices.Index(f.enginePorts(), name)
	return i, i >= 0 && name != ""
}

// portName is the name of a port or VLAN by its number.
func (f *File) portName(number int) string {
	if number < len(f.Ports) {
		return f.Ports[number].Name
	}
	return f.enginePorts()[number]
}

// physical is the port that has the queues of a port or VLAN.
func (f *File) physical(number int) int {
	f.eachVLAN(func(n, port int, _ *VLAN, _ *Port, _ string) {
		if n == number {
			number = port
		}
	})
	return number
}

// checkVLANs checks names and ids; names are those of the ports.
func (v *validator) checkVLANs(names unique[string]) {
	ids := newUnique[[3]int](v)
	v.file.eachVLAN(func(n, port int, vlan *VLAN, p *Port, at string) {
		if _, err := parseName(vlan.Name); vlan.Name != "" && err != nil {
			v.add(position{}, at, err.(*problem).orUse("give the VLAN a name"))
			return
		}
		if vlan.ID == 0 {
			return
		}
		id := [3]int{port, vlan.ID, vlan.Inner}
		if first, ok := ids.first[id]; ok {
			v.errorf(at+".id", "port %q has this VLAN already, in line %d", p.Name, v.line(first))
			return
		}
		ids.first[id] = at
		if names.check(vlan.Name, at+".name", "port") {
			v.ports[vlan.Name] = n
			v.portNames = append(v.portNames, vlan.Name)
		}
	})
}

// networks are the addresses that the file gives ports and VLANs, by their number.
func (f *File) networks() [][]netip.Prefix {
	out := make([][]netip.Prefix, len(f.enginePorts()))
	for i := range f.Ports {
		out[i] = f.Ports[i].Addresses
	}
	f.eachVLAN(func(n, _ int, v *VLAN, _ *Port, _ string) { out[n] = v.Addresses })
	return out
}

// spec is the VLAN as the engine knows it. tpid is that of the outermost tag; 0 is the standard's.
func (v *VLAN) spec(port int, tpid uint16) engine.VLANSpec {
	s := engine.VLANSpec{Parent: port, Tags: rewrite.VLANTags{IDs: [2]uint16{uint16(v.ID), uint16(v.Inner)}, N: 1, TPID: tpid}}
	if v.Inner != 0 {
		s.Tags.N = 2
	}
	return s
}

// vlanInterfaces looks up the kernel's interface of every VLAN, in order; ifaces are those of the ports.
func (f *File) vlanInterfaces(ifaces []iface) (out []iface, err error) {
	if f.firstVLAN() == len(f.enginePorts()) {
		return nil, nil
	}
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	f.eachVLAN(func(_, port int, v *VLAN, p *Port, key string) {
		found, err := f.lookUpVLAN(links, v, p, ifaces[port].index)
		if err != nil {
			err = f.problem(key+".id", err)
		}
		out, errs = append(out, found), append(errs, err)
	})
	return out, errors.Join(errs...)
}

// lookUpVLAN finds among links the kernel's interface of a VLAN of the port whose interface has that index.
func (f *File) lookUpVLAN(links []netlink.Link, v *VLAN, p *Port, index int) (out iface, err error) {
	if v.Interface != "" {
		return f.namedVLAN(links, v.Interface)
	}
	name, tpid := p.Interface, uint16(0)
	var found netlink.Link
	for _, id := range []int{v.ID, v.Inner} {
		if id == 0 {
			break
		}
		i := slices.IndexFunc(links, func(l netlink.Link) bool {
			vl, ok := l.(*netlink.Vlan)
			return ok && vl.ParentIndex == index && vl.VlanId == id
		})
		if i < 0 {
			return iface{}, fmt.Errorf("%s has no VLAN interface for id %d; make one: ip link add link %s name %s.%d type vlan id %d", name, id, name, name, id, id)
		}
		found = links[i]
		if err := isUp(found); err != nil {
			return iface{}, err
		}
		if tpid == 0 {
			tpid = uint16(found.(*netlink.Vlan).VlanProtocol)
		}
		name, index = found.Attrs().Name, found.Attrs().Index
	}
	return f.vlanInterface(found, tpid)
}

// namedVLAN is the interface that the file names.
func (f *File) namedVLAN(links []netlink.Link, name string) (iface, error) {
	i := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Name == name })
	if i < 0 {
		return iface{}, fmt.Errorf("no interface %s; list them with: ip link", name)
	}
	if len(links[i].Attrs().HardwareAddr) != 6 {
		return iface{}, fmt.Errorf("%s is not an Ethernet interface", name)
	}
	if err := isUp(links[i]); err != nil {
		return iface{}, err
	}
	return f.vlanInterface(links[i], 0)
}

func isUp(l netlink.Link) error {
	if name := l.Attrs().Name; l.Attrs().Flags&net.FlagUp == 0 {
		return fmt.Errorf("%s is down; set it up (ip link set %s up)", name, name)
	}
	return nil
}

func (f *File) vlanInterface(l netlink.Link, tpid uint16) (out iface, err error) {
	a := l.Attrs()
	out = iface{name: a.Name, index: a.Index, mac: [6]byte(a.HardwareAddr), mtu: a.MTU, tpid: tpid}
	out.addr4, out.addr6, err = f.portAddresses(l)
	return out, err
}

// reach lists the interfaces by which members may be reached, by the number of their port: those of ports and VLANs. Where
// there is none, such as for the host port, the index is 0.
func (f *File) reach(ifaces, vlans []iface) []iface {
	out := slices.Clone(ifaces[:len(f.Ports)])
	for len(out) < f.firstVLAN() {
		out = append(out, iface{})
	}
	return append(out, vlans...)
}

// reach is File.reach for the interfaces of now.
func (a *assembly) reach() []iface { return a.file.reach(a.ifaces, a.vlans) }

// ifaceOf is the interface of a port, the host port or a VLAN.
func (a *assembly) ifaceOf(number int) *iface {
	if first := a.file.firstVLAN(); number >= first && number-first < len(a.vlans) {
		return &a.vlans[number-first]
	}
	return &a.ifaces[number]
}

// vlanState is up, down, no carrier, or gone, for the kernel's interface of a VLAN.
func vlanState(f *iface) string {
	l, err := netlink.LinkByIndex(f.index)
	switch {
	case err != nil:
		return "gone"
	case l.Attrs().Flags&net.FlagUp == 0:
		return "down"
	case l.Attrs().OperState == netlink.OperDown || l.Attrs().OperState == netlink.OperLowerLayerDown:
		return "no carrier"
	}
	return "up"
}

// followVLANs takes over what the interfaces of VLANs are now: they may go, come back as others, or change MAC and MTU.
func (s *Server) followVLANs() {
	if len(s.vlans) == 0 {
		return
	}
	links, err := netlink.LinkList()
	if err != nil {
		s.log.Warn("the interfaces of VLANs cannot be listed", "error", err)
		return
	}
	moved := false
	s.file.eachVLAN(func(n, port int, v *VLAN, p *Port, _ string) {
		old := *s.ifaceOf(n)
		found, err := s.file.lookUpVLAN(links, v, p, s.ifaces[port].index)
		subject := "VLAN " + v.Name
		if err != nil {
			found = iface{name: old.name, mac: old.mac, mtu: old.mtu}
			if s.complaints[subject] != err.Error() {
				s.complain(subject, err.Error())
				s.log.Warn("a VLAN cannot be used until its interface is there and up", "vlan", v.Name, "reason", err)
			}
		} else {
			delete(s.complaints, subject)
		}
		if found == old {
			return
		}
		s.mu.Lock()
		*s.ifaceOf(n) = found
		s.mu.Unlock()
		for p := range s.placed {
			if p.Index == old.index {
				delete(s.placed, p)
			}
		}
		if err == nil {
			s.log.Info("the interface of a VLAN has changed", "vlan", v.Name, "interface", found.name, "index", found.index, "mac", macString(found.mac), "mtu", found.mtu)
			if err := s.state.move(old, found); err != nil {
				s.log.Warn("the kernel's state could not be noted", "error", err)
			}
		}
		moved = true
	})
	if moved {
		s.forget()
	}
}

// vlanViews are the VLANs among the ports.
func (s *Server) vlanViews() (out []PortView) {
	s.file.eachVLAN(func(n, _ int, v *VLAN, p *Port, _ string) {
		f := s.ifaceOf(n)
		tags := fmt.Sprint(v.ID)
		if v.Inner != 0 {
			tags += fmt.Sprintf(", inside it %d,", v.Inner)
		}
		out = append(out, PortView{Name: v.Name, Interface: f.name, MAC: macString(f.mac), MTU: f.mtu, State: s.linkState(n), Driver: "vlan",
			Note: fmt.Sprintf("VLAN %s of port %s, which has the queues and counters", tags, p.Name)})
	})
	return out
}
