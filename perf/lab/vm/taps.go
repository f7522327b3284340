package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

// QEMU's hubs have one queue pair, so a virtio NIC behind one has a single queue. With several, the NICs end in TAP
// devices (Documentation/networking/tuntap.rst), of which each has as many queues as its NIC. Those lie in a network
// namespace of their own, in which QEMU runs too, joined in pairs by bridges and by nothing else:
//
//	           a namespace of the host, without addresses
//	┌─────────────────────────────────────────────────────────────┐
//	│ QEMU: peer-a             outside     inside           peer-b │
//	│         │ 1 queue    n queues │         │ n queues       │   │
//	│      tap peer-a       tap outside   tap inside    tap peer-b │
//	│         └─── bridge cable1 ───┘         └─ bridge cable2 ┘   │
//	└─────────────────────────────────────────────────────────────┘
//
// The kernel hashes a flow's addresses and ports to a queue, and then sends it where the guest last sent packets of the same
// flow from (drivers/net/tun.c, tun_automq_select_queue): what a physical NIC calls flow director.

// cables name the bridges and what they join.
var cables = map[string][2]string{"cable1": {"peer-a", outside}, "cable2": {"peer-b", inside}}

// network is that namespace.
type network struct {
	lab  *lab.Lab
	host *lab.Host
}

// newNetwork makes the namespace; Close takes it away with all that is in it. It ends with ctx at the latest.
func newNetwork(ctx context.Context, queues int) (_ *network, err error) {
	n := &network{}
	if n.lab, err = lab.New(ctx, "nic-taps"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.lab.Close())
		}
	}()
	if n.host, err = n.lab.Host("taps"); err != nil {
		return nil, err
	}
	// Nothing of the namespace's own may be on the cables.
	for _, key := range []string{"net.ipv6.conf.all.disable_ipv6", "net.ipv6.conf.default.disable_ipv6"} {
		if err := n.host.Sysctl(key, "1"); err != nil {
			return nil, err
		}
	}
	if err := n.host.Do(func() error { return addCables(queues) }); err != nil {
		return nil, err
	}
	return n, n.alone()
}

// Close deletes the namespace. QEMU must have ended.
func (n *network) Close() error { return n.lab.Close() }

func addCables(queues int) error {
	for name, ends := range cables {
		snooping := false
		bridge := &netlink.Bridge{LinkAttrs: netlink.NewLinkAttrs(), MulticastSnooping: &snooping}
		bridge.Name = name
		if err := netlink.LinkAdd(bridge); err != nil {
			return fmt.Errorf("bridge %s: %w", name, err)
		}
		for _, end := range ends {
			flags := netlink.TUNTAP_NO_PI
			if tapQueues(end, queues) > 1 {
				flags = netlink.TUNTAP_MULTI_QUEUE_DEFAULTS
			}
			tap := &netlink.Tuntap{LinkAttrs: netlink.NewLinkAttrs(), Mode: netlink.TUNTAP_MODE_TAP, Flags: flags}
			tap.Name = end
			if err := netlink.LinkAdd(tap); err != nil { // QEMU attaches the queues
				return fmt.Errorf("TAP device %s: %w", end, err)
			}
			link, err := netlink.LinkByName(end)
			if err != nil {
				return fmt.Errorf("TAP device %s: %w", end, err)
			}
			if err := errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetUp(link)); err != nil {
				return fmt.Errorf("join %s to %s: %w", end, name, err)
			}
		}
		if err := netlink.LinkSetUp(bridge); err != nil {
			return fmt.Errorf("bridge %s: %w", name, err)
		}
	}
	return nil
}

// tapQueues is how many queues a NIC's TAP device has: the peers have one.
func tapQueues(name string, queues int) int {
	if name == outside || name == inside {
		return queues
	}
	return 1
}

// alone says what else is in the namespace and up, which could carry frames to somewhere.
func (n *network) alone() error {
	return n.host.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		ours := 0
		for _, l := range links {
			name := l.Attrs().Name
			joined := slices.ContainsFunc([]string{"cable1", "cable2"}, func(c string) bool {
				return name == c || name == cables[c][0] || name == cables[c][1]
			})
			switch {
			case joined:
				ours++
			case l.Attrs().RawFlags&unix.IFF_UP != 0 && l.Attrs().RawFlags&unix.IFF_LOOPBACK == 0:
				return fmt.Errorf("interface %s is in the namespace of the machine's cables", name)
			}
		}
		if ours != 6 {
			return fmt.Errorf("%d interfaces are in the namespace of the machine's cables, not 6", ours)
		}
		return nil
	})
}

// CheckTaps says why a machine cannot have NICs with several queues here, or nil. It makes all that they need and takes it
// away again.
func CheckTaps(ctx context.Context) error {
	n, err := newNetwork(ctx, cpus)
	if err == nil {
		err = n.Close()
	}
	if err != nil {
		return unavailable("TAP devices in a network namespace (root, /dev/net/tun and bridges are needed): %w", err)
	}
	return nil
}

// Taps reports whether the machine of a scenario needs TAP devices.
func (s Scenario) Taps() bool { return s.Driver == "virtio_net" && s.Queues > 1 }
