package rewrite

import (
	"encoding/binary"
	"math/bits"

	"sluice/flow"
)

// ClampMSS lowers the maximum segment size that a SYN or SYN-ACK announces to mss, and reports whether it changed
// something. MSS is the link's MTU less IP and TCP headers without options (RFC 6691). A segment without the option is
// left alone: its sender is not to be sent more than 536 bytes, in IPv6 1220 (RFC 9293 section 3.7.1). Options behind
// one that cannot be read are left alone.
func ClampMSS(b []byte, p *Packet, mss uint16) bool {
	if p.Proto != flow.TCP || p.TCP.Flags&flow.FlagSYN == 0 {
		return false
	}
	const end, none, segment = 0, 1, 2
	t := b[p.L4:p.Payload]
	changed := false
	for at := tcpLen; at < len(t) && t[at] != end; {
		if t[at] == none {
			at++
			continue
		}
		if at+2 > len(t) || t[at+1] < 2 || at+int(t[at+1]) > len(t) {
			break
		}
		if t[at] == segment && t[at+1] == 4 {
			value := t[at+2 : at+4]
			old := binary.BigEndian.Uint16(value)
			if old > mss {
				binary.BigEndian.PutUint16(value, mss)
				before, after := old, mss
				if at&1 != 0 { // across two words: what is the upper byte in one is the lower in the other
					before, after = bits.ReverseBytes16(before), bits.ReverseBytes16(after)
				}
				c := t[16:18]
				binary.BigEndian.PutUint16(c, update(binary.BigEndian.Uint16(c), uint32(PortDiff(before, after))))
				changed = true
			}
		}
		at += int(t[at+1])
	}
	return changed
}
