package ctl

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sluice/engine"
	"sluice/flow"
	"sluice/rings"
)

// The successor's side of a takeover; takeoverwire.go has the whole.

// ErrNobody is returned by a takeover where there is nobody to take over from.
var ErrNobody = errors.New("no sluice runs in this network namespace that could be taken over from; start without --takeover")

// errPredecessorGone: the predecessor has ended before it gave its state. It was killed, and is adopted like any other.
var errPredecessorGone = errors.New("the running sluice ended before it had handed over")

// Takeover goes on in the place of the sluice that runs in this network namespace, with f, which must have the same ports and
// memory. After an error that one carries on. If it is killed meanwhile, its connections are adopted as by Start.
func Takeover(ctx context.Context, f *File, log *slog.Logger) (*Server, error) {
	s, err := takeOver(ctx, f, log)
	if errors.Is(err, errPredecessorGone) {
		log.Warn("starting in its place", "reason", err)
		return Start(ctx, f, log)
	}
	return s, err
}

// taking is a takeover under way.
type taking struct {
	*Server
	conn     *takeoverConn
	fds      map[string]int // received and not taken yet
	offer    takeoverOffer
	decision *rings.Decision
	rest     *engine.Pause
	own      listeners // of the API
	store    *tableStore
}

func takeOver(ctx context.Context, f *File, log *slog.Logger) (_ *Server, err error) {
	s, err := newServer(f, log)
	if err != nil {
		return nil, err
	}
	if s.nics, err = kernelNICs(); err != nil {
		return nil, err
	}
	log.Info("cores", "workers", s.plan.workers, "cores", fmt.Sprint(s.plan.cores), "why", s.plan.why)
	t := &taking{Server: s, fds: map[string]int{}}
	if err := t.dial(); err != nil {
		return nil, err
	}
	defer t.conn.Close()
	defer func() {
		for _, fd := range t.fds {
			_ = unix.Close(fd)
		}
		if err != nil {
			err = t.giveUp(err)
		}
	}()
	if err := t.ask(); err != nil {
		return nil, err
	}
	if err := t.prepare(ctx); err != nil {
		return nil, err
	}
	if err := t.take(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// dial connects to the running sluice.
func (t *taking) dial() error {
	base, err := stateBase()
	if err != nil {
		return err
	}
	c, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: takeoverPath(base), Net: "unixpacket"})
	switch {
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return ErrNobody
	case err != nil:
		return fmt.Errorf("reach the running sluice%s: %w", rootHint(err), err)
	}
	if t.conn, err = newTakeoverConn(c); err != nil {
		return errors.Join(err, c.Close())
	}
	return nil
}

// ask greets, and receives all descriptors and the offer.
func (t *taking) ask() error {
	hello := takeoverMessage{Type: msgHello, Protocol: takeoverProtocol, Layout: engine.Layout(), Version: Version}
	if err := t.conn.send(hello); err != nil {
		return fmt.Errorf("greet the running sluice: %w", err)
	}
	for last := false; !last; {
		m, fds, err := t.conn.receive(offerTime)
		if err != nil {
			return t.explain(err)
		}
		if m.Type != msgDescriptors || len(fds) != len(m.Names) {
			closeAll(fds)
			return fmt.Errorf("the running sluice sends %q with %d descriptors for %d names", m.Type, len(fds), len(m.Names))
		}
		for i, name := range m.Names {
			t.fds[name] = fds[i]
		}
		last = m.Last
	}
	fd, err := t.fd(fdOffer)
	if err != nil {
		return err
	}
	b, err := readMemory(fd)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &t.offer); err != nil {
		return fmt.Errorf("read the offer of the running sluice: %w", err)
	}
	if fd, err = t.fd(fdDecision); err != nil {
		return err
	}
	if t.decision, err = rings.ImportDecision(fd); err != nil {
		return err
	}
	if t.file.Engine.Frames == 0 { // auto: what there is, whatever number a start would come to
		t.plan.frames = t.offer.Frames
	}
	if err := differences(t.offer.Fixed, t.fixedSettings(t.plan.workers)); err != nil {
		return fmt.Errorf("%w\n%s: a takeover keeps ports, queues, workers and memory; take over with the same values, and reload afterwards what a reload can change", err, t.file.Name)
	}
	return nil
}

// fd takes a descriptor out of those that were received.
func (t *taking) fd(name string) (int, error) {
	fd, ok := t.fds[name]
	if !ok {
		return -1, fmt.Errorf("the running sluice has not sent its %s", name)
	}
	delete(t.fds, name)
	return fd, nil
}

