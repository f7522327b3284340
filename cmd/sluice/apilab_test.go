package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"

	"sluice/ctl"
	"sluice/perf/lab"
)

// apiAnswers has every path of openapi.json that reads answered by the running engine, and validates the answers: unknown fields
// fail.
func apiAnswers(t *testing.T, b *bed) *openapi3.T {
	t.Helper()
	doc := must(openapi3.NewLoader().LoadFromData(ctl.OpenAPI()))(t)
	client := http.Client{Transport: &http.Transport{DialContext: unixDialer(b.socket)}}
	defer client.CloseIdleConnections()
	for path, item := range doc.Paths.Map() {
		if item.Get == nil {
			continue
		}
		needs := map[string]string{ // parameters that there must be, or that end what would go on
			"/v1/explain": "?protocol=tcp&source=172.16.10.55:4003&destination=10.10.1.100:80", "/v1/capture": "?count=1&duration=500ms",
		}
		resp := must(client.Get("http://sluice" + path + needs[path]))(t)
		body := must(io.ReadAll(resp.Body))(t)
		resp.Body.Close()
		content := item.Get.Responses.Status(resp.StatusCode).Value.Content.Get(resp.Header.Get("Content-Type"))
		if resp.StatusCode != http.StatusOK || content == nil {
			t.Errorf("%s: %s, %s", path, resp.Status, resp.Header.Get("Content-Type"))
			continue
		}
		if strings.Contains(resp.Header.Get("Content-Type"), "json") {
			validate(t, path, content.Schema, body)
		} else if len(body) == 0 {
			t.Errorf("%s: nothing", path)
		}
	}
	return doc
}

// validate holds JSON documents to a schema.
func validate(t *testing.T, what string, schema *openapi3.SchemaRef, text []byte) {
	t.Helper()
	n := 0
	for dec := json.NewDecoder(strings.NewReader(string(text))); dec.More(); n++ {
		var v any
		ok(t, dec.Decode(&v))
		if err := schema.Value.VisitJSON(v, openapi3.MultiErrors()); err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
	}
	if n == 0 {
		t.Errorf("%s: nothing", what)
	}
}

