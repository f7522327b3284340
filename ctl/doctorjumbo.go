package ctl

import (
	"fmt"
	"strings"

	"sluice/rings"
)

// jumbo judges a port whose packets do not all fit a frame: small is why. It reports false where that is for others to say, because
// the setting is to have no packets of several frames.
func (e *examination) jumbo(p *PortFacts, small error) bool {
	if p.Jumbo == JumboOff {
		return false
	}
	size := e.facts.Wants.FrameSize
	const lost = "longer packets never reach sluice: the kernel drops them at the socket"
	switch err := rings.CheckChains(size, p.MTU); {
	case e.facts.NoMultiBuffer != "":
		e.find(LevelFail, "mtu", fmt.Sprintf("%v; %s", small, e.facts.NoMultiBuffer), lost, advice(small))
	case err != nil:
		e.find(LevelFail, "mtu", err.Error(), "longer packets are lost", advice(err))
	case p.XDPKnown && p.native() && p.XDPFeatures&xdpReceiveSG == 0:
		e.find(LevelWarn, "mtu", fmt.Sprintf("%s: its XDP has no packets of several buffers, and those of the MTU of %d take several frames of %d bytes", p.Driver, p.MTU, size),
			"the driver may refuse the XDP program at this MTU; it then runs in generic mode, several times slower", advice(small))
	case e.zeroCopy(p) && p.ZeroCopySegments == 1:
		e.find(LevelNote, "mtu", fmt.Sprintf("%s: zero-copy only for packets of one buffer, and those of the MTU of %d take several frames of %d bytes", p.Driver, p.MTU, size),
			"sluice takes copy mode where it could do without copies", advice(small))
	default:
		e.ok("mtu", "packets of the MTU of %d take several frames of %d bytes", p.MTU, size)
	}
	e.aggregated(p)
	return true
}

// aggregated finds a veth whose other end sends packets larger than the MTU: for an XDP program that takes several buffers the
// kernel leaves them whole (veth_xdp_set in drivers/net/veth.c).
func (e *examination) aggregated(p *PortFacts) {
	if p.Peer == nil || p.Peer.Unknown {
		return
	}
	var on []string
	for _, name := range []string{"tx-tcp-segmentation", "tx-tcp6-segmentation", "tx-udp-segmentation"} {
		if p.Peer.Features[name] {
			on = append(on, name)
		}
	}
	if len(on) == 0 {
		return
	}
	enter := ""
	if p.Peer.Namespace != "" {
		enter = "ip netns exec " + p.Peer.Namespace + " "
	}
	e.find(LevelWarn, "peer-segmentation", fmt.Sprintf("%s on at the other end, %s", strings.Join(on, ", "), p.Peer.Interface),
		"with jumbo frames the kernel does not cut what the other end sends in one go: it arrives larger than the MTU, and is dropped (too_big)",
		enter+"ethtool -K "+p.Peer.Interface+" tso off gso off")
}
