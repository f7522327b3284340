package rewrite

import (
	"encoding/binary"

	"sluice/flow"
)

// addresses reads both addresses of the IP header h.
func addresses(h []byte, v6 bool) (src, dst flow.Addr) {
	if v6 {
		h = h[:ipv6Len]
		return flow.Addr{Hi: binary.BigEndian.Uint64(h[8:]), Lo: binary.BigEndian.Uint64(h[16:])},
			flow.Addr{Hi: binary.BigEndian.Uint64(h[24:]), Lo: binary.BigEndian.Uint64(h[32:])}
	}
	h = h[:ipv4Len]
	return flow.AddrFrom4(binary.BigEndian.Uint32(h[12:])), flow.AddrFrom4(binary.BigEndian.Uint32(h[16:]))
}

// putAddresses writes both addresses of the IP header h and leaves its checksum alone.
func putAddresses(h []byte, v6 bool, src, dst flow.Addr) {
	if v6 {
		h = h[:ipv6Len]
		binary.BigEndian.PutUint64(h[8:], src.Hi)
		binary.BigEndian.PutUint64(h[16:], src.Lo)
		binary.BigEndian.PutUint64(h[24:], dst.Hi)
		binary.BigEndian.PutUint64(h[32:], dst.Lo)
		return
	}
	h = h[:ipv4Len]
	binary.BigEndian.PutUint32(h[12:], src.V4())
	binary.BigEndian.PutUint32(h[16:], dst.V4())
}

// BadSource reports whether nobody can be answered at an address: 0/8, 127/8, multicast, reserved and broadcast (224/3;
// RFC 1122 section 3.2.1.3, RFC 1112); ::, ::1, multicast, IPv4-compatible (RFC 4291 sections 2.5 and 2.7). Such a source
// is martian (RFC 1812 section 5.3.7); as a destination the address is no single host's.
func BadSource(a flow.Addr) bool {
	if a.Is4() {
		first := a.V4() >> 24
		return first == 0 || first == 127 || first >= 224
	}
	return a.Hi>>56 == 0xff || a.Hi == 0 && a.Lo>>32 == 0
}

// CheckEnds refuses what no host sends to another: a martian source, a destination that is no single host, a packet from
// an address to itself (a land packet). For packets that would open a connection: those of a connection have passed it.
func CheckEnds(k *flow.Key) Refusal {
	switch {
	case k.Src == k.Dst:
		return Land
	case BadSource(k.Src):
		return MartianSource
	case BadSource(k.Dst):
		return MartianDestination
	}
	return Done
}
