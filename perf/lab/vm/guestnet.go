package vm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"

	"sluice/perf/lab"
)

// Interfaces of the balancer.
const (
	outside = "outside"
	inside  = "inside"
)

// linkTime bounds the wait for a NIC to be found and for its link: a driver negotiates for seconds.
const linkTime = 20 * time.Second

// Addresses of the guest. The server has two, one for each member.
var (
	vip4, vip6 = netip.MustParseAddr("10.10.1.100"), netip.MustParseAddr("fd00:10:10:1::100")
	members4   = []string{"192.168.20.1", "192.168.20.2"}
	members6   = []string{"fd00:192:168:20::1", "fd00:192:168:20::2"}
)

// guest is the state of a guest's program.
type guest struct {
	*reporter
	plan               Plan
	lab                *lab.Lab
	client, lb, server *lab.Host
	daemons            []*daemon // of the step
}

// build moves the NICs into namespaces, gives them addresses and starts the servers.
func (g *guest) build(ctx context.Context) (err error) {
	if g.lab, err = lab.New(ctx, "nic"); err != nil {
		return err
	}
	for _, h := range []struct {
		host  **lab.Host
		name  string
		links []string
		addrs [][]string
	}{
		{&g.lb, "lb", []string{outside, inside}, [][]string{
			{"172.16.10.1/24", "fd00:172:16:10::1/64"}, {"192.168.20.254/24", "fd00:192:168:20::254/64"}}},
		{&g.client, "client", []string{"peer-a"}, [][]string{{"172.16.10.55/24", "fd00:172:16:10::55/64"}}},
		{&g.server, "server", []string{"peer-b"}, [][]string{
			{members4[0] + "/24", members4[1] + "/24", members6[0] + "/64", members6[1] + "/64"}}},
	} {
		if *h.host, err = g.lab.Host(h.name); err != nil {
			return err
		}
		for i, name := range h.links {
			if err := moveNIC(*h.host, name, macs[name]); err != nil {
				return fmt.Errorf("NIC %s: %w", name, err)
			}
			for _, a := range h.addrs[i] {
				if err := (*h.host).Addr(name, a); err != nil {
					return err
				}
			}
		}
	}
	// The peers' frames are to be as on a cable. Those under test stay as their driver sets them up.
	err = errors.Join(g.client.OffloadsOff("peer-a"), g.server.OffloadsOff("peer-b"),
		g.client.DefaultRoute("172.16.10.1"), g.client.DefaultRoute("fd00:172:16:10::1"),
		g.server.DefaultRoute("192.168.20.254"), g.server.DefaultRoute("fd00:192:168:20::254"))
	if err != nil {
		return err
	}
	return g.serve()
}

// moveNIC finds the interface with a MAC, moves it to a host under a name of ours and waits for its link.
func moveNIC(h *lab.Host, name, mac string) error {
	link, err := findNIC(mac)
	if err != nil {
		return err
	}
	ns, err := os.Open(filepath.Join("/run/netns", h.Namespace()))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := netlink.LinkSetName(link, name); err != nil {
		return err
	}
	if err := netlink.LinkSetNsFd(link, int(ns.Fd())); err != nil {
		return err
	}
	if err := h.SetLink(name, true); err != nil {
		return err
	}
	return waitLink(h, name)
}

// findNIC waits until a driver has made the interface with a MAC.
func findNIC(mac string) (netlink.Link, error) {
	for deadline := time.Now().Add(linkTime); ; time.Sleep(50 * time.Millisecond) {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if l.Attrs().HardwareAddr.String() == mac {
				return l, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no interface has %s after %s: did its driver find the device?", mac, linkTime)
		}
	}
}

// waitLink waits for the link of a NIC.
func waitLink(h *lab.Host, name string) error {
	for deadline := time.Now().Add(linkTime); ; time.Sleep(20 * time.Millisecond) {
		var state netlink.LinkOperState
		err := h.Do(func() error {
			l, err := netlink.LinkByName(name)
			if err == nil {
				state = l.Attrs().OperState
			}
			return err
		})
		if err != nil || state == netlink.OperUp || state == netlink.OperUnknown {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is %s after %s", name, state, linkTime)
		}
	}
}

// withEthtool runs fn in the balancer's namespace.
func (g *guest) withEthtool(fn func(*ethtool.Ethtool) error) error {
	return g.lb.Do(func() error {
		e, err := ethtool.NewEthtool()
		if err != nil {
			return err
		}
		defer e.Close()
		return fn(e)
	})
}

var offload = regexp.MustCompile(`^(rx-checksum|rx-hashing|rx-lro|rx-gro|rx-gro-hw|rx-vlan-hw-parse|rx-vlan-filter|tx-checksum-.*|tx-tcp.*-segmentation)$`)

// nics describes the NICs under test.
func (g *guest) nics() (all []NIC, err error) {
	err = g.withEthtool(func(e *ethtool.Ethtool) error {
		for _, name := range []string{outside, inside} {
			driver, err := e.DriverName(name)
			if err != nil {
				return fmt.Errorf("driver of %s: %w", name, err)
			}
			c, err := e.GetChannels(name)
			if err != nil {
				return fmt.Errorf("channels of %s: %w", name, err)
			}
			features, err := e.Features(name)
			if err != nil {
				return fmt.Errorf("features of %s: %w", name, err)
			}
			n := NIC{Name: name, Driver: driver, Queues: int(c.CombinedCount + c.RxCount)}
			for f, on := range features {
				if on && offload.MatchString(f) {
					n.Features = append(n.Features, f)
				}
			}
			slices.Sort(n.Features)
			all = append(all, n)
		}
		return nil
	})
	return all, err
}

// setChannels gives both NICs under test a number of queues.
func (g *guest) setChannels(n int) error {
	return g.withEthtool(func(e *ethtool.Ethtool) error {
		for _, name := range []string{outside, inside} {
			c, err := e.GetChannels(name)
			if err != nil {
				return fmt.Errorf("channels of %s: %w", name, err)
			}
			c.CombinedCount = uint32(n)
			if _, err := e.SetChannels(name, c); err != nil {
				return fmt.Errorf("give %s %d channels: %w", name, n, err)
			}
		}
		return nil
	})
}

// rxCounter is a driver's counter of packets on a receive queue: igb and older virtio_net write rx_queue_0_packets. Newer
// ones count elsewhere: see qstats.
var rxCounter = regexp.MustCompile(`^rx(?:_queue_|)(\d+)_packets$`)

// queuePackets are the packets that the drivers have counted, by port and receive queue.
func (g *guest) queuePackets() (map[string][]uint64, error) {
	out := map[string][]uint64{}
	err := g.withEthtool(func(e *ethtool.Ethtool) error {
		for _, name := range []string{outside, inside} {
			// Asked once, igb was seen to list no counters at all; asked again it does.
			for range 5 {
				stats, err := e.Stats(name)
				if err != nil {
					return fmt.Errorf("counters of %s: %w", name, err)
				}
				if out[name] = perQueue(stats); out[name] != nil {
					break
				}
			}
			if out[name] != nil {
				continue
			}
			var err error
			if out[name], err = qstats(name); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func perQueue(stats map[string]uint64) (counts []uint64) {
	for name, n := range stats {
		m := rxCounter.FindStringSubmatch(name)
		if m == nil {
			continue
		}
		q, err := strconv.Atoi(m[1])
		if err != nil {
			continue
		}
		for len(counts) <= q {
			counts = append(counts, 0)
		}
		counts[q] = n
	}
	return counts
}
