package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// systemd is told what the service does (sd_notify(3)). Without NOTIFY_SOCKET, and so outside of a unit, nothing is sent.
//
//	start ─▶ READY ─▶ WATCHDOG … ─▶ RELOADING ─▶ READY … ─▶ STOPPING

type notifier struct{ log *slog.Logger }

func (n notifier) tell(state string) {
	if _, err := sdnotify.SdNotify(false, state); err != nil {
		n.log.Warn("systemd was not told", "state", state, "error", err)
	}
}

// ready names the process too: after a takeover it is not the one that systemd started.
func (n notifier) ready(status string) {
	n.tell(fmt.Sprintf("%s\nMAINPID=%d\nSTATUS=%s", sdnotify.SdNotifyReady, os.Getpid(), status))
}

func (n notifier) stopping() { n.tell(sdnotify.SdNotifyStopping + "\nSTATUS=stopping") }

// reloading gives the time by which systemd tells this reload from an earlier one (Type=notify-reload).
func (n notifier) reloading() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	n.tell(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", sdnotify.SdNotifyReloading, now.Nano()/1000))
}

// watchdog feeds systemd's watchdog, where the unit has one, as long as all workers make steps: a worker that hangs lets the
// service be restarted. It ends with ctx.
func (n notifier) watchdog(ctx context.Context, sinceAlive func() time.Duration) {
	limit, err := sdnotify.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("systemd's watchdog is not fed", "error", err)
	}
	if err != nil || limit == 0 {
		return
	}
	go func() {
		ticker := time.NewTicker(limit / 4)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if sinceAlive() < limit/2 {
					n.tell(sdnotify.SdNotifyWatchdog)
				}
			}
		}
	}()
}
