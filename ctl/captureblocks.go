package ctl

import (
	"encoding/binary"
	"fmt"
	"io"
)

// wholeBlocks passes on what is written to it in whole blocks of pcapng, so that a file whose source ends in the middle of one can be
// read to its end: each begins with a type and its length, both of 4 bytes (draft-ietf-opsawg-pcapng section 3.1), here little-endian,
// as the engine writes them.
type wholeBlocks struct {
	w    io.Writer
	part []byte
}

// leastBlock is the length of a block without a body.
const leastBlock = 12

// Write is io.Writer's.
func (b *wholeBlocks) Write(data []byte) (int, error) {
	b.part = append(b.part, data...)
	whole := 0
	for {
		rest := b.part[whole:]
		if len(rest) < 8 {
			break
		}
		n := int(binary.LittleEndian.Uint32(rest[4:]))
		if n < leastBlock {
			return 0, fmt.Errorf("what comes is not pcapng: a block of %d bytes", n)
		}
		if n > len(rest) {
			break
		}
		whole += n
	}
	if whole == 0 {
		return len(data), nil
	}
	if _, err := b.w.Write(b.part[:whole]); err != nil {
		return 0, err
	}
	b.part = append(b.part[:0], b.part[whole:]...)
	return len(data), nil
}
