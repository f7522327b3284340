package vm

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Numbers of the kernel's netlink family netdev (include/uapi/linux/netdev.h).
const (
	netdevCmdQstatsGet    = 12
	netdevAQstatsIfindex  = 1
	netdevAQstatsType     = 2
	netdevAQstatsID       = 3
	netdevAQstatsScope    = 4
	netdevAQstatsRxPacket = 8
	scopeQueue            = 1
	typeRx                = 0
)

// qstats are the packets of each receive queue of an interface in the namespace of the calling thread, from drivers that
// count there (Linux 6.9, virtio_net from 6.11) instead of in ethtool's statistics.
func qstats(ifname string) (counts []uint64, err error) {
	link, err := netlink.LinkByName(ifname)
	if err != nil {
		return nil, err
	}
	family, err := netlink.GenlFamilyGet("netdev")
	if err != nil {
		return nil, fmt.Errorf("netlink family netdev: %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_DUMP)
	// This family refuses a header whose reserved bytes are not 0, and nl.Genlmsg sends whatever lies behind it.
	req.AddData(genlHeader{netdevCmdQstatsGet, 1, 0, 0})
	req.AddData(nl.NewRtAttr(netdevAQstatsIfindex, nl.Uint32Attr(uint32(link.Attrs().Index))))
	req.AddData(nl.NewRtAttr(netdevAQstatsScope, nl.Uint32Attr(scopeQueue)))
	err = dump(req, func(m []byte) error {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofGenlmsg:])
		counts = addQueue(counts, attrs)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("counters of the queues of %s: %w", ifname, err)
	}
	return counts, nil
}

// dump sends a request and calls each with every message of the answer. NetlinkRequest.Execute takes the first for the whole
// answer here: this family does not set NLM_F_MULTI (net/core/netdev-genl.c, netdev_nl_stats_queue).
func dump(req *nl.NetlinkRequest, each func([]byte) error) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	for buf := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		msgs, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return err
		}
		for _, m := range msgs {
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR: // both begin with an error number, 0 or negative
				if len(m.Data) >= 4 {
					if e := int32(binary.NativeEndian.Uint32(m.Data)); e != 0 {
						return unix.Errno(-e)
					}
				}
				return nil
			}
			if err := each(m.Data); err != nil {
				return err
			}
		}
	}
}

// genlHeader is struct genlmsghdr: command, version, two reserved bytes.
type genlHeader [nl.SizeofGenlmsg]byte

// Len and Serialize make it a part of a request.
func (h genlHeader) Len() int          { return len(h) }
func (h genlHeader) Serialize() []byte { return h[:] }

// addQueue puts the count of one message into its place.
func addQueue(counts []uint64, attrs []syscall.NetlinkRouteAttr) []uint64 {
	id, kind, packets := uint64(0), uint64(typeRx), uint64(0)
	for _, a := range attrs {
		switch a.Attr.Type {
		case netdevAQstatsID:
			id = number(a.Value)
		case netdevAQstatsType:
			kind = number(a.Value)
		case netdevAQstatsRxPacket:
			packets = number(a.Value)
		}
	}
	if kind != typeRx {
		return counts
	}
	for uint64(len(counts)) <= id {
		counts = append(counts, 0)
	}
	counts[id] = packets
	return counts
}

// number is an attribute of type uint, which has four or eight bytes in host byte order.
func number(b []byte) uint64 {
	if len(b) == 8 {
		return binary.NativeEndian.Uint64(b)
	}
	return uint64(binary.NativeEndian.Uint32(b))
}
