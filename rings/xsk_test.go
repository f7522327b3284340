package rings

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/perf/lab"
)

// The tests of the drivers over the kernel's AF_XDP: veth pairs between hosts of a lab, real sockets at the ends, and
// one worker in the middle (the goroutine of the test) that accounts for every frame after every step.

var drivers = []string{"xsk", "asavie"}

// needLab skips without root, or fails where the lab is required.
func needLab(t *testing.T) {
	t.Helper()
	needBPF(t)
	if os.Geteuid() == 0 {
		return
	}
	const reason = "needs root to create network namespaces"
	if os.Getenv("SLUICE_LAB") == "require" {
		t.Fatalf("%s, and SLUICE_LAB=require", reason)
	}
	t.Skip(reason)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a host with ports whose queues are open.
type rig struct {
	t      *testing.T
	lab    *lab.Lab
	mid    *lab.Host
	region *Region
	pool   *Pool
	ports  []*rigPort
	hand   int // frames in the hands of the worker
	short  int // packets that a tx ring had no room for
}

// rigPort is one interface of mid.
type rigPort struct {
	name    string
	ifindex int
	mac     net.HardwareAddr
	driver  string
	program *Program
	queues  []Queue
	out     *rigPort     // where its packets leave
	change  func([]byte) // what happens to them
}

const rigRing = 256

// newRig makes a lab with the host mid and a region.
func newRig(t *testing.T, frames int) *rig {
	t.Helper()
	needLab(t)
	l, err := lab.New(context.Background(), "rings")
	must(t, err)
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if left := lab.Leftovers(l.ID()); len(left) > 0 {
			t.Errorf("the lab leaves %v", left)
		}
	})
	r := &rig{t: t, lab: l}
	r.mid, err = l.Host("mid")
	must(t, err)
	r.region, err = NewRegion(frames, 2048, false)
	must(t, err)
	t.Cleanup(func() {
		if err := r.region.Close(); err != nil {
			t.Error(err)
		}
	})
	r.pool = fullPool(r.region)
	return r
}

// wire adds a host with the addresses 10.9.0.n and fd09::n, joined to an interface of mid.
func (r *rig) wire(name, port string, n, queues int) (*lab.Host, *rigPort) {
	r.t.Helper()
	h, err := r.lab.Host(name)
	must(r.t, err)
	must(r.t, r.lab.Wire(h, "eth0", r.mid, port, lab.WireOptions{Queues: queues}))
	must(r.t, h.Addr("eth0", fmt.Sprintf("10.9.0.%d/24", n)))
	must(r.t, h.Addr("eth0", fmt.Sprintf("fd09::%d/64", n)))
	p := &rigPort{name: port}
	p.mac, err = r.mid.MAC(port)
	must(r.t, err)
	must(r.t, r.mid.Do(func() error {
		l, err := netlink.LinkByName(port)
		if err == nil {
			p.ifindex = l.Attrs().Index
		}
		return err
	}))
	r.ports = append(r.ports, p)
	return h, p
}

