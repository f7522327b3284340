package ctl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoServer is returned when nothing answers at the control socket.
var ErrNoServer = errors.New("no sluice answers")

// clientTime bounds a request that is no stream.
const clientTime = 30 * time.Second

// Client asks a running sluice, over its control socket or over TCP with mutual TLS. It keeps one connection and may be used by several
// goroutines.
type Client struct {
	http  http.Client
	base  string
	where string // as the user has named it
	unix  bool
}

// NewClient is a client of the API at a control socket.
func NewClient(socket string) *Client {
	c := &Client{base: "http://sluice", where: socket, unix: true}
	c.http.Transport = &http.Transport{
		MaxIdleConns: 1, DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	return c
}

// Remote is where and how the API is reached over TCP.
type Remote struct {
	Server                    string // host:port
	CertFile, KeyFile, CAFile string // PEM; CAFile may be empty: the host's CAs
}

// NewRemoteClient is a client of the API over TCP with mutual TLS.
func NewRemoteClient(r Remote) (*Client, error) {
	host, _, err := net.SplitHostPort(r.Server)
	if err != nil {
		return nil, fmt.Errorf("server %q is not HOST:PORT", r.Server)
	}
	if r.CertFile == "" || r.KeyFile == "" {
		return nil, errors.New("over TCP sluice wants to know who asks: give a client certificate and its key (--cert FILE --key FILE)")
	}
	cert, err := tls.LoadX509KeyPair(r.CertFile, r.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("read the client certificate and its key: %w", err)
	}
	t := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}, ServerName: host}
	if r.CAFile != "" {
		pem, err := os.ReadFile(r.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read the server's CA: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", r.CAFile)
		}
	}
	c := &Client{base: "https://" + r.Server, where: r.Server}
	c.http.Transport = &http.Transport{MaxIdleConns: 1, DisableCompression: true, TLSClientConfig: t, TLSHandshakeTimeout: headerTime}
	return c, nil
}

// Close ends the connection that the client keeps.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get asks for path and decodes the answer into v.
func (c *Client) Get(ctx context.Context, path string, v any) error {
	return c.call(ctx, http.MethodGet, path, clientTime, decodeInto(v))
}

// Delete has what path names deleted, and decodes the answer into v.
func (c *Client) Delete(ctx context.Context, path string, v any) error {
	return c.call(ctx, http.MethodDelete, path, clientTime, decodeInto(v))
}

// Post has done what path names, and decodes the answer into v.
func (c *Client) Post(ctx context.Context, path string, v any) error {
	return c.call(ctx, http.MethodPost, path, clientTime, decodeInto(v))
}

// Copy writes the answer to path to w as it comes.
func (c *Client) Copy(ctx context.Context, path string, w io.Writer) error {
	return c.call(ctx, http.MethodGet, path, 0, func(body io.Reader) error {
		_, err := io.Copy(w, body)
		return err
	})
}

// Stream calls f with every document of a stream until f returns an error, ctx ends, or the engine does.
func Stream[T any](ctx context.Context, c *Client, path string, f func(*T) error) error {
	return c.call(ctx, http.MethodGet, path, 0, func(body io.Reader) error {
		for dec := json.NewDecoder(body); ; {
			var v T
			if err := dec.Decode(&v); err != nil {
				return fmt.Errorf("the stream has ended: %w", err)
			}
			if err := f(&v); err != nil {
				return err
			}
		}
	})
}

func decodeInto(v any) func(io.Reader) error {
	return func(body io.Reader) error { return json.NewDecoder(body).Decode(v) }
}

func (c *Client) call(ctx context.Context, method, path string, timeout time.Duration, read func(io.Reader) error) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	resp, err := c.do(ctx, method, path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return read(resp.Body)
}

// do asks, and returns an answer that is no error; the caller closes its body.
func (c *Client) do(ctx context.Context, method, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	var e apiError
	if json.NewDecoder(resp.Body).Decode(&e) != nil || e.Error == "" {
		e.Error = fmt.Sprintf("%s answers %s; is it a sluice of this version?", c.where, resp.Status)
	}
	return nil, errors.New(e.Error)
}

// explain says what to do about a server that cannot be reached.
func (c *Client) explain(err error) error {
	var notCertified *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case c.unix && errors.Is(err, os.ErrPermission):
		return fmt.Errorf("no permission for %s; run as root or in its group (control.group)", c.where)
	case c.unix && errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w at %s: there is no such socket; start it (sluice run -c FILE), or name its control.socket (--socket PATH)", ErrNoServer, c.where)
	case c.unix && (errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOTSOCK)):
		return fmt.Errorf("%w at %s: nobody listens there, it has ended or was killed; start it again (sluice run -c FILE)", ErrNoServer, c.where)
	case errors.As(err, &notCertified):
		return fmt.Errorf("the server at %s has no certificate that is trusted here: %w; name its CA (--ca FILE)", c.where, notCertified.Err)
	case errors.As(err, &alert) && alert.Op == "remote error":
		return fmt.Errorf("the server at %s does not take this client certificate (%w); use one that a CA of its control.tls.client-ca-file has signed", c.where, alert.Err)
	case c.unix:
		return fmt.Errorf("%w at %s; is it running (sluice run -c FILE), with this control.socket? (%w)", ErrNoServer, c.where, unwrapURL(err))
	}
	return fmt.Errorf("%w at %s; is it running, with this address as its control.listen? (%w)", ErrNoServer, c.where, unwrapURL(err))
}

func unwrapURL(err error) error {
	if u := errors.Unwrap(err); u != nil {
		return u
	}
	return err
}

// Get asks the API at socket for path and decodes the answer into v.
func Get(ctx context.Context, socket, path string, v any) error {
	c := NewClient(socket)
	defer c.Close()
	return c.Get(ctx, path, v)
}

// Delete asks the API at socket to delete what path names, and decodes the answer into v.
func Delete(ctx context.Context, socket, path string, v any) error {
	c := NewClient(socket)
	defer c.Close()
	return c.Delete(ctx, path, v)
}

// Post asks the API at socket to do what path names, and decodes the answer into v.
func Post(ctx context.Context, socket, path string, v any) error {
	c := NewClient(socket)
	defer c.Close()
	return c.Post(ctx, path, v)
}

// Copy writes the API's answer to path to w as it comes.
func Copy(ctx context.Context, socket, path string, w io.Writer) error {
	c := NewClient(socket)
	defer c.Close()
	return c.Copy(ctx, path, w)
}
