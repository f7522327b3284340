package ctl

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"sluice/engine"
	"sluice/flow"
)

// ExplainView is where a packet goes and why.
type ExplainView struct {
	Protocol    string `json:"protocol"`
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Verdict     string `json:"verdict"`          // connect | forward | host | echo | reset | unreachable | drop
	Reason      string `json:"reason,omitempty"` // of a drop or reset: as /v1/drops names it
	Text        string `json:"text"`             // the verdict in a sentence
	Port        string `json:"port"`             // that it arrives on, or is taken to
	Worker      int    `json:"worker"`
	Bin         int    `json:"bin"`

	Connection *ConnView `json:"connection,omitempty"` // that the packet belongs to
	Side       string    `json:"side,omitempty"`       // of it: client | server
	Replaces   *ConnView `json:"replaces,omitempty"`   // the connection that would go to make room

	VirtualServer  string             `json:"virtual_server,omitempty"`
	OtherVirtuals  []OtherVirtualView `json:"other_virtual_servers,omitempty"`
	OtherAddresses int                `json:"virtual_servers_at_other_addresses"`
	Quotas         []QuotaView        `json:"quotas,omitempty"`

	Persistence *ExplainPersistenceView `json:"persistence,omitempty"`

	Pool       string          `json:"pool,omitempty"`
	Scheduler  string          `json:"scheduler,omitempty"`
	Priority   int             `json:"priority"`
	Groups     []GroupView     `json:"groups,omitempty"`
	Turn       uint64          `json:"turn"`
	Hash       string          `json:"hash,omitempty"` // hexadecimal: 64 bits do not fit JSON's numbers
	Random     string          `json:"random,omitempty"`
	Candidates []CandidateView `json:"candidates,omitempty"`
	Tried      []TriedView     `json:"tried,omitempty"`
	Member     string          `json:"member,omitempty"`
	Mode       string          `json:"mode,omitempty"` // nat | fullnat | direct-return | routed | tunnel
	Stateless  bool            `json:"stateless,omitempty"`
	Offline    bool            `json:"offline,omitempty"` // by a file alone: next hops are those that it lists
	Tunnel     *TunnelView     `json:"tunnel,omitempty"`  // what the member receives it in
	ToServer   *RewriteView    `json:"to_server,omitempty"`
	ToClient   *RewriteView    `json:"to_client,omitempty"`
}

// TunnelView is the tunnel to a member.
type TunnelView struct {
	Kind        string `json:"kind"` // ipip | gue
	Source      string `json:"source"`
	Destination string `json:"destination"`
	Port        uint16 `json:"port,omitempty"` // of gue
	MTU         int    `json:"mtu"`            // the largest packet that fits, in bytes
}

func tunnelView(t *engine.TunnelInfo) *TunnelView {
	if t == nil {
		return nil
	}
	return &TunnelView{Kind: t.Kind, Source: t.Src.String(), Destination: t.Dst.String(), Port: t.Port, MTU: t.MTU}
}

// OtherVirtualView is a virtual server that does not take the packet.
type OtherVirtualView struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// ExplainPersistenceView is what persistence says about a connection.
type ExplainPersistenceView struct {
	Name    string `json:"name"`
	Client  string `json:"client"`            // address, or prefix
	Worker  int    `json:"worker"`            // owner of the entry
	Entry   string `json:"entry,omitempty"`   // the member that it names, as POOL/MEMBER; left out where there is none
	Outcome string `json:"outcome,omitempty"` // what comes of the entry
}

// QuotaView is a bound and how much of it is used; per worker: of what this worker may have of it.
type QuotaView struct {
	Name      string `json:"name"`
	Used      int64  `json:"used"`
	Limit     int64  `json:"limit"`
	PerWorker bool   `json:"per_worker"`
}

// GroupView is a priority group that was looked at.
type GroupView struct {
	Pool     string `json:"pool"`
	Priority int    `json:"priority"`
	Usable   int    `json:"usable"`
	Needed   int    `json:"needed"`
	Asked    bool   `json:"asked"`
	Note     string `json:"note,omitempty"`
}

// CandidateView is a member with what the scheduler knows of it.
type CandidateView struct {
	Pool        string `json:"pool"`
	Member      string `json:"member"`
	Address     string `json:"address"`
	Priority    int    `json:"priority"`
	Weight      uint32 `json:"weight"`
	Connections int64  `json:"connections"`
	HandshakeUS uint32 `json:"handshake_us,omitempty"`
	HandshakeMS uint32 `json:"handshake_age_ms,omitempty"`
	Chosen      bool   `json:"chosen"`
	Note        string `json:"note,omitempty"` // why it cannot take the connection
}

// TriedView is a member that was asked before and could not take the connection.
type TriedView struct {
	Member string `json:"member"`
	Reason string `json:"reason"`
}

