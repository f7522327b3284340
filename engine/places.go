package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// A connection takes a place with its member and with its virtual server, which limits and the counting schedulers go by, from its
// first packet until it is closed: not until its record goes, which stays for the tcp-closed time to deal with what comes late. So
// there is one rule, which needs no memory: a record has its places while it is not Closed. Who makes a record closed gives them back
// (judged), who removes one that is not does so as well (release), and whoever finds records elsewhere counts those that are not
// (adopt, takeOver). The state is in the record, so that the rule outlives the process.

// holds reports whether a connection has its places.
func holds(r *flow.Record) bool { return !r.Closed() }

// vacate gives the places of a connection back that has just been closed.
func (w *worker) vacate(r *flow.Record) { w.runtime.counts.add(r, -1) }

// mayReopen reports whether a packet from the server, to a connection that is closed, may be handled. Nearly all leave it closed. One
// that begins it anew, as the answer to a SYN of the client's that was noted before, is not admitted by schedule: it takes the places
// here, and if there are none it is dropped, so that the client asks again, for any member.
func (w *worker) mayReopen(rec *flow.Record, p *rewrite.Packet) (Reason, bool) {
	after := *rec
	switch p.Proto {
	case flow.TCP:
		after.TrackTCP(flow.FromServer, &p.TCP)
	case flow.SCTP:
		after.TrackSCTP(flow.FromServer, &p.SCTP)
	}
	if after.Closed() {
		return 0, true
	}
	member, virtual := w.limitsOf(rec)
	counts := &w.runtime.counts
	if !counts.virtuals[rec.VS].reserve(virtual, 0, w.now) {
		return VirtualLimit, false
	}
	if !counts.nodes[rec.Node].reserve(member, 0, w.now) {
		counts.virtuals[rec.VS].active.Add(-1)
		return MemberLimit, false
	}
	return 0, true
}

// limitsOf are the connection limits of a connection's member and virtual server; 0 is none, as of those that a reload has removed.
func (w *worker) limitsOf(rec *flow.Record) (member, virtual int64) {
	if at := w.cfg.places; int(rec.Node) < len(at) && at[rec.Node].exists {
		p := at[rec.Node]
		member = int64(w.cfg.pools[p.pool].groups[p.group].members[p.member].Limit)
	}
	if int(rec.VS) < len(w.cfg.virtuals) && w.cfg.virtuals[rec.VS].exists {
		virtual = int64(w.cfg.virtuals[rec.VS].Limit)
	}
	return member, virtual
}
