package ctl

import (
	"fmt"
	"slices"
	"strings"

	"sluice/rings"
)

// PortFacts are what the doctor knows of an interface.
type PortFacts struct {
	Name      string // of the port; that of the interface without a configuration
	Interface string
	Problem   string // why no more is known, or ""
	Up        bool
	Carrier   bool
	Driver    string // as ethtool -i has it; "" if it does not say
	MTU       int
	Jumbo     Jumbo // the setting; "" without a configuration
	RX, TX    int   // queues
	Queues    int   // what the configuration asks for; 0 is all

	XDPKnown    bool   // the kernel tells what its driver supports (Linux 6.3)
	XDPFeatures uint64 // netdev family, enum netdev_xdp_act
	// ZeroCopySegments is how many buffers a packet may have in zero-copy mode; 0 if it is not told.
	ZeroCopySegments uint32
	Program          uint32 // id of an XDP program that is attached, 0 for none
	Ours             bool   // it is pinned by sluice
	Untold           bool   // or that cannot be told: this process may not look at pins

	Features    map[string]bool // offloads by their kernel names, true if on
	Indirection []uint32        // queues that RSS sends to, one for each slot; nil if there is no RSS or it cannot be read
	RPFilter    int
	VLANs       []string // interfaces on top that take a tag off
	Peer        *PeerFacts
}

// PeerFacts are what is known of the other end of a veth.
type PeerFacts struct {
	Interface string
	Namespace string // "" is this one
	Unknown   bool   // it is in a namespace without a name, or one that this process may not enter
	Features  map[string]bool
}

// What a driver supports (enum netdev_xdp_act, include/uapi/linux/netdev.h).
const (
	xdpBasic     = 1 << 0
	xdpRedirect  = 1 << 1
	xdpZeroCopy  = 1 << 3
	xdpReceiveSG = 1 << 5
)

// native reports whether the driver runs XDP programs that redirect to sockets. What is not known is taken to be so.
func (p *PortFacts) native() bool {
	return !p.XDPKnown || p.XDPFeatures&(xdpBasic|xdpRedirect) == xdpBasic|xdpRedirect
}

func (e *examination) port(p *PortFacts) {
	if p.Problem != "" {
		e.find(LevelFail, "interface", p.Problem, "sluice run would refuse to start", "ip link shows the interfaces; correct ports in the configuration")
		return
	}
	switch {
	case !p.Up:
		e.find(LevelFail, "interface", "it is down", "sluice run would refuse to start", "ip link set "+p.Interface+" up")
	case !p.Carrier:
		e.find(LevelWarn, "interface", "it is up and has no carrier", "nothing comes or goes", "look at the cable or the other end")
	default:
		e.ok("interface", "it is up")
	}
	switch {
	case p.Program == 0:
	case p.Ours:
		e.ok("xdp-program", "sluice's own program is attached")
	case p.Untold:
		e.find(LevelNote, "xdp-program", fmt.Sprintf("XDP program %d is attached, and this user may not see whose it is", p.Program),
			"it is sluice's if one runs here with this port (sluice port); another's would keep sluice from starting", "as root: sluice doctor")
	default:
		e.find(LevelFail, "xdp-program", fmt.Sprintf("XDP program %d is attached and is not sluice's", p.Program), "an interface has one XDP program, and sluice does not replace another's",
			"find its owner (bpftool net; bpftool prog show id "+fmt.Sprint(p.Program)+"), or: ip link set "+p.Interface+" xdp off")
	}
	e.modes(p)
	e.room(p)
	e.queues(p)
	e.offloads(p)
	if p.RPFilter == 1 {
		e.find(LevelWarn, "rp-filter", "net.ipv4.conf."+p.Interface+".rp_filter is 1 (strict)",
			"packets for the host itself that come here by another way than it would answer are dropped; virtual servers are not concerned", "sysctl net.ipv4.conf."+p.Interface+".rp_filter=2")
	} else {
		e.ok("rp-filter", "net.ipv4.conf.%s.rp_filter is %d", p.Interface, p.RPFilter)
	}
}

