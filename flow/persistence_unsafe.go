package flow

import (
	"fmt"
	"unsafe"
)

// The size that PersistenceSize and the layout of mem rest on.
var _ [persistenceEntrySize]byte = [unsafe.Sizeof(persistenceEntry{})]byte{}

// lay puts the table's arrays over mem behind its header: slots, entries. They hold no Go pointers, so mem may lie outside the
// Go heap; the caller keeps it mapped while the table is in use.
func (p *Persistence) lay(mem []byte, capacity int) error {
	base := unsafe.Pointer(unsafe.SliceData(mem))
	if need := PersistenceSize(capacity); len(mem) < need || uintptr(base)%8 != 0 {
		return fmt.Errorf("%w: %d bytes at %p for persistence, needed %d aligned to 8", ErrMemory, len(mem), base, need)
	}
	base = unsafe.Add(base, persistenceHeader)
	p.slots = unsafe.Slice((*uint32)(base), persistenceSlots(capacity))
	p.entries = unsafe.Slice((*persistenceEntry)(unsafe.Add(base, 4*persistenceSlots(capacity))), capacity+1)
	return nil
}