// neighbour tells h that the host with number n is at mac.
func (r *rig) neighbour(h *lab.Host, n int, mac net.HardwareAddr) {
	r.t.Helper()
	must(r.t, h.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		for _, ip := range []string{fmt.Sprintf("10.9.0.%d", n), fmt.Sprintf("fd09::%d", n)} {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: mac,
			})
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// attach loads the classifier for the traffic to and from the host with number 2.
func (r *rig) attach(p *rigPort, mode AttachMode, queues int) {
	r.t.Helper()
	pins := testPins(r.t, true)
	must(r.t, r.mid.Do(func() (err error) {
		p.program, err = attachProgram(ProgramConfig{Interface: p.name, Mode: mode, Queues: queues, Rules: r.rules()}, pins)
		return err
	}))
	r.t.Cleanup(func() { p.program.Close(true) })
	if p.program.Mode() != mode {
		r.t.Fatalf("attached in %s mode, not %s", p.program.Mode(), mode)
	}
}

// rules take the traffic to and from the host with number 2.
func (r *rig) rules() Rules {
	server4, server6 := netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd09::2")
	return Rules{
		Virtuals: []VirtualRule{{Addr: server4, Proto: unix.IPPROTO_UDP, Port: 7000}, {Addr: server6, Proto: unix.IPPROTO_UDP, Port: 7000}},
		Members:  []MemberRule{{Addr: server4, Proto: unix.IPPROTO_UDP, Port: 7000}, {Addr: server6, Proto: unix.IPPROTO_UDP, Port: 7000}},
	}
}

// open opens the queues of a port.
func (r *rig) open(p *rigPort, driver string, queues int) {
	r.t.Helper()
	p.driver = driver
	for i := range queues {
		r.openQueue(p, i, XSKConfig{Mode: BindCopy, RingSize: rigRing, TxBudget: 128})
	}
	r.check("open")
}

func (r *rig) openQueue(p *rigPort, queue int, cfg XSKConfig) {
	r.t.Helper()
	cfg.Interface, cfg.Ifindex, cfg.Queue = p.name, p.ifindex, queue
	var q Queue
	must(r.t, r.mid.Do(func() (err error) {
		if p.driver == "asavie" {
			q, err = OpenAsavie(r.region, cfg)
		} else {
			q, err = OpenXSK(r.region, cfg)
		}
		return err
	}))
	p.queues = append(p.queues, q)
	r.t.Cleanup(func() { q.Close(NewPool(r.region.Frames())) }) // should the test fail before
	q.Refill(r.pool)
	r.check("the first Refill")
	if p.program != nil {
		must(r.t, p.program.SetSocket(queue, q.FD()))
	}
}

// close closes the queues of all ports, then checks that every frame has come back, and that the kernel never saw a
// wrong descriptor.
func (r *rig) close() {
	r.t.Helper()
	for _, p := range r.ports {
		for i, q := range p.queues {
			if p.program != nil {
				must(r.t, p.program.ClearSocket(i))
			}
			must(r.t, q.Close(r.pool))
			r.check("Close")
			if h := q.Held(); h != (Held{}) {
				r.t.Errorf("%s queue %d holds %+v after Close", p.name, i, h)
			}
			if s := q.Stats(); s.RxInvalid != 0 || s.TxInvalid != 0 {
				r.t.Errorf("%s queue %d: invalid descriptors: %+v", p.name, i, s)
			}
			must(r.t, q.Close(r.pool))
			var burst [4]Desc
			if n := q.Refill(r.pool) + q.Receive(burst[:]) + q.Transmit(burst[:]) + q.Reclaim(r.pool); n != 0 || q.Pending() {
				r.t.Errorf("%s queue %d: a closed queue moves %d frames", p.name, i, n)
			}
			q.Flush()
		}
		p.queues = nil
	}
	if err := r.region.Audit(r.pool); err != nil {
		r.t.Error(err)
	}
}

// check counts the frames in all places.
func (r *rig) check(after string) {
	r.t.Helper()
	sum := r.pool.Len() + r.hand
	for _, p := range r.ports {
		for i, q := range p.queues {
			h := q.Held()
			if h.Fill < 0 || h.Rx < 0 || h.Tx < 0 {
				r.t.Fatalf("after %s: %s queue %d holds %+v", after, p.name, i, h)
			}
			sum += h.Sum()
		}
	}
	if sum != r.region.Frames() {
		r.t.Fatalf("after %s: %d frames in all places, not %d", after, sum, r.region.Frames())
	}
}

// step serves every queue once and reports whether a packet came.
func (r *rig) step() (busy bool) {
	r.t.Helper()
	var burst [64]Desc
	for _, p := range r.ports {
		for i, q := range p.queues {
			q.Refill(r.pool)
			r.check("Refill")
			n := q.Receive(burst[:])
			r.hand = n
			r.check("Receive")
			if n > 0 {
				busy = true
				for _, d := range burst[:n] {
					p.change(r.region.Packet(d))
				}
				sent := p.out.queues[i].Transmit(burst[:n])
				r.hand -= sent
				r.check("Transmit")
				for _, d := range burst[sent:n] {
					r.pool.Put(r.region.Base(d.Addr))
					r.hand--
					r.short++
				}
			}
			p.out.queues[i].Flush()
			r.check("Flush")
			p.out.queues[i].Reclaim(r.pool)
			r.check("Reclaim")
		}
	}
	return busy
}

// pump serves until done is closed and nothing is left to send.
func (r *rig) pump(done <-chan struct{}) {
	r.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		busy := r.step()
		if busy {
			continue
		}
		select {
		case <-done:
			return
		default:
			time.Sleep(50 * time.Microsecond)
		}
	}
	r.t.Fatal("the traffic does not end")
}

