package ctl

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"sluice/ctl/monitor"
)

// The keys of monitors, and those of pools that are about health.

var monitorKeys = mapping[monitor.Monitor]{what: "a monitor", keys: []configKey[monitor.Monitor]{
	nameKey("", "web-alive", "Name of the monitor, unique.", func(m *monitor.Monitor) *string { return &m.Name }),
	wordKey(keyDoc{name: "type", required: true, example: "http", text: "What a probe does. icmp: an echo request is answered. tcp: a connection opens. http, https: a request is answered as expected. udp: a datagram is answered, or at least not refused. dns: a query is answered as expected. exec: a program ends with code 0."},
		monitor.Types, nil, func(m *monitor.Monitor) *monitor.Type { return &m.Type }),
	durationKey(keyDoc{name: "interval", def: "5s", example: "1s", text: "From one probe of a member to the next."},
		100*time.Millisecond, 24*time.Hour, func(m *monitor.Monitor) *time.Duration { return &m.Interval }),
	durationKey(keyDoc{name: "down-interval", def: "0s", example: "10s", text: "The same while the verdict is down. 0s: that of interval."},
		0, 24*time.Hour, func(m *monitor.Monitor) *time.Duration { return &m.DownInterval }),
	fractionKey(keyDoc{name: "jitter", def: "0.1", example: "0.2", text: "The part of an interval by which each is longer or shorter at random, so that probes do not fall into step."},
		0.5, func(m *monitor.Monitor) *float64 { return &m.Jitter }),
	durationKey(keyDoc{name: "timeout", def: "2s", example: "500ms", text: "For a whole probe; at most the interval."},
		10*time.Millisecond, time.Hour, func(m *monitor.Monitor) *time.Duration { return &m.Timeout }),
	numberKey(keyDoc{name: "rise", def: "2", example: "1", text: "Successes in a row that make a member up."}, 1, 1000, func(m *monitor.Monitor) *int { return &m.Rise }),
	numberKey(keyDoc{name: "fall", def: "3", example: "2", text: "Failures in a row that make a member down."}, 1, 1000, func(m *monitor.Monitor) *int { return &m.Fall }),
	portKey(keyDoc{name: "port", otherwise: "that of the member", example: "8081", text: "The port that is probed. A member without a port has that of its virtual server."}, func(m *monitor.Monitor) *uint16 { return &m.Port }),
	addressKey(keyDoc{name: "source-v4", otherwise: "the kernel's choice", example: "192.168.20.254", text: "Address that probes of IPv4 members come from: one of this host, and no virtual address."}, func(m *monitor.Monitor) *netip.Addr { return &m.Path.Source4 }),
	addressKey(keyDoc{name: "source-v6", otherwise: "the kernel's choice", example: "fd00:192:168:20::254", text: "The same for IPv6 members."}, func(m *monitor.Monitor) *netip.Addr { return &m.Path.Source6 }),
	textKey(keyDoc{name: "interface", kind: "interface name", otherwise: "the kernel's choice", limits: "at most 15 characters", example: "eth2", text: "The network interface that probes leave by (SO_BINDTODEVICE)."},
		parseInterface, func(m *monitor.Monitor) *string { return &m.Path.Interface }),
	textKey(keyDoc{name: "mark", kind: "number", def: "0", limits: "0 to 4294967295", number: true, example: "7", text: "SO_MARK of probes, for rules of ip-rule(8). 0: none."},
		func(text string) (uint32, error) {
			n, err := parseNumber(text, 0, 1<<32-1)
			return uint32(n), err
		}, func(m *monitor.Monitor) *uint32 { return &m.Path.Mark }),
	nestedKey(keyDoc{name: "icmp", example: "{size: 56}", text: "The part of icmp."}, &icmpKeys, func(m *monitor.Monitor) *monitor.ICMPOptions { return &m.ICMP }),
	nestedKey(keyDoc{name: "tcp", example: "{expect: SSH-2.0}", text: "The part of tcp. Without expect and pattern an opened connection is enough."}, exchangeKeys("tcp"), func(m *monitor.Monitor) *monitor.Exchange { return &m.TCP }),
	nestedKey(keyDoc{name: "udp", example: "{send: ping, expect: pong}", text: "The part of udp. Without expect and pattern any answer is good, and so is none; only an ICMP unreachable is not."}, exchangeKeys("udp"), func(m *monitor.Monitor) *monitor.Exchange { return &m.UDP }),
	nestedKey(keyDoc{name: "http", example: "{path: /health}", text: "The part of http and https. Redirections are not followed."}, &httpKeys, func(m *monitor.Monitor) *monitor.HTTPOptions { return &m.HTTP }),
	nestedKey(keyDoc{name: "tls", example: "{server-name: www.example.org}", text: "The part of https. Files are read again at every reload."}, &tlsKeys, func(m *monitor.Monitor) *monitor.TLSOptions { return &m.TLS }),
	nestedKey(keyDoc{name: "dns", example: "{name: www.example.org}", text: "The part of dns."}, &dnsKeys, func(m *monitor.Monitor) *monitor.DNSOptions { return &m.DNS }),
	nestedKey(keyDoc{name: "exec", example: "{command: [/usr/local/bin/check]}", text: "The part of exec. The program runs without capabilities and without a shell; SLUICE_MEMBER, SLUICE_MONITOR, SLUICE_ADDRESS, SLUICE_PORT and SLUICE_TIMEOUT are in its environment. Its first line is the cause that is shown."},
		&execKeys, func(m *monitor.Monitor) *monitor.ExecOptions { return &m.Exec }),
}}

