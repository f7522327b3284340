package ctl

import "time"

// An idle sluice is to leave the machine alone: every timer that ends wakes two or three threads of Go's. So what has to be looked at now and then
// has one turn, and what is due at a known time makes the next one come earlier.
//
//	the heartbeat, what workers have noted for the log      beatInterval; rarer than the tenth of the least hold time it must not be
//	a drain's deadline, an announcement                     at its time
//	neighbours that workers want (modes that route)         wantedInterval: packets wait for them
//	what drains                                             a second (draining.go)
//
// The samples of what workers did (rates.go) are taken at a turn too, by a goroutine of their own, since they wait for answers.

// wantedInterval is the longest that a packet's neighbour waits for being asked for.
const wantedInterval = 100 * time.Millisecond

// untilMultiple is the time until the next multiple of every since began, so that what is due together wakes threads once.
func untilMultiple(began, now time.Time, every time.Duration) time.Duration {
	return every - now.Sub(began)%every
}

// untilTurn is the time until the next turn of watch.
func (s *Server) untilTurn(now time.Time) time.Duration {
	wait := s.turned.Add(untilMultiple(s.began, s.turned, beatInterval)).Sub(now) // 0 or less: it has been due for that long
	if s.file.isByRoute() {
		wait = min(wait, s.turned.Add(wantedInterval).Sub(now))
	}
	for _, a := range s.due {
		wait = min(wait, a.at.Sub(now))
	}
	if deadline, ok := s.health.nextDeadline(); ok {
		wait = min(wait, deadline.Sub(now))
	}
	return max(0, wait)
}

// nextDeadline is the earliest deadline of a drain that is not over.
func (h *health) nextDeadline() (earliest time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.orders == nil {
		return earliest, false
	}
	for k, o := range h.orders.list {
		if h.members[k] == nil || o.Over || o.Deadline.IsZero() {
			continue // as orderDeadlines has it
		}
		if !ok || o.Deadline.Before(earliest) {
			earliest, ok = o.Deadline, true
		}
	}
	return earliest, ok
}
