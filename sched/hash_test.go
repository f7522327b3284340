package sched

import (
	"net/netip"
	"testing"

	"sluice/flow"
)

var seed = flow.Secret{0x243f6a8885a308d3, 0x13198a2e03707344, 0xa4093822299f31d0, 0x082efa98ec4e6c89}

func TestHashInput(t *testing.T) {
	for _, c := range []struct {
		in           HashInput
		a, b         string
		portA, portB uint16
		same         bool
	}{
		{HashInput{}, "192.0.2.1", "192.0.2.1", 1, 2, true},
		{HashInput{}, "192.0.2.1", "192.0.2.2", 1, 1, false},
		{HashInput{}, "2001:db8::1", "2001:db8::2", 1, 1, false},
		{HashInput{}, "2001:db8::1", "2001:db8:1::1", 1, 1, false},
		{HashInput{Ports: true}, "192.0.2.1", "192.0.2.1", 1, 2, false},
		{HashInput{Ports: true}, "192.0.2.1", "192.0.2.1", 7, 7, true},
		{HashInput{Prefix4: 24}, "192.0.2.1", "192.0.2.254", 1, 2, true},
		{HashInput{Prefix4: 24}, "192.0.2.1", "192.0.3.1", 1, 1, false},
		{HashInput{Prefix4: 24, Ports: true}, "192.0.2.1", "192.0.2.2", 1, 2, false},
		{HashInput{Prefix4: 32}, "192.0.2.1", "192.0.2.2", 1, 1, false},
		{HashInput{Prefix4: 1}, "1.2.3.4", "127.0.0.1", 1, 1, true},
		{HashInput{Prefix4: 1}, "1.2.3.4", "129.0.0.1", 1, 1, false},
		{HashInput{Prefix4: 8}, "2001:db8::1", "2001:db8::2", 1, 1, false}, // the other family
		{HashInput{Prefix6: 8}, "192.0.2.1", "192.0.2.2", 1, 1, false},
		{HashInput{Prefix6: 64}, "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", 1, 1, true},
		{HashInput{Prefix6: 64}, "2001:db8::1", "2001:db8:0:1::1", 1, 1, false},
		{HashInput{Prefix6: 56}, "2001:db8:0:1::1", "2001:db8:0:ff::1", 1, 1, true},
		{HashInput{Prefix6: 56}, "2001:db8:0:1::1", "2001:db8:0:100::1", 1, 1, false},
		{HashInput{Prefix6: 65}, "2001:db8::1", "2001:db8::8000:0:0:1", 1, 1, false},
		{HashInput{Prefix6: 65}, "2001:db8::1", "2001:db8::7000:0:0:1", 1, 1, true},
		{HashInput{Prefix6: 128}, "2001:db8::1", "2001:db8::2", 1, 1, false},
		{HashInput{Prefix6: 127}, "2001:db8::2", "2001:db8::3", 1, 1, true},
	} {
		a, b := flow.AddrFrom(netip.MustParseAddr(c.a)), flow.AddrFrom(netip.MustParseAddr(c.b))
		if err := c.in.Check(); err != nil {
			t.Error(err)
		}
		if same := c.in.Hash(&seed, a, c.portA) == c.in.Hash(&seed, b, c.portB); same != c.same {
			t.Errorf("%+v: %s port %d and %s port %d are the same: %v", c.in, c.a, c.portA, c.b, c.portB, same)
		}
		other := seed
		other[0]++
		if c.in.Hash(&seed, a, 1) == c.in.Hash(&other, a, 1) {
			t.Errorf("%+v: the seed does not matter", c.in)
		}
	}
	if (HashInput{Prefix4: 33}).Check() == nil || (HashInput{Prefix6: 129}).Check() == nil {
		t.Error("prefixes longer than an address pass")
	}
}

// Clients that differ in their last bits only, which is how clients are, fall on members as if at random.
func TestHashSpread(t *testing.T) {
	const n = 50
	members := equal(n)
	s := mustNew(t, "maglev", members)
	for name, client := range map[string]func(i uint64) (flow.Addr, uint16){
		"IPv4 in sequence":     func(i uint64) (flow.Addr, uint16) { return flow.AddrFrom4(10<<24 + uint32(i)), 0 },
		"IPv4 networks":        func(i uint64) (flow.Addr, uint16) { return flow.AddrFrom4(1 + uint32(i)<<12), 0 },
		"IPv6 hosts":           func(i uint64) (flow.Addr, uint16) { return flow.Addr{Hi: 0x20010db8 << 32, Lo: i}, 0 },
		"IPv6 networks":        func(i uint64) (flow.Addr, uint16) { return flow.Addr{Hi: 0x20010db8<<32 + i, Lo: 1}, 0 },
		"ports of one address": func(i uint64) (flow.Addr, uint16) { return flow.AddrFrom4(10<<24 + uint32(i>>16)), uint16(i) },
	} {
		count := make([]int, n)
		in := Input{}
		for i := range uint64(200_000) {
			a, port := client(i)
			in.Hash = HashInput{Ports: port != 0}.Hash(&seed, a, port)
			count[s.Pick(&in)]++
		}
		weights := make([]uint32, n)
		for i, c := range shares(s.(*hashTable).slots, n) {
			weights[i] = uint32(c)
		}
		if d := deviation(count, weights); d > 5 {
			t.Errorf("%s: %.1f standard deviations off: %v", name, d, count)
		}
	}
}

func TestIdentity(t *testing.T) {
	// Fixed for all time: a change moves every client of every user.
	if got := Identity(flow.AddrFrom4(192<<24|2<<8|1), 80); got != 0xae5b23071e6e588c {
		t.Errorf("the identity of 192.0.2.1 port 80 is %#x", got)
	}
	seen := map[uint64]bool{}
	for a := range uint32(1000) {
		for port := range uint16(100) {
			seen[Identity(flow.AddrFrom4(10<<24+a), port)] = true
			seen[Identity(flow.Addr{Hi: 0x20010db8 << 32, Lo: uint64(a)}, port)] = true
		}
	}
	if len(seen) != 200_000 {
		t.Errorf("%d identities of 200000 members", len(seen))
	}
}
