package monitor

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/http/httpguts"
)

// Problem is something that is wrong with a setting.
type Problem struct {
	// Keys are those of the settings that it is about, as a configuration file names them below the monitor, such as http.path.
	// Where there are several, each could be changed to mend it.
	Keys []string
	err  error
}

// Error says what is wrong.
func (p *Problem) Error() string { return p.err.Error() }

// Unwrap is for errors.As.
func (p *Problem) Unwrap() error { return p.err }

// problems collects what is wrong.
type problems []error

func (p *problems) add(format string, args ...any) { *p = append(*p, fmt.Errorf(format, args...)) }

// at adds a problem with the settings of those keys, which spaces part.
func (p *problems) at(keys, format string, args ...any) {
	*p = append(*p, &Problem{strings.Fields(keys), fmt.Errorf(format, args...)})
}

// below adds what check finds wrong with a part.
func (p *problems) below(part string, check func(*problems)) {
	var found problems
	check(&found)
	for _, err := range found {
		if k, ok := err.(*Problem); ok { //nolint:errorlint // as at has made it
			for i := range k.Keys {
				k.Keys[i] = part + "." + k.Keys[i]
			}
		}
		*p = append(*p, err)
	}
}

// Validate returns all that is wrong with a monitor, joined, or nil. Files that it names are not looked at; NewProber
// does that.
func (m *Monitor) Validate() error {
	var p problems
	if m.Name == "" {
		p.at("name", "name is empty")
	}
	if !slices.Contains(Types, m.Type) {
		p.at("type", "type %q is unknown; known: %s", shorten(string(m.Type)), strings.Trim(fmt.Sprint(Types), "[]"))
		return m.named(p)
	}
	m.validateTimes(&p)
	m.Path.validate(&p)
	m.validateParts(&p)
	switch m.Type {
	case ICMP:
		if m.ICMP.Size < minEcho || m.ICMP.Size > 65000 {
			p.at("icmp.size", "size %d is out of range: %d to 65000 bytes", m.ICMP.Size, minEcho)
		}
		if m.Port != 0 {
			p.at("port", "port %d: icmp has no ports", m.Port)
		}
	case TCP:
		p.below("tcp", m.TCP.validate)
	case UDP:
		p.below("udp", m.UDP.validate)
		if m.UDP.Send == "" || len(m.UDP.Send) > 65507 {
			p.at("udp.send", "send has %d bytes: a udp monitor sends 1 to 65507", len(m.UDP.Send))
		}
		if m.UDP.Reset {
			p.at("udp.reset", "reset is for tcp")
		}
	case HTTP, HTTPS:
		p.below("http", func(p *problems) { m.HTTP.validate(p, m.Type) })
		p.below("tls", m.TLS.validate)
	case DNS:
		p.below("dns", m.DNS.validate)
	case Exec:
		p.below("exec", m.Exec.validate)
	}
	return m.named(p)
}

func (m *Monitor) named(p problems) error {
	for i, err := range p {
		p[i] = fmt.Errorf("monitor %q: %w", shorten(m.Name), err)
	}
	return errors.Join(p...)
}

func (m *Monitor) validateTimes(p *problems) {
	inRange := func(what string, d, lo, hi time.Duration) {
		if d < lo || d > hi {
			p.at(strings.ReplaceAll(what, " ", "-"), "%s %v is out of range: %v to %v", what, d, lo, hi)
		}
	}
	inRange("interval", m.Interval, 100*time.Millisecond, 24*time.Hour)
	shortest := m.Interval
	if m.DownInterval != 0 {
		inRange("down interval", m.DownInterval, 100*time.Millisecond, 24*time.Hour)
		shortest = min(shortest, m.DownInterval)
	}
	switch {
	case m.Timeout < 10*time.Millisecond:
		p.at("timeout", "timeout %v is shorter than 10ms", m.Timeout)
	case m.Timeout > shortest:
		p.at("timeout interval down-interval", "timeout %v is longer than the interval %v: lower the one or raise the other", m.Timeout, shortest)
	}
	if !(m.Jitter >= 0 && m.Jitter <= 0.5) { // a NaN is neither
		p.at("jitter", "jitter %v is out of range: 0 to 0.5", m.Jitter)
	}
	if m.Rise < 1 || m.Rise > 1000 {
		p.at("rise", "rise %d is out of range: 1 to 1000", m.Rise)
	}
	if m.Fall < 1 || m.Fall > 1000 {
		p.at("fall", "fall %d is out of range: 1 to 1000", m.Fall)
	}
}

