package monitor

import (
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// serveDNS is a DNS server on loopback, over both transports on one port. Its names say what it does.
func serveDNS(t testing.TB) netip.AddrPort {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	p := must(net.ListenPacket("udp", l.Addr().String()))(t)
	for _, s := range []*dns.Server{{Listener: l}, {PacketConn: p}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		s.Handler = dns.HandlerFunc(answerDNS)
		go s.ActivateAndServe()
		<-started
		t.Cleanup(func() { s.Shutdown() })
	}
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func answerDNS(w dns.ResponseWriter, q *dns.Msg) {
	a := new(dns.Msg)
	a.SetReply(q)
	record := func(text string) {
		r, err := dns.NewRR(text)
		if err != nil {
			panic(err)
		}
		a.Answer = append(a.Answer, r)
	}
	_, overUDP := w.RemoteAddr().(*net.UDPAddr)
	switch strings.ToLower(q.Question[0].Name) {
	case "two.example.":
		record("two.example. 60 IN CNAME one.example.")
		record("one.example. 60 IN A 192.0.2.1")
		record("one.example. 60 IN A 192.0.2.2")
		record("one.example. 60 IN AAAA 2001:db8::1")
	case "servfail.example.":
		a.Rcode = dns.RcodeServerFailure
	case "nxdomain.example.":
		a.Rcode = dns.RcodeNameError
	case "mute.example.":
		return
	case "truncated.example.":
		if a.Truncated = overUDP; !a.Truncated {
			record("truncated.example. 60 IN A 192.0.2.3")
		}
	case "otherid.example.": // a forged answer with another id first
		b := a.Copy()
		b.Id++
		b.Rcode = dns.RcodeRefused
		w.WriteMsg(b)
	case "otherquestion.example.":
		b := a.Copy()
		b.Question[0].Name, b.Rcode = "evil.example.", dns.RcodeRefused
		w.WriteMsg(b)
	case "garbage.example.":
		b, _ := a.Pack()
		w.Write(b[:len(b)-3])
		return
	case "norecursion.example.":
		if q.RecursionDesired {
			a.Rcode = dns.RcodeRefused
		}
	}
	w.WriteMsg(a)
}

func TestDNS(t *testing.T) {
	to := serveDNS(t)
	ask := func(name string, edit func(*DNSOptions)) Monitor {
		return testMonitor(DNS, func(m *Monitor) {
			m.Timeout = time.Second
			if m.DNS.Name = name; edit != nil {
				edit(&m.DNS)
			}
		})
	}
	answer := func(addr string) func(*DNSOptions) {
		return func(o *DNSOptions) { o.Answer = netip.MustParseAddr(addr) }
	}
	tcp := func(o *DNSOptions) { o.TCP = true }
	short := ask("mute.example", nil)
	short.Timeout = 150 * time.Millisecond
	for _, c := range []probeCase{
		{"answered", ask("two.example", nil), to, Success, "rcode NOERROR"},
		{"over tcp", ask("two.example.", tcp), to, Success, "rcode NOERROR"},
		{"address", ask("two.example", answer("192.0.2.2")), to, Success, "rcode NOERROR"},
		{"address v6", ask("TWO.example", func(o *DNSOptions) { o.QueryType = "AAAA"; answer("2001:db8::1")(o) }), to, Success, "rcode NOERROR"},
		{"wrong address", ask("two.example", answer("192.0.2.9")), to, Failure, "answer has not 192.0.2.9 but 192.0.2.1, 192.0.2.2, 2001:db8::1"},
		{"no address", ask("other.example", answer("192.0.2.9")), to, Failure, "answer has no address, expected 192.0.2.9"},
		{"servfail", ask("servfail.example", nil), to, Failure, "rcode SERVFAIL, expected NOERROR"},
		{"nxdomain", ask("nxdomain.example", nil), to, Failure, "rcode NXDOMAIN, expected NOERROR"},
		{"nxdomain expected", ask("nxdomain.example", func(o *DNSOptions) { o.RCode = "NXDOMAIN" }), to, Success, "rcode NXDOMAIN"},
		{"truncated", ask("truncated.example", answer("192.0.2.3")), to, Failure, "answer is truncated and 192.0.2.3 is not in the part that came: use tcp"},
		{"truncated, by tcp", ask("truncated.example", func(o *DNSOptions) { tcp(o); answer("192.0.2.3")(o) }), to, Success, "rcode NOERROR"},
		{"another's id", ask("otherid.example", nil), to, Success, "rcode NOERROR"},
		{"another's id, by tcp", ask("otherid.example", tcp), to, Failure, "the answer is not a DNS answer to the query"},
		{"another question", ask("otherquestion.example", nil), to, Success, "rcode NOERROR"},
		{"garbage", ask("garbage.example", nil), to, Failure, "the answer is not valid DNS"},
		{"no recursion", ask("norecursion.example", func(o *DNSOptions) { o.NoRecursion = true }), to, Success, "rcode NOERROR"},
		{"recursion", ask("norecursion.example", nil), to, Failure, "rcode REFUSED"},
		{"slow", short, to, Failure, "timeout after 150ms (no answer)"},
		{"down", ask("two.example", nil), closedPort(t), Failure, "port unreachable"},
		{"down, by tcp", ask("two.example", tcp), closedPort(t), Failure, "connection refused"},
		{"not DNS", ask("two.example", tcp), serveTCP(t, says("SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n")), Failure, ""},
	} {
		c.run(t)
	}
}
