package ctl

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"sluice/rings"
)

// gatherPorts looks at the interfaces of the ports, or without a configuration at every Ethernet interface that is up.
func gatherPorts(f *File) (out []PortFacts, err error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	tool, err := ethtool.NewEthtool()
	if err != nil {
		return nil, fmt.Errorf("open a socket for ethtool: %w", err)
	}
	defer tool.Close()
	if f == nil {
		for _, l := range links {
			if a := l.Attrs(); isNIC(l) && a.Flags&net.FlagUp != 0 && a.Name != hostEngineEnd && a.Name != hostKernelEnd {
				out = append(out, gatherPort(a.Name, a.Name, 0, l, links, tool))
			}
		}
		return out, nil
	}
	for i := range f.Ports {
		p := &f.Ports[i]
		l, err := netlink.LinkByName(p.Interface)
		if err != nil {
			out = append(out, PortFacts{Name: p.Name, Interface: p.Interface, Problem: "there is no interface " + p.Interface})
			continue
		}
		if a := l.Attrs(); len(a.HardwareAddr) != 6 || a.Flags&net.FlagLoopback != 0 {
			out = append(out, PortFacts{Name: p.Name, Interface: p.Interface, Problem: p.Interface + " is not an Ethernet interface"})
			continue
		}
		facts := gatherPort(p.Name, p.Interface, p.Queues, l, links, tool)
		facts.Jumbo = p.Jumbo
		out = append(out, facts)
	}
	return out, nil
}

// isNIC tells what may be a port from bridges, tunnels, VLANs and the like.
func isNIC(l netlink.Link) bool {
	a := l.Attrs()
	return (l.Type() == "device" || l.Type() == "veth") && len(a.HardwareAddr) == 6 && a.Flags&net.FlagLoopback == 0
}

func gatherPort(name, ifname string, queues int, l netlink.Link, links []netlink.Link, tool *ethtool.Ethtool) PortFacts {
	a := l.Attrs()
	p := PortFacts{Name: name, Interface: ifname, Queues: queues, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
	p.Carrier = a.OperState != netlink.OperDown && a.OperState != netlink.OperLowerLayerDown
	p.Driver, _ = tool.DriverName(ifname)
	if features, err := tool.Features(ifname); err == nil {
		p.Features = features
	}
	var err error
	if p.RX, p.TX, err = rings.Channels(ifname); err != nil {
		p.Problem = err.Error()
	}
	if in, err := tool.GetIndir(ifname); err == nil && in.Size > 0 {
		p.Indirection = in.RingIndex[:min(int(in.Size), len(in.RingIndex))]
	}
	p.XDPFeatures, p.ZeroCopySegments, p.XDPKnown = xdpFeatures(a.Index)
	if a.Xdp != nil && a.Xdp.Attached {
		p.Program = a.Xdp.ProgId
		p.Ours, p.Untold = pinnedOn(ifname)
	}
	p.RPFilter = netSetting("ipv4/conf/" + ifname + "/rp_filter")
	for _, o := range links {
		if o.Type() == "vlan" && o.Attrs().ParentIndex == a.Index {
			p.VLANs = append(p.VLANs, o.Attrs().Name)
		}
	}
	if l.Type() == "veth" {
		p.Peer = peerOf(l, tool)
	}
	return p
}

// pinnedOn reports whether the program of an interface is pinned by sluice, or that this process may not know.
func pinnedOn(ifname string) (ours, untold bool) {
	pins, err := rings.ListPinned()
	for _, p := range pins {
		if p.Alive && p.Interface == ifname {
			return true, false
		}
	}
	if err == nil && !rings.PinsHidden() {
		return false, false
	}
	// An engine of this network namespace, one that was killed too, has left a note.
	note, readable := noteHere()
	return false, !readable || note.inherited
}

// The netdev family (Documentation/netlink/specs/netdev.yaml), of which the netlink library knows nothing yet.
const (
	netdevFamily         = "netdev"
	netdevGet            = 1 // NETDEV_CMD_DEV_GET
	netdevAttrIfindex    = 1 // NETDEV_A_DEV_IFINDEX, u32
	netdevAttrXDPFeature = 3 // NETDEV_A_DEV_XDP_FEATURES, u64
	netdevAttrSegments   = 4 // NETDEV_A_DEV_XDP_ZC_MAX_SEGS, u32
)

// genericHeader is struct genlmsghdr: command, version, and two bytes that this family wants to be 0, which those of
// nl.Genlmsg are not.
type genericHeader [nl.SizeofGenlmsg]byte

// Len and Serialize make it a part of a request.
func (h genericHeader) Len() int          { return len(h) }
func (h genericHeader) Serialize() []byte { return h[:] }

// xdpFeatures asks the kernel what XDP an interface's driver supports (Linux 6.3), and how many buffers a packet may have in
// zero-copy mode (6.6).
func xdpFeatures(index int) (features uint64, segments uint32, known bool) {
	family, err := netlink.GenlFamilyGet(netdevFamily)
	if err != nil {
		return 0, 0, false
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(genericHeader{netdevGet, 1, 0, 0})
	req.AddData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(index))))
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, 0, false
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		if err != nil {
			return 0, 0, false
		}
		for _, a := range attrs {
			switch {
			case a.Attr.Type == netdevAttrXDPFeature && len(a.Value) == 8:
				features, known = nl.NativeEndian().Uint64(a.Value), true
			case a.Attr.Type == netdevAttrSegments && len(a.Value) == 4:
				segments = nl.NativeEndian().Uint32(a.Value)
			}
		}
	}
	return features, segments, known
}

// namedNamespaces is where ip-netns(8) keeps names.
const namedNamespaces = "/run/netns"

// peerOf looks at the other end of a veth, in this namespace or in one that has a name.
func peerOf(l netlink.Link, tool *ethtool.Ethtool) *PeerFacts {
	a := l.Attrs()
	if a.NetNsID < 0 {
		other, err := netlink.LinkByIndex(a.ParentIndex)
		if err != nil {
			return &PeerFacts{Unknown: true}
		}
		p := &PeerFacts{Interface: other.Attrs().Name}
		p.Features, err = tool.Features(p.Interface)
		p.Unknown = err != nil
		return p
	}
	names, _ := os.ReadDir(namedNamespaces) // none: the peer stays unknown
	for _, n := range names {
		if p, err := peerIn(n.Name(), a.NetNsID, a.ParentIndex); err == nil {
			return p
		}
	}
	return &PeerFacts{Unknown: true}
}

var errOtherNamespace = errors.New("not the peer's namespace")

// peerIn looks at an interface in a named namespace, if that is the one with this id.
func peerIn(name string, id, index int) (*PeerFacts, error) {
	f, err := os.Open(filepath.Join(namedNamespaces, name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if got, err := netlink.GetNetNsIdByFd(int(f.Fd())); err != nil || got != id {
		return nil, errors.Join(errOtherNamespace, err)
	}
	p := &PeerFacts{Namespace: name}
	err = inNamespace(int(f.Fd()), func() error {
		// A handle's socket belongs to the namespace in which it was opened.
		h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByIndex(index)
		if err != nil {
			return err
		}
		tool, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer tool.Close()
		p.Interface = l.Attrs().Name
		p.Features, err = tool.Features(p.Interface)
		return err
	})
	return p, err
}
