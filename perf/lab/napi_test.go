package lab

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/asavie/xdp"
	"github.com/vishvananda/netlink"
)

// What the package comment says about NAPI: frames sent by an AF_XDP socket arrive at a peer that has neither an XDP
// program nor GRO. (The driver here is github.com/asavie/xdp, so that the lab proves it without ours.)
func TestXSKTransmitReachesBarePeer(t *testing.T) {
	l := open(t)
	a, b := pair(t, l)
	c := must(b.Capture("eth0", 1000))(t)
	const frames = 64
	frame := bytes.Repeat([]byte{0xab}, 200)
	copy(frame, bytes.Repeat([]byte{0xff}, 6))
	copy(frame[12:], []byte{0x88, 0xb5}) // EtherType for local experiments
	ok(t, a.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		s, err := xdp.NewSocket(link.Attrs().Index, 0, nil)
		if err != nil {
			return err
		}
		defer s.Close()
		descs := s.GetDescs(frames)
		for i := range descs {
			descs[i].Len = uint32(copy(s.GetFrame(descs[i]), frame))
		}
		s.Transmit(descs)
		for done, tries := 0, 0; done < frames; tries++ {
			_, completed, err := s.Poll(100)
			if err != nil {
				return err
			}
			if tries > 100 {
				return fmt.Errorf("%d of %d frames completed", done, frames)
			}
			done += completed
		}
		return nil
	}))
	eventually(t, "all frames arrive", func() bool {
		n := 0
		for _, f := range c.Frames() {
			if !f.Outgoing && bytes.Equal(f.Data, frame) {
				n++
			}
		}
		return n == frames
	})
}