func (e *examination) modes(p *PortFacts) {
	driver := p.Driver
	if driver == "" {
		driver = "unknown driver"
	}
	mode := e.facts.Wants.Mode
	switch {
	case !p.XDPKnown:
		e.find(LevelNote, "xdp-mode", driver+": what XDP it supports cannot be told", "the kernel tells it since Linux 6.3; docs/DRIVERS.md lists what was seen to work",
			"start it and look at sluice port")
		return
	case !p.native() && (mode == BindZeroCopy || mode == BindCopy):
		e.find(LevelFail, "xdp-mode", fmt.Sprintf("%s: no native XDP, and engine.mode is %s", driver, mode), "sluice run would refuse to start", "set engine.mode to auto or generic")
		return
	case !p.native():
		e.find(LevelWarn, "xdp-mode", driver+": no native XDP", "the program runs in generic mode, after the kernel has made a packet of its own: several times slower",
			"use an interface whose driver has native XDP")
		return
	case mode == BindGeneric:
		e.find(LevelNote, "xdp-mode", driver+": native XDP, and engine.mode is generic", "generic mode is several times slower", "set engine.mode to auto")
		return
	}
	zero := p.XDPFeatures&xdpZeroCopy != 0
	switch {
	case zero:
		e.ok("xdp-mode", "%s: native XDP, zero-copy", driver)
	case mode == BindZeroCopy:
		e.find(LevelFail, "xdp-mode", driver+": native XDP, no zero-copy, and engine.mode is zero-copy", "sluice run would refuse to start", "set engine.mode to auto or copy")
	default:
		e.find(LevelNote, "xdp-mode", driver+": native XDP, no zero-copy", "the kernel copies every packet between the driver's memory and sluice's", "use an interface whose driver has zero-copy, such as ice, i40e, mlx5")
	}
}

// zeroCopy reports whether a start may bind this interface without copies.
func (e *examination) zeroCopy(p *PortFacts) bool {
	m := e.facts.Wants.Mode
	return (m == BindAuto || m == BindZeroCopy) && p.XDPFeatures&xdpZeroCopy != 0
}

func (e *examination) room(p *PortFacts) {
	size := e.facts.Wants.FrameSize
	if err := rings.CheckRoom(p.Driver, false, size, p.MTU); err != nil {
		if e.jumbo(p, err) {
			return
		}
		e.find(LevelFail, "mtu", err.Error(), "longer packets never reach sluice: the kernel drops them at the socket", advice(err))
		return
	}
	if e.zeroCopy(p) {
		if err := rings.CheckRoom(p.Driver, true, size, p.MTU); err != nil {
			e.find(LevelNote, "mtu", err.Error(), "sluice takes copy mode where it could do without copies", advice(err))
			return
		}
	}
	e.ok("mtu", "packets of the MTU of %d fit frames of %d bytes", p.MTU, size)
}

// advice is what an error ends with.
func advice(err error) string {
	text := err.Error()
	return text[strings.LastIndex(text, ": ")+2:]
}

func (e *examination) queues(p *PortFacts) {
	w := &e.facts.Wants
	switch {
	case p.RX > p.TX:
		e.find(LevelFail, "queues", fmt.Sprintf("%d to receive on and %d to send on", p.RX, p.TX), "every receive queue needs one to send on", fmt.Sprintf("ethtool -L %s rx %d tx %d", p.Interface, p.TX, p.TX))
	case p.Queues != 0 && p.Queues != p.RX:
		e.find(LevelFail, "queues", fmt.Sprintf("%d, and the configuration asks for %d", p.RX, p.Queues), "sluice run would refuse to start", fmt.Sprintf("ethtool -L %s combined %d, or queues: auto", p.Interface, p.Queues))
	case w.Workers > p.RX:
		e.find(LevelNote, "queues", fmt.Sprintf("%d for %d workers", p.RX, w.Workers), "some workers receive nothing here and only get what others hand over", fmt.Sprintf("ethtool -L %s combined %d, if the driver has so many", p.Interface, w.Workers))
	case w.Workers > 0 && p.RX%w.Workers != 0:
		e.find(LevelNote, "queues", fmt.Sprintf("%d for %d workers", p.RX, w.Workers), "some workers serve more queues than others", fmt.Sprintf("ethtool -L %s combined %d, or engine.workers: %d", p.Interface, p.RX/w.Workers*w.Workers, p.RX))
	case w.Workers > 0:
		e.ok("queues", "%d for %d workers", p.RX, w.Workers)
	default:
		e.ok("queues", "%d", p.RX)
	}
	if p.RX < 2 {
		return
	}
	used := map[uint32]bool{}
	for _, q := range p.Indirection {
		used[q] = true
	}
	switch {
	case p.Indirection == nil:
		e.find(LevelNote, "steering", "how packets are spread over queues cannot be read", "a driver without RSS leaves it to the sender; HANDED-OUT in sluice worker shows what had to change workers", "")
	case len(used) < p.RX:
		e.find(LevelWarn, "steering", fmt.Sprintf("RSS sends to %d of %d queues", len(used), p.RX), "workers of the other queues only get what is handed over to them", fmt.Sprintf("ethtool -X %s equal %d", p.Interface, p.RX))
	default:
		e.ok("steering", "RSS sends to all %d queues", p.RX)
	}
}

