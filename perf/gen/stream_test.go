package gen

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Every packet reads as what it should be by a parser that is not ours, with right checksums.
func TestStreams(t *testing.T) {
	target := Target{net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}, netip.MustParseAddrPort("10.10.1.100:80")}
	from := netip.MustParsePrefix("198.18.0.0/15")
	syns, err := NewSYNs(target, from, 7)
	if err != nil {
		t.Fatal(err)
	}
	flows, err := NewFlows(target, from.Addr().Next(), 3)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Stream{"syns": syns, "flows": flows} {
		sources := map[netip.AddrPort]int{}
		for range 3000 {
			b := make([]byte, 2048)
			n := s.Next(b)
			p := gopacket.NewPacket(b[:n], layers.LayerTypeEthernet, gopacket.Default)
			if err := p.ErrorLayer(); err != nil || n < 60 {
				t.Fatalf("%s: %d bytes, %v", name, n, err)
			}
			mismatches, err := checksums(p)
			if err != nil || mismatches > 0 {
				t.Fatalf("%s: %d wrong checksums, %v: % x", name, mismatches, err, b[:n])
			}
			ip := p.NetworkLayer().(*layers.IPv4)
			src, _ := netip.AddrFromSlice(ip.SrcIP)
			port, ours := uint16(0), false
			switch l4 := p.TransportLayer().(type) {
			case *layers.TCP:
				port, ours = uint16(l4.SrcPort), l4.SYN && !l4.ACK && l4.DstPort == 80
			case *layers.UDP:
				port, ours = uint16(l4.SrcPort), l4.DstPort == 80
			}
			if !ours || !from.Contains(src) || ip.DstIP.String() != "10.10.1.100" {
				t.Fatalf("%s: %s", name, p)
			}
			sources[netip.AddrPortFrom(src, port)]++
		}
		if want := map[string]int{"syns": 3000, "flows": 3}[name]; len(sources) != want {
			t.Errorf("%s: %d sources, want %d", name, len(sources), want)
		}
	}
}

func checksums(p gopacket.Packet) (wrong int, err error) {
	ip := p.NetworkLayer().(*layers.IPv4)
	list := []gopacket.LayerWithChecksum{ip}
	switch l4 := p.TransportLayer().(type) {
	case *layers.TCP:
		err = l4.SetNetworkLayerForChecksum(ip)
		list = append(list, l4)
	case *layers.UDP:
		err = l4.SetNetworkLayerForChecksum(ip)
		list = append(list, l4)
	}
	for _, l := range list {
		e, r := l.VerifyChecksum()
		if e != nil {
			return wrong, e
		}
		if !r.Valid {
			wrong++
		}
	}
	return wrong, err
}

// What cannot be built is refused.
func TestStreamErrors(t *testing.T) {
	v4, v6 := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("2001:db8::1")
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	good := Target{mac, mac, netip.AddrPortFrom(v4, 80)}
	for name, err := range map[string]error{
		"no MAC":      second(NewSYNs(Target{nil, mac, good.To}, netip.PrefixFrom(v4, 15), 1)),
		"IPv6":        second(NewSYNs(Target{mac, mac, netip.AddrPortFrom(v6, 80)}, netip.PrefixFrom(v4, 15), 1)),
		"IPv6 source": second(NewSYNs(good, netip.PrefixFrom(v6, 64), 1)),
		"no flows":    second(NewFlows(good, v4, 0)),
		"IPv6 flows":  second(NewFlows(good, v6, 1)),
		"many flows":  second(NewFlows(good, v4, 60001)),
	} {
		if err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := Open("no-such-if"); err == nil {
		t.Error("no error for an interface that is not there")
	}
}

func second[T any](_ T, err error) error { return err }
