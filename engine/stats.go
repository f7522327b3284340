package engine

// Stats are the counters of one worker, or their sum. Every packet has one outcome at each worker that has it, and whatever goes on
// leaves or is lost on its way out, at once or at the worker that has the port's queue:
//
//	RxPackets + HandedIn                           =  ToServer + ToClient + ToHost + Answered + HandedOut + (Dropped() - Unsent), and parts of datagrams that wait
//	ToServer + ToClient + ToHost + Answered + Made =  TxPackets + Unsent, summed over workers
//
// What is lost on its way out (a full ring, a link that is down) is not taken off again where it was counted: the rings have
// descriptors, which do not say what a packet was, and to write that down would cost every packet something.
type Stats struct {
	RxPackets uint64
	RxBytes   uint64 // of the frames, without check sequence
	ToServer  uint64
	ToClient  uint64
	ToHost    uint64
	TxPackets uint64 // taken by a transmit ring
	HandedOut uint64 // given to the worker that owns them
	HandedIn  uint64
	Opened    uint64 // connections
	Closed    uint64
	Ended     uint64 // connections that ended because their member stopped serving, of those Closed
	Moved     uint64 // connections that go through another router or firewall, because theirs stopped serving
	Evicted   uint64 // half-open or closing connections that gave way to new ones
	Resets    uint64 // RSTs that the engine made
	ICMPSent  uint64 // ICMP errors that the engine made
	Split     uint64 // packets without DF that left in parts, as they were too big for the next link
	Made      uint64 // frames that went out beside those received: RSTs to the ends of a connection, and the second and later parts of packets
	Unsent    uint64 // frames of those in Drops that were lost on their way out: they had been counted as going on
	// Recomputed are packets whose checksums were computed anew on arrival.
	Recomputed uint64
	Echoes     uint64 // echo requests that the engine answered
	Answered   uint64 // packets that became one of these
	Outside    uint64 // TCP segments outside their connection's window, SCTP packets with a wrong tag
	Stateless  uint64 // packets of those ToServer that found the table full and went by their hash
	Errors     uint64 // ICMP errors about connections, translated, of those ToServer and ToClient
	Bursts     uint64
	Sleeps     uint64
	Drops      [numReasons]uint64
	Refused    [numReasons]uint64 // packets that were answered with a RST or an ICMP error instead of being dropped, of those Answered
}

// ServiceStats are the counters of a virtual server or a member.
type ServiceStats struct {
	ConnectionStats
	TrafficStats
}

// ConnectionStats are what the connections of a virtual server or a member count.
type ConnectionStats struct {
	Opened uint64
	Active int64
	// Handshakes that the member answered, refused with a RST, and left unanswered: the client had to repeat its first packet,
	// or the time for an answer was over. One that is answered late counts twice. A datagram counts as a handshake.
	Answered, Refused, Unanswered uint64
}

// TrafficStats are what every packet of a virtual server or a member counts. Index 0 is what came from clients, 1 what came
// from servers. Bytes are those of IP packets.
type TrafficStats struct {
	Packets [2]uint64
	Bytes   [2]uint64
}

// Add adds b to s.
func (s *Stats) Add(b *Stats) {
	s.RxPackets += b.RxPackets
	s.RxBytes += b.RxBytes
	s.ToServer += b.ToServer
	s.ToClient += b.ToClient
	s.ToHost += b.ToHost
	s.TxPackets += b.TxPackets
	s.HandedOut += b.HandedOut
	s.HandedIn += b.HandedIn
	s.Opened += b.Opened
	s.Closed += b.Closed
	s.Ended += b.Ended
	s.Moved += b.Moved
	s.Evicted += b.Evicted
	s.Resets += b.Resets
	s.ICMPSent += b.ICMPSent
	s.Split += b.Split
	s.Made += b.Made
	s.Unsent += b.Unsent
	s.Echoes += b.Echoes
	s.Recomputed += b.Recomputed
	s.Answered += b.Answered
	s.Outside += b.Outside
	s.Stateless += b.Stateless
	s.Errors += b.Errors
	s.Bursts += b.Bursts
	s.Sleeps += b.Sleeps
	for i := range s.Drops {
		s.Drops[i] += b.Drops[i]
		s.Refused[i] += b.Refused[i]
	}
}

// Add adds b to s.
func (s *ServiceStats) Add(b *ServiceStats) {
	s.ConnectionStats.add(&b.ConnectionStats)
	s.TrafficStats.add(&b.TrafficStats)
}

func (s *ConnectionStats) add(b *ConnectionStats) {
	s.Opened += b.Opened
	s.Active += b.Active
	s.Answered += b.Answered
	s.Refused += b.Refused
	s.Unanswered += b.Unanswered
}

func (s *TrafficStats) add(b *TrafficStats) {
	for i := range s.Packets {
		s.Packets[i] += b.Packets[i]
		s.Bytes[i] += b.Bytes[i]
	}
}

// Dropped is the sum over all reasons.
func (s *Stats) Dropped() uint64 {
	var n uint64
	for _, d := range s.Drops {
		n += d
	}
	return n
}
