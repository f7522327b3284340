package rings

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// unboundSocket is an AF_XDP socket with all that the socket map asks for.
func unboundSocket(t *testing.T, region *Region) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := registerUMEM(fd, region); err != nil {
		t.Fatal(err)
	}
	for _, ring := range []int{unix.XDP_UMEM_FILL_RING, unix.XDP_UMEM_COMPLETION_RING, unix.XDP_RX_RING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_XDP, ring, 64); err != nil {
			t.Fatal(err)
		}
	}
	return fd
}

// sendFrames sends frames out of an interface of the namespace.
func sendFrames(t *testing.T, ifname string, frame []byte, n int) {
	t.Helper()
	l, err := netlink.LinkByName(ifname)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for range n {
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}); err != nil {
			t.Fatal(err)
		}
	}
}

func attachForTest(t *testing.T, s pinStore, mode AttachMode) *Program {
	t.Helper()
	p, err := attachProgram(ProgramConfig{Interface: "port", Mode: mode, Queues: 1, Rules: testRules(false)}, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func closeForTest(t *testing.T, p *Program, detach bool) {
	t.Helper()
	if err := p.Close(detach); err != nil {
		t.Fatal(err)
	}
}

func isAttached(t *testing.T, ifindex int) bool {
	t.Helper()
	_, id, err := attachedProgram(ifindex)
	if err != nil {
		t.Fatal(err)
	}
	return id != 0
}

// awaitCounters waits until n frames went the way that of names.
func awaitCounters(t *testing.T, p *Program, what string, of func(ProgramCounters) uint64, n uint64) {
	t.Helper()
	var c ProgramCounters
	for range 4000 {
		var err error
		if c, err = p.Counters(); err != nil {
			t.Fatal(err)
		}
		if of(c) == n {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatalf("%s is not %d: %+v", what, n, c)
}

func countHeld(c ProgramCounters) uint64       { return c.Held }
func countRedirected(c ProgramCounters) uint64 { return c.Redirected }

// TestProgramTraffic sends to an AF_XDP socket through a veth, in both modes.
func TestProgramTraffic(t *testing.T) {
	for _, mode := range []AttachMode{AttachNative, AttachGeneric} {
		t.Run(mode.String(), func(t *testing.T) {
			programNetns(t)
			programVeth(t, netlink.Veth{})
			p := attachForTest(t, testPins(t, true), mode)
			defer p.Close(true)
			frame := testPacket{src: "1.2.3.4", dst: "10.10.1.100", proto: protoTCP, dport: 80, mac: 2}.build(t)
			sendFrames(t, "far", frame, 3)
			awaitCounters(t, p, "held", countHeld, 3)

			region, err := NewRegion(256, 2048, false)
			if err != nil {
				t.Fatal(err)
			}
			defer region.Close()
			pool := NewPool(region.Frames())
			for i := range region.Frames() {
				pool.Put(uint64(i * region.FrameSize()))
			}
			q, err := OpenXSK(region, XSKConfig{Interface: "port", Ifindex: p.ifindex, RingSize: 64, Mode: BindCopy})
			if err != nil {
				t.Fatal(err)
			}
			defer q.Close(pool)
			q.Refill(pool)
			if err := p.SetSocket(0, q.FD()); err != nil {
				t.Fatal(err)
			}
			sendFrames(t, "far", frame, 5)
			awaitCounters(t, p, "redirected", countRedirected, 5)
			var burst [16]Desc
			if n := q.Receive(burst[:]); n != 5 {
				t.Fatalf("received %d frames, want 5", n)
			}
			if got := region.Packet(burst[0]); string(got) != string(frame) {
				t.Errorf("received % x, sent % x", got, frame)
			}
			pool.PutAll([]uint64{burst[0].Addr, burst[1].Addr, burst[2].Addr, burst[3].Addr, burst[4].Addr})

			// A socket that is closed leaves the map by itself.
			if err := q.Close(pool); err != nil {
				t.Fatal(err)
			}
			sendFrames(t, "far", frame, 2)
			awaitCounters(t, p, "held", countHeld, 5)
		})
	}
}

// TestProgramLifecycle goes through attach, crash, adoption, change of mode and release, with the bpffs at the
// system's place and with our own.
func TestProgramLifecycle(t *testing.T) {
	for _, system := range []bool{true, false} {
		t.Run(map[bool]string{true: "system", false: "own"}[system], func(t *testing.T) {
			programNetns(t)
			port := programVeth(t, netlink.Veth{}).Attrs().Index
			s := testPins(t, system)
			closeForTest(t, attachForTest(t, s, AttachAuto), true) // the library's own descriptors are open from here
			checkNoPins(t, s)
			checkDescriptors(t)

			first := attachForTest(t, s, AttachAuto)
			if first.Adopted() || first.Mode() != AttachNative || first.Pinned() == "" {
				t.Errorf("first start: adopted %v, mode %s, pin %q, notes %q", first.Adopted(), first.Mode(), first.Pinned(), first.Notes())
			}
			closeForTest(t, first, false)
			closeForTest(t, first, true) // once closed it does nothing
			first.Beat(1)                // nor harm
			if !isAttached(t, port) {
				t.Fatal("the program did not outlive its owner")
			}

			second := attachForTest(t, s, AttachNative)
			if !second.Adopted() || second.Pinned() != first.Pinned() {
				t.Errorf("second start: adopted %v, pin %q, notes %q", second.Adopted(), second.Pinned(), second.Notes())
			}
			if _, id, _ := attachedProgram(port); id != second.id {
				t.Errorf("program %d is attached, want the second's, %d", id, second.id)
			}
			// An upgrade: the successor adopts while the second still lives, and the second's end does not hurt it.
			third := attachForTest(t, s, AttachAuto)
			closeForTest(t, second, true)
			if _, id, _ := attachedProgram(port); id != third.id || !third.Adopted() {
				t.Errorf("program %d is attached, want the third's, %d; adopted %v", id, third.id, third.Adopted())
			}
			closeForTest(t, third, false)

			fourth := attachForTest(t, s, AttachGeneric)
			if fourth.Adopted() || fourth.Mode() != AttachGeneric || len(fourth.Notes()) != 1 {
				t.Errorf("other mode: adopted %v, mode %s, notes %q", fourth.Adopted(), fourth.Mode(), fourth.Notes())
			}
			closeForTest(t, fourth, false)
			fifth := attachForTest(t, s, AttachAuto)
			if !fifth.Adopted() || fifth.Mode() != AttachGeneric || len(fifth.Notes()) != 1 {
				t.Errorf("auto takes what is there: adopted %v, mode %s, notes %q", fifth.Adopted(), fifth.Mode(), fifth.Notes())
			}
			closeForTest(t, fifth, false)

			all, err := s.list()
			if err != nil || len(all) != 1 || !all[0].Alive || all[0].Interface != "port" || all[0].Ifindex != port {
				t.Fatalf("list: %+v, %v", all, err)
			}
			if err := s.release(all[0]); err != nil {
				t.Fatal(err)
			}
			if isAttached(t, port) {
				t.Error("still attached after the release")
			}
			checkNoPins(t, s)
		})
	}
}

func TestProgramFallsBackToGeneric(t *testing.T) {
	programNetns(t)
	programVeth(t, netlink.Veth{PeerNumTxQueues: 4, PeerNumRxQueues: 4})
	s := testPins(t, true)
	p := attachForTest(t, s, AttachAuto)
	defer p.Close(true)
	if p.Mode() != AttachGeneric || len(p.Notes()) != 1 || !strings.Contains(p.Notes()[0], "queues") {
		t.Errorf("mode %s, notes %q", p.Mode(), p.Notes())
	}
	closeForTest(t, p, true)
	_, err := attachProgram(ProgramConfig{Interface: "port", Mode: AttachNative, Queues: 1}, s)
	if err == nil || !strings.Contains(err.Error(), "queues") {
		t.Errorf("native alone: %v", err)
	}
	checkNoPins(t, s)
}

func TestProgramNamesOccupant(t *testing.T) {
	programNetns(t)
	port := programVeth(t, netlink.Veth{})
	s := testPins(t, true)
	other, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "firewall", Type: ebpf.XDP, License: "MIT", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := netlink.LinkSetXdpFdWithFlags(port, other.FD(), unix.XDP_FLAGS_DRV_MODE); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []AttachMode{AttachAuto, AttachNative, AttachGeneric} {
		_, err := attachProgram(ProgramConfig{Interface: "port", Mode: mode, Queues: 1}, s)
		if err == nil || !strings.Contains(err.Error(), `"firewall"`) || !strings.Contains(err.Error(), "xdpdrv off") {
			t.Errorf("%s: %v", mode, err)
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EEXIST) {
			t.Errorf("%s: %v lost its cause", mode, err)
		}
	}
	if err := netlink.LinkSetXdpFdWithFlags(port, -1, unix.XDP_FLAGS_DRV_MODE); err != nil {
		t.Fatal(err)
	}
	p := attachForTest(t, s, AttachAuto)
	elsewhere := testPins(t, true) // another engine that cannot see the pin
	if _, err := attachProgram(ProgramConfig{Interface: "port", Queues: 1}, elsewhere); err == nil || !strings.Contains(err.Error(), "another sluice") {
		t.Errorf("second engine: %v", err)
	}
	closeForTest(t, p, true)
	checkNoPins(t, s)
}

func TestProgramWithoutBPFFS(t *testing.T) {
	programNetns(t)
	port := programVeth(t, netlink.Veth{}).Attrs().Index
	s := testPins(t, false)
	s.own, s.lock = "/proc/none/bpf", "/proc/none/bpf.lock"
	p := attachForTest(t, s, AttachAuto)
	if p.Pinned() != "" || len(p.Notes()) != 1 || !strings.Contains(p.Notes()[0], "not pinned") {
		t.Errorf("pin %q, notes %q", p.Pinned(), p.Notes())
	}
	closeForTest(t, p, false)
	if isAttached(t, port) {
		t.Error("attached for ever, without a pin")
	}
}

func TestProgramRefusesConfig(t *testing.T) {
	for _, cfg := range []ProgramConfig{
		{Interface: "lo"},
		{Interface: "lo", Queues: 1, HoldTime: time.Millisecond},
		{Interface: "no-such-port", Queues: 1},
		{Interface: "lo", Ifindex: 1 << 20, Queues: 1},
	} {
		if p, err := attachProgram(cfg, pinStore{}); err == nil {
			p.Close(true)
			t.Errorf("%+v was accepted", cfg)
		}
	}
	lacks := explainLoad("eth1", fmt.Errorf("load: %w (advice)", unix.EPERM))
	if want := "load the XDP program of eth1: operation not permitted (needs CAP_NET_ADMIN, CAP_BPF"; !strings.HasPrefix(lacks.Error(), want) || !errors.Is(lacks, unix.EPERM) {
		t.Errorf("without privilege: %v", lacks)
	}
}

// TestProgramSetRules changes the rules while packets arrive: between two sets that both have the server, none
// of its packets may pass.
func TestProgramSetRules(t *testing.T) {
	needBPF(t)
	c := newClassifier(t, ProgramConfig{Rules: testRules(false)})
	frame := testPacket{src: "1.2.3.4", dst: "10.10.1.101", proto: protoTCP, dport: 80}.build(t)
	many := testRules(true)
	for i := range 20000 {
		addr := netip.AddrFrom4([4]byte{20, byte(i >> 8), byte(i), 1})
		many.Members = append(many.Members, MemberRule{Addr: addr, Proto: protoTCP, Port: 80})
	}
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			action, err := c.objs.SluiceClassify.Run(&ebpf.RunOptions{Data: frame, Repeat: 100})
			if err == nil && action != 1 {
				err = errors.New("a packet to the server passed")
			}
			if err != nil {
				done <- err
				return
			}
		}
	}()
	for range 5 {
		for _, r := range []Rules{many, testRules(false)} {
			if err := c.SetRules(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n, err := c.Counters(); err != nil || n.Passed != 0 || n.Held == 0 {
		t.Errorf("%+v, %v", n, err)
	}
	c.last, _ = c.Counters()
	last := testPacket{src: "20.78.31.1", dst: "9.9.9.9", proto: protoTCP, sport: 80}.build(t) // the last of the many
	if got := c.run(t, last); got != verdictPass {
		t.Errorf("under the small rules: %s", got)
	}
	if err := c.SetRules(many); err != nil {
		t.Fatal(err)
	}
	if got := c.run(t, last); got != verdictOurs {
		t.Errorf("under the large rules: %s", got)
	}
	bad := many
	bad.SNAT = []SNATRule{{}}
	if err := c.SetRules(bad); err == nil {
		t.Error("bad rules were accepted")
	}
	if got := c.run(t, last); got != verdictOurs {
		t.Errorf("after refused rules: %s", got)
	}
}
