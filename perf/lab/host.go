package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is a network namespace of a Lab, with the thread that lives in it. It lives until Lab.Close; its methods may be
// called from any goroutine.
type Host struct {
	lab    *Lab
	name   string
	netns  string   // its name in netnsDir
	ns     *os.File // the namespace itself
	thread *thread
}

// hostSysctls make a host usable at once and quiet. "default" is what interfaces created later start with; a new
// namespace copies the IPv4 values of the machine, so those are set too.
var hostSysctls = [][2]string{
	{"net.ipv4.ip_forward", "0"},
	{"net.ipv4.conf.all.rp_filter", "0"},
	{"net.ipv4.conf.default.rp_filter", "0"},
	{"net.ipv6.conf.all.forwarding", "0"},
	{"net.ipv6.conf.all.disable_ipv6", "0"},
	{"net.ipv6.conf.default.disable_ipv6", "0"},
	{"net.ipv6.conf.all.accept_dad", "0"},
	{"net.ipv6.conf.default.accept_dad", "0"},
	{"net.ipv6.conf.default.dad_transmits", "0"},
	{"net.ipv6.conf.default.accept_ra", "0"},
	{"net.ipv6.conf.default.router_solicitations", "0"},
}

func newHost(l *Lab, name string) (*Host, error) {
	h := &Host{lab: l, name: name, netns: l.id + "-" + name}
	var err error
	h.thread, err = startThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("create namespace: %w", err)
		}
		for _, s := range hostSysctls {
			if err := writeSysctl(s[0], s[1]); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return fmt.Errorf("find lo: %w", err)
		}
		if err := netlink.LinkSetUp(lo); err != nil {
			return fmt.Errorf("set lo up: %w", err)
		}
		if h.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return fmt.Errorf("open namespace: %w", err)
		}
		if err := nameNamespace(h.netns); err != nil {
			h.ns.Close()
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// Name is the name given to Lab.Host.
func (h *Host) Name() string { return h.name }

// Namespace is the name that `ip netns exec` takes.
func (h *Host) Namespace() string { return h.netns }

// Do runs fn on a thread inside the namespace and returns its error. It is not the goroutine of the caller, and fn
// may block. Several may run at once.
func (h *Host) Do(fn func() error) error {
	if err := inNamespace(h.ns, fn); err != nil {
		return fmt.Errorf("in %s: %w", h.name, err)
	}
	return nil
}

// Sysctl writes a kernel setting of the namespace, such as net.ipv4.ip_forward. An interface with a dot in its name
// needs slashes: net/ipv4/conf/eth0.5/rp_filter.
func (h *Host) Sysctl(key, value string) error {
	if err := h.thread.run(func() error { return writeSysctl(key, value) }); err != nil {
		return fmt.Errorf("in %s: %w", h.name, err)
	}
	return nil
}

// writeSysctl writes a setting of the namespace of the calling thread: /proc/sys/net follows the thread that opens it.
func writeSysctl(key, value string) error {
	if !strings.Contains(key, "/") {
		key = strings.ReplaceAll(key, ".", "/")
	}
	if !strings.HasPrefix(key, "net/") {
		return fmt.Errorf("sysctl %s: only net settings belong to a namespace", key)
	}
	// No O_CREATE and no O_TRUNC: a setting that is not there is an error.
	f, err := os.OpenFile(filepath.Join("/proc/sys", key), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", key, err)
	}
	_, err = f.WriteString(value)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("sysctl %s = %s: %w", key, value, err)
	}
	return nil
}

