package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
)

//go:embed demo.yaml
var demoConfig []byte

//go:embed demo.pcapng
var demoCapture []byte

const picture = `
  client                 sluice                                        servers
  172.16.10.55  ──▶  10.10.1.100:80   ──▶  tables, rewrite  ──▶  192.168.20.1-4:80
                ◀──  port outside          over AF_XDP      ◀──  port inside
`

func demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "show the main job: real traffic over AF_XDP in network namespaces, or a capture without root",
		UsageText: "sluice demo [--keep]",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "keep", Usage: "leave everything up until interrupted, to try commands on it"},
			&cli.IntFlag{Name: "requests", Usage: "HTTP requests and UDP queries over each address family: `N`", Value: 400},
		},
		Action: func(c *cli.Context) error {
			if n := c.Int("requests"); n < 4 || n > 20_000 {
				return usagef("--requests takes a number from 4 to 20000")
			}
			if why := cannotRunLive(); why != "" {
				return replayDemo(c.Context, c.App.Writer, why)
			}
			return liveDemo(c.Context, c.App.Writer, c.Int("requests"), c.Bool("keep"))
		},
	}
}

// cannotRunLive says why real traffic is out of reach, or nothing.
func cannotRunLive() string {
	if os.Geteuid() != 0 {
		return "making network namespaces and opening AF_XDP sockets needs root"
	}
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Sprintf("this kernel or container gives no AF_XDP sockets (%v)", err)
	}
	unix.Close(fd)
	return ""
}

// replayDemo runs the same configuration on a capture.
func replayDemo(ctx context.Context, w io.Writer, why string) error {
	fmt.Fprint(w, picture)
	fmt.Fprintf(w, "\nNot shown: real traffic through AF_XDP, because %s.\n", why)
	fmt.Fprint(w, "Shown instead: the same engine and configuration on a capture of such traffic (sluice replay).\n\n")
	f, err := ctl.Parse("demo.yaml", demoConfig)
	if err != nil {
		return err
	}
	report, err := ctl.Replay(ctx, f, bytes.NewReader(demoCapture), nil, ctl.ReplayOptions{Connections: 1})
	if err != nil {
		return err
	}
	if err := printReplay(w, report); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nFor the live demo: sudo make demo")
	return nil
}

// liveDemo builds the network, runs sluice in it as its own process, sends traffic, and takes everything down again,
// also when it is interrupted.
func liveDemo(ctx context.Context, w io.Writer, requests int, keep bool) (err error) {
	ctx, stop := heedMore(ctx)
	defer stop()
	fmt.Fprint(w, picture, "\n") // whoever has seen something of it may interrupt it
	began := time.Now()
	// The lab must outlive an interruption, so that sluice can end in order before its network goes.
	net, err := lab.NewTwoArm(context.WithoutCancel(ctx), lab.TwoArmOptions{Queues: 2})
	if err != nil {
		return err
	}
	d := &demo{w: w, net: net, requests: requests}
	defer func() {
		if ctx.Err() != nil {
			fmt.Fprintln(w, "\ninterrupted, taking everything down; once more, and sluice is killed for it")
		}
		err = errors.Join(err, d.down())
		if ctx.Err() != nil {
			err = errors.Join(errors.New("interrupted; everything was taken down"), err)
		}
	}()
	for _, step := range []func(context.Context) error{d.servers, d.engine, d.traffic, d.show} {
		if err := step(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	fmt.Fprintf(w, "\ndone in %.1f s\n", time.Since(began).Seconds())
	if keep {
		d.invite()
		<-ctx.Done()
	}
	return nil
}

// demo is the running demonstration.
type demo struct {
	w        io.Writer
	net      *lab.TwoArm
	requests int
	dir      string
	sluice   *lab.Process
	log      bytes.Buffer
	socket   string
	udpPort  atomic.Uint32
}

func (d *demo) servers(context.Context) error {
	for i, h := range d.net.Servers {
		id := fmt.Sprintf("server %d", i+1)
		for _, a := range []string{d.net.ServerAddr4[i].String(), "[" + d.net.ServerAddr6[i].String() + "]"} {
			if _, err := lab.HTTPServer(h, a+":80", id); err != nil {
				return err
			}
			if _, err := lab.UDPEcho(h, a+":53", id); err != nil {
				return err
			}
		}
	}
	return nil
}

// engine starts this same binary as `sluice run` in the balancer's namespace and waits until it serves.
func (d *demo) engine(ctx context.Context) error {
	var err error
	if d.dir, err = os.MkdirTemp("", "sluice-demo-"); err != nil {
		return err
	}
	d.socket = filepath.Join(d.dir, "sluice.sock")
	config := bytes.Replace(demoConfig, []byte("/run/sluice/demo.sock"), []byte(d.socket), 1)
	path := filepath.Join(d.dir, "demo.yaml")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, "run", "-c", path)
	cmd.Stderr = &d.log
	if d.sluice, err = d.net.Balancer.Start(cmd); err != nil {
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		var s ctl.StatusView
		if ctl.Get(ctx, d.socket, "/v1/status", &s) == nil {
			break
		}
		select {
		case <-d.sluice.Done():
			return fmt.Errorf("sluice run ended: %s", bytes.TrimSpace(d.log.Bytes()))
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("sluice run does not answer: %s", bytes.TrimSpace(d.log.Bytes()))
		}
	}
	ports := []ctl.PortView{}
	if err := ctl.Get(ctx, d.socket, "/v1/ports", &ports); err != nil {
		return err
	}
	for _, p := range ports {
		fmt.Fprintf(d.w, "port %-8s %-11s %d queues, driver %s, AF_XDP in %s mode\n", p.Name, p.Interface, p.Queues, p.Driver, p.Mode)
	}
	return nil
}

// down stops sluice in order, or sweeps after it if it does not, and takes the network away.
func (d *demo) down() error {
	var errs []error
	if d.sluice != nil {
		defer d.hurried()()
		if err := d.sluice.Stop(8 * time.Second); err != nil && !d.early(err) {
			errs = append(errs, fmt.Errorf("sluice run: %w: %s", err, bytes.TrimSpace(d.log.Bytes())))
			errs = append(errs, d.net.Balancer.Do(func() error {
				_, err := ctl.ReleasePorts("")
				return err
			}))
		}
	}
	id := d.net.Lab.ID()
	errs = append(errs, d.net.Lab.Close())
	if d.dir != "" {
		errs = append(errs, os.RemoveAll(d.dir))
	}
	if left := lab.Leftovers(id); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left behind: %v", left))
	}
	return errors.Join(errs...)
}

func (d *demo) invite() {
	fmt.Fprintf(d.w, `
Everything stays up until Ctrl-C (kill %[4]d). In another terminal:

  %[1]s conn list --socket %[2]s
  %[1]s member list --socket %[2]s -o wide
  %[1]s drop --socket %[2]s
  ip netns exec %[3]s curl http://10.10.1.100/
`, os.Args[0], d.socket, d.net.Client.Namespace(), os.Getpid())
}

// cpuNote says what the figures of this machine mean.
func cpuNote() string {
	return fmt.Sprintf("client, balancer and servers share %d cores", runtime.NumCPU())
}
