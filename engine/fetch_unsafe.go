package engine

import (
	"unsafe"

	"sluice/flow"
)

// What fetch_amd64.s knows.
var (
	_ [128]byte = [unsafe.Sizeof(flow.Record{})]byte{}
	_ [48]byte  = [unsafe.Offsetof(flow.Record{}.Node)]byte{}
	_ [76]byte  = [unsafe.Offsetof(flow.Record{}.VS)]byte{}
	_ [32]byte  = [unsafe.Sizeof(TrafficStats{})]byte{}
)
