//lint:file-ignore U1000 the constants are for change_amd64.s

package engine

import (
	"unsafe"

	"sluice/flow"
	"sluice/rewrite"
)

// For change_amd64.s, which also knows the sizes of a node and of counters.
const (
	packetSize   = unsafe.Sizeof(rewrite.Packet{})
	packetEnd    = unsafe.Offsetof(rewrite.Packet{}.End)
	packetPlain  = unsafe.Offsetof(rewrite.Packet{}.Plain)
	packetTCP    = unsafe.Offsetof(rewrite.Packet{}.TCP)
	packetSeq    = packetTCP + unsafe.Offsetof(flow.Segment{}.Seq)
	packetAck    = packetTCP + unsafe.Offsetof(flow.Segment{}.Ack)
	packetLen    = packetTCP + unsafe.Offsetof(flow.Segment{}.Len)
	packetWindow = packetTCP + unsafe.Offsetof(flow.Segment{}.Window)
	packetFlags  = packetTCP + unsafe.Offsetof(flow.Segment{}.Flags)

	recVirtual4  = flow.OffsetVirtual4
	recVPort     = flow.OffsetVPort
	recNPort     = flow.OffsetNPort
	recNode      = flow.OffsetNode
	recSNAT      = flow.OffsetSNAT
	recDiffs     = flow.OffsetDiffs
	recSeen      = flow.OffsetSeen
	recClientMAC = flow.OffsetClientMAC
	recClientIf  = flow.OffsetClientIf
	recServerIf  = flow.OffsetServerIf
	recVS        = flow.OffsetVS
	recWin       = flow.OffsetWin
	recMaxWin    = flow.OffsetMaxWin
	recScale     = flow.OffsetScale
	recPacketsLo = flow.OffsetPacketsLo
	recPacketsHi = flow.OffsetPacketsHi
	recBytesLo   = flow.OffsetBytesLo
	recBytesHi   = flow.OffsetBytesHi

	kindBits     = flow.KindBits
	answeredBits = flow.AnsweredBits
	answered     = flow.AnsweredIs
	steadyBits   = flow.SteadyBits
	steady       = flow.SteadyIs
	steadyFlags  = flow.SteadyFlags
	steadyFlag   = flow.FlagACK
	nodeUsable   = 1 << 16 // of the word that begins with a node's port
	slack        = flow.WindowSlack
)

var (
	_ [32]byte  = [unsafe.Sizeof(node{})]byte{}
	_ [0]byte   = [unsafe.Offsetof(node{}.l2)]byte{}
	_ [12]byte  = [unsafe.Offsetof(node{}.v4)]byte{}
	_ [2]byte   = [unsafe.Offsetof(node{}.ok) - unsafe.Offsetof(node{}.port)]byte{}
	_ [32]byte  = [unsafe.Sizeof(TrafficStats{})]byte{}
	_ [128]byte = [unsafe.Sizeof(flow.Record{})]byte{}
	// The counters of a record, and those of a service, are in the same order (wide_amd64.s).
	_ [recPacketsLo + 8]byte = [recBytesLo]byte{}
	_ [0]byte                = [unsafe.Offsetof(TrafficStats{}.Packets)]byte{}
	_ [16]byte               = [unsafe.Offsetof(TrafficStats{}.Bytes)]byte{}
)

// changes is what changing plain packets needs beside them.
type changes struct {
	records    *flow.Record
	mem        *byte // of all frames; that each head lies within is what parsing has seen
	nodes      *node
	addrs      *flow.Addr
	macs       *uint64
	senders    *[16]byte
	tx         *egress
	virtual    *TrafficStats
	node       *TrafficStats
	nodesLen   uint64 // of nodes, addrs and node
	virtualLen uint64
	portsLen   uint64 // of macs, senders and tx
	toServer   uint64 // how many went there
	toClient   uint64
	now        uint32
	tcp        bool   // the packets are of TCP; plain ones are of UDP otherwise
	proto      uint8  // TCP or UDP, as tcp says
	relearns   bool   // datagrams of clients tell through which firewall they have come
	most       uint32 // the largest regular packet
}

// changes is that for the burst in hand.
func (w *worker) changes(tcp bool) changes {
	cfg, proto := w.cfg, uint8(flow.UDP)
	if tcp {
		proto = flow.TCP
	}
	return changes{
		records: unsafe.SliceData(w.table.Records()), mem: unsafe.SliceData(w.region.Bytes()),
		nodes: unsafe.SliceData(cfg.nodes), addrs: unsafe.SliceData(cfg.addrs), macs: unsafe.SliceData(cfg.macs), senders: unsafe.SliceData(cfg.senders), tx: unsafe.SliceData(w.tx),
		virtual: unsafe.SliceData(w.virtual.traffic), node: unsafe.SliceData(w.node.traffic),
		nodesLen:   uint64(min(len(cfg.nodes), len(cfg.addrs), len(w.node.traffic))),
		virtualLen: uint64(len(w.virtual.traffic)),
		portsLen:   uint64(min(len(cfg.macs), len(cfg.senders), len(w.tx))),
		now:        uint32(w.now), tcp: tcp,
		proto: proto, relearns: !tcp && len(cfg.firewalls) > 0, most: cfg.plainMost,
	}
}
