package vm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/safchain/ethtool"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// stripFeature is the kernel's name for what ethtool(8) calls rxvlan.
	stripFeature = "rx-vlan-hw-parse"
	testVLAN     = 7
	vlanTime     = 20 * time.Second
)

// tagged sends tagged datagrams to a virtual server, and reports what comes to its member: with the NIC's VLAN stripping on and
// off. No answers are needed for that; the server takes no tags.
func (g *guest) tagged() error {
	v := &VLAN{Sent: testVLAN, Stripped: -1, Kept: -1}
	// The NIC passes only VLANs that it was told of, unless it takes everything.
	if err := g.promiscuous(outside, true); err != nil {
		return err
	}
	err := g.strip(outside, true)
	if err == nil {
		v.Stripped, err = g.tagAtMember(40001)
	}
	if err == nil {
		err = g.strip(outside, false)
	}
	if err == nil {
		v.Kept, err = g.tagAtMember(40002)
	}
	if err := errors.Join(err, g.strip(outside, true), g.promiscuous(outside, false)); err != nil {
		return err
	}
	g.report(Record{VLAN: v})
	return nil
}

func (g *guest) promiscuous(name string, on bool) error {
	return g.lb.Do(func() error {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if on {
			return netlink.SetPromiscOn(link)
		}
		return netlink.SetPromiscOff(link)
	})
}

func (g *guest) strip(name string, on bool) error {
	return g.withEthtool(func(e *ethtool.Ethtool) error {
		if err := e.Change(name, map[string]bool{stripFeature: on}); err != nil {
			return fmt.Errorf("set %s of %s to %v: %w", stripFeature, name, on, err)
		}
		features, err := e.Features(name)
		if err == nil && features[stripFeature] != on {
			err = fmt.Errorf("%s of %s is %v all the same", stripFeature, name, !on)
		}
		return err
	})
}

// tagAtMember sends datagrams from a port with a VLAN tag until one comes to the server, and returns the VLAN that it came in;
// 0 is none.
func (g *guest) tagAtMember(port uint16) (int, error) {
	in, _, err := packetSocket(g.server.Do, "peer-b")
	if err != nil {
		return -1, err
	}
	defer unix.Close(in)
	out, index, err := packetSocket(g.client.Do, "peer-a")
	if err != nil {
		return -1, err
	}
	defer unix.Close(out)
	frame := taggedDatagram(port)
	buf, oob := make([]byte, 2048), make([]byte, 256)
	// A frame of a stopped bulk of others may be in between.
	for deadline := time.Now().Add(vlanTime); time.Now().Before(deadline); {
		if err := unix.Sendto(out, frame, 0, &unix.SockaddrLinklayer{Ifindex: index}); err != nil {
			return -1, fmt.Errorf("send: %w", err)
		}
		for {
			n, oobn, _, _, err := unix.Recvmsg(in, buf, oob, 0)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				break // nothing in the time of the socket
			}
			if bytes.HasSuffix(buf[:n], frame[len(frame)-taggedPayload:]) {
				return vlanOf(oob[:oobn]), nil
			}
		}
	}
	return -1, fmt.Errorf("no datagram from port %d with VLAN %d came to the server within %s", port, testVLAN, vlanTime)
}

// packetSocket sees all frames of an interface, and waits a second for one.
func packetSocket(in func(func() error) error, ifname string) (fd, index int, err error) {
	err = in(func() error {
		l, err := net.InterfaceByName(ifname)
		if err != nil {
			return err
		}
		index = l.Index
		all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		err = errors.Join(unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index}))
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
		return err
	})
	if err != nil {
		return -1, 0, fmt.Errorf("packets of %s: %w", ifname, err)
	}
	return fd, index, nil
}

// vlanOf reads the VLAN out of struct tpacket_auxdata (include/uapi/linux/if_packet.h): the kernel takes a tag off before such a
// socket sees the frame. 0 is none.
func vlanOf(oob []byte) int {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 18 &&
			binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
			return int(binary.NativeEndian.Uint16(m.Data[16:]) & 0xfff)
		}
	}
	return 0
}

// taggedPayload is the length of the datagram's data, which nothing on the way changes.
const taggedPayload = 64

// taggedDatagram is a frame of the client to the virtual server for echoes over IPv4, with a VLAN tag (IEEE 802.1Q) and without a
// UDP checksum (RFC 768).
func taggedDatagram(port uint16) []byte {
	const udp, ip = 8 + taggedPayload, 20 + 8 + taggedPayload
	be := binary.BigEndian
	to, _ := net.ParseMAC(macs[outside])
	from, _ := net.ParseMAC(macs["peer-a"])
	b := append(append([]byte{}, to...), from...)
	b = be.AppendUint16(be.AppendUint16(be.AppendUint16(b, unix.ETH_P_8021Q), testVLAN), unix.ETH_P_IP)
	header := be.AppendUint16([]byte{0x45, 0}, ip)
	header = append(header, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0, 172, 16, 10, 55)
	header = append(header, vip4.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		sum += uint32(be.Uint16(header[i:]))
	}
	be.PutUint16(header[10:], ^uint16(sum+sum>>16)) // one carry is enough for 20 bytes
	b = append(b, header...)
	b = be.AppendUint16(be.AppendUint16(be.AppendUint16(be.AppendUint16(b, port), echoPort), udp), 0)
	return append(b, bytes.Repeat([]byte{byte(port)}, taggedPayload)...)
}