var icmpKeys = mapping[monitor.ICMPOptions]{what: "icmp", keys: []configKey[monitor.ICMPOptions]{
	numberKey(keyDoc{name: "size", def: "56", example: "1400", text: "Bytes of payload."}, 16, 65000, func(o *monitor.ICMPOptions) *int { return &o.Size }),
}}

func exchangeKeys(what string) *mapping[monitor.Exchange] {
	m := &mapping[monitor.Exchange]{what: what, keys: []configKey[monitor.Exchange]{
		anyTextKey(keyDoc{name: "send", example: `"QUIT\r\n"`, text: "What is sent; in double quotes, YAML's escapes may stand for any byte."}, func(e *monitor.Exchange) *string { return &e.Send }),
		anyTextKey(keyDoc{name: "expect", example: "SSH-2.0", text: "What must be in the answer."}, func(e *monitor.Exchange) *string { return &e.Expect }),
		anyTextKey(keyDoc{name: "pattern", example: "^SSH-2", text: "Regular expression (RE2) that the answer must match."}, func(e *monitor.Exchange) *string { return &e.Pattern }),
		numberKey(keyDoc{name: "limit", def: "4096", example: "256", text: "Bytes of an answer that are read."}, 1, 1<<20, func(e *monitor.Exchange) *int { return &e.Limit }),
	}}
	if what == "tcp" {
		m.keys = append(m.keys, flagKey(keyDoc{name: "reset", def: "false", example: "true", text: "Close with a RST, which leaves nothing in TIME_WAIT here."}, func(e *monitor.Exchange) *bool { return &e.Reset }))
	}
	return m
}

var httpKeys = mapping[monitor.HTTPOptions]{what: "http", keys: []configKey[monitor.HTTPOptions]{
	wordKey(keyDoc{name: "version", def: "1.1", example: "2", text: "auto offers both, with TLS only."},
		[]monitor.HTTPVersion{monitor.HTTP1, monitor.HTTP2, monitor.HTTPAuto}, nil, func(o *monitor.HTTPOptions) *monitor.HTTPVersion { return &o.Version }),
	defaultTextKey(keyDoc{name: "method", def: "GET", example: "HEAD", text: "The request's method."}, func(o *monitor.HTTPOptions) *string { return &o.Method }),
	defaultTextKey(keyDoc{name: "path", def: "/", example: "/health?deep=1", text: "The request's path, with query."}, func(o *monitor.HTTPOptions) *string { return &o.Path }),
	anyTextKey(keyDoc{name: "host", otherwise: "the address", example: "www.example.org", text: "The Host header and, with TLS, the name that is asked for."}, func(o *monitor.HTTPOptions) *string { return &o.Host }),
	listKey(keyDoc{name: "headers", example: "[{name: X-Check, value: sluice}]", text: "Further headers."}, &headerKeys, func(o *monitor.HTTPOptions) *[]monitor.Header { return &o.Headers }),
	anyTextKey(keyDoc{name: "body", example: "ping", text: "The request's body."}, func(o *monitor.HTTPOptions) *string { return &o.Body }),
	textKey(keyDoc{name: "status", kind: "codes", def: "200-399", limits: "100 to 599", example: "200-299,304", text: "Expected status codes and ranges."},
		func(text string) ([]monitor.StatusRange, error) {
			s, err := monitor.ParseStatus(text)
			if err != nil {
				return nil, wrong("%v", err)
			}
			return s, nil
		}, func(o *monitor.HTTPOptions) *[]monitor.StatusRange { return &o.Status }),
	anyTextKey(keyDoc{name: "pattern", example: "status=ready", text: "Regular expression (RE2) that the answer's body must match."}, func(o *monitor.HTTPOptions) *string { return &o.Pattern }),
	numberKey(keyDoc{name: "body-limit", def: "65536", example: "4096", text: "Bytes of the answer's body that are read for pattern."}, 1, 16<<20, func(o *monitor.HTTPOptions) *int { return &o.BodyLimit }),
}}

