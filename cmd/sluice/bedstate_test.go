package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/rings"
)

// hostState describes the balancer's kernel: links with their XDP programs, addresses and routes; with neighbours
// also those, which traffic changes by itself. Link-local ones are never ours: the kernel learns and forgets them.
func (b *bed) hostState(neighbours bool) string {
	b.t.Helper()
	var lines []string
	ok(b.t, b.Balancer.Do(func() error {
		links, err := netlink.LinkList()
		if err != nil {
			return err
		}
		for _, l := range links {
			a := l.Attrs()
			xdp := ""
			if a.Xdp != nil && a.Xdp.Attached {
				xdp = " with XDP program"
			}
			lines = append(lines, fmt.Sprintf("link %d %s mtu %d %s promisc %d%s", a.Index, a.Name, a.MTU, a.Flags, a.Promisc, xdp))
			addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
			if err != nil {
				return err
			}
			for _, addr := range addrs {
				lines = append(lines, fmt.Sprintf("address %s on %s", addr.IPNet, a.Name))
			}
			for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
				list, err := netlink.NeighList(a.Index, family)
				if err != nil {
					return err
				}
				for _, n := range list {
					managed := n.FlagsExt&netlink.NTF_EXT_MANAGED != 0
					if managed || neighbours && !n.IP.IsMulticast() && !n.IP.IsLinkLocalUnicast() {
						lines = append(lines, fmt.Sprintf("neighbour %s on %s, managed %v", n.IP, a.Name, managed))
					}
				}
			}
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_ALL)
		for _, r := range routes {
			lines = append(lines, fmt.Sprintf("route %v", r.Dst))
		}
		return err
	}))
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

// withoutIndices is a host state in which links have no index, nor an address made of their MAC.
func withoutIndices(state string) string {
	state = regexp.MustCompile(`(?m)^link \d+ `).ReplaceAllString(state, "link ")
	lines := strings.Split(regexp.MustCompile(`(?m)^address fe80:\S*`).ReplaceAllString(state, "address fe80::"), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// netns is the inode of the balancer's namespace, by which the program names what it keeps of it.
func (b *bed) netns() uint64 {
	b.t.Helper()
	var st unix.Stat_t
	ok(b.t, b.Balancer.Do(func() error { return unix.Stat("/proc/thread-self/ns/net", &st) }))
	return st.Ino
}

// leftBehind lists what the program has left of the balancer's namespace, and its control socket.
func (b *bed) leftBehind() string {
	b.t.Helper()
	left := leftOf(b.t, b.netns())
	if _, err := os.Lstat(b.socket); err == nil {
		left = strings.TrimPrefix(left+"\n"+b.socket, "\n")
	}
	return left
}

// leftOf lists the program's files and pins of the namespace with that inode. It is of use as long as the namespace
// is there: another may get the inode later.
func leftOf(t *testing.T, inode uint64) string {
	t.Helper()
	left := must(filepath.Glob(filepath.Join(ctl.StateDir, fmt.Sprintf("net-%d.*", inode))))(t)
	for _, p := range must(rings.ListPinned())(t) {
		if p.NetnsInode == inode {
			left = append(left, fmt.Sprintf("pin %s, alive %v", p.Path, p.Alive))
		}
	}
	return strings.Join(left, "\n")
}

// rmSocket removes the control socket of a killed engine: a dead one is in nobody's way, and a start replaces it.
func rmSocket(b *bed) {
	b.t.Helper()
	ok(b.t, os.Remove(b.socket))
}
