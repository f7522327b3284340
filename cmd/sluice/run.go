package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/urfave/cli/v2"

	"sluice/ctl"
)

// configFlag is required, but by loadConfig: the library's own refusal is not a usage error.
func configFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "configuration `FILE`"}
}

func runCommand() *cli.Command {
	return &cli.Command{
		Name: "run", Usage: "serve until interrupted",
		UsageText: "sluice run -c FILE [--takeover]",
		Description: "With --takeover it goes on in the place of the sluice that runs in this network namespace: connections, packets on their way and " +
			"counters go along, and not a packet is lost. Ports, queues, workers and memory must stay as they are; the rest of the file may differ. " +
			"If it cannot take over, the running one carries on. It needs Linux 6.4.",
		Flags: []cli.Flag{configFlag(),
			&cli.BoolFlag{Name: "takeover", Usage: "go on in the place of the running sluice"}},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("run takes no arguments, not %q; the file is given by -c", c.Args().First())
			}
			tuneRuntime()
			f, err := loadConfig(c)
			if err != nil {
				return err
			}
			log := newLogger(f, os.Stderr)
			start := ctl.Start
			if c.Bool("takeover") {
				start = ctl.Takeover
			}
			s, err := start(c.Context, f, log)
			if err != nil {
				return err
			}
			n := notifier{log}
			stop := reloadOnHangup(s, n)
			defer stop()
			log.Info("serving", "file", f.Name, "version", ctl.Version, "virtual_servers", len(f.VirtualServers))
			n.ready(readyStatus(f))
			n.watchdog(c.Context, s.SinceAlive)
			defer context.AfterFunc(c.Context, n.stopping)()
			return s.Run(c.Context)
		},
	}
}

// readyStatus is what systemctl status shows.
func readyStatus(f *ctl.File) string {
	return fmt.Sprintf("serving %d virtual servers of %s", len(f.VirtualServers), f.Name)
}

// reloadOnHangup has SIGHUP reload the file, until stop is called.
func reloadOnHangup(s *ctl.Server, n notifier) (stop func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for {
			select {
			case <-hangup:
				n.reloading()
				status := "serving; the last reload failed, see the log"
				if v, err := s.Reload(ctx); err == nil { // it logs its outcome
					status = fmt.Sprintf("serving generation %d of %s", v.Generation, v.File)
				}
				n.ready(status)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		cancel()
	}
}

// loadConfig reads the file and prints its warnings.
func loadConfig(c *cli.Context) (*ctl.File, error) {
	if c.String("config") == "" {
		return nil, usagef("%s needs a configuration: -c FILE", c.Command.Name)
	}
	f, err := ctl.Load(c.String("config"))
	if err != nil {
		return nil, err
	}
	for _, w := range f.Warnings() {
		fmt.Fprintln(os.Stderr, "sluice: warning:", w)
	}
	return f, nil
}

func newLogger(f *ctl.File, w io.Writer) *slog.Logger {
	opt := &slog.HandlerOptions{Level: map[ctl.LogLevel]slog.Level{
		ctl.LogDebug: slog.LevelDebug, ctl.LogInfo: slog.LevelInfo, ctl.LogWarn: slog.LevelWarn, ctl.LogError: slog.LevelError,
	}[f.Log.Level]}
	if f.Log.Format == ctl.LogJSON {
		return slog.New(ctl.LimitLog(slog.NewJSONHandler(w, opt)))
	}
	return slog.New(ctl.LimitLog(slog.NewTextHandler(w, opt)))
}

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "check a configuration and say what it would take",
		UsageText: "sluice check -c FILE [--offline]",
		Flags: []cli.Flag{configFlag(),
			&cli.BoolFlag{Name: "offline", Usage: "look at the file only, not at this host's interfaces and routes"}},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usagef("check takes no arguments, not %q; the file is given by -c", c.Args().First())
			}
			f, err := loadConfig(c)
			if err != nil {
				return err
			}
			r, err := f.Check(c.Bool("offline"))
			if err != nil {
				return err
			}
			w := c.App.Writer
			members := 0
			for i := range f.Pools {
				members += len(f.Pools[i].Members)
			}
			fmt.Fprintf(w, "%s is good: %s, %s, %s with %s\n", f.Name, count(len(f.Ports), "port"), count(len(f.VirtualServers), "virtual server"), count(len(f.Pools), "pool"), count(members, "member"))
			for _, line := range r {
				fmt.Fprintln(w, " ", line)
			}
			return nil
		},
	}
}
