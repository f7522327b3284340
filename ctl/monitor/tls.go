package monitor

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
)

// newTLSConfig reads the files. The server name is empty if it is the address of each member.
func newTLSConfig(o *TLSOptions, h *HTTPOptions) (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: o.SkipVerify, ServerName: o.ServerName}
	if c.ServerName == "" {
		c.ServerName = hostOnly(h.Host)
	}
	switch h.Version {
	case HTTP1:
		c.NextProtos = []string{"http/1.1"}
	case HTTP2:
		c.NextProtos = []string{"h2"}
	case HTTPAuto:
		c.NextProtos = []string{"h2", "http/1.1"}
	}
	switch {
	case o.CAFile == "" && !o.SkipVerify:
		// The system's authorities are read once, at the first use: now, rather than in the time of a probe.
		if _, err := x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("read the system's certificate authorities: %w", err)
		}
	case o.CAFile != "":
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, &Problem{[]string{"tls.ca-file"}, fmt.Errorf("read CA file: %w", err)}
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, &Problem{[]string{"tls.ca-file"}, fmt.Errorf("CA file %s has no certificate in PEM form", o.CAFile)}
		}
	}
	if o.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
		if err != nil {
			return nil, &Problem{[]string{"tls.cert-file"}, fmt.Errorf("load client certificate %s: %w", o.CertFile, err)}
		}
		// By a function, because from Certificates one is only sent if the server's list of authorities names its issuer;
		// a server that refuses it gives the better cause.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	}
	return c, nil
}

// configFor is the configuration for one member.
func configFor(c *tls.Config, member netip.Addr) *tls.Config {
	if c.ServerName != "" {
		return c
	}
	c = c.Clone()
	c.ServerName = member.WithZone("").String()
	return c
}

// hostOnly is a Host header without port and brackets.
func hostOnly(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}
