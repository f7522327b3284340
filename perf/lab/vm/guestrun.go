package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

const (
	configPath = "/tmp/sluice.yaml"
	// serveTime bounds a start, stopTime a stop, readyTime the wait for members' next hops and for a killed engine's data.
	serveTime = 3 * time.Minute
	stopTime  = time.Minute
	readyTime = 2 * time.Minute
)

// config is the file of a start.
func config(p Plan) string {
	var w strings.Builder
	fmt.Fprintf(&w, "engine: {connections: 16384, huge-pages: off, hold-time: 2m, frame-size: %d", p.FrameSize)
	if p.RingSize > 0 {
		fmt.Fprintf(&w, ", ring-size: %d", p.RingSize)
	}
	w.WriteString("}\nports:\n  - {name: outside, interface: outside}\n  - {name: inside, interface: inside}\npools:\n")
	for _, pool := range []struct {
		name    string
		members []string
	}{{"all4", members4}, {"all6", members6}} {
		fmt.Fprintf(&w, "  - name: %s\n    members:\n", pool.name)
		for _, m := range pool.members {
			fmt.Fprintf(&w, "      - {address: \"%s\"}\n", m)
		}
	}
	w.WriteString("virtual-servers:\n")
	fmt.Fprintf(&w, "  - {name: bulk4, address: \"%s:%d\", protocol: tcp, pool: all4}\n", vip4, bulkPort)
	fmt.Fprintf(&w, "  - {name: bulk6, address: \"[%s]:%d\", protocol: tcp, pool: all6}\n", vip6, bulkPort)
	fmt.Fprintf(&w, "  - {name: echo4, address: \"%s:%d\", protocol: udp, pool: all4}\n", vip4, echoPort)
	fmt.Fprintf(&w, "  - {name: echo6, address: \"[%s]:%d\", protocol: udp, pool: all6}\n", vip6, echoPort)
	return w.String()
}

// steps does the plan.
func (g *guest) steps(ctx context.Context) error {
	run := func(step string, fn func() error) {
		if ctx.Err() != nil || g.plan.Only != "" && g.plan.Only != step {
			return
		}
		g.mu.Lock()
		g.step = step
		g.mu.Unlock()
		if err := fn(); err != nil {
			g.report(Record{Failed: err.Error()})
		}
		g.sweep(ctx)
	}
	traffic := func() error {
		n := sessions(g.step)
		g.transfers(ctx, n.conns, n.size, &atomic.Int64{})
		g.echoes(ctx, n.echoes, n.datagrams)
		return nil
	}
	for _, step := range []string{StepFirst, StepSecond} {
		run(step, func() error { return g.serveWhile(ctx, traffic) })
	}
	run(StepKill, func() error { return g.killed(ctx) })
	run(StepTake, func() error { return g.takenOver(ctx) })
	if g.plan.Full {
		run(StepFlap, func() error {
			return g.serveWhile(ctx, func() error {
				for _, name := range []string{outside, inside} {
					if err := g.flap(name); err != nil {
						return err
					}
				}
				if err := g.membersReady(ctx); err != nil {
					return err
				}
				return traffic()
			})
		})
	}
	if g.plan.VLAN {
		run(StepVLAN, func() error {
			return g.serveWhile(ctx, func() error { return errors.Join(traffic(), g.tagged()) })
		})
	}
	plan := g.plan
	if plan.Small {
		g.plan.FrameSize = 2048
		run(StepSmall, func() error { return g.serveWhile(ctx, traffic) })
		g.plan = plan
	}
	if plan.Channels > 0 {
		// Every socket registers all frames, page by page; with the default rings that alone takes the machine a minute.
		g.plan.RingSize = 128
		run(StepChannels, func() error {
			if err := g.setChannels(plan.Channels); err != nil {
				return err
			}
			return g.serveWhile(ctx, traffic)
		})
	}
	return ctx.Err()
}

