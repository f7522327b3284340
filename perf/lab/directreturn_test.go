package lab

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What docs/SERVERS.md says of ARP and neighbour discovery for an address on a server's loopback, of real kernels: who answers for it,
// where the settings count, and from which address the server asks.
func TestVirtualAddressOnServers(t *testing.T) {
	l := open(t)
	server, peer := must(l.Host("server"))(t), must(l.Host("peer"))(t)
	ok(t, l.Wire(server, "eth0", peer, "eth0", WireOptions{}))
	ok(t, server.Addr("eth0", "192.168.20.1/24"))
	ok(t, peer.Addr("eth0", "192.168.20.254/24"))
	ok(t, server.Addr("eth0", "fd00:192:168:20::1/64"))
	ok(t, peer.Addr("eth0", "fd00:192:168:20::254/64"))
	ok(t, peer.Sysctl("net.ipv4.neigh.eth0.retrans_time_ms", "100"))
	ok(t, peer.Sysctl("net.ipv6.neigh.eth0.retrans_time_ms", "100"))
	vip4, vip6, own := netip.MustParseAddr("10.10.1.100"), netip.MustParseAddr("fd00:10:10:1::100"), netip.MustParseAddr("192.168.20.1")
	for _, vip := range []netip.Addr{vip4, vip6} {
		ok(t, server.loopback(vip))
		ok(t, peer.withLink("eth0", func(eth0 netlink.Link) error {
			return netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: network(t, netip.PrefixFrom(vip, vip.BitLen()).String())})
		}))
	}
	answers := func(a netip.Addr) bool {
		t.Helper()
		state := 0
		ok(t, peer.withLink("eth0", func(eth0 netlink.Link) error {
			_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: a.AsSlice()})
			return nil
		}))
		conn := must(peer.Dial(context.Background(), "udp", netip.AddrPortFrom(a, 9).String()))(t)
		defer conn.Close()
		_, _ = conn.Write([]byte("x"))
		eventually(t, "somebody has answered for "+a.String()+", or nobody", func() bool {
			ok(t, peer.withLink("eth0", func(eth0 netlink.Link) error {
				list, err := netlink.NeighList(eth0.Attrs().Index, netlink.FAMILY_ALL)
				for _, n := range list {
					if got, _ := netip.AddrFromSlice(n.IP); got.Unmap() == a {
						state = n.State
					}
				}
				return err
			}))
			return state&(unix.NUD_REACHABLE|unix.NUD_FAILED) != 0
		})
		return state&unix.NUD_REACHABLE != 0
	}
	set := func(where, ignore, announce string) {
		ok(t, server.Sysctl("net.ipv4.conf."+where+".arp_ignore", ignore))
		ok(t, server.Sysctl("net.ipv4.conf."+where+".arp_announce", announce))
	}
	for _, c := range []struct {
		where                   string
		answers, asksAsTheOther bool
	}{{"", true, true}, {"lo", true, true}, {"eth0", false, false}, {"all", false, false}} {
		if c.where != "" {
			set(c.where, "1", "2")
		}
		if got := answers(vip4); got != c.answers {
			t.Errorf("with the settings on %q the server answers for %s: %v", c.where, vip4, got)
		}
		if !answers(own) {
			t.Errorf("with the settings on %q the server does not answer for its own address", c.where)
		}
		if got := asksAs(t, server, peer, vip4); got != map[bool]netip.Addr{true: vip4, false: own}[c.asksAsTheOther] {
			t.Errorf("with the settings on %q the server asks for its gateway as %s", c.where, got)
		}
		if c.where != "" {
			set(c.where, "0", "0")
		}
	}
	if answers(vip6) {
		t.Errorf("the server answers for %s, which is on lo", vip6)
	}
	ok(t, server.Addr("eth0", vip6.String()+"/128"))
	if !answers(vip6) {
		t.Errorf("the server does not answer for %s, which is on eth0", vip6)
	}
}

func network(t *testing.T, cidr string) *net.IPNet {
	t.Helper()
	_, n, err := net.ParseCIDR(cidr)
	ok(t, err)
	return n
}

// asksAs is the sender's address in the ARP request of a server that sends from the address a, for its gateway.
func asksAs(t *testing.T, server, peer *Host, a netip.Addr) (sender netip.Addr) {
	t.Helper()
	const gateway, clients = "192.168.20.253", "172.16.0.0/16"
	ok(t, server.Route(clients, gateway))
	defer func() {
		ok(t, server.Do(func() error {
			return netlink.RouteDel(&netlink.Route{Dst: network(t, clients)})
		}))
		_ = server.withLink("eth0", func(eth0 netlink.Link) error {
			return netlink.NeighDel(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: netip.MustParseAddr(gateway).AsSlice()})
		})
	}()
	seen := must(peer.Capture("eth0", 100))(t)
	defer seen.Close()
	conn := must(server.DialFrom(context.Background(), "udp", netip.AddrPortFrom(a, 0), "172.16.10.55:9"))(t)
	defer conn.Close()
	_, _ = conn.Write([]byte("x"))
	eventually(t, "the server asks for its gateway", func() bool {
		time.Sleep(10 * time.Millisecond)
		for _, frame := range seen.Frames() {
			f := frame.Data
			if len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 1 && netip.AddrFrom4([4]byte(f[38:42])).String() == gateway {
				sender = netip.AddrFrom4([4]byte(f[28:32]))
				return true
			}
		}
		return false
	})
	return sender
}
