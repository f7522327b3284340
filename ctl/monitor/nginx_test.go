package monitor

import (
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// The ports of the nginx of these tests. All TLS ones serve the same pages as plain.
const (
	plainPort      = 80
	tlsPort        = 443
	expiredPort    = 1443
	otherNamePort  = 2443
	strangerPort   = 3443 // signed by another authority
	earlyPort      = 4443
	clientCertPort = 5443
	http2Port      = 6443
	plainHTTP2Port = 8080
)

const nginxConfig = `
daemon off; worker_processes 1; user %[2]s; pid %[1]s/nginx.pid; error_log stderr crit;
events { worker_connections 256; }
http {
	access_log off;
	client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
	default_type text/plain;
	ssl_certificate %[1]s/good.pem; ssl_certificate_key %[1]s/good.key;
	map $request_method $answer { default "method $request_method host $host"; }
	server { listen 80; listen [::]:80; listen 443 ssl; listen 6443 ssl http2; listen 8080 http2; include %[1]s/pages; }
	server { listen 1443 ssl; ssl_certificate %[1]s/expired.pem; ssl_certificate_key %[1]s/expired.key; include %[1]s/pages; }
	server { listen 2443 ssl; ssl_certificate %[1]s/other.pem; ssl_certificate_key %[1]s/other.key; include %[1]s/pages; }
	server { listen 3443 ssl; ssl_certificate %[1]s/stranger.pem; ssl_certificate_key %[1]s/stranger.key; include %[1]s/pages; }
	server { listen 4443 ssl; ssl_certificate %[1]s/early.pem; ssl_certificate_key %[1]s/early.key; include %[1]s/pages; }
	server { listen 5443 ssl; ssl_verify_client on; ssl_client_certificate %[1]s/ca.pem; include %[1]s/pages; }
}
`

const nginxPages = `
location / { return 200 "$answer header $http_x_check$ssl_client_s_dn protocol $server_protocol status=ready\n"; }
location = /moved { return 302 /; }
location = /sick { return 503 "no database\n"; }
location = /slow { proxy_pass http://127.0.0.1:9999; proxy_read_timeout 30s; }
location = /large { root %[1]s; }
`

// startNginx runs nginx at the remote, and returns the directory with the certificates and how to stop it.
func startNginx(t testing.TB, r *remote) (dir string, stop func()) {
	t.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		without(t, "needs nginx (Debian: nginx-light)")
	}
	dir = t.TempDir()
	ca := newAuthority(t, dir, "ca")
	ca.issue(t, "good", -1, 1, nil)
	ca.issue(t, "client", -1, 1, nil)
	ca.issue(t, "expired", -2, -1, nil)
	ca.issue(t, "early", 1, 2, nil)
	ca.issue(t, "other", -1, 1, func(c *x509.Certificate) { c.DNSNames, c.IPAddresses = []string{"other.example"}, nil })
	stranger := newAuthority(t, dir, "strangers-ca")
	stranger.issue(t, "stranger", -1, 1, nil)
	stranger.issue(t, "stranger-client", -1, 1, nil)
	ok(t, os.WriteFile(filepath.Join(dir, "large"), []byte(strings.Repeat("x", 100_000)+"end\n"), 0o644))
	ok(t, os.WriteFile(filepath.Join(dir, "pages"), fmt.Appendf(nil, nginxPages, dir), 0o644))
	ok(t, os.WriteFile(filepath.Join(dir, "nginx.conf"), fmt.Appendf(nil, nginxConfig, dir, "root"), 0o644))

	var log strings.Builder
	cmd := exec.Command(path, "-p", dir, "-e", "stderr", "-c", filepath.Join(dir, "nginx.conf"))
	cmd.Stderr, cmd.Stdout = &log, &log
	p := must(r.host.Start(cmd))(t)
	stop = func() { p.Stop(5 * time.Second) }
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("nginx: %s", log.String())
		}
	})
	up := must(NewProber(testMonitor(TCP, nil)))(t)
	eventually(t, "nginx listens", func() bool {
		select {
		case <-p.Done():
			t.Fatalf("nginx ended: %s", log.String())
		default:
		}
		return up.Probe(t.Context(), Target{Address: r.to4(plainHTTP2Port)}).Outcome == Success
	})
	return dir, stop
}

