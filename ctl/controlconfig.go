package ctl

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// Control is where the command line and metrics reach the engine, and who may do what there.
type Control struct {
	Socket     string         // path of the unix socket
	Group      string         // name or number of the socket's group; empty: that of the process
	AdminGroup string         // name or number of the group whose members may change things; empty: none
	Listen     netip.AddrPort // the API over TCP with mutual TLS; the zero value: off
	TLS        ControlTLS
	Metrics    netip.AddrPort // the zero value: off
}

// ControlTLS is what the API over TCP needs.
type ControlTLS struct {
	CertFile, KeyFile, ClientCAFile string
	AdminNames                      []string // names in client certificates that may change things
}

var controlKeys = mapping[Control]{what: "control", later: []string{"role"}, keys: []configKey[Control]{
	textKey(keyDoc{name: "socket", kind: "path", def: "/run/sluice/sluice.sock", limits: "absolute, at most 107 bytes", example: "/run/sluice/second.sock", text: "Unix socket of the API, which the command line uses. Its mode is 0660: its owner and its group may connect."},
		parseSocket, func(c *Control) *string { return &c.Socket }),
	textKey(keyDoc{name: "group", kind: "group", otherwise: "that of the process", example: "sluice", text: "Name or number of the socket's group. Its members may look at everything and change nothing; root and the user that sluice runs as may do both."},
		parseGroup, func(c *Control) *string { return &c.Group }),
	textKey(keyDoc{name: "admin-group", kind: "group", otherwise: "none", example: "adm", text: "Members of this group may change things too. Without `group` it is the socket's group; with it, administrators are in both."},
		parseGroup, func(c *Control) *string { return &c.AdminGroup }),
	textKey(keyDoc{name: "listen", kind: "address", def: "off", limits: "off, ip:port", example: "192.168.20.254:8443", text: "Where the API is served over TCP as well. Only with mutual TLS: `tls` must say with which certificate, and whose clients may come."},
		parseListen, func(c *Control) *netip.AddrPort { return &c.Listen }),
	nestedKey(keyDoc{name: "tls", example: "{cert-file: /etc/sluice/api.crt, key-file: /etc/sluice/api.key, client-ca-file: /etc/sluice/clients.crt}", text: "Mutual TLS (1.3) for `listen`. The files are read again by every reload."},
		&controlTLSKeys, func(c *Control) *ControlTLS { return &c.TLS }),
	textKey(keyDoc{name: "metrics", kind: "address", def: "off", limits: "off, ip:port", example: "127.0.0.1:9090", text: "Where Prometheus metrics are served over HTTP, without authentication. An address other than loopback is warned about."},
		parseMetrics, func(c *Control) *netip.AddrPort { return &c.Metrics }),
}}

var controlTLSKeys = mapping[ControlTLS]{what: "control.tls", keys: []configKey[ControlTLS]{
	textKey(keyDoc{name: "cert-file", kind: "path", otherwise: "none", limits: "absolute", example: "/etc/sluice/api.crt", text: "The server's certificate, PEM, with what leads to its CA."},
		parseFile, func(t *ControlTLS) *string { return &t.CertFile }),
	textKey(keyDoc{name: "key-file", kind: "path", otherwise: "none", limits: "absolute", example: "/etc/sluice/api.key", text: "Its private key, PEM."},
		parseFile, func(t *ControlTLS) *string { return &t.KeyFile }),
	textKey(keyDoc{name: "client-ca-file", kind: "path", otherwise: "none", limits: "absolute", example: "/etc/sluice/clients.crt", text: "CAs whose clients may connect, PEM. All of them may look at everything."},
		parseFile, func(t *ControlTLS) *string { return &t.ClientCAFile }),
	scalarsKey(keyDoc{name: "admin-names", kind: "list of names", otherwise: "none", example: "[ops.example.org]", text: "Clients whose certificate has one of these names may change things too. A name is the subject's common name, or an alternative name: DNS, e-mail or URI."},
		defaultTextKey(keyDoc{name: "admin-names", kind: "name"}, func(s *string) *string { return s }), func(t *ControlTLS) *[]string { return &t.AdminNames }),
}}

