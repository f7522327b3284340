package monitor

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// tlsCause names an error of a TLS handshake, or is empty.
func tlsCause(err error) string {
	var (
		invalid  x509.CertificateInvalidError
		hostname x509.HostnameError
		unknown  x509.UnknownAuthorityError
		record   tls.RecordHeaderError
		op       *net.OpError
	)
	switch {
	case errors.As(err, &invalid):
		return invalidCause(invalid)
	case errors.As(err, &hostname):
		return fmt.Sprintf("certificate is for %s, not for %s", names(hostname.Certificate), hostname.Host)
	case errors.As(err, &unknown):
		cause := "certificate is signed by an unknown authority"
		if unknown.Cert != nil {
			cause += fmt.Sprintf(" (%s)", unknown.Cert.Issuer)
		}
		return cause
	case errors.As(err, &record):
		return "the answer is not TLS"
	case errors.As(err, &op) && op.Op == "remote error": // an alert of the server: crypto/tls has no exported type for it
		return "the server ended TLS: " + strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return ""
}

func invalidCause(e x509.CertificateInvalidError) string {
	if e.Reason != x509.Expired || e.Cert == nil {
		return "certificate is not valid: " + strings.TrimPrefix(e.Error(), "x509: ")
	}
	// The reason is the same for both ends of the validity.
	if time.Now().Before(e.Cert.NotBefore) {
		return "certificate is not valid before " + e.Cert.NotBefore.UTC().Format(time.RFC3339)
	}
	return "certificate has expired on " + e.Cert.NotAfter.UTC().Format(time.RFC3339)
}

// names are what a certificate is for, the first few of them.
func names(c *x509.Certificate) string {
	list := append([]string(nil), c.DNSNames...)
	for _, ip := range c.IPAddresses {
		list = append(list, ip.String())
	}
	switch {
	case len(list) == 0:
		return "no name at all"
	case len(list) > 3:
		list = append(list[:3], "...")
	}
	return strings.Join(list, ", ")
}
