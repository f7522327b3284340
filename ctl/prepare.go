package ctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sluice/rings"
)

// Prepare makes for a user what only root can, so that `sluice run` needs none of it:
//
//	/run/sluice                        of that user; what is in it has modes of its own
//	/run/sluice/bpf                    a bpf file system: the pins of XDP programs
//	/run/sluice/net-<inode>.tables     a tmpfs with huge pages: connection tables and frames of this network namespace
//
// What is there already stays, and what an engine that ran as root has left is given to the user, so that its connections are
// adopted. It returns what it did, a line each.
//
// The user may be hostile by then: it owns the folder in which root makes things. So nothing is followed by name: folders are
// opened without following links, and mounts are put on the opened folder, not on its path.
func Prepare(uid, gid int) (done []string, err error) {
	base, err := stateBase()
	if err != nil {
		return nil, err
	}
	state, made, err := ownFolder(unix.AT_FDCWD, StateDir, uid, gid, 0o755)
	if err != nil {
		return nil, hintPrepare(err)
	}
	defer unix.Close(state)
	say := func(did bool, format string, args ...any) {
		if did {
			done = append(done, fmt.Sprintf(format, args...))
		}
	}
	say(made, "made %s for user %d", StateDir, uid)
	for _, m := range []struct{ name, kind, what string }{
		{filepath.Base(rings.OwnBPFFS), "bpf", "a bpf file system"},
		{filepath.Base(base) + ".tables", "tmpfs", "a tmpfs with huge pages"},
	} {
		mounted, err := ownMount(state, m.name, m.kind, uid, gid)
		if err != nil {
			return done, hintPrepare(fmt.Errorf("mount %s on %s: %w", m.what, filepath.Join(StateDir, m.name), err))
		}
		say(mounted, "mounted %s on %s", m.what, filepath.Join(StateDir, m.name))
	}
	for _, name := range []string{filepath.Base(base) + ".json", filepath.Base(base) + ".orders", filepath.Base(base) + ".lock", filepath.Base(rings.OwnBPFFS) + ".lock"} {
		given, err := giveFile(state, name, uid, gid)
		if err != nil {
			return done, fmt.Errorf("give %s to user %d: %w", filepath.Join(StateDir, name), uid, err)
		}
		say(given, "gave %s to user %d", filepath.Join(StateDir, name), uid)
	}
	return done, nil
}

func hintPrepare(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w; run sluice prepare as root", err)
	}
	return err
}

// ownFolder makes a folder unless it is there, gives it to a user and returns it open.
func ownFolder(dir int, name string, uid, gid int, mode uint32) (fd int, made bool, err error) {
	err = unix.Mkdirat(dir, name, mode)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, false, fmt.Errorf("make %s: %w", name, err)
	}
	made = err == nil
	if fd, err = openFolder(dir, name); err != nil {
		return -1, false, err
	}
	if err := errors.Join(unix.Fchown(fd, uid, gid), unix.Fchmod(fd, mode)); err != nil {
		unix.Close(fd)
		return -1, false, fmt.Errorf("give %s to user %d: %w", name, uid, err)
	}
	return fd, made, nil
}

func openFolder(dir int, name string) (int, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s, which must be a folder: %w", name, err)
	}
	return fd, nil
}

// ownMount mounts a file system on a folder of state unless there is one, and gives it, with the files in it, to a user.
func ownMount(state int, name, kind string, uid, gid int) (mounted bool, err error) {
	if err := unix.Mkdirat(state, name, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return false, err
	}
	fd, err := openFolder(state, name)
	if err != nil {
		return false, err
	}
	defer func() { unix.Close(fd) }()
	var above, here unix.Stat_t
	if err := errors.Join(unix.Fstat(state, &above), unix.Fstat(fd, &here)); err != nil {
		return false, err
	}
	if mounted = above.Dev == here.Dev; mounted {
		mnt, err := newFileSystem(kind)
		if err != nil {
			return false, err
		}
		defer unix.Close(mnt)
		if err := unix.MoveMount(mnt, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
			return false, err
		}
		// What was opened is the folder beneath.
		unix.Close(fd)
		if fd, err = openFolder(state, name); err != nil {
			return false, err
		}
	}
	if err := errors.Join(unix.Fchown(fd, uid, gid), unix.Fchmod(fd, 0o700)); err != nil {
		return mounted, err
	}
	if kind != "tmpfs" {
		// It may be root's, of an engine that ran here before.
		pins, _, err := ownFolder(fd, rings.PinFolder, uid, gid, 0o700)
		if err == nil {
			unix.Close(pins)
		}
		return mounted, err
	}
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return mounted, err
	}
	list := os.NewFile(uintptr(dup), name)
	defer list.Close()
	names, err := list.Readdirnames(-1)
	errs := []error{err}
	for _, file := range names {
		_, err := giveFile(fd, file, uid, gid)
		errs = append(errs, err)
	}
	return mounted, errors.Join(errs...)
}

// newFileSystem makes a mount that is nowhere yet.
func newFileSystem(kind string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if kind == "tmpfs" {
		if err := errors.Join(unix.FsconfigSetString(fs, "source", "sluice"), unix.FsconfigSetString(fs, "size", "100%")); err != nil {
			return -1, err
		}
		_ = unix.FsconfigSetString(fs, "huge", "always") // not every kernel is built with it
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
}

// giveFile gives a file that root has made to a user. One with another name elsewhere is not touched: it may be anybody's.
func giveFile(dir int, name string, uid, gid int) (given bool, err error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || int(st.Uid) == uid || st.Uid != 0 {
		return false, nil
	}
	return true, unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH)
}

// preparedTmpfs is the tmpfs that was prepared for this network namespace, if there is one.
func preparedTmpfs() []string {
	base, err := stateBase()
	if err != nil || !isMount(base+".tables") {
		return nil
	}
	return []string{base + ".tables"}
}