// validateParts refuses what would have no effect.
func (m *Monitor) validateParts(p *problems) {
	for _, part := range []struct {
		name  string
		value any
		types []Type
	}{
		{"icmp", m.ICMP, []Type{ICMP}}, {"tcp", m.TCP, []Type{TCP}}, {"udp", m.UDP, []Type{UDP}},
		{"http", m.HTTP, []Type{HTTP, HTTPS}}, {"tls", m.TLS, []Type{HTTPS}}, {"dns", m.DNS, []Type{DNS}}, {"exec", m.Exec, []Type{Exec}},
	} {
		if !slices.Contains(part.types, m.Type) && !reflect.ValueOf(part.value).IsZero() {
			p.at(part.name, "settings of %s have no effect in a monitor of type %s", part.name, m.Type)
		}
	}
}

func (w Path) validate(p *problems) {
	check := func(what string, a netip.Addr, family bool) {
		if a.IsValid() && (!family || a.IsUnspecified() || a.IsMulticast()) {
			p.at(what, "%s %v is not a unicast address of that family", what, a)
		}
	}
	check("source-v4", w.Source4, w.Source4.Is4())
	check("source-v6", w.Source6, w.Source6.Is6() && !w.Source6.Is4In6())
	if len(w.Interface) > 15 || strings.ContainsAny(w.Interface, "/ \x00") {
		p.at("interface", "%q is not an interface name", shorten(w.Interface))
	}
}

func (e *Exchange) validate(p *problems) {
	validatePattern(p, e.Pattern)
	switch expects := e.Expect != "" || e.Pattern != ""; {
	case e.Expect != "" && e.Pattern != "":
		p.at("expect pattern", "expect and pattern are both set: one is enough")
	case expects && (e.Limit < 1 || e.Limit > 1<<20):
		p.at("limit", "limit %d is out of range: 1 to 1048576 bytes", e.Limit)
	case len(e.Expect) > e.Limit && expects:
		p.at("expect", "expect has %d bytes, more than the limit of %d bytes that are read", len(e.Expect), e.Limit)
	case e.Limit < 0:
		p.at("limit", "limit %d is negative", e.Limit)
	}
}

func validatePattern(p *problems, pattern string) {
	if _, err := regexp.Compile(pattern); err != nil {
		p.at("pattern", "pattern: %w", err)
	}
}

