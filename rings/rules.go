package rings

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Rules are what the XDP program of one port takes from the traffic of that port. The zero value takes nothing.
type Rules struct {
	Virtuals  []VirtualRule
	Addresses []AddressRule // settings of virtual addresses; one without a server is a virtual address too
	SNAT      []SNATRule
	Local     []netip.Addr // the host's own addresses; those that are virtual or SNAT as well may be among them
	Members   []MemberRule // only those that this port routes to
	// FarEnds are addresses that we send to from addresses of our own: ICMP errors about that come to local addresses.
	FarEnds []netip.Addr

	// Prefixes are what virtual servers of this port take besides addresses: what goes to one and no other rule excepts. They
	// have at most 32 lengths of each family.
	Prefixes []netip.Prefix
}

// VirtualRule is one virtual server. Port 0 is any port; Proto 0 is any protocol, and then Port must be 0. A rule
// for ICMP (or ICMPv6) is the same as AddressRule.ICMPEngine: a rule for any protocol leaves ICMP to the kernel.
type VirtualRule struct {
	Addr     netip.Addr
	Proto    uint8
	Port     uint16
	PortLast uint16 // last port of a range that begins at Port; 0 for a single port
}

// AddressRule says who gets what a virtual address receives and no VirtualRule matches.
type AddressRule struct {
	Addr          netip.Addr
	UnmatchedHost bool // the kernel, instead of the engine
	ICMPEngine    bool // the engine, instead of the kernel, which answers echo requests
}

// SNATRule is a source address of translated connections with its ports and ICMP identifiers, First to Last.
// There is one range for an address.
type SNATRule struct {
	Addr        netip.Addr
	First, Last uint16
	ICMPEngine  bool // all ICMP to the address is the engine's, instead of just the echo replies in the range
}

// MemberRule is a member's end of its connections. Port 0 is any port; Proto 0 is any protocol, and then Port
// must be 0.
type MemberRule struct {
	Addr  netip.Addr
	Proto uint8
	Port  uint16
}

// ruleKey and ruleValue are struct rule_key and struct rule_value of xdp/classify.c.
type ruleKey struct {
	addr  [16]byte
	port  [2]byte // network byte order
	proto uint8
	kind  uint8
}

type ruleValue struct {
	flags       uint32
	first, last uint16
}

const (
	ruleKeySize   = 20
	ruleValueSize = 8

	kindAddress = 1
	kindService = 2
	kindMember  = 3
	kindLengths = 4
	kindPrefix  = 5
	kindV6      = 0x80

	addrVirtual       = 1 << 0
	addrUnmatchedHost = 1 << 1
	addrICMPEngine    = 1 << 2
	addrSNAT          = 1 << 3
	addrLocal         = 1 << 4
	addrMember        = 1 << 5
	addrMemberAny     = 1 << 6
	addrFarEnd        = 1 << 7

	wildcardV4 = 1 << 0
	wildcardV6 = 1 << 1
)

func newRuleKey(kind uint8, addr netip.Addr, proto uint8, port uint16) ruleKey {
	k := ruleKey{addr: addr.As16(), proto: proto, kind: kind}
	if addr.Is6() {
		k.kind |= kindV6
	}
	binary.BigEndian.PutUint16(k.port[:], port)
	return k
}

// ruleTable collects the entries of one table.
type ruleTable map[ruleKey]ruleValue

func (t ruleTable) flag(addr netip.Addr, flags uint32) {
	k := newRuleKey(kindAddress, addr, 0, 0)
	v := t[k]
	v.flags |= flags
	t[k] = v
}

func (t ruleTable) flags(addr netip.Addr) uint32 { return t[newRuleKey(kindAddress, addr, 0, 0)].flags }

