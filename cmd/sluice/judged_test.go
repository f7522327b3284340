package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
)

// addKeys adds keys to a virtual server of a configuration.
func addKeys(config, virtual, keys string) string {
	lines := strings.Split(config, "\n")
	for i, l := range lines {
		if strings.Contains(l, "{name: "+virtual+", address") {
			lines[i] = strings.TrimSuffix(l, "}") + ", " + keys + "}"
		}
	}
	return strings.Join(lines, "\n")
}

// An engine that comes to a running connection without its table resets it, adopts it or leaves it in silence, as it is
// told to.
func TestMidStream(t *testing.T) {
	for _, policy := range []string{"reset", "adopt", "drop"} {
		t.Run(policy, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
			config := b.configText(settings{engine: "keep-connections: false"})
			for _, v := range []string{"bulk", "bulk6"} {
				config = addKeys(config, v, "mid-stream: "+policy)
			}
			b.write(config)
			b.echoServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], bulkPort))
			b.echoServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr6[0], bulkPort))
			d := b.start()
			for _, vip := range b.vips(bulkPort) {
				s, err := openSession(b.Client, vip)
				ok(t, err)
				defer s.Close()
				ok(t, s.say(waitTime))
				d.kill()
				d = b.start()
				begin := time.Now()
				switch policy {
				case "reset":
					if err := s.say(waitTime); !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("%s: %v, want a reset", vip, err)
					}
					// At the first segment, or at its first repetitions if that was lost on a busy machine.
					if took := time.Since(begin); took > 4*time.Second {
						t.Errorf("%s: reset after %s", vip, took)
					}
				case "adopt":
					for range 100 {
						ok(t, s.say(waitTime))
					}
					if c := query[[]ctl.ConnView](b, "conn"); len(c) != 1 || c[0].State != "established" || c[0].ClientSideClient != s.LocalAddr().String() {
						t.Errorf("%s: the table has %+v", vip, c)
					}
					ok(t, s.Close())
				case "drop":
					if err := s.say(listenTime); !timedOut(err) {
						t.Errorf("%s: %v, want silence", vip, err)
					}
					eventually(t, fmt.Sprintf("%s: segments are dropped as no_connection", vip), func() bool { return b.drops()["no_connection"] > 0 })
				}
			}
			d.stop()
		})
	}
}

// An idle connection whose time is over is reset at both ends.
func TestResetOnExpiry(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	config := b.configText(settings{})
	for _, v := range []string{"web", "web6"} {
		config = addKeys(config, v, "reset-on-expiry: true, timeouts: {tcp-established: 1s}")
	}
	b.write(config)
	d := b.start()
	for f, vip := range b.vips(webPort) {
		ln := must(b.Servers[0].Listen("tcp", netip.AddrPortFrom([]netip.Addr{b.ServerAddr4[0], b.ServerAddr6[0]}[f], webPort).String()))(t)
		defer ln.Close()
		began := time.Now() // before the last packet, from which the second counts
		client, err := openSession(b.Client, vip)
		ok(t, err)
		defer client.Close()
		server := must(ln.Accept())(t)
		defer server.Close()
		_ = client.SetReadDeadline(began.Add(waitTime))
		_ = server.SetReadDeadline(began.Add(waitTime))
		for _, end := range []struct {
			name string
			net.Conn
		}{{"client", client}, {"server", server}} {
			_, err := end.Read(make([]byte, 1))
			took := time.Since(began)
			t.Logf("%s: the %s: %v after %s", vip, end.name, err, took.Round(time.Millisecond))
			if !errors.Is(err, syscall.ECONNRESET) || took < time.Second {
				t.Errorf("%s: the %s: %v after %s, want a reset after 1 s", vip, end.name, err, took)
			}
		}
	}
	eventually(t, "the table is empty", func() bool { return len(query[[]ctl.ConnView](b, "conn")) == 0 })
	d.stop()
}

