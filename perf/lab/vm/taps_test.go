package vm

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A frame of one NIC's TAP device arrives at its cable's other end and nowhere else, and Close leaves nothing.
func TestTaps(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes a network namespace")
	}
	n, err := newNetwork(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	queue := map[string]*os.File{}
	for _, name := range []string{outside, inside, "peer-a", "peer-b"} {
		if queue[name], err = attachTap(n, name, tapQueues(name, 2) > 1); err != nil {
			t.Fatal(err)
		}
		defer queue[name].Close()
	}
	// Any type that is nobody's protocol; the source differs, since a bridge learns it.
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 0x0a, 0x88, 0xb5}, make([]byte, 46)...)
	arrived := false
	for deadline := time.Now().Add(20 * time.Second); !arrived && time.Now().Before(deadline); {
		if _, err := queue["peer-a"].Write(frame); err != nil { // EIO until the device is up
			time.Sleep(10 * time.Millisecond)
			continue
		}
		arrived = received(queue[outside], frame)
	}
	if !arrived {
		t.Error("no frame of peer-a came to outside")
	}
	for _, name := range []string{inside, "peer-b"} {
		if received(queue[name], frame) {
			t.Errorf("%s has a frame of the other cable", name)
		}
	}
	if err := n.host.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "away", Flags: net.FlagUp}, PeerName: "there"})
	}); err != nil {
		t.Fatal(err)
	}
	if err := n.alone(); err == nil {
		t.Error("another interface in the namespace went unnoticed")
	}
	name := n.host.Namespace()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/run/netns/" + name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the namespace is still there: %v", err)
	}
}

// attachTap attaches to a TAP device of the namespace as QEMU does.
func attachTap(n *network, name string, multi bool) (f *os.File, err error) {
	err = n.host.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
		if multi {
			flags |= unix.IFF_MULTI_QUEUE
		}
		req.SetUint16(flags)
		if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
			return errors.Join(fmt.Errorf("attach to %s: %w", name, err), unix.Close(fd))
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	return f, err
}

// received reports whether a frame comes within a tenth of a second.
func received(f *os.File, frame []byte) bool {
	buf := make([]byte, 2048)
	_ = f.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	for {
		n, err := f.Read(buf)
		if err != nil {
			return false
		}
		if bytes.Equal(buf[:n], frame) {
			return true
		}
	}
}
