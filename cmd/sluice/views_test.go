package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"sluice/ctl"
	"sluice/perf/lab"
)

// The connection table as its commands show it: the classic entry, filters, and JSON that decodes.
func TestConnCommands(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 4}, settings{engine: "workers: 2"})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr6[i], webPort))
	}
	b.serve(dnsPort, lab.UDPEcho)
	b.write(strings.Replace(b.configText(settings{engine: "workers: 2"}), "control:", "timeouts: {udp: 1h, udp-unanswered: 1h}\ncontrol:", 1))
	d := b.start()
	var sessions []*session
	for port := range uint16(4) {
		for f, client := range []netip.Addr{b.Client4, b.Client6} {
			conn := must(b.Client.DialFrom(t.Context(), "tcp", netip.AddrPortFrom(client, 4003+port), b.vips(webPort)[f].String()))(t)
			defer conn.Close()
			s := &session{Conn: conn}
			ok(t, s.say(waitTime))
			sessions = append(sessions, s)
		}
	}
	udp := must(b.Client.DialFrom(t.Context(), "udp", netip.AddrPortFrom(b.Client4, 5353), b.vips(dnsPort)[0].String()))(t)
	defer udp.Close()
	_ = must(datagram(udp, "query", waitTime))(t)
	silent := must(b.Client.DialFrom(t.Context(), "udp", netip.AddrPortFrom(b.Client4, 5354), b.vips(dnsPort)[0].String()))(t)
	defer silent.Close()
	b.silence(t, silent)

	for _, c := range []struct {
		filter string
		want   int
	}{
		{"", 10},
		{"--protocol tcp", 8},
		{"--protocol udp", 2},
		{"--protocol udp --state open", 1},
		{"--protocol udp --state unanswered", 1},
		{"--state established", 8},
		{"--state closing", 0},
		{"--client 172.16.10.55", 6},
		{"--client 172.16.10.55:4003", 1},
		{"--client fd00:172:16:10:0:0:0:55", 4},
		{"--client [fd00:172:16:10::55]:4004", 1},
		{"--virtual web", 4},
		{"--virtual web6", 4},
		{"--virtual 10.10.1.100", 6},
		{"--virtual 10.10.1.100:53", 2},
		{"--member server-1 --protocol tcp", 4},
		{"--member 192.168.20.2:80", 2},
		{"--member server-2 --virtual web6 --state established", 2},
		{"--limit 3", 3},
		{"--client 10.0.0.1", 0},
	} {
		conns := query[[]ctl.ConnView](b, append([]string{"conn", "list"}, strings.Fields(c.filter)...)...)
		if len(conns) != c.want {
			t.Errorf("conn list %s: %d connections, want %d: %+v", c.filter, len(conns), c.want, conns)
		}
	}
	owners := map[int]int{}
	for _, c := range query[[]ctl.ConnView](b, "conn") {
		owners[c.Worker]++
		if c.ClientPort != "outside" || c.ServerPort != "inside" || c.ClientPackets == 0 || c.ExpiresMS == 0 {
			t.Errorf("%+v", c)
		}
	}
	if len(owners) != 2 {
		t.Errorf("connections by worker: %v", owners)
	}

	// Commands that are wrong say so.
	for args, code := range map[string]int{
		"conn list --client nobody": exitFailed, "conn list --state best": exitFailed, "conn show 172.16.10.55:1": exitFailed,
		"conn list --limit 0": exitUsage, "conn delete": exitUsage, "conn export x": exitUsage,
	} {
		r := b.sluice(nil, append(strings.Fields(args), "--socket", b.socket)...)
		if r.code != code || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("sluice %s: %+v", args, r)
		}
	}

	b.checkEntry(t, sessions[0])
	for _, list := range []string{"virtual list", "pool list", "member list", "worker list", "port list", "drop list --all", "conn list"} {
		for _, format := range []string{"table", "wide"} {
			r := b.sluice(nil, append(strings.Fields(list), "--socket", b.socket, "-o", format)...)
			if r.code != 0 || strings.Count(r.stdout, "\n") < 2 || r.stderr != "" {
				t.Errorf("sluice %s -o %s: %+v", list, format, r)
			}
		}
	}
	// Without --all the list is of what was dropped.
	dropped := b.drops()
	if r := b.sluice(nil, "drop", "--socket", b.socket); len(dropped) == 0 && !strings.HasPrefix(r.stdout, "nothing was dropped") ||
		len(dropped) > 0 && strings.Count(r.stdout, "\n") != 1+len(dropped) {
		t.Errorf("dropped %v: %+v", dropped, r)
	}
	d.stop()
}

// silence closes the servers that would answer and sends a datagram.
func (b *bed) silence(t *testing.T, conn net.Conn) {
	t.Helper()
	// UDP turns: the first went to server-1, this one goes to server-2, which does not hear it.
	ok(t, b.Servers[1].SetLink("eth0", false))
	_, err := conn.Write([]byte("anyone?"))
	ok(t, err)
	eventually(t, "the datagram has a connection", func() bool {
		return len(query[[]ctl.ConnView](b, "conn", "--client", conn.LocalAddr().String())) == 1
	})
}

// checkEntry compares `conn show` of the first session, from port 4003, with what the kernel's socket knows.
func (b *bed) checkEntry(t *testing.T, s *session) {
	t.Helper()
	r := b.sluice(nil, "conn", "show", s.LocalAddr().String(), "--socket", b.socket)
	want := []string{
		"client-side client address        172.16.10.55:4003",
		"client-side server address        10.10.1.100:80",
		"server-side client address        172.16.10.55:4003",
		"server-side server address        192.168.20.1:80",
		"virtual address                   10.10.1.100",
		"node address                      192.168.20.1",
		"protocol                          tcp",
	}
	lines := strings.Split(r.stdout, "\n")
	if r.code != 0 || len(lines) < 10 || strings.Join(lines[:7], "\n") != strings.Join(want, "\n") {
		t.Fatalf("conn show: %+v", r)
	}
	// The sequence numbers advance by what is said.
	before := query[[]ctl.ConnView](b, "conn", "--client", s.LocalAddr().String())[0]
	s.said = 1000
	ok(t, s.say(waitTime))
	said := uint32(len("line 1001\n"))
	eventually(t, "the sequence numbers have advanced by what was said", func() bool {
		after := query[[]ctl.ConnView](b, "conn", "--client", s.LocalAddr().String())[0]
		return after.ClientSequence-before.ClientSequence == said && after.ServerSequence-before.ServerSequence == said
	})
	mac := must(b.Client.MAC("eth0"))(t)
	if before.ClientMAC != mac.String() {
		t.Errorf("answers go to %s, the client is %s", before.ClientMAC, mac)
	}
	if text := fmt.Sprint(before.State, before.VirtualServer, before.Pool, before.Member); text != "establishedweballserver-1" {
		t.Errorf("%+v", before)
	}
}
