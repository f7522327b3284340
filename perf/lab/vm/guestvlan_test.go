package vm

import (
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// gopacket must read the frame that is built by hand.
func TestTaggedDatagram(t *testing.T) {
	p := gopacket.NewPacket(taggedDatagram(40001), layers.LayerTypeEthernet, gopacket.Default)
	tag, _ := p.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q)
	ip, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	udp, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if tag == nil || ip == nil || udp == nil || p.ErrorLayer() != nil {
		t.Fatal(p)
	}
	header := gopacket.NewSerializeBuffer()
	right := *ip
	if err := right.SerializeTo(header, gopacket.SerializeOptions{ComputeChecksums: true}); err != nil {
		t.Fatal(err)
	}
	if tag.VLANIdentifier != testVLAN || !ip.DstIP.Equal(vip4.AsSlice()) || ip.Checksum != right.Checksum ||
		udp.SrcPort != 40001 || udp.DstPort != echoPort || len(udp.Payload) != taggedPayload {
		t.Errorf("%s\nIPv4 checksum %#x", p, right.Checksum)
	}
}
