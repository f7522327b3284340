package ctl

import (
	"context"
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
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/engine"
)

// tlsBed is an apiBed that is reached over TCP.
type tlsBed struct {
	*apiBed
	dir, addr string
	clients   *testCA
	roots     *x509.CertPool
}

const tlsBedNames = "admin-names: [ops.example.org, 'spiffe://example.org/ops']"

func newTLSBed(t *testing.T) *tlsBed {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &tlsBed{dir: t.TempDir(), addr: ln.Addr().String(), roots: x509.NewCertPool()}
	ln.Close() // its port is free, and hardly anybody takes it
	b.clients = newTestCA(t, "clients")
	b.writeServer(t, newTestCA(t, "servers"))
	b.write(t, "ca.crt", b.clients.pem)
	text := strings.Replace(apiBedConfig, "control: {socket: SOCKET}", fmt.Sprintf(
		"control: {socket: SOCKET, listen: '%s', tls: {cert-file: %s/api.crt, key-file: %[2]s/api.key, client-ca-file: %[2]s/ca.crt, %s}}", b.addr, b.dir, tlsBedNames), 1)
	b.apiBed = newAPIBed(t, text, nil, engine.PollAdaptive)
	return b
}

func (b *tlsBed) write(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// writeServer gives the server a certificate of a CA.
func (b *tlsBed) writeServer(t *testing.T, ca *testCA) {
	t.Helper()
	b.roots.AddCert(ca.cert)
	c := ca.issue(t, func(c *x509.Certificate) {
		c.IPAddresses = []net.IP{{127, 0, 0, 1}}
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, "api.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
	b.write(t, "api.key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
}

// reread does with the files of control.tls what a reload does.
func (b *tlsBed) reread(t *testing.T) error {
	t.Helper()
	_, certs, err := b.file.prepareControl()
	if err == nil {
		b.api.renew(certs)
	}
	return err
}

// client keeps one connection, as far as the server does.
func (b *tlsBed) client(t *testing.T, certs ...tls.Certificate) *http.Client {
	t.Helper()
	tr := &http.Transport{MaxIdleConns: 1, TLSClientConfig: &tls.Config{RootCAs: b.roots, Certificates: certs, ClientSessionCache: tls.NewLRUClientSessionCache(8)}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func (b *tlsBed) ask(c *http.Client, method, path string) (code int, text string, err error) {
	req, err := http.NewRequest(method, "https://"+b.addr+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

type testCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

func newTestCA(t *testing.T, name string) *testCA {
	t.Helper()
	return newTestCABy(t, name, nil)
}

// newTestCABy is a CA that another one has signed, or that is a root.
func newTestCABy(t *testing.T, name string, by *testCA) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	parent, signer := template, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{key, cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

var serial atomic.Int64

func (a *testCA) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(serial.Add(1)), Subject: pkix.Name{CommonName: "monitor.example.org"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject.CommonName = name }
}

// Who may come, and as what, follows from the certificate.
func TestTLSCertificates(t *testing.T) {
	b := newTLSBed(t)
	between := newTestCABy(t, "between", b.clients)
	chained := between.issue(t, nil)
	chained.Certificate = append(chained.Certificate, between.cert.Raw)
	selfSigned := newTestCA(t, "ops.example.org")
	ca := tls.Certificate{Certificate: [][]byte{b.clients.cert.Raw}, PrivateKey: b.clients.key}
	for _, c := range []struct {
		what   string
		certs  []tls.Certificate
		change func(*tls.Config)
		role   Role // empty: turned away
	}{
		{"a reader", []tls.Certificate{b.clients.issue(t, nil)}, nil, RoleRead},
		{"an administrator by common name", []tls.Certificate{b.clients.issue(t, named("ops.example.org"))}, nil, RoleAdmin},
		{"an administrator by DNS name", []tls.Certificate{b.clients.issue(t, func(c *x509.Certificate) { c.DNSNames = []string{"a.example.org", "ops.example.org"} })}, nil, RoleAdmin},
		{"an administrator by URI", []tls.Certificate{b.clients.issue(t, func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/ops"}} })}, nil, RoleAdmin},
		{"a name in another case", []tls.Certificate{b.clients.issue(t, named("OPS.example.org"))}, nil, RoleRead},
		{"a name that begins as an administrator's", []tls.Certificate{b.clients.issue(t, named("ops.example.org.evil.org"))}, nil, RoleRead},
		{"a name with a zero byte", []tls.Certificate{b.clients.issue(t, named("ops.example.org\x00.evil.org"))}, nil, RoleRead},
		{"an organisation of an administrator's name", []tls.Certificate{b.clients.issue(t, func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"ops.example.org"}} })}, nil, RoleRead},
		{"no extended key usage at all", []tls.Certificate{b.clients.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = nil })}, nil, RoleRead},
		{"signed by an intermediate CA that comes along", []tls.Certificate{chained}, nil, RoleRead},
		{"signed by an intermediate CA that does not", []tls.Certificate{between.issue(t, nil)}, nil, ""},
		{"no certificate", nil, nil, ""},
		{"expired", []tls.Certificate{b.clients.issue(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) })}, nil, ""},
		{"not valid yet", []tls.Certificate{b.clients.issue(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })}, nil, ""},
		{"of another CA", []tls.Certificate{newTestCA(t, "others").issue(t, named("ops.example.org"))}, nil, ""},
		{"of another CA with the same name", []tls.Certificate{newTestCA(t, "clients").issue(t, named("ops.example.org"))}, nil, ""},
		{"for servers", []tls.Certificate{b.clients.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })}, nil, ""},
		{"signed by itself", []tls.Certificate{{Certificate: [][]byte{selfSigned.cert.Raw}, PrivateKey: selfSigned.key}}, nil, ""},
		{"the CA itself", []tls.Certificate{ca}, nil, RoleRead},
		{"signed by one that is no CA", []tls.Certificate{func() tls.Certificate {
			leaf := b.clients.issue(t, nil)
			cert, _ := x509.ParseCertificate(leaf.Certificate[0])
			c := (&testCA{key: leaf.PrivateKey.(*ecdsa.PrivateKey), cert: cert}).issue(t, named("ops.example.org"))
			c.Certificate = append(c.Certificate, leaf.Certificate[0])
			return c
		}()}, nil, ""},
		{"TLS 1.2", []tls.Certificate{b.clients.issue(t, nil)}, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, ""},
	} {
		client := b.client(t, c.certs...)
		config := client.Transport.(*http.Transport).TLSClientConfig
		if c.change != nil {
			c.change(config)
		}
		if len(c.certs) > 0 { // even one that the server does not ask for
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.certs[0], nil }
		}
		code, text, err := b.ask(client, "GET", "/v1/status")
		if c.role == "" {
			if err == nil {
				t.Errorf("%s: %d %s", c.what, code, text)
			}
			continue
		}
		if err != nil || code != 200 {
			t.Errorf("%s: %d %s %v", c.what, code, text, err)
			continue
		}
		want := map[Role]int{RoleRead: 403, RoleAdmin: 404}[c.role] // a capture that is not there is an administrator's to end
		if code, text, err := b.ask(client, "DELETE", "/v1/capture"); err != nil || code != want {
			t.Errorf("%s is not %s: %d %s %v", c.what, c.role, code, text, err)
		}
	}
	// Nothing but HTTP/1.1 over TLS is spoken.
	resp, err := http.Get("http://" + b.addr + "/v1/status")
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("it answers without TLS")
		}
	}
}

