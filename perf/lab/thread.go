package lab

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// thread is one operating-system thread that runs closures, one after the other, until it ends. The goroutine on it
// never unlocks, so when it returns the runtime ends the thread instead of reusing it in the wrong namespace.
type thread struct {
	tid   int
	calls chan call
	quit  chan struct{} // closed by end
	gone  chan struct{} // closed by the goroutine when it takes no more calls
}

type call struct {
	fn   func() error
	done chan error
}

// startThread runs setup on a new thread and, if that succeeds, keeps the thread for run.
func startThread(setup func() error) (*thread, error) {
	t := &thread{calls: make(chan call), quit: make(chan struct{}), gone: make(chan struct{})}
	ready := make(chan error, 1)
	goLocked(func() {
		defer close(t.gone)
		t.tid = unix.Gettid()
		err := setup()
		ready <- err
		if err != nil {
			return
		}
		for {
			select {
			case c := <-t.calls:
				c.done <- c.fn()
			case <-t.quit:
				return
			}
		}
	})
	if err := <-ready; err != nil {
		return nil, err
	}
	return t, nil
}

// run executes fn on the thread and returns its error. fn must be short: the thread does one thing at a time.
func (t *thread) run(fn func() error) error {
	c := call{fn, make(chan error, 1)}
	select {
	case t.calls <- c:
		return <-c.done
	case <-t.gone:
		return ErrClosed
	}
}

// end stops the thread and waits, for a bounded time, until the kernel has let go of it: only then does it no longer
// hold its namespace. It may be called once.
func (t *thread) end() error {
	close(t.quit)
	<-t.gone
	for range 500 {
		if _, err := os.Stat(fmt.Sprintf("/proc/self/task/%d", t.tid)); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(2 * time.Millisecond)
	}
	return fmt.Errorf("thread %d did not end", t.tid)
}

// goLocked runs fn in a new goroutine that is locked to a thread other than the main one. The main thread is left
// alone because the runtime cannot end it, and because /proc/self/net shows the namespace of that very thread.
func goLocked(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			fn()
			return
		}
		// This goroutine occupies the main thread until the next one has found another.
		locked := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(locked)
			fn()
		}()
		<-locked
		runtime.UnlockOSThread()
	}()
}

var errGoexit = errors.New("the function left its goroutine (a failing test helper must run in the goroutine of the test)")

// inNamespace runs fn on a thread inside the namespace ns. The thread goes back to work only if it could be restored;
// otherwise, and if fn ends its goroutine, it dies.
func inNamespace(ns *os.File, fn func() error) error {
	done := make(chan error, 1)
	goLocked(func() {
		err := errGoexit
		defer func() { done <- err }()
		err = func() error {
			home, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				return fmt.Errorf("open own namespace: %w", err)
			}
			defer home.Close()
			if err := setns(ns); err != nil {
				return err
			}
			err = errGoexit
			defer func() {
				if !errors.Is(err, errGoexit) && setns(home) == nil {
					runtime.UnlockOSThread()
				}
			}()
			err = fn()
			return err
		}()
	})
	return <-done
}

// setns moves the calling thread into a network namespace.
func setns(ns *os.File) error {
	raw, err := ns.SyscallConn()
	if err != nil {
		return fmt.Errorf("enter namespace: %w", ErrClosed)
	}
	// Control runs in this goroutine, on this thread, and keeps the descriptor from being closed and reused meanwhile.
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Setns(int(fd), unix.CLONE_NEWNET) }); err != nil {
		return fmt.Errorf("enter namespace: %w", ErrClosed)
	}
	if serr != nil {
		return fmt.Errorf("enter namespace: %w", serr)
	}
	return nil
}
