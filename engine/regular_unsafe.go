//lint:file-ignore U1000 the constants are for regular_amd64.s

package engine

import (
	"unsafe"

	"sluice/flow"
	"sluice/rewrite"
)

// For regular_amd64.s, beside what change_unsafe.go has.
const (
	packetL3    = unsafe.Offsetof(rewrite.Packet{}.L3)
	packetL4    = unsafe.Offsetof(rewrite.Packet{}.L4)
	packetV6    = unsafe.Offsetof(rewrite.Packet{}.V6)
	packetTTL   = unsafe.Offsetof(rewrite.Packet{}.TTL)
	packetProto = unsafe.Offsetof(rewrite.Packet{}.Proto)

	recClient  = unsafe.Offsetof(flow.Record{}.Client)
	recVirtual = unsafe.Offsetof(flow.Record{}.Virtual)
	recCPort   = unsafe.Offsetof(flow.Record{}.CPort)
	recSPort   = unsafe.Offsetof(flow.Record{}.SPort)

	otherWays        = flow.OtherWays
	tunnelledBit     = flow.TunnelledBit
	oneSidedBit      = flow.OneSidedBit
	halfOpenBit      = flow.HalfOpenBit
	routedBit        = flow.RoutedBit
	steadyClientBits = flow.SteadyClientBits
	steadyClient     = flow.SteadyClientIs
	oneSidedGap      = flow.OneSidedGap
)

// Ports are read in pairs.
var (
	_ [recCPort + 2]byte = [unsafe.Offsetof(flow.Record{}.VPort)]byte{}
	_ [recSPort + 2]byte = [unsafe.Offsetof(flow.Record{}.NPort)]byte{}
)