// checksumOffloads are those of p's features that leave transport checksums to a device.
func checksumOffloads(features map[string]bool) (on []string) {
	for name, active := range features {
		if active && strings.HasPrefix(name, "tx-checksum-") && name != "tx-checksum-fcoe-crc" {
			on = append(on, name)
		}
	}
	slices.Sort(on)
	return on
}

const partialMeaning = "a virtual link passes packets on whose checksum the sender left to a device; sluice computes it from the first that it has seen on, which costs time (checksum: auto), or drops such packets (verify)"

func (e *examination) offloads(p *PortFacts) {
	found := false
	say := func(l Level, check, text, meaning, mend string) {
		found = true
		e.find(l, check, text, meaning, mend)
	}
	own := checksumOffloads(p.Features)
	switch {
	case p.Driver == "veth" && len(own) > 0:
		say(LevelWarn, "tx-checksum", strings.Join(own, ", ")+" on", partialMeaning+". It holds for what this host sends; the other end needs the same", "ethtool -K "+p.Interface+" tx off")
	case p.Driver == "virtio_net" && p.Features["rx-checksum"]:
		say(LevelNote, "rx-checksum", "rx-checksum on", partialMeaning+". The driver turns it off while an XDP program is attached, where the host of this machine agrees", "ethtool -K "+p.Interface+" rx off; on the host: ethtool -K TAP tx off")
	}
	if peer := p.Peer; peer != nil {
		name, enter := peer.Interface, ""
		if peer.Namespace != "" {
			name, enter = peer.Interface+" in "+peer.Namespace, "ip netns exec "+peer.Namespace+" "
		}
		on := checksumOffloads(peer.Features)
		switch {
		case peer.Unknown:
			say(LevelNote, "peer-tx-checksum", "the other end of the veth cannot be looked at", partialMeaning, "there: ethtool -K DEV tx off")
		case len(on) > 0:
			say(LevelWarn, "peer-tx-checksum", fmt.Sprintf("%s on at the other end, %s", strings.Join(on, ", "), name), partialMeaning, enter+"ethtool -K "+peer.Interface+" tx off")
		}
	}
	if p.Features["rx-lro"] || p.Features["rx-gro-hw"] {
		say(LevelWarn, "lro", "the NIC merges packets on receipt (rx-lro, rx-gro-hw)", "merged packets do not fit a frame: some drivers turn it off for an XDP program, others refuse the program", "ethtool -K "+p.Interface+" lro off rx-gro-hw off")
	}
	if p.Features["rx-gro"] && (e.facts.Wants.Mode == BindGeneric || !p.native()) {
		say(LevelWarn, "gro", "the kernel merges packets (rx-gro), and the program runs in generic mode", "generic mode sees packets after they were merged: they do not fit a frame and are dropped", "ethtool -K "+p.Interface+" gro off")
	}
	if p.Features["rx-vlan-hw-parse"] {
		if len(p.VLANs) > 0 {
			say(LevelWarn, "vlan-stripping", "VLAN tags are taken off on receipt (rx-vlan-hw-parse), and there are VLANs: "+strings.Join(p.VLANs, ", "),
				"the program sees packets of a VLAN as if they had no tag", "ethtool -K "+p.Interface+" rxvlan off")
		} else {
			say(LevelNote, "vlan-stripping", "VLAN tags are taken off on receipt (rx-vlan-hw-parse)", "it only matters where packets with tags arrive: answers to them would have none", "ethtool -K "+p.Interface+" rxvlan off")
		}
	}
	switch {
	case p.Features == nil:
		e.find(LevelNote, "offloads", "its offloads cannot be read", "checksum offload of virtual links, LRO and VLAN stripping would harm", "ethtool -k "+p.Interface)
	case !found:
		e.ok("offloads", "none that harms is on")
	}
}
