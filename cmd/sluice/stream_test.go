package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
)

// stream is numbered datagrams at a fixed rate from the client to one virtual server, each echoed by a member. It knows which
// number has come where, and asks everybody on the way for what they have dropped.
type stream struct {
	b      *bed
	client *net.UDPConn
	server []*net.UDPConn
	ending chan struct{}
	wg     sync.WaitGroup
	sent   int
	there  []atomic.Uint32 // by number: how often it has come to a server
	back   []atomic.Uint32 // and back to the client
	came   atomic.Int64
	before dropped
	began  time.Time
	took   time.Duration
}

// dropped is who has dropped how many, by name. ours are those that sluice and its sockets count.
type dropped struct{ ours, others map[string]uint64 }

// streamReport is what became of all datagrams.
type streamReport struct {
	sent, lostThere, lostBack, double int
	dropped
	took time.Duration
}

func (r streamReport) String() string {
	return fmt.Sprintf("%d sent in %s (%.0f/s), %d lost on the way there, %d on the way back, %d twice; dropped by us %v, by others %v",
		r.sent, r.took.Round(time.Millisecond), float64(r.sent)/r.took.Seconds(), r.lostThere, r.lostBack, r.double, r.ours, r.others)
}

func (r streamReport) byUs() (n uint64) {
	for _, c := range r.ours {
		n += c
	}
	return n
}

// unexplained is how many are missing beyond those that somebody counts. Others may count packets that are not the stream's.
func (r streamReport) unexplained() int {
	n := uint64(r.lostThere+r.lostBack) - min(uint64(r.lostThere+r.lostBack), r.byUs())
	for _, c := range r.others {
		n -= min(n, c)
	}
	return int(n)
}

const streamBuffer = 16 << 20

func bigBuffers(t testing.TB, c *net.UDPConn) {
	t.Helper()
	raw := must(c.SyscallConn())(t)
	ok(t, raw.Control(func(fd uintptr) {
		ok(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, streamBuffer))
		ok(t, unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, streamBuffer))
	}))
}

// newStream starts the echo servers and the stream.
func (b *bed) newStream(t *testing.T, rate int) *stream {
	t.Helper()
	s := &stream{b: b, ending: make(chan struct{}), there: make([]atomic.Uint32, rate*300), back: make([]atomic.Uint32, rate*300)}
	for i, h := range b.Servers {
		var pc net.PacketConn
		ok(t, h.Do(func() (err error) {
			pc, err = net.ListenPacket("udp4", fmt.Sprintf("%s:%d", b.ServerAddr4[i], dnsPort))
			return err
		}))
		c := pc.(*net.UDPConn)
		bigBuffers(t, c)
		s.server = append(s.server, c)
		go s.echo(c)
	}
	conn := must(b.Client.Dial(t.Context(), "udp", b.vips(dnsPort)[0].String()))(t)
	s.client = conn.(*net.UDPConn)
	bigBuffers(t, s.client)
	s.before = s.drops()
	s.wg.Go(func() { s.send(rate) })
	go s.receive()
	t.Cleanup(func() {
		s.client.Close()
		for _, c := range s.server {
			c.Close()
		}
	})
	return s
}

func (s *stream) echo(c *net.UDPConn) {
	buf := make([]byte, 64)
	for {
		n, from, err := c.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		if n == 8 {
			s.there[binary.BigEndian.Uint64(buf)].Add(1)
			_, _ = c.WriteToUDPAddrPort(buf[:n], from)
		}
	}
}

func (s *stream) receive() {
	buf := make([]byte, 64)
	for {
		n, err := s.client.Read(buf)
		if err != nil {
			return
		}
		if n == 8 {
			s.back[binary.BigEndian.Uint64(buf)].Add(1)
			s.came.Add(1)
		}
	}
}

// catchUp is how much of what a late turn has missed goes out at once: more would be a burst that no queue holds.
const catchUp = 10 * time.Millisecond

// send keeps the rate as well as the machine lets it.
func (s *stream) send(rate int) {
	var b [8]byte
	start := time.Now()
	s.began = start
	defer func() { s.took = time.Since(s.began) }()
	for s.sent < len(s.there) {
		select {
		case <-s.ending:
			return
		default:
		}
		due := int(time.Since(start).Seconds() * float64(rate))
		if most := s.sent + int(catchUp.Seconds()*float64(rate)); due > most {
			start = start.Add(time.Duration(due-most) * time.Second / time.Duration(rate))
			due = most
		}
		for ; s.sent < min(due, len(s.there)); s.sent++ {
			binary.BigEndian.PutUint64(b[:], uint64(s.sent))
			if _, err := s.client.Write(b[:]); err != nil {
				s.b.t.Errorf("send datagram %d: %v", s.sent, err)
				return
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func (s *stream) returned() int64 { return s.came.Load() }

// stop ends the stream, waits for what is on its way, and reports.
func (s *stream) stop() streamReport {
	s.b.t.Helper()
	close(s.ending)
	s.wg.Wait()
	r := streamReport{sent: s.sent}
	for deadline := time.Now().Add(2 * time.Second); s.came.Load() < int64(s.sent) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	for i := range s.sent {
		there, back := s.there[i].Load(), s.back[i].Load()
		switch {
		case there == 0:
			r.lostThere++
		case back == 0:
			r.lostBack++
		case there > 1 || back > 1:
			r.double++
		}
	}
	now := s.drops()
	r.dropped = dropped{ours: minus(now.ours, s.before.ours), others: minus(now.others, s.before.others)}
	r.took = s.took
	return r
}

func minus(now, before map[string]uint64) map[string]uint64 {
	out := map[string]uint64{}
	for k, n := range now {
		if n > before[k] {
			out[k] = n - before[k]
		}
	}
	return out
}

// drops asks sluice, its sockets, the links of all hosts, and the sockets of the stream.
func (s *stream) drops() dropped {
	t := s.b.t
	t.Helper()
	d := dropped{ours: map[string]uint64{}, others: map[string]uint64{}}
	for reason, n := range s.b.drops() {
		d.ours["drop "+reason] = n
	}
	for _, p := range query[[]ctl.PortView](s.b, "port") {
		d.ours[p.Name+" ring full"], d.ours[p.Name+" fill empty"] = p.RingFull, p.FillEmpty
		d.ours[p.Name+" invalid"], d.ours[p.Name+" held"] = p.Invalid, p.Held
	}
	for i, h := range append([]*lab.Host{s.b.Client, s.b.Balancer, s.b.Switch}, s.b.Servers...) {
		ok(t, h.Do(func() error {
			links, err := netlink.LinkList()
			for _, l := range links {
				if st := l.Attrs().Statistics; st != nil {
					d.others[fmt.Sprintf("host %d link %s", i, l.Attrs().Name)] = st.RxDropped + st.TxDropped
				}
			}
			return err
		}))
	}
	for i, c := range append([]*net.UDPConn{s.client}, s.server...) {
		d.others[fmt.Sprintf("socket %d", i)] = socketDrops(t, c)
	}
	return d
}

// socketDrops is what the kernel has dropped because a socket's buffer was full (SO_MEMINFO, SK_MEMINFO_DROPS).
func socketDrops(t testing.TB, c syscall.Conn) uint64 {
	t.Helper()
	var info [9]uint32
	raw := must(c.SyscallConn())(t)
	ok(t, raw.Control(func(fd uintptr) {
		size := uint32(unsafe.Sizeof(info))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			t.Fatal(errno)
		}
	}))
	return uint64(info[8])
}
