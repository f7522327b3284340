package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A socket belongs for life to the namespace of the thread that calls socket(2). That one call is made on the thread
// of the host; bind, connect, accept and all I/O happen wherever the caller is. Addresses are literals: a resolver
// would ask from another namespace.

// Listen opens a TCP listener inside the namespace: network is tcp, tcp4 or tcp6, addr is "address:port". An empty
// address means all of both families, port 0 any.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	f, err := h.bound(network, addr, "tcp")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}

// ListenPacket opens a UDP socket inside the namespace: network is udp, udp4 or udp6, addr as for Listen.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	f, err := h.bound(network, addr, "udp")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FilePacketConn(f)
}

// bound opens, binds and, for TCP, listens. The result is a file because package net takes sockets in this form only;
// it duplicates the descriptor.
func (h *Host) bound(network, addr, transport string) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, fmt.Errorf("listen %s %s in %s: %w", network, addr, h.name, err)
	}
	dual := strings.HasPrefix(addr, ":")
	if dual {
		addr = "[::]" + addr
	}
	local, err := parse(network, addr)
	if err != nil {
		return fail(err)
	}
	if !strings.HasPrefix(network, transport) {
		return fail(fmt.Errorf("want a network of %s", transport))
	}
	fd, err := h.socket(network, local)
	if err != nil {
		return fail(err)
	}
	if local.Addr().Is6() && !dual {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if transport == "tcp" {
		err = errors.Join(err, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1))
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(local))
	}
	if err == nil && transport == "tcp" {
		err = unix.Listen(fd, 4096)
	}
	if err != nil {
		unix.Close(fd)
		return fail(err)
	}
	return os.NewFile(uintptr(fd), network+" "+addr), nil
}

// Dial connects from inside the namespace: network is tcp or udp (4, 6), addr is "address:port".
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return h.DialFrom(ctx, network, netip.AddrPort{}, addr)
}

// DialFrom is Dial with a local address. Its port may be 0, and the zero AddrPort leaves all to the kernel. A local
// port in TIME_WAIT may be taken again.
func (h *Host) DialFrom(ctx context.Context, network string, local netip.AddrPort, addr string) (net.Conn, error) {
	conn, err := h.dial(ctx, network, local, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s %s in %s: %w", network, addr, h.name, err)
	}
	return conn, nil
}

func (h *Host) dial(ctx context.Context, network string, local netip.AddrPort, addr string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	remote, err := parse(network, addr)
	if err != nil {
		return nil, err
	}
	fd, err := h.socket(network, remote)
	if err != nil {
		return nil, err
	}
	if local.IsValid() {
		if err := bindLocal(fd, local); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("bind %s: %w", local, err)
		}
	}
	err = unix.Connect(fd, sockaddr(remote))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, err
	}
	// Only now does the poller see the socket: before connect it would report a hang-up.
	f := os.NewFile(uintptr(fd), network+" "+addr)
	defer f.Close()
	if err != nil {
		if err := awaitConnect(ctx, f); err != nil {
			return nil, err
		}
	}
	return net.FileConn(f)
}

func bindLocal(fd int, local netip.AddrPort) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if local.Port() == 0 {
		// The port is chosen at connect, by the whole four-tuple, so more connections than ports are possible.
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return err
		}
	}
	return unix.Bind(fd, sockaddr(local))
}

// awaitConnect waits until the connection of a non-blocking socket is established or has failed, or ctx ends.
func awaitConnect(ctx context.Context, f *os.File) error {
	stop := context.AfterFunc(ctx, func() { f.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Write(func(fd uintptr) bool {
		errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		switch {
		case err != nil:
			result = err
		case errno != 0:
			result = unix.Errno(errno)
		default:
			// Writable and no error is not yet connected: a wake-up may be an old one.
			if _, err := unix.Getpeername(int(fd)); errors.Is(err, unix.ENOTCONN) {
				return false
			}
		}
		return true
	})
	if cause := ctx.Err(); err != nil && cause != nil {
		return cause
	}
	return errors.Join(err, result)
}

// HTTPClient returns a client that connects from inside the namespace. Without keepAlive every request is a connection
// of its own. Hosts in URLs are address literals.
func (h *Host) HTTPClient(keepAlive bool) *http.Client {
	return &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext:         h.Dial,
			DisableKeepAlives:   !keepAlive,
			DisableCompression:  true,
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     30 * time.Second,
		},
	}
}

// socket creates a non-blocking socket in the namespace of the host.
func (h *Host) socket(network string, to netip.AddrPort) (int, error) {
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	if strings.HasPrefix(network, "udp") {
		kind = unix.SOCK_DGRAM
	}
	return h.rawSocket(family, kind, 0)
}

func (h *Host) rawSocket(family, kind, protocol int) (fd int, err error) {
	err = h.thread.run(func() error {
		var err error
		fd, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("create socket: %w", err)
	}
	return fd, nil
}

func parse(network, addr string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return ap, fmt.Errorf("want a literal address and port: %w", err)
	}
	ap = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	if ap.Addr().Zone() != "" {
		return ap, errors.New("an address with a zone is not supported")
	}
	switch network {
	case "tcp", "udp":
		return ap, nil
	case "tcp4", "udp4":
		if ap.Addr().Is4() {
			return ap, nil
		}
	case "tcp6", "udp6":
		if ap.Addr().Is6() {
			return ap, nil
		}
	}
	return ap, net.UnknownNetworkError(network)
}

func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}
	}
	return &unix.SockaddrInet6{Addr: ap.Addr().As16(), Port: int(ap.Port())}
}
