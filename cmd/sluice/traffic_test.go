package main

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"

	"sluice/ctl"
	"sluice/perf/lab"
)

// What arrives at a member is from the client and to the member, what arrives at the client is from the virtual
// address, and every checksum on the way is right by an independent computation.
func TestTranslation(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	for _, c := range []struct{ vip, client, member netip.Addr }{
		{b.VIP4, b.Client4, b.ServerAddr4[0]}, {b.VIP6, b.Client6, b.ServerAddr6[0]},
	} {
		atMember, atClient := must(b.Servers[0].Capture("eth0", 1e4))(t), must(b.Client.Capture("eth0", 1e4))(t)
		who, err := ask(b.Client, netip.AddrPortFrom(c.vip, webPort), waitTime)
		if err != nil || who != "server-1" {
			t.Fatalf("%s: %q %v, want the turn of server-1", c.vip, who, err)
		}
		eventually(t, "both ends have closed", func() bool {
			return fins(atMember.Frames()) >= 2 && fins(atClient.Frames()) >= 2
		})
		ok(t, atMember.Close())
		ok(t, atClient.Close())
		in := inspect(t, "member", atMember.Frames(), c.client, c.member)
		out := inspect(t, "client", atClient.Frames(), c.vip, c.client)
		if in < 4 || out < 4 {
			t.Errorf("%s: %d segments arrived at the member and %d at the client", c.vip, in, out)
		}
	}
	d.stop()
}

func fins(frames []lab.CapturedFrame) (n int) {
	for _, f := range frames {
		if _, _, tcp := tcpOf(f.Data); tcp != nil && tcp.FIN {
			n++
		}
	}
	return n
}

// inspect counts the TCP segments that came in, and reports those that are not from src to dst or have a wrong
// checksum.
func inspect(t *testing.T, at string, frames []lab.CapturedFrame, src, dst netip.Addr) (n int) {
	t.Helper()
	for _, f := range frames {
		from, to, tcp := tcpOf(f.Data)
		if tcp == nil || f.Outgoing {
			continue
		}
		n++
		if from != src || to != dst {
			t.Errorf("at the %s: a segment from %s to %s, want from %s to %s", at, from, to, src, dst)
		}
		if !checksumsRight(f.Data) {
			t.Errorf("at the %s: a segment with a wrong checksum: % x", at, f.Data)
		}
	}
	return n
}

// The counters of the engine are what the far ends received and sent.
func TestCountersEqualFarEnd(t *testing.T) {
	for _, o := range []struct {
		queues int
		engine string
	}{{1, ""}, {4, "workers: 2"}, {1, "driver: asavie"}, {2, "mode: generic"}} {
		t.Run(fmt.Sprintf("%d-queues-%s", o.queues, o.engine), func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 4, Queues: o.queues}, settings{engine: o.engine})
			servers := b.serve(dnsPort, lab.UDPEcho)
			d := b.start()
			const sockets, each = 40, 10
			answers := map[string]int{}
			for f, vip := range b.vips(dnsPort) {
				for i := range sockets {
					// A port of its own: the kernel might choose one twice, and that would be one connection.
					from := netip.AddrPortFrom([]netip.Addr{b.Client4, b.Client6}[f], uint16(firstUDPPort+i))
					conn := must(b.Client.DialFrom(t.Context(), "udp", from, vip.String()))(t)
					first := ""
					for j := range each {
						who, err := datagram(conn, fmt.Sprintf("query %d.%d", i, j), waitTime)
						if err != nil {
							t.Fatalf("%s: %v; dropped: %v", vip, err, b.drops())
						}
						if first == "" {
							first = who
						}
						if who != first {
							t.Errorf("%s: one socket was answered by %s and %s", vip, first, who)
						}
						answers[who]++
					}
					conn.Close()
				}
			}
			const all = 2 * sockets * each
			received := int64(0)
			for i := range servers {
				n := servers[i][0].Requests.Load() + servers[i][1].Requests.Load()
				received += n
				if name := fmt.Sprintf("server-%d", i+1); n != all/4 || answers[name] != all/4 {
					t.Errorf("%s received %d and answered %d, its turn is %d", name, n, answers[name], all/4)
				}
			}
			// IPv6 neighbour discovery and the like is the kernel's and not counted.
			got := b.totals()
			want := ctl.TotalsView{Connections: 2 * sockets, Opened: 2 * sockets, Received: 2 * all, ToServer: all, ToClient: all, Sent: 2 * all}
			if got != want || received != all {
				t.Errorf("counted %+v, want %+v; the servers received %d", got, want, received)
			}
			var client, server uint64
			for _, v := range query[[]ctl.VirtualView](b, "virtual") {
				client, server = client+v.ClientPackets, server+v.ServerPackets
			}
			if client != all || server != all {
				t.Errorf("virtual servers count %d packets from clients and %d from servers", client, server)
			}
			var busy int
			var out, in uint64
			for _, w := range query[[]ctl.WorkerView](b, "worker") {
				out, in = out+w.HandedOut, in+w.HandedIn
				// A veth with a generic program receives all on one queue; then the other worker only gets what is handed over.
				if w.ToServer > 0 && w.ToClient > 0 && (w.Received > 0 || strings.Contains(o.engine, "generic")) {
					busy++
				}
			}
			workers := len(query[[]ctl.WorkerView](b, "worker"))
			if out != in || busy != workers || workers > 1 && out == 0 {
				t.Errorf("%d of %d workers are busy; %d packets handed out, %d in", busy, workers, out, in)
			}
			d.stop()
		})
	}
}

