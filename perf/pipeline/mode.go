package pipeline

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"sluice/engine"
	"sluice/flow"
	"sluice/rewrite"
)

// mode is a way of forwarding, or a kind of packet: what makes its configuration and its traffic others than those of nat. What
// packets look like on the servers' side is not said here but seen, when connections are opened (establish.go). A mode to be
// measured is an entry of the table.
type mode struct {
	name     string
	apply    func(*engine.Spec)
	timeouts engine.Timeouts // zero: the defaults
	// oneSided says that servers answer past the engine.
	oneSided bool
	tunnel   bool          // what servers get is inside another packet
	tags     [ports]uint16 // VLAN of the frames on a port; 0: none
	proto    uint8         // of the connections that have traffic; 0: all
	// frame makes packet at of the sequence of a port, on connection i; nil: a request or a reply. Packets 2n and 2n+1 are on the
	// same connection.
	frame func(b *bed, port, at int, i uint32) []byte
}

// baseline is the mode that others are compared with.
const baseline = "nat"

var modes = []mode{
	{name: baseline, apply: func(*engine.Spec) {}},
	{name: "fullnat", apply: fullNAT},
	{name: "direct-return", apply: directReturn, oneSided: true},
	{name: "router", apply: router},
	{name: "router-snat", apply: routerSNAT},
	{name: "firewall", apply: firewall},
	{name: "forward", apply: forward},
	{name: "forward-snat", apply: forwardSNAT},
	{name: "ipip", apply: ipip, oneSided: true, tunnel: true},
	{name: "gue", apply: gue, oneSided: true, tunnel: true},
	{name: "vlan", apply: vlan, tags: [ports]uint16{outside: 10, inside: 20}},
	{name: "icmp-errors", apply: func(*engine.Spec) {}, frame: (*bed).icmpError},
	{name: "fragments", apply: func(*engine.Spec) {}, proto: flow.UDP, frame: (*bed).part},
}

// Modes are the names of what can be measured.
func Modes() (names []string) {
	for _, m := range modes {
		names = append(names, m.name)
	}
	return names
}

func modeOf(name string) (mode, error) {
	i := slices.IndexFunc(modes, func(m mode) bool { return m.name == name })
	if i < 0 {
		return mode{}, fmt.Errorf("no mode %q; there are: %s", name, strings.Join(Modes(), ", "))
	}
	return modes[i], nil
}

// snatAddresses, 172.31.255.0 and on, have ports for 64 million connections to each member's port.
const (
	snatAddresses = 128
	snatBase      = 172<<24 + 31<<16 + 255<<8
)

func fullNAT(s *engine.Spec) {
	setMode(s, engine.FullNAT)
	addSNAT(s)
}

// setMode gives every virtual server a mode.
func setMode(s *engine.Spec, m engine.Mode) {
	for i := range s.Virtuals {
		s.Virtuals[i].Mode = m
	}
}

// addSNAT has connections come from SNAT addresses of their family.
func addSNAT(s *engine.Spec) {
	pool := engine.SNATSpec{Name: "out"}
	versions := map[int]bool{}
	for i := range s.Virtuals {
		s.Virtuals[i].SNAT = pool.Name
		versions[version(&s.Virtuals[i])] = true
	}
	for _, v := range []int{4, 6} {
		for i := range uint32(snatAddresses) {
			if versions[v] {
				pool.Addresses = append(pool.Addresses, engine.SNATAddress{Addr: address(v, snatBase+i), Ports: flow.PortRange{First: 1024, Last: 65535}})
			}
		}
	}
	s.SNAT = []engine.SNATSpec{pool}
}

func version(v *engine.VirtualSpec) int {
	if v.All()[0].Prefix.Addr().Is6() {
		return 6
	}
	return 4
}

func directReturn(s *engine.Spec) {
	keepPorts(s)
	setMode(s, engine.DirectReturn)
}

// keepPorts leaves ports what the client asked for.
func keepPorts(s *engine.Spec) {
	for i := range s.Pools {
		for j := range s.Pools[i].Members {
			s.Pools[i].Members[j].Port = 0
		}
	}
}

