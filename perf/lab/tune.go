package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Neighbour adds a static neighbour, so that nobody has to ask for it.
func (h *Host) Neighbour(ifname string, a netip.Addr, mac net.HardwareAddr) error {
	err := h.withLink(ifname, func(link netlink.Link) error {
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac,
		})
	})
	if err != nil {
		return fmt.Errorf("neighbour %s on %s in %s: %w", a, ifname, h.name, err)
	}
	return nil
}

// Gateway adds a route to dst, an address or a network in CIDR notation, by a router; what is there already is replaced.
func (h *Host) Gateway(dst netip.Prefix, via netip.Addr) error {
	_, network, err := net.ParseCIDR(dst.String())
	if err == nil {
		err = h.thread.run(func() error { return netlink.RouteReplace(&netlink.Route{Dst: network, Gw: via.AsSlice()}) })
	}
	if err != nil {
		return fmt.Errorf("route to %s via %s in %s: %w", dst, via, h.name, err)
	}
	return nil
}

// GRO switches generic receive offload of an interface on or off. With it a veth end has NAPI, and its peer takes frames
// that are redirected to it; frames that may not be merged are not changed by it.
func (h *Host) GRO(ifname string, on bool) error {
	err := h.thread.run(func() error {
		if !on {
			return disableFeatures(ifname, []string{"rx-gro"})
		}
		req, err := ethtoolRequest(unix.ETHTOOL_MSG_FEATURES_SET, ifname)
		if err != nil {
			return err
		}
		wanted := nl.NewRtAttr(unix.ETHTOOL_A_FEATURES_WANTED|unix.NLA_F_NESTED, nil)
		bits := wanted.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS|unix.NLA_F_NESTED, nil)
		bit := bits.AddRtAttr(unix.ETHTOOL_A_BITSET_BITS_BIT|unix.NLA_F_NESTED, nil)
		bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_NAME, nl.ZeroTerminated("rx-gro"))
		bit.AddRtAttr(unix.ETHTOOL_A_BITSET_BIT_VALUE, nil)
		req.AddData(wanted)
		_, err = req.Execute(unix.NETLINK_GENERIC, 0)
		return err
	})
	if err != nil {
		return fmt.Errorf("set GRO of %s in %s: %w", ifname, h.name, err)
	}
	return nil
}

// Sysfs writes a file below /sys/class/net of the namespace, such as eth0/queues/rx-0/rps_cpus. The mounted /sys shows the
// interfaces of another namespace, so it is opened anew.
func (h *Host) Sysfs(name, value string) error {
	if strings.Contains(name, "..") {
		return fmt.Errorf("sysfs %s: want a name below class/net", name)
	}
	err := h.thread.run(func() error {
		fs, err := unix.Fsopen("sysfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return fmt.Errorf("open sysfs: %w", err)
		}
		defer unix.Close(fs)
		if err := unix.FsconfigCreate(fs); err != nil {
			return fmt.Errorf("open sysfs: %w", err)
		}
		mount, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open sysfs: %w", err)
		}
		defer unix.Close(mount)
		fd, err := unix.Openat(mount, "class/net/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		_, err = f.WriteString(value)
		return errors.Join(err, f.Close())
	})
	if err != nil {
		return fmt.Errorf("sysfs of %s: %w", h.name, err)
	}
	return nil
}

// SteerReceive makes the kernel do what follows the driver's receive on core (receive packet steering,
// Documentation/networking/scaling.rst); a negative core leaves it where the driver received.
func (h *Host) SteerReceive(ifname string, core int) error {
	mask := "0"
	if core >= 0 {
		mask = fmt.Sprintf("%x", uint64(1)<<(core%64))
	}
	return h.Sysfs(ifname+"/queues/rx-0/rps_cpus", mask)
}
