package link

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"

	"sluice/perf/lab"
)

// kernel is the balancer's own network stack.
type kernel struct {
	b       *bed
	nft     bool
	inline  bool
	threads []string
	undo    []func() error
}

// kernelUp brings up routing, with DNAT or without. Inline, packets are carried in the softirq of the core that they come
// in on, the generator's; else the receive threads of both interfaces (threaded NAPI) have the carrier's core.
func kernelUp(nft, inline bool) func(context.Context, *bed, setup) (running, error) {
	return func(ctx context.Context, b *bed, s setup) (running, error) {
		k := &kernel{b: b, nft: nft, inline: inline}
		if err := k.up(ctx, s); err != nil {
			return nil, errors.Join(err, k.down())
		}
		return k, nil
	}
}

func (k *kernel) up(ctx context.Context, s setup) error {
	lb := k.b.Balancer
	// Redirected frames reach a veth end only with NAPI, and without an XDP program GRO is what gives it that.
	for _, ifname := range []string{k.b.Outside, k.b.Inside} {
		if err := k.do(lb.GRO(ifname, true), func() error { return lb.GRO(ifname, false) }); err != nil {
			return err
		}
	}
	if !k.inline {
		if err := k.thread(lb, s); err != nil {
			return err
		}
	}
	if k.nft {
		if err := k.translate(ctx, s); err != nil {
			return err
		}
	} else if err := lb.Gateway(netip.PrefixFrom(k.b.VIP4, 32), k.b.ServerAddr4[0]); err != nil {
		return err
	}
	return k.do(lb.Sysctl("net.ipv4.ip_forward", "1"), func() error { return lb.Sysctl("net.ipv4.ip_forward", "0") })
}

// do notes how a step is undone.
func (k *kernel) do(err error, undo func() error) error {
	if err == nil {
		k.undo = append(k.undo, undo)
	}
	return err
}

// thread moves the receive work of the balancer's interfaces to threads.
func (k *kernel) thread(lb *lab.Host, s setup) error {
	s.shared = false // they are outside of our session, and without it get little of a loaded machine
	before := kernelThreads("napi/")
	for _, ifname := range []string{k.b.Outside, k.b.Inside} {
		if err := k.do(lb.Sysfs(ifname+"/threaded", "1"), func() error { return lb.Sysfs(ifname+"/threaded", "0") }); err != nil {
			return err
		}
	}
	for pid := range kernelThreads("napi/") {
		if !before[pid] {
			if err := s.raise(tidOf(pid)); err != nil {
				return err
			}
			k.threads = append(k.threads, pid)
		}
	}
	if len(k.threads) == 0 {
		return errAbsent{errors.New("the kernel made no receive threads for the interfaces (threaded NAPI, Linux 5.12)")}
	}
	return nil
}

// kernelThreads are the processes without a program whose name begins so.
func kernelThreads(prefix string) map[string]bool {
	all, _ := filepath.Glob("/proc/[0-9]*/comm")
	m := map[string]bool{}
	for _, f := range all {
		if name, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(name), prefix) {
			m[filepath.Dir(f)] = true
		}
	}
	return m
}

// conntrack limits belong to the machine; they are raised while they are too low.
const (
	conntrackMax     = "/proc/sys/net/netfilter/nf_conntrack_max"
	conntrackBuckets = "/proc/sys/net/netfilter/nf_conntrack_buckets"
)

func (k *kernel) translate(ctx context.Context, s setup) error {
	if _, err := exec.LookPath("nft"); err != nil {
		return errAbsent{fmt.Errorf("nftables is not installed: %w", err)}
	}
	var members []string
	for i, a := range k.b.ServerAddr4 {
		members = append(members, fmt.Sprintf("%d : %s", i, a))
	}
	rules := fmt.Sprintf(`add table ip sluice_perf
add chain ip sluice_perf balance { type nat hook prerouting priority -100; }
add rule ip sluice_perf balance ip daddr %s dnat to numgen inc mod %d map { %s }
`, k.b.VIP4, len(members), strings.Join(members, ", "))
	file := filepath.Join(k.b.dir, "rules.nft")
	if err := os.WriteFile(file, []byte(rules), 0o644); err != nil {
		return err
	}
	lb := k.b.Balancer
	out, err := lb.Run(ctx, "nft", "-f", file)
	if err != nil {
		return errAbsent{fmt.Errorf("nftables refuses the rules: %w: %s", err, out)}
	}
	k.undo = append(k.undo, func() error {
		_, err := lb.Run(context.WithoutCancel(ctx), "nft", "delete", "table", "ip", "sluice_perf")
		return err
	})
	// As sluice: the connection of an unanswered datagram is kept 5 s, a closed one 2 s.
	if err := lb.Sysctl("net.netfilter.nf_conntrack_udp_timeout", "5"); err != nil {
		return err
	}
	for _, s := range [][2]string{
		{"nf_conntrack_tcp_timeout_time_wait", "2"}, {"nf_conntrack_tcp_timeout_close", "2"}, {"nf_conntrack_tcp_timeout_last_ack", "2"},
	} {
		if err := lb.Sysctl("net.netfilter."+s[0], s[1]); err != nil {
			return err
		}
	}
	for file, want := range map[string]int{conntrackMax: s.connections, conntrackBuckets: s.connections / 4} {
		if err := k.raiseTo(file, want); err != nil {
			return errAbsent{fmt.Errorf("conntrack for %d connections: %w", s.connections, err)}
		}
	}
	// What is left of this carrier shall not fill the table of the next.
	k.undo = append(k.undo, func() error {
		return lb.Do(func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) })
	})
	return nil
}

// raiseTo sets a limit of the machine until the carrier is down.
func (k *kernel) raiseTo(file string, want int) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	old, now := strings.TrimSpace(string(b)), 0
	if _, err := fmt.Sscan(old, &now); err != nil || now >= want {
		return err
	}
	return k.do(os.WriteFile(file, fmt.Append(nil, want), 0), func() error { return os.WriteFile(file, []byte(old), 0) })
}

func (k *kernel) mode() string {
	if k.inline {
		return "kernel, softirq of the receiving core"
	}
	return "kernel, threaded NAPI"
}

func (k *kernel) tasks() []string { return k.threads }

func (k *kernel) down() error {
	var errs []error
	for i := len(k.undo) - 1; i >= 0; i-- {
		errs = append(errs, k.undo[i]())
	}
	k.undo = nil
	return errors.Join(errs...)
}
