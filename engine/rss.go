package engine

import (
	"net/netip"

	"sluice/flow"
)

// What a NIC must be told so that its receive-side scaling (RSS) delivers a packet on a queue of the worker that owns it:
// the hash key, the table from the hash to queues, and that only the client's end is hashed.

// RSSKey is the hash key for NICs, of n bytes: 40 for most, 52 for some.
func RSSKey(n int) []byte {
	key := make([]byte, n)
	for i := range key {
		key[i] = byte(toeplitzKey & 0xff)
		if i&1 == 0 {
			key[i] = toeplitzKey >> 8
		}
	}
	return key
}

// RSSHash is the Toeplitz hash of input as NICs compute it (Microsoft, "RSS Hashing Functions"): the exclusive or, over the
// bits of input that are 1, of the 32 bits of the key from the bit's position on. Beyond its end the key counts as zero.
func RSSHash(key, input []byte) uint32 {
	at := func(i int) uint64 {
		if i < len(key) {
			return uint64(key[i])
		}
		return 0
	}
	window := at(0)<<24 | at(1)<<16 | at(2)<<8 | at(3)
	hash := uint32(0)
	for i, b := range input {
		window = window<<8 | at(i+4) // 40 bits of the key from bit 8i on are its low bits
		for bit := range 8 {
			if b&(0x80>>bit) != 0 {
				hash ^= uint32(window >> (8 - bit))
			}
		}
	}
	return hash
}

// RSSTable is the indirection table for a NIC whose table has size entries, a power of two, and that receives on so many
// queues, of which worker w serves those that are w modulo the number of workers: entry i is a queue of the worker that
// owns bin i modulo the number of bins. A worker's bins are spread over its queues. Bins of a worker that has no queue go to
// the others', and are handed over.
func (c *Config) RSSTable(size, queues int) []uint32 {
	table := make([]uint32, size)
	workers := c.owners.workers
	turn := make([]int, workers)
	stray := 0
	for i := range table {
		w := int(c.owners.worker[i%Bins])
		if w >= queues {
			table[i] = uint32(stray % queues)
			stray++
			continue
		}
		own := (queues - w + workers - 1) / workers
		table[i] = uint32(w + workers*(turn[w]%own))
		turn[w]++
	}
	return table
}

// ClientOwner is the worker that owns the connections of a client.
func (c *Config) ClientOwner(addr netip.Addr, port uint16) int {
	return int(c.owners.worker[c.owners.bin(flow.AddrFrom(addr), port)])
}