// settle serves until no queue has anything to send.
func (r *rig) settle() {
	r.t.Helper()
	r.eventually("every packet is sent", func() bool {
		r.step()
		for _, p := range r.ports {
			for _, q := range p.queues {
				if q.Held().Tx > 0 || q.Pending() {
					return false
				}
			}
		}
		return true
	})
}

func (r *rig) eventually(what string, cond func() bool) {
	r.t.Helper()
	const limit = 20 * time.Second
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not after %s: %s", limit, what)
		}
	}
}

// stats sums the counters of a port.
func (p *rigPort) stats() (s QueueStats, used int) {
	for _, q := range p.queues {
		k := q.Stats()
		s.RxPackets += k.RxPackets
		s.TxPackets += k.TxPackets
		s.RxDropped += k.RxDropped
		s.RxRingFull += k.RxRingFull
		s.FillEmpty += k.FillEmpty
		s.RxInvalid += k.RxInvalid
		s.TxInvalid += k.TxInvalid
		if k.RxPackets > 0 {
			used++
		}
	}
	return s, used
}

// exchange sends datagrams from as many client ports and wants each back as answer makes it. It is for a goroutine
// of its own.
func exchange(client *lab.Host, network, server string, ports, perPort int, prefix string, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 0))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	for range ports {
		c, err := client.Dial(ctx, network, server)
		if err != nil {
			return err
		}
		conns = append(conns, c)
	}
	buf := make([]byte, 2048)
	for round := range perPort {
		sent := make([][]byte, ports)
		for i, c := range conns {
			sent[i] = make([]byte, r.IntN(1440))
			for j := range sent[i] {
				sent[i][j] = uint8(r.Uint32())
			}
			if _, err := c.Write(sent[i]); err != nil {
				return err
			}
		}
		for i, c := range conns {
			if err := c.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
				return err
			}
			n, err := c.Read(buf)
			if err != nil {
				return fmt.Errorf("round %d, client port %d (%s): %w", round, i, c.LocalAddr(), err)
			}
			if want := append([]byte(prefix), sent[i]...); !bytes.Equal(buf[:n], want) {
				return fmt.Errorf("round %d, client port %d: %d bytes came back for %d, or others", round, i, n, len(want))
			}
		}
	}
	return nil
}

// traffic exchanges datagrams in both families while the worker serves, and returns how many there were.
func (r *rig) traffic(client *lab.Host, ports, perPort int, prefix string) int {
	r.t.Helper()
	seed := rand.Uint64()
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = errors.Join(
			exchange(client, "udp4", "10.9.0.2:7000", ports, perPort, prefix, seed),
			exchange(client, "udp6", "[fd09::2]:7000", ports, perPort, prefix, seed))
	}()
	r.pump(done)
	if err != nil {
		r.t.Fatalf("seed %d: %v", seed, err)
	}
	r.settle()
	return 2 * ports * perPort
}

// echoChange turns a UDP packet into its own answer. Swapping whole words leaves its checksums right.
func echoChange(b []byte) {
	swap(b[0:6], b[6:12])
	if b[12] == 0x08 {
		swap(b[26:30], b[30:34])
		swap(b[34:36], b[36:38])
		return
	}
	swap(b[22:38], b[38:54])
	swap(b[54:56], b[56:58])
}