func TestNginx(t *testing.T) {
	r := newRemote(t)
	dir, stop := startNginx(t, r)
	serveOn(t, must(r.host.Listen("tcp", "127.0.0.1:9999"))(t), silent) // what is behind /slow
	to := r.to4
	get := func(path string, edit func(*Monitor)) Monitor {
		return testMonitor(HTTP, func(m *Monitor) {
			m.Timeout, m.Interval = answerTime, answerTime
			if m.HTTP.Path = path; edit != nil {
				edit(m)
			}
		})
	}
	secure := func(edit func(*Monitor)) Monitor {
		m := get("/", func(m *Monitor) {
			m.Name, m.Type = "https", HTTPS
			m.TLS.CAFile = filepath.Join(dir, "ca.pem")
		})
		if edit != nil {
			edit(&m)
		}
		return m
	}
	body := func(pattern string) func(*Monitor) { return func(m *Monitor) { m.HTTP.Pattern = pattern } }
	server := func(name string) func(*Monitor) { return func(m *Monitor) { m.TLS.ServerName = name } }
	cert := func(name string) func(*Monitor) {
		return func(m *Monitor) {
			m.TLS.CertFile, m.TLS.KeyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
		}
	}
	version := func(v HTTPVersion, pattern string) func(*Monitor) {
		return func(m *Monitor) { m.HTTP.Version, m.HTTP.Pattern = v, pattern }
	}
	quick := func(m *Monitor) { m.Timeout = 300 * time.Millisecond }
	unverified := func(m *Monitor) { m.TLS = TLSOptions{SkipVerify: true} }
	for _, c := range []probeCase{
		{"http", get("/", nil), to(plainPort), Success, "status 200"},
		{"http v6", get("/", nil), r.to6(plainPort), Success, "status 200"},
		{"body", get("/", body(`status=(ready|idle)`)), to(plainPort), Success, "status 200"},
		{"wrong body", get("/", body(`status=broken`)), to(plainPort), Failure, `body does not match "status=broken": "method GET host 10.9.0.2 `},
		{"wrong status", get("/sick", nil), to(plainPort), Failure, "status 503, expected 200-399"},
		{"not found", get("/nosuch/../sick?x=%2f&y", func(m *Monitor) { m.HTTP.Status, _ = ParseStatus("200,204-206") }), to(plainPort), Failure, "status 503, expected 200,204-206"},
		{"redirection is not followed", get("/moved", func(m *Monitor) { m.HTTP.Status, _ = ParseStatus("302") }), to(plainPort), Success, "status 302"},
		{"slow", get("/slow", quick), to(plainPort), Failure, "timeout after 300ms (waiting for the answer)"},
		{"method, host, headers", get("/", func(m *Monitor) {
			m.HTTP.Method, m.HTTP.Host, m.HTTP.Headers = "OPTIONS", "www.example:99", []Header{{"X-Check", "one"}}
			m.HTTP.Pattern = "^method OPTIONS host www.example header one protocol HTTP/1.1"
		}), to(plainPort), Success, "status 200"},
		{"HEAD", get("/", func(m *Monitor) { m.HTTP.Method = "HEAD" }), to(plainPort), Success, "status 200"},
		{"POST", get("/", func(m *Monitor) { m.HTTP.Method, m.HTTP.Body, m.HTTP.Pattern = "POST", "ping", "^method POST" }), to(plainPort), Success, "status 200"},
		{"beyond the limit", get("/large", body("end")), to(plainPort), Failure, `body does not match "end": "xxx`},
		{"within the limit", get("/large", func(m *Monitor) { m.HTTP.Pattern, m.HTTP.BodyLimit = "xend\n$", 200_000 }), to(plainPort), Success, "status 200"},

		{"https", secure(nil), to(tlsPort), Success, "status 200"},
		{"https by name", secure(server("www.example")), to(tlsPort), Success, "status 200"},
		{"https by host", secure(func(m *Monitor) { m.HTTP.Host = "www.example:443" }), to(tlsPort), Success, "status 200"},
		{"https wrong body", secure(body("nothing such")), to(tlsPort), Failure, "body does not match"},
		{"https wrong status", secure(func(m *Monitor) { m.HTTP.Path = "/sick" }), to(tlsPort), Failure, "status 503, expected 200-399"},
		{"https slow", secure(func(m *Monitor) { quick(m); m.HTTP.Path = "/slow" }), to(tlsPort), Failure, "timeout after 300ms (waiting for the answer)"},
		{"expired", secure(nil), to(expiredPort), Failure, "certificate has expired on 20"},
		{"not yet valid", secure(nil), to(earlyPort), Failure, "certificate is not valid before 20"},
		{"wrong name", secure(nil), to(otherNamePort), Failure, "certificate is for other.example, not for 10.9.0.2"},
		{"other wrong name", secure(server("bad.example")), to(tlsPort), Failure, "certificate is for www.example, 10.9.0.2, 127.0.0.1, not for bad.example"},
		{"unknown CA", secure(nil), to(strangerPort), Failure, "certificate is signed by an unknown authority"},
		{"system's CAs", secure(func(m *Monitor) { m.TLS.CAFile = "" }), to(tlsPort), Failure, "certificate is signed by an unknown authority"},
		{"expired, not verified", secure(unverified), to(expiredPort), Success, "status 200"},
		{"unknown CA, not verified", secure(unverified), to(strangerPort), Success, "status 200"},
		{"client certificate", secure(func(m *Monitor) { cert("client")(m); body("header CN=client protocol")(m) }), to(clientCertPort), Success, "status 200"},
		{"no client certificate", secure(nil), to(clientCertPort), Failure, "status 400, expected 200-399"},
		{"wrong client certificate", secure(cert("stranger-client")), to(clientCertPort), Failure, "status 400, expected 200-399"},
		{"not TLS", secure(nil), to(plainPort), Failure, "the answer is not TLS"},
		{"not without TLS", get("/", nil), to(tlsPort), Failure, "status 400, expected 200-399"},
		{"h2", secure(version(HTTP2, "protocol HTTP/2.0 status=ready")), to(http2Port), Success, "status 200"},
		{"h2 by agreement", secure(version(HTTPAuto, "protocol HTTP/2.0")), to(http2Port), Success, "status 200"},
		{"http/1.1 by agreement", secure(version(HTTPAuto, "protocol HTTP/1.1")), to(tlsPort), Success, "status 200"},
		{"h2 not offered", secure(version(HTTP2, "")), to(tlsPort), Failure, "the server does not offer HTTP/2 (ALPN)"},
		{"h2 not wanted", secure(version(HTTP1, "protocol HTTP/1.1")), to(http2Port), Success, "status 200"},
		{"h2 wrong status", secure(func(m *Monitor) { m.HTTP.Version, m.HTTP.Path = HTTP2, "/sick" }), to(http2Port), Failure, "status 503, expected 200-399"},
		{"h2 slow", secure(func(m *Monitor) { quick(m); m.HTTP.Version, m.HTTP.Path = HTTP2, "/slow" }), to(http2Port), Failure, "timeout after 300ms (waiting for the answer)"},
		{"h2 without TLS", get("/", version(HTTP2, "protocol HTTP/2.0")), to(plainHTTP2Port), Success, "status 200"},
		{"h2 without TLS, not spoken", get("/", func(m *Monitor) { m.HTTP.Version = HTTP2 }), to(plainPort), Failure, "the answer is not HTTP/2: "},
		{"nobody listens", get("/", nil), to(81), Failure, "connection refused"},
		{"silent", get("/", quick), netip.AddrPortFrom(r.blackhole(t), 80), Failure, "timeout after 300ms (connect)"},
	} {
		c.run(t)
	}
	stop()
	for _, c := range []probeCase{
		{"down", get("/", nil), to(plainPort), Failure, "connection refused"},
		{"https down", secure(nil), to(tlsPort), Failure, "connection refused"},
	} {
		c.run(t)
	}
}

