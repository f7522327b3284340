package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sluice/ctl"
	"sluice/perf/lab"
)

// selfSigned makes a certificate for www.example.org and writes it to a file.
func selfSigned(t *testing.T, path string) tls.Certificate {
	t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "www.example.org"}, DNSNames: []string{"www.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der := must(x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key))(t)
	ok(t, os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// Every type of monitor, by configuration, against a server of its kind: all find it up, and each has its cause when the server
// is gone. The member's connections end as the pool says, and another pool stands in.
func TestMonitorTypes(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	h, addr := b.Servers[0], b.ServerAddr4[0]
	at := func(port uint16) string { return netip.AddrPortFrom(addr, port).String() }
	var closers []io.Closer
	listen := func(port uint16) net.Listener {
		ln := must(h.Listen("tcp", at(port)))(t)
		closers = append(closers, ln)
		return ln
	}
	banner := listen(22)
	go func() {
		for {
			conn, err := banner.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "SSH-2.0-lab\r\n")
			conn.Close()
		}
	}()
	page := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "host %s check %s status=ready\n", r.Host, r.Header.Get("X-Check"))
	})
	plain := &http.Server{Handler: page}
	go func() { _ = plain.Serve(listen(8080)) }()
	ca := filepath.Join(b.dir, "ca.pem")
	secure := &http.Server{Handler: page}
	ln := tls.NewListener(listen(443), &tls.Config{Certificates: []tls.Certificate{selfSigned(t, ca)}})
	go func() { _ = secure.Serve(ln) }()
	closers = append(closers, plain, secure)
	closers = append(closers, must(lab.UDPEcho(h, at(7), "server-1"))(t))
	pc := must(h.ListenPacket("udp", at(53)))(t)
	resolver := &dns.Server{PacketConn: pc, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IPv4(192, 0, 2, 1)}}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = resolver.ActivateAndServe() }()
	closers = append(closers, pc)
	flag, script := filepath.Join(b.dir, "well"), filepath.Join(b.dir, "check")
	ok(t, os.WriteFile(flag, nil, 0o644))
	ok(t, os.WriteFile(script, []byte("#!/bin/sh\nif [ -e \"$WELL\" ]; then echo well; else echo \"$SLUICE_MEMBER is unwell\"; exit 3; fi\n"), 0o755))
	b.echoServer(h, netip.AddrPortFrom(addr, webPort))
	b.echoServer(b.Servers[1], netip.AddrPortFrom(b.ServerAddr4[1], webPort))

	common := "interval: 300ms, timeout: 300ms, jitter: 0, rise: 1, fall: 1, source-v4: " + b.Inside4.String()
	monitors := fmt.Sprintf(`  - {name: ping, type: icmp, %[1]s}
  - {name: service, type: tcp, %[1]s}
  - {name: banner, type: tcp, port: 22, tcp: {expect: SSH-2.0}, %[1]s}
  - {name: page, type: http, port: 8080, http: {headers: [{name: X-Check, value: lab}], host: a.example, pattern: "host a.example check lab status=ready"}, %[1]s}
  - {name: secure, type: https, port: 443, http: {host: www.example.org}, tls: {ca-file: %[2]s}, %[1]s}
  - {name: echo, type: udp, port: 7, udp: {send: "ping\r\n", expect: "server-1 ping"}, %[1]s}
  - {name: zone, type: dns, port: 53, dns: {name: www.example.org, answer: 192.0.2.1}, %[1]s}
  - {name: script, type: exec, exec: {command: [%[3]s], environment: ["WELL=%[4]s"]}, %[1]s}
`, common, ca, script, flag)
	text := strings.Replace(b.configText(settings{}), "pools:\n", "monitors:\n"+monitors+fmt.Sprintf(`pools:
  - name: all
    monitors: [ping, service, banner, page, secure, echo, zone, script]
    on-down: reset
    all-down: pool spare
    start-up: checking
    members: [{name: server-1, address: %s}]
  - name: spare
    members: [{name: server-2, address: %s}]
`, addr, b.ServerAddr4[1]), 1)
	text = dropPool(text, "all", 1)
	b.write(text[:strings.Index(text, "virtual-servers:")] + fmt.Sprintf(`virtual-servers:
  - {name: web, address: "%s:%d", protocol: tcp, pool: all}
  - {name: web6, address: "[%s]:%d", protocol: tcp, pool: all6}
`, b.VIP4, webPort, b.VIP6, webPort))
	d := b.start()
	eventually(t, "all monitors to find it up", func() bool { return b.member("all", "server-1").State == "active" })
	s := must(openSession(b.Client, netip.AddrPortFrom(b.VIP4, webPort)))(t)
	defer s.Close()
	ok(t, s.say(waitTime))
	if m := b.member("all", "server-1"); m.Connections != 1 {
		t.Errorf("%+v", m)
	}
	metrics := query[[]ctl.MonitorView](b, "monitor")
	if len(metrics) != 8 {
		t.Errorf("%d monitors", len(metrics))
	}
	for _, m := range metrics {
		if m.Verdict != "up" || m.Failures > 0 && m.Changes < 2 || m.Last != "success" {
			t.Errorf("%+v", m)
		}
	}
	for _, c := range closers {
		_ = c.Close()
	}
	ok(t, os.Remove(flag))
	want := map[string]string{
		"ping": "", "service": "", "banner": "connection refused", "page": "connection refused", "secure": "connection refused",
		"echo": "port unreachable", "zone": "port unreachable", "script": "all/server-1 is unwell",
	}
	eventually(t, "each monitor to see it", func() bool {
		seen := 0
		for _, m := range query[[]ctl.MonitorView](b, "monitor") {
			if w := want[m.Monitor]; w == "" && m.Verdict == "up" || w != "" && m.Verdict == "down" && strings.Contains(m.LastCause, w) {
				seen++
			}
		}
		return seen == len(want)
	})
	if m := b.member("all", "server-1"); m.State != "down" || !strings.HasPrefix(m.Cause, "monitor ") {
		t.Errorf("%+v", m)
	}
	if err := s.say(waitTime); err == nil || timedOut(err) {
		t.Errorf("on-down is reset, and the session: %v", err)
	}
	if n := b.totals().Ended; n != 1 {
		t.Errorf("%d connections ended", n)
	}
	other := must(openSession(b.Client, netip.AddrPortFrom(b.VIP4, webPort)))(t)
	defer other.Close()
	ok(t, other.say(waitTime))
	if m := b.member("spare", "server-2"); m.Connections != 1 {
		t.Errorf("the pool that stands in: %+v", m)
	}
	d.stop()
}