func swap(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// macChange addresses a packet to the next host.
func macChange(dst, src net.HardwareAddr) func([]byte) {
	return func(b []byte) {
		copy(b[0:6], dst)
		copy(b[6:12], src)
	}
}

// echoRig is a client and mid, which is to answer for 10.9.0.2.
func echoRig(t *testing.T, queues int) (*rig, *lab.Host, *rigPort) {
	t.Helper()
	r := newRig(t, 4096)
	client, port := r.wire("client", "port", 1, queues)
	port.out, port.change = port, echoChange
	r.neighbour(client, 2, port.mac)
	return r, client, port
}

// forwardRig is client, mid and server, which answers by a kernel's socket.
func forwardRig(t *testing.T, queues int) (r *rig, client, server *lab.Host, left, right *rigPort) {
	t.Helper()
	r = newRig(t, 8192)
	client, left = r.wire("client", "left", 1, queues)
	server, right = r.wire("server", "right", 2, queues)
	clientMAC, err := client.MAC("eth0")
	must(t, err)
	serverMAC, err := server.MAC("eth0")
	must(t, err)
	left.out, left.change = right, macChange(serverMAC, right.mac)
	right.out, right.change = left, macChange(clientMAC, left.mac)
	r.neighbour(client, 2, left.mac)
	r.neighbour(server, 1, right.mac)
	_, err = lab.UDPEcho(server, ":7000", "srv")
	must(t, err)
	return r, client, server, left, right
}

// eachKind runs a test for both drivers, both modes of the program, one queue and four.
func eachKind(t *testing.T, f func(t *testing.T, driver string, mode AttachMode, queues int)) {
	for _, driver := range drivers {
		for _, mode := range []AttachMode{AttachNative, AttachGeneric} {
			for _, queues := range []int{1, 4} {
				t.Run(fmt.Sprintf("%s/%s/queues=%d", driver, mode, queues), func(t *testing.T) { f(t, driver, mode, queues) })
			}
		}
	}
}

// checkTraffic compares the counters of a port with the packets that there were.
func (r *rig) checkTraffic(p *rigPort, rx, tx int) {
	r.t.Helper()
	s, used := p.stats()
	if s.RxPackets != uint64(rx) || s.TxPackets != uint64(tx) {
		r.t.Errorf("%s: received %d and sent %d, not %d and %d", p.name, s.RxPackets, s.TxPackets, rx, tx)
	}
	if s.RxDropped+s.RxRingFull+s.FillEmpty+s.RxInvalid+s.TxInvalid != 0 {
		r.t.Errorf("%s: %+v", p.name, s)
	}
	if used < min(2, len(p.queues)) {
		r.t.Errorf("%s: %d of %d queues had packets", p.name, used, len(p.queues))
	}
	c, err := p.program.Counters()
	must(r.t, err)
	if c.Redirected != uint64(rx) || c.Held+c.WildcardPassed+c.AfterHoldPassed+c.AfterHoldDropped+c.MalformedPassed != 0 {
		r.t.Errorf("%s: the program counts %+v for %d packets", p.name, c, rx)
	}
}

// TestQueueEcho answers the datagrams of a kernel's socket.
func TestQueueEcho(t *testing.T) {
	eachKind(t, func(t *testing.T, driver string, mode AttachMode, queues int) {
		r, client, port := echoRig(t, queues)
		r.attach(port, mode, queues)
		r.open(port, driver, queues)
		n := r.traffic(client, 40, 10, "")
		r.checkTraffic(port, n, n)
		if r.short != 0 {
			t.Errorf("%d packets found the tx ring full", r.short)
		}
		r.close()
	})
}

// TestQueueForward carries datagrams between two hosts, from one NIC to another in the same frame.
func TestQueueForward(t *testing.T) {
	eachKind(t, func(t *testing.T, driver string, mode AttachMode, queues int) {
		r, client, _, left, right := forwardRig(t, queues)
		for _, p := range r.ports {
			r.attach(p, mode, queues)
			r.open(p, driver, queues)
		}
		n := r.traffic(client, 40, 10, "srv ")
		r.checkTraffic(left, n, n)
		r.checkTraffic(right, n, n)
		r.close()
		// What the program holds back now must not reach a socket of the past.
		c, err := client.Dial(context.Background(), "udp4", "10.9.0.2:7000")
		must(t, err)
		defer c.Close()
		_, err = c.Write([]byte("late"))
		must(t, err)
		awaitCounters(t, left.program, "held", countHeld, 1)
	})
}

// TestQueueCloseMidway closes queues with frames in every place: received and not taken, on the fill ring, on the tx
// ring unseen by the kernel, sent and not reclaimed.
func TestQueueCloseMidway(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			r, client, port := echoRig(t, 1)
			r.attach(port, AttachNative, 1)
			r.open(port, driver, 1)
			c, err := client.Dial(context.Background(), "udp4", "10.9.0.2:7000")
			must(t, err)
			defer c.Close()
			for i := range 50 {
				_, err := fmt.Fprint(c, i)
				must(t, err)
			}
			awaitCounters(t, port.program, "redirected", countRedirected, 50)
			q := port.queues[0]
			var burst [20]Desc
			r.eventually("20 packets", func() bool {
				r.hand += q.Receive(burst[r.hand:])
				r.check("Receive")
				return r.hand == len(burst)
			})
			for _, d := range burst {
				echoChange(r.region.Packet(d))
			}
			if driver == "xsk" && q.Held().Rx != 30 {
				t.Errorf("held %+v", q.Held())
			}
			r.hand -= q.Transmit(burst[:10])
			r.check("Transmit")
			q.Flush()
			r.hand -= q.Transmit(burst[10:])
			r.check("Transmit")
			if r.hand != 0 || q.Held().Tx != 20 {
				t.Errorf("%d in hand, held %+v", r.hand, q.Held())
			}
			r.close()
			if driver == "xsk" { // Close lets leave what waits; the baseline sends at once
				must(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
			}
			buf := make([]byte, 16)
			for i := range 20 {
				n, err := c.Read(buf)
				if err != nil || string(buf[:n]) != fmt.Sprint(i) {
					t.Fatalf("answer %d is %q, %v", i, buf[:n], err)
				}
			}
		})
	}
}

