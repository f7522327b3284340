package ctl

import (
	"fmt"
	"maps"
	"net/netip"
	"strings"
	"time"

	"sluice/ctl/monitor"
	"sluice/engine"
)

// The states of a virtual server.
const (
	VirtualUp       = "up"
	VirtualDown     = "down"     // no member of its pool takes connections, nor of those that stand in for it
	VirtualDisabled = "disabled" // by an operator
)

// isWithdrawn reports whether all of v's addresses and prefixes are withdrawn.
func (s *Server) isWithdrawn(v *VirtualServer) bool {
	for _, d := range v.Destinations {
		if !s.withdrawn[reach{d.Prefix, v.Port}] {
			return false
		}
	}
	return len(s.withdrawn) > 0 && len(v.Destinations) > 0
}

// virtualStates fills in the states of the virtual servers that out lists, since when they are so, and why.
func (s *Server) virtualStates(out []VirtualView) {
	h := s.health
	if h == nil {
		return // of a replay
	}
	byName := map[string]*VirtualServer{}
	for i := range s.file.VirtualServers {
		byName[s.file.VirtualServers[i].Name] = &s.file.VirtualServers[i]
	}
	members := map[memberKey]*engine.MemberInfo{}
	for _, p := range s.engine.Config().Pools() {
		for i := range p.Members {
			members[memberKey{p.Name, p.Members[i].Name}] = &p.Members[i]
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range out {
		v, view := byName[out[i].Name], &out[i]
		if v == nil {
			continue // a configuration that is being changed
		}
		view.State, view.Withdrawn = VirtualUp, s.isWithdrawn(v)
		if at, ok := h.orders.disabled(v.Name); ok {
			view.State, view.Since, view.Cause = VirtualDisabled, at.UTC().Format(time.RFC3339), "ordered: "+OrderDisable
		} else if since, cause := s.down(v, members); cause != "" {
			view.State, view.Since, view.Cause = VirtualDown, since.UTC().Format(time.RFC3339), cause
		}
	}
}

// shownCauses is how many members a virtual server's cause names.
const shownCauses = 3

// down is since when no member takes connections of v, and what keeps each out; no cause if one does, or if v needs none. The
// caller has the lock of health.
func (s *Server) down(v *VirtualServer, members map[memberKey]*engine.MemberInfo) (since time.Time, cause string) {
	var causes []string
	out, usable := 0, false
	s.file.eachServing(v, func(p *Pool) {
		for i := range p.Members {
			if usable {
				return
			}
			k := memberKey{p.Name, p.Members[i].Name}
			at, why := s.out(k, members[k])
			if why == "" {
				usable = true
				return
			}
			// The last that went took the virtual server along.
			if out++; at.After(since) {
				since = at
			}
			name := k.member
			if p.Name != v.Pool {
				name = k.pool + "/" + name
			}
			if len(causes) < shownCauses {
				causes = append(causes, name+": "+why)
			}
		}
	})
	if usable || out == 0 {
		return time.Time{}, ""
	}
	if more := out - len(causes); more > 0 {
		causes = append(causes, fmt.Sprintf("%d more: sluice member", more))
	}
	return since, strings.Join(causes, "; ")
}

// out is since when a member takes no new connections, and why; nothing if it does. What is not known to have begun has
// done so with the engine.
func (s *Server) out(k memberKey, m *engine.MemberInfo) (since time.Time, why string) {
	note := func(at time.Time, text string) {
		if why == "" {
			why = text
		}
		if since.IsZero() || at.Before(since) {
			since = at
		}
	}
	state := s.health.members[k]
	if state != nil && state.order != nil {
		note(state.order.At, "ordered: "+state.order.Action)
	}
	if m != nil && !m.Hop.OK {
		note(s.lostSince(m.Addr))
	}
	if state != nil && state.verdict != monitor.Up {
		note(state.since, state.verdict.String()+", "+state.cause)
	}
	if m != nil && m.Weight == 0 {
		at := s.began
		if w := s.health.orders.weight(k); w != nil {
			at = w.At
		}
		note(at, "weight 0")
	}
	return since, why
}

// lostHop is a member's next hop that does not answer.
type lostHop struct {
	at  time.Time
	why string
}

// noteLost notes which members have no next hop, for those who ask. The goroutine of watch calls it.
func (s *Server) noteLost() {
	now := map[netip.Addr]lostHop{}
	for a, h := range s.hops {
		if h.OK {
			continue
		}
		l, known := s.lost[a]
		if !known {
			l.at = time.Now()
		}
		switch w := s.ways[a]; {
		case w.gone:
			l.why = "no route"
		case s.linkState(h.Port) != "up":
			l.why = fmt.Sprintf("port %s is %s", s.file.portName(h.Port), s.linkState(h.Port))
		case w.via.IsValid() && w.via != a:
			l.why = fmt.Sprintf("gateway %s does not answer", w.via)
		default:
			l.why = "its address does not answer"
		}
		now[a] = l
	}
	if !maps.Equal(now, s.lost) {
		s.mu.Lock()
		s.lost = now
		s.mu.Unlock()
	}
}

// lostSince is since when a member has no next hop, and why. What has not been noted yet is so from the beginning.
func (s *Server) lostSince(a netip.Addr) (time.Time, string) {
	if l, known := s.lost[a]; known {
		return l.at, l.why
	}
	return s.began, "its address does not answer"
}

// slowStartLeft is how long a member still takes part with a growing share, in milliseconds.
func (s *Server) slowStartLeft(p *Pool, m *engine.MemberInfo) int64 {
	if s.engine == nil || m.State.Since == 0 || p.SlowStart == 0 {
		return 0
	}
	return max(0, int64(m.State.Since)+p.SlowStart.Milliseconds()-int64(s.engine.Now()))
}