// Every command that asks the running engine: JSON by the schema of the API, tables by goldens, and what goes wrong says what
// to do next.
func TestCommandsAgainstEngine(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 2}, settings{})
	for i, h := range b.Servers {
		b.echoServer(h, netip.AddrPortFrom(b.ServerAddr4[i], webPort))
	}
	d := b.start()
	s := must(openSession(b.Client, b.vips(webPort)[0]))(t)
	defer s.Close()
	ok(t, s.say(waitTime))
	doc := apiAnswers(t, b)
	run := func(args string) finished {
		t.Helper()
		return b.sluice(nil, append(strings.Fields(args), "--socket", b.socket)...)
	}

	for _, c := range engineCommands {
		r := run(c.args + " -o json")
		if r.code != exitOK || r.stderr != "" {
			t.Errorf("sluice %s: %+v", c.args, r)
			continue
		}
		op := doc.Paths.Find(c.path).GetOperation(strings.ToUpper(c.method))
		validate(t, "sluice "+c.args, op.Responses.Status(200).Value.Content.Get("application/json").Schema, []byte(r.stdout))
	}
	b.captureStopped(t, doc)
	b.completesNames(t)
	if r := run("member weight all server-2 7"); r.code != exitOK || !strings.Contains(r.stderr, "warning: scheduler round-robin of pool all looks at no weight but 0") {
		t.Errorf("a weight that nothing looks at: %+v", r)
	}

	// The weight stands before the file, in every place that shows either.
	if v := query[[]ctl.MemberView](b, "member"); v[1].Weight != 7 || v[1].FileWeight == nil || *v[1].FileWeight != 1 {
		t.Errorf("%+v", v[1])
	}
	if r := run("config diff -c " + b.config); !strings.Contains(r.stdout, "pools[all].members[server-2].weight  7      1") || !strings.Contains(r.stdout, "sluice member weight all server-2 file") {
		t.Errorf("config diff: %+v", r)
	}
	if r := run("config show"); !regexp.MustCompile(`(?m)^pools\[all\]\.members\[server-2\]\.weight +1 +7$`).MatchString(r.stdout) {
		t.Errorf("config show: %+v", r)
	}

	// Tables: what differs from run to run is masked.
	for _, noun := range []string{"virtual", "pool", "member", "member -o wide", "worker", "port", "conn", "monitor"} {
		golden(t, filepath.Join("testdata", "table-"+strings.ReplaceAll(noun, " ", "")+".txt"), b.masked(run(noun).stdout))
	}

	// Each error says what to do.
	other := filepath.Join(b.dir, "other.sock")
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	ok(t, os.WriteFile(filepath.Join(b.dir, "file"), nil, 0o666))
	for _, c := range []struct {
		args string
		cred *syscall.Credential
		code int
		want string
	}{
		{"member --socket " + other, nil, exitFailed, "start it (sluice run -c FILE), or name its control.socket (--socket PATH)"},
		{"member --socket " + filepath.Join(b.dir, "file"), nil, exitFailed, "nobody listens there"},
		{"member --socket " + b.socket, nobody, exitFailed, "run as root or in its group"},
		{"member drain alll server-1 --socket " + b.socket, nil, exitFailed, `did you mean "all"?`},
		{"member drain all serverr-1 --socket " + b.socket, nil, exitFailed, `did you mean "server-1"?`},
		{"member weight all server-1 heavy --socket " + b.socket, nil, exitFailed, "the word file"},
		{"member weight all server-1", nil, exitUsage, "needs a pool, a member and a weight"},
		{"member drian all server-1", nil, exitUsage, `did you mean "drain"?`},
		{"member -o tabel", nil, exitUsage, `did you mean "table"?`},
		{"conn --state establishd --socket " + b.socket, nil, exitFailed, "did you mean established?"},
		{"conn delete --socket " + b.socket, nil, exitUsage, "or --all"},
		{"member --cert x", nil, exitUsage, "for --server"},
		{"member --server 127.0.0.1:1", nil, exitUsage, "needs a client certificate"},
		{"conn --protocol tpc --socket " + b.socket, nil, exitFailed, `did you mean "tcp"?`},
		{"capture --reason no_membr --socket " + b.socket, nil, exitFailed, "did you mean"},
		{"capture lits", nil, exitUsage, `did you mean "list"?`},
		{"capture stop --socket " + b.socket, nil, exitFailed, "no capture goes on"},
		{"explain tpc 10.0.0.1:1 10.0.0.2:2", nil, exitUsage, `did you mean "tcp"?`},
		{"explain --port outsied tcp 10.0.0.1:1 10.0.0.2:2 --socket " + b.socket, nil, exitFailed, `did you mean "outside"?`},
		{"virtual disable wbe --socket " + b.socket, nil, exitFailed, `did you mean "web"?`},
		{"member drain all server-1 --deadline 10", nil, exitUsage, "such as 10s, 5m or 1h30m"},
		{"member weight all server-1 -5", nil, exitUsage, "from 0 to 65535"},
		{"config diff -o wide", nil, exitUsage, "there are table and json"},
		{"top --interval 1ms", nil, exitUsage, "between 100ms"},
		{"top --socket " + b.socket, nil, exitFailed, "needs a terminal"},
	} {
		r := b.sluice(c.cred, strings.Fields(c.args)...)
		if r.code != c.code || !strings.Contains(r.stderr, c.want) || strings.Count(r.stderr, "\n") != 1 {
			t.Errorf("sluice %s: %+v, want %d %s", c.args, r, c.code, c.want)
		}
	}

	// The weight outlives a reload and a restart, and is taken back.
	if r := run("reload"); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	d.stop()
	d = b.start()
	if v := query[[]ctl.MemberView](b, "member"); v[1].Weight != 7 {
		t.Errorf("after a restart: %+v", v[1])
	}
	if r := run("member weight all server-2 file"); r.code != exitOK || !strings.Contains(r.stdout, "weight 1 (as the file says)") {
		t.Errorf("%+v", r)
	}
	d.stop()
}

