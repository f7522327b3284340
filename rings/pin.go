package rings

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The pinned link keeps the XDP program of a port attached when its process ends. A pin is the file
//
//	<bpffs>/sluice/<inode of the network namespace>-<ifindex>/link
//
// It is all that a successor needs: an update of the link swaps program, maps and rules in one step, so maps of
// another layout are no special case. The inode is in the path because a bpffs is shared between network
// namespaces, which each count their interfaces from 1.

// pinStore knows where pins are. It has no state: everything is read from the file system, under a lock file.
type pinStore struct {
	system string // used when a bpffs is mounted there
	own    string // else a bpffs is mounted here, and unmounted with its last pin
	lock   string
}

// OwnBPFFS is where a bpf file system of our own is, if there is none at the system's place or it is closed to us.
const OwnBPFFS = "/run/sluice/bpf"

var systemPins = pinStore{system: "/sys/fs/bpf", own: OwnBPFFS, lock: OwnBPFFS + ".lock"}

// PinFolder is the folder in a bpf file system that has a folder for each pin.
const PinFolder = "sluice"

const pinLink = "link"

// Pinned is one pin, possibly of another network namespace or of an interface that is gone.
type Pinned struct {
	Path       string // the folder of the pin
	NetnsInode uint64
	Ifindex    int
	Interface  string // its name, if it is in the network namespace of the caller
	Alive      bool   // the program is still attached
}

// ListPinned returns the pins of all network namespaces that this mount namespace can see.
func ListPinned() ([]Pinned, error) { return systemPins.list() }

// PinsHidden reports whether there may be pins that ListPinned leaves out, because they are another user's.
func PinsHidden() bool {
	if os.Geteuid() == 0 {
		return false
	}
	for _, root := range systemPins.mounted() {
		folders, err := os.ReadDir(filepath.Join(root, PinFolder))
		if errors.Is(err, unix.EACCES) {
			return true
		}
		for _, f := range folders {
			// BPF_OBJ_GET wants to read and write.
			if err := unix.Access(filepath.Join(root, PinFolder, f.Name(), pinLink), unix.R_OK|unix.W_OK); errors.Is(err, unix.EACCES) {
				return true
			}
		}
	}
	return false
}

// CanPin is nil if this process can pin programs in a bpf file system that is there already.
func CanPin() error {
	s := systemPins
	if s.usable(s.system) || s.usable(s.own) {
		return nil
	}
	return fmt.Errorf("no bpf file system at %s or %s that this user may write to", s.system, s.own)
}

// Release detaches the pinned program, whether an engine runs or not, and removes the pin, also a dead one.
func Release(p Pinned) error { return systemPins.release(p) }

