package flow

// fillSlot is fillFree, eight tags at once.
//
//go:noescape
func fillSlot(b *bucket, tag uint16, r Ref) bool

// clearSlot is clearFirst, eight tags at once.
//
//go:noescape
func clearSlot(b *bucket, tag uint16, r Ref) bool
