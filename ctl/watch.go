package ctl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// settle is how long the kernel's tables must be quiet before they are read again: changes come in bunches.
const settle = 20 * time.Millisecond

// lookAgainAfter is when they are read again without a change, because something could not be done yet.
const lookAgainAfter = time.Second

// watch keeps the engine in step with the kernel until ctx ends: addresses, routes, neighbours and links are read
// again after each change, and the engine and the programs get what differs.
func (s *Server) watch(ctx context.Context) error {
	changed, err := subscribe(ctx, s.log)
	if err != nil {
		return err
	}
	s.turned = time.Now()
	turn := time.NewTimer(beatInterval)
	defer turn.Stop()
	var quiet <-chan time.Time
	// What changed before we listened is seen by looking once now, and what a lost message told by looking at times.
	quiet = time.After(settle)
	periodic := time.NewTicker(30 * time.Second)
	defer periodic.Stop()
	for {
		// While workers are scaled, nothing else changes the engine's configuration.
		requests := s.requests
		if s.scaling != nil {
			requests = nil
		}
		turn.Reset(s.untilTurn(time.Now()))
		select {
		case <-ctx.Done():
			if s.scaling != nil {
				s.seat(<-s.scaling)
			}
			return nil
		case outcome := <-s.scaling:
			s.seat(outcome)
			quiet = time.After(0)
		case <-turn.C:
			s.turned = time.Now()
			s.beat()
			s.health.orderDeadlines(time.Now())
			s.resolveWanted(ctx)
			s.tellPartial()
			s.tellJumbo()
			if len(s.due) > 0 {
				s.announceDue()
			}
			if gone, err := s.drained(ctx); err == nil && gone && quiet == nil {
				s.forget()
				quiet = time.After(0)
			}
		case f := <-requests:
			f(ctx)
			if s.successor != 0 {
				return nil
			}
		case <-s.health.moved:
			s.followDown()
		case <-changed:
			if quiet == nil {
				quiet = time.After(settle)
			}
		case <-periodic.C:
			s.forgetNear(ctx)
			quiet = time.After(0)
		case <-quiet:
			quiet = nil
			if s.scaling != nil {
				continue // its end will look again
			}
			if err := s.reconcile(ctx); err != nil {
				s.log.Warn("the kernel's tables could not be followed; the last ones stay in force", "error", err)
			}
			if s.resteer {
				s.resteer = false
				s.mu.Lock()
				s.steered = nil
				s.mu.Unlock()
				s.steer(s.engine.Config())
			}
			if s.lookAgain {
				s.lookAgain, quiet = false, time.After(lookAgainAfter)
			}
		}
	}
}

// subscribe listens to the kernel's tables. The channel holds one note at most: it says that, not what.
func subscribe(ctx context.Context, log *slog.Logger) (<-chan struct{}, error) {
	changed := make(chan struct{}, 1)
	note := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	addrs, routes := make(chan netlink.AddrUpdate, 16), make(chan netlink.RouteUpdate, 16)
	neighs, links := make(chan netlink.NeighUpdate, 16), make(chan netlink.LinkUpdate, 16)
	// A socket whose buffer overran ends its subscription; the periodic look is what remains, so only say so.
	if err := netlink.AddrSubscribe(addrs, ctx.Done()); err != nil {
		return nil, fmt.Errorf("listen for addresses: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		return nil, fmt.Errorf("listen for routes: %w", err)
	}
	if err := netlink.NeighSubscribe(neighs, ctx.Done()); err != nil {
		return nil, fmt.Errorf("listen for neighbours: %w", err)
	}
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return nil, fmt.Errorf("listen for links: %w", err)
	}
	if err := subscribeQueues(ctx, note); err != nil {
		log.Warn("changes of the number of queues are noticed late", "reason", err)
	}
	forward(addrs, note)
	forward(routes, note)
	forward(neighs, note)
	forward(links, note)
	return changed, nil
}

func forward[T any](in <-chan T, note func()) {
	go func() {
		for range in {
			note()
		}
	}()
}