// explain makes an error of what the other end did.
func (t *taking) explain(err error) error {
	var failed *errFailed
	switch {
	case errors.As(err, &failed):
		return fmt.Errorf("the running sluice (process %d) refuses and carries on: %w; %s", t.conn.peer.Pid, err, restartHint(int(t.conn.peer.Pid)))
	case errors.Is(err, io.EOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return errPredecessorGone
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the running sluice (process %d) does not answer", t.conn.peer.Pid)
	}
	return fmt.Errorf("takeover: %w", err)
}

// prepare does everything that can be done while the predecessor serves.
func (t *taking) prepare(ctx context.Context) error {
	if err := t.inheritState(); err != nil {
		return err
	}
	for _, e := range t.offer.Dictionary {
		if !t.dict.Restore(e) {
			return fmt.Errorf("the dictionary of the running sluice contradicts itself at %+v", e)
		}
	}
	t.inheritDraining()
	if err := t.inheritHost(); err != nil {
		return err
	}
	if err := t.resolveMore(); err != nil {
		return err
	}
	if err := t.awaitHops(ctx); err != nil {
		return err
	}
	t.generation, t.tableSize = t.offer.Generation, t.offer.TableSize // connections are where its bins are
	cfg, rules, err := t.compile(t.plan.workers)                      // without tables: ids are noted when the predecessor rests
	if err != nil {
		return err
	}
	if err := t.inheritMemory(); err != nil {
		return err
	}
	if err := t.inheritPorts(rules); err != nil {
		return err
	}
	opt := t.seats(t.plan, t.memory)
	opt.Region, opt.Secret, opt.Successor = t.region, t.secret, true
	if t.engine, err = engine.New(opt, cfg, t.dict); err != nil {
		return err
	}
	if t.rest, err = t.engine.StartPaused(); err != nil {
		return err
	}
	return t.inheritListeners()
}

// inheritState takes over the lock and the note of what is in the kernel.
func (t *taking) inheritState() error {
	base, err := stateBase()
	if err != nil {
		return err
	}
	fd, err := t.fd(fdLock)
	if err != nil {
		return err
	}
	state := t.offer.State
	state.path, state.inherited, state.lock = base+".json", true, os.NewFile(uintptr(fd), base+".lock")
	t.state = &state
	if !samePath(t.state.lock) {
		return errors.New("the lock of the running sluice is not that of this network namespace")
	}
	t.health.inherit(t.offer.Verdicts)
	t.health.orders, err = loadOrders(base)
	return err
}

// inheritDraining has everything drain that the predecessor has and the file has not.
func (t *taking) inheritDraining() {
	u := engine.NewInUse()
	for id := range t.offer.Nodes {
		u.Nodes[id] = true
	}
	for id := range t.offer.Virtuals {
		u.Virtuals[id] = true
	}
	for _, e := range t.offer.Ends {
		u.Ends[engine.ServerEnd(e)] = true
	}
	t.drainAdopted(u)
	for id, n := range t.drain.nodes {
		n.Name = t.offer.Nodes[id]
		t.drain.nodes[id] = n
	}
	for id := range t.drain.virtuals {
		t.drain.virtuals[id] = t.offer.Virtuals[id]
	}
}

// inheritHost goes on with the host port, which must be as it was.
func (t *taking) inheritHost() error {
	o := t.offer.Host
	if o == nil {
		return nil
	}
	l, err := net.InterfaceByName(hostEngineEnd)
	if err != nil || l.Index != o.Index {
		return fmt.Errorf("the host port %s is not the running sluice's any more: %w", hostEngineEnd, errors.Join(err))
	}
	t.host = &engine.HostSpec{Port: len(t.ifaces), MAC: o.KernelMAC}
	t.ifaces = append(t.ifaces, iface{name: hostEngineEnd, index: o.Index, mac: o.EngineMAC, queues: o.Queues, mtu: o.MTU})
	return nil
}

// resolveMore has next hops resolved that the predecessor did not need. Those that only it needs are kept for it.
func (t *taking) resolveMore() error {
	want := map[placedNeighbour]bool{}
	for _, n := range t.state.Neighbours {
		want[n] = true
	}
	for _, w := range t.ways {
		want[placedNeighbour{t.ifaceOf(w.port).index, w.via}] = true
	}
	return t.state.keepNeighbours(want)
}

// inheritMemory maps frames and tables.
func (t *taking) inheritMemory() (err error) {
	fd, err := t.fd(fdRegion)
	if err != nil {
		return err
	}
	if t.region, err = rings.ImportRegion(fd, t.plan.frames, t.file.Engine.FrameSize, rings.Pages(t.offer.Pages)); err != nil {
		return err
	}
	t.secret = flow.Secret(t.offer.Secret)
	if o := t.offer.Store; o != nil {
		if fd, err = t.fd(fdDictionary); err != nil {
			return err
		}
		t.store = &tableStore{dir: o.Dir, generation: o.Generation, made: o.Made, logged: o.Logged, boot: o.Boot, log: t.log}
		t.store.dictionary = os.NewFile(uintptr(fd), t.store.path("dictionary", o.Generation))
	}
	for w := range t.plan.workers {
		if fd, err = t.fd(fdTable(w)); err != nil {
			return err
		}
		size := t.file.tableSize(t.plan.workers)
		if t.store != nil {
			size += flow.HeaderSize
		}
		m, err := rings.ImportMapping(fd, size)
		if err != nil {
			return fmt.Errorf("connection table of worker %d: %w", w, err)
		}
		table := tableMemory{Mapping: m, flows: m.Bytes}
		if w < len(t.offer.Tables) {
			table.Pages, table.path = rings.Pages(t.offer.Tables[w].Pages), t.offer.Tables[w].Path
		}
		if t.store != nil {
			table.flows = m.Bytes[flow.HeaderSize:]
		}
		t.memory = append(t.memory, table)
	}
	return nil
}

// inheritPorts maps the rings of all sockets, and loads programs for all ports that send to them.
func (t *taking) inheritPorts(rules []rings.Rules) error {
	for port := range t.ifaces {
		t.queues = append(t.queues, nil)
		for q := range t.ifaces[port].queues {
			fd, err := t.fd(fdQueue(port, q))
			if err != nil {
				return err
			}
			note := ""
			if port < len(t.offer.Notes) && q < len(t.offer.Notes[port]) {
				note = t.offer.Notes[port][q]
			}
			x, err := rings.ImportXSK(t.region, t.queueConfig(port, q, rings.BindAuto, port == len(t.file.Ports)), fd, note)
			if err != nil {
				if errors.Is(err, rings.ErrBoundRing) {
					err = fmt.Errorf("%w; %s", err, restartHint(int(t.conn.peer.Pid)))
				}
				return err
			}
			t.queues[port] = append(t.queues[port], openQueue{Queue: x, fd: x.FD(), mode: modeName(x.ZeroCopy()), note: note})
		}
	}
	for i := range t.file.Ports {
		if i >= len(t.offer.Programs) {
			return fmt.Errorf("the running sluice has no XDP program on port %s", t.file.Ports[i].Name)
		}
		h := t.offer.Programs[i]
		var errs [2]error
		h.Link, errs[0] = t.fd(fdLink(i))
		h.Counters, errs[1] = t.fd(fdCounters(i))
		if err := errors.Join(errs[:]...); err != nil {
			return err
		}
		cfg, _ := t.programConfig(i, rules[i])
		cfg.Sockets = map[int]int{}
		for q := range t.queues[i] {
			cfg.Sockets[q] = t.queues[i][q].fd
		}
		p, err := rings.SucceedProgram(cfg, h)
		if err != nil {
			return fmt.Errorf("port %s: %w", t.file.Ports[i].Name, err)
		}
		t.programs = append(t.programs, p)
	}
	return nil
}

// inheritListeners goes on with the predecessor's listeners where the file has the same, so that no request is refused, and
// opens others.
func (t *taking) inheritListeners() (err error) {
	c := &t.file.Control
	if t.offer.Socket == c.Socket {
		if t.own.control, err = t.listener(fdControl); err == nil {
			err = openTo(c.Socket, t.access.group)
		}
	} else {
		t.own.control, err = listenControl(c.Socket, t.access.group)
	}
	if err != nil {
		return err
	}
	if t.own.remote, err = t.tcpListener("control.listen", t.listenAddr(), t.offer.Listen, fdRemote); err != nil {
		return err
	}
	t.own.metrics, err = t.tcpListener("control.metrics", t.metricsAddr(), t.offer.Metrics, fdMetrics)
	return err
}

// tcpListener goes on with the predecessor's listener if it is the same, or opens another; none if addr is empty.
func (t *taking) tcpListener(key, addr, offered, name string) (net.Listener, error) {
	switch addr {
	case "":
		return nil, nil
	case offered:
		return t.listener(name)
	}
	return listenTCP(key, addr)
}

func (t *taking) listener(name string) (net.Listener, error) {
	fd, err := t.fd(name)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	ln, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("take over the listener for %s: %w", name, err)
	}
	return ln, nil
}

