package rewrite

import (
	"encoding/binary"
	"hash/crc32"

	"sluice/flow"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Where things are in an SCTP packet (RFC 9260 section 3).
const (
	sctpSumAt  = 8
	chunkLen   = 4
	initLen    = 20 // of INIT and INIT ACK without parameters
	reflectBit = 1  // T, of ABORT and SHUTDOWN COMPLETE
)

// maxChunks is how many chunks of a packet are looked at. Those that matter come before DATA and are few.
const maxChunks = 16

// chunks reads an SCTP packet's tag and the types of its chunks. More than the first counts: an ABORT follows what else
// is bundled with it (RFC 9260 section 3.3.7), a COOKIE ECHO may follow AUTH (RFC 4895). If the chunks contradict the
// packet's length none is believed. So many bytes of the packet are behind b.
func chunks(b []byte, behind int, c *flow.Chunks) {
	*c = flow.Chunks{Tag: binary.BigEndian.Uint32(b[4:])}
	for b, n := b[sctpLen:], 0; len(b) > 0 && n < maxChunks; n++ {
		if len(b) < chunkLen {
			c.Types = 0
			return
		}
		size := int(binary.BigEndian.Uint16(b[2:]))
		if size < chunkLen || size > len(b)+behind {
			c.Types = 0
			return
		}
		kind := min(b[0], flow.ChunkOther)
		c.Types |= 1 << kind
		switch kind {
		case flow.ChunkInit, flow.ChunkInitAck:
			if size < initLen || len(b) < initLen {
				c.Types = 0
				return
			}
			c.InitTag = binary.BigEndian.Uint32(b[4:])
		case flow.ChunkAbort, flow.ChunkShutdownComplete:
			c.Reflected = b[1]&reflectBit != 0
		case flow.ChunkData:
			return // control chunks come first (RFC 9260 section 6.10)
		}
		b = b[min((size+3)&^3, len(b)):] // the last one's padding may be missing
	}
}

// setPort writes a port and corrects the checksum for it and, with TCP and UDP, for the address: diff covers both.
func setPort(b []byte, p *Packet, at, port uint16, diff Diff) {
	if p.Proto == flow.SCTP {
		setPortSCTP(b[p.L4:p.reach(b)], p.behind(b), at, port)
		return
	}
	binary.BigEndian.PutUint16(b[p.L4+at:], port)
	updateL4(b, p, diff)
}

// setPortSCTP writes a port at offset at, 0 or 2, of an SCTP packet.
func setPortSCTP(b []byte, behind int, at, port uint16) {
	ports := binary.BigEndian.Uint32(b)
	if at == 0 {
		setPortsSCTP(b, behind, uint32(port)<<16|ports&0xffff)
	} else {
		setPortsSCTP(b, behind, ports&^0xffff|uint32(port))
	}
}

// setPortsSCTP writes both ports of an SCTP packet. The checksum is a CRC32c over the packet alone, sent least
// significant byte first (RFC 9260 appendix A). A CRC is linear: what a change adds to it depends on the change alone,
// not on the bytes that stay. So the checksum is changed by the difference of two sums and not replaced: one that was
// wrong stays wrong, and its receiver still sees that the packet was damaged. The checksum's own bytes cancel out. Of the bytes
// behind b only their number counts.
func setPortsSCTP(b []byte, behind int, ports uint32) {
	if binary.BigEndian.Uint32(b) == ports {
		return
	}
	before := crc32.Checksum(b, castagnoli)
	binary.BigEndian.PutUint32(b, ports)
	sum := b[sctpSumAt : sctpSumAt+4]
	old := binary.LittleEndian.Uint32(sum)
	if old == 0 && (before != 0 || behind > 0) {
		return // the ends have agreed to do without (RFC 9653)
	}
	binary.LittleEndian.PutUint32(sum, old^passZeros(before^crc32.Checksum(b, castagnoli), behind))
}
