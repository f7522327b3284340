//go:build !amd64

package flow

func fillSlot(b *bucket, tag uint16, r Ref) bool  { return b.fillFree(tag, r) }
func clearSlot(b *bucket, tag uint16, r Ref) bool { return b.clearFirst(tag, r) }
