package rings

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func dup(t *testing.T, fd int) int {
	t.Helper()
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	must(t, err)
	return n
}

// succeed has a successor take over everything of r by descriptors alone: region, queues and programs. What it has then is
// mapped and opened anew, and the predecessor's is let go of without a look at it.
func (r *rig) succeed() {
	t := r.t
	t.Helper()
	region, err := ImportRegion(dup(t, r.region.FD()), r.region.Frames(), r.region.FrameSize(), r.region.Pages())
	must(t, err)
	for _, p := range r.ports {
		next := make([]*XSK, len(p.queues))
		for i, q := range p.queues {
			next[i], err = ImportXSK(region, q.(*XSK).cfg, dup(t, q.FD()), "")
			must(t, err)
			t.Cleanup(func() { next[i].Leave() }) // should the test fail before
		}
		if p.program != nil {
			h, err := p.program.Handover()
			must(t, err)
			h.Link, h.Counters = dup(t, h.Link), dup(t, h.Counters)
			cfg := ProgramConfig{Interface: p.name, Mode: AttachAuto, Queues: len(p.queues), Rules: r.rules(), Sockets: map[int]int{}}
			for i, q := range next {
				cfg.Sockets[i] = q.FD()
			}
			var program *Program
			must(t, r.mid.Do(func() (err error) {
				program, err = succeedProgram(cfg, h, p.program.store)
				return err
			}))
			must(t, program.Replace())
			must(t, p.program.Close(false))
			p.program = program
			t.Cleanup(func() { program.Close(true) })
		}
		for i, q := range p.queues {
			s := q.(*XSK).Export()
			before := q.Held()
			must(t, next[i].Import(&s))
			// The kernel may have moved frames from fill to rx in between.
			if h := next[i].Held(); h.Sum() != before.Sum() || h.Tx != before.Tx {
				t.Errorf("%s queue %d: holds %+v, held %+v", p.name, i, h, before)
			}
			must(t, q.(*XSK).Leave())
			p.queues[i] = next[i]
		}
	}
	must(t, r.region.Close())
	r.region = region
	r.check("a takeover")
}

// Sockets, region and programs are handed over again and again while datagrams go through: none is lost, in either mode of
// the program, and every frame is in its place.
func TestTakeoverForward(t *testing.T) {
	for _, mode := range []AttachMode{AttachNative, AttachGeneric} {
		for _, queues := range []int{1, 4} {
			t.Run(mode.String()+map[int]string{1: "/1", 4: "/4"}[queues], func(t *testing.T) {
				r, client, _, left, right := forwardRig(t, queues)
				for _, p := range r.ports {
					r.attach(p, mode, queues)
					r.open(p, "xsk", queues)
				}
				done := make(chan struct{})
				var err error
				seed := rand.Uint64()
				go func() {
					defer close(done)
					err = errors.Join(
						exchange(client, "udp4", "10.9.0.2:7000", 40, 10, "srv ", seed),
						exchange(client, "udp6", "[fd09::2]:7000", 40, 10, "srv ", seed))
				}()
				takeovers := 0
			pump:
				for last := time.Now(); ; {
					busy := r.step()
					if time.Since(last) > 2*time.Millisecond && busy && takeovers < 40 {
						r.succeed()
						takeovers++
						last = time.Now()
					}
					select {
					case <-done:
						break pump
					default:
					}
				}
				if err != nil {
					t.Fatalf("seed %d, %d takeovers: %v", seed, takeovers, err)
				}
				if takeovers < 3 {
					t.Errorf("only %d takeovers", takeovers)
				}
				t.Logf("%d takeovers", takeovers)
				r.settle()
				r.checkTraffic(left, 800, 800)
				r.checkTraffic(right, 800, 800)
				r.close()
			})
		}
	}
}

