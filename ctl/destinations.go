package ctl

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// ends is one text of the file, such as 10.20.0.0/16:80,8000-8999: an address or prefix with one or more ports.
type ends []engine.Destination

// parseEnds reads ADDRESS:PORTS, where the address may be a prefix and the ports any, or ports and ranges with commas.
func parseEnds(text string) (ends, error) {
	colon := strings.LastIndexByte(text, ':')
	if colon < 0 || !strings.ContainsAny(text, "/-,") || strings.HasSuffix(text, "]") {
		a, err := parseVirtual(text)
		if err != nil {
			if p, wrongEnd := netip.ParsePrefix(strings.Trim(text, "[]")); wrongEnd == nil {
				return nil, wrong("the port is missing").orUse("such as %s", engine.Destination{Prefix: p.Masked()})
			}
			return nil, err
		}
		return ends{engine.AddressPort(a.Addr(), a.Port())}, nil
	}
	host, ports := text[:colon], text[colon+1:]
	if inner, ok := strings.CutPrefix(host, "["); ok && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	} else if strings.Contains(host, ":") {
		if p, err := netip.ParsePrefix(text); err == nil {
			return nil, wrong("the port is missing").orUse("such as %s", engine.Destination{Prefix: p.Masked()})
		}
		return nil, wrong("want ip:port, found %q", shorten(text)).orUse("an IPv6 address or prefix is written in brackets: [2001:db8::/32]:80")
	}
	var prefix netip.Prefix
	if strings.Contains(host, "/") {
		p, err := parseNetwork(host)
		switch {
		case err != nil:
			return nil, err
		case p.IsSingleIP():
			return nil, wrong("%s is one address", p).orUse("write %s without the length", p.Addr())
		}
		prefix = p
	} else {
		a, err := netip.ParseAddr(host)
		if err != nil {
			return nil, noEnd(text)
		}
		if err := checkUsable(a); err != nil {
			return nil, err
		}
		prefix = netip.PrefixFrom(a, a.BitLen())
	}
	ranges, err := parsePorts(ports)
	eachError(err, func(e error) {
		if w, ok := e.(*problem); ok { //nolint:errorlint // as parsePorts has made it
			w.skip += utf8.RuneCountInString(text[:colon+1])
		}
	})
	var out ends
	for _, r := range ranges {
		out = append(out, engine.Destination{Prefix: prefix, Ports: r})
	}
	return out, err
}

// parsePorts reads any, or ports and ranges with commas between them.
func parsePorts(text string) (out []flow.PortRange, err error) {
	if text == "any" {
		return []flow.PortRange{{}}, nil
	}
	var errs []error
	skip := 0
	refuse := func(at int, w *problem, hint string) {
		w.skip = at
		errs = append(errs, w.orUse("%s", hint))
	}
	for part := range strings.SplitSeq(text, ",") {
		at := skip + len(part) - len(strings.TrimLeft(part, " "))
		skip += utf8.RuneCountInString(part) + 1
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		switch {
		case errA != nil || errB != nil || a == 0:
			refuse(at, wrong("%q is not a port; want 1 to 65535", shorten(part)), "or a range such as 8000-8999, several with commas, or any")
			continue
		case b < a || ranged && a == b:
			refuse(at, wrong("ports %s are not a range", shorten(part)), "first-last, such as 8000-8999")
			continue
		}
		if a == 1 && b == 65535 {
			a, b = 0, 0 // any
		}
		out = append(out, flow.PortRange{First: uint16(a), Last: uint16(b)})
	}
	return out, errors.Join(errs...)
}

// String is the ends as the file would have them.
func (e ends) String() string {
	if len(e) == 0 {
		return "none"
	}
	text := e[0].String()
	for _, d := range e[1:] {
		text += "," + d.PortText()
	}
	return text
}

// completeEnds lists all destinations of a virtual server with the keys that they are from, the first of which it is known by.
func (v *VirtualServer) completeEnds() {
	v.Destinations, v.endKeys = nil, nil
	add := func(e ends, key string) {
		for _, d := range e {
			v.Destinations, v.endKeys = append(v.Destinations, d), append(v.endKeys, key)
		}
	}
	add(v.ends, ".address")
	for i, e := range v.moreEnds {
		add(e, fmt.Sprintf(".addresses[%d]", i))
	}
	if len(v.Destinations) > 0 {
		v.Address = firstEnd(v.Destinations[0])
	}
}

