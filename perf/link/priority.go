package link

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// raise gives a thread the core of the carrier under test, and the priority.
func (s setup) raise(tid int) error {
	if !s.shared {
		if err := unix.Setpriority(unix.PRIO_PROCESS, tid, workerNice); err != nil {
			return fmt.Errorf("set the priority of thread %d: %w", tid, err)
		}
	}
	var set unix.CPUSet
	set.Set(s.core)
	if err := unix.SchedSetaffinity(tid, &set); err != nil {
		return fmt.Errorf("pin thread %d to core %d: %w", tid, s.core, err)
	}
	return nil
}

// sessionFile holds the priority of the session as a whole. Where the kernel groups tasks by session (sched(7), "The
// autogroup feature") a thread's own priority counts only within its session.
const sessionFile = "/proc/self/autogroup"

// raiseSession puts this session, with the children that are measured, before others until the result is called.
func raiseSession() (restore func() error) {
	nothing := func() error { return nil }
	b, err := os.ReadFile(sessionFile)
	if err != nil {
		return nothing // a kernel without it
	}
	_, old, found := strings.Cut(strings.TrimSpace(string(b)), " nice ")
	if !found {
		return nothing
	}
	if os.WriteFile(sessionFile, fmt.Append(nil, workerNice), 0) != nil {
		return nothing
	}
	return func() error { return os.WriteFile(sessionFile, []byte(old), 0) }
}
