package engine

import (
	"unsafe"

	"sluice/rewrite"
	"sluice/rings"
)

// A descriptor is a frame: the compiler converts only what has the same fields.
var _ = rewrite.Frame(rings.Desc{})

// rewriteFrames is d as the parser knows it, which knows nothing of rings.
func rewriteFrames(d []rings.Desc) []rewrite.Frame {
	return unsafe.Slice((*rewrite.Frame)(unsafe.Pointer(unsafe.SliceData(d))), len(d))
}
