package pipeline

import (
	"fmt"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/flow"
	"sluice/rings"
)

// An implementation that is not ours reads the frames, with the payload of zeros that they stand for, and agrees with every
// length and checksum.
func TestWriteHead(t *testing.T) {
	tu := tuple{src: clientBase + 77, dst: virtualBase, sport: 1055, dport: 80}
	for _, proto := range []uint8{flow.TCP, flow.UDP} {
		for _, n := range []int{ipLen + tcpLen, packetLen(64), 576, 1500} {
			t.Run(fmt.Sprintf("proto=%d/length=%d", proto, n), func(t *testing.T) {
				frame := make([]byte, max(int(frameLen(n)), rings.HeadLen))
				writeHead(frame, outsideMAC, clientMAC, tu, segment{proto: proto, flags: flow.FlagACK, seq: 1001, ack: 9001, id: 7}, n)
				frame = frame[:frameLen(n)]
				p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
				if p.ErrorLayer() != nil {
					t.Fatal(p.ErrorLayer().Error())
				}
				if err := p.TransportLayer().(interface {
					SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
				}).SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
					t.Fatal(err)
				}
				if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
					t.Errorf("checksums: %v %v", err, bad)
				}
				ip := p.NetworkLayer().(*layers.IPv4)
				if int(ip.Length) != n || ip.SrcIP.String() != "10.0.1.77" || ip.DstIP.String() != "198.18.0.1" || ip.TTL != 64 {
					t.Errorf("%+v", ip)
				}
				if got := p.TransportLayer().TransportFlow().String(); got != "1055->80" {
					t.Error(got)
				}
				if got, id := readHead(frame); got != tu || id != 7 {
					t.Errorf("read back %+v %d", got, id)
				}
			})
		}
	}
}

func TestPicker(t *testing.T) {
	const n = 1000
	for _, pattern := range Patterns {
		seq := make([]int, n)
		pick, err := picker(pattern, n, newRandom(1))
		if err != nil {
			t.Fatal(err)
		}
		for range 20 * n {
			seq[pick()]++
		}
		most, unseen := 0, 0
		for _, k := range seq {
			most = max(most, k)
			if k == 0 {
				unseen++
			}
		}
		switch pattern {
		case "round":
			if most != 20 || unseen != 0 {
				t.Errorf("%s: the busiest of %d has %d of %d, %d have none", pattern, n, most, 20*n, unseen)
			}
		case "uniform":
			if most > 60 || unseen != 0 {
				t.Errorf("%s: the busiest of %d has %d of %d, %d have none", pattern, n, most, 20*n, unseen)
			}
		case "zipf":
			if most < n || unseen == 0 {
				t.Errorf("%s: the busiest of %d has %d of %d, %d have none", pattern, n, most, 20*n, unseen)
			}
		}
	}
	if _, err := picker("other", 1, newRandom(1)); err == nil {
		t.Error("a pattern that there is none of")
	}
}

// The same over IPv6, whose headers end in the second line of a head.
func TestWriteHeadIPv6(t *testing.T) {
	tu := tuple{src: clientBase + 77, dst: virtualBase, sport: 1055, dport: 80}
	for _, proto := range []uint8{flow.TCP, flow.UDP} {
		for _, n := range []int{shape{family: "6"}.smallest(uint32(proto >> 4)), 576, 1500} { // of UDP (17) the odd one
			t.Run(fmt.Sprintf("proto=%d/length=%d", proto, n), func(t *testing.T) {
				frame := make([]byte, max(int(frameLen(n)), rings.LongHeadLen))
				writeHead(frame, outsideMAC, clientMAC, tu, segment{proto: proto, flags: flow.FlagACK, seq: 1001, ack: 9001, id: 7, v6: true}, n)
				if got := sentLen(frame); got != frameLen(n) {
					t.Errorf("the frame is taken for one of %d bytes, not %d", got, frameLen(n))
				}
				frame = frame[:frameLen(n)]
				p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
				if p.ErrorLayer() != nil {
					t.Fatal(p.ErrorLayer().Error())
				}
				if err := p.TransportLayer().(interface {
					SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
				}).SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
					t.Fatal(err)
				}
				if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
					t.Errorf("checksums: %v %v", err, bad)
				}
				ip := p.NetworkLayer().(*layers.IPv6)
				if int(ip.Length) != n-ip6Len || ip.SrcIP.String() != "2001:db8::a00:14d" || ip.DstIP.String() != "2001:db8::c612:1" || ip.HopLimit != 64 {
					t.Errorf("%+v", ip)
				}
				if got, id := readHead(frame); got != tu || id != 7 {
					t.Errorf("read back %+v %d", got, id)
				}
			})
		}
	}
}

// What the engine makes of packets of both families has right checksums as well, and is of the family that it came of.
func TestFamiliesAreForwarded(t *testing.T) {
	for _, family := range Families {
		b, err := newBed(shape{mode: modes[0], connections: 64, members: 4, virtuals: 1, workers: 1, family: family})
		if err != nil {
			t.Fatal(err)
		}
		if err := b.establish(nil); err != nil {
			t.Fatal(err)
		}
		seen := map[gopacket.LayerType]int{}
		all := func(int) bool { return true }
		judge := func(frame []byte) {
			p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
			if p.ErrorLayer() != nil {
				t.Fatal(p.ErrorLayer().Error())
			}
			if err := p.TransportLayer().(interface {
				SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
			}).SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
				t.Fatal(err)
			}
			if err, bad := p.VerifyChecksums(); err != nil || len(bad) > 0 {
				t.Errorf("family %s: checksums: %v %v of % x", family, err, bad, frame)
			}
			seen[p.NetworkLayer().LayerType()]++
			seen[p.TransportLayer().LayerType()]++
		}
		b.deliver(outside, b.ownersOf(0, 64), all, func(i int, head []byte) { b.request(head, uint32(i), b.smallest(uint32(i))) })
		there := b.collect(inside, judge)
		b.deliver(inside, b.ownersOf(0, 64), all, func(i int, head []byte) { b.reply(head, uint32(i), b.smallest(uint32(i))) })
		if back := b.collect(outside, judge); there != 64 || back != 64 {
			t.Errorf("family %s: %d and %d of 64 were forwarded", family, there, back)
		}
		want := map[string][2]int{"4": {128, 0}, "6": {0, 128}, "both": {64, 64}}[family]
		if got := [2]int{seen[layers.LayerTypeIPv4], seen[layers.LayerTypeIPv6]}; got != want || seen[layers.LayerTypeTCP] != 64 || seen[layers.LayerTypeUDP] != 64 {
			t.Errorf("family %s: %v", family, seen)
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	}
}

func TestSizer(t *testing.T) {
	for size, want := range map[string]map[int]float64{"64": {0: 1}, "imix": {0: 7. / 12, 576: 4. / 12, 1500: 1. / 12}, "1500": {1500: 1}} {
		draw, err := sizer(size, newRandom(2))
		if err != nil {
			t.Fatal(err)
		}
		const n = 12000
		got := map[int]int{}
		for range n {
			got[draw()]++
		}
		for length, share := range want {
			if d := float64(got[length])/n - share; d > 0.02 || d < -0.02 || len(got) != len(want) {
				t.Errorf("size %s: %v", size, got)
			}
		}
	}
	if _, err := sizer("9000", newRandom(1)); err == nil {
		t.Error("a size that there is none of")
	}
}
