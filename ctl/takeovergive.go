package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/rings"
)

// The predecessor's side of a takeover. All of it but the greeting runs in the goroutine of watch, so that nothing else
// changes the configuration meanwhile; the heart goes on beating.

// heirs listens for successors.
type heirs struct {
	ln   *net.UnixListener
	path string
}

// expectHeirs begins to listen. A socket that is there is a killed engine's, or the predecessor's.
func (s *Server) expectHeirs(ctx context.Context) error {
	path := takeoverPath(strings.TrimSuffix(s.state.path, ".json"))
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("listen for takeovers: %w", err)
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
	if err != nil {
		return fmt.Errorf("listen for takeovers: %w", err)
	}
	ln.SetUnlinkOnClose(false) // it may be the successor's by then
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(err, ln.Close())
	}
	s.heirs = &heirs{ln, path}
	go func() {
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return // closed
			}
			s.greet(ctx, c)
			c.Close()
		}
	}()
	return nil
}

// close ends the listening.
func (h *heirs) close(remove bool) {
	if h == nil {
		return
	}
	h.ln.Close()
	if remove {
		_ = os.Remove(h.path)
	}
}

// greet talks to one successor to its end.
func (s *Server) greet(ctx context.Context, c *net.UnixConn) {
	conn, err := newTakeoverConn(c)
	if err != nil {
		s.log.Warn("takeover refused", "reason", err)
		return
	}
	hello, fds, err := conn.receive(greetTime)
	closeAll(fds)
	switch {
	case err != nil:
	case hello.Type != msgHello:
		err = fmt.Errorf("the first message is %q", hello.Type)
	case hello.Protocol != takeoverProtocol:
		err = fmt.Errorf("sluice %s speaks version %d of the takeover protocol, the running sluice %s version %d", hello.Version, hello.Protocol, Version, takeoverProtocol)
	case hello.Layout != engine.Layout():
		err = fmt.Errorf("sluice %s and the running sluice %s lay memory out differently (%s; %s)", hello.Version, Version, hello.Layout, engine.Layout())
	}
	if err != nil {
		s.log.Warn("takeover refused", "process", conn.peer.Pid, "reason", err)
		conn.fail(err)
		return
	}
	err = s.do(ctx, func(ctx context.Context) {
		if err := s.handOver(ctx, conn); err != nil {
			s.log.Warn("not taken over; this process carries on", "process", conn.peer.Pid, "reason", err)
			conn.fail(err)
		}
	})
	if err != nil {
		conn.fail(err)
	}
}

// handOver gives everything to a successor. After an error this process carries on.
func (s *Server) handOver(ctx context.Context, conn *takeoverConn) error {
	if s.file.Engine.Driver != DriverXSK {
		return fmt.Errorf("the sockets of driver %s cannot be handed over; %s", s.file.Engine.Driver, restartHint(os.Getpid()))
	}
	for i := range s.file.Ports {
		if !s.isOpen(i) {
			return fmt.Errorf("the interface of port %s is gone; wait until it is back", s.file.Ports[i].Name)
		}
	}
	decision, err := rings.NewDecision()
	if err != nil {
		return err
	}
	defer decision.Close()
	names, fds, closers, err := s.bequest(ctx, decision)
	defer func() { closeAll(closers) }()
	if err != nil {
		return err
	}
	s.log.Info("a successor wants to take over", "process", conn.peer.Pid)
	if err := conn.sendAll(names, fds); err != nil {
		return fmt.Errorf("send descriptors: %w", err)
	}
	h := &handing{Server: s, conn: conn, decision: decision, messages: make(chan received, 4), stop: make(chan struct{})}
	defer close(h.stop)
	go h.listen()
	if err := h.await(ctx, msgPrepared, prepareTime, true); err != nil {
		return explainHeir("while it prepared", err)
	}
	return h.give(ctx)
}

