package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/engine"
	"sluice/perf/lab"
	"sluice/rings"
)

// heir is a successor that the test plays itself, message by message, as docs/design has them.
type heir struct {
	t    *testing.T
	conn *net.UnixConn
	fds  map[string]int
}

func (b *bed) heir() *heir {
	b.t.Helper()
	path := filepath.Join(ctl.StateDir, fmt.Sprintf("net-%d.takeover", b.netns()))
	h := &heir{b.t, must(net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"}))(b.t), map[string]int{}}
	b.t.Cleanup(h.end)
	return h
}

// end is what the kernel does for a process that dies.
func (h *heir) end() {
	h.conn.Close()
	for _, fd := range h.fds {
		unix.Close(fd)
	}
	h.fds = nil
}

func (h *heir) say(message string) {
	h.t.Helper()
	_, err := h.conn.Write([]byte(message))
	ok(h.t, err)
}

func (h *heir) hello() {
	h.say(fmt.Sprintf(`{"type":"hello","protocol":1,"version":"test","layout":%q}`, engine.Layout()))
}

// hear waits for a message, and keeps descriptors under their names.
func (h *heir) hear() (m struct {
	Type, Reason string
	Names        []string
	Last         bool
}) {
	h.t.Helper()
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4*253))
	_ = h.conn.SetReadDeadline(time.Now().Add(waitTime))
	n, oobn, _, _, err := h.conn.ReadMsgUnix(buf, oob)
	ok(h.t, err)
	ok(h.t, json.Unmarshal(buf[:n], &m))
	list := must(unix.ParseSocketControlMessage(oob[:oobn]))(h.t)
	at := 0
	for i := range list {
		for _, fd := range must(unix.ParseUnixRights(&list[i]))(h.t) {
			name := m.Type
			if at < len(m.Names) {
				name = m.Names[at]
			}
			h.fds[name] = fd
			at++
		}
	}
	return m
}

// descriptors hears until it has all.
func (h *heir) descriptors() {
	h.t.Helper()
	for {
		m := h.hear()
		if m.Type != "descriptors" {
			h.t.Fatalf("%+v, want descriptors", m)
		}
		if m.Last {
			return
		}
	}
}

// refused wants a "failed" with words.
func (h *heir) refused(words string) {
	h.t.Helper()
	if m := h.hear(); m.Type != "failed" || !strings.Contains(m.Reason, words) {
		h.t.Errorf("%+v, want a refusal with %q", m, words)
	}
}