// compile turns the rules into the entries of the program's table and the bits of its wildcards.
func (r Rules) compile() (ruleTable, uint32, error) {
	t := ruleTable{}
	if err := r.compileVirtuals(t); err != nil {
		return nil, 0, err
	}
	if err := r.compileSNAT(t); err != nil {
		return nil, 0, err
	}
	for _, a := range r.Local {
		a, err := ruleAddr(a)
		if err != nil {
			return nil, 0, fmt.Errorf("local address: %w", err)
		}
		t.flag(a, addrLocal)
	}
	if err := r.compileMembers(t); err != nil {
		return nil, 0, err
	}
	for _, a := range r.FarEnds {
		a, err := ruleAddr(a)
		if err != nil {
			return nil, 0, fmt.Errorf("far end: %w", err)
		}
		t.flag(a, addrFarEnd)
	}
	wildcard, err := r.compilePrefixes(t)
	return t, wildcard, err
}

// The lengths of the prefixes of a family fill up to 4 values, a byte each, the longest first; the rest is noLength.
const (
	valueLengths = 4
	maxLengths   = valueLengths * ruleValueSize
	noLength     = 0xff
)

// compilePrefixes enters the prefixes and returns which families have any.
func (r Rules) compilePrefixes(t ruleTable) (wildcard uint32, err error) {
	var lengths [2][]byte
	for _, p := range r.Prefixes {
		if !p.IsValid() || p != p.Masked() || p.Addr().Is4In6() {
			return 0, fmt.Errorf("virtual prefix: %s is not a prefix", p)
		}
		family, flag := 0, uint32(wildcardV4)
		if p.Addr().Is6() {
			family, flag = 1, wildcardV6
		}
		wildcard |= flag
		bits := mappedBits(p)
		t[newRuleKey(kindPrefix, p.Addr(), bits, 0)] = ruleValue{}
		if !slices.Contains(lengths[family], bits) {
			lengths[family] = append(lengths[family], bits)
		}
	}
	for family, any := range [2]netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		l := lengths[family]
		if len(l) > maxLengths {
			return 0, fmt.Errorf("the virtual prefixes have %d lengths; at most %d", len(l), maxLengths)
		}
		slices.SortFunc(l, func(a, b byte) int { return int(b) - int(a) })
		for i := 0; len(l) > 0; i++ {
			value := [ruleValueSize]byte{noLength, noLength, noLength, noLength, noLength, noLength, noLength, noLength}
			l = l[copy(value[:], l):]
			t[lengthsKey(any.Is6(), i)] = ruleValue{
				flags: binary.NativeEndian.Uint32(value[:]), first: binary.NativeEndian.Uint16(value[4:]), last: binary.NativeEndian.Uint16(value[6:]),
			}
		}
	}
	return wildcard, nil
}

// mappedBits is the length of a prefix, counted from the beginning of an IPv4 address's mapped form.
func mappedBits(p netip.Prefix) uint8 { return uint8(p.Bits() + 128 - p.Addr().BitLen()) }

// lengthsKey is that of the ith value of lengths.
func lengthsKey(v6 bool, i int) ruleKey {
	k := ruleKey{kind: kindLengths, proto: uint8(i)}
	if v6 {
		k.kind |= kindV6
	}
	return k
}

func (r Rules) compileVirtuals(t ruleTable) error {
	for _, a := range r.Addresses {
		addr, err := ownAddr(a.Addr)
		if err != nil {
			return fmt.Errorf("virtual address: %w", err)
		}
		flags := uint32(addrVirtual)
		if a.UnmatchedHost {
			flags |= addrUnmatchedHost
		}
		if a.ICMPEngine {
			flags |= addrICMPEngine
		}
		t.flag(addr, flags)
	}
	// All flags come before the services: those of an address whose unmatched traffic is the engine's need no
	// entries, as the address alone decides.
	for _, v := range r.Virtuals {
		addr, err := ownAddr(v.Addr)
		if err != nil {
			return fmt.Errorf("virtual server: %w", err)
		}
		if err := checkPort(v.Proto, v.Port, v.PortLast); err != nil {
			return fmt.Errorf("virtual server %s: %w", addr, err)
		}
		t.flag(addr, addrVirtual)
		if isICMP(addr, v.Proto) {
			t.flag(addr, addrICMPEngine)
		}
		if v.Proto == 0 {
			k := newRuleKey(kindAddress, addr, 0, 0)
			e := t[k]
			e.flags &^= addrUnmatchedHost
			t[k] = e
		}
	}
	for _, v := range r.Virtuals {
		addr := v.Addr.Unmap()
		if t.flags(addr)&addrUnmatchedHost == 0 || isICMP(addr, v.Proto) {
			continue
		}
		first, last := v.ports()
		for port := int(first); port <= int(last); port++ {
			t[newRuleKey(kindService, addr, v.Proto, uint16(port))] = ruleValue{}
		}
	}
	return nil
}

