package link

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"

	"github.com/asavie/xdp"
	"golang.org/x/sys/unix"

	"sluice/perf/lab"
	"sluice/rings"
)

// Forwarder is a program that only forwards: what could be carried by a driver without a balancer on it. It stands for a
// child process that the harness starts in the balancer's namespace (`sluice perf forwarder`, not for people).
type Forwarder struct {
	Driver          string // xsk, asavie or asavie-one-port
	Outside, Inside string
	ToServer        net.HardwareAddr // what frames to the servers' side are sent to
	ToClient        net.HardwareAddr
	Core            int
	RingSize        int
}

const (
	forwardRing  = 512 // descriptors, as the product's default
	forwardBurst = 64
	forwardName  = "sluice-fwd"
)

// Run forwards until ctx ends. It writes a line with the mode to out when it is ready.
func (f Forwarder) Run(ctx context.Context, out io.Writer) error {
	runtime.LockOSThread() // for good
	var set unix.CPUSet
	set.Set(f.Core)
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("pin to core %d: %w", f.Core, err)
	}
	_ = setThreadName(forwardName)
	if f.RingSize == 0 {
		f.RingSize = forwardRing
	}
	if f.Driver == "asavie-one-port" {
		return f.onePort(ctx, out)
	}
	return f.twoPorts(ctx, out)
}

// forwardPort is an interface with its program and its queue.
type forwardPort struct {
	program *rings.Program
	queue   rings.Queue
	from    [6]byte // the interface's own address
	to      [6]byte // where what leaves here goes
}

func attachAll(ifname string) (*rings.Program, *net.Interface, error) {
	i, err := net.InterfaceByName(ifname)
	if err != nil {
		return nil, nil, err
	}
	p, err := rings.AttachProgram(rings.ProgramConfig{Interface: ifname, Queues: 1, Rules: rings.Rules{Prefixes: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}}})
	return p, i, err
}

func (f Forwarder) twoPorts(ctx context.Context, out io.Writer) (err error) {
	region, err := rings.NewRegion(4*f.RingSize, 2048, true)
	if err != nil {
		return err
	}
	pool := rings.NewPool(region.Frames())
	for i := range region.Frames() {
		pool.Put(uint64(i * region.FrameSize()))
	}
	ports := make([]*forwardPort, 0, 2)
	defer func() {
		for _, p := range ports {
			err = errors.Join(err, p.program.Close(true))
			if p.queue != nil {
				err = errors.Join(err, p.queue.Close(pool))
			}
		}
		err = errors.Join(err, region.Audit(pool), region.Close())
	}()
	mode := ""
	for i, name := range []string{f.Outside, f.Inside} {
		p := &forwardPort{}
		var link *net.Interface
		if p.program, link, err = attachAll(name); err != nil {
			return err
		}
		ports = append(ports, p)
		cfg := rings.XSKConfig{Interface: name, Ifindex: link.Index, RingSize: f.RingSize, TxBudget: forwardBurst}
		zeroCopy, fd := false, -1
		if f.Driver == "asavie" {
			q, err := rings.OpenAsavie(region, cfg)
			if err != nil {
				return err
			}
			p.queue, zeroCopy, fd = q, q.ZeroCopy(), q.FD()
		} else {
			q, err := rings.OpenXSK(region, cfg)
			if err != nil {
				return err
			}
			p.queue, zeroCopy, fd = q, q.ZeroCopy(), q.FD()
		}
		p.queue.Refill(pool)
		if err := p.program.SetSocket(0, fd); err != nil {
			return err
		}
		copy(p.from[:], link.HardwareAddr)
		copy(p.to[:], [...]net.HardwareAddr{f.ToClient, f.ToServer}[i])
		mode += fmt.Sprintf("%s: %s %s; ", name, p.program.Mode(), copyMode(zeroCopy))
	}
	fmt.Fprintln(out, strings.TrimSuffix(mode, "; "))
	forward(ctx, region, pool, ports)
	return nil
}

func copyMode(zeroCopy bool) string {
	if zeroCopy {
		return "zero-copy"
	}
	return "copy"
}