// TestXSKReopen opens the same queues again as soon as they are closed: the kernel tears a socket down later.
func TestXSKReopen(t *testing.T) {
	const queues = 4
	r, client, port := echoRig(t, queues)
	r.attach(port, AttachNative, queues)
	for round := range 10 {
		r.open(port, "xsk", queues)
		if round%3 == 0 {
			r.traffic(client, 8, 2, "")
		}
		r.close()
	}
}

// fill makes packets for the host at the other end of p.
func (r *rig) packets(n int, dst net.HardwareAddr) []Desc {
	r.t.Helper()
	frame := testPacket{src: "10.9.0.1", dst: "10.9.0.2", proto: protoUDP, sport: 5000, dport: 7001}.build(r.t)
	copy(frame, dst)
	burst := make([]Desc, 0, n)
	for range n {
		addr, ok := r.pool.Get()
		if !ok {
			r.t.Fatal("out of frames")
		}
		r.hand++
		burst = append(burst, Desc{Addr: addr + Headroom, Len: uint32(copy(r.region.Frame(addr)[Headroom:], frame))})
	}
	return burst
}

// arrivals counts the frames of packets that a capture has.
func arrivals(c *lab.Capture) (n int) {
	for _, f := range c.Frames() {
		if len(f.Data) >= 38 && f.Data[23] == protoUDP && f.Data[36] == 7001>>8 && f.Data[37] == 7001&0xff {
			n++
		}
	}
	return n
}

