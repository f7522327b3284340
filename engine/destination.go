package engine

import (
	"fmt"
	"net/netip"
	"strconv"

	"sluice/flow"
)

// Destination is what packets to a virtual server are addressed to.
type Destination struct {
	// Prefix is the addresses: all bits are an address of our own, and packets to it are the virtual server's on whatever
	// port they arrive. Of any other prefix only what arrives on VirtualSpec.Ingress is.
	Prefix netip.Prefix
	// Ports are the destination ports; First 0 is any port, or a protocol without ports.
	Ports flow.PortRange
}

// IsAddress reports whether the destination is one address.
func (d Destination) IsAddress() bool { return d.Prefix.IsSingleIP() }

// AnyPort reports whether every port is meant.
func (d Destination) AnyPort() bool {
	return d.Ports.First == 0 || d.Ports.First == 1 && d.Ports.Last == 65535
}

// Host is the address or prefix as the configuration has it, in brackets for IPv6.
func (d Destination) Host() string {
	host := d.Prefix.String()
	if d.IsAddress() {
		host = d.Prefix.Addr().String()
	}
	if d.Prefix.Addr().Is6() {
		host = "[" + host + "]"
	}
	return host
}

// PortText is the ports as the configuration has them: any, 80, 8000-8999.
func (d Destination) PortText() string {
	switch {
	case d.AnyPort():
		return "any"
	case d.Ports.First == d.Ports.Last:
		return strconv.Itoa(int(d.Ports.First))
	}
	return fmt.Sprintf("%d-%d", d.Ports.First, d.Ports.Last)
}

// String is the form that the configuration has for it: 10.10.1.100:80, [2001:db8::1]:8000-8999, 0.0.0.0/0:any.
func (d Destination) String() string { return d.Host() + ":" + d.PortText() }

// AddressPort is the destination that is one port of one address; port 0 is any.
func AddressPort(addr netip.Addr, port uint16) Destination {
	return Destination{netip.PrefixFrom(addr, addr.BitLen()), flow.PortRange{First: port, Last: port}}
}

// All are the destinations of a virtual server: those listed, or else its address and port.
func (v *VirtualSpec) All() []Destination {
	if len(v.Destinations) > 0 {
		return v.Destinations
	}
	return []Destination{AddressPort(v.Addr, v.Port)}
}

// Simple reports whether a virtual server has one port of one address.
func (v *VirtualSpec) Simple() bool {
	all := v.All()
	return len(all) == 1 && all[0].IsAddress() && !all[0].AnyPort() && all[0].Ports.First == all[0].Ports.Last
}

// Entry is what a dictionary knows a virtual server by: its first destination, with the port that a prefix is bound to. A
// virtual server whose first destination stays keeps its id, and with it its counters and connections. The entry has no
// id yet.
func (v *VirtualSpec) Entry(ports []PortSpec) Entry {
	d := v.All()[0]
	e := Entry{Kind: "virtual", Addr: d.Prefix.Addr(), Proto: v.Proto}
	if !d.AnyPort() {
		e.Port = d.Ports.First
		if d.Ports.Last != d.Ports.First {
			e.Last = d.Ports.Last
		}
	}
	if !d.IsAddress() {
		e.Prefix = d.Prefix
		if v.Ingress >= 0 && v.Ingress < len(ports) {
			e.Ingress = ports[v.Ingress].Name
		}
	}
	return e
}

// Spec is what an entry of a virtual server alone says of it, for one that is no longer configured.
func (e *Entry) Spec(ports []PortSpec) VirtualSpec {
	v := VirtualSpec{Addr: e.Addr, Port: e.Port, Proto: e.Proto}
	d := AddressPort(e.Addr, e.Port)
	if e.Last != 0 {
		d.Ports.Last = e.Last
	}
	if e.Prefix.IsValid() {
		d.Prefix = e.Prefix
		for i := range ports {
			if ports[i].Name == e.Ingress {
				v.Ingress = i
			}
		}
	}
	v.Destinations = []Destination{d}
	return v
}
