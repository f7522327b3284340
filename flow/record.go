package flow

// Side says from which end of a connection a packet comes.
type Side uint8

// The two sides of a connection.
const (
	FromClient Side = 0
	FromServer Side = 1
)

// Window is what one end of a TCP connection has sent and may send (after RFC 9293 section 3.4 and the idea of
// van Rooij, Real Stateful TCP Packet Filtering, 2001). Sequence numbers are the packet's own, host byte order.
type Window struct {
	End    uint32 // highest sequence number sent, plus one
	MaxEnd uint32 // highest sequence number that this end may send: the other's acknowledgement plus its window
}

// Record is one connection: 128 bytes, two cache lines. The first line is what a lookup compares and a rewrite
// needs, the second what tracking updates. It holds no pointers: node, SNAT address and virtual server are ids.
// The owner of the table is the only writer.
type Record struct {
	state   uint64 // see the bits below; 0 is a free record; stored last when a record is made
	Client  Addr   // client-side client address
	Virtual Addr   // client-side server address: the virtual address, or what the client asked for
	CPort   uint16 // client-side client port
	VPort   uint16 // client-side server port
	SPort   uint16 // server-side client port: CPort unless SNAT changed it
	NPort   uint16 // server-side server port
	Node    uint32 // id of the server-side server: its address and next hop; 0: Virtual itself
	SNAT    uint32 // id of the server-side client address; 0: the client's own
	L3Diff  uint16 // what the rewrite from client to server adds to the IPv4 header's sum
	L4Diff  uint16 // and to the sum of TCP or UDP; the way back adds the complements
	Seen    uint32 // milliseconds, when the last packet that counts was seen

	ClientMAC [6]byte // where answers go
	ClientIf  uint16  // port on which the client's packets arrive
	ServerIf  uint16  // port on which the server's packets arrive
	_         uint16
	VS        uint32 // id of the virtual server
	Win       [2]Window
	MaxWin    [2]uint16 // largest window announced by each end, unscaled
	Scale     uint8     // window scale: client's in the low half, server's in the high; 15 is unknown
	packetsHi [2]uint8
	_         uint8
	Start     uint32 // milliseconds
	packetsLo [2]uint32
	bytesLo   [2]uint32
	bytesHi   [2]uint16
}

// The state word: what must change together, and what decides whether the record is there at all.
const (
	liveBit     = 1 << 0
	repliedBit  = 1 << 1 // the server has answered
	finClient   = 1 << 2 // a FIN was seen from the client
	finServer   = 1 << 3
	ackedClient = 1 << 4 // the client's FIN was acknowledged
	ackedServer = 1 << 5
	protoShift  = 8
	tcpShift    = 16
)

// Live reports whether the record is a connection.
func (r *Record) Live() bool { return r.state&liveBit != 0 }

// Proto is the IP protocol.
func (r *Record) Proto() uint8 { return uint8(r.state >> protoShift) }

// Replied reports whether the server has answered.
func (r *Record) Replied() bool { return r.state&repliedBit != 0 }

// TCPState is the state of a TCP connection.
func (r *Record) TCPState() TCPState { return TCPState(r.state >> tcpShift) }

func (r *Record) setTCPState(s TCPState) {
	r.state = r.state&^(0xff<<tcpShift) | uint64(s)<<tcpShift
}

// Account counts a packet of n bytes from side.
func (r *Record) Account(side Side, n int) {
	side &= 1
	r.packetsLo[side]++
	if r.packetsLo[side] == 0 {
		r.packetsHi[side]++
	}
	sum := uint64(r.bytesLo[side]) + uint64(n)
	r.bytesLo[side] = uint32(sum)
	r.bytesHi[side] += uint16(sum >> 32)
}

// Packets is how many packets came from side; it wraps at 2^40.
func (r *Record) Packets(side Side) uint64 {
	return uint64(r.packetsHi[side&1])<<32 | uint64(r.packetsLo[side&1])
}

// Bytes is how many bytes of IP packets came from side; it wraps at 2^48.
func (r *Record) Bytes(side Side) uint64 {
	return uint64(r.bytesHi[side&1])<<32 | uint64(r.bytesLo[side&1])
}

// ClientKey is the tuple of packets from the client.
func (r *Record) ClientKey() Key {
	return Key{Src: r.Client, Dst: r.Virtual, Ports: Ports(r.CPort, r.VPort), Proto: r.Proto()}
}
