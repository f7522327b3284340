package rings

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// needBPF skips the test where the kernel does not let us load programs, and fails it where the lab is required.
func needBPF(t *testing.T) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.XDP, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}, License: "MIT",
	})
	if err == nil {
		prog.Close()
		return
	}
	if os.Getenv("SLUICE_LAB") == "require" {
		t.Fatalf("loading an XDP program must be possible here: %v", err)
	}
	t.Skipf("needs root: loading an XDP program: %v", err)
}

// programNetns puts the test into a network namespace of its own until leave, at the latest until it ends.
func programNetns(t *testing.T) (leave func()) {
	t.Helper()
	needBPF(t)
	runtime.LockOSThread()
	before, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	inside, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	left := false
	leave = func() {
		if left {
			return
		}
		left = true
		if err := netns.Set(before); err != nil {
			t.Fatalf("return to the network namespace: %v", err) // the thread stays locked and ends with the test
		}
		before.Close()
		inside.Close()
		runtime.UnlockOSThread()
	}
	t.Cleanup(leave)
	return leave
}

// programVeth makes the pair port and far, up and without IPv6 chatter.
func programVeth(t *testing.T, far netlink.Veth) *netlink.Veth {
	t.Helper()
	index := far.LinkAttrs.Index
	far.LinkAttrs = netlink.NewLinkAttrs()
	far.LinkAttrs.Index = index
	far.LinkAttrs.Name, far.PeerName = "port", "far"
	far.LinkAttrs.NumRxQueues, far.LinkAttrs.NumTxQueues = 1, 1
	if err := netlink.LinkAdd(&far); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"port", "far"} {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0); err != nil {
			t.Logf("IPv6 stays on: %v", err)
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	return &far
}

// testPins is a store of pins of the test alone. With system, there is a bpffs at the system's place.
func testPins(t *testing.T, system bool) pinStore {
	t.Helper()
	dir := t.TempDir()
	s := pinStore{system: filepath.Join(dir, "sys"), own: filepath.Join(dir, "run", "bpf"), lock: filepath.Join(dir, "run", "bpf.lock")}
	if err := os.Mkdir(s.system, 0o700); err != nil {
		t.Fatal(err)
	}
	if system {
		if err := unix.Mount("bpf", s.system, "bpf", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, root := range []string{s.system, s.own} {
			for unix.Unmount(root, unix.MNT_DETACH) == nil {
			}
		}
	})
	return s
}

// checkNoPins fails when the store has left anything behind.
func checkNoPins(t *testing.T, s pinStore) {
	t.Helper()
	if _, err := os.Stat(filepath.Dir(s.own)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there (%v)", filepath.Dir(s.own), err)
	}
	if _, err := os.Stat(filepath.Join(s.system, PinFolder)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s still has a folder of ours (%v)", s.system, err)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds)
}

// checkDescriptors fails the test if it ends with more descriptors than it begins with.
func checkDescriptors(t *testing.T) {
	t.Helper()
	// The first use of the library keeps descriptors of its own for ever (feature probes, kernel types).
	before := openDescriptors(t)
	t.Cleanup(func() {
		if after := openDescriptors(t); after > before {
			t.Errorf("%d descriptors before, %d after", before, after)
		}
	})
}
