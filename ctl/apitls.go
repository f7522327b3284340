package ctl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// TLS asks for a client's certificate once, when a connection begins, but a connection may last for days, and by then the certificate
// may have expired, or a reload may have taken its CA away. So it is judged again with each request after either, and answers that go on
// end with it:
//
//	handshake ─▶ judged by the CAs of that moment
//	request   ─▶ other CAs now, or expired? ─▶ judged again ─▶ 403, and the connection ends
//	reload    ─▶ other CAs: connections whose certificates they do not know are closed, with what is answered there
//	expiry    ─▶ a stream ends

// trust is a connection's certificate, and by which configuration it was judged last.
type trust struct {
	mu     sync.Mutex
	judged *tls.Config
	chain  []*x509.Certificate // the client's first; nil before a request
}

// secure is what a connection of remote begins with; everything else is of the configuration in force.
func (a *api) secure() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			c := a.certs.Load()
			if g, ok := hello.Conn.(*guest); ok {
				g.trust.mu.Lock()
				g.trust.judged = c
				g.trust.mu.Unlock()
			}
			return c, nil
		},
	}
}

// judge looks at a client's certificate as a handshake would now.
func judge(c *tls.Config, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("it has no certificate")
	}
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: c.ClientCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// onlyTrusted refuses requests of clients whose certificates are not good any more.
func (a *api) onlyTrusted(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g, ok := r.Context().Value(guestKey{}).(*guest)
		if !ok || r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
			w.Header().Set("Connection", "close")
			refuse(w, http.StatusForbidden, errors.New("only for clients with a certificate (control.tls)"))
			return
		}
		chain, until := r.TLS.PeerCertificates, validUntil(r.TLS)
		err := func() error {
			g.trust.mu.Lock()
			defer g.trust.mu.Unlock()
			g.trust.chain = chain // from here on a reload knows it
			c := a.certs.Load()
			if g.trust.judged == c && time.Now().Before(until) {
				return nil
			}
			g.trust.judged = c
			return judge(c, chain)
		}()
		if err != nil {
			w.Header().Set("Connection", "close")
			refuse(w, http.StatusForbidden, fmt.Errorf("the client certificate is not good any more: %w; use one that a CA of control.tls.client-ca-file has signed", err))
			return
		}
		ctx, cancel := context.WithDeadline(r.Context(), until)
		defer cancel()
		h.ServeHTTP(w, r.WithContext(ctx))
	})
}

// validUntil is when the last of the chains that the handshake has found expires.
func validUntil(state *tls.ConnectionState) (last time.Time) {
	for _, chain := range state.VerifiedChains {
		end := chain[0].NotAfter
		for _, c := range chain[1:] {
			if c.NotAfter.Before(end) {
				end = c.NotAfter
			}
		}
		if end.After(last) {
			last = end
		}
	}
	return last
}

// renew puts other certificates and CAs in force, and ends the connections of clients that these do not know.
func (a *api) renew(c *tls.Config) {
	if a.remoteDoor == nil {
		return
	}
	was := a.certs.Swap(c)
	if was != nil && was.ClientCAs.Equal(c.ClientCAs) {
		return
	}
	a.remoteDoor.mu.Lock()
	var out []*guest
	for g := range a.remoteDoor.guests {
		g.trust.mu.Lock()
		if g.trust.chain != nil && judge(c, g.trust.chain) != nil {
			out = append(out, g)
		}
		g.trust.mu.Unlock()
	}
	a.remoteDoor.mu.Unlock()
	for _, g := range out {
		_ = g.Close()
	}
	if len(out) > 0 {
		a.remoteDoor.log.Warn("clients of the API were turned away: their certificates are of none of the CAs that a reload has put in force", "connections", len(out))
	}
}