// TestHTTPOdd: servers that are none, on loopback.
func TestHTTPOdd(t *testing.T) {
	get := func(edit func(*Monitor)) Monitor {
		return testMonitor(HTTP, func(m *Monitor) {
			m.Timeout, m.Interval = answerTime, answerTime
			if edit != nil {
				edit(m)
			}
		})
	}
	quick := func(m *Monitor) { m.Timeout = 200 * time.Millisecond }
	secure := func(m *Monitor) { quick(m); m.Type = HTTPS }
	body := func(m *Monitor) { m.HTTP.Pattern = "ready" }
	// The server reads the request first, so that closing does not reset.
	answers := func(text string, stays bool) netip.AddrPort {
		return serveTCP(t, func(conn net.Conn) {
			conn.Read(make([]byte, 4096))
			io.WriteString(conn, text)
			if stays {
				silent(conn)
			}
		})
	}
	chunks := strings.Repeat("1\r\nx\r\n", 1000)
	for _, c := range []probeCase{
		{"closes", get(nil), answers("", false), Failure, "connection closed early (waiting for the answer)"},
		{"half a header", get(nil), answers("HTTP/1.1 200 OK\r\nX: y\r\n", false), Failure, "connection closed early (waiting for the answer)"},
		{"half a body", get(body), answers("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nready", false), Failure, "connection closed early (reading the body)"},
		{"half a body, not asked for", get(nil), answers("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nready", true), Success, "status 200"},
		{"slow body", get(func(m *Monitor) { quick(m); body(m) }), answers("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nready", true), Failure, "timeout after 200ms (reading the body)"},
		{"until close", get(body), answers("HTTP/1.0 200 OK\r\n\r\nready", false), Success, "status 200"},
		{"tiny chunks", get(func(m *Monitor) { m.HTTP.Pattern, m.HTTP.BodyLimit = "^x{1000}$", 1000 }), answers("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunks+"0\r\n\r\n", true), Success, "status 200"},
		{"interim answers", get(nil), answers("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n", true), Success, "status 204"},
		{"endless interim answers", get(nil), answers(strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 5000), false), Failure, "the header of the answer is longer than 65536 bytes"},
		{"endless header", get(nil), answers("HTTP/1.1 200 OK\r\n"+strings.Repeat("X: y\r\n", 20000), false), Failure, "the header of the answer is longer than 65536 bytes"},
		{"SSH", get(nil), answers("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", true), Failure, "the answer is not HTTP"},
		{"silent TLS", get(secure), serveTCP(t, silent), Failure, "timeout after 200ms (TLS handshake)"},
		{"TLS closes", get(secure), answers("", false), Failure, "connection closed early (TLS handshake)"},
		{"no TLS but SSH", get(secure), answers("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", true), Failure, "the answer is not TLS"},
	} {
		c.run(t)
	}
}

// TestCheckerNginx: from a real server that dies and returns to the events of the Checker.
func TestCheckerNginx(t *testing.T) {
	r := newRemote(t)
	_, stop := startNginx(t, r)
	m := testMonitor(HTTP, func(m *Monitor) {
		m.Interval, m.Timeout, m.Rise, m.Fall = 200*time.Millisecond, 200*time.Millisecond, 2, 2
	})
	events := make(chan Event, 100)
	c := must(New(t.Context(), Options{OnMember: func(e Event) { events <- e }}))(t)
	// A busy machine may make a probe late, so what is between the changes asked for is not judged.
	await := func(to Verdict, causes ...string) {
		t.Helper()
		for limit := time.After(20 * time.Second); ; {
			select {
			case e := <-events:
				if e.To == to && slices.Contains(causes, strings.TrimPrefix(e.Cause, "monitor http: ")) {
					t.Logf("%v: %s, latency %v", e.To, e.Cause, e.Latency)
					return
				}
				t.Logf("also %v: %s", e.To, e.Cause)
			case <-limit:
				t.Fatalf("not %v within 20 s: %+v", to, c.Pairs())
			}
		}
	}
	ok(t, c.Apply([]Member{{Name: "web/nginx", Address: r.to4(plainPort), Monitors: []*Monitor{&m}}}))
	await(Up, "status 200")
	stop()
	await(Down, "connection refused")
	startNginx(t, r)
	await(Up, "status 200")
	ok(t, r.host.SetLink("eth0", false))
	await(Down, "timeout after 200ms (connect)", "host unreachable")
	ok(t, c.Close())
}