// forge sends a RST of the client's end of a connection, with a sequence number of choice, past the client's kernel.
func forge(b *bed, like *layers.TCP, seq uint32) {
	t := b.t
	t.Helper()
	eth := layers.Ethernet{SrcMAC: must(b.Client.MAC("eth0"))(t), DstMAC: must(b.Balancer.MAC(b.Outside))(t), EthernetType: layers.EthernetTypeIPv4}
	ip := layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: b.Client4.AsSlice(), DstIP: b.VIP4.AsSlice()}
	tcp := layers.TCP{SrcPort: like.SrcPort, DstPort: like.DstPort, Seq: seq, RST: true}
	ok(t, tcp.SetNetworkLayerForChecksum(&ip))
	buf := gopacket.NewSerializeBuffer()
	ok(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, &eth, &ip, &tcp))
	ok(t, b.Client.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, buf.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: eth0.Index, Halen: 6})
	}))
}

// RSTs that do not fit exactly neither close a connection nor keep it alive, whether they are forwarded or dropped; the
// one that fits closes it.
func TestForgedReset(t *testing.T) {
	for _, policy := range []string{"forward", "drop"} {
		t.Run(policy, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{engine: "out-of-window: " + policy})
			ln := must(b.Servers[0].Listen("tcp", netip.AddrPortFrom(b.ServerAddr4[0], webPort).String()))(t)
			defer ln.Close()
			ended := make(chan error, 1)
			go func() {
				conn, err := ln.Accept()
				if err == nil {
					defer conn.Close()
					_, err = io.Copy(conn, conn)
				}
				ended <- err
			}()
			d := b.start()
			capture := must(b.Client.Capture("eth0", 1e4))(t)
			s, err := openSession(b.Client, netip.AddrPortFrom(b.VIP4, webPort))
			ok(t, err)
			defer s.Close()
			ok(t, s.say(waitTime))
			var last *layers.TCP
			eventually(t, "the client has acknowledged the echo", func() bool {
				for _, f := range capture.Frames() {
					if _, _, tcp := tcpOf(f.Data); tcp != nil && f.Outgoing {
						last = tcp
					}
				}
				return last != nil && len(last.Payload) == 0 && !last.SYN
			})
			one := func() ctl.ConnView {
				t.Helper()
				list := query[[]ctl.ConnView](b, "conn")
				if len(list) != 1 {
					t.Fatalf("the table has %+v", list)
				}
				return list[0]
			}
			eventually(t, "the connection is idle, to see whether a timer is set again", func() bool { return one().IdleMS >= 300 })
			next := last.Seq // of a segment without data: what the server expects
			received, idle, at := b.totals().Received, int64(one().IdleMS), time.Now()
			for _, off := range []uint32{1 << 30, 1 << 31, ^uint32(1<<20 - 1)} {
				forge(b, last, next+off)
			}
			eventually(t, "the forged segments have come", func() bool { return b.totals().Received >= received+3 })
			passed := time.Since(at).Milliseconds()
			if c := one(); c.State != "established" || int64(c.IdleMS) < idle+passed-50 { // the engine's clock is a coarse one
				t.Errorf("after RSTs outside of the window: %s, idle %d ms after %d ms and %d ms more", c.State, c.IdleMS, idle, passed)
			}
			for _, off := range []uint32{1, 1000, 20000} {
				forge(b, last, next+off) // the server answers with a challenge ACK, if it gets it
			}
			eventually(t, "the forged segments have come", func() bool { return b.totals().Received >= received+6 })
			if c := one(); c.State != "established" {
				t.Errorf("after RSTs that are not exact: %s", c.State)
			}
			ok(t, s.say(waitTime))
			if n := b.drops()["out_of_window"]; policy == "drop" && n != 6 || policy == "forward" && n != 0 {
				t.Errorf("dropped %v", b.drops())
			}
			forge(b, last, next+uint32(len(fmt.Sprintf("line %d\n", s.said))))
			select {
			case err := <-ended:
				if !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the server's end: %v, want a reset", err)
				}
			case <-time.After(waitTime):
				t.Error("an exact RST does not reach the server")
			}
			for _, c := range query[[]ctl.ConnView](b, "conn") {
				if c.State != "closed" {
					t.Errorf("after an exact RST: %s", c.State)
				}
			}
			eventually(t, "the entry is gone", func() bool { return len(query[[]ctl.ConnView](b, "conn")) == 0 })
			d.stop()
		})
	}
}
