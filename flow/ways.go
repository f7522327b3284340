package flow

// What of a state word says how packets go, for loops in assembly.
const (
	// OtherWays are bits of connections through a tunnel, and of those whose answers bypass us.
	OtherWays    = uint32(Tunnelled)<<kindShift | oneSidedBit
	TunnelledBit = uint32(Tunnelled) << kindShift
	OneSidedBit  = uint32(oneSidedBit)
	HalfOpenBit  = uint32(halfOpenBit)
	// RoutedBit is that of Routed, where none of OtherWays are.
	RoutedBit = uint32(Routed) << kindShift

	SteadyClientBits = tcpMask | seenClient | finClient | finServer | ackedClient | ackedServer
	SteadyClientIs   = uint64(TCPEstablished)<<tcpShift | seenClient // of SteadyClientBits: what TrackClientSteady asks
	OneSidedGap      = oneSidedGap
)
