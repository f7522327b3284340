package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dial opens a TCP or UDP socket to the target by the monitor's path. The caller closes it; until then the end of ctx
// ends every read and write, and release undoes that.
func (a *attempt) dial(ctx context.Context, network string) (conn net.Conn, release func() bool, err error) {
	a.stage = "connect"
	path := &a.monitor.Path
	d := net.Dialer{
		KeepAlive: -1, // a probe is over before one would be sent
		ControlContext: func(_ context.Context, _, _ string, raw syscall.RawConn) error {
			var err error
			if cerr := raw.Control(func(fd uintptr) { err = path.prepare(int(fd), a.addr.Addr(), network) }); cerr != nil {
				return cerr
			}
			return err
		},
	}
	if source := path.source(a.addr.Addr()); source.IsValid() {
		local := netip.AddrPortFrom(source, 0)
		if network == "tcp" {
			d.LocalAddr = net.TCPAddrFromAddrPort(local)
		} else {
			d.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
	}
	if conn, err = d.DialContext(ctx, network, a.addr.String()); err != nil {
		return nil, nil, err
	}
	return conn, endWith(ctx, conn), nil
}

// endWith makes the end of ctx end what waits on conn.
func endWith(ctx context.Context, conn interface{ SetDeadline(time.Time) error }) (release func() bool) {
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

// source is the address to send from towards a member, or none.
func (w *Path) source(member netip.Addr) netip.Addr {
	if member.Is4() {
		return w.Source4
	}
	return w.Source6
}

// prepare sets the options of a new socket, before it is bound and connected.
func (w *Path) prepare(fd int, member netip.Addr, network string) error {
	if w.Interface != "" {
		if err := unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, w.Interface); err != nil {
			return localError{fmt.Errorf("bind to interface %s: %w", w.Interface, err)}
		}
	}
	if w.Mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(w.Mark)); err != nil {
			return localError{fmt.Errorf("set mark %d: %w", w.Mark, err)}
		}
	}
	v4 := member.Is4()
	var err error
	switch {
	case network == "tcp":
		// The port is chosen at connect, where only the whole tuple must be free. Otherwise a source address would have
		// one range of ports for all members.
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	// Without it only port unreachable is reported on a connected socket (net/ipv4/udp.c, __udp4_lib_err).
	case v4:
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
	default:
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	}
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return localError{fmt.Errorf("prepare socket: %w", err)}
	}
	return nil
}

// sockaddr is an address with port 0, as the socket calls take it.
func sockaddr(addr netip.Addr) (unix.Sockaddr, error) {
	if addr.Is4() {
		return &unix.SockaddrInet4{Addr: addr.As4()}, nil
	}
	sa := &unix.SockaddrInet6{Addr: addr.As16()}
	if zone := addr.Zone(); zone != "" {
		i, err := net.InterfaceByName(zone)
		if err != nil {
			return nil, localError{fmt.Errorf("interface %s of %v: %w", zone, addr, err)}
		}
		sa.ZoneId = uint32(i.Index)
	}
	return sa, nil
}
