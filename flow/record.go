package flow

// Side says from which end of a connection a packet comes.
type Side uint8

// The two sides of a connection.
const (
	FromClient Side = 0
	FromServer Side = 1
)

// Window is what one end of a TCP connection has sent and acknowledged; for SCTP see sctpstate.go. Sequence numbers are the packet's own, host byte
// order. How far it may send follows from the other end's Ack and largest window.
type Window struct {
	End uint32 // highest sequence number sent, plus one
	Ack uint32 // highest acknowledgement sent
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
	Node    uint32 // id of the member: its next hop and, where the destination is translated, the server-side server's address
	SNAT    uint32 // id of the server-side client address; 0: the client's own
	L3Diff  uint16 // what the rewrite from client to server adds to the IPv4 header's sum
	L4Diff  uint16 // and to the sum of TCP or UDP; the way back adds the complements. SCTP has no use for it
	Seen    uint32 // milliseconds, when the last packet that counts was seen

	ClientMAC [6]byte // where answers go
	ClientIf  uint16  // port on which the client's packets arrive
	ServerIf  uint16  // port on which the server's packets arrive
	Fine      uint16  // microseconds of the first packet beyond Start, where handshakes are timed
	VS        uint32  // id of the virtual server
	Win       [2]Window
	MaxWin    [2]uint16 // largest window announced by each end, unscaled
	Scale     uint8     // window scale: client's in the low half, server's in the high
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
	seenServer  = 1 << 1 // a packet from the server was seen
	seenClient  = 1 << 2 // a packet from the client was seen; Record.seen relies on the order
	finClient   = 1 << 3 // a FIN was seen from the client
	finServer   = 1 << 4
	ackedClient = 1 << 5 // the client's FIN was acknowledged
	ackedServer = 1 << 6
	halfOpenBit = 1 << 7 // not established or not answered yet: counted against quotas, first to go under pressure
	protoShift  = 8
	tcpShift    = 16
	tcpMask     = 0xf << tcpShift
	kindShift   = 20
	kindMask    = 3 << kindShift
	oneSidedBit = 1 << 22 // the server's answers bypass us
)

// Kind says what is done with the packets of a connection.
type Kind uint8

// The kinds of connections; their values are in table files.
const (
	Translated Kind = 0 // addresses and ports change as the record says
	Routed     Kind = 1 // the destination stays: Node is only the next hop
	Tunnelled  Kind = 2 // the packet stays and goes to Node inside another
)

// Kind is what is done with the connection's packets.
func (r *Record) Kind() Kind { return Kind(r.state & kindMask >> kindShift) }

// OneSided reports whether the server's answers bypass us.
func (r *Record) OneSided() bool { return r.state&oneSidedBit != 0 }

// SetKind is for a record that is not in a table yet. Of all but translated connections the destination is Virtual and VPort at
// both ends.
func (r *Record) SetKind(k Kind, oneSided bool) {
	r.state = r.state&^(kindMask|oneSidedBit) | uint64(k)<<kindShift&kindMask
	if oneSided {
		r.state |= oneSidedBit
	}
}

// Plain reports whether one end changes and no more: neither a SNAT address, nor another kind than Translated.
func (r *Record) Plain() bool { return uint64(r.SNAT)|r.state&kindMask == 0 }

// toNode reports whether the server-side destination is the address of Node.
func (r *Record) toNode() bool { return r.Node != 0 && r.state&kindMask == 0 }

// The upper 16 bits of the state word are a checksum of the immutable part, made when the record is published.
const checkShift = 48

// Live reports whether the record is a connection.
func (r *Record) Live() bool { return r.state&liveBit != 0 }

// Proto is the IP protocol.
func (r *Record) Proto() uint8 { return uint8(r.state >> protoShift) }

// Replied reports whether the server has answered.
func (r *Record) Replied() bool { return r.state&seenServer != 0 }

// TCPState is the state of a TCP connection. See SCTPState for what it is for SCTP.
func (r *Record) TCPState() TCPState { return TCPState(r.state & tcpMask >> tcpShift) }

// Ending reports whether a TCP connection or SCTP association is closing or closed.
func (r *Record) Ending() bool { return r.TCPState() >= TCPFinWait }

// Closed reports whether it is closed.
func (r *Record) Closed() bool { return r.TCPState() == TCPClosed }

// HalfOpen reports whether the connection is neither established nor answered yet.
func (r *Record) HalfOpen() bool { return r.state&halfOpenBit != 0 }

// Answered reports whether the server has answered and the connection is not half open any more.
func (r *Record) Answered() bool { return r.state&(seenServer|halfOpenBit) == seenServer }

// Settle ends being half open, once, and reports whether it has done so now.
func (r *Record) Settle() bool {
	if r.state&halfOpenBit == 0 || r.TCPState() == TCPSynSent || r.TCPState() == TCPSynReceived ||
		r.TCPState() == TCPNone && !r.Replied() && !r.goesOn() {
		return false
	}
	r.state &^= halfOpenBit
	return true
}

// goesOn reports whether a client whose answers bypass us has sent a packet before the one in hand: nothing else shows that
// it was answered.
func (r *Record) goesOn() bool { return r.OneSided() && r.Packets(FromClient) > 0 }

func (r *Record) setTCPState(s TCPState) {
	r.state = r.state&^(tcpMask) | uint64(s)<<tcpShift
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

// immutable is a checksum of what does not change while the record lives: its tuples, ids, Diffs, and of its state word the
// protocol and kind.
func (r *Record) immutable(state uint64) uint16 {
	h := fold(r.Client.Hi^0x9e3779b97f4a7c15, r.Client.Lo^0xbf58476d1ce4e5b9) ^ fold(r.Virtual.Hi^0x94d049bb133111eb, r.Virtual.Lo^0xd6e8feb86659fd93)
	ports := uint64(r.CPort)<<48 | uint64(r.VPort)<<32 | uint64(r.SPort)<<16 | uint64(r.NPort)
	ids := uint64(r.Node)<<32 | uint64(r.SNAT)
	rest := uint64(r.VS)<<32 | uint64(r.L3Diff)<<16 | uint64(r.L4Diff)
	h = fold(h^ports, ids^0xa0761d6478bd642f) ^ fold(rest^0xe7037ed1a0b428db, state>>protoShift&0xff^state>>kindShift&7<<8^0x8ebc6af09c88c6e3)
	return uint16(h ^ h>>16 ^ h>>32 ^ h>>48)
}