// Schedulers over real connections: turns by weight, and the fewest connections first.
func TestSchedulers(t *testing.T) {
	t.Run("weighted-round-robin", func(t *testing.T) {
		b := newBed(t, lab.TwoArmOptions{Servers: 3}, settings{scheduler: "weighted-round-robin", weights: []int{3, 1, 0}})
		b.serve(webPort, lab.HTTPServer)
		d := b.start()
		for _, vip := range b.vips(webPort) {
			seen := map[string]int{}
			for range 40 {
				who, err := ask(b.Client, vip, waitTime)
				ok(t, err)
				seen[who]++
			}
			if seen["server-1"] != 30 || seen["server-2"] != 10 || len(seen) != 2 {
				t.Errorf("%s: %v, want 30 to 10", vip, seen)
			}
		}
		d.stop()
	})
	t.Run("least-connections", func(t *testing.T) {
		b := newBed(t, lab.TwoArmOptions{Servers: 3, Queues: 2}, settings{scheduler: "least-connections"})
		for i, h := range b.Servers {
			b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
		}
		d := b.start()
		counts := func() (n [3]int64) {
			for i, m := range query[[]ctl.MemberView](b, "member")[:3] {
				n[i] = m.Connections
			}
			return n
		}
		vip := netip.AddrPortFrom(b.VIP4, webPort)
		open := func(n int) (list []*session) {
			for range n {
				s, err := openSession(b.Client, vip)
				ok(t, err)
				t.Cleanup(func() { s.Close() })
				ok(t, s.say(waitTime))
				list = append(list, s)
			}
			return list
		}
		sessions := open(12)
		if n := counts(); n != [3]int64{4, 4, 4} {
			t.Fatalf("12 connections: %v", n)
		}
		// Those of the first member end; the next ones all go there.
		conns := query[[]ctl.ConnView](b, "conn", "--member", "server-1")
		gone := map[string]bool{}
		for _, c := range conns {
			gone[c.ClientSideClient] = true
		}
		for _, s := range sessions {
			if gone[s.LocalAddr().String()] {
				s.Close()
			}
		}
		eventually(t, "the closed connections are no longer counted", func() bool { return counts() == [3]int64{0, 4, 4} })
		open(4)
		if n := counts(); n != [3]int64{4, 4, 4} {
			t.Errorf("after 4 ended and 4 came: %v", n)
		}
		d.stop()
	})
}