// A connection lasts no longer than the trust in its client: not beyond the certificate, nor beyond its CA in a reload.
func TestTLSTrustEnds(t *testing.T) {
	b := newTLSBed(t)
	next := newTestCA(t, "next")
	brief := b.client(t, b.clients.issue(t, func(c *x509.Certificate) {
		c.NotAfter = time.Now().Add(2 * time.Second).Truncate(time.Second).Add(time.Second)
	}))
	old, other := b.client(t, b.clients.issue(t, nil)), b.client(t, next.issue(t, nil))
	b.write(t, "ca.crt", append(append([]byte{}, b.clients.pem...), next.pem...))
	if err := b.reread(t); err != nil {
		t.Fatal(err)
	}
	stream := func(c *http.Client) <-chan error {
		t.Helper()
		ended := make(chan error, 1)
		resp, err := (&http.Client{Transport: c.Transport}).Get("https://" + b.addr + "/v1/status?watch=100ms")
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		t.Cleanup(func() { resp.Body.Close() })
		go func() {
			_, err := io.Copy(io.Discard, resp.Body)
			ended <- err
		}()
		return ended
	}
	within := func(what string, c <-chan error) {
		t.Helper()
		select {
		case <-c:
		case <-time.After(10 * time.Second):
			t.Errorf("%s goes on", what)
		}
	}
	// One connection for requests, another one for a stream.
	briefly := stream(brief)
	if code, text, err := b.ask(brief, "GET", "/v1/status"); err != nil || code != 200 {
		t.Fatal(code, text, err)
	}
	within("a stream of an expired certificate", briefly)
	if code, text, err := b.ask(brief, "GET", "/v1/status"); err == nil && (code != 403 || !strings.Contains(text, "not good any more")) {
		t.Errorf("with an expired certificate: %d %s", code, text)
	}

	olds, others := stream(old), stream(other)
	for _, c := range []*http.Client{old, other} {
		if code, text, err := b.ask(c, "GET", "/v1/status"); err != nil || code != 200 {
			t.Fatal(code, text, err)
		}
	}
	// One that has shaken hands before the reload, and asks only then.
	early, err := tls.Dial("tcp", b.addr, old.Transport.(*http.Transport).TLSClientConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	time.Sleep(100 * time.Millisecond) // the server has it, too
	b.write(t, "ca.crt", next.pem)
	b.writeServer(t, newTestCA(t, "other servers"))
	if err := b.reread(t); err != nil {
		t.Fatal(err)
	}
	within("a stream of a client whose CA is gone", olds)
	if code, text, err := b.ask(old, "GET", "/v1/status"); err == nil {
		t.Errorf("a client whose CA is gone: %d %s", code, text)
	}
	fmt.Fprintf(early, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = early.SetDeadline(time.Now().Add(10 * time.Second))
	if answer, _ := io.ReadAll(early); !strings.HasPrefix(string(answer), "HTTP/1.1 403 ") {
		t.Errorf("a client that was there before its CA was gone: %.100q", answer)
	}
	select {
	case err := <-others:
		t.Errorf("a client whose CA stays was cut off: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if code, text, err := b.ask(b.client(t, next.issue(t, nil)), "GET", "/v1/status"); err != nil || code != 200 { // the server's new certificate
		t.Error(code, text, err)
	}
	// Files that are no good change nothing.
	for name, text := range map[string]string{"ca.crt": "nothing", "api.crt": "nothing", "api.key": "nothing"} {
		whole, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		b.write(t, name, []byte(text))
		if err := b.reread(t); err == nil || !strings.Contains(err.Error(), "control.tls") {
			t.Errorf("%s without a certificate: %v", name, err)
		}
		b.write(t, name, whole)
	}
	if code, text, err := b.ask(other, "GET", "/v1/status"); err != nil || code != 200 {
		t.Error(code, text, err)
	}
}

// Handshakes that stand still take no connection from others, and end.
func TestTLSStalledHandshakes(t *testing.T) {
	b := newTLSBed(t)
	const stalled = 1500
	hello := []byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3} // the beginning of a ClientHello
	var wg sync.WaitGroup
	var mu sync.Mutex
	var held []net.Conn
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 50 {
		wg.Go(func() {
			for range stalled / 50 {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.addr)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = c.Write(hello)
				mu.Lock()
				held = append(held, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	at := time.Now()
	for range 3 {
		if code, text, err := b.ask(b.client(t, b.clients.issue(t, named("ops.example.org"))), "GET", "/v1/status"); err != nil || code != 200 {
			t.Error(code, text, err)
		}
	}
	t.Logf("an administrator was answered 3 times in %s", time.Since(at))
	guests := func() int {
		b.api.remoteDoor.mu.Lock()
		defer b.api.remoteDoor.mu.Unlock()
		return len(b.api.remoteDoor.guests)
	}
	if n := guests(); n > maxGuests {
		t.Errorf("%d connections are held, at most %d are to be", n, maxGuests)
	}
	waitFor(t, "the handshakes that stand still end", func() bool { return guests() < 10 })
}