// TestQueueTxFull: a ring without room takes less, and what it does not take stays ours.
func TestQueueTxFull(t *testing.T) {
	for _, driver := range drivers {
		t.Run(driver, func(t *testing.T) {
			r, client, port := echoRig(t, 1)
			port.driver = driver
			r.openQueue(port, 0, XSKConfig{Mode: BindCopy, RingSize: 64})
			mac, err := client.MAC("eth0")
			must(t, err)
			capture, err := client.Capture("eth0", 1000)
			must(t, err)
			q := port.queues[0]
			burst := r.packets(150, mac)
			r.check("taking frames")
			n := q.Transmit(burst)
			r.hand -= n
			r.check("Transmit")
			if n != 64 || q.Held().Tx != 64 {
				t.Errorf("a ring of 64 slots took %d of %d, holds %+v", n, len(burst), q.Held())
			}
			if driver == "xsk" {
				if n := q.Transmit(burst[64:]); n != 0 {
					t.Errorf("a full ring took %d", n)
				}
				// A wake-up sends 32 packets by default, and one Flush makes as many as it takes.
				q.Flush()
				r.eventually("one Flush sends the whole ring", func() bool {
					q.Reclaim(r.pool)
					return q.Held().Tx == 0
				})
				if s := q.Stats(); s.Wakeups < 2 || s.WakeupErrors != 0 || q.Pending() {
					t.Errorf("after one Flush: %+v", s)
				}
			}
			r.eventually("all is sent", func() bool {
				q.Flush()
				r.check("Flush")
				q.Reclaim(r.pool)
				r.check("Reclaim")
				k := q.Transmit(burst[n:])
				n += k
				r.hand -= k
				r.check("Transmit")
				return n == len(burst) && q.Held().Tx == 0
			})
			r.eventually("all arrive", func() bool { return arrivals(capture) == len(burst) })
			if s := q.Stats(); s.TxPackets != uint64(len(burst)) || s.TxInvalid != 0 {
				t.Errorf("%+v", s)
			}
			r.close()
		})
	}
}

// TestQueueLinkDown sends to a link that is down: at the far end, where the kernel drops; at ours, where it refuses;
// and to an interface that is gone. No frame is lost, sending goes on when the link is back, and Close
// returns all whatever the state.
func TestQueueLinkDown(t *testing.T) {
	for _, driver := range drivers {
		for _, c := range []struct {
			name         string
			down, up     func(client, mid *lab.Host) error
			closeWhileUp bool
		}{
			{"far end", setFar(false), setFar(true), true},
			{"far end, closed down", setFar(false), nil, false},
			{"own end", setOwn(false), setOwn(true), true},
			{"own end, closed down", setOwn(false), nil, false},
			{"interface gone", removeOwn, nil, false},
		} {
			t.Run(driver+"/"+c.name, func(t *testing.T) {
				r, client, port := echoRig(t, 1)
				r.attach(port, AttachNative, 1)
				r.open(port, driver, 1)
				mac, err := client.MAC("eth0")
				must(t, err)
				r.traffic(client, 4, 2, "")
				must(t, c.down(client, r.mid))
				q := port.queues[0]
				burst := r.packets(3*rigRing, mac)
				for range 100 { // more than the ring holds, whose room depends on what the kernel does
					n := q.Transmit(burst[:min(len(burst), 32)])
					burst = burst[n:]
					r.hand -= n
					r.check("Transmit")
					q.Flush()
					r.check("Flush")
					q.Reclaim(r.pool)
					r.check("Reclaim")
					q.Refill(r.pool)
					r.check("Refill")
				}
				t.Logf("while down: %d not taken, held %+v, %+v", len(burst), q.Held(), q.Stats())
				if held := q.Held().Tx; c.name == "far end" && held != 0 {
					t.Errorf("without a carrier the kernel drops what is sent, and %d packets wait to be sent late", held)
				}
				for _, d := range burst {
					r.pool.Put(r.region.Base(d.Addr))
					r.hand--
				}
				if c.up != nil {
					must(t, c.up(client, r.mid))
					r.neighbour(client, 2, port.mac)
					r.settle()
					r.traffic(client, 4, 2, "")
				}
				start := time.Now()
				r.close()
				if took := time.Since(start); took > 8*time.Second {
					t.Errorf("Close took %v", took)
				}
			})
		}
	}
}

func setFar(up bool) func(client, mid *lab.Host) error {
	return func(client, mid *lab.Host) error {
		err := client.SetLink("eth0", up)
		if up && err == nil { // the link took its IPv6 address along
			err = client.Addr("eth0", "fd09::1/64")
		}
		return err
	}
}

