//lint:file-ignore U1000 the constants are for mixed_amd64.s

package rewrite

import (
	"unsafe"

	"sluice/flow"
)

// For mixed_amd64.s, beside what plain_unsafe.go holds.
const (
	mixedSecret  = unsafe.Offsetof(flow.MixedPlacing{}.Secret)
	mixedNumber  = unsafe.Offsetof(flow.MixedPlacing{}.Number)
	mixedBuckets = unsafe.Offsetof(flow.MixedPlacing{}.Buckets)
	mixedBucket  = unsafe.Offsetof(flow.MixedPlacing{}.Bucket)
	mixedTag     = unsafe.Offsetof(flow.MixedPlacing{}.Tag)
	mixedFar     = unsafe.Offsetof(flow.MixedPlacing{}.Far)

	longHeadLen = LongHeadLen
)

// What is written in one piece.
var (
	_ [10]byte = [unsafe.Offsetof(Packet{}.V6)]byte{}
	_ [15]byte = [unsafe.Offsetof(Packet{}.ICMP)]byte{}
)
