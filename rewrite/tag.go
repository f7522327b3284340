package rewrite

import "encoding/binary"

// What Retag does for frames with one tag at most, on the head of a frame; tag_test.go holds the two against each other.

// TagLen is the length of a VLAN tag.
const TagLen = vlanLen

// HasTags reports whether a frame of 18 bytes at least has a tag, and whether it has another behind it.
func HasTags(h *Head) (tagged, more bool) {
	tagged = isTag(binary.BigEndian.Uint16(h[typeAt:]))
	return tagged, tagged && isTag(binary.BigEndian.Uint16(h[typeAt+vlanLen:]))
}

func isTag(etherType uint16) bool { return etherType == etherVLAN || etherType == etherQinQ }

// ReplaceTag gives the frame's tag another id; its priority stays.
func ReplaceTag(h *Head, id uint16) {
	binary.BigEndian.PutUint16(h[tagAt:], binary.BigEndian.Uint16(h[tagAt:])&^vlanMask|id)
}

// DropTag takes the frame's tag away: it begins TagLen bytes later then.
func DropTag(h *Head) { *(*[typeAt]byte)(h[vlanLen:]) = *(*[typeAt]byte)(h[:]) }

// AddTag puts an 802.1Q tag with priority 0 into a frame that began TagLen bytes later.
func AddTag(h *Head, id uint16) {
	*(*[typeAt]byte)(h[:]) = *(*[typeAt]byte)(h[vlanLen:])
	binary.BigEndian.PutUint32(h[typeAt:], etherVLAN<<16|uint32(id))
}