var headerKeys = mapping[monitor.Header]{what: "a header", keys: []configKey[monitor.Header]{
	defaultTextKey(keyDoc{name: "name", required: true, example: "X-Check", text: "Its name."}, func(h *monitor.Header) *string { return &h.Name }),
	anyTextKey(keyDoc{name: "value", example: "sluice", text: "Its value."}, func(h *monitor.Header) *string { return &h.Value }),
}}

var tlsKeys = mapping[monitor.TLSOptions]{what: "tls", keys: []configKey[monitor.TLSOptions]{
	flagKey(keyDoc{name: "skip-verify", def: "false", example: "true", text: "Accept any certificate."}, func(o *monitor.TLSOptions) *bool { return &o.SkipVerify }),
	anyTextKey(keyDoc{name: "ca-file", otherwise: "the system's", example: "/etc/sluice/ca.pem", text: "Authorities that certificates are verified with, PEM."}, func(o *monitor.TLSOptions) *string { return &o.CAFile }),
	anyTextKey(keyDoc{name: "server-name", otherwise: "http.host", example: "www.example.org", text: "The name that is asked for (SNI) and verified."}, func(o *monitor.TLSOptions) *string { return &o.ServerName }),
	anyTextKey(keyDoc{name: "cert-file", example: "/etc/sluice/client.pem", text: "Client certificate with its chain, PEM."}, func(o *monitor.TLSOptions) *string { return &o.CertFile }),
	anyTextKey(keyDoc{name: "key-file", example: "/etc/sluice/client.key", text: "Its key, PEM."}, func(o *monitor.TLSOptions) *string { return &o.KeyFile }),
}}

var dnsKeys = mapping[monitor.DNSOptions]{what: "dns", keys: []configKey[monitor.DNSOptions]{
	anyTextKey(keyDoc{name: "name", example: "www.example.org", text: "The name that is asked for."}, func(o *monitor.DNSOptions) *string { return &o.Name }),
	defaultTextKey(keyDoc{name: "query-type", def: "A", example: "SOA", text: "The type that is asked for."}, func(o *monitor.DNSOptions) *string { return &o.QueryType }),
	defaultTextKey(keyDoc{name: "rcode", def: "NOERROR", example: "REFUSED", text: "The code that is expected."}, func(o *monitor.DNSOptions) *string { return &o.RCode }),
	addressKey(keyDoc{name: "answer", otherwise: "not looked at", example: "192.0.2.1", text: "An address that must be in the answer."}, func(o *monitor.DNSOptions) *netip.Addr { return &o.Answer }),
	flagKey(keyDoc{name: "tcp", def: "false", example: "true", text: "Over TCP."}, func(o *monitor.DNSOptions) *bool { return &o.TCP }),
	flagKey(keyDoc{name: "no-recursion", def: "false", example: "true", text: "Clear the RD bit."}, func(o *monitor.DNSOptions) *bool { return &o.NoRecursion }),
}}

var execKeys = mapping[monitor.ExecOptions]{what: "exec", keys: []configKey[monitor.ExecOptions]{
	scalarsKey(keyDoc{name: "command", kind: "list of texts", example: "[/usr/local/bin/check, --fast]", text: "The program, by its absolute path, and its arguments."}, anyTextKey(keyDoc{}, func(s *string) *string { return s }), func(o *monitor.ExecOptions) *[]string { return &o.Argv }),
	scalarsKey(keyDoc{name: "environment", kind: "list of texts", example: "[LANG=C]", text: "NAME=value; nothing is inherited."}, anyTextKey(keyDoc{}, func(s *string) *string { return s }), func(o *monitor.ExecOptions) *[]string { return &o.Env }),
}}