// take is the pause, from here.
func (t *taking) take(ctx context.Context) error {
	if err := t.conn.send(takeoverMessage{Type: msgPrepared}); err != nil {
		return t.explain(err)
	}
	m, fds, err := t.conn.receive(restTime + takeTime)
	if err != nil {
		return t.explain(err)
	}
	if m.Type != msgState || len(fds) != 1 {
		closeAll(fds)
		return fmt.Errorf("the running sluice sends %q with %d descriptors, not its state", m.Type, len(fds))
	}
	clock := stopwatch{at: m.PausedAt}
	clock.until("rest", m.RestedAt)
	clock.until("state", monotonicNow())
	state, err := readMemory(fds[0])
	if err != nil {
		return err
	}
	if err := t.rest.Import(state); err != nil {
		return err
	}
	clock.until("import", monotonicNow())
	if t.tables = t.store; t.tables != nil {
		if err := t.noteIDs(); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !t.decision.Decide(decidedTaken) {
		return fmt.Errorf("the running sluice has not waited and carries on: this took %v", time.Duration(monotonicNow()-m.PausedAt))
	}
	before := t.engine.Beats()
	t.rest.Resume()
	t.awaitStep(before)
	paused := time.Duration(monotonicNow() - m.PausedAt)
	clock.until("workers", monotonicNow())
	_ = t.conn.send(takeoverMessage{Type: msgTook}) // if the predecessor is gone, so be it
	t.settleIn(ctx, paused, clock.parts)
	return nil
}

// stopwatch takes the parts of the pause.
type stopwatch struct {
	at    int64
	parts []any // for the log
}

func (c *stopwatch) until(part string, now int64) {
	c.parts = append(c.parts, part, time.Duration(now-c.at).Round(time.Microsecond))
	c.at = now
}

// awaitStep waits until every worker has begun a step.
func (t *taking) awaitStep(before []uint64) {
	for deadline := time.Now().Add(takeTime); time.Now().Before(deadline); time.Sleep(20 * time.Microsecond) {
		waiting := false
		for i, n := range t.engine.Beats() {
			waiting = waiting || n == before[i]
		}
		if !waiting {
			return
		}
	}
}

// settleIn does what can be done when packets go again. What fails is said, and does not end what serves: the next look at
// the kernel tries again.
func (t *taking) settleIn(ctx context.Context, paused time.Duration, parts []any) {
	s := t.Server
	connections, queues := 0, 0
	for _, n := range s.queues {
		queues += len(n)
	}
	if snaps, err := s.engine.Snapshots(ctx); err == nil {
		for i := range snaps {
			connections += snaps[i].Connections
		}
	}
	_ = t.decision.Close()
	s.log.Info(fmt.Sprintf("took over in %s, %d connections, %d queues", paused.Round(10*time.Microsecond), connections, queues), append([]any{"process", t.conn.peer.Pid}, parts...)...)
	if s.file.Control.Socket != t.offer.Socket {
		_ = os.Remove(t.offer.Socket)
	}
	// Not in the pause: it takes the kernel tens of milliseconds. Until then the predecessor's programs send to the same
	// sockets; workers know what is new before packets for it come.
	for _, p := range s.programs {
		if err := p.Replace(); err != nil {
			s.log.Error("the predecessor's XDP program stays; restart when it suits", "error", err)
		}
	}
	err := s.health.begin(s.file, s.engine)
	if err = errors.Join(err, s.health.reread(strings.TrimSuffix(s.state.path, ".json")), s.expectHeirs(ctx), s.resolveHops(), s.placeAddresses()); err != nil {
		s.log.Warn("taken over, but not all of it", "error", err)
	}
	if s.health.hasWeights() {
		s.lastHops = "" // one may have been ordered while this process prepared: compile them again
	}
	setProcs(s.plan.workers)
	s.steer(s.engine.Config())
	s.api = s.serve(t.own)
}

// giveUp lets go of everything that is the predecessor's, which carries on, and tells it why.
func (t *taking) giveUp(reason error) error {
	if !errors.Is(reason, errPredecessorGone) {
		t.conn.fail(reason)
	}
	errs := []error{reason}
	switch {
	case t.rest != nil:
		errs = append(errs, t.rest.Leave())
	default:
		for _, list := range t.queues {
			for _, q := range list {
				errs = append(errs, q.Queue.(*rings.XSK).Leave())
			}
		}
	}
	for _, p := range t.programs {
		errs = append(errs, p.Close(false))
	}
	for _, m := range t.memory {
		errs = append(errs, m.Unmap())
	}
	errs = append(errs, t.store.close(false))
	if t.region != nil {
		errs = append(errs, t.region.Close())
	}
	if t.decision != nil {
		errs = append(errs, t.decision.Close())
	}
	if t.state != nil {
		errs = append(errs, t.state.lock.Close())
	}
	if t.own.control != nil && t.offer.Socket != t.file.Control.Socket {
		_ = os.Remove(t.file.Control.Socket)
	}
	for _, ln := range []net.Listener{t.own.control, t.own.remote, t.own.metrics} {
		if ln != nil {
			errs = append(errs, ln.Close())
		}
	}
	return errors.Join(errs...)
}
