package engine

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

// A burst of datagrams of both families, of a port and two of its VLANs, with frames in between that are dropped, at every place, so that
// those behind them move up: what leaves is what leaves when the frames come one by one.
func TestMixedBurstMovesUp(t *testing.T) {
	for name, members := range map[string]int{"one tag": blue, "two tags": qinq, "none": inside} {
		t.Run(name, func(t *testing.T) { mixedBurstMovesUp(t, members) })
	}
}

func mixedBurstMovesUp(t *testing.T, members int) {
	spec := vlans(1, members)
	if members == inside { // which has no VLANs then
		spec.Ports[blue].VLAN.Parent, spec.Ports[qinq].VLAN.Parent = outside, outside
	}
	together, apart := newBench(t, spec, 1000, 1024), newBench(t, spec, 1000, 1024)
	defer together.close()
	defer apart.close()
	build := func(i int, tags ...uint16) []byte {
		request := errorCases()[1+2*(i&1)].request
		request.srcMAC, request.dstMAC, request.sport = clientMAC, outsideMAC, 4100+uint16(i)
		request.payload = fmt.Sprint("datagram ", i)
		for port, id := range map[int]uint16{red: 10, lime: 11} {
			if mac := vlanMACs[port]; len(tags) > 0 && tags[0]&0xfff == id {
				request.dstMAC = mac[:]
			}
		}
		return tagged(t, request.build(t), dot1q, tags...)
	}
	var good [][]byte
	for i := range 20 {
		good = append(good, build(i, [][]uint16{nil, {10}, {10}, {11}, {5<<13 | 10}, {3 << 13}}[i%6]...))
	}
	for _, b := range []*bench{together, apart} { // one after the other, so that members are the same
		for _, f := range good {
			only(t, b.send(outside, f), inside)
		}
	}
	arp := append(slices.Clone(good[0][:12]), append([]byte{8, 6}, make([]byte, 46)...)...)
	for _, bad := range [][][]byte{{arp, arp}, {build(30, 99), arp}, {build(31, 99), build(32, 98)}, {arp, build(33, 99)}} {
		for at := range len(good) - 4 {
			burst := slices.Insert(slices.Insert(slices.Clone(good), at+4, bad[1]), at, bad[0])
			var want, got [][]byte
			for _, f := range burst {
				out := apart.send(outside, f)
				want = append(want, out[inside]...)
			}
			if together.wire(0, outside).SendBurst(burst) != len(burst) {
				t.Fatal("the wire is full")
			}
			together.Step(together.now)
			together.wire(0, inside).Recv(func(f []byte) { got = append(got, bytes.Clone(f)) })
			together.Step(together.now)
			for _, f := range got { // a tag that names the port stays behind, one with a priority alone is the packet's
				if members == inside && f[12] == 0x81 && (int(f[14])<<8|int(f[15]))&0xfff != 0 {
					t.Fatalf("%x has a tag", f)
				}
			}
			if !slices.EqualFunc(got, want, bytes.Equal) || len(got) != len(good) {
				t.Fatalf("with other frames at %d: %d leave, not %d:\n%x\nnot\n%x", at, len(got), len(want), got, want)
			}
		}
	}
	s, one := together.stats(), apart.stats()
	if s.Drops != one.Drops || s.Drops[VLANUnknown] == 0 || s.Drops[NotIP] == 0 || s.Opened != one.Opened || s.ToServer != one.ToServer {
		t.Errorf("%+v, not %+v", s, one)
	}
}
