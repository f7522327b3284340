package flow

import "unsafe"

// Where the fields of a record lie, and what its state word says, for loops in assembly that change many records.
const (
	OffsetVirtual4  = unsafe.Offsetof(Record{}.Virtual) + 8 // the number of an IPv4 address, on machines that store the lowest byte first
	OffsetVPort     = unsafe.Offsetof(Record{}.VPort)
	OffsetNPort     = unsafe.Offsetof(Record{}.NPort)
	OffsetNode      = unsafe.Offsetof(Record{}.Node)
	OffsetSNAT      = unsafe.Offsetof(Record{}.SNAT)
	OffsetDiffs     = unsafe.Offsetof(Record{}.L3Diff) // and L4Diff behind it
	OffsetSeen      = unsafe.Offsetof(Record{}.Seen)
	OffsetClientMAC = unsafe.Offsetof(Record{}.ClientMAC)
	OffsetClientIf  = unsafe.Offsetof(Record{}.ClientIf)
	OffsetServerIf  = unsafe.Offsetof(Record{}.ServerIf)
	OffsetVS        = unsafe.Offsetof(Record{}.VS)
	OffsetWin       = unsafe.Offsetof(Record{}.Win)
	OffsetMaxWin    = unsafe.Offsetof(Record{}.MaxWin)
	OffsetScale     = unsafe.Offsetof(Record{}.Scale)
	OffsetPacketsLo = unsafe.Offsetof(Record{}.packetsLo)
	OffsetPacketsHi = unsafe.Offsetof(Record{}.packetsHi)
	OffsetBytesLo   = unsafe.Offsetof(Record{}.bytesLo)
	OffsetBytesHi   = unsafe.Offsetof(Record{}.bytesHi)

	LiveBit      = liveBit
	KindBits     = kindMask // none of them: Translated
	AnsweredBits = seenServer | halfOpenBit
	AnsweredIs   = seenServer // of AnsweredBits: what Answered asks
	SteadyBits   = tcpMask | seenServer | seenClient | finClient | finServer | ackedClient | ackedServer
	SteadyIs     = uint64(TCPEstablished)<<tcpShift | seenServer | seenClient // of SteadyBits: what TrackSteady asks
	SteadyFlags  = FlagSYN | FlagFIN | FlagRST | FlagACK                      // of them a steady segment has only the last
	WindowSlack  = slack
)

// Both Diffs are read as one word, and of ClientMAC two bytes too many.
var (
	_ [OffsetDiffs + 2]byte     = [unsafe.Offsetof(Record{}.L4Diff)]byte{}
	_ [OffsetClientMAC + 6]byte = [OffsetClientIf]byte{}
)