// bequest lists all descriptors that a successor needs, by name; closers are those to be closed afterwards.
func (s *Server) bequest(ctx context.Context, decision *rings.Decision) (names []string, fds, closers []int, err error) {
	add := func(name string, fd int) { names, fds = append(names, name), append(fds, fd) }
	own := func(name string, fd int, err error) error {
		if err != nil {
			return err
		}
		closers = append(closers, fd)
		add(name, fd)
		return nil
	}
	add(fdDecision, decision.FD())
	o, err := s.offer(ctx)
	if err != nil {
		return names, fds, closers, err
	}
	add(fdRegion, s.region.FD())
	add(fdLock, int(s.state.lock.Fd()))
	if s.tables != nil {
		add(fdDictionary, int(s.tables.dictionary.Fd()))
		o.Store = &storeOffer{Dir: s.tables.dir, Generation: s.tables.generation, Made: s.tables.made, Logged: s.tables.logged, Boot: s.tables.boot}
	}
	for i := range s.memory {
		add(fdTable(i), s.memory[i].FD)
		o.Tables = append(o.Tables, tableOffer{string(s.memory[i].Pages), s.memory[i].path})
	}
	for i, p := range s.programs {
		h, err := p.Handover()
		if err != nil {
			return names, fds, closers, err
		}
		add(fdLink(i), h.Link)
		add(fdCounters(i), h.Counters)
		o.Programs = append(o.Programs, h)
	}
	for port := range s.queues {
		var notes []string
		for q := range s.queues[port] {
			add(fdQueue(port, q), s.queues[port][q].fd)
			notes = append(notes, s.queues[port][q].note)
		}
		o.Notes = append(o.Notes, notes)
	}
	for name, ln := range map[string]net.Listener{fdControl: s.api.control, fdRemote: s.api.remote, fdMetrics: s.api.metrics} {
		if ln != nil {
			fd, err := dupOf(ln.(syscall.Conn))
			if err := own(name, fd, err); err != nil {
				return names, fds, closers, err
			}
		}
	}
	b, err := json.Marshal(o)
	if err != nil {
		return names, fds, closers, err
	}
	fd, err := memoryFile("sluice-offer", b)
	return names, fds, closers, own(fdOffer, fd, err)
}

// offer describes this engine, but for its descriptors.
func (s *Server) offer(ctx context.Context) (*takeoverOffer, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	inUse, err := s.engine.References(ctx)
	if err != nil {
		return nil, err
	}
	o := &takeoverOffer{
		Fixed: s.fixedSettings(s.plan.workers), Generation: s.generation, Secret: s.secret, Dictionary: s.dict.Entries(0),
		Nodes: map[uint32]string{}, Virtuals: map[uint32]engine.VirtualSpec{}, State: *s.state, Frames: s.plan.frames, Pages: string(s.region.Pages()),
		Socket: s.file.Control.Socket, Metrics: s.metricsAddr(), Listen: s.listenAddr(), TableSize: s.tableSize, Verdicts: s.health.verdicts(),
	}
	for id := range inUse.Nodes {
		o.Nodes[id] = s.nodeName(id)
	}
	for id := range inUse.Virtuals {
		if e, ok := s.dict.Virtual(id); ok {
			o.Virtuals[id] = s.virtualSpec(id, e)
		}
	}
	ends := map[rings.MemberRule]bool{}
	for _, e := range s.file.ends() {
		ends[e] = true
	}
	maps.Copy(ends, s.drain.ends)
	o.Ends = slices.SortedFunc(maps.Keys(ends), compareRules)
	o.Jumbo = s.jumboPorts()
	if s.host != nil {
		f := &s.ifaces[s.host.Port]
		o.Host = &hostOffer{Index: f.index, Queues: f.queues, MTU: f.mtu, EngineMAC: f.mac, KernelMAC: s.host.MAC}
	}
	return o, nil
}

func (s *Server) listenAddr() string {
	if a := s.file.Control.Listen; a.IsValid() {
		return a.String()
	}
	return ""
}

func (s *Server) metricsAddr() string {
	if a := s.file.Control.Metrics; a.IsValid() {
		return a.String()
	}
	return ""
}

// nodeName is the name of a member, also of one that drains.
func (s *Server) nodeName(id uint32) string {
	e, ok := s.dict.Node(id)
	if !ok {
		return ""
	}
	if m := s.file.member(e); m != nil {
		return m.Name
	}
	if n, ok := s.drain.nodes[id]; ok {
		return n.Name
	}
	return e.Addr.String()
}

// virtualSpec is what is known of a virtual server, also of one that drains.
func (s *Server) virtualSpec(id uint32, e engine.Entry) engine.VirtualSpec {
	for i := range s.spec.Virtuals {
		if v := &s.spec.Virtuals[i]; e.Same(v.Entry(s.spec.Ports)) {
			return *v
		}
	}
	if v, ok := s.drain.virtuals[id]; ok {
		return v
	}
	return e.Spec(s.spec.Ports)
}

// restartHint is what to do where a takeover cannot be.
func restartHint(pid int) string {
	return fmt.Sprintf("to go on with its connections all the same, end it abruptly (kill -9 %d) and start sluice: with keep-connections that adopts them", pid)
}

// handing is a takeover under way.
type handing struct {
	*Server
	conn     *takeoverConn
	decision *rings.Decision
	messages chan received
	stop     chan struct{}
	pause    *engine.Pause
	noted    int64 // length of the dictionary
}

type received struct {
	message takeoverMessage
	err     error
}

// listen reads messages until the other end is gone.
func (h *handing) listen() {
	for {
		m, fds, err := h.conn.receive(prepareTime + takeTime + reportTime)
		closeAll(fds)
		select {
		case h.messages <- received{m, err}:
		case <-h.stop:
			return
		}
		if err != nil {
			return
		}
	}
}