func (h *HTTPOptions) validate(p *problems, t Type) {
	switch {
	case h.Version != HTTP1 && h.Version != HTTP2 && h.Version != HTTPAuto:
		p.at("version", "version %q is unknown; known: 1.1, 2, auto", shorten(string(h.Version)))
	case h.Version == HTTPAuto && t == HTTP:
		p.at("version", "version auto needs TLS: use 1.1 or 2")
	}
	if !httpguts.ValidHeaderFieldName(h.Method) { // a method is a token, as a header's name is (RFC 9110 section 9.1)
		p.at("method", "method %q is not a word", shorten(h.Method))
	}
	if h.Method == "CONNECT" {
		p.at("method", "method CONNECT asks for a tunnel, which is not a check")
	}
	if _, err := requestURL(t, "192.0.2.1", h.Path); err != nil {
		p.at("path", "path %q: want one that begins with one / and has no spaces", shorten(h.Path))
	}
	if h.Host != "" && !httpguts.ValidHostHeader(h.Host) {
		p.at("host", "host %q is not a host, or a host and a port", shorten(h.Host))
	}
	for i, line := range h.Headers {
		at := fmt.Sprintf("headers[%d]", i)
		switch {
		case !httpguts.ValidHeaderFieldName(line.Name):
			p.at(at+".name", "header %q: the name has a character that is not allowed", shorten(line.Name))
		case !httpguts.ValidHeaderFieldValue(line.Value):
			p.at(at+".value", "header %s: the value has a character that is not allowed", line.Name)
		case slices.ContainsFunc(ownHeaders, func(own string) bool { return strings.EqualFold(own, line.Name) }):
			p.at(at+".name", "header %s is set by the monitor (use host or body)", line.Name)
		}
	}
	if len(h.Status) == 0 {
		p.at("status", "status is empty: no answer could be right")
	}
	for _, r := range h.Status {
		if err := r.validate(); err != nil {
			p.at("status", "%w", err)
		}
	}
	validatePattern(p, h.Pattern)
	if h.Pattern != "" && (h.BodyLimit < 1 || h.BodyLimit > 16<<20) {
		p.at("body-limit", "body limit %d is out of range: 1 to 16777216 bytes", h.BodyLimit)
	}
	if h.Pattern != "" && h.Method == "HEAD" {
		p.at("pattern method", "pattern: the answer to HEAD has no body")
	}
}

// ownHeaders frame the request, so they are not to be set by hand.
var ownHeaders = []string{"Host", "Content-Length", "Transfer-Encoding", "Connection", "Upgrade"}

func (o *TLSOptions) validate(p *problems) {
	if (o.CertFile == "") != (o.KeyFile == "") {
		p.at("cert-file key-file", "a client certificate needs both the certificate's and the key's file")
	}
	if o.SkipVerify && o.CAFile != "" {
		p.at("ca-file", "a CA file has no effect when certificates are not verified")
	}
}

func (o *DNSOptions) validate(p *problems) {
	if _, ok := dns.IsDomainName(o.Name); !ok || o.Name == "" {
		p.at("name", "%q is not a domain name", shorten(o.Name))
	}
	if t, ok := dns.StringToType[o.QueryType]; !ok || t == dns.TypeAXFR || t == dns.TypeIXFR {
		p.at("query-type", "query type %q is unknown; such as A, AAAA, SOA, NS, TXT", shorten(o.QueryType))
	}
	if _, ok := dns.StringToRcode[o.RCode]; !ok {
		p.at("rcode", "rcode %q is unknown; such as NOERROR, NXDOMAIN, REFUSED", shorten(o.RCode))
	}
	if o.Answer.IsValid() && o.QueryType != "A" && o.QueryType != "AAAA" && o.QueryType != "ANY" {
		p.at("answer", "answer %v: only A and AAAA records have addresses, the query is for %s", o.Answer, shorten(o.QueryType))
	}
	if o.Answer.IsValid() && (o.QueryType == "A" && !o.Answer.Is4() || o.QueryType == "AAAA" && !o.Answer.Is6()) {
		p.at("answer", "answer %v is not of the family of query type %s", o.Answer, o.QueryType)
	}
}

func (o *ExecOptions) validate(p *problems) {
	switch {
	case len(o.Argv) == 0:
		p.at("command", "argv is empty: give the program's absolute path and its arguments")
	case !filepath.IsAbs(o.Argv[0]):
		p.at("command", "program %q: want an absolute path", shorten(o.Argv[0]))
	}
	noZero := func(key string, list []string) {
		for i, s := range list {
			if strings.ContainsRune(s, 0) {
				p.at(fmt.Sprintf("%s[%d]", key, i), "%q has a zero byte", shorten(s))
			}
		}
	}
	noZero("command", o.Argv)
	noZero("environment", o.Env)
	for i, e := range o.Env {
		at := fmt.Sprintf("environment[%d]", i)
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			p.at(at, "environment %q: want NAME=value", shorten(e))
		} else if strings.HasPrefix(name, "SLUICE_") {
			p.at(at, "environment %s: names that begin with SLUICE_ are the monitor's", shorten(name))
		}
	}
}