// vlan has clients in VLAN 10 and members in VLAN 20.
func vlan(s *engine.Spec) {
	for p, id := range [ports]uint16{outside: 10, inside: 20} {
		s.Ports = append(s.Ports, engine.PortSpec{Name: fmt.Sprint("vlan", id), MAC: s.Ports[p].MAC,
			VLAN: engine.VLANSpec{Parent: p, Tags: rewrite.VLANTags{IDs: [2]uint16{id}, N: 1}}})
	}
	for i := range s.Pools {
		for j := range s.Pools[i].Members {
			s.Pools[i].Members[j].Hop.Port = ports + inside
		}
	}
}

// tag puts the mode's tag into the head of a frame on a port and returns the frame's length with it.
func (m *mode) tag(port int, head []byte, length uint16) uint16 {
	if m.tags[port] == 0 {
		return length
	}
	copy(head[16:], head[12:len(head)-4])
	binary.BigEndian.PutUint16(head[12:], 0x8100)
	binary.BigEndian.PutUint16(head[14:], m.tags[port])
	return length + 4
}

// far is a router on the way, which reports errors.
const far = 203<<24 | 113<<8 | 1

// icmpError says that the last packet that connection i has sent out of the port was too big, and quotes 8 bytes of it (RFC 792).
func (b *bed) icmpError(port, _ int, i uint32) []byte {
	quoted, proto := b.tuple(i)
	dst, src := outsideMAC, clientMAC
	quoted = quoted.reversed()
	if port == inside {
		quoted = b.answers[i].reversed()
		dst, src = insideMAC, serverMAC
	}
	f := make([]byte, etherLen+ipLen+8+ipLen+8)
	copy(f, dst[:])
	copy(f[6:], src[:])
	f[12] = 0x08
	ip4Header(f[etherLen:], far, quoted.src, flow.ICMP, len(f)-etherLen, 0)
	m := f[etherLen+ipLen:]
	m[0], m[1], m[6], m[7] = 3, 4, 1280>>8, 1280&255
	ip4Header(m[8:], quoted.src, quoted.dst, proto, 1400, 0x40)
	binary.BigEndian.PutUint16(m[8+ipLen:], quoted.sport)
	binary.BigEndian.PutUint16(m[8+ipLen+2:], quoted.dport)
	if proto == flow.UDP {
		binary.BigEndian.PutUint16(m[8+ipLen+4:], 1400-ipLen) // and no checksum
	} else {
		binary.BigEndian.PutUint32(m[8+ipLen+4:], clientISN+1)
	}
	binary.BigEndian.PutUint16(m[2:], checksum(0, m))
	return f
}

// part is the first or the second half of a datagram of connection i, which have the same identification.
func (b *bed) part(port, at int, i uint32) []byte {
	const payload, first = 40, udpLen + 24
	whole := make([]byte, etherLen+ipLen+udpLen+payload+64)
	if port == outside {
		b.request(whole, i, ipLen+udpLen+payload)
	} else {
		b.reply(whole, i, ipLen+udpLen+payload)
	}
	t, _ := readHead(whole)
	data, field := whole[etherLen+ipLen:etherLen+ipLen+first], byte(0x20)
	offset := 0
	if at&1 == 1 {
		data, field, offset = whole[etherLen+ipLen+first:etherLen+ipLen+udpLen+payload], 0, first/8
	}
	f := make([]byte, max(minFrame, etherLen+ipLen+len(data)))
	copy(f, whole[:etherLen])
	copy(f[etherLen+ipLen:], data)
	h := f[etherLen : etherLen+ipLen]
	binary.BigEndian.PutUint16(h[4:], uint16(at/2))
	h[7] = byte(offset)
	ip4Header(h, t.src, t.dst, flow.UDP, ipLen+len(data), field)
	return f
}

// ip4Header completes an IPv4 header, of which the identification and the lower byte of the fragment offset are there.
func ip4Header(h []byte, src, dst uint32, proto uint8, length int, flags byte) {
	h = h[:ipLen]
	h[0], h[6], h[8], h[9] = 0x45, flags, 64, proto
	binary.BigEndian.PutUint16(h[2:], uint16(length))
	binary.BigEndian.PutUint32(h[12:], src)
	binary.BigEndian.PutUint32(h[16:], dst)
	h[10], h[11] = 0, 0
	binary.BigEndian.PutUint16(h[10:], checksum(0, h))
}
