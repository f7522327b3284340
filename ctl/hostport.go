package ctl

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"

	"sluice/engine"
)

// The host port is a veth pair: the engine sends into one end over AF_XDP as on any port, and what it sends comes
// out of the other end into the kernel. Nothing is sent the other way.
const (
	hostEngineEnd = "sluice-h0"
	hostKernelEnd = "sluice-host"
)

// makeHostPort makes the pair, or anew if an engine that was killed left one.
func makeHostPort(queues, mtu int) (iface, *engine.HostSpec, error) {
	fail := func(err error) (iface, *engine.HostSpec, error) {
		return iface{}, nil, fmt.Errorf("make the host port (engine.host-port: false does without): %w", err)
	}
	if err := removeHostPort(); err != nil {
		return fail(err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = hostEngineEnd, mtu
	attrs.NumTxQueues, attrs.NumRxQueues = queues, queues
	pair := netlink.NewVeth(attrs)
	pair.PeerName, pair.PeerMTU = hostKernelEnd, uint32(mtu)
	pair.PeerNumTxQueues, pair.PeerNumRxQueues = uint32(queues), uint32(queues)
	if err := netlink.LinkAdd(pair); err != nil {
		return fail(err)
	}
	in, err := netlink.LinkByName(hostEngineEnd)
	if err != nil {
		return fail(err)
	}
	out, err := netlink.LinkByName(hostKernelEnd)
	if err != nil {
		return fail(err)
	}
	// The kernel's end takes packets whose source it would look for elsewhere; it sends nothing itself.
	sysctls := []string{"ipv4/conf/%s/rp_filter=0", "ipv6/conf/%s/accept_ra=0"}
	for _, name := range []string{hostEngineEnd, hostKernelEnd} {
		for _, s := range append(sysctls, "ipv6/conf/%s/addr_gen_mode=1") {
			setSysctl(fmt.Sprintf(s, name))
		}
	}
	for _, l := range []netlink.Link{in, out} {
		if err := errors.Join(netlink.LinkSetARPOff(l), netlink.LinkSetUp(l)); err != nil {
			return fail(err)
		}
	}
	a := in.Attrs()
	return iface{name: a.Name, index: a.Index, mac: [6]byte(a.HardwareAddr), queues: queues, mtu: mtu},
		&engine.HostSpec{MAC: [6]byte(out.Attrs().HardwareAddr)}, nil
}

func removeHostPort() error {
	l, err := netlink.LinkByName(hostEngineEnd)
	if err != nil {
		return nil // not there
	}
	return netlink.LinkDel(l)
}

// setSysctl writes a setting of the network namespace, given as path=value below /proc/sys/net. A kernel without it
// needs no setting.
func setSysctl(setting string) {
	for i := range setting {
		if setting[i] == '=' {
			_ = os.WriteFile("/proc/sys/net/"+setting[:i], []byte(setting[i+1:]), 0)
		}
	}
}