// reconcile reads the kernel's tables and applies what differs from what is in force. What is wrong with one member, port
// or address does not keep the others from being followed.
func (s *Server) reconcile(ctx context.Context) error {
	s.followLinks()
	s.followPorts(ctx)
	s.followVLANs()
	s.followRoutes()
	s.keepPlaced()
	hops, old := s.lastHops, s.lastRules
	cfg, rules, err := s.compile(s.plan.workers)
	if err != nil {
		return err
	}
	s.tellHops()
	if s.lastHops != hops {
		took, err := s.engine.Apply(ctx, cfg)
		if err != nil {
			s.lastHops = "" // try again
			return err
		}
		s.log.Info("next hops changed", "generation", cfg.Generation, "applied_in", took)
	}
	if !slices.Equal(s.lastRules, old) {
		for i, p := range s.programs {
			if err := p.SetRules(rules[i]); err != nil {
				s.lastRules = nil // try again
				return fmt.Errorf("port %s: %w", s.file.Ports[i].Name, err)
			}
		}
	}
	return nil
}

// tellHops says which members have lost their next hop, and which have one again. It is quiet about those behind a port
// without a link and those without a route: that was said.
func (s *Server) tellHops() {
	s.noteLost()
	var lost, back []netip.Addr
	if s.told == nil { // an order may come before the first look at the ports, as just after a takeover
		s.told = map[netip.Addr]bool{}
	}
	for a, h := range s.hops {
		before, known := s.told[a]
		switch {
		case !h.OK && (s.ways[a].gone || s.linkState(h.Port) != "up"):
			continue
		case known && before && !h.OK:
			lost = append(lost, a)
		case known && !before && h.OK:
			back = append(back, a)
		}
		s.told[a] = h.OK
	}
	for a := range s.told {
		if _, ok := s.hops[a]; !ok {
			delete(s.told, a)
		}
	}
	slices.SortFunc(lost, netip.Addr.Compare)
	slices.SortFunc(back, netip.Addr.Compare)
	if len(lost) > 0 {
		s.log.Warn("members have lost their next hop: they take no connections until it answers", "members", lost)
	}
	if len(back) > 0 {
		s.log.Info("members have their next hop again", "members", back)
	}
}

// forget has what has drained taken out of the engine, the programs and the kernel by the next reconciliation.
func (s *Server) forget() {
	s.lastHops = ""
	if err := errors.Join(s.resolveHops(), s.placeAddresses()); err != nil {
		s.log.Warn("what has drained could not be taken out of the kernel", "error", err)
	}
}

// followRoutes takes over where routes lead now. A member that has lost its route keeps its place and takes nothing.
func (s *Server) followRoutes() {
	for _, a := range s.file.memberAddrs() {
		old, known := s.ways[a]
		if !known {
			continue // a static neighbour
		}
		w, err := route(a, s.reach())
		if err != nil {
			w = old
			w.gone = true
		}
		if w == old {
			continue
		}
		if err != nil {
			s.log.Warn("a member cannot be reached: it takes no connections until there is a route", "member", a, "reason", err)
		} else if old.gone {
			s.log.Info("a member can be reached again", "member", a)
		}
		s.ways[a] = w
	}
}

// keepPlaced puts managed virtual addresses back that somebody, or a link that went down, has taken off.
func (s *Server) keepPlaced() {
	for p := range s.placed {
		added, err := s.state.placeAddress(p)
		if added {
			s.log.Warn("a virtual address had gone from its interface and was put back", "address", p.Address)
			if err := announce(p.Index, p.MAC, p.Address); err != nil {
				s.log.Warn("virtual address not announced", "address", p.Address, "error", err)
			}
		}
		if what := fmt.Sprint(err); err != nil && s.complaints[p.Address.String()] != what {
			s.complain(p.Address.String(), what)
			s.log.Warn("a virtual address cannot be put back", "address", p.Address, "error", err)
		} else if err == nil {
			delete(s.complaints, p.Address.String())
		}
	}
}

// complain remembers what was said about a subject, so that it is said once.
func (s *Server) complain(subject, what string) {
	if s.complaints == nil {
		s.complaints = map[string]string{}
	}
	s.complaints[subject] = what
}
