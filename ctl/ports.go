package ctl

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"sluice/engine"
	"sluice/rings"
)

// A port outlives its interface. All of this runs in the goroutine of watch:
//
//	link down         what is to leave is dropped by name (port_down); sockets and program stay, and go on when it is up
//	interface gone    sockets closed, frames back, the pin of the program released; said once
//	it is there again and up, by its name
//	                  program, sockets, MAC, MTU, addresses and neighbours anew
//	more queues       a socket for each; a program with a larger socket map takes the place of the first in one step
//	fewer queues      the sockets beyond are closed. The kernel refuses that to ethtool while a socket is bound there, so it
//	                  is the driver's own doing
//
// Connections stay in the tables all the while.

// portPast is what the counters of a port were before its present sockets and program.
type portPast struct {
	queues  rings.QueueStats
	program rings.ProgramCounters
}

// followPorts opens and closes what has come and gone.
func (s *Server) followPorts(ctx context.Context) {
	if s.past == nil {
		s.mu.Lock()
		s.past, s.told = make([]portPast, len(s.file.Ports)), map[netip.Addr]bool{}
		s.mu.Unlock()
		for i := range s.file.Ports {
			s.planned += len(s.queues[i])
		}
	}
	for i := range s.file.Ports {
		var err error
		switch open, there := s.isOpen(i), s.linkState(i) != "gone"; {
		case open && !there:
			err = s.losePort(ctx, i)
		case !open:
			err = s.regainPort(ctx, i)
		default:
			err = s.refreshPort(ctx, i)
		}
		name := s.file.Ports[i].Name
		switch subject := "port " + name; {
		case err == nil:
			delete(s.complaints, subject)
		case s.complaints[subject] != err.Error():
			s.complain(subject, err.Error())
			s.log.Warn("a port could not be brought in step with its interface; it is tried again", "port", name, "error", err)
			s.lookAgain = true
		default:
			s.lookAgain = true
		}
	}
}

// isOpen reports whether a port has sockets, or will have them when the start has come that far.
func (s *Server) isOpen(i int) bool {
	i = s.file.physical(i)
	return i >= len(s.queues) || len(s.queues[i]) > 0
}

// isOpenInterface reports whether a port has sockets on the interface of that index.
func (s *Server) isOpenInterface(index int) bool {
	for i, f := range s.reach() {
		if f.index == index && index != 0 {
			return s.isOpen(i)
		}
	}
	return false
}

// losePort lets go of an interface that is gone.
func (s *Server) losePort(ctx context.Context, i int) error {
	unsent, err := s.setQueues(ctx, i, nil)
	err = errors.Join(err, s.programs[i].Detach())
	for p := range s.placed {
		if p.Index == s.ifaces[i].index {
			delete(s.placed, p)
		}
	}
	s.log.Warn("the interface of a port is gone; the port is opened again when there is one of that name and it is up",
		"port", s.file.Ports[i].Name, "interface", s.ifaces[i].name, "packets_lost", unsent)
	return err
}

// setQueues makes list the queues of a port, closes the others and returns how many packets were lost on their rings.
func (s *Server) setQueues(ctx context.Context, i int, list []openQueue) (unsent uint64, err error) {
	seats := make([][]engine.PortQueue, s.plan.workers)
	for q := range list {
		w := q % len(seats)
		seats[w] = append(seats[w], engine.PortQueue{Port: i, Number: q, Queue: list[q].Queue})
	}
	ctx, cancel := context.WithTimeout(ctx, applyTime)
	defer cancel()
	closed, err := s.engine.SetQueues(ctx, i, seats)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range closed {
		st := q.Stats()
		s.past[i].queues.Add(&st)
		unsent += st.TxLost
	}
	if err == nil || len(closed) > 0 {
		s.queues[i] = list
	}
	return unsent, err
}