// flap takes a NIC down and up again. An interface that goes down loses its routes and IPv6 addresses: the kernel puts the
// connected routes back, the addresses are put back here.
func (g *guest) flap(name string) error {
	if err := g.lb.SetLink(name, false); err != nil {
		return err
	}
	time.Sleep(300 * time.Millisecond)
	if err := g.lb.SetLink(name, true); err != nil {
		return err
	}
	if err := waitLink(g.lb, name); err != nil {
		return err
	}
	return g.lb.Addr(name, map[string]string{outside: "fd00:172:16:10::1/64", inside: "fd00:192:168:20::254/64"}[name])
}

// daemon is a running sluice.
type daemon struct {
	*lab.Process
	log   *output
	began time.Time
}

// output collects what a process writes while it is read.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start starts sluice and waits until it serves.
func (g *guest) start(flags ...string) (*daemon, error) {
	if err := os.WriteFile(configPath, []byte(config(g.plan)), 0o644); err != nil {
		return nil, err
	}
	d := &daemon{log: &output{}, began: time.Now()}
	cmd := exec.Command(guestSluice, append([]string{"run", "-c", configPath}, flags...)...)
	cmd.Stdout, cmd.Stderr = d.log, d.log
	var err error
	if d.Process, err = g.lb.Start(cmd); err != nil {
		return nil, err
	}
	g.daemons = append(g.daemons, d)
	for deadline := time.Now().Add(serveTime); !strings.Contains(d.log.String(), "msg=serving"); {
		select {
		case <-d.Done():
			return nil, fmt.Errorf("sluice run ended: %w\n%s", d.Wait(), d.log)
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			_ = d.Signal(unix.SIGQUIT) // where it hangs is in its last words
			<-d.Done()
			return nil, fmt.Errorf("sluice run does not serve after %s:\n%.3000s", serveTime, d.log)
		}
	}
	return d, nil
}

// sweep ends what a failed step has left running, so that the next one starts on clean ground.
func (g *guest) sweep(ctx context.Context) {
	left := false
	for _, d := range g.daemons {
		select {
		case <-d.Done():
		default:
			left = true
			_ = d.Signal(unix.SIGKILL)
			<-d.Done()
			g.report(Record{Failed: "a sluice still ran after the step:\n" + d.log.String()})
		}
	}
	g.daemons = nil
	if left {
		if out, err := g.lb.Run(ctx, guestSluice, "port", "release", "--all"); err != nil {
			g.report(Record{Failed: fmt.Sprintf("sluice port release: %v\n%s", err, out)})
		}
	}
}

// ready reports a start when every member has its next hop.
func (g *guest) ready(ctx context.Context, d *daemon) error {
	serving := time.Since(d.began)
	if err := g.membersReady(ctx); err != nil {
		return fmt.Errorf("%w\n%s", err, d.log)
	}
	g.report(Record{Start: &Start{ServingMS: serving.Milliseconds(), ReadyMS: time.Since(d.began).Milliseconds()}})
	return nil
}

// membersReady waits until sluice says that every member is active.
func (g *guest) membersReady(ctx context.Context) error {
	for deadline := time.Now().Add(readyTime); ; time.Sleep(100 * time.Millisecond) {
		var members []struct {
			Name  string `json:"name"`
			State string `json:"state"`
		}
		if err := g.query(ctx, &members, "member"); err != nil {
			return err
		}
		waiting := ""
		for _, m := range members {
			if m.State != "active" {
				waiting += " " + m.Name + " is " + m.State
			}
		}
		if waiting == "" && len(members) > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("members after %s:%s", readyTime, waiting)
		}
	}
}

// query asks the running sluice by its own command line.
func (g *guest) query(ctx context.Context, into any, command string) error {
	out, err := g.lb.Run(ctx, guestSluice, command, "-o", "json")
	if err != nil {
		return fmt.Errorf("sluice %s: %w\n%s", command, err, out)
	}
	if err := json.Unmarshal(out, into); err != nil {
		return fmt.Errorf("sluice %s -o json: %w\n%s", command, err, out)
	}
	return nil
}

