package lab

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
)

// WireOptions describe a wire. The zero value is one queue, MTU 1500 and MAC addresses chosen by the kernel.
type WireOptions struct {
	Queues     int // receive and transmit queues at each end
	MTU        int // bytes, without the Ethernet header
	MACa, MACb net.HardwareAddr
}

// upTimeout bounds the wait for an interface to become operational, a few milliseconds in practice.
const upTimeout = 20 * time.Second

// Wire connects interface ifA of host a with interface ifB of host b by a veth pair. When it returns both ends are up
// and operational, and offloads are off at both (see the package comment).
func (l *Lab) Wire(a *Host, ifA string, b *Host, ifB string, o WireOptions) error {
	if o.Queues < 1 {
		o.Queues = 1
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = ifA, o.MTU, o.MACa
	attrs.NumTxQueues, attrs.NumRxQueues = o.Queues, o.Queues // the peer copies these and the MTU
	veth := netlink.NewVeth(attrs)
	veth.PeerName, veth.PeerHardwareAddr = ifB, o.MACb
	veth.PeerNamespace = netlink.NsFd(b.ns.Fd())
	if err := a.thread.run(func() error { return netlink.LinkAdd(veth) }); err != nil {
		return fmt.Errorf("create veth %s in %s to %s in %s: %w", ifA, a.name, ifB, b.name, err)
	}
	ends := []struct {
		h    *Host
		name string
	}{{a, ifA}, {b, ifB}}
	for _, end := range ends {
		if err := end.h.OffloadsOff(end.name); err != nil {
			return err
		}
		if err := end.h.SetLink(end.name, true); err != nil {
			return err
		}
	}
	for _, end := range ends {
		if err := end.h.waitUp(end.name); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) waitUp(ifname string) error {
	deadline := time.Now().Add(upTimeout)
	for {
		var state netlink.LinkOperState
		err := h.withLink(ifname, func(link netlink.Link) error {
			state = link.Attrs().OperState
			return nil
		})
		switch {
		case err != nil:
			return fmt.Errorf("wait for %s in %s: %w", ifname, h.name, err)
		case state == netlink.OperUp:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s in %s is %s after %s", ifname, h.name, state, upTimeout)
		}
		time.Sleep(time.Millisecond)
	}
}

// Bridge makes an Ethernet switch of existing interfaces of the host. It has no spanning tree, so a port forwards at
// once whatever the forward delay says (net/bridge/br_stp.c, br_make_forwarding), and it floods multicast.
func (h *Host) Bridge(name string, ports ...string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	snooping := false
	err := h.thread.run(func() error {
		bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
		if err := netlink.LinkAdd(bridge); err != nil {
			return err
		}
		var errs []error
		for _, name := range ports {
			port, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetMaster(port, bridge)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("add port %s: %w", name, err))
			}
		}
		return errors.Join(append(errs, netlink.LinkSetUp(bridge))...)
	})
	if err != nil {
		return fmt.Errorf("create bridge %s in %s: %w", name, h.name, err)
	}
	return nil
}