// regainPort opens a port whose interface had gone, if there is one of its name that is up.
func (s *Server) regainPort(ctx context.Context, i int) (err error) {
	l, err := netlink.LinkByName(s.file.Ports[i].Interface)
	if err != nil || l.Attrs().Flags&net.FlagUp == 0 {
		return nil // not yet
	}
	start := time.Now()
	f, err := s.file.lookUp(i)
	if err != nil {
		return err
	}
	f.jumbo = f.jumbo && s.region.Chains()
	old := s.ifaces[i]
	s.rename(i, f)
	var list []openQueue
	var p *rings.Program
	defer func() {
		if err == nil {
			return
		}
		s.rename(i, old)
		if s.isOpen(i) {
			_, undo := s.setQueues(ctx, i, nil)
			err = errors.Join(err, undo)
		} else {
			err = errors.Join(err, closeQueues(s.region, list))
		}
		if p != nil {
			err = errors.Join(err, p.Close(true))
		}
	}()
	if err := s.state.move(old, f); err != nil {
		return err
	}
	s.followRoutes()
	cfg, rules, err := s.compile(s.plan.workers)
	s.lastHops, s.lastRules = "", nil // this reconciliation puts all that is new in force
	if err != nil {
		return err
	}
	p, bind, err := s.attach(i, rules[i])
	if err != nil {
		return err
	}
	if list, err = s.openSockets(i, nil, bind); err != nil {
		return err
	}
	if _, err := s.engine.Apply(ctx, cfg); err != nil {
		return err
	}
	if _, err := s.setQueues(ctx, i, list); err != nil {
		return err
	}
	for q := range list {
		if err := p.SetSocket(q, list[q].fd); err != nil {
			return err
		}
	}
	s.exchange(i, p, false)
	s.noteLink(i)
	s.log.Info("a port was opened again", "port", s.file.Ports[i].Name, "interface", f.name, "index", f.index, "mac", macString(f.mac),
		"queues", f.queues, "took", time.Since(start))
	return errors.Join(s.resolveHops(), s.placeAddresses())
}

// rename makes f the interface of a port.
func (s *Server) rename(i int, f iface) {
	s.mu.Lock()
	s.ifaces[i] = f
	s.mu.Unlock()
}

// exchange puts p in the place of a port's program, whose counters it goes on with or not.
func (s *Server) exchange(i int, p *rings.Program, counts bool) {
	old := s.programs[i]
	s.resteer = true
	s.mu.Lock()
	if c, err := old.Counters(); err == nil && !counts {
		s.past[i].program.Add(&c)
	}
	s.programs[i] = p
	s.mu.Unlock()
	if err := old.Close(false); err != nil {
		s.log.Warn("the former XDP program was not closed", "port", s.file.Ports[i].Name, "error", err)
	}
}

// openSockets opens the sockets that a port has not: have are its first.
func (s *Server) openSockets(i int, have []openQueue, bind rings.BindMode) (list []openQueue, err error) {
	list = slices.Clone(have)
	level := s.fillLevel(i, len(have))
	for q := len(have); q < s.ifaces[i].queues; q++ {
		cfg := s.queueConfig(i, q, bind, false)
		cfg.FillLevel = level
		cfg.BindTimeout = time.Second // this goroutine also keeps the heart beating
		o, err := s.openQueue(cfg)
		if err != nil {
			return nil, errors.Join(err, closeQueues(s.region, list[len(have):]))
		}
		list = append(list, o)
	}
	return list, nil
}

// fillLevel is how many frames each new socket of a port keeps with the kernel: a ring full, or what remains where there are
// more sockets now than the memory was made for.
func (s *Server) fillLevel(port, kept int) int {
	others := kept
	for i := range s.file.Ports {
		if i != port {
			others += len(s.queues[i])
		}
	}
	size := s.file.Engine.RingSize
	fresh := s.ifaces[port].queues - kept
	if others+fresh <= s.planned {
		return size
	}
	spare := (s.plan.frames-s.plan.workers*framesPerWorker)/2 - others*size
	level := min(size, max(size/8, spare/max(1, fresh)))
	s.log.Warn("there are few frames for as many queues; a restart takes memory for them", "port", s.file.Ports[port].Name,
		"frames", s.plan.frames, "queues", others+fresh, "frames_per_new_queue", level)
	return level
}

// closeQueues closes sockets that no worker has had.
func closeQueues(region *rings.Region, list []openQueue) error {
	var errs []error
	scratch := rings.NewPool(region.Frames())
	for _, q := range list {
		errs = append(errs, q.Close(scratch))
	}
	return errors.Join(errs...)
}

