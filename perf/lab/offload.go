package lab

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// isOffload tells the features that make a frame on the wire differ from one on a cable: unfinished checksums,
// segments above the MTU, packets merged at the receiver, VLAN tags beside the frame. They are those behind the short
// names tx, tso, gso, gro, txvlan and rxvlan of ethtool(8).
func isOffload(feature string) bool {
	return strings.HasPrefix(feature, "tx-checksum-") ||
		strings.HasSuffix(feature, "-segmentation") ||
		strings.HasPrefix(feature, "rx-gro") ||
		strings.HasPrefix(feature, "tx-gso-list") ||
		strings.HasPrefix(feature, "tx-vlan-") ||
		strings.HasPrefix(feature, "rx-vlan-") && strings.HasSuffix(feature, "-parse")
}

// OffloadsOff turns off the checksum, segmentation, aggregation and VLAN offloads of an interface and checks that the
// kernel did so.
func (h *Host) OffloadsOff(ifname string) error {
	err := h.thread.run(func() error {
		active, err := activeFeatures(ifname)
		if err != nil {
			return err
		}
		active = slices.DeleteFunc(active, func(f string) bool { return !isOffload(f) })
		if len(active) == 0 {
			return nil
		}
		if err := disableFeatures(ifname, active); err != nil {
			return err
		}
		active, err = activeFeatures(ifname)
		if i := slices.IndexFunc(active, isOffload); i >= 0 {
			return fmt.Errorf("%s stays on", active[i])
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("turn offloads of %s in %s off: %w", ifname, h.name, err)
	}
	return nil
}

// ethtoolRequest starts a request of the ethtool netlink family (Documentation/networking/ethtool-netlink.rst). It
// names its features by string, so no table of numbers of one kernel is needed.
func ethtoolRequest(command uint8, ifname string) (*nl.NetlinkRequest, error) {
	family, err := netlink.GenlFamilyGet(unix.ETHTOOL_GENL_NAME)
	if err != nil {
		return nil, fmt.Errorf("kernel without ethtool netlink (5.6 or newer is needed): %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: unix.ETHTOOL_GENL_VERSION})
	header := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_HEADER|unix.NLA_F_NESTED, nil)
	header.AddRtAttr(unix.ETHTOOL_A_HEADER_DEV_NAME, nl.ZeroTerminated(ifname))
	req.AddData(header)
	return req, nil
}

// activeFeatures lists the features of an interface that are on, in the namespace of the calling thread.
func activeFeatures(ifname string) ([]string, error) {
	req, err := ethtoolRequest(unix.ETHTOOL_MSG_FEATURES_GET, ifname)
	if err != nil {
		return nil, err
	}
	msgs, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return nil, fmt.Errorf("get features: %w", err)
	}
	var names []string
	for _, msg := range msgs {
		// message: active bitset: bits: bit: name. A bitset of this kind lists the bits that are set.
		path := []uint16{unix.ETHTOOL_A_FEATURES_ACTIVE, unix.ETHTOOL_A_BITSET_BITS, unix.ETHTOOL_A_BITSET_BITS_BIT, unix.ETHTOOL_A_BITSET_BIT_NAME}
		err := eachAttr(msg[nl.SizeofGenlmsg:], path, func(value []byte) {
			names = append(names, string(bytes.TrimRight(value, "\x00")))
		})
		if err != nil {
			return nil, fmt.Errorf("get features: %w", err)
		}
	}
	return names, nil
}

// eachAttr calls fn with every attribute that the path of nested attribute types leads to.
func eachAttr(data []byte, path []uint16, fn func([]byte)) error {
	attrs, err := nl.ParseRouteAttr(data)
	if err != nil {
		return err
	}
	for _, attr := range attrs {
		switch {
		case attr.Attr.Type&^unix.NLA_F_NESTED != path[0]:
		case len(path) == 1:
			fn(attr.Value)
		default:
			if err := eachAttr(attr.Value, path[1:], fn); err != nil {
				return err
			}
		}
	}
	return nil
}

// disableFeatures turns features off: a bit that is named but carries no value is changed to zero.
func disableFeatures(ifname string, names []string) error {
	req, err := ethtoolRequest(unix.ETHTOOL_MSG_FEATURES_SET, ifname)
	if err != nil {
		return err
	}
	wanted := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_WANTED|unix.NLA_F_NESTED, nil)
	bits := wanted.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, nil)
	for _, name := range names {
		bit := bits.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED, nil)
		bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_NAME, nl.ZeroTerminated(name))
	}
	req.AddData(wanted)
	if _, err := req.Execute(unix.NETLINK_GENERIC, 0); err != nil {
		return fmt.Errorf("set features: %w", err)
	}
	return nil
}