// ports are the ports of the entries; a range of all ports is one entry for any port.
func (v VirtualRule) ports() (first, last uint16) {
	switch {
	case v.PortLast == 0:
		return v.Port, v.Port
	case v.Port <= 1 && v.PortLast == 65535:
		return 0, 0
	}
	return v.Port, v.PortLast
}

func (r Rules) compileSNAT(t ruleTable) error {
	for _, s := range r.SNAT {
		addr, err := ownAddr(s.Addr)
		if err != nil {
			return fmt.Errorf("SNAT address: %w", err)
		}
		if s.First == 0 || s.Last < s.First {
			return fmt.Errorf("SNAT address %s: ports %d to %d are not a range", addr, s.First, s.Last)
		}
		k := newRuleKey(kindAddress, addr, 0, 0)
		v := t[k]
		if v.flags&addrSNAT != 0 && (v.first != s.First || v.last != s.Last) {
			return fmt.Errorf("SNAT address %s: has two ranges of ports, %d to %d and %d to %d: use one, or two addresses",
				addr, v.first, v.last, s.First, s.Last)
		}
		v.flags |= addrSNAT
		if s.ICMPEngine {
			v.flags |= addrICMPEngine
		}
		v.first, v.last = s.First, s.Last
		t[k] = v
	}
	return nil
}

func (r Rules) compileMembers(t ruleTable) error {
	for _, m := range r.Members {
		addr, err := ruleAddr(m.Addr)
		if err != nil {
			return fmt.Errorf("member: %w", err)
		}
		if err := checkPort(m.Proto, m.Port, 0); err != nil {
			return fmt.Errorf("member %s: %w", addr, err)
		}
		if m.Proto == 0 {
			t.flag(addr, addrMember|addrMemberAny)
			continue
		}
		t.flag(addr, addrMember)
		t[newRuleKey(kindMember, addr, m.Proto, m.Port)] = ruleValue{}
	}
	return nil
}

// ruleAddr returns a in the form of the table's keys.
func ruleAddr(a netip.Addr) (netip.Addr, error) {
	if !a.IsValid() {
		return a, fmt.Errorf("address is missing")
	}
	return a.Unmap().WithZone(""), nil
}

// ownAddr is ruleAddr for an address that receives: those that always go to the kernel are refused, as the rule
// would never apply.
func ownAddr(a netip.Addr) (netip.Addr, error) {
	a, err := ruleAddr(a)
	if err != nil {
		return a, err
	}
	if a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified() || (a.Is4() && a.As4()[0] >= 0xe0) {
		return a, fmt.Errorf("%s is not a global unicast address: its traffic always goes to the kernel", a)
	}
	return a, nil
}

func isICMP(a netip.Addr, proto uint8) bool {
	return a.Is4() && proto == unix.IPPROTO_ICMP || a.Is6() && proto == unix.IPPROTO_ICMPV6
}

func checkPort(proto uint8, first, last uint16) error {
	if last != 0 && last < first {
		return fmt.Errorf("ports %d to %d are not a range", first, last)
	}
	if first == 0 && last == 0 {
		return nil
	}
	switch proto {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		return nil
	}
	return fmt.Errorf("protocol %d has no ports: only TCP, UDP and SCTP have", proto)
}
