//lint:file-ignore U1000 the constants are for placing_amd64.s

package rewrite

import (
	"unsafe"

	"sluice/flow"
)

// For placing_amd64.s, beside what plain_unsafe.go holds.
const (
	placingSrc     = unsafe.Offsetof(flow.Placing{}.Src)
	placingDst     = unsafe.Offsetof(flow.Placing{}.Dst)
	placingRest    = unsafe.Offsetof(flow.Placing{}.Rest)
	placingPorts   = unsafe.Offsetof(flow.Placing{}.Ports)
	placingNumber  = unsafe.Offsetof(flow.Placing{}.Number)
	placingBuckets = unsafe.Offsetof(flow.Placing{}.Buckets)
	placingBucket  = unsafe.Offsetof(flow.Placing{}.Bucket)
	placingTag     = unsafe.Offsetof(flow.Placing{}.Tag)
	placingFar     = unsafe.Offsetof(flow.Placing{}.Far)
)
