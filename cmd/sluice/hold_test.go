package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"sluice/perf/lab"
)

// A killed engine leaves its program attached. What is ours is dropped until the hold time is over, so that no
// client's connection is reset; then the configured policy holds. The rest of the host works throughout, and
// `port release --all` takes everything away.
func TestKilledWithoutRestart(t *testing.T) {
	for _, after := range []string{"pass", "drop"} {
		t.Run(after, func(t *testing.T) {
			t.Parallel() // it mostly waits
			// What is seen after the hold says nothing about it. A machine too slow for a short one gets a longer one.
			for _, hold := range []time.Duration{2 * time.Second, 6 * time.Second, 18 * time.Second} {
				judged := false
				if !t.Run(hold.String(), func(t *testing.T) { judged = killedWithoutRestart(t, after, hold) }) || judged {
					return
				}
			}
			t.Error("too slow to look at the hold")
		})
	}
}

// killedWithoutRestart is the test with one hold time. It reports whether all that is to be seen during the hold was.
func killedWithoutRestart(t *testing.T, after string, hold time.Duration) (judged bool) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{engine: fmt.Sprintf("hold-time: %s, after-hold: %s", hold, after)})
	clean := b.hostState(false)
	b.echoServer(b.Balancer, netip.AddrPortFrom(b.Outside4, 22))
	b.echoServer(b.Balancer, netip.AddrPortFrom(b.Outside6, 22))
	var conns []*session
	open := func(to netip.AddrPort) *session {
		s, err := openSession(b.Client, to)
		ok(t, err)
		t.Cleanup(func() { s.Close() })
		ok(t, s.say(waitTime))
		return s
	}
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr6[i], webPort))
	}
	d := b.start()
	ssh := []*session{open(netip.AddrPortFrom(b.Outside4, 22)), open(netip.AddrPortFrom(b.Outside6, 22))}
	for _, vip := range b.vips(webPort) {
		conns = append(conns, open(vip))
	}
	capture := must(b.Client.Capture("eth0", 1e5))(t)
	alive := time.Now()
	d.kill()
	killed := time.Now()

	// During the hold, which began with the last heartbeat, some 100 ms before the kill.
	const beat = 500 * time.Millisecond
	holds := func() bool { return time.Since(alive) < hold-beat }
	for _, s := range conns {
		if err := s.say(200 * time.Millisecond); !timedOut(err) && holds() {
			t.Errorf("%s: %v, want silence", s.RemoteAddr(), err)
		}
	}
	for _, vip := range b.vips(webPort) {
		if _, err := ask(b.Client, vip, 200*time.Millisecond); !timedOut(err) && holds() {
			t.Errorf("a new connection to %s during the hold: %v, want silence", vip, err)
		}
	}
	seen := holds()
	for holds() {
		for _, s := range ssh {
			if err := s.say(waitTime); err != nil {
				t.Fatalf("ssh during the hold: %v", err)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := resets(capture.Frames(), b.VIP4, b.VIP6); n > 0 && time.Since(alive) < hold-beat/2 {
		t.Errorf("the client was sent %d resets during the hold", n)
	}
	judged = seen && time.Since(alive) < hold-beat/2
	t.Logf("looked at the hold until %s after the kill", time.Since(alive).Round(time.Millisecond))

	time.Sleep(time.Until(killed.Add(hold + 300*time.Millisecond))) // the thing under test is a time
	for _, vip := range b.vips(webPort) {
		limit := listenTime
		if after == "pass" {
			limit = waitTime
		}
		_, err := ask(b.Client, vip, limit)
		if after == "pass" && !errors.Is(err, syscall.ECONNREFUSED) || after == "drop" && !timedOut(err) {
			t.Errorf("a new connection to %s after the hold: %v", vip, err)
		}
	}
	for _, s := range conns {
		limit := listenTime
		if after == "pass" {
			limit = hold + 2*waitTime // the reset answers a retransmission, and by now these are seconds apart
		}
		err := s.say(limit)
		if after == "pass" && !errors.Is(err, syscall.ECONNRESET) || after == "drop" && !timedOut(err) {
			t.Errorf("%s after the hold: %v", s.RemoteAddr(), err)
		}
	}
	for _, s := range ssh {
		if err := s.say(waitTime); err != nil {
			t.Errorf("ssh after the hold: %v", err)
		}
	}
	ok(t, capture.Close())
	if n := resets(capture.Frames(), b.VIP4, b.VIP6); (n > 0) != (after == "pass") {
		t.Errorf("%d resets with after-hold: %s", n, after)
	}

	// Nothing was taken away by itself, and one command takes it all.
	if left := b.leftBehind(); !strings.Contains(left, "pin") {
		t.Errorf("after a kill there should be pins: %s", left)
	}
	r := b.sluice(nil, "port", "release", "--all")
	if r.code != 0 || !strings.Contains(r.stdout, "released outside") || !strings.Contains(r.stdout, "released inside") ||
		!strings.Contains(r.stdout, b.VIP4.String()) || !strings.Contains(r.stdout, "host port") {
		t.Errorf("port release --all: %+v", r)
	}
	if now := b.hostState(false); now != clean {
		t.Errorf("after the release:\n%swant\n%s", now, clean)
	}
	// What a second one may find belonged to namespaces that are gone, of other programs of the machine.
	r = b.sluice(nil, "port", "release", "--all")
	if rest := strings.TrimSpace(withoutLines(r.stdout, "gone")); r.code != 0 || rest != "" && rest != "nothing was left" {
		t.Errorf("a second release: %+v", r)
	}
	rmSocket(b)
	return judged
}

// resets counts the RST segments from the addresses.
func resets(frames []lab.CapturedFrame, from ...netip.Addr) (n int) {
	for _, f := range frames {
		if f.Outgoing {
			continue
		}
		src, _, tcp := tcpOf(f.Data)
		for _, a := range from {
			if tcp != nil && tcp.RST && src == a {
				n++
			}
		}
	}
	return n
}

// packetOf reads a frame with a parser that is not ours.
func packetOf(frame []byte) (gopacket.Packet, *layers.TCP) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	tcp, _ := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return p, tcp
}

// tcpOf returns the segment in a frame, nil if there is none.
func tcpOf(frame []byte) (src, dst netip.Addr, tcp *layers.TCP) {
	p, tcp := packetOf(frame)
	if n := p.NetworkLayer(); tcp != nil && n != nil {
		src, _ = netip.AddrFromSlice(n.NetworkFlow().Src().Raw())
		dst, _ = netip.AddrFromSlice(n.NetworkFlow().Dst().Raw())
	}
	return src, dst, tcp
}
