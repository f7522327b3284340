package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"sluice/perf/lab"
)

// vips are the virtual addresses with a port, IPv4 first.
func (b *bed) vips(port uint16) []netip.AddrPort {
	return []netip.AddrPort{netip.AddrPortFrom(b.VIP4, port), netip.AddrPortFrom(b.VIP6, port)}
}

// serve starts a server of the given kind on every host of Servers, over both families, and returns them by host.
func (b *bed) serve(port uint16, start func(h *lab.Host, addr, identity string) (*lab.Server, error)) (servers [][2]*lab.Server) {
	b.t.Helper()
	for i, h := range b.Servers {
		var s [2]*lab.Server
		for f, a := range []netip.Addr{b.ServerAddr4[i], b.ServerAddr6[i]} {
			s[f] = must(start(h, netip.AddrPortFrom(a, port).String(), fmt.Sprintf("server-%d", i+1)))(b.t)
		}
		servers = append(servers, s)
	}
	return servers
}

// ask makes one HTTP request over a connection of its own from h and returns the server's identity.
func ask(h *lab.Host, to netip.AddrPort, limit time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return get(conn, to.String(), true)
}

// timedOut reports whether an attempt ended without any answer.
func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
}

// unserved reports whether an attempt ended as it does where nobody has the virtual address: in silence, or, over
// IPv6, by the balancer's kernel saying that it has no route.
func unserved(err error) bool { return timedOut(err) || errors.Is(err, syscall.ENETUNREACH) }

// echoServer answers each connection with what it says, like a shell that is only typed at.
func (b *bed) echoServer(h *lab.Host, at netip.AddrPort) {
	b.t.Helper()
	ln := must(h.Listen("tcp", at.String()))(b.t)
	b.t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			}()
		}
	}()
}

// session is an open connection to an echo server.
type session struct {
	net.Conn
	said int
}

func openSession(h *lab.Host, to netip.AddrPort) (*session, error) {
	ctx, cancel := context.WithTimeout(context.Background(), waitTime)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", to.String())
	if err != nil {
		return nil, err
	}
	return &session{Conn: conn}, nil
}

// say sends a line and waits for its echo.
func (s *session) say(limit time.Duration) error {
	s.said++
	line := fmt.Sprintf("line %d\n", s.said)
	_ = s.SetDeadline(time.Now().Add(limit))
	if _, err := s.Write([]byte(line)); err != nil {
		return err
	}
	got := make([]byte, len(line))
	if _, err := io.ReadFull(s, got); err != nil {
		return err
	}
	if string(got) != line {
		return fmt.Errorf("echo of %q is %q", line, got)
	}
	return nil
}

// ping sends one ICMP echo request from h and waits for its answer. The raw socket needs no ping program.
func ping(h *lab.Host, to netip.Addr, seq uint16) error {
	network, any, request, reply := "ip4:1", "0.0.0.0", byte(8), byte(0)
	if to.Is6() {
		network, any, request, reply = "ip6:58", "::", 128, 129
	}
	var pc net.PacketConn
	err := h.Do(func() (err error) {
		pc, err = net.ListenPacket(network, any)
		return err
	})
	if err != nil {
		return err
	}
	defer pc.Close()
	msg := append([]byte{request, 0, 0, 0, 0x51, 0x1c, byte(seq >> 8), byte(seq)}, "are you there?"...)
	if to.Is4() {
		binary.BigEndian.PutUint16(msg[2:], internetChecksum(msg)) // that of ICMPv6 is the kernel's to fill in
	}
	_ = pc.SetDeadline(time.Now().Add(waitTime))
	if _, err := pc.WriteTo(msg, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("ping %s: %w", to, err)
		}
		if n == len(msg) && buf[0] == reply && bytes.Equal(buf[4:n], msg[4:]) && from.String() == to.String() {
			return nil
		}
	}
}

// internetChecksum is that of RFC 1071, the plain way.
func internetChecksum(b []byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// datagram sends one and returns who answered, over the socket given.
func datagram(conn net.Conn, text string, limit time.Duration) (string, error) {
	_ = conn.SetDeadline(time.Now().Add(limit))
	if _, err := conn.Write([]byte(text)); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	who, rest, _ := strings.Cut(string(buf[:n]), " ")
	if rest != text {
		return "", fmt.Errorf("the echo of %q is %q", text, rest)
	}
	return who, nil
}