var passiveKeys = mapping[monitor.PassiveConfig]{what: "passive monitoring", keys: []configKey[monitor.PassiveConfig]{
	numberKey(keyDoc{name: "consecutive", def: "5", example: "3", text: "Handshakes of clients in a row that must fail: refused, or the client had to repeat its first packet. 0: off."}, 0, 1_000_000, func(c *monitor.PassiveConfig) *int { return &c.Consecutive }),
	fractionKey(keyDoc{name: "rate", def: "0", example: "0.5", text: "The part of the handshakes within window that must fail. 0: off."}, 1, func(c *monitor.PassiveConfig) *float64 { return &c.Rate }),
	durationKey(keyDoc{name: "window", def: "10s", example: "30s", text: "For rate."}, time.Second, time.Hour, func(c *monitor.PassiveConfig) *time.Duration { return &c.Window }),
	numberKey(keyDoc{name: "min-handshakes", def: "20", example: "100", text: "Handshakes in the window below which rate says nothing."}, 1, 1_000_000, func(c *monitor.PassiveConfig) *int { return &c.MinHandshakes }),
	flagKey(keyDoc{name: "ignore-resets", def: "false", example: "true", text: "A handshake that is refused is not a failure."}, func(c *monitor.PassiveConfig) *bool { return &c.IgnoreResets }),
	durationKey(keyDoc{name: "hold-min", def: "5s", example: "10s", text: "How long a member is held off first. Each further time is twice as long."}, time.Second, 24*time.Hour, func(c *monitor.PassiveConfig) *time.Duration { return &c.HoldMin }),
	durationKey(keyDoc{name: "hold-max", def: "1h", example: "10m", text: "The longest hold-off."}, time.Second, 24*time.Hour, func(c *monitor.PassiveConfig) *time.Duration { return &c.HoldMax }),
	durationKey(keyDoc{name: "probation", def: "30s", example: "1m", text: "After a hold-off: passed when it ends with a completed handshake."}, 0, 24*time.Hour, func(c *monitor.PassiveConfig) *time.Duration { return &c.Probation }),
	numberKey(keyDoc{name: "probation-failures", def: "1", example: "3", text: "Failures in a row that end probation with the next hold-off."}, 1, 1_000_000, func(c *monitor.PassiveConfig) *int { return &c.ProbationFailures }),
	flagKey(keyDoc{name: "end-early", def: "false", example: "true", text: "The pool's monitors may end a hold-off."}, func(c *monitor.PassiveConfig) *bool { return &c.EndEarly }),
}}

// healthKeys are the keys of a pool that are about its members' health.
var healthKeys = []configKey[Pool]{
	scalarsKey(keyDoc{name: "monitors", kind: "list of names", example: "[web-alive]", text: "The monitors that probe each member. Without any, members are up."},
		textKey(keyDoc{kind: "name", limits: "of a monitor"}, parseName, func(s *string) *string { return s }), func(p *Pool) *[]string { return &p.Monitors }),
	textKey(keyDoc{name: "monitors-needed", kind: "word or number", def: "all", limits: "all, any, 1 to 1000", example: "any", text: "How many of the monitors must find a member up for it to be up."},
		parseNeeded, func(p *Pool) *Needed { return &p.MonitorsNeeded }),
	nestedKey(keyDoc{name: "passive", example: "{consecutive: 3}", text: "Hold members off by what the clients' own connections meet. Off unless it is written; `{}` turns it on. Not for UDP services that do not answer."},
		&passiveKeys, func(p *Pool) *monitor.PassiveConfig { return &p.Passive }),
	textKey(keyDoc{name: "all-down", kind: "word", def: "drop", limits: "drop, reset, fail-open, pool NAME", example: "pool sorry", text: "New connections while no member is usable: drop does what the virtual server says under refused, reset answers with a RST, fail-open chooses among the members that are down, pool lets another one serve."},
		parseAllDown, func(p *Pool) *AllDown { return &p.AllDown }),
	wordKey(keyDoc{name: "on-down", def: "keep", example: "move", text: "The connections of a member that goes down: keep lets them go on, reset ends them, with a RST to both ends of a TCP connection, move lets TCP and SCTP go on and has the next UDP datagram scheduled anew."},
		[]OnDown{OnDownKeep, OnDownReset, OnDownMove}, nil, func(p *Pool) *OnDown { return &p.OnDown }),
	wordKey(keyDoc{name: "start-up", def: "up", example: "checking", text: "What a new member is until its monitors say: up, or checking, which takes no connections."},
		[]StartUp{StartUpUp, StartUpChecking}, nil, func(p *Pool) *StartUp { return &p.StartUp }),
}

