package main

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/perf/lab"
)

// SNAT addresses are put on the members' port and announced there, by gratuitous ARP and an unsolicited advertisement, as virtual ones are
// on theirs: whoever had them before is forgotten by the members.
func TestSNATAnnounced(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	b.write(b.fullNATText())
	capture := must(b.Servers[0].Capture("eth0", 1000))(t)
	d := b.start()
	snat4, snat6 := netip.MustParseAddr("192.168.20.200"), netip.MustParseAddr("fd00:192:168:20::200")
	heard := map[netip.Addr]bool{}
	eventually(t, "both addresses are announced", func() bool {
		for _, f := range capture.Frames() {
			p := gopacket.NewPacket(f.Data, layers.LayerTypeEthernet, gopacket.Default)
			if a, is := p.Layer(layers.LayerTypeARP).(*layers.ARP); is && string(a.SourceProtAddress) == string(a.DstProtAddress) {
				from, _ := netip.AddrFromSlice(a.SourceProtAddress)
				heard[from] = true
			}
			if a, is := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); is && a.Override() && !a.Solicited() {
				target, _ := netip.AddrFromSlice(a.TargetAddress)
				heard[target] = true
			}
		}
		return heard[snat4] && heard[snat6]
	})
	ok(t, capture.Close())
	if heard[b.VIP4] || heard[b.VIP6] {
		t.Error("a virtual address is announced to the members")
	}
	d.stop()
}
