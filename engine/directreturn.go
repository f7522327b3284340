package engine

import (
	"fmt"
	"slices"

	"sluice/flow"
	"sluice/rewrite"
	"sluice/rings"
)

// Direct return: the member has the virtual address itself, on a loopback, and answers the client past us.
//
//	client ── C > V ──▶ us ── C > V, to the member's MAC ──▶ member
//	client ◀──────────── V > C, any way ────────────────── member
//
// The connection is one-sided: what is known of it is what the client sends. Of TCP that is enough to tell its states (see
// flow.TrackClient). Of protocols without a handshake a second packet of the client is taken for a sign that the member
// answers; until then the connection is half open, that is, the first to give way, but has its whole idle time. Nothing is
// concluded from answers that do not come.

// kind is that of the records of connections.
func (m Mode) kind() (k flow.Kind, oneSided bool) {
	switch {
	case m == DirectReturn:
		return flow.Routed, true
	case m.Transparent():
		return flow.Routed, false
	case m == Tunnel:
		return flow.Tunnelled, true
	}
	return flow.Translated, false
}

// translates reports whether the mode changes addresses.
func (m Mode) translates() bool {
	k, _ := m.kind()
	return k == flow.Translated
}

// checkUntranslated refuses what makes no sense where addresses stay.
func (v *virtual) checkUntranslated() error {
	switch {
	case v.Mode.translates():
		return nil
	case v.Mode.Transparent():
		return v.checkTransparent()
	case v.SNAT != "":
		return fmt.Errorf("virtual server %s: no SNAT without translation", v.Name)
	case v.withoutEntry():
		return fmt.Errorf("virtual server %s: this mode needs an entry in the table for every connection", v.Name)
	}
	var err error
	v.pool.eachServing(func(m *member) {
		if m.Port != 0 && slices.ContainsFunc(v.All(), func(d Destination) bool { return d.Ports != flow.PortRange{First: m.Port, Last: m.Port} }) {
			err = fmt.Errorf("virtual server %s: member %s has port %d, and ports stay as they are in this mode", v.Name, m.Name, m.Port)
		}
	})
	return err
}

// followClient is follow for a connection whose answers bypass us.
func (w *worker) followClient(rec *flow.Record, ref flow.Ref, p *rewrite.Packet, d rings.Desc) bool {
	if ref.Side() == flow.FromServer {
		return true // one that came this way after all
	}
	switch p.Proto {
	case flow.TCP:
		if p.TCP.Flags&flow.FlagSYN != 0 {
			w.clampMSS(rec, p, d)
		}
		return w.judged(rec, ref, rec.TrackClient(&p.TCP))
	case flow.SCTP:
		return w.judged(rec, ref, rec.TrackSCTPClient(&p.SCTP))
	}
	if rec.HalfOpen() {
		w.settle(rec, ref)
	}
	return true
}
