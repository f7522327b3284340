package sched

import (
	"fmt"

	"sluice/flow"
)

// golden is 2^64 divided by the golden ratio: odd, and its multiples are far apart.
const golden = 0x9e3779b97f4a7c15

// Mix spreads x over all bits, one to one. It is the finalizer of splitmix64 (Steele, Lea and Flood, "Fast Splittable
// Pseudorandom Number Generators", 2014, with Stafford's constants), so Mix of a counter passes for random.
func Mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Identity is a Member's ID by its address and port. It is not keyed: every process and machine must come to the same.
func Identity(addr flow.Addr, port uint16) uint64 {
	return Mix(Mix(Mix(addr.Hi)^addr.Lo) ^ uint64(port))
}

// NameIdentity is a Member's ID by its name, for members that have another address on every machine that must agree.
func NameIdentity(name string) uint64 {
	h := uint64(len(name))
	for i := range len(name) {
		h = Mix(h ^ uint64(name[i]))
	}
	return h
}

// HashInput is what of a client decides with hash schedulers. The zero value is its whole address.
type HashInput struct {
	// Ports adds the source port: connections of a client go to different members.
	Ports bool
	// Prefix4 and Prefix6 are the bits of an IPv4 and IPv6 address that count, 0 for all of them: clients of one prefix
	// go to the same member.
	Prefix4, Prefix6 uint8
}

// Check reports a prefix that is longer than an address.
func (h HashInput) Check() error {
	if h.Prefix4 > 32 {
		return fmt.Errorf("hash prefix /%d is longer than an IPv4 address: 1 to 32 bits, 0 for all", h.Prefix4)
	}
	if h.Prefix6 > 128 {
		return fmt.Errorf("hash prefix /%d is longer than an IPv6 address: 1 to 128 bits, 0 for all", h.Prefix6)
	}
	return nil
}

// Hash is the hash of a client, keyed so that clients cannot choose their member. Machines and restarts that must agree
// on the member need the same seed.
func (h HashInput) Hash(seed *flow.Secret, client flow.Addr, port uint16) uint64 {
	k := flow.Key{Src: h.prefix(client)}
	if h.Ports {
		k.Ports = flow.Ports(port, 0)
	}
	return seed.Hash(&k)
}

// HashBoth is Hash of both ends: it stays the same when they change places.
func (h HashInput) HashBoth(seed *flow.Secret, a, b flow.Addr, aPort, bPort uint16) uint64 {
	return Mix(h.Hash(seed, a, aPort) + h.Hash(seed, b, bPort))
}

// prefix clears the bits of an address that do not count.
func (h HashInput) prefix(a flow.Addr) flow.Addr {
	drop := uint(0) // bits at the end
	switch {
	case a.Is4():
		if h.Prefix4 > 0 {
			drop = 32 - uint(h.Prefix4)
		}
	case h.Prefix6 > 0:
		drop = 128 - uint(h.Prefix6)
	}
	if drop > 64 {
		return flow.Addr{Hi: a.Hi >> (drop - 64) << (drop - 64)}
	}
	return flow.Addr{Hi: a.Hi, Lo: a.Lo >> drop << drop}
}
