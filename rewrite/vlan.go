package rewrite

import "encoding/binary"

// Where things are in a tag (IEEE 802.1Q): the type before it, then priority, drop eligibility and id.
const (
	typeAt   = 12 // of the first EtherType
	tagAt    = 14
	vlanMask = 0x0fff
)

// Tags reads a frame's VLAN tags, outermost first, as they are in the tag. n is how many there are; no more than two are
// looked for. b is a frame that Parse took.
func Tags(b []byte) (tags [2]uint16, n int) {
	for at := typeAt; n < 2 && at+vlanLen+2 <= len(b); at += vlanLen {
		if t := binary.BigEndian.Uint16(b[at:]); t != etherVLAN && t != etherQinQ {
			break
		}
		tags[n] = binary.BigEndian.Uint16(b[at+2:])
		n++
	}
	return tags, n
}

// Shift moves a packet's offsets by n bytes, when its headers now begin that much later in the frame.
func (p *Packet) Shift(n int) {
	p.L3, p.L4 = uint16(int(p.L3)+n), uint16(int(p.L4)+n)
	p.End, p.Payload = uint16(int(p.End)+n), uint16(int(p.Payload)+n)
}

// PushTag puts a tag in front of those that the frame at b[head:] has: the addresses move into the headroom. tpid is
// 0x8100, or 0x88a8 for the outer of two (IEEE 802.1ad). It returns where the frame begins now.
func PushTag(b []byte, head int, p *Packet, tpid, tag uint16) (int, Refusal) {
	if head < vlanLen {
		return head, NoRoom
	}
	start := head - vlanLen
	copy(b[start:start+typeAt], b[head:head+typeAt])
	binary.BigEndian.PutUint16(b[start+typeAt:], tpid)
	binary.BigEndian.PutUint16(b[start+tagAt:], tag)
	p.Shift(vlanLen)
	p.VLAN = tag
	return start, Done
}

// PopTag takes away the outermost tag of the frame at b[head:], which has one, and returns where the frame begins now.
func PopTag(b []byte, head int, p *Packet) int {
	start := head + vlanLen
	copy(b[start:start+typeAt], b[head:head+typeAt])
	p.Shift(-vlanLen)
	tags, _ := Tags(b[start:])
	p.VLAN = tags[0]
	return start
}

// SetVLAN gives the frame at b[head:] the outermost VLAN id: a tag that it has keeps its priority and its inner tag, one
// that it has not is put in (802.1Q, priority 0), and with id 0 the tag goes. It returns where the frame begins now.
func SetVLAN(b []byte, head int, p *Packet, id uint16) (int, Refusal) {
	tags, n := Tags(b[head:])
	switch {
	case n == 0 && id == 0:
		return head, Done
	case n == 0:
		return PushTag(b, head, p, etherVLAN, id&vlanMask)
	case id == 0:
		return PopTag(b, head, p), Done
	}
	p.VLAN = tags[0]&^vlanMask | id&vlanMask
	binary.BigEndian.PutUint16(b[head+tagAt:], p.VLAN)
	return head, Done
}

// VLANMask is the id in a tag; priority and drop eligibility are above it.
const VLANMask = vlanMask

// VLANTags are the tags of a VLAN, outermost first.
type VLANTags struct {
	IDs  [2]uint16 // 1 to 4094
	TPID uint16    // of the outermost; 0 is 0x8100, or 0x88a8 for the outer of two
	N    uint8     // 0 to 2
}

// Retag gives the frame at b[head:], of which the outermost own tags are those of the VLAN that it comes from, the tags of
// another: they take their place and keep their priority, and further tags stay behind them. Where own is 0, a tag that the
// frame has all the same gives way to one that it gets. It returns where the frame begins now. A frame has at most two tags:
// Untaggable is one that would have more, NoRoom one without room in front.
func Retag(b []byte, head, own int, to *VLANTags) (int, Refusal) {
	tags, n := Tags(b[head:])
	if own == 0 {
		own = int(to.N)
	}
	own = min(own, n)
	grow := int(to.N) - own
	switch {
	case n+grow > 2:
		return head, Untaggable
	case head < grow*vlanLen:
		return head, NoRoom
	case grow == 0:
		for i := range own {
			binary.BigEndian.PutUint16(b[head+tagAt+i*vlanLen:], tags[i]&^vlanMask|to.IDs[i])
		}
		return head, Done
	}
	var p Packet // whose offsets nobody asks for
	for range own {
		head = PopTag(b, head, &p)
	}
	for i := int(to.N) - 1; i >= 0; i-- {
		tpid, priority := uint16(etherVLAN), tags[min(i, max(own-1, 0))]&^vlanMask
		if i == 0 && to.TPID != 0 {
			tpid = to.TPID
		} else if i == 0 && to.N == 2 {
			tpid = etherQinQ
		}
		if own == 0 {
			priority = 0
		}
		head, _ = PushTag(b, head, &p, tpid, priority|to.IDs[i])
	}
	return head, Done
}
