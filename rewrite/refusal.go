package rewrite

// Refusal says why a packet was not changed. Unless a function's documentation says otherwise the frame is then as it was.
type Refusal uint8

// The refusals. Done is none.
const (
	Done Refusal = iota

	// Of ends.
	Land
	MartianSource
	MartianDestination
	Untranslatable

	// Of ICMP errors.
	QuoteNone
	QuoteTruncated
	QuoteBad
	QuoteFragment
	QuoteError
	QuoteForeign

	// Of fragments.
	FragmentLength
	FragmentTiny
	FragmentOverlap
	FragmentHeader
	FragmentSCTP

	// Of tunnels and tags.
	NoRoom
	TooBig
	TunnelNone
	TunnelHeader
	TunnelSum
	TunnelInner
	TunnelCongestion
	Untaggable
)

var refusals = [...]string{
	Done:               "done",
	Land:               "source and destination are the same address",
	MartianSource:      "source is unspecified, loopback, multicast or reserved",
	MartianDestination: "destination is unspecified, loopback, multicast or reserved",
	Untranslatable:     "protocol's checksum or authentication covers the addresses in a way that is not known here",
	QuoteNone:          "not an ICMP error about a packet",
	QuoteTruncated:     "ICMP error quotes less than an IP header and 8 bytes behind it",
	QuoteBad:           "header quoted in an ICMP error contradicts itself or is of the other family",
	QuoteFragment:      "ICMP error about a later part of a fragmented datagram, which has no ports",
	QuoteError:         "ICMP error about an ICMP error, or about a message that is no query",
	QuoteForeign:       "ICMP error whose destination did not send the packet that it quotes",
	FragmentLength:     "part of a datagram is empty, ends beyond 65535 bytes, or is not the last and no multiple of 8 bytes",
	FragmentTiny:       "first part of a datagram ends inside the transport header",
	FragmentOverlap:    "later part of a datagram begins inside the transport header",
	FragmentHeader:     "transport header of a fragmented datagram contradicts itself",
	FragmentSCTP:       "ports of a fragmented SCTP packet cannot change: its checksum depends on bytes in other parts",
	NoRoom:             "not enough room in front of the packet",
	TooBig:             "packet with the tunnel's headers exceeds the MTU",
	TunnelNone:         "not a packet of this tunnel",
	TunnelHeader:       "GUE header of another version, a control message, or with flags or a length that are not known",
	TunnelSum:          "checksum of a tunnel's or the inner header is wrong",
	TunnelInner:        "inner header contradicts its protocol or its length",
	TunnelCongestion:   "congestion marked on the way of a packet that is not capable of ECN (RFC 6040 section 4.2)",
	Untaggable:         "frame would have more than two VLAN tags",
}

// String is the refusal in words.
func (r Refusal) String() string {
	if int(r) < len(refusals) {
		return refusals[r]
	}
	return "unknown refusal"
}
