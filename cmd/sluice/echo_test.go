package main

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"sluice/perf/lab"
)

// Echo requests to a managed virtual address of each family, answered by the kernel, by the engine, by nobody, and as long as
// a member is up: the setting changes by reload. What is too large for the link comes in parts.
func TestEchoSettings(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{})
	text := b.configText(settings{engine: "workers: 2, icmp-rate: 2000"})
	setting := func(word string) {
		b.write(strings.ReplaceAll(text, "protocol:", "echo: "+word+", protocol:"))
	}
	setting("kernel")
	d := b.start()
	answered, refused := uint64(0), uint64(0)
	vips := []netip.Addr{b.VIP4, b.VIP6}
	expect := func(when string, answers bool, by int) {
		t.Helper()
		for _, vip := range vips {
			// Nobody says so when a request is dropped: the counter does.
			for _, size := range []int{20, 1400, 4000} {
				switch got, err := pingSize(b.Client, vip, size, answers); {
				case err != nil:
					t.Fatalf("%s: %s, %d bytes: %v", when, vip, size, err)
				case got != answers:
					t.Errorf("%s: %s, %d bytes: answered %v, want %v; dropped %v", when, vip, size, got, answers, b.drops())
				}
			}
		}
		switch by {
		case byEngine: // parts are the kernel's
			answered += 4
		case byNobody:
			refused += 6
		}
		if n, drops := b.totals().Echoes, b.drops(); n != answered || drops["echo_refused"] != refused {
			t.Errorf("%s: the engine has answered %d, want %d; dropped %v, want %d echo_refused", when, n, answered, drops, refused)
		}
	}
	reload := func() {
		t.Helper()
		if r := b.sluice(nil, "reload", "--socket", b.socket); r.code != 0 {
			t.Fatalf("reload: %s", r.stderr)
		}
	}
	expect("kernel", true, byKernel)
	setting("engine")
	reload()
	expect("engine", true, byEngine)
	setting("off")
	reload()
	expect("off", false, byNobody)
	setting("while-up")
	reload()
	expect("while-up", true, byEngine)
	member := func(order string) {
		t.Helper()
		for _, pool := range []string{"all", "all6"} {
			if r := b.sluice(nil, "member", order, pool, "server-1", "--socket", b.socket); r.code != 0 {
				t.Fatalf("%s: %s", order, r.stderr)
			}
		}
	}
	member("disable")
	expect("while-up, no member", false, byNobody)
	member("enable")
	expect("while-up again", true, byEngine)
	setting("kernel")
	reload()
	expect("kernel again", true, byKernel)
	d.stop()
}

// Who answers.
const (
	byKernel = iota
	byEngine
	byNobody
)

// Requests beyond icmp-rate are dropped and counted.
func TestEchoFlood(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 1}, settings{})
	b.write(strings.ReplaceAll(b.configText(settings{engine: "workers: 1, icmp-rate: 20"}), "protocol:", "echo: engine, protocol:"))
	d := b.start()
	pc := echoSocket(t, b.Client, b.VIP4)
	const sent = 400
	began := time.Now()
	for seq := range uint16(sent) {
		if _, err := pc.WriteTo(echoRequest(b.VIP4, seq, 8), &net.IPAddr{IP: b.VIP4.AsSlice()}); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every request was answered or dropped", func() bool { return b.totals().Echoes+b.drops()["echo_rate"] == sent })
	seconds := uint64(time.Since(began)/time.Second) + 2 // it may begin in the middle of one
	if n := b.totals().Echoes; n < 20 || n > 20*seconds {
		t.Errorf("%d answers in %d seconds at 20 a second", n, seconds)
	}
	d.stop()
}

func echoSocket(t testing.TB, h *lab.Host, to netip.Addr) net.PacketConn {
	t.Helper()
	network, any := "ip4:1", "0.0.0.0"
	if to.Is6() {
		network, any = "ip6:58", "::"
	}
	var pc net.PacketConn
	ok(t, h.Do(func() (err error) {
		pc, err = net.ListenPacket(network, any)
		return err
	}))
	t.Cleanup(func() { pc.Close() })
	return pc
}

// echoRequest is one with so many bytes of data.
func echoRequest(to netip.Addr, seq uint16, size int) []byte {
	msg := append([]byte{8, 0, 0, 0, 0x51, 0x1d, byte(seq >> 8), byte(seq)}, bytes.Repeat([]byte("0123456789"), size/10+1)[:size]...)
	if to.Is6() {
		msg[0] = 128 // the kernel fills in the checksum
	} else {
		binary.BigEndian.PutUint16(msg[2:], internetChecksum(msg))
	}
	return msg
}

// pingSize sends a request with so many bytes and reports whether an answer has come: in good time where one is expected.
func pingSize(h *lab.Host, to netip.Addr, size int, expected bool) (bool, error) {
	network, any, reply := "ip4:1", "0.0.0.0", byte(0)
	if to.Is6() {
		network, any, reply = "ip6:58", "::", 129
	}
	var pc net.PacketConn
	err := h.Do(func() (err error) {
		pc, err = net.ListenPacket(network, any)
		return err
	})
	if err != nil {
		return false, err
	}
	defer pc.Close()
	msg := echoRequest(to, uint16(size), size)
	if _, err := pc.WriteTo(msg, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return false, err
	}
	limit := waitTime
	if !expected {
		limit = listenTime
	}
	_ = pc.SetReadDeadline(time.Now().Add(limit))
	buf := make([]byte, 1<<16)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return false, nil
		}
		if n == len(msg) && buf[0] == reply && bytes.Equal(buf[4:n], msg[4:]) && from.String() == to.String() {
			return true, nil
		}
	}
}
