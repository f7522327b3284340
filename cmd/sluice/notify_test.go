package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"sluice/perf/lab"
)

// notifySocket is what systemd listens on, in dir; it returns what has been said.
func notifySocket(t *testing.T, dir string) *output {
	t.Helper()
	path := filepath.Join(dir, "notify.sock")
	conn := must(net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"}))(t)
	t.Cleanup(func() { conn.Close() })
	said := &output{}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(said, "%s\n--\n", buf[:n])
		}
	}()
	t.Setenv("NOTIFY_SOCKET", path)
	return said
}

// systemd hears when it serves, reloads and stops, and that it lives; it shuts down in time although nothing feeds the
// watchdog then.
func TestNotify(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	said := notifySocket(t, b.dir)
	t.Setenv("WATCHDOG_USEC", "2000000")
	d := b.start()
	eventually(t, "it is ready", func() bool {
		return strings.Contains(said.String(), fmt.Sprintf("READY=1\nMAINPID=%d\nSTATUS=serving 6 virtual servers of %s\n", d.PID(), b.config))
	})
	eventually(t, "the watchdog is fed", func() bool { return strings.Count(said.String(), "WATCHDOG=1\n") >= 3 })
	ok(t, d.Signal(syscall.SIGHUP))
	eventually(t, "it reloads and is ready again", func() bool {
		_, after, found := strings.Cut(said.String(), "RELOADING=1\nMONOTONIC_USEC=")
		return found && strings.Contains(after, "READY=1\n") && strings.Contains(after, "STATUS=serving generation ")
	})
	b.write("ports: [")
	ok(t, d.Signal(syscall.SIGHUP))
	eventually(t, "it says that a reload has failed", func() bool { return strings.Contains(said.String(), "STATUS=serving; the last reload failed") })
	if log := d.log.String(); strings.Count(log, "reload failed") != 1 || !strings.Contains(log, "sequence end token") {
		t.Errorf("the log does not say why:\n%s", log)
	}
	d.stop()
	if !strings.Contains(said.String(), "STOPPING=1\n") {
		t.Errorf("it did not say that it stops:\n%s", said)
	}
	b.write(b.configText(settings{}))
}

// The watchdog is fed as long as workers make steps, not longer, and again if they go on.
func TestWatchdog(t *testing.T) {
	said := notifySocket(t, t.TempDir())
	t.Setenv("WATCHDOG_USEC", "400000")
	var hangs atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	notifier{slog.New(slog.DiscardHandler)}.watchdog(ctx, func() time.Duration {
		if hangs.Load() {
			return time.Second
		}
		return 0
	})
	fed := func() int { return strings.Count(said.String(), "WATCHDOG=1") }
	eventually(t, "it is fed", func() bool { return fed() >= 2 })
	hangs.Store(true)
	time.Sleep(250 * time.Millisecond) // what was on its way
	before := fed()
	time.Sleep(500 * time.Millisecond)
	if n := fed(); n != before {
		t.Errorf("fed %d times while a worker hangs", n-before)
	}
	hangs.Store(false)
	eventually(t, "it is fed again", func() bool { return fed() > before })
}