func setOwn(up bool) func(client, mid *lab.Host) error {
	return func(client, mid *lab.Host) error { return mid.SetLink("port", up) }
}

func removeOwn(client, mid *lab.Host) error {
	return mid.Do(func() error {
		l, err := netlink.LinkByName("port")
		if err != nil {
			return err
		}
		return netlink.LinkDel(l)
	})
}

// TestXSKBindMode: a veth has no zero-copy.
func TestXSKBindMode(t *testing.T) {
	r, client, port := echoRig(t, 1)
	try := func(cfg XSKConfig) (*XSK, error) {
		cfg.Interface, cfg.Ifindex, cfg.RingSize = port.name, port.ifindex, 64
		var q *XSK
		err := r.mid.Do(func() (err error) {
			q, err = OpenXSK(r.region, cfg)
			return err
		})
		return q, err
	}
	_, err := try(XSKConfig{Mode: BindZeroCopy})
	if !errors.Is(err, unix.EOPNOTSUPP) || !strings.Contains(err.Error(), "the driver has no zero-copy") || !strings.Contains(err.Error(), "port queue 0") {
		t.Errorf("zero-copy: %v", err)
	}
	q, err := try(XSKConfig{Mode: BindCopy})
	must(t, err)
	if q.ZeroCopy() || q.Note() != "" {
		t.Errorf("copy, as asked for: zero-copy %v, note %q", q.ZeroCopy(), q.Note())
	}
	for _, mode := range []BindMode{BindCopy, BindAuto} {
		// Both modes that auto tries share one time. A busy machine may add to it, but not again and again.
		const limit = 200 * time.Millisecond
		least := time.Hour
		for i := 0; i < 5 && least > 2*limit-limit/10; i++ {
			start := time.Now()
			_, err = try(XSKConfig{Mode: mode, BindTimeout: limit})
			if !errors.Is(err, unix.EBUSY) || !strings.Contains(err.Error(), "another AF_XDP socket") {
				t.Errorf("a queue in use, %s: %v", mode, err)
			}
			least = min(least, time.Since(start))
		}
		if least < limit || least > 2*limit-limit/10 {
			t.Errorf("a queue in use, %s: refused after %v", mode, least)
		}
	}
	must(t, q.Close(r.pool))
	if _, err := try(XSKConfig{Queue: 1}); !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "does the interface have a queue 1") {
		t.Errorf("a queue that is not there: %v", err)
	}
	must(t, r.mid.Do(func() error {
		for _, size := range []int{0, 32, 100, -64, 1 << 17} {
			if _, err := OpenXSK(r.region, XSKConfig{Interface: port.name, Ifindex: port.ifindex, RingSize: size}); err == nil {
				return fmt.Errorf("a ring of %d slots is accepted", size)
			}
		}
		return nil
	}))
	// Auto takes copy and says why; and it carries traffic.
	r.attach(port, AttachNative, 1)
	r.openQueue(port, 0, XSKConfig{Mode: BindAuto, RingSize: 256})
	auto := port.queues[0].(*XSK)
	if auto.ZeroCopy() || !strings.Contains(auto.Note(), "zero-copy refused") {
		t.Errorf("auto: zero-copy %v, note %q", auto.ZeroCopy(), auto.Note())
	}
	r.traffic(client, 4, 2, "")
	r.close()
}

// TestXSKTxOnly sends without a receive ring.
func TestXSKTxOnly(t *testing.T) {
	r, client, port := echoRig(t, 1)
	r.openQueue(port, 0, XSKConfig{RingSize: 64, TxOnly: true})
	q := port.queues[0]
	mac, err := client.MAC("eth0")
	must(t, err)
	capture, err := client.Capture("eth0", 100)
	must(t, err)
	r.hand -= q.Transmit(r.packets(10, mac))
	r.check("Transmit")
	if q.Refill(r.pool) != 0 || q.Receive(make([]Desc, 4)) != 0 || q.Held() != (Held{Tx: 10}) {
		t.Errorf("held %+v", q.Held())
	}
	q.Flush()
	r.eventually("all arrive", func() bool { return arrivals(capture) == 10 })
	r.close()
}