// Whatever a successor does wrong, and whenever it ends or stands still before its decision, the running sluice carries on:
// the same process, without losing a packet. In the end it hands over to one that does everything right.
func TestTakeoverFails(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2, ring-size: 4096"})
	b.serve(webPort, lab.HTTPServer)
	b.echoServer(b.Servers[0], b.serverAddr(0, bulkPort))
	b.echoServer(b.Servers[1], b.serverAddr(1, bulkPort))
	d := b.start()
	stream := b.newStream(t, 1000)
	shell := must(openSession(b.Client, b.vips(bulkPort)[0]))(t)
	defer shell.Close()
	good := b.configText(settings{engine: "workers: 2, ring-size: 4096"})
	rest := func(h *heir) {
		h.t.Helper()
		h.hello()
		h.descriptors()
		h.say(`{"type":"prepared"}`)
		if m := h.hear(); m.Type != "state" {
			h.t.Fatalf("%+v, want the state", m)
		}
	}
	run := func(t *testing.T, config string, words ...string) {
		t.Helper()
		b.write(config)
		defer b.write(good)
		r := b.sluice(nil, "run", "--takeover", "-c", b.config)
		for _, w := range words {
			if !strings.Contains(r.stderr, w) {
				t.Errorf("it does not say %q:\n%s", w, r.stderr)
			}
		}
		if r.code != 1 {
			t.Errorf("exit code %d", r.code)
		}
	}
	for _, c := range []struct {
		name string
		act  func(t *testing.T, h *heir)
	}{
		{"another protocol", func(t *testing.T, h *heir) {
			h.say(`{"type":"hello","protocol":2,"version":"9.9"}`)
			h.refused("version 2")
		}},
		{"another layout", func(t *testing.T, h *heir) {
			h.say(`{"type":"hello","protocol":1,"version":"9.9","layout":"bits"}`)
			h.refused("lay memory out differently")
		}},
		{"no hello", func(t *testing.T, h *heir) { h.say(`{"type":"prepared"}`); h.refused("first message") }},
		{"garbage", func(t *testing.T, h *heir) { h.say("\x00\xff{"); h.refused("") }},
		{"silence", func(t *testing.T, h *heir) { h.refused("") }},
		{"ends after hello", func(t *testing.T, h *heir) { h.hello() }},
		{"ends with all descriptors", func(t *testing.T, h *heir) { h.hello(); h.descriptors() }},
		{"gives up", func(t *testing.T, h *heir) {
			h.hello()
			h.descriptors()
			h.say(`{"type":"failed","reason":"no wish to"}`)
			h.refused("no wish to")
		}},
		{"wrong order", func(t *testing.T, h *heir) {
			h.hello()
			h.descriptors()
			h.say(`{"type":"took"}`)
			h.refused("not \"prepared\"")
		}},
		{"ends in the pause", func(t *testing.T, h *heir) { rest(h) }},
		{"gives up in the pause", func(t *testing.T, h *heir) {
			rest(h)
			h.say(`{"type":"failed","reason":"cold feet"}`)
			h.refused("cold feet")
		}},
		{"stands still in the pause", func(t *testing.T, h *heir) {
			rest(h)
			h.refused("no answer")
			word := must(rings.ImportDecision(h.fds["decision"]))(t)
			delete(h.fds, "decision")
			if word.Decide(2) { // comes to itself, too late
				t.Error("it may go on although the predecessor does")
			}
			ok(t, word.Close())
		}},
		{"bad file", func(t *testing.T, _ *heir) { run(t, "engine: {wrokers: 2}\n", "wrokers") }},
		{"another ring size", func(t *testing.T, _ *heir) {
			run(t, strings.Replace(good, "ring-size: 4096", "ring-size: 1024", 1), "engine.ring-size is 4096 in the running sluice and 1024 here", "reload afterwards")
		}},
		{"another number of workers", func(t *testing.T, _ *heir) {
			run(t, strings.Replace(good, "workers: 2", "workers: 1", 1), "engine.workers is 2 in the running sluice and 1 here")
		}},
		{"another capacity", func(t *testing.T, _ *heir) {
			run(t, strings.Replace(good, "workers: 2", "workers: 2, connections: 1000", 1), "engine.connections")
		}},
		{"no such interface", func(t *testing.T, _ *heir) {
			run(t, strings.Replace(good, "interface: "+b.Inside, "interface: nowhere", 1), "no interface nowhere")
		}},
		{"another driver", func(t *testing.T, _ *heir) {
			run(t, strings.Replace(good, "workers: 2", "workers: 2, driver: asavie", 1), "engine.driver is xsk in the running sluice and asavie here")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := b.heir()
			h.t = t
			c.act(t, h)
			h.end()
			if err := shell.say(waitTime); err != nil {
				t.Errorf("a connection does not go on: %v\n%s", err, d.log)
			}
			for _, vip := range b.vips(webPort) {
				if _, err := ask(b.Client, vip, waitTime); err != nil {
					t.Errorf("a new connection: %v", err)
				}
			}
			var s ctl.StatusView
			ok(t, ctl.Get(t.Context(), b.socket, "/v1/status", &s))
			if s.PID != d.PID() {
				t.Fatalf("process %d answers, not %d", s.PID, d.PID())
			}
		})
	}
	d, _ = b.takeover(d)
	ok(t, shell.say(waitTime))
	r := stream.stop()
	t.Logf("stream: %s", r)
	// What one worker hands to the other while that is not on its core may be lost, as without any takeover.
	if r.unexplained() != 0 || r.byUs() != r.ours["drop handoff_full"] {
		t.Errorf("datagrams were lost\n%s", d.log)
	}
	d.stop()
	if r := b.sluice(nil, "run", "--takeover", "-c", b.config); r.code != 1 || !strings.Contains(r.stderr, "without --takeover") {
		t.Errorf("a takeover from nobody: exit code %d\n%s", r.code, r.stderr)
	}
}

// The sockets of the other driver cannot be handed over.
func TestTakeoverAsavie(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{engine: "driver: asavie"})
	b.serve(webPort, lab.HTTPServer)
	d := b.start()
	r := b.sluice(nil, "run", "--takeover", "-c", b.config)
	if r.code != 1 || !strings.Contains(r.stderr, "driver asavie cannot be handed over") || !strings.Contains(r.stderr, "kill -9") {
		t.Errorf("exit code %d\n%s", r.code, r.stderr)
	}
	if _, err := ask(b.Client, b.vips(webPort)[0], waitTime); err != nil {
		t.Error(err)
	}
	d.stop()
}

