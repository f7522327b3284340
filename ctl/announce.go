package ctl

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// announceAfter: an announcement is repeated, because the first may be lost while switches learn.
var announceAfter = []time.Duration{0, time.Second, 3 * time.Second}

// announcement is one that is due at a time.
type announcement struct {
	at time.Time
	placedAddress
}

// announceSoon has a managed virtual address that was put on a port announced, some times over. It is what makes neighbours
// forget the MAC of another host that had the address before.
func (s *Server) announceSoon(p placedAddress) {
	now := time.Now()
	for _, after := range announceAfter {
		s.due = append(s.due, announcement{now.Add(after), p})
	}
}

// announceDue sends the announcements whose time has come, unless the address has gone meanwhile.
func (s *Server) announceDue() {
	var later []announcement
	for _, a := range s.due {
		switch {
		case time.Now().Before(a.at):
			later = append(later, a)
		case s.placed[a.placedAddress]:
			if err := announce(a.Index, a.MAC, a.Address); err != nil {
				s.log.Warn("virtual address not announced", "address", a.Address, "error", err)
			}
		}
	}
	s.due = later
}

// announce sends one gratuitous ARP request (RFC 5227 section 2.3) or unsolicited neighbour advertisement (RFC 4861 section
// 7.2.6) out of an interface.
func announce(ifindex int, mac [6]byte, a netip.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	defer unix.Close(fd)
	var frame []byte
	if a.Is6() {
		frame = unsolicitedNA(mac, a)
	} else {
		frame = gratuitousARP(mac, a)
	}
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: ifindex, Halen: 6})
}

func gratuitousARP(mac [6]byte, a netip.Addr) []byte {
	ip := a.As4()
	b := make([]byte, 0, 60)
	b = append(b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	b = append(b, mac[:]...)
	b = append(b, 0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1) // ARP, Ethernet, IPv4, request
	b = append(b, mac[:]...)
	b = append(b, ip[:]...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	b = append(b, ip[:]...)
	return b[:60]
}

func unsolicitedNA(mac [6]byte, a netip.Addr) []byte {
	src := a.As16()
	dst := netip.MustParseAddr("ff02::1").As16()
	b := make([]byte, 0, 86)
	b = append(b, 0x33, 0x33, 0, 0, 0, 1)
	b = append(b, mac[:]...)
	b = append(b, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255) // IPv6, 32 bytes of ICMPv6, hop limit 255
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	icmp := len(b)
	b = append(b, 136, 0, 0, 0, 0x20, 0, 0, 0) // advertisement, override
	b = append(b, src[:]...)
	b = append(b, 2, 1) // target link-layer address
	b = append(b, mac[:]...)
	sum := uint32(32 + 58)
	for _, part := range [][]byte{src[:], dst[:], b[icmp:]} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	sum = sum>>16 + sum&0xffff
	sum += sum >> 16
	binary.BigEndian.PutUint16(b[icmp+2:], ^uint16(sum))
	return b
}