// forward is the loop of the engine with nothing in it: receive, two addresses, transmit.
func forward(ctx context.Context, region *rings.Region, pool *rings.Pool, ports []*forwardPort) {
	var burst [forwardBurst]rings.Desc
	for beat := 0; beat%1024 != 0 || ctx.Err() == nil; beat++ {
		for i, in := range ports {
			out := ports[1-i]
			if beat%1024 == 0 {
				in.program.Beat(monotonic())
			}
			in.queue.Refill(pool)
			n := in.queue.Receive(burst[:])
			if n == 0 {
				if in.queue.Pending() {
					in.queue.Flush()
				}
				in.queue.Reclaim(pool)
				continue
			}
			for _, d := range burst[:n] {
				b := region.Packet(d)
				copy(b[:6], out.to[:])
				copy(b[6:12], out.from[:])
			}
			sent := out.queue.Transmit(burst[:n])
			out.queue.Flush()
			for _, d := range burst[sent:n] {
				pool.Put(region.Base(d.Addr))
			}
			out.queue.Reclaim(pool)
		}
	}
}

func monotonic() uint64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // always there
	return uint64(ts.Nano())
}

// onePort uses the library by itself, as its own example does: what comes in goes out of the same socket, in the same
// frame, with its addresses exchanged.
func (f Forwarder) onePort(ctx context.Context, out io.Writer) error {
	program, link, err := attachAll(f.Outside)
	if err != nil {
		return err
	}
	defer program.Close(true)
	xdp.DefaultSocketFlags = 0
	sock, err := xdp.NewSocket(link.Index, 0, &xdp.SocketOptions{
		NumFrames: 2 * f.RingSize, FrameSize: 2048, FillRingNumDescs: f.RingSize, CompletionRingNumDescs: f.RingSize,
		RxRingNumDescs: f.RingSize, TxRingNumDescs: f.RingSize,
	})
	if err != nil {
		return fmt.Errorf("asavie on %s: %w", f.Outside, err)
	}
	defer sock.Close()
	if err := program.SetSocket(0, sock.FD()); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %s copy, one port\n", f.Outside, program.Mode())
	for beat := 0; beat%1024 != 0 || ctx.Err() == nil; beat++ {
		if beat%1024 == 0 {
			program.Beat(monotonic())
		}
		if n := sock.NumFreeFillSlots(); n > 0 {
			sock.Fill(sock.GetDescs(n))
		}
		if n := sock.NumCompleted(); n > 0 {
			sock.Complete(n)
		}
		n := min(sock.NumReceived(), sock.NumFreeTxSlots(), forwardBurst)
		if n == 0 {
			continue
		}
		descs := sock.Receive(n)
		for _, d := range descs {
			exchange(sock.GetFrame(d))
		}
		sock.Transmit(descs)
	}
	return nil
}

// exchange turns a frame round: MAC and IPv4 addresses, whose sums stay.
func exchange(b []byte) {
	if len(b) < 34 {
		return
	}
	var mac [6]byte
	copy(mac[:], b[:6])
	copy(b[:6], b[6:12])
	copy(b[6:12], mac[:])
	var ip [4]byte
	copy(ip[:], b[26:30])
	copy(b[26:30], b[30:34])
	copy(b[30:34], ip[:])
}

// forwarder is a Forwarder in a process of its own.
type forwarder struct {
	process *lab.Process
	how     string
	worker  []string
	words   *strings.Builder
}

func forwarderUp(driver string) func(context.Context, *bed, setup) (running, error) {
	return func(ctx context.Context, b *bed, s setup) (running, error) {
		toServer, err := b.Servers.MAC("eth0")
		if err != nil {
			return nil, err
		}
		cmd := exec.Command(b.opt.Program, "perf", "forwarder", "--driver", driver, "--outside", b.Outside, "--inside", b.Inside,
			"--to-server", toServer.String(), "--to-client", b.target.SrcMAC.String(), "--core", strconv.Itoa(s.core), "--ring-size", strconv.Itoa(s.ringSize))
		f := &forwarder{words: &strings.Builder{}}
		cmd.Stderr = f.words
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if f.process, err = b.Balancer.Start(cmd); err != nil {
			return nil, err
		}
		line, err := bufio.NewReader(pipe).ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("forwarder %s: %w: %w: %s", driver, err, f.process.Wait(), f.words)
		}
		f.how = strings.TrimSpace(line)
		f.worker = tasksOf(f.process.PID(), forwardName)
		if len(f.worker) != 1 {
			return nil, errors.Join(fmt.Errorf("forwarder %s has %d worker threads, not one", driver, len(f.worker)), f.down())
		}
		if err := s.raise(tidOf(f.worker[0])); err != nil {
			return nil, errors.Join(err, f.down())
		}
		return f, nil
	}
}

func (f *forwarder) mode() string    { return f.how }
func (f *forwarder) tasks() []string { return f.worker }

func (f *forwarder) down() error {
	if err := end(f.process); err != nil {
		return fmt.Errorf("forwarder: %w: %s", err, f.words)
	}
	return nil
}
