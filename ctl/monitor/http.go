package monitor

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// maxHeader bounds the header of an answer, bytes.
const maxHeader = 64 << 10

// httpMethod makes one request on a connection of its own. HTTP/1.1 is written and read here, without the goroutines
// of a Transport; HTTP/2 goes through one that gets our connection.
type httpMethod struct {
	HTTPOptions
	secure  bool
	tls     *tls.Config // if secure
	pattern *regexp.Regexp
	http2   *http.Transport // nil with HTTP1
}

func newHTTPMethod(m *Monitor) (*httpMethod, error) {
	h := &httpMethod{HTTPOptions: m.HTTP, secure: m.Type == HTTPS}
	if h.Pattern != "" {
		h.pattern = regexp.MustCompile(h.Pattern) // Validate has tried it
	}
	if h.secure {
		var err error
		if h.tls, err = newTLSConfig(&m.TLS, &m.HTTP); err != nil {
			return nil, err
		}
	}
	if h.Version != HTTP1 {
		given := func(ctx context.Context, _, _ string) (net.Conn, error) { return ctx.Value(connKey{}).(net.Conn), nil }
		h.http2 = &http.Transport{
			DialContext: given, DialTLSContext: given, Protocols: new(http.Protocols),
			DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
		}
		h.http2.Protocols.SetHTTP2(h.secure)
		h.http2.Protocols.SetUnencryptedHTTP2(!h.secure)
	}
	return h, nil
}

// connKey is the key of a context's value: the connection that http2 takes.
type connKey struct{}

func (h *httpMethod) run(ctx context.Context, a *attempt) (string, error) {
	conn, release, err := a.dial(ctx, "tcp")
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer release()

	useHTTP2 := h.Version == HTTP2
	if h.secure {
		a.stage = "TLS handshake"
		secure := tls.Client(conn, configFor(h.tls, a.addr.Addr()))
		err := secure.HandshakeContext(ctx)
		agreed := secure.ConnectionState().NegotiatedProtocol
		// A server that has none of our protocols ends the handshake (RFC 7301 section 3.2) or goes on without one.
		if useHTTP2 && (err == nil && agreed != "h2" || err != nil && strings.Contains(err.Error(), "no application protocol")) {
			return "", mismatched("the server does not offer HTTP/2 (ALPN)")
		}
		if err != nil {
			return "", err
		}
		useHTTP2 = agreed == "h2"
		conn = secure
	}
	request, err := h.request(ctx, a.addr)
	if err != nil {
		return "", localError{fmt.Errorf("make the request: %w", err)}
	}
	a.stage = "waiting for the answer"
	if useHTTP2 {
		return h.exchange2(ctx, a, conn, request)
	}
	return h.exchange1(a, conn, request)
}

func (h *httpMethod) request(ctx context.Context, to netip.AddrPort) (*http.Request, error) {
	scheme, port := HTTP, uint16(80)
	if h.secure {
		scheme, port = HTTPS, 443
	}
	// A Host header has the address without zone, and the port unless it is the scheme's own (RFC 9110 section 7.2).
	addr := to.Addr().WithZone("")
	host := netip.AddrPortFrom(addr, to.Port()).String()
	if to.Port() == port {
		host = strings.TrimSuffix(host, fmt.Sprintf(":%d", port))
	}
	target, err := requestURL(scheme, host, h.Path)
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, h.Method, target.String(), strings.NewReader(h.Body))
	if err != nil {
		return nil, err
	}
	r.Host = h.Host // empty: that of the URL
	for _, line := range h.Headers {
		r.Header.Add(line.Name, line.Value)
	}
	if r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", "sluice")
	}
	return r, nil
}

// requestURL is the URL of a path with query on a host.
func requestURL(scheme Type, host, path string) (*url.URL, error) {
	// "//x/y" would be read as a host.
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) {
		return nil, fmt.Errorf("path %q does not begin with / or has a character that is not allowed", shorten(path))
	}
	u, err := url.ParseRequestURI(path)
	if err != nil {
		return nil, err
	}
	u.Scheme, u.Host = string(scheme), host
	return u, nil
}

// exchange1 speaks HTTP/1.1 (RFC 9112).
func (h *httpMethod) exchange1(a *attempt, conn net.Conn, request *http.Request) (string, error) {
	request.Close = true
	if err := request.Write(conn); err != nil {
		return "", err
	}
	// One limit for header and body: beyond it the connection seems to end.
	limited := &io.LimitedReader{R: conn, N: maxHeader}
	reader := bufio.NewReader(limited)
	for {
		answer, err := http.ReadResponse(reader, request)
		switch {
		case err != nil && limited.N <= 0:
			return "", mismatched("the header of the answer is longer than %d bytes", maxHeader)
		case err != nil && isConnectionError(err):
			return "", err
		case err != nil:
			return "", mismatched("the answer is not HTTP: %v", err)
		}
		if answer.StatusCode < 200 && answer.StatusCode != http.StatusSwitchingProtocols {
			continue // interim, RFC 9110 section 15.2
		}
		limited.N = 8*int64(h.BodyLimit) + maxHeader // a chunk of one byte takes six
		// The body is not closed: that would read the rest of it, and the connection ends anyway.
		return h.judge(a, answer)
	}
}

// isConnectionError tells an error of the connection from one of what came through it.
func isConnectionError(err error) bool {
	var op *net.OpError
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &op) || errors.As(err, &timeout)
}

// exchange2 speaks HTTP/2 (RFC 9113).
func (h *httpMethod) exchange2(ctx context.Context, a *attempt, conn net.Conn, request *http.Request) (string, error) {
	ctx = context.WithValue(ctx, connKey{}, conn)
	client, err := h.http2.NewClientConn(ctx, request.URL.Scheme, a.addr.String())
	if err != nil {
		return "", err
	}
	defer client.Close()
	answer, err := client.RoundTrip(request)
	switch {
	case err != nil && isConnectionError(err):
		return "", err
	case err != nil:
		return "", mismatched("the answer is not HTTP/2: %v", err)
	}
	defer answer.Body.Close()
	return h.judge(a, answer)
}

func (h *httpMethod) judge(a *attempt, answer *http.Response) (string, error) {
	if !statusIn(answer.StatusCode, h.Status) {
		return "", mismatched("status %d, expected %s", answer.StatusCode, FormatStatus(h.Status))
	}
	if h.pattern != nil {
		a.stage = "reading the body"
		body, err := io.ReadAll(io.LimitReader(answer.Body, int64(h.BodyLimit)))
		if err != nil {
			return "", err
		}
		if !h.pattern.Match(body) {
			return "", mismatched("body does not match %q: %s", shorten(h.Pattern), sample(body))
		}
	}
	return fmt.Sprintf("status %d", answer.StatusCode), nil
}
