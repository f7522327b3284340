package engine

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"sluice/flow"
)

// manyServices are n virtual servers of one form.
func manyServices(tb testing.TB, form string, n int) (services, []flow.Key) {
	tb.Helper()
	s := newServices(n + 1)
	var keys []flow.Key
	for i := range n {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], 10<<24|uint32(i)<<8|1)
		addr := netip.AddrFrom4(b)
		d := AddressPort(addr, 80)
		switch form {
		case "prefix": // of 16 lengths that hold each its own addresses
			bits := 17 + i%16
			d.Prefix = netip.PrefixFrom(addr, bits).Masked()
			if bits < 24 {
				b[0] = 20 + byte(bits)
				binary.BigEndian.PutUint16(b[1:], uint16(i))
				binary.BigEndian.PutUint32(b[:], uint32(b[0])<<24|uint32(i)<<(32-bits)&0xffffff)
				d.Prefix = netip.PrefixFrom(netip.AddrFrom4(b), bits).Masked()
			}
			if d.Prefix.IsSingleIP() {
				d.Prefix = netip.PrefixFrom(addr, 31).Masked()
			}
		case "range": // of one address
			d = Destination{netip.MustParsePrefix("10.0.0.1/32"), flow.PortRange{First: uint16(1 + 4*i), Last: uint16(3 + 4*i)}}
		}
		if s.addDestination(d, flow.TCP, 0, uint32(i+1), UnmatchedDrop) != 0 {
			continue
		}
		keys = append(keys, flow.Key{Dst: flow.AddrFrom(d.Prefix.Addr()), Ports: flow.Ports(1234, max(d.Ports.First, 1)), Proto: flow.TCP})
	}
	if form == "prefix" { // the same prefix may have come twice from short lengths
		seen := map[netip.Prefix]bool{}
		kept := s.networks.spans.pending[:0]
		for _, p := range s.networks.spans.pending {
			prefix := netip.PrefixFrom(p.addr.Netip(), int(p.scope&0xff)-96)
			if !seen[prefix] {
				seen[prefix] = true
				kept = append(kept, p)
			}
		}
		s.networks.spans.pending = kept
	}
	if err := s.sort(); err != nil {
		tb.Fatal(err)
	}
	rand.New(rand.NewPCG(1, 1)).Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return s, keys
}

// How the look-up grows with the number of virtual servers, by their form.
func BenchmarkServices(b *testing.B) {
	for _, form := range []string{"address", "range", "prefix"} {
		for _, n := range []int{10, 100, 1000, 10_000} {
			b.Run(fmt.Sprintf("form=%s/virtuals=%d", form, n), func(b *testing.B) {
				s, keys := manyServices(b, form, n)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					k := &keys[i%len(keys)]
					if s.find(k.Dst, k.DstPort(), k.Proto, 0) == 0 {
						b.Fatal("not found")
					}
				}
			})
		}
	}
}

// Looking for a virtual server allocates nothing, whatever its form.
func TestServicesAllocations(t *testing.T) {
	for _, form := range []string{"address", "range", "prefix"} {
		s, keys := manyServices(t, form, 1000)
		i := 0
		if n := testing.AllocsPerRun(1000, func() {
			k := &keys[i%len(keys)]
			i++
			if s.find(k.Dst, k.DstPort(), k.Proto, 0) == 0 {
				t.Errorf("%s: not found", form)
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", form, n)
		}
	}
}
