package lab

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Decapsulator is the far end of tunnels on a host whose kernel may lack the devices for it (ipip, sit, ip6tnl, fou): raw sockets
// for IP in IP over both families, and UDP sockets for GUE, take what the kernel has checked and put together, and a TUN device
// gives it what was inside. The GUE header is judged strictly: variant 0, nothing but data.
type Decapsulator struct {
	Packets [2]atomic.Uint64 // taken out of IP in IP, and of GUE
	Refused atomic.Uint64    // GUE that is not as it should be
	files   []*os.File
	wait    sync.WaitGroup
}

// decapsulating is a socket of a Decapsulator.
type decapsulating struct {
	family, kind, protocol int
	bind                   unix.Sockaddr
	header                 func(b []byte) (skip int, ok bool) // what is in front of the packet
}

// Decapsulate starts one. guePort is that of GUE. Closing the Lab ends it.
func (h *Host) Decapsulate(guePort uint16) (*Decapsulator, error) {
	d := &Decapsulator{}
	if err := d.open(h, guePort); err != nil {
		return nil, errors.Join(fmt.Errorf("decapsulate in %s: %w", h.name, err), d.Close())
	}
	if err := h.lab.own(d); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Decapsulator) open(h *Host, guePort uint16) error {
	tun, err := h.tun("tun0")
	if err != nil {
		return err
	}
	d.files = append(d.files, tun)
	none := func([]byte) (int, bool) { return 0, true }
	gue := func(b []byte) (int, bool) {
		return 4, len(b) > 4 && b[0] == 0 && b[2]|b[3] == 0 && (b[1] == 4 && b[4]>>4 == 4 || b[1] == 41 && b[4]>>4 == 6)
	}
	ip4 := func(b []byte) (int, bool) { return int(b[0]&15) * 4, true } // raw sockets of IPv4 deliver the header, those of IPv6 do not
	for i, s := range []decapsulating{
		{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_IPIP, nil, ip4}, {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_IPV6, nil, ip4},
		{unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_IPIP, nil, none}, {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_IPV6, nil, none},
		{unix.AF_INET, unix.SOCK_DGRAM, 0, &unix.SockaddrInet4{Port: int(guePort)}, gue},
		{unix.AF_INET6, unix.SOCK_DGRAM, 0, &unix.SockaddrInet6{Port: int(guePort)}, gue},
	} {
		fd, err := h.rawSocket(s.family, s.kind, s.protocol)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "decapsulate")
		d.files = append(d.files, f)
		errs := []error{unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)}
		if s.bind != nil {
			if s.family == unix.AF_INET6 {
				errs = append(errs, unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1))
			}
			errs = append(errs, unix.Bind(fd, s.bind))
		}
		if err := errors.Join(errs...); err != nil {
			return err
		}
		d.wait.Add(1)
		go d.loop(f, tun, s.header, i/4)
	}
	return nil
}

// tun makes a TUN device without addresses: what is written to it has come in by it.
func (h *Host) tun(name string) (*os.File, error) {
	var f *os.File
	err := h.thread.run(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open /dev/net/tun: %w", err)
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err == nil {
			err = unix.SetNonblock(fd, true)
		}
		if err != nil {
			unix.Close(fd)
			return fmt.Errorf("make %s: %w", name, err)
		}
		f = os.NewFile(uintptr(fd), name)
		link, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(link)
		}
		return err
	})
	if err != nil && f != nil {
		f.Close()
	}
	return f, err
}

func (d *Decapsulator) loop(from, tun *os.File, header func([]byte) (int, bool), kind int) {
	defer d.wait.Done()
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		skip, ok := header(buf[:n])
		if !ok || skip >= n {
			d.Refused.Add(1)
			continue
		}
		d.Packets[kind].Add(1)
		if _, err := tun.Write(buf[skip:n]); err != nil { // the kernel refuses what is not IP
			d.Refused.Add(1)
		}
	}
}

// Close ends it. It may be called again.
func (d *Decapsulator) Close() error {
	for _, f := range d.files {
		f.SetReadDeadline(time.Unix(1, 0))
	}
	d.wait.Wait()
	for _, f := range d.files {
		f.Close()
	}
	return nil
}
