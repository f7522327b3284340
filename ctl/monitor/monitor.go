package monitor

import (
	"net/netip"
	"reflect"
	"time"
)

// Type is what a monitor does.
type Type string

// The types of monitors.
const (
	ICMP  Type = "icmp"  // an echo request is answered
	TCP   Type = "tcp"   // a connection opens, and optionally the server says what is expected
	HTTP  Type = "http"  // a request is answered with an expected status and body
	HTTPS Type = "https" // the same over TLS
	UDP   Type = "udp"   // a datagram is answered, or at least not refused
	DNS   Type = "dns"   // a query is answered with an expected code and address
	Exec  Type = "exec"  // a program exits with code 0
)

// Types are all types, in the order of the documentation.
var Types = []Type{ICMP, TCP, HTTP, HTTPS, UDP, DNS, Exec}

// Monitor is how to probe a member, and how many results make a verdict. It is a value: whoever hands it over does not
// change it any more. Start from Default, which fills in every default; a field that says so may be zero. Only the
// part that belongs to Type may be set.
type Monitor struct {
	Name string // not empty; unique among the monitors of a member
	Type Type

	// Interval is the time from one probe to the next, on average; 100 ms to 24 h, default 5 s. DownInterval replaces
	// it while the verdict is down; 0: Interval.
	Interval     time.Duration
	DownInterval time.Duration
	// Jitter is the fraction of the interval by which each single one is longer or shorter at random; 0 to 0.5,
	// default 0.1.
	Jitter float64
	// Timeout is the time for a whole probe, from the first packet to the last byte judged; 10 ms up to the shortest
	// interval, default 2 s.
	Timeout time.Duration
	// Rise is how many successes in a row make a member up, Fall how many failures in a row make it down; 1 to 1000,
	// default 2 and 3.
	Rise, Fall int

	Port uint16 // replaces the member's port; 0: the member's
	Path Path

	ICMP ICMPOptions // icmp
	TCP  Exchange    // tcp
	UDP  Exchange    // udp
	HTTP HTTPOptions // http, https
	TLS  TLSOptions  // https
	DNS  DNSOptions  // dns
	Exec ExecOptions // exec
}

// Path is the way that probes leave the host. The zero value leaves all of it to the kernel's routes.
type Path struct {
	// Source4 and Source6 are the source addresses towards IPv4 and IPv6 members. They are addresses of this host, and
	// no virtual or SNAT addresses: the engine takes what is sent to those.
	Source4, Source6 netip.Addr
	Interface        string // SO_BINDTODEVICE
	Mark             uint32 // SO_MARK, for rules of ip-rule(8); 0: none; needs CAP_NET_ADMIN or, from Linux 5.17, CAP_NET_RAW
}

// ICMPOptions are the part of icmp.
type ICMPOptions struct {
	Size int // payload, bytes, 16 to 65,000; default 56
}

// Exchange is the part of tcp and udp: what to send and what must come back.
//
// For tcp, without Expect and Pattern, an opened connection is a success. Otherwise what the server sends is read until
// it matches; at Limit bytes, at the end of the stream or of the time it is a failure.
//
// For udp, Send is needed. Without Expect and Pattern any answer is a success, and so is none: many servers are silent
// for good reasons. Only an ICMP unreachable within Timeout is a failure then, so such a probe lasts the whole Timeout
// and occupies one of the Checker's places; keep it short. With Expect or Pattern the first datagram must match, and
// no answer is a failure.
type Exchange struct {
	Send    string // any bytes; at most 65,507 for udp
	Expect  string // bytes that must be in the answer
	Pattern string // regular expression (RE2) that the answer must match; not together with Expect
	Limit   int    // bytes of an answer that are read, 1 to 1 MiB; default 4096; 0 without Expect and Pattern
	Reset   bool   // tcp: close with RST, which leaves nothing in TIME_WAIT here and may be logged there
}

// HTTPOptions are the part of http and https.
type HTTPOptions struct {
	Version   HTTPVersion   // default 1.1
	Method    string        // default GET
	Path      string        // with query; default /
	Host      string        // of the Host header and, with TLS, the server name; default: the address
	Headers   []Header      // further ones
	Body      string        // of the request
	Status    []StatusRange // expected; default 200-399. Redirections are not followed
	Pattern   string        // regular expression (RE2) for the body; empty: the body is not read
	BodyLimit int           // bytes of a body that are read for Pattern, 1 to 16 MiB; default 64 KiB
}

