package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket/pcapgo"

	"sluice/ctl"
	"sluice/perf/lab"
)

// capturing is a `sluice capture` that runs.
type capturing struct {
	*lab.Process
	b              *bed
	cmd            *exec.Cmd
	stdout, stderr output
}

// startCapture returns when packets are captured.
func (b *bed) startCapture(args ...string) *capturing {
	b.t.Helper()
	c := &capturing{b: b, cmd: exec.Command(program(b.t), append([]string{"capture", "--socket", b.socket}, args...)...)}
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	c.Process = must(b.Balancer.Start(c.cmd))(b.t)
	eventually(b.t, "a capture begins", func() bool { return strings.HasPrefix(c.stderr.String(), "capturing") })
	return c
}

// end interrupts it and asserts that it says what it has done.
func (c *capturing) end(want string) {
	c.b.t.Helper()
	ok(c.b.t, c.Signal(syscall.SIGINT))
	if err := c.Wait(); err != nil || !regexp.MustCompile(want).MatchString(c.stderr.String()) {
		c.b.t.Errorf("capture: %v, %q, want %q", err, c.stderr.String(), want)
	}
}

func tsharkFields(t *testing.T, file string, fields ...string) (rows [][]string) {
	t.Helper()
	args := []string{"-n", "-r", file, "-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	tool, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("SLUICE_LAB") == "require" {
			t.Fatalf("tshark must be installed here: %v", err)
		}
		t.Skip("tshark is not installed")
	}
	var stderr bytes.Buffer
	cmd := exec.Command(tool, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, stderr.String())
	}
	for line := range strings.Lines(string(out)) {
		rows = append(rows, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return rows
}

// A capture on two workers, opened by tshark: both sides of each packet, with the verdict, and drops with their reasons.
func TestCaptureFile(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2, Queues: 2}, settings{engine: "workers: 2"})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr6[i], webPort))
	}
	d := b.start()
	file := filepath.Join(b.dir, "all.pcapng")
	c := b.startCapture("-w", file)
	var sessions []*session
	for i := range 8 {
		local := netip.AddrPortFrom([]netip.Addr{b.Client4, b.Client6}[i%2], uint16(21000+37*i)) // of both workers
		s, err := openSessionFrom(b.Client, local, b.vips(webPort)[i%2], waitTime)
		ok(t, err)
		defer s.Close()
		ok(t, s.say(waitTime))
		sessions = append(sessions, s)
	}
	// Three reasons: a segment without a connection, a port without a virtual server, a pool without a member.
	if r := b.sluice(nil, "conn", "delete", "--socket", b.socket, sessions[0].LocalAddr().String()); r.code != exitOK {
		t.Fatal(r)
	}
	if err := sessions[0].say(listenTime); !timedOut(err) {
		t.Errorf("on a deleted connection: %v", err)
	}
	refused := func(port uint16) {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		if conn, err := b.Client.Dial(ctx, "tcp", netip.AddrPortFrom(b.VIP4, port).String()); err == nil {
			conn.Close()
			t.Errorf("port %d answers", port)
		}
	}
	refused(81)
	order := func(what string) {
		for _, m := range []string{"server-1", "server-2"} {
			if r := b.sluice(nil, "member", what, "all", m, "--socket", b.socket); r.code != exitOK {
				t.Fatal(r)
			}
		}
	}
	order("disable")
	refused(webPort)
	order("enable")
	c.end(`\n\d+ packets captured of \d+ that workers received; it was ended\n$`)

	rows := tsharkFields(t, file, "frame.interface_name", "frame.comment", "ip.src", "ip.dst", "ipv6.dst", "tcp.srcport", "tcp.dstport", "tcp.stream")
	verdicts, workers := map[string]int{}, map[string]bool{}
	member := regexp.MustCompile(`^forwarded to member all6?/server-([12]) via port inside; arrived on port outside at worker ([01]); virtual server web6?$`)
	for i, r := range rows {
		comment := r[1]
		verdict, _, _ := strings.Cut(comment, ";")
		verdicts[verdict]++
		before := r[0] == "before"
		if !before && (r[0] != "after" || i == 0 || rows[i-1][0] != "before" || rows[i-1][1] != comment) {
			t.Fatalf("packet %d: %q is not the other side of %q", i, r, rows[max(i-1, 0)])
		}
		follows := i+1 < len(rows) && rows[i+1][0] == "after"
		if forwarded := strings.HasPrefix(comment, "forwarded"); before && forwarded != follows {
			t.Errorf("packet %d %q: the other side follows: %v", i, r, follows)
		}
		if m := member.FindStringSubmatch(comment); m != nil {
			workers[m[2]] = true
			to := map[bool]string{true: r[3] + r[4], false: ""}[!before]
			want := fmt.Sprintf("192.168.20.%s", m[1])
			if strings.Contains(comment, "all6") {
				want = "fd00:192:168:20::" + m[1]
			}
			if !before && (to != want || r[6] != "80") || before && r[3]+r[4] != b.VIP4.String() && r[3]+r[4] != b.VIP6.String() {
				t.Errorf("packet %d: %q", i, r)
			}
		}
		if verdict == "forwarded to the client via port outside" && !before && r[5] != "80" {
			t.Errorf("packet %d: %q", i, r)
		}
	}
	for _, want := range []string{"forwarded to member all/server-1 via port inside", "forwarded to member all6/server-2 via port inside", "forwarded to the client via port outside",
		"dropped: no_connection", "dropped: no_virtual_server", "dropped: no_member"} {
		if verdicts[want] == 0 {
			t.Errorf("no packet is said to be %q: %v", want, verdicts)
		}
	}
	if drops := b.drops(); drops["no_member"] != uint64(verdicts["dropped: no_member"]) || drops["no_virtual_server"] != uint64(verdicts["dropped: no_virtual_server"]) {
		t.Errorf("counted %v, captured %v", drops, verdicts)
	}
	if len(workers) != 2 {
		t.Errorf("only of workers %v", workers)
	}

	// As lines, with a filter, to its bound; piped into tshark.
	c = b.startCapture("--drops", "--count", "2", "--end", netip.AddrPortFrom(b.VIP4, 81).String()) // a deleted connection may still repeat segments
	refused(81)
	refused(81)
	refused(81)
	if err := c.Wait(); err != nil || !regexp.MustCompile(`^(\d\d:\d\d:\d\d\.\d{6} tcp 172\.16\.10\.55:\d+ > 10\.10\.1\.100:81 \[S\], \d+ bytes; dropped: no_virtual_server; arrived on port outside at worker [01]\n){2}$`).MatchString(c.stdout.String()) {
		t.Errorf("%v\n%s\n%s", err, c.stdout.String(), c.stderr.String())
	}
	if !regexp.MustCompile(`\n2 packets captured of .*; the number of packets was reached\n$`).MatchString(c.stderr.String()) {
		t.Errorf("%q", c.stderr.String())
	}
	c = b.startCapture("--end", sessions[2].LocalAddr().String(), "--snap", "60", "--duration", "1s", "-w", "-")
	ok(t, sessions[2].say(waitTime))
	ok(t, sessions[4].say(waitTime))
	if err := c.Wait(); err != nil {
		t.Errorf("%v: %s", err, c.stderr.String())
	}
	ok(t, os.WriteFile(file, []byte(c.stdout.String()), 0o600))
	_, port, _ := net.SplitHostPort(sessions[2].LocalAddr().String())
	rows = tsharkFields(t, file, "frame.interface_name", "tcp.srcport", "tcp.dstport", "frame.cap_len")
	for _, r := range rows {
		if r[1] != port && r[2] != port || r[3] != "60" {
			t.Errorf("not asked for: %q", r)
		}
	}
	if len(rows) < 6 {
		t.Errorf("%d packets", len(rows))
	}
	for _, k := range []struct {
		args, want string
		code       int
	}{
		{"more", "capture takes no arguments", exitUsage},
		{"--virtual none", `no virtual server "none"`, exitFailed},
		{"--member none", `no member "none"`, exitFailed},
		{"--reason none", `no drop reason "none"`, exitFailed},
		{"--port none", `no port "none"`, exitFailed},
		{"--worker 9", `no worker 9`, exitFailed},
		{"--protocol none", `protocol "none"`, exitFailed},
		{"--end none", `end "none"`, exitFailed},
		{"--sample 0", `sample "0" is not a number from 1`, exitFailed},
		{"--duration 99h", `duration "99h0m0s" is not`, exitFailed},
		{"-w /no/such/folder/file", `no such file`, exitFailed},
	} {
		r := b.sluice(nil, append(strings.Fields("capture --socket "+b.socket), strings.Fields(k.args)...)...)
		if r.code != k.code || !strings.Contains(r.stderr, k.want) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("sluice capture %s: %+v, want %q", k.args, r, k.want)
		}
	}
	for _, s := range sessions {
		s.Close()
	}
	d.stop()
}