// A takeover with frames in every place: received and not taken, on the fill ring, on the tx ring unseen by the kernel, sent
// and not reclaimed. The successor answers what its predecessor has received.
func TestTakeoverMidway(t *testing.T) {
	r, client, port := echoRig(t, 1)
	r.attach(port, AttachNative, 1)
	r.open(port, "xsk", 1)
	c, err := client.Dial(t.Context(), "udp4", "10.9.0.2:7000")
	must(t, err)
	defer c.Close()
	for i := range 50 {
		_, err := c.Write([]byte{byte(i)})
		must(t, err)
	}
	awaitCounters(t, port.program, "redirected", countRedirected, 50)
	q := port.queues[0]
	var burst [20]Desc
	r.eventually("20 packets", func() bool {
		r.hand += q.Receive(burst[r.hand:])
		return r.hand == len(burst)
	})
	for _, d := range burst {
		echoChange(r.region.Packet(d))
	}
	r.hand -= q.Transmit(burst[:10])
	q.Flush()
	r.hand -= q.Transmit(burst[10:]) // Export shows them to the kernel
	r.succeed()
	if h := port.queues[0].Held(); h.Rx != 30 || h.Tx != 20 {
		t.Errorf("the successor holds %+v", h)
	}
	r.settle()
	must(t, c.SetReadDeadline(time.Now().Add(5*time.Second)))
	buf := make([]byte, 16)
	for i := range 50 {
		n, err := c.Read(buf)
		if err != nil || n != 1 || buf[0] != byte(i) {
			t.Fatalf("answer %d is %v, %v", i, buf[:n], err)
		}
	}
	r.close()
}

