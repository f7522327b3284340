package main

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"sluice/perf/lab"
)

// A capture that a takeover or a stop ends says so, with its counts, and its file is whole; one whose sluice is killed says what can
// be known, and its file is whole up to there.
func TestCaptureEnds(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 2"})
	b.echoServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], webPort))
	d := b.start()
	talk := func() {
		s, err := openSession(b.Client, netip.AddrPortFrom(b.VIP4, webPort))
		ok(t, err)
		defer s.Close()
		for range 20 {
			ok(t, s.say(waitTime))
		}
	}
	for _, k := range []struct {
		how  string
		end  func()
		want string
		ok   bool
	}{
		{"takeover", func() { d, _ = b.takeover(d) }, `\n\d+ packets captured of \d+ that workers received(, \d+ still under way)?; another sluice has taken over: begin a capture there\n$`, true},
		{"kill", func() { d.kill(); d = b.start() }, `\nsluice: the capture was cut off, its counts did not come: .*\n$`, false},
		{"stop", func() { d.stop() }, `\n\d+ packets captured of \d+ that workers received(, \d+ still under way)?; sluice was stopped\n$`, true},
	} {
		file := filepath.Join(b.dir, k.how+".pcapng")
		c := b.startCapture("-w", file)
		talk()
		time.Sleep(100 * time.Millisecond) // what comes last is there before sluice is killed
		k.end()
		if err := c.Wait(); (err == nil) != k.ok || !regexp.MustCompile(k.want).MatchString(c.stderr.String()) {
			t.Errorf("%s: capture: %v, %q", k.how, err, c.stderr.String())
		}
		if rows := tsharkFields(t, file, "frame.interface_name", "frame.comment"); len(rows) < 80 {
			t.Errorf("%s: %d packets in the file", k.how, len(rows))
		}
	}
}
