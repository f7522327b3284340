package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// netnsDir is where ip(8) looks for named namespaces.
const netnsDir = "/run/netns"

// nameNamespace gives the namespace of the calling thread a name, as `ip netns add` does: an empty file in netnsDir
// with the namespace mounted on it.
func nameNamespace(name string) error {
	if err := prepareNetnsDir(); err != nil {
		return err
	}
	path := filepath.Join(netnsDir, name)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
	if err != nil {
		return fmt.Errorf("name namespace: %w", err)
	}
	f.Close()
	if err := unix.Mount("/proc/thread-self/ns/net", path, "none", unix.MS_BIND, ""); err != nil {
		os.Remove(path)
		return fmt.Errorf("mount namespace on %s: %w", path, err)
	}
	return nil
}

// prepareNetnsDir makes netnsDir a shared mount, so that a namespace deleted here disappears in other mount
// namespaces too (there it would otherwise live on). The lock is the one that iproute2 takes for the same purpose.
func prepareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("create %s: %w", netnsDir, err)
	}
	dir, err := os.Open(netnsDir)
	if err != nil {
		return fmt.Errorf("open %s: %w", netnsDir, err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", netnsDir, err)
	}
	err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	if errors.Is(err, unix.EINVAL) { // not a mount point yet
		if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %s on itself: %w", netnsDir, err)
		}
		err = unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "")
	}
	if err != nil {
		return fmt.Errorf("share %s: %w", netnsDir, err)
	}
	return nil
}

// removeNamespace takes the name away; the namespace itself ends with its last process and socket. A name that is
// gone already is no error: two sweeps may meet.
func removeNamespace(name string) error {
	path := filepath.Join(netnsDir, name)
	var err error
	for range 20 {
		// EINVAL: not a mount point, as after a restart with a /run that is kept on disk.
		err = unix.Unmount(path, unix.MNT_DETACH)
		if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			err = os.Remove(path)
		}
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(25 * time.Millisecond)
	}
	return fmt.Errorf("remove namespace %s: %w", name, err)
}

// deleteLinks deletes the veths and bridges in the namespace of the calling thread, at once. Without it they would go
// too, but only some time after the last user of the namespace.
func deleteLinks() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, link := range links {
		if link.Type() != "veth" && link.Type() != "bridge" {
			continue
		}
		err := netlink.LinkDel(link)
		// ENODEV: it was the peer of one deleted a moment ago.
		if err != nil && !errors.Is(err, unix.ENODEV) && !isLinkNotFound(err) {
			errs = append(errs, fmt.Errorf("delete link %s: %w", link.Attrs().Name, err))
		}
	}
	return errors.Join(errs...)
}

func isLinkNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