// Addr adds an address in CIDR notation to an interface. It is usable when Addr returns, in both families.
func (h *Host) Addr(ifname, cidr string) error {
	fail := func(err error) error {
		return fmt.Errorf("address %s of %s in %s: %w", cidr, ifname, h.name, err)
	}
	addr, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fail(err)
	}
	up := false
	err = h.withLink(ifname, func(link netlink.Link) error {
		up = link.Attrs().OperState == netlink.OperUp || link.Attrs().OperState == netlink.OperUnknown // a TAP's
		return netlink.AddrAdd(link, addr)
	})
	if err != nil {
		return fail(err)
	}
	// Without duplicate address detection the kernel still leaves the last step of an IPv6 address to a work queue
	// (net/ipv6/addrconf.c, addrconf_dad_begin): joining the multicast group on which neighbours ask for it. A
	// question before that is lost, and is asked again only a second later. Its end is the end of the flag
	// tentative, which is why the address is not added with IFA_F_NODAD: then there would be no flag to wait for.
	for deadline := time.Now().Add(upTimeout); up && addr.IP.To4() == nil; time.Sleep(time.Millisecond) {
		tentative, err := h.tentative(ifname, addr)
		if err != nil {
			return fail(err)
		}
		if !tentative {
			break
		}
		if time.Now().After(deadline) {
			return fail(fmt.Errorf("still tentative after %s", upTimeout))
		}
	}
	return nil
}

func (h *Host) tentative(ifname string, addr *netlink.Addr) (bool, error) {
	tentative := false
	err := h.withLink(ifname, func(link netlink.Link) error {
		list, err := netlink.AddrList(link, netlink.FAMILY_V6)
		for _, a := range list {
			if a.IP.Equal(addr.IP) {
				tentative = a.Flags&unix.IFA_F_TENTATIVE != 0
			}
		}
		return err
	})
	return tentative, err
}

// DefaultRoute sends everything without a better route to the router via, an address on a connected network.
func (h *Host) DefaultRoute(via string) error {
	if a, err := netip.ParseAddr(via); err == nil && a.Is6() {
		return h.Route("::/0", via)
	}
	return h.Route("0.0.0.0/0", via)
}

// Route sends packets for dst, in CIDR notation, to the router via.
func (h *Host) Route(dst, via string) error {
	_, network, err := net.ParseCIDR(dst)
	if err != nil {
		return fmt.Errorf("route to %s in %s: %w", dst, h.name, err)
	}
	gw := net.ParseIP(via)
	if gw == nil {
		return fmt.Errorf("route to %s in %s: %q is no address", dst, h.name, via)
	}
	err = h.thread.run(func() error { return netlink.RouteAdd(&netlink.Route{Dst: network, Gw: gw}) })
	if err != nil {
		return fmt.Errorf("route to %s via %s in %s: %w", dst, via, h.name, err)
	}
	return nil
}

// MAC is the hardware address of an interface.
func (h *Host) MAC(ifname string) (net.HardwareAddr, error) {
	var mac net.HardwareAddr
	err := h.withLink(ifname, func(link netlink.Link) error {
		mac = link.Attrs().HardwareAddr
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find %s in %s: %w", ifname, h.name, err)
	}
	return mac, nil
}

// SetLink sets an interface administratively up or down: down at one end of a wire is a pulled cable at the other.
func (h *Host) SetLink(ifname string, up bool) error {
	err := h.withLink(ifname, func(link netlink.Link) error {
		if up {
			return netlink.LinkSetUp(link)
		}
		return netlink.LinkSetDown(link)
	})
	if err != nil {
		return fmt.Errorf("set link %s in %s: %w", ifname, h.name, err)
	}
	return nil
}

// withLink runs fn on the thread of the host with one of its interfaces.
func (h *Host) withLink(ifname string, fn func(netlink.Link) error) error {
	return h.thread.run(func() error {
		link, err := netlink.LinkByName(ifname)
		if err != nil {
			return err
		}
		return fn(link)
	})
}

// deleteLinks and leave are the two halves of the end of a host; Close runs the first while the thread still lives.
// Both do nothing the second time.
func (h *Host) deleteLinks() error {
	err := h.thread.run(deleteLinks)
	if err != nil && !errors.Is(err, ErrClosed) {
		return fmt.Errorf("in %s: %w", h.name, err)
	}
	return nil
}

func (h *Host) leave() error {
	select {
	case <-h.thread.gone:
		return nil
	default:
	}
	return errors.Join(h.thread.end(), h.ns.Close())
}
