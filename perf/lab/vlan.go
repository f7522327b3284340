package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// VLANOptions describe a VLAN interface. The zero value is 802.1Q with the MTU of the interface that it is on.
type VLANOptions struct {
	Service bool // 802.1ad, for the outer one of two
	MTU     int
}

// VLAN makes the interface for a VLAN on another one of the host, named such as eth0.10, and sets it up, with offloads off. It
// is the kernel's 8021q device, or where the kernel has none a TAP device that a goroutine connects with the other
// interface: with what an XDP program there has passed, as the kernel's would be.
func (h *Host) VLAN(parent string, id int, o VLANOptions) (string, error) {
	name := fmt.Sprintf("%s.%d", parent, id)
	fail := func(err error) (string, error) {
		return "", fmt.Errorf("make VLAN %d on %s in %s: %w", id, parent, h.name, err)
	}
	protocol := netlink.VLAN_PROTOCOL_8021Q
	if o.Service {
		protocol = netlink.VLAN_PROTOCOL_8021AD
	}
	soft := false
	err := h.withLink(parent, func(link netlink.Link) error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.ParentIndex, attrs.MTU = name, link.Attrs().Index, o.MTU
		err := netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: id, VlanProtocol: protocol})
		if soft = errors.Is(err, unix.EOPNOTSUPP); soft {
			err = h.emulateVLAN(link, name, uint16(protocol), uint16(id), o.MTU)
		}
		return err
	})
	if err != nil {
		return fail(err)
	}
	if err := h.OffloadsOff(name); err != nil {
		return "", err
	}
	if err := h.SetLink(name, true); err != nil {
		return "", err
	}
	if soft {
		return name, nil // a TAP's operational state is not known
	}
	return name, h.waitUp(name)
}

// softVLAN is a VLAN device made of a TAP and a packet socket.
type softVLAN struct {
	tap, line *os.File
	tag       [4]byte // as it is in a frame
	index     int     // of the interface below
}

// Close ends it; the device goes with its descriptor.
func (v *softVLAN) Close() error { return errors.Join(v.tap.Close(), v.line.Close()) }

// emulateVLAN is called in the namespace.
func (h *Host) emulateVLAN(parent netlink.Link, name string, tpid, id uint16, mtu int) error {
	tap, err := openTAP(name)
	if err != nil {
		return err
	}
	v := &softVLAN{tap: tap, index: parent.Attrs().Index}
	binary.BigEndian.PutUint16(v.tag[:], tpid)
	binary.BigEndian.PutUint16(v.tag[2:], id)
	if v.line, err = openLine(v.index); err != nil {
		return errors.Join(err, tap.Close())
	}
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkSetHardwareAddr(link, parent.Attrs().HardwareAddr)
	}
	if mtu == 0 {
		mtu = parent.Attrs().MTU
	}
	if err == nil {
		err = netlink.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return errors.Join(err, v.Close())
	}
	go v.up()
	go v.down()
	return h.lab.own(v)
}

// openTAP makes a TAP device, which lives as long as its file is open.
func openTAP(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make TAP device %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openLine opens a socket for all frames that an interface receives, and to send any. The kernel takes the outermost tag off
// received frames (net/core/dev.c, skb_vlan_untag) and tells it beside them.
func openLine(index int) (*os.File, error) {
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		return nil, fmt.Errorf("open a packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on interface %d: %w", index, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet socket"), nil
}

// up gives the device the frames of its VLAN, without the tag.
func (v *softVLAN) up() {
	frame, oob := make([]byte, 1<<16), make([]byte, 256)
	raw, err := v.line.SyscallConn()
	if err != nil {
		return
	}
	for {
		n, more := 0, 0
		err := raw.Read(func(fd uintptr) bool {
			var err error
			n, more, _, _, err = unix.Recvmsg(int(fd), frame, oob, 0)
			return !errors.Is(err, unix.EAGAIN)
		})
		if err != nil {
			return
		}
		if n > 0 && v.isMine(oob[:more]) {
			_, _ = v.tap.Write(frame[:n]) // it may be down
		}
	}
}

// isMine reports whether a frame came with the tag.
func (v *softVLAN) isMine(oob []byte) bool {
	list, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range list {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		// struct tpacket_auxdata: status, len, snaplen (32 bits each), mac, net, vlan_tci, vlan_tpid (16 bits each)
		status, tci, tpid := binary.NativeEndian.Uint32(m.Data), binary.NativeEndian.Uint16(m.Data[16:]), binary.NativeEndian.Uint16(m.Data[18:])
		return status&unix.TP_STATUS_VLAN_VALID != 0 && tci&0xfff == binary.BigEndian.Uint16(v.tag[2:]) && tpid == binary.BigEndian.Uint16(v.tag[:])
	}
	return false
}

// down sends what the host sends on the device, with the tag.
func (v *softVLAN) down() {
	frame := make([]byte, 1<<16)
	raw, err := v.line.SyscallConn()
	if err != nil {
		return
	}
	for {
		n, err := v.tap.Read(frame[len(v.tag):])
		if err != nil {
			return
		}
		copy(frame, frame[4:16])
		copy(frame[12:], v.tag[:])
		_ = raw.Write(func(fd uintptr) bool {
			return !errors.Is(unix.Sendto(int(fd), frame[:n+len(v.tag)], 0, &unix.SockaddrLinklayer{Ifindex: v.index, Halen: 6}), unix.EAGAIN)
		})
	}
}