// refreshPort takes over what has changed about an interface that is there.
func (s *Server) refreshPort(ctx context.Context, i int) error {
	l, err := netlink.LinkByIndex(s.ifaces[i].index)
	if err != nil || l.Attrs().Flags&net.FlagUp == 0 || l.Attrs().Name != s.file.Ports[i].Interface {
		return nil
	}
	f, err := s.file.lookUp(i)
	f.jumbo = s.ifaces[i].jumbo // as its sockets are
	if err != nil || f == s.ifaces[i] {
		return err
	}
	old := s.ifaces[i]
	s.rename(i, f)
	if f.queues != old.queues {
		if err := s.resizePort(ctx, i); err != nil {
			s.rename(i, old)
			return err
		}
		s.log.Info("the number of queues of a port has changed", "port", s.file.Ports[i].Name, "queues", f.queues, "before", old.queues)
	}
	if f.mac == old.mac && f.mtu == old.mtu {
		return nil
	}
	s.log.Info("the interface of a port has changed", "port", s.file.Ports[i].Name, "mac", macString(f.mac), "mtu", f.mtu)
	if f.mac == old.mac {
		return nil
	}
	for p := range s.placed {
		if p.Index == f.index {
			delete(s.placed, p)
		}
	}
	return errors.Join(s.state.move(old, f), s.placeAddresses())
}

// resizePort opens the sockets of queues that are new and closes those of queues that are gone.
func (s *Server) resizePort(ctx context.Context, i int) error {
	have, n := s.queues[i], s.ifaces[i].queues
	if n < len(have) {
		_, err := s.setQueues(ctx, i, slices.Clone(have[:n]))
		return err
	}
	_, rules, err := s.compile(s.plan.workers)
	s.lastHops, s.lastRules = "", nil
	if err != nil {
		return err
	}
	cfg, bind := s.programConfig(i, rules[i])
	if s.programs[i].Mode() == rings.AttachGeneric {
		bind = rings.BindCopy
	}
	list, err := s.openSockets(i, have, bind)
	if err != nil {
		return err
	}
	// Sockets first: a worker refills them before the program sends them anything.
	if _, err := s.setQueues(ctx, i, list); err != nil {
		return errors.Join(err, closeQueues(s.region, list[len(have):]))
	}
	cfg.Sockets = map[int]int{}
	for q := range list {
		cfg.Sockets[q] = list[q].fd
	}
	p, err := s.programs[i].Resize(cfg)
	if err != nil {
		_, undo := s.setQueues(ctx, i, have)
		return errors.Join(err, undo)
	}
	s.exchange(i, p, true)
	return nil
}

// linkState is that of a port as it was last seen.
func (s *Server) linkState(i int) string {
	if links := s.links.Load(); links != nil {
		return (*links)[i]
	}
	return "up"
}

// noteLink looks at one port's link.
func (s *Server) noteLink(i int) {
	now := slices.Clone(*s.links.Load())
	now[i] = s.stateOf(i)
	s.links.Store(&now)
}

// stateOf is up, down, no carrier, or gone; another interface of the same name is not the one that was opened.
func (s *Server) stateOf(i int) string {
	if i >= len(s.file.Ports) {
		if i < s.file.firstVLAN() {
			return "up" // the host port
		}
		return vlanState(s.ifaceOf(i))
	}
	l, err := netlink.LinkByIndex(s.ifaces[i].index)
	switch {
	case err != nil, !s.programs[i].Attached():
		return "gone"
	case l.Attrs().Flags&net.FlagUp == 0:
		return "down"
	case l.Attrs().OperState == netlink.OperDown || l.Attrs().OperState == netlink.OperLowerLayerDown:
		return "no carrier"
	}
	return "up"
}

// followLinks notes which ports are up, and says so once when that changes. That an interface has gone or come back is for
// followPorts to say.
func (s *Server) followLinks() {
	now := make([]string, len(s.file.enginePorts()))
	for i := range now {
		now[i] = s.stateOf(i)
		before := s.linkState(i)
		switch {
		case now[i] == before || now[i] == "gone" || before == "gone":
		case now[i] == "up":
			s.log.Info("a port has its link again", "port", s.file.portName(i), "interface", s.ifaceOf(i).name)
		default:
			s.log.Warn("a port has no link: what is to leave on it is dropped", "port", s.file.portName(i), "interface", s.ifaceOf(i).name, "state", now[i])
		}
	}
	s.links.Store(&now)
}

// move notes that what was on one interface is on another: addresses go there, and the kernel has forgotten the neighbours.
func (s *kernelState) move(from, to iface) error {
	for i := range s.Addresses {
		if s.Addresses[i].Index == from.index {
			s.Addresses[i].Index, s.Addresses[i].MAC = to.index, to.mac
		}
	}
	if from.index != to.index {
		s.Neighbours = slices.DeleteFunc(s.Neighbours, func(n placedNeighbour) bool { return n.Index == from.index })
	}
	if err := s.save(); err != nil {
		return fmt.Errorf("note that %s has another interface: %w", from.name, err)
	}
	return nil
}
