package ctl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Role is what a client of the API may do.
type Role string

// The roles. An administrator may do what a reader may.
const (
	RoleRead  Role = "read-only"
	RoleAdmin Role = "admin"
)

func (r Role) may(need Role) bool { return r == RoleAdmin || need == RoleRead }

// peer is who is at the other end of a connection. Over the unix socket the kernel says so (SO_PEERCRED, unix(7)): what it was when it
// connected. Over TCP its certificate does.
type peer struct {
	name string // that limits are kept by: "user 1000", "client ops.example.org"
	role Role
	why  string // how it would become an administrator
}

// local is the peer at the other end of a unix socket.
func (a *access) local(c *net.UnixConn) (peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var cred *unix.Ucred
	var groups []uint32
	var credErr error
	err = raw.Control(func(fd uintptr) {
		if cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); credErr == nil {
			groups, credErr = peerGroups(int(fd))
		}
	})
	if err == nil {
		err = credErr
	}
	if err != nil {
		return peer{}, fmt.Errorf("ask who connects: %w", err)
	}
	return a.judge(int(cred.Uid), append(groups, cred.Gid)), nil
}

func (a *access) judge(uid int, groups []uint32) peer {
	p := peer{name: fmt.Sprintf("user %d", uid), role: RoleRead}
	switch {
	case uid == 0, uid == a.owner, a.adminGroup >= 0 && slices.Contains(groups, uint32(a.adminGroup)):
		p.role = RoleAdmin
	case a.adminGroup >= 0:
		p.why = fmt.Sprintf("do it as root, or as a member of group %s (control.admin-group)", a.adminText)
	default:
		p.why = "do it as root, or set control.admin-group to a group of those who may"
	}
	return p
}

// remote is the peer with a certificate that a CA of ours has signed.
func (a *access) remote(cert *x509.Certificate) peer {
	names := []string{cert.Subject.CommonName}
	names = append(append(names, cert.DNSNames...), cert.EmailAddresses...)
	for _, u := range cert.URIs {
		names = append(names, u.String())
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" })
	p := peer{name: "client " + cert.SerialNumber.String(), role: RoleRead}
	if len(names) > 0 {
		p.name = "client " + names[0]
	}
	if slices.ContainsFunc(names, func(n string) bool { return a.names[n] }) {
		p.role = RoleAdmin
		return p
	}
	p.why = fmt.Sprintf("use a certificate with a name of control.tls.admin-names (this one has %s)", strings.Join(names, ", "))
	return p
}

type peerKey struct{}

// peerOf is who sent a request.
func (a *access) peerOf(ctx context.Context, state *tls.ConnectionState) peer {
	if state != nil && len(state.PeerCertificates) > 0 {
		return a.remote(state.PeerCertificates[0])
	}
	p, ok := ctx.Value(peerKey{}).(peer)
	if !ok { // nobody that we know: a mistake of ours must not make administrators
		return peer{name: "nobody", role: RoleRead, why: "connect over the control socket"}
	}
	return p
}
