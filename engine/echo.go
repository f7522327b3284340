package engine

import (
	"sluice/flow"
	"sluice/rewrite"
)

// Echo is who answers echo requests (ping) to a virtual address. A virtual server for ICMP goes before it.
type Echo uint8

// The settings of Echo.
const (
	EchoKernel  Echo = iota // the host, whose address it must be
	EchoEngine              // we, whoever has the address
	EchoOff                 // nobody
	EchoWhileUp             // we, as long as a virtual server of the address has a usable member
)

// echo is what becomes of echo requests to one address.
type echo struct {
	answer Echo
	pools  []*pool // of the address's virtual servers, for EchoWhileUp
}

// compileEchoes makes the list that the entries of virtual addresses point into, by its index plus one. EchoKernel has no
// entry: the XDP program leaves such requests alone, and one that comes all the same is the kernel's.
func (c *Config) compileEchoes() {
	for i := range c.virtuals {
		v := &c.virtuals[i]
		if !v.exists || v.Echo == EchoKernel || v.Mode.Transparent() {
			continue
		}
		for _, d := range v.All() {
			if !d.IsAddress() {
				continue
			}
			s := c.services.slot(flow.AddrFrom(d.Prefix.Addr()), 0)
			if s.echo == 0 {
				c.echoes = append(c.echoes, echo{answer: v.Echo})
				s.echo = uint32(len(c.echoes))
			}
			e := &c.echoes[s.echo-1]
			e.pools = append(e.pools, v.pool)
		}
	}
}

// echo is what the configuration says of echo requests to an address, nil for nothing.
func (c *Config) echo(a flow.Addr) *echo {
	if id := c.services.slot(a, 0).echo; id != 0 {
		return &c.echoes[id-1]
	}
	return nil
}

// judgeEcho decides on packet i, ICMP to a virtual address that has no virtual server for it: an echo request is answered, or
// dropped, as the address's setting says; what else there is, is the kernel's.
func (w *worker) judgeEcho(i int) judgement {
	k := &w.keys[i]
	e := w.cfg.echo(k.Dst)
	switch {
	case e == nil || !rewrite.IsEchoRequest(w.packet(i), &w.pkts[i]):
		return judgement{sentence: sentenceHost}
	case noSource(k.Src) || w.sourceMAC(i)[0]&1 != 0 || w.cfg.isOurs(k.Src):
		return dropped(BadSource)
	case !w.echoes(e):
		return dropped(EchoRefused)
	}
	return judgement{sentence: sentenceEcho}
}

// echo answers packet i, an echo request.
func (w *worker) echo(i int) {
	p, d := &w.pkts[i], w.descs[i]
	b := w.region.Packet(d)
	switch {
	case !w.sentEchoes.take(w.now, w.cfg.icmpRate):
		w.drop(d, EchoRate)
	case rewrite.IsPart(b, p): // the kernel puts it together
		w.toHost(d)
	default:
		n := rewrite.AnswerEcho(b, p)
		if n == 0 {
			w.drop(d, BadSource)
			return
		}
		d = w.resized(d, p, n)
		w.stats.Echoes++
		w.stats.Answered++
		w.send(int(w.ports[i]), d)
	}
}

// echoes reports whether requests are answered now.
func (w *worker) echoes(e *echo) bool {
	switch e.answer {
	case EchoOff:
		return false
	case EchoWhileUp:
		for _, p := range e.pools {
			if w.runtime.choice.serves(p) {
				return true
			}
		}
		return false
	}
	return true
}

// serves reports whether a pool, or one that it falls back to, has a usable member.
func (c *choice) serves(p *pool) bool {
	for ; p != nil; p = p.fallback {
		for i := range c.pools[p.index].groups {
			if c.pools[p.index].groups[i].count > 0 {
				return true
			}
		}
	}
	return false
}

// partToHost reports whether a later part of an ICMP message to a virtual address goes to the kernel, as its first part did.
func (w *worker) partToHost(k *flow.Key) bool { return isICMP(k.Proto) && w.cfg.echo(k.Dst) != nil }
