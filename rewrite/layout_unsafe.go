package rewrite

import (
	"unsafe"

	"sluice/flow"
)

// The layouts that placing_amd64.s and mixed_amd64.s know.
var (
	_ [16]byte = [unsafe.Sizeof(Frame{})]byte{}
	_ [8]byte  = [unsafe.Offsetof(Frame{}.Len)]byte{}
	_ [44]byte = [unsafe.Sizeof(Packet{})]byte{}
	_ [2]byte  = [unsafe.Offsetof(Packet{}.L4)]byte{}
	_ [4]byte  = [unsafe.Offsetof(Packet{}.End)]byte{}
	_ [6]byte  = [unsafe.Offsetof(Packet{}.Payload)]byte{}
	_ [8]byte  = [unsafe.Offsetof(Packet{}.VLAN)]byte{}
	_ [11]byte = [unsafe.Offsetof(Packet{}.TTL)]byte{}
	_ [12]byte = [unsafe.Offsetof(Packet{}.Proto)]byte{}
	_ [14]byte = [unsafe.Offsetof(Packet{}.Plain)]byte{}
	_ [16]byte = [unsafe.Offsetof(Packet{}.TCP)]byte{}
	_ [8]byte  = [unsafe.Offsetof(flow.Segment{}.Len)]byte{}
	_ [12]byte = [unsafe.Offsetof(flow.Segment{}.Window)]byte{}
	_ [14]byte = [unsafe.Offsetof(flow.Segment{}.Flags)]byte{}
	_ [40]byte = [unsafe.Sizeof(flow.Key{})]byte{}
	_ [16]byte = [unsafe.Offsetof(flow.Key{}.Dst)]byte{}
	_ [32]byte = [unsafe.Offsetof(flow.Key{}.Ports)]byte{}
	_ [36]byte = [unsafe.Offsetof(flow.Key{}.Proto)]byte{}
)
