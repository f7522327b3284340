package monitor

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// minEcho is the shortest payload, bytes: it begins with a random token that tells our replies from all others.
const minEcho = 16

// icmpMethod sends an echo request (RFC 792, RFC 4443 section 4.1) and waits for the reply with the same identifier,
// sequence number and payload. It opens a ping socket, which needs no privilege but a group in
// net.ipv4.ping_group_range, or else a raw one, which needs CAP_NET_RAW.
type icmpMethod struct{ size int }

func (m icmpMethod) run(ctx context.Context, a *attempt) (string, error) {
	a.stage = "no reply"
	s, err := openEcho(a)
	if err != nil {
		return "", err
	}
	defer s.file.Close()
	defer endWith(ctx, s.file)()

	payload := make([]byte, m.size)
	rand.Read(payload[:minEcho])
	seq := int(binary.BigEndian.Uint16(payload))
	request, err := s.request(seq, payload)
	if err != nil {
		return "", localError{fmt.Errorf("make the echo request: %w", err)}
	}
	if _, err := s.file.Write(request); err != nil {
		return "", pathless(err)
	}
	buf := make([]byte, m.size+128) // an IPv4 header with options and the ICMP header have at most 68
	for {
		n, err := s.file.Read(buf)
		if err != nil {
			return "", pathless(err)
		}
		if s.isReply(buf[:n], seq, payload) {
			return "echo reply", nil
		}
	}
}

// echoSocket is a connected socket for echo requests of one family.
type echoSocket struct {
	file *os.File
	v4   bool
	raw  bool
	id   int // of our requests
}

func openEcho(a *attempt) (*echoSocket, error) {
	member := a.addr.Addr()
	s := &echoSocket{v4: member.Is4()}
	family, proto := unix.AF_INET6, unix.IPPROTO_ICMPV6
	if s.v4 {
		family, proto = unix.AF_INET, unix.IPPROTO_ICMP
	}
	const flags = unix.SOCK_CLOEXEC | unix.SOCK_NONBLOCK
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|flags, proto)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EPROTONOSUPPORT) {
		s.raw = true
		fd, err = unix.Socket(family, unix.SOCK_RAW|flags, proto)
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			return nil, localError{errors.New("no permission to send ICMP: widen net.ipv4.ping_group_range or give CAP_NET_RAW")}
		}
	}
	if err != nil {
		return nil, localError{fmt.Errorf("open ICMP socket: %w", err)}
	}
	s.file = os.NewFile(uintptr(fd), "icmp") // nonblocking, so the runtime's poller serves it
	if err := s.connect(fd, a); err != nil {
		s.file.Close()
		return nil, err
	}
	return s, nil
}

// connect binds and connects, so that the kernel gives us only what the member sends and errors about what we sent.
func (s *echoSocket) connect(fd int, a *attempt) error {
	member := a.addr.Addr()
	if err := a.monitor.Path.prepare(fd, member, "icmp"); err != nil {
		return err
	}
	if err := s.filter(fd); err != nil {
		return localError{fmt.Errorf("filter ICMP: %w", err)}
	}
	if source := a.monitor.Path.source(member); source.IsValid() {
		sa, err := sockaddr(source)
		if err != nil {
			return err
		}
		if err := unix.Bind(fd, sa); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
	}
	sa, err := sockaddr(member)
	if err != nil {
		return err
	}
	if err := unix.Connect(fd, sa); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if s.raw {
		var id [2]byte
		rand.Read(id[:])
		s.id = int(binary.BigEndian.Uint16(id[:]))
		return nil
	}
	// The kernel writes the identifier of a ping socket: its port (net/ipv4/ping.c).
	local, err := unix.Getsockname(fd)
	if err != nil {
		return localError{fmt.Errorf("get the echo identifier: %w", err)}
	}
	switch sa := local.(type) {
	case *unix.SockaddrInet4:
		s.id = sa.Port
	case *unix.SockaddrInet6:
		s.id = sa.Port
	}
	return nil
}

// filter leaves only echo replies for a raw socket to copy.
func (s *echoSocket) filter(fd int) error {
	switch {
	case !s.raw:
		return nil
	case s.v4:
		return unix.SetsockoptInt(fd, unix.SOL_RAW, unix.ICMP_FILTER, ^(1 << ipv4.ICMPTypeEchoReply)) // set bits are dropped, raw(7)
	}
	f := &unix.ICMPv6Filter{}
	for i := range f.Data { // set bits are dropped, RFC 3542 section 3.2
		f.Data[i] = ^uint32(0)
	}
	f.Data[ipv6.ICMPTypeEchoReply>>5] &^= 1 << (ipv6.ICMPTypeEchoReply & 31)
	return unix.SetsockoptICMPv6Filter(fd, unix.SOL_ICMPV6, unix.ICMPV6_FILTER, f)
}

// request is the message; the kernel computes the checksum of ICMPv6, and of a ping socket.
func (s *echoSocket) request(seq int, payload []byte) ([]byte, error) {
	msg := icmp.Message{Type: ipv6.ICMPTypeEchoRequest, Body: &icmp.Echo{ID: s.id, Seq: seq, Data: payload}}
	if s.v4 {
		msg.Type = ipv4.ICMPTypeEcho
	}
	return msg.Marshal(nil)
}

func (s *echoSocket) isReply(packet []byte, seq int, payload []byte) bool {
	proto, want := unix.IPPROTO_ICMPV6, icmp.Type(ipv6.ICMPTypeEchoReply)
	if s.v4 {
		proto, want = unix.IPPROTO_ICMP, ipv4.ICMPTypeEchoReply
		if s.raw { // with the IP header; the length is in words, RFC 791 section 3.1
			if len(packet) < 20 || len(packet) < int(packet[0]&15)*4 {
				return false
			}
			packet = packet[int(packet[0]&15)*4:]
		}
	}
	msg, err := icmp.ParseMessage(proto, packet)
	if err != nil || msg.Type != want {
		return false
	}
	echo, ok := msg.Body.(*icmp.Echo)
	return ok && echo.ID == s.id && echo.Seq == seq && bytes.Equal(echo.Data, payload)
}
