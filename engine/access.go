package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"

	"sluice/flow"
)

// Who may open connections to a virtual server, and how many a second. All of it is asked for new connections only.

// access is what sources may open connections: the longest prefix that holds the source decides.
type access struct {
	prefixes networks // what is unmatched in those that are denied is the host's, as a mark
	others   bool     // what is in no prefix may
}

// compileAccess makes the table of a virtual server's source prefixes, nil where it has none.
func (v *VirtualSpec) compileAccess() (*access, error) {
	if len(v.Allow)+len(v.Deny) == 0 {
		return nil, nil
	}
	a := &access{others: len(v.Allow) == 0}
	for denied, list := range map[bool][]netip.Prefix{false: v.Allow, true: v.Deny} {
		mark := UnmatchedDrop
		if denied {
			mark = UnmatchedHost
		}
		for _, p := range list {
			if !p.IsValid() || denied && slices.Contains(v.Allow, p) {
				return nil, fmt.Errorf("virtual server %s: source prefix %s is no prefix, or both allowed and denied", v.Name, p)
			}
			a.prefixes.add(flow.AddrFrom(p.Addr()), prefixBits(p), 0, span{}, mark)
		}
	}
	return a, a.prefixes.sort()
}

func (a *access) permits(source flow.Addr) bool {
	if n := a.prefixes.longest(source, 0); n != nil {
		return n.unmatched != UnmatchedHost
	}
	return a.others
}

// admits reports whether a source may open a connection to a virtual server at all.
func (v *virtual) admits(source flow.Addr) (Reason, bool) {
	switch {
	case v.shared.state.Load() == virtualDisabled:
		return VirtualDisabled, false
	case v.access != nil && !v.access.permits(source):
		return SourceDenied, false
	}
	return 0, true
}

// virtualDisabled is the shared state of a virtual server that takes no new connections.
const virtualDisabled = 1

func (s *shared) disable(disabled bool) {
	if disabled {
		s.state.Store(virtualDisabled)
	} else {
		s.state.Store(0)
	}
}

// SetVirtual has a virtual server, by its id, take no new connections, or take them again. The next packet of every worker
// goes by it.
func (e *Engine) SetVirtual(id uint32, disabled bool) error {
	cfg := e.Config()
	if int(id) >= len(cfg.virtuals) || !cfg.virtuals[id].exists {
		return fmt.Errorf("there is no virtual server with the id %d", id)
	}
	cfg.virtuals[id].shared.disable(disabled)
	return nil
}

// sourceRates counts the new connections of source prefixes in the second that passes, over all workers: exactly for up to
// 65,536 prefixes, as long as no more than 8 fall on one cache line. What finds its line full of others is let through: the table
// is bounded, and whoever fills it must not shut out anybody else.
type sourceRates struct {
	lines [sourceLines][8]atomic.Uint64 // tag, second, count: tagBits, secondBits and countBits of them
}

const (
	sourceLines = 1 << 13
	tagBits     = 24
	secondBits  = 20
	countBits   = 20

	// MaxSourceRate is the largest SourceRate of a virtual server.
	MaxSourceRate = 1<<countBits - 1
)

// take counts a connection of the prefix that hash stands for, unless it has had limit in the second of now, which is in
// milliseconds.
func (s *sourceRates) take(hash uint64, limit uint32, now uint64) bool {
	line := &s.lines[hash&(sourceLines-1)]
	tag := hash >> (64 - tagBits) << (secondBits + countBits)
	second := now / 1000 & (1<<secondBits - 1)
again:
	free := -1
	for i := range line {
		old := line[i].Load()
		// A worker whose clock is a moment ahead may have begun the next second.
		if ahead := (old>>countBits - second) & (1<<secondBits - 1); ahead > 1 || old == 0 {
			if free < 0 {
				free = i
			}
			continue
		}
		if old>>(secondBits+countBits)<<(secondBits+countBits) != tag {
			continue
		}
		if uint32(old&(1<<countBits-1)) >= limit {
			return false
		}
		if !line[i].CompareAndSwap(old, old+1) {
			goto again
		}
		return true
	}
	if free >= 0 {
		old := line[free].Load()
		if ahead := (old>>countBits - second) & (1<<secondBits - 1); ahead <= 1 && old != 0 || !line[free].CompareAndSwap(old, tag|second<<countBits|1) {
			goto again
		}
	}
	return true
}

// allows reports whether take would.
func (s *sourceRates) allows(hash uint64, limit uint32, now uint64) bool {
	tag, second := hash>>(64-tagBits), now/1000&(1<<secondBits-1)
	line := &s.lines[hash&(sourceLines-1)]
	for i := range line {
		old := line[i].Load()
		if ahead := (old>>countBits - second) & (1<<secondBits - 1); ahead <= 1 && old != 0 && old>>(secondBits+countBits) == tag {
			return uint32(old&(1<<countBits-1)) < limit
		}
	}
	return true
}

// takeSource counts a new connection from a source to a virtual server, unless its prefix has had as many as it may.
func (w *worker) takeSource(v *virtual, id uint32, source flow.Addr) bool {
	hash := w.runtime.secret.Hash(&flow.Key{Src: w.sourcePrefix(source), Ports: id})
	if w.runtime.peek != nil {
		return w.cfg.sourceRates.allows(hash, uint32(v.SourceRate), w.now)
	}
	return w.cfg.sourceRates.take(hash, uint32(v.SourceRate), w.now)
}
