package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// sentence is what becomes of a packet that belongs to no connection.
type sentence uint8

const (
	sentenceDrop      sentence = iota // why says the reason; a router's answer may be due (dropOr)
	sentenceHost                      // to the kernel
	sentenceConnect                   // it begins a connection to virtual server id
	sentenceAdopt                     // a connection to virtual server id is taken over in its middle
	sentenceOne                       // to a member of virtual server id, without an entry
	sentenceAnswer                    // a member's answer to such a packet
	sentenceEcho                      // it is answered as a ping
	sentenceReset                     // it is answered with a RST
	sentenceUnmatched                 // it is answered as by a host where nobody listens
)

// judgement is a sentence with what belongs to it.
type judgement struct {
	sentence sentence
	why      Reason
	id       uint32
	answer   *service
}

func dropped(why Reason) judgement { return judgement{sentence: sentenceDrop, why: why} }

// judge decides on packet i, which belongs to no connection. It changes nothing: explain asks it as well.
func (w *worker) judge(i int) judgement {
	k, p := &w.keys[i], &w.pkts[i]
	id := w.cfg.find(k, w.ports[i])
	if id == 0 {
		id = w.learned(i)
	}
	if id == 0 {
		if virtual, rest := w.cfg.covered(k, w.ports[i]); virtual && isICMP(k.Proto) {
			return w.judgeEcho(i)
		} else if virtual && rest == UnmatchedReset {
			return w.judgeUnmatched(i)
		} else if virtual && rest == UnmatchedDrop {
			return dropped(NoVirtualServer)
		} else if w.cfg.inSNATRange(k) {
			return dropped(NoConnection)
		} else if a := w.answered(k); a != nil {
			return judgement{sentence: sentenceAnswer, answer: a}
		}
		return judgement{sentence: sentenceHost}
	}
	j := judgement{id: id}
	v := &w.cfg.virtuals[id]
	switch {
	case p.TTL <= 1:
		j.why = TTLExpired
		return j
	case noSource(k.Src) || w.sourceMAC(i)[0]&1 != 0 || w.cfg.isOurs(k.Src):
		j.why = BadSource
		return j
	case !hasPorts(k.Proto) && v.Mode.translates() && (rewrite.CanTranslate(p, false, false) != rewrite.Done || v.Mode == FullNAT && !isICMP(k.Proto)):
		j.why = Untranslatable
		return j
	case v.OnePacket:
		if why, ok := v.admits(k.Src); !ok {
			j.why = why
			return j
		}
		j.sentence = sentenceOne
		return j
	case v.Mode.Transparent() && !w.hasWay(i, v):
		j.sentence = sentenceHost
		return j
	case begins(p):
		j.sentence = sentenceConnect
		return j
	}
	switch {
	case v.Stateless && k.Proto == flow.TCP && p.TCP.Flags&flow.FlagRST != 0:
		j.sentence = sentenceOne
	case v.Stateless && k.Proto == flow.TCP: // may have begun when the table was full
		j.sentence = sentenceAdopt
	case isICMP(k.Proto): // errors and the like are the address's own
		j.sentence = sentenceHost
	case k.Proto != flow.TCP: // out of the blue (RFC 9260 section 8.4)
		j.why = NoConnection
	case v.MidStream == MidStreamReset && p.TCP.Flags&flow.FlagRST == 0:
		j.sentence = sentenceReset
	case v.MidStream != MidStreamAdopt || p.TCP.Flags&flow.FlagRST != 0:
		j.why = NoConnection
	default:
		j.sentence = sentenceAdopt
	}
	return j
}

// resets reports whether packet i, for which there is no connection to be had, is answered with a RST.
func (w *worker) resets(i int, v *virtual, why Reason) bool {
	switch why {
	case NoMember, MemberLimit, VirtualLimit, NoNeighbour, SNATExhausted, PersistenceRefused, VirtualDisabled, SourceRate:
		reset := v.ResetRefused || (why == NoMember || why == NoNeighbour) && w.runtime.choice.pool.allDown == AllDownReset
		return reset && w.keys[i].Proto == flow.TCP && w.pkts[i].TCP.Flags&flow.FlagRST == 0
	}
	return false
}

// sourceMAC is where packet i comes from on its link.
func (w *worker) sourceMAC(i int) [6]byte {
	if p := w.runtime.peek; p != nil {
		return p.mac
	}
	return rewrite.SourceMAC(w.region.Packet(w.descs[i]))
}

// packet is the bytes of packet i.
func (w *worker) packet(i int) []byte {
	if p := w.runtime.peek; p != nil {
		return p.frame
	}
	return w.region.Packet(w.descs[i])
}
