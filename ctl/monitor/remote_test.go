package monitor

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"sluice/perf/lab"
)

// remote is a member in a network namespace of its own, on a wire to ours:
//
//	this process            host member
//	probe0 ──────────────── eth0
//	10.9.0.1, 10.9.0.11     10.9.0.2
//	fd00:9::1, fd00:9::11   fd00:9::2
type remote struct {
	host           *lab.Host
	addr4, addr6   netip.Addr // of the member
	local4, local6 netip.Addr // ours, the second ones: those that the kernel would not choose
	link           netlink.Link
}

func newRemote(t testing.TB) *remote {
	t.Helper()
	needNamespace(t)
	l := must(lab.New(context.Background(), t.Name()))(t)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if left := lab.Leftovers(l.ID()); len(left) > 0 {
			t.Errorf("left after close:\n%s", strings.Join(left, "\n"))
		}
	})
	r := &remote{
		host: must(l.Host("member"))(t), addr4: netip.MustParseAddr("10.9.0.2"), addr6: netip.MustParseAddr("fd00:9::2"),
		local4: netip.MustParseAddr("10.9.0.11"), local6: netip.MustParseAddr("fd00:9::11"),
	}
	ns := must(netns.GetFromName(r.host.Namespace()))(t)
	defer ns.Close()
	// Duplicate address detection would keep addresses from use for a second.
	for _, key := range []string{"default/accept_dad", "all/accept_dad", "default/dad_transmits"} {
		ok(t, os.WriteFile(filepath.Join("/proc/sys/net/ipv6/conf", key), []byte("0"), 0))
	}
	ok(t, netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns),
	}))
	r.link = must(netlink.LinkByName("probe0"))(t)
	for _, cidr := range []string{"10.9.0.1/24", "10.9.0.11/24", "fd00:9::1/64", "fd00:9::11/64"} {
		addr := must(netlink.ParseAddr(cidr))(t)
		if strings.Contains(cidr, "11/64") {
			addr.PreferedLft = 0 // deprecated: never chosen by the kernel itself
			addr.ValidLft = 1 << 30
		}
		ok(t, netlink.AddrAdd(r.link, addr))
	}
	ok(t, r.host.SetLink("eth0", true))
	ok(t, netlink.LinkSetUp(r.link))
	ok(t, r.host.Addr("eth0", "10.9.0.2/24"))
	ok(t, r.host.Addr("eth0", "fd00:9::2/64"))
	return r
}

func (r *remote) to4(port uint16) netip.AddrPort { return netip.AddrPortFrom(r.addr4, port) }
func (r *remote) to6(port uint16) netip.AddrPort { return netip.AddrPortFrom(r.addr6, port) }

// blackhole is an address in the remote's network whose frames nobody takes.
func (r *remote) blackhole(t testing.TB) netip.Addr {
	t.Helper()
	addr := netip.MustParseAddr("10.9.0.66")
	ok(t, netlink.NeighSet(&netlink.Neigh{
		LinkIndex: r.link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: addr.AsSlice(),
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 0x66},
	}))
	return addr
}