// await waits for one message; with beat the workers run and the programs are told so.
func (h *handing) await(ctx context.Context, want string, limit time.Duration, beat bool) error {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	for {
		select {
		case r := <-h.messages:
			if r.err == nil && r.message.Type != want {
				r.err = fmt.Errorf("it says %q, not %q", r.message.Type, want)
			}
			return r.err
		case <-timer.C:
			return fmt.Errorf("no answer within %v", limit)
		case <-ctx.Done():
			return errors.New("this process is being stopped")
		case <-ticker.C:
			if beat {
				h.beat()
			}
		}
	}
}

func explainHeir(when string, err error) error {
	var failed *errFailed
	switch {
	case errors.As(err, &failed):
		return fmt.Errorf("the successor has given up: %w", err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("the successor has ended %s: %w", when, err)
	}
	return fmt.Errorf("the successor %s: %w", when, err)
}

// give is the pause.
func (h *handing) give(ctx context.Context) error {
	if h.tables != nil {
		var err error
		if h.noted, err = h.tables.dictionary.Seek(0, io.SeekCurrent); err != nil {
			return fmt.Errorf("find the end of the dictionary: %w", err)
		}
	}
	pausedAt := monotonicNow()
	resting, cancel := context.WithTimeout(ctx, restTime)
	defer cancel()
	var err error
	if h.pause, err = h.engine.Pause(resting); err != nil {
		return err
	}
	if err := h.sendState(pausedAt, monotonicNow()); err != nil {
		return h.carryOn(ctx, err)
	}
	if err := h.await(ctx, msgTook, takeTime-time.Duration(monotonicNow()-pausedAt), false); err != nil {
		return h.carryOn(ctx, explainHeir("while this process rested", err))
	}
	return h.gone(nil)
}

func (h *handing) sendState(pausedAt, restedAt int64) error {
	state, err := h.pause.Export(nil)
	if err != nil {
		return err
	}
	fd, err := memoryFile("sluice-state", state)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return h.conn.send(takeoverMessage{Type: msgState, PausedAt: pausedAt, RestedAt: restedAt}, fd)
}

// carryOn ends the pause here, unless the successor has gone on.
func (h *handing) carryOn(ctx context.Context, reason error) error {
	if !h.decision.Decide(decidedCarryOn) {
		if !errors.Is(reason, io.EOF) {
			reason = h.await(context.WithoutCancel(ctx), msgTook, reportTime, false)
		}
		return h.gone(reason)
	}
	errs := []error{reason}
	if h.tables != nil {
		d := h.tables.dictionary
		_, err := d.Seek(h.noted, io.SeekStart)
		errs = append(errs, d.Truncate(h.noted), err)
	}
	errs = append(errs, h.state.merge())
	h.pause.Resume()
	return errors.Join(errs...)
}

// gone notes that the successor serves. If it did not say so it has ended after its decision: then nobody serves.
func (h *handing) gone(err error) error {
	h.successor = int(h.conn.peer.Pid)
	h.successorErr = err
	h.resting = h.pause
	return nil
}

// leave lets go of everything and touches nothing: it is all the successor's.
func (s *Server) leave() error {
	if s.successorErr != nil {
		s.log.Error("the successor took over and has ended since; a start adopts the connections", "process", s.successor, "reason", s.successorErr)
	} else {
		s.log.Info("taken over; this process ends", "process", s.successor)
	}
	s.heirs.close(false)
	var left error
	if s.captures.stop(endTakeover) {
		left = s.resting.Leave() // else it would wait for workers that rest
		s.api.leave(true)
	} else {
		s.api.leave(false)
		left = s.resting.Leave()
	}
	if s.hooks != nil {
		s.hooks.wait(stopTimeout) // what they tell is the successor's from now on
	}
	errs := []error{left}
	s.api.working.close() // from here on the engine refuses what is asked, and its memory is unmapped
	for _, p := range s.programs {
		errs = append(errs, p.Close(false))
	}
	for _, m := range s.memory {
		errs = append(errs, m.Unmap())
	}
	errs = append(errs, s.tables.close(false), s.region.Close(), s.state.lock.Close())
	if s.successorErr != nil {
		errs = append(errs, fmt.Errorf("process %d took over and has ended: %w", s.successor, s.successorErr))
	}
	return errors.Join(errs...)
}

// merge adds what a successor that gave up has noted to what is known to be in the kernel, so that it is taken out with the
// rest.
func (s *kernelState) merge() error {
	b, err := os.ReadFile(s.path)
	if err != nil {
		return fmt.Errorf("read what a successor has noted: %w", err)
	}
	var noted kernelState
	if err := json.Unmarshal(b, &noted); err != nil {
		return fmt.Errorf("read what a successor has noted: %w", err)
	}
	for _, n := range noted.Neighbours {
		if !slices.Contains(s.Neighbours, n) {
			s.Neighbours = append(s.Neighbours, n)
		}
	}
	return nil
}
