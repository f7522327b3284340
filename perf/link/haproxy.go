package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"sluice/perf/lab"
)

// haproxy is HAProxy in the balancer's namespace, where the virtual address is put on the loopback interface.
type haproxy struct {
	b       *bed
	kind    string // its mode: tcp or http
	process *lab.Process
	words   *strings.Builder
}

const haproxyText = `global
  nbthread 1
  maxconn 4000
defaults
  mode %s
  timeout connect 5s
  timeout client 60s
  timeout server 60s
listen perf
  bind %s:%d
  balance roundrobin
`

func haproxyUp(kind string) func(context.Context, *bed, setup) (running, error) {
	return func(ctx context.Context, b *bed, s setup) (running, error) { return startHAProxy(ctx, b, s, kind) }
}

func startHAProxy(ctx context.Context, b *bed, s setup, kind string) (running, error) {
	if _, err := exec.LookPath("haproxy"); err != nil {
		return nil, errAbsent{fmt.Errorf("haproxy is not installed: %w", err)}
	}
	text := fmt.Sprintf(haproxyText, kind, b.VIP4, tcpPort)
	for i, a := range b.ServerAddr4 {
		text += fmt.Sprintf("  server s%d %s:%d\n", i+1, a, tcpPort)
	}
	file := filepath.Join(b.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	if out, err := b.Balancer.Run(ctx, "ip", "address", "replace", b.VIP4.String()+"/32", "dev", "lo"); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	h := &haproxy{b: b, kind: kind, words: &strings.Builder{}}
	cmd := exec.Command("taskset", "-c", strconv.Itoa(s.core), "haproxy", "-db", "-f", file)
	cmd.Stdout, cmd.Stderr = h.words, h.words
	var err error
	if h.process, err = b.Balancer.Start(cmd); err != nil {
		return nil, err
	}
	to := net.JoinHostPort(b.VIP4.String(), strconv.Itoa(tcpPort))
	err = eventually(ctx, h.process, func() bool {
		limit, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		c, err := b.Balancer.Dial(limit, "tcp", to)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	if err == nil {
		err = s.raise(h.process.PID())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("haproxy: %w: %s", err, h.words), h.down())
	}
	return h, nil
}

func (h *haproxy) mode() string    { return "mode " + h.kind + ", one thread" }
func (h *haproxy) tasks() []string { return tasksOf(h.process.PID(), "") }

func (h *haproxy) down() error {
	// Its exit code after SIGTERM is that of the signal.
	_ = h.process.Stop(stopTime)
	out, err := h.b.Balancer.Run(context.Background(), "ip", "address", "del", h.b.VIP4.String()+"/32", "dev", "lo")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
