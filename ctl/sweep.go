package ctl

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// sweepDead removes what killed engines have noted and kept for network namespaces that are gone: nobody can adopt it, and
// a connection table holds memory. It returns what it removed, a line each.
func sweepDead() (done []string) {
	if effectiveCapabilities()&(1<<unix.CAP_SYS_PTRACE) == 0 {
		return nil // other users' processes hide their namespaces, which would pass for dead
	}
	alive := liveNamespaces()
	notes, _ := filepath.Glob(filepath.Join(StateDir, "net-*.json"))
	for _, note := range notes {
		base := strings.TrimSuffix(note, ".json")
		if alive[strings.TrimPrefix(filepath.Base(base), "net-")] {
			continue
		}
		lock, err := os.OpenFile(base+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err != nil {
			continue
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			if removeTables(base+".tables") == nil && os.Remove(note) == nil {
				done = append(done, fmt.Sprintf("removed the notes of namespace %s, which is gone", strings.TrimPrefix(filepath.Base(base), "net-")))
			}
			_ = os.Remove(takeoverPath(base))
			_ = os.Remove(ordersPath(base))
			_ = os.Remove(persistencePath(base))
			_ = os.Remove(lock.Name())
		}
		lock.Close()
	}
	for _, ending := range []string{".orders", ".persistence"} { // these outlive an orderly end
		left, _ := filepath.Glob(filepath.Join(StateDir, "net-*"+ending))
		for _, path := range left {
			if !alive[strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "net-"), ending)] {
				_ = os.Remove(path)
			}
		}
	}
	return done
}

// liveNamespaces are the inodes of the network namespaces that a process or a mount holds, as far as we can see. One that is
// only held by a descriptor is taken for gone; its engine is dead all the same, or it would hold its lock.
func liveNamespaces() map[string]bool {
	out := map[string]bool{}
	add := func(s string) {
		if _, rest, ok := strings.Cut(s, "net:["); ok {
			if inode, _, ok := strings.Cut(rest, "]"); ok {
				out[inode] = true
			}
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, p := range processes {
		if l, err := os.Readlink(p); err == nil {
			add(l)
		}
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		add(line)
	}
	return out
}
