package ctl

import (
	"context"
	"fmt"
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
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			beats = s.beat(beats)
		case <-changed:
			if quiet == nil {
				quiet = time.After(settle)
			}
		case <-periodic.C:
			quiet = time.After(0)
		case <-quiet:
			quiet = nil
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

// reconcile reads the kernel's tables and applies what differs from what is in force.
func (s *Server) reconcile(ctx context.Context) error {
	ways, err := s.file.ways(s.ifaces[:len(s.file.Ports)])
	if err != nil {
		return err
	}
	var fresh []placedNeighbour
	for a, w := range ways {
		if s.ways[a] != w {
			fresh = append(fresh, placedNeighbour{s.ifaces[w.port].index, w.via})
		}
	}
	s.ways = ways
	if len(fresh) > 0 {
		if err := s.state.manageNeighbours(fresh); err != nil {
			return err
		}
	}
	hops, old := s.lastHops, s.lastRules
	cfg, rules, err := s.compile()
	if err != nil {
		return err
	}
	if s.lastHops != hops {
		took, err := s.engine.Apply(ctx, cfg)
		if err != nil {
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
