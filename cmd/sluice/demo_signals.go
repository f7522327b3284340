package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

// The demo makes a network that only it takes down, as the scenarios of perf with a lab do, so it ends in order on everything that asks it to end. What main heeds are
// interruptions (SIGINT, SIGTERM), from before the first output on. A SIGINT that comes earlier ends the program at once, when there is
// nothing yet; but where whoever starts it ignores SIGINT, as shells do for what scripts run in the background, the kernel has dropped it.

// heedMore has a closed terminal interrupt as well, unless it is ignored (nohup), and lets a reader of the output go away, which would
// else end the program where it is.
func heedMore(ctx context.Context) (context.Context, context.CancelFunc) {
	gone := make(chan os.Signal, 1)
	signal.Notify(gone, syscall.SIGPIPE)
	if signal.Ignored(syscall.SIGHUP) {
		return context.WithCancel(ctx)
	}
	return signal.NotifyContext(ctx, syscall.SIGHUP)
}

// hurried has another interruption kill sluice, which has some seconds to end in order, until over is called.
func (d *demo) hurried() (over func()) {
	again, done := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-again:
			_ = d.sluice.Signal(syscall.SIGKILL)
		case <-done:
		}
	}()
	return func() {
		signal.Stop(again)
		close(done)
	}
}

// early reports whether sluice was asked to end before it could listen for that, and so before it had made anything.
func (d *demo) early(err error) bool {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || d.log.Len() > 0 {
		return false
	}
	status, ok := exit.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGTERM
}