// masked replaces what differs from run to run by as many dots as it has characters, or leaves it out.
func (b *bed) masked(text string) string {
	for _, p := range []struct{ pattern, with string }{
		{regexp.QuoteMeta(b.Outside), "OUTSIDE"}, {regexp.QuoteMeta(b.Inside), "INSIDE"},
		{`([0-9a-f]{2}:){5}[0-9a-f]{2}`, "MAC"}, {`\d{4}-\d\d-\d\dT[0-9:.]+Z`, "TIME"}, {`(tcp +[0-9.]+:)\d+`, "${1}PORT"},
		{`\b\d+(\.\d+)?(ms|us|µs|s|m|h|%)(\d+(\.\d+)?(ms|s))*`, "D"}, {` +`, " "},
	} {
		text = regexp.MustCompile(p.pattern).ReplaceAllString(text, p.with)
	}
	var out strings.Builder
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if i > 0 { // counters are of this run; names and addresses stay
			line = regexp.MustCompile(`(^| )\d+( |$)`).ReplaceAllString(line, "${1}N${2}")
			line = regexp.MustCompile(`(^| )\d+( |$)`).ReplaceAllString(line, "${1}N${2}")
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

// Who may do what: a reader looks and is told which role a change needs, by group over the socket and by name over mutual TLS.
func TestRoles(t *testing.T) {
	b := newBed(t, lab.TwoArmOptions{Servers: 1}, settings{})
	ca := newCA(t, b.dir)
	server := ca.issue("server", "127.0.0.1")
	admin, reader := ca.issue("ops.example.org"), ca.issue("monitor.example.org")
	stranger := newCA(t, must(os.MkdirTemp(b.dir, "other-"))(t)).issue("ops.example.org")
	const group, adminGroup = 54321, 54322
	control := fmt.Sprintf("control:\n  group: %d\n  admin-group: %d\n  listen: 127.0.0.1:8443\n  tls: {cert-file: %s, key-file: %s, client-ca-file: %s, admin-names: [ops.example.org]}\n",
		group, adminGroup, server.cert, server.key, ca.file)
	b.write(strings.Replace(b.configText(settings{}), "control:\n", control, 1))
	d := b.start()
	st := must(os.Stat(b.socket))(t)
	if st.Mode().Perm() != 0o660 || st.Sys().(*syscall.Stat_t).Gid != group {
		t.Errorf("the socket is %v of group %d", st.Mode(), st.Sys().(*syscall.Stat_t).Gid)
	}
	member := func(gids ...uint32) *syscall.Credential {
		return &syscall.Credential{Uid: 54321, Gid: 65534, Groups: gids}
	}
	over := func(c certificate) []string {
		return []string{"--server", "127.0.0.1:8443", "--cert", c.cert, "--key", c.key, "--ca", ca.file}
	}
	socket := []string{"--socket", b.socket}
	for _, c := range []struct {
		who   string
		cred  *syscall.Credential
		to    []string
		reads string // empty: it may, else why not
		write string
	}{
		{"root", nil, socket, "", ""},
		{"nobody", member(), socket, "run as root or in its group", "run as root or in its group"},
		{"in the group", member(group), socket, "", "needs the role admin, and user 54321 is read-only: do it as root, or as a member of group 54322"},
		{"in both groups", member(group, adminGroup), socket, "", ""},
		{"administrator over TLS", nil, over(admin), "", ""},
		{"reader over TLS", nil, over(reader), "", "needs the role admin, and client monitor.example.org is read-only: use a certificate with a name of control.tls.admin-names"},
		{"of another CA", nil, over(stranger), "does not take this client certificate", "does not take this client certificate"},
	} {
		for args, want := range map[string]string{"member": c.reads, "member weight all server-1 3": c.write} {
			r := b.sluice(c.cred, append(strings.Fields(args), c.to...)...)
			if want == "" && r.code != exitOK || want != "" && (r.code != exitFailed || !strings.Contains(r.stderr, want)) {
				t.Errorf("%s, sluice %s: %+v, want %q", c.who, args, r, want)
			}
		}
	}
	// A successor goes on with both listeners.
	next := b.launch("--takeover")
	d.ended()
	next.await()
	if r := b.sluice(nil, append([]string{"member"}, over(admin)...)...); r.code != exitOK {
		t.Errorf("after a takeover: %+v", r)
	}
	if r := b.sluice(member(group), append([]string{"member"}, socket...)...); r.code != exitOK {
		t.Errorf("after a takeover: %+v", r)
	}
	if r := b.sluice(nil, append([]string{"member", "weight", "all", "server-1", "file"}, socket...)...); r.code != exitOK {
		t.Errorf("%+v", r)
	}
	next.stop()

	// Without mutual TLS there is no TCP.
	b.write(strings.Replace(b.configText(settings{}), "control:\n", "control:\n  listen: 127.0.0.1:8443\n", 1))
	if r := b.sluice(nil, "check", "--offline", "-c", b.config); r.code != exitFailed || !strings.Contains(r.stderr, "only with mutual TLS") {
		t.Errorf("%+v", r)
	}
}

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	file string
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

type certificate struct{ cert, key string }

func newCA(t *testing.T, dir string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir, file: filepath.Join(dir, "ca.pem"), key: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der := must(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))(t)
	a.cert = must(x509.ParseCertificate(der))(t)
	ok(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	return a
}

func (a *authority) issue(name string, ips ...string) certificate {
	a.t.Helper()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(a.t)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(ip))
	}
	der := must(x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key))(a.t)
	c := certificate{filepath.Join(a.dir, name+".crt"), filepath.Join(a.dir, name+".key")}
	ok(a.t, os.WriteFile(c.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644))
	ok(a.t, os.WriteFile(c.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(key))(a.t)}), 0o644))
	return c
}

func unixDialer(socket string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
}