// A packet to a port of the virtual address that has no virtual server is dropped and counted; so is a segment of no
// known connection; ICMP is not ours.
func TestDrops(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	sent := uint64(0)
	// A datagram is sent once; a SYN as often as the client's kernel finds time for.
	counted := func(more bool) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d packets are dropped as no_virtual_server", sent), func() bool { return b.drops()["no_virtual_server"] >= sent })
		n := b.drops()
		if got := n["no_virtual_server"]; len(n) != 1 || got > sent && !more || b.totals().Dropped < got {
			t.Errorf("drops: %v, want %d of no_virtual_server", n, sent)
		}
	}
	for _, vip := range b.vips(81) {
		conn := must(b.Client.Dial(t.Context(), "udp", vip.String()))(t)
		if _, err := datagram(conn, "anyone?", 50*time.Millisecond); !timedOut(err) {
			t.Errorf("%s: %v", vip, err)
		}
		conn.Close()
		sent++
	}
	counted(false)
	for _, vip := range b.vips(81) {
		if _, err := ask(b.Client, vip, 100*time.Millisecond); !timedOut(err) {
			t.Errorf("%s: %v", vip, err)
		}
		sent++
		counted(true)
	}
	d.stop()

	// The connections of an engine that was stopped are unknown to the next.
	d = b.start()
	conn := must(b.Client.Dial(t.Context(), "tcp", b.vips(webPort)[0].String()))(t)
	defer conn.Close()
	d.stop()
	d = b.start()
	_, err := conn.Write([]byte("GET / HTTP/1.0\r\n"))
	ok(t, err)
	eventually(t, "the segment is dropped as no_connection", func() bool { return b.drops()["no_connection"] > 0 })
	d.stop()
}

// The metrics endpoint, scraped in the balancer's namespace, has the counters under their names.
func TestMetrics(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{metrics: "127.0.0.1:9090"})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	for range 3 {
		_, err := ask(b.Client, b.vips(webPort)[0], waitTime)
		ok(t, err)
	}
	stray := must(b.Client.Dial(t.Context(), "udp", b.vips(81)[0].String()))(t)
	defer stray.Close()
	if _, err := datagram(stray, "anyone?", 100*time.Millisecond); !timedOut(err) {
		t.Error(err)
	}
	eventually(t, "the datagram is dropped", func() bool { return b.totals().Dropped == 1 })
	client := b.Balancer.HTTPClient(false)
	resp, err := client.Get("http://127.0.0.1:9090/metrics")
	ok(t, err)
	defer resp.Body.Close()
	text := string(must(io.ReadAll(resp.Body))(t))
	for _, want := range []string{
		`sluice_build_info{version="` + ctl.Version + `"} 1`,
		`sluice_virtual_connections_opened_total{virtual="web"} 3`,
		`sluice_member_connections_opened_total{member="server-1",pool="all"} 3`,
		`sluice_member_usable{member="server-1",pool="all"} 1`,
		`sluice_dropped_packets_total{reason="no_virtual_server"} 1`,
		`sluice_received_packets_total{worker="0"} `, `sluice_sent_packets_total{worker="0"} `,
		`sluice_connections{worker="0"} `, `sluice_host_packets_total{worker="0"} 0`,
		`sluice_port_received_packets_total{port="outside"} `, `sluice_port_receive_ring_full_total{port="inside"} 0`,
		`sluice_virtual_bytes_total{side="server",virtual="web"} `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		t.Errorf("%s, %s", resp.Status, resp.Header)
	}
	d.stop()
}

// checksumsRight verifies the checksums of a TCP segment with a library that is not ours.
func checksumsRight(frame []byte) bool {
	p, tcp := packetOf(frame)
	ok := true
	if ip, v4 := p.NetworkLayer().(*layers.IPv4); v4 {
		ok = internetChecksum(ip.Contents) == 0
	}
	if err := tcp.SetNetworkLayerForChecksum(p.NetworkLayer()); err != nil {
		return false
	}
	err, result := tcp.VerifyChecksum()
	return ok && err == nil && result.Valid
}