// RewriteView is one direction of a connection.
type RewriteView struct {
	Source           string `json:"source"`
	Destination      string `json:"destination"`
	SourceAfter      string `json:"source_after"`
	DestinationAfter string `json:"destination_after"`
	Port             string `json:"port,omitempty"` // egress; none: that of the client's packets
	NextHop          string `json:"next_hop,omitempty"`
}

// Explained makes a view of an explanation.
func Explained(q *engine.Question, e *engine.Explanation) ExplainView {
	v := ExplainView{
		Protocol: protocolName(q.Proto), Source: endpointText(q.Proto, q.Src), Destination: endpointText(q.Proto, q.Dst),
		Verdict: string(e.Decision), Text: explainText(e), Port: e.Ingress, Worker: e.Worker, Bin: e.Bin, Side: e.Side,
		VirtualServer: e.Virtual, OtherAddresses: e.Further, Pool: e.Pool, Scheduler: e.Scheduler, Priority: e.Priority, Turn: e.Turn,
		Member: e.Member, Mode: e.Mode, Stateless: e.Stateless, Tunnel: tunnelView(e.Tunnel), ToServer: rewriteView(q.Proto, e.ToServer), ToClient: rewriteView(q.Proto, e.ToClient),
	}
	switch e.Decision {
	case engine.DecideDrop, engine.DecideReset, engine.DecideUnreachable:
		v.Reason = e.Reason
	}
	if e.Existing != nil {
		c := connView(e.Existing)
		v.Connection = &c
	}
	if e.Replaces != nil {
		c := connView(e.Replaces)
		v.Replaces = &c
	}
	for _, o := range e.Others {
		v.OtherVirtuals = append(v.OtherVirtuals, OtherVirtualView(o))
	}
	if p := e.Persistence; p != nil {
		v.Persistence = &ExplainPersistenceView{p.Name, p.Client, p.Worker, p.Entry, p.Outcome}
	}
	for _, u := range e.Quotas {
		v.Quotas = append(v.Quotas, QuotaView{u.Name, u.Used, u.Limit, u.Share})
	}
	for _, g := range e.Groups {
		v.Groups = append(v.Groups, GroupView{g.Pool, g.Priority, g.Usable, g.Need, g.Taken, g.Note})
	}
	for i := range e.Candidates {
		c := &e.Candidates[i]
		v.Candidates = append(v.Candidates, CandidateView{c.Pool, c.Member, c.Address, c.Priority, c.Weight, c.Active, c.LatencyUS, c.AgeMS, c.Chosen, c.Note})
	}
	for _, t := range e.Tried {
		v.Tried = append(v.Tried, TriedView(t))
	}
	if e.Hash != 0 {
		v.Hash = fmt.Sprintf("%016x", e.Hash)
	}
	if e.Random != 0 {
		v.Random = fmt.Sprintf("%016x", e.Random)
	}
	return v
}

// explainText is the verdict in a sentence.
func explainText(e *engine.Explanation) string {
	switch e.Decision {
	case engine.DecideConnect:
		return "a new connection to " + e.Member
	case engine.DecideForward:
		switch {
		case e.Existing != nil:
			return fmt.Sprintf("along its connection with %s, from the %s's side", e.Member, e.Side)
		case e.ToServer == nil:
			return "back to the client, without an entry in the table"
		}
		return fmt.Sprintf("to %s, without an entry in the table", e.Member)
	case engine.DecideHost:
		return "to the kernel: " + e.Reason
	case engine.DecideEcho:
		return "answered as a ping"
	}
	what := "dropped"
	switch e.Decision {
	case engine.DecideReset:
		what = "answered with a RST"
	case engine.DecideUnreachable:
		what = "answered as unreachable, by ICMP"
	}
	for _, r := range engine.Reasons() {
		if r.Name == e.Reason {
			return fmt.Sprintf("%s, counted as %s: %s", what, r.Name, r.Text)
		}
	}
	return what + ": " + e.Reason
}

func rewriteView(proto uint8, r *engine.Rewrite) *RewriteView {
	if r == nil {
		return nil
	}
	return &RewriteView{
		endpointText(proto, r.Before.Src), endpointText(proto, r.Before.Dst), endpointText(proto, r.After.Src), endpointText(proto, r.After.Dst), r.Port, r.MAC,
	}
}

// endpointText leaves the port out where a protocol has none; that of ICMP is a query's id.
func endpointText(proto uint8, a netip.AddrPort) string {
	switch proto {
	case flow.TCP, flow.UDP, flow.SCTP, flow.ICMP, flow.ICMPv6:
		return a.String()
	}
	return a.Addr().String()
}