// state reports what sluice and the drivers show.
func (g *guest) state(ctx context.Context, before map[string][]uint64) error {
	s := &State{}
	var drops []Drop
	for _, q := range []struct {
		into    any
		command string
	}{{&s.Ports, "port"}, {&s.Workers, "worker"}, {&drops, "drop"}} {
		if err := g.query(ctx, q.into, q.command); err != nil {
			return err
		}
	}
	for _, d := range drops {
		if d.Count > 0 {
			s.Drops = append(s.Drops, d)
		}
	}
	var err error
	if s.Queues, err = g.queuePackets(); err != nil {
		return err
	}
	for name, counts := range s.Queues {
		for q := range counts {
			// A driver that has set a queue up again in between counts from 0.
			if q < len(before[name]) && before[name][q] <= counts[q] {
				counts[q] -= before[name][q]
			}
		}
	}
	g.report(Record{State: s})
	return nil
}

// stop ends sluice in order and reports how.
func (g *guest) stop(d *daemon) error {
	start := time.Now()
	if err := d.Signal(unix.SIGTERM); err != nil {
		return fmt.Errorf("sluice had ended: %w\n%s", err, d.log)
	}
	select {
	case <-d.Done():
	case <-time.After(stopTime):
		_ = d.Signal(unix.SIGQUIT)
		<-d.Done()
		return fmt.Errorf("sluice run does not end within %s:\n%.3000s", stopTime, d.log)
	}
	s := &Stop{MS: time.Since(start).Milliseconds(), Log: d.log.String()}
	if err := d.Wait(); err != nil {
		s.ExitCode = 1
		if e, ok := err.(*exec.ExitError); ok {
			s.ExitCode = e.ExitCode()
		}
	}
	g.report(Record{Stop: s})
	return nil
}

// serveWhile runs sluice around fn: start, fn, state, stop.
func (g *guest) serveWhile(ctx context.Context, fn func() error) error {
	d, err := g.start()
	if err != nil {
		return err
	}
	if err := g.ready(ctx, d); err == nil {
		var before map[string][]uint64
		if before, err = g.queuePackets(); err == nil {
			err = fn()
		}
		if err == nil {
			err = g.state(ctx, before)
		}
		if err != nil {
			g.report(Record{Failed: err.Error()})
		}
	} else {
		g.report(Record{Failed: err.Error()})
	}
	return g.stop(d)
}

// killed kills sluice while transfers run and starts it again; the transfers must end all the same.
func (g *guest) killed(ctx context.Context) error {
	d, err := g.start()
	if err != nil {
		return err
	}
	if err := g.ready(ctx, d); err != nil {
		return err
	}
	var moved atomic.Int64
	done := g.transferring(ctx, &moved)
	if err := until(ctx, "the transfers move", func() bool { return moved.Load() > 512<<10 }); err != nil {
		return err
	}
	k := &Killed{MovedBefore: moved.Load()}
	if err := d.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-d.Done()
	start, at := time.Now(), moved.Load()
	if d, err = g.start(); err != nil {
		return err
	}
	k.ServingMS = time.Since(start).Milliseconds()
	if err := until(ctx, "the transfers go on", func() bool { return moved.Load() > at+64<<10 }); err != nil {
		g.report(Record{Failed: err.Error()})
	}
	k.MovingMS = time.Since(start).Milliseconds()
	g.report(Record{Killed: k})
	<-done
	if err := g.state(ctx, nil); err != nil {
		g.report(Record{Failed: err.Error()})
	}
	return g.stop(d)
}

// transferring runs the transfers of a step that disturbs them; the channel is closed when they have ended.
func (g *guest) transferring(ctx context.Context, moved *atomic.Int64) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		n := sessions(g.step)
		g.transfers(ctx, n.conns, n.size, moved)
	}()
	return done
}

// until waits for a condition.
func until(ctx context.Context, what string, is func() bool) error {
	for deadline := time.Now().Add(readyTime); !is(); time.Sleep(2 * time.Millisecond) {
		if ctx.Err() != nil || time.Now().After(deadline) {
			return fmt.Errorf("waited %s until %s", readyTime, what)
		}
	}
	return nil
}
