package monitor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// dnsMethod asks one question (RFC 1035) and judges code and addresses of the answer.
type dnsMethod struct {
	DNSOptions
	queryType uint16
	rcode     int
}

func newDNSMethod(o DNSOptions) dnsMethod {
	return dnsMethod{DNSOptions: o, queryType: dns.StringToType[o.QueryType], rcode: dns.StringToRcode[o.RCode]}
}

func (m dnsMethod) run(ctx context.Context, a *attempt) (string, error) {
	network := "udp"
	if m.TCP {
		network = "tcp"
	}
	raw, release, err := a.dial(ctx, network)
	if err != nil {
		return "", err
	}
	defer raw.Close()
	defer release()

	query := new(dns.Msg)
	query.SetQuestion(dns.Fqdn(m.Name), m.queryType) // with a random id
	query.RecursionDesired = !m.NoRecursion
	conn := &dns.Conn{Conn: raw, UDPSize: dns.MaxMsgSize - 1}
	a.stage = "send"
	if err := conn.WriteMsg(query); err != nil {
		return "", err
	}
	a.stage = "no answer"
	answer, err := m.read(conn, query)
	if err != nil {
		return "", err
	}
	if answer.Rcode != m.rcode {
		return "", mismatched("rcode %s, expected %s", rcodeName(answer.Rcode), m.RCode)
	}
	if m.Answer.IsValid() {
		if err := m.find(answer); err != nil {
			return "", err
		}
	}
	return "rcode " + rcodeName(answer.Rcode), nil
}

// read reads until the answer to query. Over UDP anybody can send something else before it.
func (m dnsMethod) read(conn *dns.Conn, query *dns.Msg) (*dns.Msg, error) {
	for {
		answer, err := conn.ReadMsg()
		var errno unix.Errno
		switch {
		case err != nil && answer == nil: // nothing was read: an error of the socket
			return nil, err
		case err != nil && errors.As(err, &errno):
			return nil, err
		case err == nil && answer.Id == query.Id && answer.Response && sameQuestion(answer, query):
			return answer, nil
		case m.TCP:
			return nil, mismatched("the answer is not a DNS answer to the query")
		case err != nil && answer.Id == query.Id:
			return nil, mismatched("the answer is not valid DNS: %v", err)
		}
	}
}

// sameQuestion allows an answer without question, which a server that did not understand the query may send.
func sameQuestion(answer, query *dns.Msg) bool {
	if len(answer.Question) == 0 {
		return answer.Rcode != dns.RcodeSuccess
	}
	a, q := answer.Question[0], query.Question[0]
	return a.Qtype == q.Qtype && a.Qclass == q.Qclass && strings.EqualFold(a.Name, q.Name)
}

// find looks for the expected address in the answer.
func (m dnsMethod) find(answer *dns.Msg) error {
	var found []string
	for _, record := range answer.Answer {
		var addr netip.Addr
		switch r := record.(type) {
		case *dns.A:
			addr, _ = netip.AddrFromSlice(r.A)
		case *dns.AAAA:
			addr, _ = netip.AddrFromSlice(r.AAAA)
		default:
			continue
		}
		// The library keeps an A record in 16 bytes.
		if _, is4 := record.(*dns.A); is4 {
			addr = addr.Unmap()
		}
		if addr == m.Answer {
			return nil
		}
		found = append(found, addr.String())
	}
	switch {
	case answer.Truncated:
		return mismatched("answer is truncated and %v is not in the part that came: use tcp", m.Answer)
	case len(found) == 0:
		return mismatched("answer has no address, expected %v", m.Answer)
	}
	return mismatched("answer has not %v but %s", m.Answer, strings.Join(found[:min(len(found), 4)], ", "))
}

func rcodeName(rcode int) string {
	if name, ok := dns.RcodeToString[rcode]; ok {
		return name
	}
	return fmt.Sprint(rcode)
}
