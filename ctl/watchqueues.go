package ctl

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// subscribeQueues calls note when the kernel tells of another number of queues of an interface, or of any other setting of
// the ethtool family (Documentation/networking/ethtool-netlink.rst, group "monitor"), until ctx ends.
func subscribeQueues(ctx context.Context, note func()) error {
	family, err := netlink.GenlFamilyGet(unix.ETHTOOL_GENL_NAME)
	if err != nil {
		return fmt.Errorf("a kernel without ethtool netlink (it is in 5.6 and newer): %w", err)
	}
	group := -1
	for _, g := range family.Groups {
		if g.Name == unix.ETHTOOL_MCGRP_MONITOR_NAME {
			group = int(g.ID)
		}
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_GENERIC)
	if err != nil {
		return fmt.Errorf("listen for changes of queues: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ethtool monitor")
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}),
		unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group)); err != nil {
		return errors.Join(fmt.Errorf("listen for changes of queues: %w", err), f.Close())
	}
	context.AfterFunc(ctx, func() { f.Close() })
	go func() {
		b := make([]byte, 16<<10)
		for {
			if _, err := f.Read(b); err != nil && !errors.Is(err, unix.ENOBUFS) { // then some were lost
				return
			}
			note()
		}
	}()
	return nil
}