// TestXSKBusyPoll receives by the kernel's loop inside our calls.
func TestXSKBusyPoll(t *testing.T) {
	r, client, port := echoRig(t, 1)
	r.attach(port, AttachNative, 1)
	r.openQueue(port, 0, XSKConfig{
		Mode: BindCopy, RingSize: 256, BusyPoll: BusyPoll{Enabled: true, Timeout: 20 * time.Microsecond, Budget: 64},
	})
	n := r.traffic(client, 10, 10, "")
	r.checkTraffic(port, n, n)
	r.close()
}

// TestXSKNoPermission opens a socket and loads the program as nobody: the errors say what is missing.
func TestXSKNoPermission(t *testing.T) {
	const child = "SLUICE_TEST_NOBODY"
	if os.Getenv(child) != "" {
		region, err := NewRegion(64, 2048, false)
		must(t, err)
		_, err = OpenXSK(region, XSKConfig{Interface: "lo", Ifindex: 1, RingSize: 64})
		fmt.Println("xsk:", err)
		_, err = AttachProgram(ProgramConfig{Interface: "lo", Queues: 1})
		fmt.Println("program:", err)
		return
	}
	needLab(t)
	l, err := lab.New(context.Background(), "rings")
	must(t, err)
	defer l.Close()
	h, err := l.Host("nobody")
	must(t, err)
	// By this path the binary can be run although nobody cannot enter the folder that it is in.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestXSKNoPermission$")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Dir = &out, &out, "/"
	cmd.Env = []string{child + "=1"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	p, err := h.Start(cmd)
	must(t, err)
	if err := p.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &out)
	}
	lines := strings.Split(out.String(), "\n")
	for _, want := range []struct{ what, capability string }{
		{"xsk: ", "CAP_NET_RAW"}, {"program: ", "CAP_BPF"}, {"program: ", "CAP_NET_ADMIN"},
	} {
		i := slices.IndexFunc(lines, func(l string) bool { return strings.HasPrefix(l, want.what) })
		if i < 0 || !strings.Contains(lines[i], want.capability) || !strings.Contains(lines[i], "operation not permitted") {
			t.Errorf("%s is not named:\n%s", want.capability, &out)
		}
	}
}

// TestXSKLeavesNothing opens and closes and counts descriptors and mappings.
func TestXSKLeavesNothing(t *testing.T) {
	needLab(t)
	cycle := func(t *testing.T) {
		r, client, port := echoRig(t, 2)
		r.attach(port, AttachNative, 2)
		r.open(port, "xsk", 2)
		r.traffic(client, 8, 2, "")
		// Refused at every stage that a socket can be refused at.
		must(t, r.mid.Do(func() error {
			for _, cfg := range []XSKConfig{
				{Ifindex: port.ifindex, RingSize: 65, Mode: BindCopy},
				{Ifindex: port.ifindex, RingSize: 64, Mode: BindZeroCopy, Queue: 7},
				{Ifindex: port.ifindex, RingSize: 64, Mode: BindCopy, BindTimeout: time.Millisecond},
			} {
				if _, err := OpenXSK(r.region, cfg); err == nil {
					return fmt.Errorf("%+v is accepted", cfg)
				}
			}
			return nil
		}))
		r.close()
	}
	t.Run("first", cycle) // libraries keep descriptors from their first use on
	descriptors, maps := openDescriptors(t), socketMappings(t)
	for range 3 {
		t.Run("again", cycle)
	}
	if after := openDescriptors(t); after > descriptors {
		t.Errorf("%d descriptors before, %d after", descriptors, after)
	}
	if after := socketMappings(t); after != maps {
		t.Errorf("%d mappings of rings and regions before, %d after", maps, after)
	}
}

// socketMappings counts the mappings of AF_XDP rings and of regions.
func socketMappings(t *testing.T) (n int) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc/self", "maps"))
	must(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "socket:[") || strings.Contains(line, "sluice-frames") {
			n++
		}
	}
	return n
}
