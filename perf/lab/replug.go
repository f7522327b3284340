package lab

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// DeleteLink removes an interface, and with it the other end of its wire.
func (h *Host) DeleteLink(ifname string) error {
	if err := h.withLink(ifname, netlink.LinkDel); err != nil {
		return fmt.Errorf("delete %s in %s: %w", ifname, h.name, err)
	}
	return nil
}

// SetQueues sets how many receive and transmit queues an interface uses, up to the number that it was made with (ethtool -L).
func (h *Host) SetQueues(ifname string, rx, tx int) error {
	err := h.thread.run(func() error {
		req, err := ethtoolRequest(unix.ETHTOOL_MSG_CHANNELS_SET, ifname)
		if err != nil {
			return err
		}
		req.AddData(nl.NewRtAttr(unix.ETHTOOL_A_CHANNELS_RX_COUNT, nl.Uint32Attr(uint32(rx))))
		req.AddData(nl.NewRtAttr(unix.ETHTOOL_A_CHANNELS_TX_COUNT, nl.Uint32Attr(uint32(tx))))
		_, err = req.Execute(unix.NETLINK_GENERIC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("set the queues of %s in %s to %d and %d: %w", ifname, h.name, rx, tx, err)
	}
	return nil
}

// Unplug deletes an interface of the balancer: Outside or Inside.
func (t *TwoArm) Unplug(ifname string) error {
	if ifname == t.Outside {
		var err error
		if t.clientMAC, err = t.Client.MAC("eth0"); err != nil {
			return err
		}
	}
	return t.Balancer.DeleteLink(ifname)
}

// Plug makes an interface that was unplugged anew, with the same name, addresses and routes, another index and another MAC.
// The client keeps its MAC, as it does when a balancer loses a card: a client that only listens cannot tell of a new one.
func (t *TwoArm) Plug(ifname string, o WireOptions) error {
	var b builder
	if ifname == t.Outside {
		o.MACa = t.clientMAC
		b.do(func() error { return t.Lab.Wire(t.Client, "eth0", t.Balancer, t.Outside, o) })
		b.join(t.Balancer, t.Outside, t.Outside4, t.Outside6)
		b.do(t.JoinClient)
		return b.err
	}
	b.do(func() error { return t.Lab.Wire(t.Balancer, t.Inside, t.Switch, "lb", o) })
	b.join(t.Balancer, t.Inside, t.Inside4, t.Inside6)
	b.do(func() error {
		return t.Switch.thread.run(func() error {
			port, err1 := netlink.LinkByName("lb")
			bridge, err2 := netlink.LinkByName("br0")
			if err := errors.Join(err1, err2); err != nil {
				return err
			}
			return netlink.LinkSetMaster(port, bridge)
		})
	})
	for _, h := range t.Servers { // as an announcement would have it: they find out by themselves, but only after some seconds
		b.do(func() error { return h.Forget("eth0", t.Inside4, t.Inside6) })
	}
	return b.err
}

// Forget makes a host ask for the MACs of neighbours again.
func (h *Host) Forget(ifname string, addrs ...netip.Addr) error {
	return h.withLink(ifname, func(link netlink.Link) error {
		var errs []error
		for _, a := range addrs {
			n := &netlink.Neigh{LinkIndex: link.Attrs().Index, IP: a.AsSlice()}
			if err := netlink.NeighDel(n); !errors.Is(err, unix.ENOENT) {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// JoinClient gives the client's interface its addresses and routes again: the kernel takes some with a link that goes down.
func (t *TwoArm) JoinClient() error {
	return t.rejoin(t.Client, t.Client4.String(), t.Client6.String(), t.Outside4.String(), t.Outside6.String())
}

// JoinServer does the same for server i.
func (t *TwoArm) JoinServer(i int) error {
	return t.rejoin(t.Servers[i], t.ServerAddr4[i].String(), t.ServerAddr6[i].String(), t.Inside4.String(), t.Inside6.String())
}

func (t *TwoArm) rejoin(h *Host, a4, a6, via4, via6 string) error {
	var errs []error
	for _, err := range []error{h.Addr("eth0", a4+"/24"), h.Addr("eth0", a6+"/64"), h.DefaultRoute(via4), h.DefaultRoute(via6)} {
		if !errors.Is(err, unix.EEXIST) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
