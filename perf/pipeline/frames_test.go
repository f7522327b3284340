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
