package engine

import "sluice/flow"

// ClientEnd is what identifies the client's end of a connection for ownership.
type ClientEnd uint8

// The settings of ClientEnd.
const (
	ClientAddrPort ClientEnd = iota
	ClientAddr
)

// Bins are the unit of ownership: every packet falls into one, computed from the packet and the configuration
// alone, and every bin has one worker.
const Bins = 256

// toeplitzKey is repeated to fill the 40 bytes of a NIC's hash key. With a period of 16 bits the Toeplitz hash
// depends only on the exclusive or of the input's 16-bit words, so that it does not matter where in the input a
// field stands, and computing it in software costs two table look-ups.
const toeplitzKey = 0x6d5a

// toeplitz has the hash of a word's upper and lower byte.
var toeplitz = func() (t [2][256]uint16) {
	for word := range 1 << 16 {
		if word&0xff != 0 && word>>8 != 0 {
			continue
		}
		var h uint16
		for bit := range 16 {
			if word&(0x8000>>bit) != 0 {
				h ^= toeplitzKey<<bit | toeplitzKey>>(16-bit)
			}
		}
		if word>>8 != 0 {
			t[0][word>>8] = h
		} else {
			t[1][word] = h
		}
	}
	return t
}()

// owners says which worker owns a packet. Workers are numbered from 0 here; what slot each sits in is the engine's affair.
type owners struct {
	end     ClientEnd
	workers int
	worker  [Bins]uint8
}

// newOwners deals bins out to workers. With a period, bins that many apart have the same worker: a NIC whose table is
// smaller than the number of bins cannot tell them apart.
func newOwners(end ClientEnd, workers, period int) owners {
	o := owners{end: end, workers: max(workers, 1)}
	if period < 1 || period > Bins {
		period = Bins
	}
	for b := range o.worker {
		o.worker[b] = uint8(b % period % o.workers)
	}
	return o
}

// bin is the bin of the client's end.
func (o *owners) bin(addr flow.Addr, port uint16) uint8 {
	x := addr.Hi ^ addr.Lo
	if addr.Is4() {
		x = addr.Lo & 0xffffffff // our mapping's prefix is not on the wire
	}
	w := uint16(x>>48) ^ uint16(x>>32) ^ uint16(x>>16) ^ uint16(x)
	if o.end == ClientAddrPort {
		w ^= port
	}
	return uint8(toeplitz[0][w>>8] ^ toeplitz[1][w&0xff])
}

// owner is the worker that owns a packet that arrived on a port: by its source if it is a client's, by its destination port
// if it goes to a SNAT address, else by its destination.
func (c *Config) owner(k *flow.Key, ingress uint16) int {
	if c.transparent {
		return int(c.owners.worker[c.bin(k, ingress)])
	}
	if virtual, _ := c.services.address(k.Dst); virtual {
		return int(c.owners.worker[c.owners.bin(k.Src, k.SrcPort())])
	}
	if c.isSNAT(k.Dst) {
		return int(c.owners.worker[uint8(k.DstPort())])
	}
	if len(c.services.networks.lengths) > 0 {
		if virtual, _ := c.covered(k, ingress); virtual {
			return int(c.owners.worker[c.owners.bin(k.Src, k.SrcPort())])
		}
	}
	return int(c.owners.worker[c.owners.bin(k.Dst, k.DstPort())])
}

// clientOwner is the worker that owns a packet of which is known that a client sent it, whatever port it is seen on.
func (c *Config) clientOwner(k *flow.Key) int {
	return int(c.owners.worker[c.owners.bin(k.Src, k.SrcPort())])
}

// ownerOf is the worker that owns a connection.
func (c *Config) ownerOf(r *flow.Record) int {
	return int(c.owners.worker[c.binOf(r, r.Proto())])
}