// What does not fit is refused before anything is touched, and the predecessor goes on.
func TestTakeoverRefused(t *testing.T) {
	r, client, port := echoRig(t, 1)
	r.attach(port, AttachNative, 1)
	r.open(port, "xsk", 1)
	q := port.queues[0].(*XSK)
	pipe := make([]int, 2)
	must(t, unix.Pipe2(pipe, unix.O_CLOEXEC))
	defer unix.Close(pipe[1])
	if _, err := ImportXSK(r.region, q.cfg, pipe[0], ""); err == nil {
		t.Error("a pipe is taken for a socket")
	}
	if _, err := unix.FcntlInt(uintptr(pipe[0]), unix.F_GETFD, 0); err == nil {
		t.Error("a refused descriptor stays open")
	}
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	if _, err := ImportXSK(r.region, q.cfg, udp, ""); err == nil || !strings.Contains(err.Error(), "AF_XDP") {
		t.Errorf("a UDP socket: %v", err)
	}
	if _, err := ImportRegion(dup(t, r.region.FD()), 2*r.region.Frames(), 2048, ""); err == nil {
		t.Error("a region that is too small")
	}
	next, err := ImportXSK(r.region, q.cfg, dup(t, q.FD()), "")
	must(t, err)
	defer next.Leave()
	good := q.Export()
	for name, change := range map[string]func(*QueueState){
		"another region":     func(s *QueueState) { s.Held = s.Held[1:] },
		"a frame too many":   func(s *QueueState) { s.HeldFill++ },
		"fewer than on ring": func(s *QueueState) { s.HeldFill, s.HeldTx = 0, s.HeldFill },
		"no bytes":           func(s *QueueState) { s.Held[0] = 2 },
		"negative":           func(s *QueueState) { s.HeldTx = -1; s.HeldFill++ },
	} {
		s := good
		s.Held = append([]uint8(nil), good.Held...)
		change(&s)
		if err := next.Import(&s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	n := r.traffic(client, 4, 4, "")
	r.checkPlain(port, n)
	r.close()
}

func (r *rig) checkPlain(p *rigPort, n int) {
	r.t.Helper()
	if s, _ := p.stats(); s.RxPackets != uint64(n) || s.TxPackets != uint64(n) {
		r.t.Errorf("%+v for %d packets", s, n)
	}
}

// A socket whose interface is gone is in a state in which every kernel refuses to map its rings, as those before 6.4 do in
// any: the error names the version.
func TestTakeoverUnbound(t *testing.T) {
	r, _, port := echoRig(t, 1)
	r.open(port, "xsk", 1)
	q := port.queues[0].(*XSK)
	must(t, removeOwn(nil, r.mid))
	r.eventually("EBUSY", func() bool {
		next, err := ImportXSK(r.region, q.cfg, dup(t, q.FD()), "")
		if err == nil {
			must(t, next.Leave())
			return false
		}
		if !errors.Is(err, ErrBoundRing) || !strings.Contains(err.Error(), "6.4") {
			t.Fatal(err)
		}
		return true
	})
	r.close()
}

// A program that was put in force by a successor which gave up is replaced by the predecessor's again.
func TestTakeoverProgramBack(t *testing.T) {
	r, client, port := echoRig(t, 1)
	r.attach(port, AttachNative, 1)
	r.open(port, "xsk", 1)
	h, err := port.program.Handover()
	must(t, err)
	h.Link, h.Counters = dup(t, h.Link), dup(t, h.Counters)
	var next *Program
	must(t, r.mid.Do(func() (err error) {
		next, err = succeedProgram(ProgramConfig{Interface: port.name, Queues: 1, Rules: r.rules()}, h, port.program.store)
		return err
	}))
	must(t, next.Replace())
	must(t, next.Close(false))
	must(t, port.program.Replace())
	n := r.traffic(client, 4, 4, "")
	r.checkTraffic(port, n, n)
	r.close()
	h.Mode = AttachNative
	h.Link, h.Counters = dup(t, port.program.link.(interface{ FD() int }).FD()), dup(t, port.program.objs.Counters.FD())
	must(t, r.mid.Do(func() error {
		_, err := succeedProgram(ProgramConfig{Interface: port.name, Mode: AttachGeneric, Queues: 1, Rules: r.rules()}, h, port.program.store)
		if err == nil || !strings.Contains(err.Error(), "generic") {
			t.Errorf("another mode: %v", err)
		}
		return nil
	}))
}

// Of two who decide, one does, also when both have mapped the word for themselves.
func TestDecision(t *testing.T) {
	for range 200 {
		a, err := NewDecision()
		must(t, err)
		b, err := ImportDecision(dup(t, a.FD()))
		must(t, err)
		won := make(chan uint32, 2)
		for v, d := range []*Decision{a, b} {
			go func() {
				if d.Decide(uint32(v + 1)) {
					won <- uint32(v + 1)
				} else {
					won <- 0
				}
			}()
		}
		x, y := <-won, <-won
		if x*y != 0 || x+y != a.Value() || a.Value() != b.Value() {
			t.Fatalf("%d and %d have won, the decision is %d", x, y, a.Value())
		}
		must(t, errors.Join(a.Close(), b.Close()))
	}
}

// The memory driver's successor goes on with the rings as they are.
func TestTakeoverMem(t *testing.T) {
	region := NewHeapRegion(64, 2048)
	pool := fullPool(region)
	q, wire := NewMem(region, 16)
	seen := byte(0)
	for round := range byte(50) {
		q.Refill(pool)
		for i := range byte(3) {
			if !wire.Send([]byte{3*round + i, 0, 0}) {
				t.Fatal("the wire is full")
			}
		}
		var burst [2]Desc
		n := q.Receive(burst[:])
		q.Transmit(burst[:n])
		next := q.Successor()
		s := q.Export()
		must(t, next.Import(&s))
		q = next
		n = q.Receive(burst[:])
		q.Transmit(burst[:n])
		q.Flush()
		wire.Recv(func(p []byte) {
			if p[0] != seen {
				t.Fatalf("packet %d, not %d", p[0], seen)
			}
			seen++
		})
		q.Reclaim(pool)
	}
	if seen != 150 {
		t.Errorf("%d packets came through", seen)
	}
	bad := q.Export()
	bad.HeldFill = 0
	if err := q.Successor().Import(&bad); err == nil {
		t.Error("a wrong count is accepted")
	}
	must(t, q.Close(pool))
	must(t, region.Audit(pool))
}