// dropPool takes the n-th pool of a name, from 0, out of a configuration.
func dropPool(text, name string, n int) string {
	at := 0
	for range n + 1 {
		at += strings.Index(text[at:], "  - name: "+name+"\n") + 1
	}
	at--
	end := at + 1 + strings.Index(text[at+1:], "\n  - name: ") + 1
	return text[:at] + text[end:]
}

// A server that goes on living and no longer answers clients, which no monitor is there to see: the clients' own handshakes tell,
// long before one's time is over. It comes back after its hold-off, and is held off longer if it fails again.
func TestPassive(t *testing.T) {
	for _, how := range []string{"silent", "refusing"} {
		t.Run(how, func(t *testing.T) {
			b := newBed(t, lab.TwoArmOptions{Servers: 3}, settings{})
			b.write(b.withHealth(settings{}, "  - {name: unused, type: icmp}\n", "    passive: {consecutive: 3, hold-min: 2s, probation: 1s}\n"))
			servers := b.serve(webPort, lab.HTTPServer)
			d := b.start()
			v, stop := b.visitors(6, netip.AddrPortFrom(b.VIP4, webPort))
			eventually(t, "traffic", func() bool { return len(v.since(time.Time{})) > 100 })
			broken := time.Now()
			var route *netlink.Route
			if how == "silent" { // its answers have no way
				route = &netlink.Route{Dst: &net.IPNet{IP: b.Client4.AsSlice(), Mask: net.CIDRMask(32, 32)}, Type: unix.RTN_BLACKHOLE}
				ok(t, b.Servers[1].Do(func() error { return netlink.RouteAdd(route) }))
			} else {
				ok(t, servers[1][0].Close())
			}
			eventually(t, "it to be held off", func() bool { return b.member("all", "server-2").State == "down" })
			took := time.Since(broken)
			m := b.member("all", "server-2")
			if !strings.HasPrefix(m.Cause, "passive: ") || !strings.Contains(m.Cause, "in a row") {
				t.Errorf("%+v", m)
			}
			const handshake = 30 * time.Second // the default
			if took > handshake/2 {
				t.Errorf("found out after %s, the time for a handshake is %s", took, handshake)
			}
			if how == "silent" {
				ok(t, b.Servers[1].Do(func() error { return netlink.RouteDel(route) }))
			} else {
				servers[1][0] = must(lab.HTTPServer(b.Servers[1], netip.AddrPortFrom(b.ServerAddr4[1], webPort).String(), "server-2"))(t)
			}
			eventually(t, "it to come back", func() bool {
				m := b.member("all", "server-2")
				return m.State == "active" && strings.Contains(m.Cause, "hold-off")
			})
			back := time.Now()
			eventually(t, "it to serve", func() bool {
				for _, a := range v.since(back) {
					if a.server == "server-2" {
						return true
					}
				}
				return false
			})
			stop()
			t.Logf("found out after %s: %s", took.Round(time.Millisecond), m.Cause)
			d.stop()
		})
	}
}