// The predecessor is killed in the pause, when everything is with a successor that then ends as well: what they leave is
// adopted by the next start.
func TestTakeoverBothDie(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 2"})
	b.echoServer(b.Servers[0], b.serverAddr(0, bulkPort))
	d := b.start()
	shell := must(openSession(b.Client, b.vips(bulkPort)[0]))(t)
	defer shell.Close()
	ok(t, shell.say(waitTime))
	h := b.heir()
	h.hello()
	h.descriptors()
	h.say(`{"type":"prepared"}`)
	if m := h.hear(); m.Type != "state" {
		t.Fatalf("%+v", m)
	}
	d.kill()
	// The lock is held as long as either lives.
	if r := b.sluice(nil, "run", "-c", b.config); r.code != 1 || !strings.Contains(r.stderr, "another sluice runs") {
		t.Errorf("a start beside a successor: exit code %d\n%s", r.code, r.stderr)
	}
	h.end()
	d = b.start()
	if err := shell.say(2 * waitTime); err != nil {
		t.Errorf("%v\n%s", err, d.log)
	}
	if !strings.Contains(d.log.String(), "adopted the connections") {
		t.Error(d.log)
	}
	d.stop()
}

// serverAddr is a port of a member.
func (b *bed) serverAddr(i int, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(b.ServerAddr4[i], port)
}

// Either process is killed, or the successor stopped for a while, at any moment of a takeover: there is one engine
// afterwards, or a start adopts what is left; transfers are intact in the end, and nothing stays behind.
func TestTakeoverKilled(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2"})
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	rounds := 24
	if testing.Short() {
		rounds = 6
	}
	d := b.start()
	finish := b.transfers(20, 2<<20)
	config := b.configText(settings{engine: "workers: 2"})
	served := map[string]int{}
	// How long a takeover takes here, so that the blows fall on all of it.
	begin := time.Now()
	d, _ = b.takeover(d)
	whole := time.Since(begin)
	for round := range rounds {
		// Every other successor has a member more, whose id it notes.
		text := config
		if round%2 == 1 {
			text = strings.Replace(config, "    members:\n", fmt.Sprintf("    members:\n      - {name: extra-%d, address: %q, weight: 0}\n", round, b.ServerAddr4[0].String()+fmt.Sprintf(":%d", 7000+round)), 1)
		}
		b.write(text)
		next := b.launch("--takeover")
		time.Sleep(time.Duration(random.Int64N(int64(whole) * 5 / 4))) // the moment is what varies here
		act := []string{"kill successor", "kill predecessor", "stop successor"}[random.IntN(3)]
		switch act {
		case "kill successor":
			_ = next.Signal(syscall.SIGKILL)
			<-next.Done()
		case "kill predecessor":
			_ = d.Signal(syscall.SIGKILL)
			<-d.Done()
		default:
			_ = next.Signal(syscall.SIGSTOP)
			time.Sleep(2500 * time.Millisecond) // longer than the predecessor waits
			_ = next.Signal(syscall.SIGCONT)
		}
		who := b.whoServes(d, next)
		switch who {
		case next:
			served[act+": successor"]++
			<-d.Done()
		case d:
			served[act+": predecessor"]++
			<-next.Done()
		default:
			served[act+": nobody"]++
			who = b.start()
		}
		d = who
		for _, p := range b.daemons {
			if p != d {
				select {
				case <-p.Done():
				case <-time.After(stopTime):
					t.Fatalf("round %d, %s: process %d goes on beside %d\n%s", round, act, p.PID(), d.PID(), p.log)
				}
			}
		}
	}
	t.Logf("who served after the blow: %v", served)
	for _, err := range finish() {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("%s", d.log)
	}
	d.stop()
}

// whoServes waits until one of two processes serves and the other has ended; nil if both have ended.
func (b *bed) whoServes(a, c *daemon) *daemon {
	b.t.Helper()
	ended := func(d *daemon) bool {
		select {
		case <-d.Done():
			return true
		default:
			return false
		}
	}
	for deadline := time.Now().Add(2 * startTime); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ended(a) && ended(c) {
			return nil
		}
		for _, p := range [][2]*daemon{{a, c}, {c, a}} {
			var s ctl.StatusView
			if ended(p[1]) && ctl.Get(b.t.Context(), b.socket, "/v1/status", &s) == nil && s.PID == p[0].PID() {
				return p[0]
			}
		}
	}
	b.t.Fatalf("nobody is alone in serving\n%s\n%s", a.log, c.log)
	return nil
}
