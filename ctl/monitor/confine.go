package monitor

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// onConfinedThread runs fn on a new thread that has no capabilities and that ends with fn. What fn starts inherits
// this: capabilities and no_new_privs belong to a thread (capabilities(7), prctl(2)), and a child is forked from the
// thread that asks for it. The rest of the process keeps what it has. err is about the thread, before fn.
func onConfinedThread(fn func()) (err error) {
	done := make(chan struct{})
	body := func() {
		defer close(done)
		if err = confine(); err == nil {
			fn()
		}
	}
	go func() {
		// Never unlocked, so the runtime ends the thread with its goroutine. It cannot end the main one, and that shows
		// the capabilities of the process in /proc; so if we are on it, another goroutine finds another thread.
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			body()
			return
		}
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			body()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
	<-done
	return err
}

// confine takes all capabilities from the calling thread and from what it will execute.
func confine() error {
	// The bounding set can only be dropped with CAP_SETPCAP. Without it the rest still holds: no_new_privs keeps
	// execve(2) from giving what the thread does not have, neither for set-user-ID, nor for file capabilities, nor for
	// root (security/commoncap.c, cap_bprm_creds_from_file).
	for c := uintptr(0); ; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			break // no such capability, or no permission
		}
		if err != nil {
			return fmt.Errorf("drop capability %d from the bounding set: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	var none [2]unix.CapUserData // 64 capabilities are two elements
	if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0]); err != nil {
		return fmt.Errorf("drop the capabilities: %w", err)
	}
	return nil
}