// ParseQuestion reads a protocol, by name or number, and two ends: ADDRESS:PORT, or where the protocol has no ports ADDRESS
// alone. Of ICMP the port of the source is the id of the query, 1 if it is left out.
func ParseQuestion(protocol, source, destination string) (q engine.Question, err error) {
	q.Port = -1
	if q.Proto, err = parseProtocol(protocol); err != nil {
		return q, err
	}
	ports := q.Proto == flow.TCP || q.Proto == flow.UDP || q.Proto == flow.SCTP
	for _, end := range []struct {
		name, text string
		to         *netip.AddrPort
	}{{"source", source, &q.Src}, {"destination", destination, &q.Dst}} {
		if *end.to, err = netip.ParseAddrPort(end.text); err == nil {
			continue
		}
		a, failed := netip.ParseAddr(strings.Trim(end.text, "[]"))
		switch {
		case ports:
			return q, fmt.Errorf("%s %q is not ADDRESS:PORT (IPv6: [ADDRESS]:PORT)", end.name, end.text)
		case failed != nil:
			return q, fmt.Errorf("%s %q is not an address", end.name, end.text)
		}
		*end.to = netip.AddrPortFrom(a, 1)
	}
	q.Src, q.Dst = netip.AddrPortFrom(q.Src.Addr().Unmap(), q.Src.Port()), netip.AddrPortFrom(q.Dst.Addr().Unmap(), q.Dst.Port())
	if q.Src.Addr().Is4() != q.Dst.Addr().Is4() {
		return q, fmt.Errorf("source %s and destination %s are of different address families", source, destination)
	}
	if q.Proto == flow.ICMP && q.Dst.Addr().Is6() {
		q.Proto = flow.ICMPv6
	}
	return q, nil
}

// parseProtocol reads the name or number of a protocol. ICMP is that of IPv4, until it is known better.
func parseProtocol(name string) (uint8, error) {
	switch strings.ToLower(name) {
	case "tcp":
		return flow.TCP, nil
	case "udp":
		return flow.UDP, nil
	case "sctp":
		return flow.SCTP, nil
	case "icmp", "icmp6":
		return flow.ICMP, nil
	}
	n, err := strconv.ParseUint(name, 10, 8)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("protocol %q is none of tcp, udp, sctp, icmp and a number from 1 to 255%s", shorten(name), didYouMean(name, []string{"tcp", "udp", "sctp", "icmp"}))
	}
	return uint8(n), nil
}

// ExplainPath is what to ask the API for.
func ExplainPath(protocol, source, destination, port string) string {
	v := url.Values{"protocol": {protocol}, "source": {source}, "destination": {destination}}
	if port != "" {
		v.Set("port", port)
	}
	return "/v1/explain?" + v.Encode()
}

// explain answers GET /v1/explain.
func (s *Server) explain(w http.ResponseWriter, r *http.Request) {
	p := r.URL.Query()
	q, err := ParseQuestion(p.Get("protocol"), p.Get("source"), p.Get("destination"))
	if err == nil {
		s.mu.RLock()
		q.Port, err = s.file.arrivalPort(p.Get("port"))
		s.mu.RUnlock()
	}
	if err != nil {
		refuse(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), askTimeout)
	defer cancel()
	e, err := s.engine.Explain(ctx, q)
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, err)
		return
	}
	reply(w, http.StatusOK, Explained(&q, &e))
}

// arrivalPort is the index of a port by its name, for a question; no name is -1.
func (f *File) arrivalPort(name string) (int, error) {
	if name == "" {
		return -1, nil
	}
	if i := f.portIndex(name); i >= 0 {
		return i, nil
	}
	return -1, fmt.Errorf("no port %q%s; `sluice port` lists them", shorten(name), didYouMean(name, f.enginePorts()))
}

// Explain answers for a file alone: without a kernel, for one worker, with nothing in the table.
func (f *File) Explain(q engine.Question, port string) (ExplainView, error) {
	var err error
	if q.Port, err = f.arrivalPort(port); err != nil {
		return ExplainView{}, err
	}
	cfg, _, err := f.Offline(q.Dst.Addr())
	if err != nil {
		return ExplainView{}, err
	}
	e, err := cfg.ExplainPacket(q)
	if err != nil {
		return ExplainView{}, err
	}
	v := Explained(&q, &e)
	f.leaveOutUnknown(&v)
	return v, nil
}

// leaveOutUnknown takes out of an offline explanation what the file does not say: MACs that were made up for it, and the use
// of a table that is not there.
func (f *File) leaveOutUnknown(v *ExplainView) {
	v.Offline = true
	v.Quotas = slices.DeleteFunc(v.Quotas, func(q QuotaView) bool { return q.Name == "table" })
	for _, r := range []*RewriteView{v.ToServer, v.ToClient} {
		if r != nil && !slices.ContainsFunc(f.Neighbours, func(n Neighbour) bool { return n.MAC.String() == r.NextHop }) {
			r.NextHop = ""
		}
	}
}