// captureRequest asks for a capture whose answer the test reads as it likes.
func (b *bed) captureRequest(ctx context.Context, query string) *http.Response {
	b.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.socket)
	}}}
	req := must(http.NewRequestWithContext(ctx, http.MethodGet, "http://sluice/v1/capture?"+query, nil))(b.t)
	resp := must(client.Do(req))(b.t)
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		b.t.Fatalf("%s: %s", resp.Status, text)
	}
	return resp
}

// Under load, read by somebody who stands still: every packet that workers received is counted once, what was lost among them,
// and what is in the file is what was counted. Clients that are gone leave nothing behind.
func TestCaptureLost(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1, Queues: 2}, settings{engine: "workers: 2"})
	b.echoServer(b.Servers[0], netip.AddrPortFrom(b.ServerAddr4[0], webPort))
	d := b.start()
	var sessions []*session
	for range 4 {
		s, err := openSession(b.Client, netip.AddrPortFrom(b.VIP4, webPort))
		ok(t, err)
		defer s.Close()
		sessions = append(sessions, s)
	}
	load := func() {
		failed := make(chan error)
		for _, s := range sessions {
			go func() {
				block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
				_ = s.SetDeadline(time.Now().Add(waitTime))
				go func() {
					for range 64 {
						if _, err := s.Write(block); err != nil {
							return // the reader says so
						}
					}
				}()
				_, err := io.CopyN(io.Discard, s, int64(64*len(block)))
				failed <- err
			}()
		}
		for range sessions {
			ok(t, <-failed)
		}
	}
	received := func() (n uint64) {
		for _, w := range query[[]ctl.WorkerView](b, "worker") {
			n += w.Received + w.HandedOut
		}
		return n
	}
	quiet := func() uint64 {
		last := received()
		eventually(t, "the last acknowledgements have come", func() bool {
			time.Sleep(300 * time.Millisecond)
			now := received()
			was := last
			last = now
			return now == was
		})
		return last
	}
	for _, k := range []struct {
		query string
		slow  bool
	}{{"ring=16384&snap=200&count=100000", true}, {"count=1000000&bytes=1000000000&snap=96&ring=67108864&sample=3", false}} {
		before := quiet()
		resp := b.captureRequest(t.Context(), k.query+"&duration=1h")
		var body bytes.Buffer
		copied := make(chan error, 1)
		read := func() {
			_, err := io.Copy(&body, resp.Body)
			copied <- err
		}
		began := received()
		if !k.slow {
			go read()
		}
		load()
		ending := quiet()
		if k.slow {
			go read()
		}
		var none struct{}
		ok(t, ctl.Delete(t.Context(), b.socket, "/v1/capture", &none))
		ok(t, <-copied)
		resp.Body.Close()
		after := received() // a late packet may come at any time
		var s ctl.CaptureStats
		ok(t, json.Unmarshal([]byte(resp.Trailer.Get("Sluice-Capture")), &s))
		n := uint64(0)
		in := must(pcapgo.NewNgReader(&body, pcapgo.DefaultNgReaderOptions))(t)
		for {
			_, ci, err := in.ReadPacketData()
			if errors.Is(err, io.EOF) {
				break
			}
			ok(t, err)
			if ci.InterfaceIndex == 0 {
				n++
			}
		}
		t.Logf("%+v", s)
		if s.Seen < ending-began || s.Seen > after-before || s.Seen != s.Skipped+s.Unmatched+s.Captured+s.Lost+s.Held || n != s.Written || s.Written != s.Captured || s.End != "stopped" || s.Held != 0 {
			t.Errorf("%d to %d were received, %d are in the file, %+v", ending-began, after-before, n, s)
		}
		if k.slow && s.Lost == 0 || !k.slow && (s.Skipped < s.Seen/2 || s.Captured == 0) {
			t.Errorf("%+v", s)
		}
	}

	descriptors := func() int { return len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.PID())))(t)) }
	idle := descriptors()
	for range 3 {
		c := b.startCapture("-w", "-")
		ok(t, sessions[0].say(waitTime))
		ok(t, c.Signal(syscall.SIGKILL))
		_ = c.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		eventually(t, "the capture of a client that was killed ends", func() bool {
			var none struct{}
			err := ctl.Delete(ctx, b.socket, "/v1/capture", &none)
			return err != nil && strings.Contains(err.Error(), "no capture goes on")
		})
		resp := b.captureRequest(ctx, "duration=1h")
		ok(t, sessions[0].say(waitTime))
		cancel() // in the middle of an answer
		resp.Body.Close()
		eventually(t, "another one may begin", func() bool {
			var none struct{}
			err := ctl.Delete(t.Context(), b.socket, "/v1/capture", &none)
			return err != nil && strings.Contains(err.Error(), "no capture goes on")
		})
	}
	eventually(t, "no descriptor is left", func() bool { return descriptors() <= idle })
	for _, s := range sessions {
		s.Close()
	}
	d.stop()
}
