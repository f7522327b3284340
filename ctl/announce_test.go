package ctl

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// The announcements as gopacket reads them.
func TestAnnouncements(t *testing.T) {
	mac := [6]byte{2, 0, 0, 0, 0, 1}
	p := gopacket.NewPacket(gratuitousARP(mac, netip.MustParseAddr("10.10.1.100")), layers.LayerTypeEthernet, gopacket.Default)
	arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP)
	if !ok || arp.Operation != layers.ARPRequest || net.IP(arp.SourceProtAddress).String() != "10.10.1.100" ||
		net.IP(arp.DstProtAddress).String() != "10.10.1.100" || net.HardwareAddr(arp.SourceHwAddress).String() != "02:00:00:00:00:01" {
		t.Errorf("%v", p)
	}
	want := unsolicitedNA(mac, netip.MustParseAddr("fd00:10:10:1::100"))
	p = gopacket.NewPacket(want, layers.LayerTypeEthernet, gopacket.Default)
	na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !ok || na.TargetAddress.String() != "fd00:10:10:1::100" || !na.Override() || na.Solicited() {
		t.Fatalf("%v", p)
	}
	ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	icmp := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
	sum := icmp.Checksum
	_ = icmp.SetNetworkLayerForChecksum(ip)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{ComputeChecksums: true, FixLengths: true}, ip, icmp, na); err != nil {
		t.Fatal(err)
	}
	if icmp.Checksum != sum || ip.HopLimit != 255 {
		t.Errorf("checksum %#x, want %#x; hop limit %d", sum, icmp.Checksum, ip.HopLimit)
	}
}
