package rings

import (
	"encoding/binary"
	"testing"
)

// TestProgramConfig checks the layout of struct config over ordinary memory.
func TestProgramConfig(t *testing.T) {
	b := make([]byte, 64)
	c := programConfigOver(b)
	c.setHeartbeat(0x1122334455667788)
	c.setHold(7)
	c.setAfterHoldPass(true)
	c.setWildcard(3)
	le := binary.LittleEndian
	if le.Uint64(b) != 0x1122334455667788 || le.Uint64(b[8:]) != 7 || le.Uint32(b[16:]) != 1 || le.Uint32(b[20:]) != 3 || c.wildcard() != 3 {
		t.Errorf("memory is % x", b)
	}
	c.setAfterHoldPass(false)
	if le.Uint32(b[16:]) != 0 || le.Uint64(b[24:]) != 0 {
		t.Errorf("memory is % x", b)
	}
	for _, short := range [][]byte{nil, b[:23], b[4:]} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%d bytes were accepted", len(short))
				}
			}()
			programConfigOver(short)
		}()
	}
}