// parseGroup reads a group's name as groupadd(8) allows it, or its number.
func parseGroup(text string) (string, error) {
	if text == "" || len(text) > 32 || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' || r == ',' }) {
		return "", wrong("want the name or number of a group, found %q", shorten(text))
	}
	return text, nil
}

func parseFile(text string) (string, error) {
	if !filepath.IsAbs(text) || strings.HasSuffix(text, "/") || strings.ContainsRune(text, 0) {
		return "", wrong("want the absolute path of a file, found %q", shorten(text))
	}
	return text, nil
}

func parseListen(text string) (netip.AddrPort, error) {
	if text == "off" {
		return netip.AddrPort{}, nil
	}
	a, err := netip.ParseAddrPort(text)
	if err != nil || a.Port() == 0 {
		return a, wrong("want off or ip:port, found %q", shorten(text)).orUse("such as 192.168.20.254:8443")
	}
	return a, nil
}

func (v *validator) checkControl() {
	c := &v.file.Control
	if m := c.Metrics; m.IsValid() && !m.Addr().IsLoopback() {
		v.warn("control.metrics", "metrics are served on %s to anyone who can reach it, without authentication", m)
	}
	t := &c.TLS
	given := t.CertFile != "" || t.KeyFile != "" || t.ClientCAFile != "" || len(t.AdminNames) > 0
	switch {
	case c.Listen.IsValid() && (t.CertFile == "" || t.KeyFile == "" || t.ClientCAFile == ""):
		v.errorf("control.listen", "the API is served over TCP only with mutual TLS: set control.tls.cert-file, key-file and client-ca-file, or take listen out")
	case c.Listen.IsValid() && c.Listen == c.Metrics:
		v.errorf("control.listen", "%s is already that of control.metrics", c.Listen)
	case !c.Listen.IsValid() && given:
		v.warn("control.tls", "without control.listen it has no effect")
	}
}

// access says who may do what.
type access struct {
	owner      int // user that we run as
	group      int // of the socket; -1: that of the process
	adminGroup int // -1: none
	adminText  string
	names      map[string]bool // in certificates
}

// prepareControl looks at what control needs beside the file: groups and, for listen, certificates, which are nil without.
func (f *File) prepareControl() (*access, *tls.Config, error) {
	c := &f.Control
	a := &access{owner: os.Geteuid(), group: -1, adminGroup: -1, adminText: c.AdminGroup, names: map[string]bool{}}
	var errs []error
	lookup := func(key, name string, into *int) {
		if name == "" {
			return
		}
		gid, err := groupNumber(name)
		if err != nil {
			errs = append(errs, f.problem(key, err))
			return
		}
		*into = gid
	}
	lookup("control.admin-group", c.AdminGroup, &a.adminGroup)
	lookup("control.group", c.Group, &a.group)
	if c.Group == "" {
		a.group = a.adminGroup
	}
	for _, n := range c.TLS.AdminNames {
		a.names[n] = true
	}
	if !c.Listen.IsValid() {
		return a, nil, errors.Join(errs...)
	}
	t, err := f.controlTLS()
	return a, t, errors.Join(append(errs, err)...)
}

func groupNumber(name string) (int, error) {
	if n, err := strconv.Atoi(name); err == nil && n >= 0 {
		return n, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, fmt.Errorf("there is no group %q on this host; make it (groupadd --system %s), or name another", name, name)
	}
	return strconv.Atoi(g.Gid)
}

// controlTLS reads certificate, key and CAs. HTTP/2 is left out: it would be a second set of limits to keep.
func (f *File) controlTLS() (*tls.Config, error) {
	t := &f.Control.TLS
	cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
	if err != nil {
		return nil, f.problem("control.tls.cert-file", fmt.Errorf("read certificate and key: %w", err))
	}
	pem, err := os.ReadFile(t.ClientCAFile)
	if err != nil {
		return nil, f.problem("control.tls.client-ca-file", fmt.Errorf("read the clients' CAs: %w", err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, f.problem("control.tls.client-ca-file", fmt.Errorf("%s has no certificate in PEM", t.ClientCAFile))
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ClientCAs: pool,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"http/1.1"},
		SessionTicketsDisabled: true, // a ticket would outlive the CAs that its client was judged by
	}, nil
}
