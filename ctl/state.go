package ctl

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// StateDir holds, per network namespace, the lock of its one engine and a note of what it has put into the kernel,
// so that a successor or `sluice port release` finds what a killed engine left.
const StateDir = "/run/sluice"

// kernelState is what an engine has put into the kernel. It is written before the kernel is changed.
type kernelState struct {
	Addresses  []placedAddress
	Neighbours []placedNeighbour
	HostPort   bool
	Steering   []placedSteering
	path       string
	inherited  bool // an earlier engine was killed, and what it left is described here
	lock       *os.File
	nics       *nics // nil: the kernel's
}

// placedAddress names its interface by index and MAC, because the inode of a namespace that is gone, and so the name
// of this note, may be given to another.
type placedAddress struct {
	Index   int
	MAC     [6]byte
	Address netip.Addr
}

type placedNeighbour struct {
	Index   int
	Address netip.Addr
}

// lockPatience is how long a start waits for the namespace's lock.
const lockPatience = 300 * time.Millisecond

// ErrRunning is returned when another engine runs in the same network namespace.
var ErrRunning = errors.New("another sluice runs in this network namespace")

// lockState takes the namespace's lock and reads what was left.
func lockState() (*kernelState, error) {
	base, err := stateBase()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(StateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the state directory%s: %w", rootHint(err), err)
	}
	lock, err := os.OpenFile(base+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if errors.Is(err, os.ErrNotExist) { // the engine of another namespace ended and removed the folder meanwhile
		return lockState()
	}
	if err != nil {
		return nil, fmt.Errorf("open the lock%s: %w", rootHint(err), err)
	}
	// sweepDead holds a lock for a moment, perhaps that of a namespace whose inode ours has got.
	for deadline := time.Now().Add(lockPatience); unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			lock.Close()
			return nil, fmt.Errorf("%w; stop it first", ErrRunning)
		}
	}
	if !samePath(lock) { // its owner ended, and took the file away, between our open and our lock
		lock.Close()
		return lockState()
	}
	s := &kernelState{path: base + ".json", lock: lock}
	if b, err := os.ReadFile(s.path); err == nil {
		if err := json.Unmarshal(b, s); err != nil {
			*s = kernelState{path: s.path, lock: lock} // half written by a killed engine: nothing to be learned
		}
		s.inherited = true
	}
	return s, nil
}

// rootHint is advice for errors that root would not meet.
func rootHint(err error) string {
	if errors.Is(err, os.ErrPermission) && os.Geteuid() != 0 {
		return fmt.Sprintf(" (run as root, or have root give %s to this user: sluice prepare --user %d)", StateDir, os.Geteuid())
	}
	return ""
}

func samePath(f *os.File) bool {
	a, errA := f.Stat()
	b, errB := os.Stat(f.Name())
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func (s *kernelState) save() error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := s.path + ".new"
	if err := writeFresh(tmp, b); err != nil {
		_ = os.Remove(tmp)
		return fmt.Errorf("note what is changed in the kernel: %w", err)
	}
	return os.Rename(tmp, s.path)
}

// writeFresh writes a file that is made anew: root may write where another user owns the folder, and must not follow a link.
func writeFresh(path string, b []byte) error {
	_ = os.Remove(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}

// placeAddress puts a virtual address on an interface, unless it is there: /32 or /128, usable at once, without duplicate
// address detection. One that is there already is only ours if an earlier engine of ours noted it.
func (s *kernelState) placeAddress(p placedAddress) (added bool, err error) {
	a := p.Address
	l, err := netlink.LinkByIndex(p.Index)
	if err != nil {
		return false, fmt.Errorf("put %s on interface %d: %w", a, p.Index, err)
	}
	list, err := netlink.AddrList(l, familyNumber(a))
	if err != nil {
		return false, fmt.Errorf("list the addresses of %s: %w", l.Attrs().Name, err)
	}
	for _, have := range list {
		if ip, ok := netip.AddrFromSlice(have.IP); ok && ip.Unmap() == a {
			return false, nil
		}
	}
	if !slices.Contains(s.Addresses, p) {
		s.Addresses = append(s.Addresses, p)
		if err := s.save(); err != nil {
			return false, err
		}
	}
	if err := netlink.AddrAdd(l, hostAddress(a)); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, fmt.Errorf("put %s on %s: %w", a, l.Attrs().Name, err)
	}
	return true, nil
}

func hostAddress(a netip.Addr) *netlink.Addr {
	n := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}}
	if a.Is6() {
		n.Flags = unix.IFA_F_NODAD
	}
	return n
}

// keepAddresses takes off every noted address that is not in want.
func (s *kernelState) keepAddresses(want map[placedAddress]bool) error {
	var errs []error
	var kept []placedAddress
	for _, p := range s.Addresses {
		if want[p] {
			kept = append(kept, p)
			continue
		}
		if l, err := netlink.LinkByIndex(p.Index); err == nil && bytes.Equal(l.Attrs().HardwareAddr, p.MAC[:]) {
			if err := netlink.AddrDel(l, hostAddress(p.Address)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				errs = append(errs, fmt.Errorf("take %s off %s: %w", p.Address, l.Attrs().Name, err))
			}
		}
	}
	s.Addresses = kept
	return errors.Join(append(errs, s.save())...)
}

// keepNeighbours has the kernel resolve the next hops in want and keep them resolved, and gives all others that were noted
// back to its ordinary care.
func (s *kernelState) keepNeighbours(want map[placedNeighbour]bool) error {
	var errs []error
	var gone, fresh []placedNeighbour
	known := map[placedNeighbour]bool{}
	for _, n := range s.Neighbours {
		known[n] = true
		if !want[n] {
			gone = append(gone, n)
		}
	}
	for n := range want {
		if !known[n] {
			fresh = append(fresh, n)
		}
	}
	if len(gone)+len(fresh) == 0 {
		return nil
	}
	s.Neighbours = append(s.Neighbours, fresh...)
	if err := s.save(); err != nil {
		return err
	}
	for _, n := range fresh {
		errs = append(errs, manage(n.Index, n.Address))
	}
	for _, n := range gone {
		errs = append(errs, unmanage(n.Index, n.Address))
	}
	if len(gone) > 0 {
		s.Neighbours = slices.DeleteFunc(s.Neighbours, func(n placedNeighbour) bool { return !want[n] })
		errs = append(errs, s.save())
	}
	return errors.Join(errs...)
}

// release takes everything back out of the kernel and gives the lock up.
func (s *kernelState) release() error {
	_, err := s.restoreSteering("")
	errs := []error{err, s.keepAddresses(nil)}
	for _, n := range s.Neighbours {
		errs = append(errs, unmanage(n.Index, n.Address))
	}
	if s.HostPort {
		errs = append(errs, removeHostPort())
	}
	base := strings.TrimSuffix(s.path, ".json")
	_ = os.Remove(takeoverPath(base)) // of a killed engine
	errs = append(errs, os.Remove(s.path), removeTables(base+".tables"))
	s.unlock()
	return errors.Join(errs...)
}

// unlock gives the lock up. Its file goes first, while it is still ours.
func (s *kernelState) unlock() {
	_ = os.Remove(s.lock.Name())
	s.lock.Close()
	_ = os.Remove(StateDir) // only if empty
}