func (s pinStore) list() ([]Pinned, error) {
	var all []Pinned
	inode, err := netnsInode()
	if err != nil {
		return nil, err
	}
	for _, root := range s.mounted() {
		folders, err := os.ReadDir(filepath.Join(root, PinFolder))
		if errors.Is(err, unix.EACCES) {
			continue // another user's
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list pinned XDP programs: %w%s", err, privilegeHint(err))
		}
		for _, f := range folders {
			p := Pinned{Path: filepath.Join(root, PinFolder, f.Name())}
			if !p.parse() {
				continue
			}
			l, err := loadLink(p.Path)
			if errors.Is(err, unix.EACCES) {
				continue // another user's
			}
			if err != nil {
				return nil, fmt.Errorf("list pinned XDP programs: %w%s", err, privilegeHint(err))
			}
			if l != nil {
				p.Alive = linkIfindex(l) != 0
				l.Close()
			}
			if p.Alive && p.NetnsInode == inode {
				if i, err := net.InterfaceByIndex(p.Ifindex); err == nil {
					p.Interface = i.Name
				}
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// UnmountOwn takes away the bpf file system that was mounted for pins, unless there are any. It reports whether it did.
func UnmountOwn() (bool, error) { return systemPins.unmountOwn() }

// parse reads namespace and interface from the path; it is false for what is no pin.
func (p *Pinned) parse() bool {
	name := filepath.Base(p.Path)
	_, err := fmt.Sscanf(name, "%d-%d", &p.NetnsInode, &p.Ifindex)
	return err == nil && name == pinName(p.NetnsInode, p.Ifindex)
}

func (s pinStore) release(p Pinned) error {
	owned := false
	for _, root := range []string{s.system, s.own} {
		owned = owned || filepath.Dir(p.Path) == filepath.Join(root, PinFolder)
	}
	if !owned || !p.parse() {
		return fmt.Errorf("release %q: not a pinned XDP program of sluice", p.Path)
	}
	unlock, err := s.acquire()
	if err != nil {
		return fmt.Errorf("release %s: %w%s", p.Path, err, privilegeHint(err))
	}
	defer unlock()
	l, err := loadLink(p.Path)
	if err != nil {
		return fmt.Errorf("release %s: %w%s", p.Path, err, privilegeHint(err))
	}
	if l != nil {
		defer l.Close()
		if err := l.Detach(); err != nil {
			return fmt.Errorf("release %s: detach: %w%s", p.Path, err, privilegeHint(err))
		}
	}
	return s.remove(p.Path)
}

// find returns the pinned link of an interface and its folder, or nil. A bpffs may have been mounted at the
// system's place after a start that found none, so both are searched.
func (s pinStore) find(inode uint64, ifindex int) (link.Link, string, error) {
	for _, root := range s.mounted() {
		folder := filepath.Join(root, PinFolder, pinName(inode, ifindex))
		l, err := loadLink(folder)
		if errors.Is(err, unix.EACCES) {
			continue // another user's: if it is attached to our interface, attaching says so
		}
		if l != nil || err != nil {
			return l, folder, err
		}
	}
	return nil, "", nil
}

// pin pins l and returns the folder. The lock is held.
func (s pinStore) pin(l link.Link, inode uint64, ifindex int) (string, error) {
	root, err := s.ensure()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(root, PinFolder, pinName(inode, ifindex))
	err = os.MkdirAll(folder, 0o700)
	if err == nil {
		err = l.Pin(filepath.Join(folder, pinLink))
	}
	if err != nil {
		return "", errors.Join(err, s.remove(folder))
	}
	return folder, nil
}

// remove removes a pin and what became empty by it, up to our own mount. The lock is held.
func (s pinStore) remove(folder string) error {
	for _, path := range []string{filepath.Join(folder, pinLink), folder} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove pin: %w", err)
		}
	}
	// What is not empty or busy is used by others and stays.
	parent := filepath.Dir(folder)
	err := os.Remove(parent)
	if (err == nil || errors.Is(err, fs.ErrNotExist)) && filepath.Dir(parent) == s.own {
		if unix.Unmount(s.own, 0) == nil {
			os.Remove(s.own)
		}
	}
	return nil
}

// mounted are the places where a bpffs is.
func (s pinStore) mounted() []string {
	var roots []string
	for _, root := range []string{s.system, s.own} {
		if isBPFFS(root) {
			roots = append(roots, root)
		}
	}
	return roots
}

// ensure returns a bpffs in which pins can be made, mounting one if there is none.
func (s pinStore) ensure() (string, error) {
	if s.usable(s.system) {
		return s.system, nil
	}
	if isBPFFS(s.own) {
		return s.own, nil
	}
	if err := os.MkdirAll(s.own, 0o700); err != nil {
		return "", err
	}
	if err := unix.Mount("bpf", s.own, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		os.Remove(s.own)
		return "", fmt.Errorf("mount a bpf file system on %s: %w", s.own, err)
	}
	return s.own, nil
}

// usable reports whether there is a bpffs at root in which this process can make pins. Its folder for them is made.
func (s pinStore) usable(root string) bool {
	folder := filepath.Join(root, PinFolder)
	if !isBPFFS(root) || os.MkdirAll(folder, 0o700) != nil {
		return false
	}
	giveToOwner(folder)
	return unix.Access(folder, unix.R_OK|unix.W_OK|unix.X_OK) == nil
}

// giveToOwner has what root makes for all belong to the user that owns the folder it is in (`sluice prepare`), if there is one.
func giveToOwner(path string) {
	var above, here unix.Stat_t
	if os.Geteuid() == 0 && unix.Lstat(filepath.Dir(path), &above) == nil && unix.Lstat(path, &here) == nil && above.Uid != here.Uid {
		_ = unix.Lchown(path, int(above.Uid), int(above.Gid)) // at worst that user's programs are not pinned, which is said
	}
}

// unmountOwn takes the bpffs of our own away, if nothing is pinned in it: `sluice prepare` has mounted it.
func (s pinStore) unmountOwn() (bool, error) {
	if !isBPFFS(s.own) {
		return false, nil
	}
	unlock, err := s.acquire()
	if err != nil {
		return false, err
	}
	defer unlock()
	// The kernel may have put files of its own there (kernel/bpf/inode.c, populate_bpffs).
	if err := os.Remove(filepath.Join(s.own, PinFolder)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, nil // there are pins
	}
	if err := unix.Unmount(s.own, unix.UMOUNT_NOFOLLOW); err != nil {
		return false, fmt.Errorf("unmount %s: %w", s.own, err)
	}
	return true, os.Remove(s.own)
}

// acquire takes the lock that keeps engines and releases, in whatever network namespace, from disturbing each
// other's mounts and pins. The lock file is removed with the last mount, so it may be another file by the time
// the lock is had: then it is taken anew.
func (s pinStore) acquire() (release func(), err error) {
	for {
		if err := os.MkdirAll(filepath.Dir(s.lock), 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(s.lock, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the folder was removed in between
		}
		if err != nil {
			return nil, err
		}
		giveToOwner(s.lock)
		for err = unix.EINTR; err == unix.EINTR; {
			err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", s.lock, err)
		}
		held, err1 := f.Stat()
		there, err2 := os.Stat(s.lock)
		if err1 != nil || err2 != nil || !os.SameFile(held, there) {
			f.Close()
			continue
		}
		return func() {
			if !s.used() {
				os.Remove(s.lock)
				os.Remove(filepath.Dir(s.lock)) // stays when others have files in it
			}
			f.Close()
		}, nil
	}
}

// used reports whether there is any pin.
func (s pinStore) used() bool {
	for _, root := range s.mounted() {
		if _, err := os.Stat(filepath.Join(root, PinFolder)); err == nil {
			return true
		}
	}
	return false
}

func pinName(inode uint64, ifindex int) string { return fmt.Sprintf("%d-%d", inode, ifindex) }

// loadLink opens the link of a pin; it is nil when there is none.
func loadLink(folder string) (link.Link, error) {
	l, err := link.LoadPinnedLink(filepath.Join(folder, pinLink), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return l, err
}

// linkIfindex is the interface that the link is attached to, 0 when that is gone.
func linkIfindex(l link.Link) int {
	info, err := l.Info()
	if err != nil || info.XDP() == nil {
		return 0
	}
	return int(info.XDP().Ifindex)
}

func isBPFFS(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && uint32(st.Type) == unix.BPF_FS_MAGIC
}

// netnsInode identifies the network namespace of the calling thread among those that live.
func netnsInode() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("identify the network namespace: %w", err)
	}
	return st.Ino, nil
}

// privateMounts reports whether a mount made by this process is hidden from the rest of the system.
func privateMounts() bool {
	own, err1 := os.Readlink("/proc/self/ns/mnt")
	first, err2 := os.Readlink("/proc/1/ns/mnt")
	return err1 == nil && err2 == nil && own != first
}

func privilegeHint(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return " (needs CAP_NET_ADMIN, CAP_BPF and write access to the bpf file system: run as root, or after sluice prepare by the unit in deploy/systemd)"
	}
	return ""
}