// HTTPVersion is a version of HTTP.
type HTTPVersion string

// The versions of HTTP.
const (
	HTTP1    HTTPVersion = "1.1"
	HTTP2    HTTPVersion = "2"    // must be agreed by ALPN; without TLS: used with prior knowledge (RFC 9113 section 3.3)
	HTTPAuto HTTPVersion = "auto" // https: offers both by ALPN
)

// Header is a line of a request's header.
type Header struct{ Name, Value string }

// TLSOptions are the part of https. The zero value verifies the server against the system's authorities. Files are
// read when a monitor is handed over, and again at every Apply or Set.
type TLSOptions struct {
	SkipVerify bool   // accept any certificate
	CAFile     string // PEM, authorities instead of the system's
	ServerName string // sent as SNI and verified; empty: HTTPOptions.Host, then the address
	CertFile   string // PEM, client certificate with chain
	KeyFile    string // PEM, its key
}

// DNSOptions are the part of dns.
type DNSOptions struct {
	Name        string     // asked for, absolute with or without the final dot
	QueryType   string     // default A
	RCode       string     // expected; default NOERROR
	Answer      netip.Addr // must be in an A or AAAA record of the answer; zero: not looked at
	TCP         bool       // over TCP, not UDP
	NoRecursion bool       // clears the RD bit
}

// ExecOptions are the part of exec. The program runs with stdin from /dev/null, in /, without capabilities and without
// a way to get any (no_new_privs), in a process group of its own that is killed at its end or at Timeout. A process
// that leaves the group by setsid(2) is not. It keeps the user and the network namespace of this process. Exit code 0 is a success. The first line that it writes, to stdout
// or stderr, is the cause.
//
// Its environment is PATH, Env, and SLUICE_MEMBER, SLUICE_MONITOR, SLUICE_ADDRESS, SLUICE_PORT (empty if there is
// none), SLUICE_TIMEOUT (seconds), and where Path sets them SLUICE_SOURCE, SLUICE_INTERFACE, SLUICE_MARK.
type ExecOptions struct {
	Argv []string // program, absolute, and arguments; no shell
	Env  []string // NAME=value; nothing is inherited
}

// Default is a monitor of a type with every default; Name, and DNS.Name, Exec.Argv or UDP.Send, are still to be set.
func Default(t Type) Monitor {
	m := Monitor{Type: t, Interval: 5 * time.Second, Jitter: 0.1, Timeout: 2 * time.Second, Rise: 2, Fall: 3}
	switch t {
	case ICMP:
		m.ICMP.Size = 56
	case TCP:
		m.TCP.Limit = defaultLimit
	case UDP:
		m.UDP.Limit = defaultLimit
	case HTTP, HTTPS:
		m.HTTP = HTTPOptions{
			Version: HTTP1, Method: "GET", Path: "/", Status: []StatusRange{{First: 200, Last: 399}}, BodyLimit: 64 << 10,
		}
	case DNS:
		m.DNS = DNSOptions{QueryType: "A", RCode: "NOERROR"}
	}
	return m
}

const defaultLimit = 4096

// Equal says whether both probe in the same way. An empty list is the same as none.
func (m *Monitor) Equal(o *Monitor) bool {
	return m == o || reflect.DeepEqual(m.normal(), o.normal())
}

func (m *Monitor) normal() Monitor {
	n := *m
	n.HTTP.Headers = emptyIsNil(n.HTTP.Headers)
	n.HTTP.Status = emptyIsNil(n.HTTP.Status)
	n.Exec.Argv = emptyIsNil(n.Exec.Argv)
	n.Exec.Env = emptyIsNil(n.Exec.Env)
	return n
}

func emptyIsNil[T any](list []T) []T {
	if len(list) == 0 {
		return nil
	}
	return list
}

// needsPort says whether a probe goes to a port.
func (m *Monitor) needsPort() bool { return m.Type != ICMP && m.Type != Exec }
