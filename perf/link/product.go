package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

// product is `sluice run` as a process of its own in the balancer's namespace.
type product struct {
	b       *bed
	driver  string
	process *lab.Process
	log     *os.File
	socket  string
	how     string
	generic bool
	worker  []string
}

func productUp(driver string) func(context.Context, *bed, setup) (running, error) {
	return func(ctx context.Context, b *bed, s setup) (running, error) {
		p := &product{b: b, driver: driver, socket: filepath.Join(b.dir, "sluice.sock")}
		if err := p.up(ctx, driver, s); err != nil {
			if down := p.down(); !absent(err) {
				err = errors.Join(err, down)
			}
			return nil, err
		}
		return p, nil
	}
}

// configuration is the product's, with its defaults but for what is measured.
func (p *product) configuration(driver string, s setup) string {
	var w strings.Builder
	fmt.Fprintf(&w, "engine: {driver: %s, mode: %s, workers: 1, cores: [%d], polling: %s, connections: %d", driver, s.mode, s.core, s.polling, s.connections)
	if s.ringSize > 0 {
		fmt.Fprintf(&w, ", ring-size: %d", s.ringSize)
	}
	fmt.Fprintf(&w, "}\ncontrol: {socket: %s}\nports:\n  - {name: outside, interface: %s}\n  - {name: inside, interface: %s}\n", p.socket, p.b.Outside, p.b.Inside)
	w.WriteString("pools:\n  - name: all\n    members:\n")
	for _, a := range p.b.ServerAddr4 {
		fmt.Fprintf(&w, "      - {address: %s}\n", a)
	}
	fmt.Fprintf(&w, "virtual-servers:\n  - {name: datagrams, address: \"%s:%d\", protocol: udp, pool: all}\n", p.b.VIP4, udpPort)
	fmt.Fprintf(&w, "  - {name: connections, address: \"%s:%d\", protocol: tcp, pool: all}\n", p.b.VIP4, tcpPort)
	return w.String()
}

func (p *product) up(ctx context.Context, driver string, s setup) (err error) {
	if s.mode == "" {
		s.mode = "auto"
	}
	if s.polling == "" {
		s.polling = "busy"
	}
	file := filepath.Join(p.b.dir, "sluice.yaml")
	if err := os.WriteFile(file, []byte(p.configuration(driver, s)), 0o644); err != nil {
		return err
	}
	if p.log, err = os.Create(filepath.Join(p.b.dir, "sluice.log")); err != nil {
		return err
	}
	// Redirected frames reach a veth end only with NAPI, which a program in generic mode does not give it. What stacks send needs
	// none, and costs less without.
	if p.generic = s.mode == "generic" && !s.stacks; p.generic {
		if err := p.b.Balancer.GRO(p.b.Outside, true); err != nil {
			return err
		}
	}
	cmd := exec.Command(p.b.opt.Program, "run", "-c", file)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if p.process, err = p.b.Balancer.Start(cmd); err != nil {
		return err
	}
	var status struct {
		PID int `json:"pid"`
	}
	err = eventually(ctx, p.process, func() bool { return p.ask(ctx, "/v1/status", &status) == nil && status.PID == p.process.PID() })
	if err != nil {
		if s.mode == "zero-copy" { // what the interface lacks is no failure
			words := strings.Split(p.lastWords(), "\n")
			return errAbsent{errors.New(words[len(words)-1])}
		}
		return fmt.Errorf("sluice run: %w\n%s", err, p.lastWords())
	}
	var ports []portView
	if err := p.ask(ctx, "/v1/ports", &ports); err != nil {
		return err
	}
	for i, v := range ports {
		if i > 1 && v.Mode == "" {
			continue
		}
		p.how += v.Name + ": " + strings.Join(strings.Fields(v.Driver+" "+v.XDP+" "+v.Mode), " ") + "; "
	}
	p.how = strings.TrimSuffix(p.how, "; ")
	p.worker = tasksOf(p.process.PID(), "sluice-w")
	if len(p.worker) != 1 {
		return fmt.Errorf("sluice run has %d worker threads, not one", len(p.worker))
	}
	if s.confined {
		var set unix.CPUSet
		set.Set(s.core)
		for _, task := range tasksOf(p.process.PID(), "") { // later ones inherit it
			if err := unix.SchedSetaffinity(tidOf(task), &set); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("confine a thread of sluice run to core %d: %w", s.core, err)
			}
		}
	}
	return s.raise(tidOf(p.worker[0]))
}

// portView and totals are the parts of the API's answers that are judged.
type portView struct {
	Name      string `json:"name"`
	Driver    string `json:"driver"`
	XDP       string `json:"xdp"`
	Mode      string `json:"mode"`
	Received  uint64 `json:"received"`
	Sent      uint64 `json:"sent"`
	RingFull  uint64 `json:"ring_full"`
	FillEmpty uint64 `json:"fill_empty"`
	Invalid   uint64 `json:"invalid"`
}

type totals struct {
	Connections int    `json:"connections"`
	Opened      uint64 `json:"opened"`
	Received    uint64 `json:"received"`
	ToServer    uint64 `json:"to_server"`
	ToClient    uint64 `json:"to_client"`
	Sent        uint64 `json:"sent"`
	Dropped     uint64 `json:"dropped"`
	Evicted     uint64 `json:"evicted"`
}

// totals are the engine's counters.
func (p *product) totals(ctx context.Context) (t totals, err error) {
	var status struct {
		Totals totals `json:"totals"`
	}
	err = p.ask(ctx, "/v1/status", &status)
	return status.Totals, err
}

// ask reads from the API.
func (p *product) ask(ctx context.Context, path string, v any) error {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", p.socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sluice"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(resp.Body).Decode(v)
}

func (p *product) mode() string    { return p.how }
func (p *product) tasks() []string { return p.worker }

func (p *product) lastWords() string {
	b, _ := os.ReadFile(p.log.Name())
	return strings.TrimSpace(string(b))
}

// down ends the product in order. Its exit code says whether every frame was accounted for.
func (p *product) down() (err error) {
	if p.generic {
		defer func() { err = errors.Join(err, p.b.Balancer.GRO(p.b.Outside, false)) }()
	}
	if p.process == nil {
		return p.log.Close()
	}
	defer p.log.Close()
	select {
	case <-p.process.Done():
		return fmt.Errorf("sluice run ended by itself: %v\n%s", p.process.Wait(), p.lastWords())
	default:
	}
	if err := end(p.process); err != nil {
		return fmt.Errorf("sluice run: %w\n%s", err, p.lastWords())
	}
	return nil
}

// end asks a process to end, and ends it if it does not.
func end(p *lab.Process) error {
	_ = p.Signal(unix.SIGTERM)
	select {
	case <-p.Done():
		return p.Wait()
	case <-time.After(stopTime):
		_ = p.Stop(0)
		return fmt.Errorf("it did not end within %s", stopTime)
	}
}

// eventually waits for cond while the process lives.
func eventually(ctx context.Context, p *lab.Process, cond func() bool) error {
	deadline := time.Now().Add(startTime)
	for !cond() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.Done():
			return fmt.Errorf("ended: %v", p.Wait())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("is not ready after %s", startTime)
		}
	}
	return nil
}
