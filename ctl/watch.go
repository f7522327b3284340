package ctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
)

// settle is how long the kernel's tables must be quiet before they are read again: changes come in bunches.
const settle = 20 * time.Millisecond

// watch keeps the engine in step with the kernel until ctx ends: addresses, routes, neighbours and links are read
// again after each change, and the engine and the programs get what differs.
func (s *Server) watch(ctx context.Context) error {
	changed, err := subscribe(ctx)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	var beats []uint64
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
		select {
		case <-ctx.Done():
			if s.scaling != nil {
				s.seat(<-s.scaling)
			}
			return nil
		case outcome := <-s.scaling:
			s.seat(outcome)
			quiet = time.After(0)
		case <-ticker.C:
			beats = s.beat(beats)
			s.health.orderDeadlines(time.Now())
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
		case <-changed:
			if quiet == nil {
				quiet = time.After(settle)
			}
		case <-periodic.C:
			quiet = time.After(0)
		case <-quiet:
			quiet = nil
			if s.scaling != nil {
				continue // its end will look again
			}
			if err := s.reconcile(ctx); err != nil {
				s.log.Warn("the kernel's tables could not be followed; the last ones stay in force", "error", err)
			}
		}
	}
}

// subscribe listens to the kernel's tables. The channel holds one note at most: it says that, not what.
func subscribe(ctx context.Context) (<-chan struct{}, error) {
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
	s.followRoutes()
	s.keepPlaced()
	hops, old := s.lastHops, s.lastRules
	cfg, rules, err := s.compile(s.plan.workers)
	if err != nil {
		return err
	}
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
		w, err := route(a, s.ifaces[:len(s.file.Ports)])
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

// followLinks notes which ports are up, and says so once when that changes.
func (s *Server) followLinks() {
	now := make([]string, len(s.file.Ports))
	before := s.links.Load()
	for i := range now {
		now[i] = linkState(&s.ifaces[i])
		if before != nil && (*before)[i] != now[i] {
			s.log.Warn("a port has changed", "port", s.file.Ports[i].Name, "interface", s.ifaces[i].name, "state", now[i])
		}
	}
	s.links.Store(&now)
}

// linkState is up, down, no carrier, or gone; another interface of the same name is not the one that was opened.
func linkState(f *iface) string {
	l, err := netlink.LinkByIndex(f.index)
	switch {
	case err != nil:
		return "gone"
	case l.Attrs().Flags&net.FlagUp == 0:
		return "down"
	case l.Attrs().OperState == netlink.OperDown || l.Attrs().OperState == netlink.OperLowerLayerDown:
		return "no carrier"
	}
	return "up"
}