// OnDown is what becomes of a dead member's connections; StartUp is what a new member is.
type (
	OnDown  string
	StartUp string
)

// The words themselves.
const (
	OnDownKeep  OnDown = "keep"
	OnDownReset OnDown = "reset"
	OnDownMove  OnDown = "move"

	StartUpUp       StartUp = "up"
	StartUpChecking StartUp = "checking"
)

// Needed is how many monitors must find a member up: all (0), any (1) or a number.
type Needed int

func (n Needed) String() string {
	switch n {
	case monitor.All:
		return "all"
	case monitor.Any:
		return "any"
	}
	return strconv.Itoa(int(n))
}

func parseNeeded(text string) (Needed, error) {
	switch text {
	case "all":
		return monitor.All, nil
	case "any":
		return monitor.Any, nil
	}
	n, err := parseNumber(text, 1, 1000)
	return Needed(n), err
}

// AllDown is what a pool does while no member is usable.
type AllDown struct {
	Policy string // drop | reset | fail-open | pool
	Pool   string // its name, for pool
}

func (a AllDown) String() string {
	if a.Pool != "" {
		return a.Policy + " " + a.Pool
	}
	return a.Policy
}

// The policies of AllDown.
const (
	AllDownDrop     = "drop"
	AllDownReset    = "reset"
	AllDownFailOpen = "fail-open"
	AllDownPool     = "pool"
)

func parseAllDown(text string) (AllDown, error) {
	policy, name, _ := strings.Cut(text, " ")
	name = strings.TrimSpace(name)
	switch {
	case name == "" && (policy == AllDownDrop || policy == AllDownReset || policy == AllDownFailOpen):
		return AllDown{Policy: policy}, nil
	case policy == AllDownPool && name != "":
		name, err := parseName(name)
		return AllDown{policy, name}, err
	case policy == AllDownPool:
		return AllDown{}, wrong("which pool?").orUse("such as pool sorry")
	}
	return AllDown{}, wrong("unknown all-down %q; supported: drop, reset, fail-open, pool NAME", shorten(text))
}

// fractionKey is a number from 0 to hi with decimals.
func fractionKey[T any](doc keyDoc, hi float64, field func(*T) *float64) configKey[T] {
	doc.kind, doc.limits, doc.number = "fraction", "0 to "+strconv.FormatFloat(hi, 'g', -1, 64), true
	return textKey(doc, func(text string) (float64, error) {
		v, err := strconv.ParseFloat(text, 64)
		if err != nil || strings.Trim(text, "0123456789.") != "" {
			return 0, wrong("want a number such as 0.2, found %q", shorten(text))
		}
		if v > hi {
			return 0, wrong("%s is out of range: %s", shorten(text), doc.limits)
		}
		return v, nil
	}, field)
}

// portKey is a port, or nothing, which is 0.
func portKey[T any](doc keyDoc, field func(*T) *uint16) configKey[T] {
	doc.kind, doc.limits, doc.number = "number", "1 to 65535", true
	return textKey(doc, func(text string) (uint16, error) {
		n, err := parseNumber(text, 1, 65535)
		return uint16(n), err
	}, field)
}

func addressKey[T any](doc keyDoc, field func(*T) *netip.Addr) configKey[T] {
	doc.kind = "IP address"
	return textKey(doc, parseAddr, field)
}

// anyTextKey is text that whoever uses it judges. defaultTextKey may not be empty.
func anyTextKey[T any](doc keyDoc, field func(*T) *string) configKey[T] {
	doc.kind = "text"
	return textKey(doc, func(text string) (string, error) { return text, nil }, field)
}

func defaultTextKey[T any](doc keyDoc, field func(*T) *string) configKey[T] {
	doc.kind = "text"
	return textKey(doc, func(text string) (string, error) {
		if text == "" {
			return "", wrong("the text is empty")
		}
		return text, nil
	}, field)
}