// firstEnd is the beginning of a destination: its address, or a prefix's first one, and port, 0 for several.
func firstEnd(d engine.Destination) netip.AddrPort {
	port := d.Ports.First
	if d.AnyPort() || d.Ports.Last != port {
		port = 0
	}
	return netip.AddrPortFrom(d.Prefix.Addr(), port)
}

// firstEnds are the beginnings of all destinations.
func (v *VirtualServer) firstEnds() (out []netip.AddrPort) {
	for _, d := range v.Destinations {
		out = append(out, firstEnd(d))
	}
	return out
}

// onePort is the port of all destinations, 0 if they have several.
func (v *VirtualServer) onePort() uint16 {
	port := v.Address.Port()
	for _, e := range v.firstEnds() {
		if e.Port() != port {
			return 0
		}
	}
	return port
}

// simple reports whether the virtual server has one port of one address.
func (v *VirtualServer) simple() bool {
	spec := engine.VirtualSpec{Destinations: v.Destinations}
	return len(v.Destinations) > 0 && spec.Simple()
}

// addresses are the virtual server's own addresses, each once; prefixes are nobody's, nor is what a transparent mode serves.
func (v *VirtualServer) addresses() (out []netip.Addr) {
	for _, d := range v.Destinations {
		if a := d.Prefix.Addr(); d.IsAddress() && !v.Mode.transparent() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// entry is what a dictionary knows the virtual server by.
func (f *File) entry(v *VirtualServer) engine.Entry {
	spec := engine.VirtualSpec{Destinations: v.Destinations, Proto: v.number(), Ingress: f.portIndex(v.Port)}
	return spec.Entry(f.portNames())
}

// portNames are the ports as far as entries need them.
func (f *File) portNames() []engine.PortSpec {
	var ports []engine.PortSpec
	for _, name := range f.enginePorts() {
		ports = append(ports, engine.PortSpec{Name: name})
	}
	return ports
}

// portIndex is the number of a port or VLAN, or -1.
func (f *File) portIndex(name string) int {
	i, _ := f.portNumber(name)
	return i
}

// destinationRules adds a virtual server's destinations to the rules of a port; its prefixes only where its clients arrive.
// Other packets to its addresses are dealt with as rule says.
func destinationRules(into *rings.Rules, destinations []engine.Destination, proto uint8, onIngress bool, rule rings.AddressRule, seen map[netip.Addr]bool) {
	for _, d := range destinations {
		a := d.Prefix.Addr()
		if !d.IsAddress() {
			if onIngress { // one that is there already is the same entry of the program's table
				into.Prefixes = append(into.Prefixes, d.Prefix)
			}
			continue
		}
		r := rings.VirtualRule{Addr: a, Proto: proto}
		if !d.AnyPort() {
			r.Port = d.Ports.First
			if d.Ports.Last != d.Ports.First {
				r.PortLast = d.Ports.Last
			}
		}
		into.Virtuals = append(into.Virtuals, r)
		if !seen[a] {
			seen[a] = true
			rule.Addr = a
			into.Addresses = append(into.Addresses, rule)
		}
	}
}

// endsText is all destinations of a virtual server, for people.
func endsText(v *engine.VirtualSpec) string {
	var groups []ends
	for _, d := range v.All() {
		if n := len(groups); n > 0 && groups[n-1][0].Prefix == d.Prefix {
			groups[n-1] = append(groups[n-1], d)
			continue
		}
		groups = append(groups, ends{d})
	}
	text := make([]string, len(groups))
	for i := range groups {
		text[i] = groups[i].String()
	}
	return strings.Join(text, ", ")
}

// taken is a destination that a virtual server has, to find those that two have.
type taken struct {
	ports  flow.PortRange
	server int
	key    string
}

type claimKey struct {
	prefix   netip.Prefix
	protocol Protocol
	port     string // that a prefix is bound to
	ranged   bool
}

// checkOverlaps refuses destinations that two virtual servers have, or one has twice: the same port, ranges that overlap, any
// port twice, of the same protocol and of the same address, or prefix on the same ingress port.
func (v *validator) checkOverlaps(s *VirtualServer, i int, at string) {
	for n, d := range s.Destinations {
		c := claimKey{prefix: d.Prefix, protocol: s.Protocol, ranged: !d.AnyPort() && d.Ports.First != d.Ports.Last}
		if !d.IsAddress() || s.Mode.transparent() {
			c.port = s.Port
		}
		mine := taken{d.Ports, i, at + s.endKeys[n]}
		list := v.claims[c]
		place, _ := slices.BinarySearchFunc(list, mine, func(a, b taken) int { return int(a.ports.First) - int(b.ports.First) })
		for _, near := range []int{place - 1, place} {
			if near < 0 || near >= len(list) || list[near].ports.Last < mine.ports.First || list[near].ports.First > mine.ports.Last {
				continue
			}
			other := engine.Destination{Prefix: d.Prefix, Ports: list[near].ports}
			switch {
			case list[near].server == i:
				v.errorf(mine.key, "%s %s is given twice, first as %s in line %d", s.Protocol, d, other, v.line(list[near].key))
			case other == d:
				v.errorf(mine.key, "%s %s is already virtual server %q, in line %d", s.Protocol, d, v.file.VirtualServers[list[near].server].Name, v.line(list[near].key))
			default:
				v.errorf(mine.key, "%s %s overlaps %s of virtual server %q, in line %d", s.Protocol, d, other, v.file.VirtualServers[list[near].server].Name, v.line(list[near].key))
			}
			place = -1
			break
		}
		if place >= 0 {
			v.claims[c] = slices.Insert(list, place, mine)
		}
	}
}

// checkEnds checks the destinations of a virtual server.
func (v *validator) checkEnds(s *VirtualServer, i int, at string, own map[netip.Addr]int) {
	if len(s.Destinations) == 0 {
		given := func(key string) bool { return v.where[at+key] != (position{}) }
		if !given(".address") && !given(".addresses") {
			v.errorf(at, "address is missing")
		}
		return
	}
	for n, d := range s.Destinations {
		key := at + s.endKeys[n]
		switch first := s.Destinations[0]; {
		case d.Prefix.Addr().Is4() != first.Prefix.Addr().Is4():
			v.errorf(key, "%s is %s, and %s is %s: a virtual server has one family", d, familyOf(d.Prefix.Addr()), first, familyOf(first.Prefix.Addr()))
		case d.IsAddress() && !s.Mode.transparent():
			v.checkAddress(s, d.Prefix.Addr(), key, own)
			v.checkSameAddress(s, at, d.Prefix.Addr(), v.virtual[d.Prefix.Addr()])
		default:
			v.checkPrefix(s, i, at, key, d.Prefix)
		}
	}
	if s.Protocol != "" {
		v.checkOverlaps(s, i, at)
	}
}

// prefixOn is a prefix on an ingress port.
type prefixOn struct {
	netip.Prefix
	port string
}

// prefixLengths are the lengths that the prefixes of a family have on an ingress port.
type prefixLengths struct {
	port string
	v4   bool
}

// maxPrefixLengths is how many lengths the XDP program of a port knows of each family.
const maxPrefixLengths = 32

func (v *validator) checkPrefix(s *VirtualServer, i int, at, key string, p netip.Prefix) {
	if p.Addr().IsMulticast() || p.Bits() > 0 && p.Addr().IsLoopback() || p.Bits() >= 10 && p.Addr().IsLinkLocalUnicast() {
		v.errorf(key, "%s holds no address of one machine beyond the link", p)
		return
	}
	on := prefixOn{p, s.Port}
	first, known := v.prefixes[on]
	if !known {
		v.prefixes[on] = i
		of := prefixLengths{s.Port, p.Addr().Is4()}
		if !slices.Contains(v.lengths[of], p.Bits()) {
			if v.lengths[of] = append(v.lengths[of], p.Bits()); len(v.lengths[of]) == maxPrefixLengths+1 {
				v.errorf(key, "port %s has %s prefixes of more than %d lengths", s.Port, familyOf(p.Addr()), maxPrefixLengths)
			}
		}
		return
	}
	other := &v.file.VirtualServers[first]
	if other.Unmatched != s.Unmatched && other.Unmatched != "" && s.Unmatched != "" {
		v.errorf(at+".unmatched", "unmatched is %s here and %s in virtual server %q (line %d), which has the same prefix %s", s.Unmatched, other.Unmatched,
			other.Name, v.line(fmt.Sprintf("virtual-servers[%d].unmatched", first)), p)
	}
}
